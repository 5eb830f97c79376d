"""
Tests for L{portlisten._monitor.process}, with a monitor made by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._children.launch import Launch
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Status,
    Stop,
    Workers,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.status import ProcessState
from portlisten._monitor import process
from portlisten._monitor.process import Monitor
from portlisten._monitor.start import MonitorStart, parseStart
from portlisten._policy.restarts import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from portlisten.errors import CannotRun
from tests.support.channels import texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.statuses import ALONE, NOBODY

ASK = encodeRequest(Status())


class MonitorProcess:
    """
    A monitor's process that does what the test says.

    @ivar link: its end of the link.
    """

    def __init__(self, launch: Launch, onEnd: Callable[[Any], None]) -> None:
        self._onEnd = onEnd
        self.launch = launch
        self.pid = 0
        self.started = 0.0
        self.ending = ""
        self.told: list[str | float] = []
        self.link = socket.socket()
        self.link.close()

    def start(self) -> None:
        """
        Take its end of the link, as a fork does.
        """
        (descriptor,) = self.launch.descriptors
        self.link = socket.socket(fileno=os.dup(descriptor))
        self.link.setblocking(False)
        self.pid = 1

    def stop(self, seconds: float) -> None:
        """
        Note it.
        """
        self.told += ["stop", seconds]

    def kill(self) -> None:
        """
        Note it.
        """
        self.told.append("kill")

    def killAfter(self, seconds: float) -> None:
        """
        Note it.
        """
        self.told += ["kill after", seconds]

    def memory(self) -> int:
        """
        It needs little.
        """
        return 1

    def end(self, ending: str = "exited with 1") -> None:
        """
        End, as the test wants it.
        """
        self.link.close()
        self.ending = ending
        self._onEnd(self)


class MonitorTests(SynchronousTestCase):
    """
    Tests for L{Monitor}.
    """

    def setUp(self) -> None:
        """
        Make a monitor with one socket.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged: Any = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.processes: list[MonitorProcess] = []
        self.failure: BaseException | None = None
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.answer: Any = ALONE
        self.asked = 0
        self.monitor = self.make([self.port])
        self.addCleanup(self.end)

    def make(self, sockets: list[socket.socket], description: str = "") -> Monitor:
        """
        Make a monitor.
        """
        return Monitor(
            self.clock, sockets, description, self.status, NOBODY, self.makeProcess
        )

    def makeProcess(self, reactor: Any, launch: Launch, line: Any, ended: Any) -> Any:
        """
        See L{Monitor}.
        """
        if self.failure is not None:
            raise self.failure
        self.processes.append(MonitorProcess(launch, ended))
        return self.processes[-1]

    def status(self, request: Status, client: _kernel.Credentials) -> Any:
        """
        Answer the request for the status.
        """
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def end(self) -> None:
        """
        Stop it: nothing is left then.
        """
        self.monitor.stop()
        if self.processes and not self.processes[-1].ending:
            self.processes[-1].end("exited with 0")
        self.clock.advance(1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clock.readers, [])

    @property
    def process(self) -> MonitorProcess:
        """
        The newest process.
        """
        return self.processes[-1]

    def hear(self) -> bytes:
        """
        Read what the monitor's process got, with which descriptors are closed.
        """
        data = b""
        with contextlib.suppress(BlockingIOError):
            while received := _kernel.receive(self.process.link):
                data += received[0]
                for each in received[1]:
                    os.close(each)
                if not received[0]:
                    break
        return data

    def say(self, data: bytes) -> bytes:
        """
        Say something as the monitor's process.

        @return: the answer.
        """
        self.process.link.sendall(data)
        self.clock.read()
        return self.hear()

    def ready(self) -> None:
        """
        Start, and ask for the first time.
        """
        self.monitor.start()
        self.hear()
        self.clock.advance(process.PACE_SECONDS)
        self.process.link.sendall(ASK)
        self.clock.read()
        self.clock.advance(0)
        self.assertEqual(self.hear(), encodeAnswer(ALONE))

    def lines(self, level: str) -> list[str]:
        """
        The log's lines of a level since the last look.
        """
        found = texts(self.logged, level)
        self.logged.clear()
        return found

    # Its start

    def test_start(self) -> None:
        """
        The process runs as the user, has the link and nothing else, and gets the
        sockets with the start message.
        """
        self.monitor.start()
        launch = self.process.launch
        self.assertEqual(
            list(launch.command[1:]), ["-m", "portlisten", "supervised-monitor"]
        )
        self.assertEqual(launch.uid, NOBODY)
        self.assertEqual(len(launch.descriptors), 1)
        line, descriptors = _kernel.receive(self.process.link)
        self.assertEqual(parseStart(line[:-1]), MonitorStart("", 1))
        with socket.socket(fileno=descriptors[0]) as sock:
            self.assertEqual(sock.getsockname(), self.port.getsockname())
        self.assertEqual(len(descriptors), 1)
        self.assertIs(self.monitor.state, ProcessState.STARTING)

    def test_description(self) -> None:
        """
        If the monitor listens itself, no socket goes with the message.
        """
        self.monitor = self.make([], "ssl:1")
        self.monitor.start()
        line, descriptors = _kernel.receive(self.process.link)
        self.assertEqual(parseStart(line[:-1]), MonitorStart("ssl:1", 0))
        self.assertEqual(descriptors, [])

    def test_shutDown(self) -> None:
        """
        If the last monitor has shut a socket down, it listens again.
        """
        self.port.shutdown(socket.SHUT_RDWR)
        self.monitor.start()
        with socket.create_connection(self.port.getsockname(), timeout=20):
            pass

    def test_cannotStart(self) -> None:
        """
        If it cannot be started, it is tried again after a pause that grows, for ever.
        """
        self.failure = CannotRun("no program")
        self.monitor.start()
        for number in range(20):
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**number)
            self.assertEqual(
                self.lines("error"),
                [
                    f"the monitor has ended, and is started again in {pause:g} s:"
                    " no program"
                ],
            )
            self.assertIs(self.monitor.state, ProcessState.WAITING)
            self.assertEqual(self.monitor.restarts, number)
            self.clock.advance(pause)
        self.failure = None
        self.clock.advance(LONGEST_PAUSE_SECONDS)
        self.readyAgain()

    def test_noLink(self) -> None:
        """
        So it is if no link can be made.
        """

        def fail() -> Any:
            raise OSError(24, "Too many open files")

        self.patch(socket, "socketpair", fail)
        self.monitor.start()
        self.assertEqual(
            self.monitor.lastEnd, "it cannot be started: Too many open files"
        )
        self.assertIs(self.monitor.state, ProcessState.WAITING)

    def test_noMessage(self) -> None:
        """
        If the start message cannot be sent, the process is killed.
        """

        def fail(*_: object) -> int:
            raise OSError(109, "Too many references: cannot splice")

        self.patch(_kernel, "send", fail)
        self.monitor.start()
        self.assertEqual(self.process.told, ["kill"])
        self.process.end("was killed by SIGKILL")
        self.assertEqual(
            self.monitor.lastEnd,
            "its link cannot be used: Too many references: cannot splice"
            " (was killed by SIGKILL)",
        )

    # What it asks

    def test_ready(self) -> None:
        """
        It is ready when it asks for the first time.
        """
        self.ready()
        self.assertIs(self.monitor.state, ProcessState.READY)
        self.assertEqual(self.lines("info"), ["the monitor is ready"])

    def test_pace(self) -> None:
        """
        It gets an answer as soon as it asks, but not too often.
        """
        self.ready()
        self.assertEqual(self.say(ASK), b"")
        self.clock.advance(process.PACE_SECONDS / 2)
        self.assertEqual((self.hear(), self.asked), (b"", 1))
        self.clock.advance(process.PACE_SECONDS / 2)
        self.assertEqual((self.hear(), self.asked), (encodeAnswer(ALONE), 2))
        # Nor by many requests at once.
        self.say(ASK * 100)
        for _ in range(20):
            self.clock.read()
            self.clock.advance(process.PACE_SECONDS / 2)
        self.assertIn(self.asked, range(11, 14))
        self.assertEqual(self.process.told, [])

    def test_later(self) -> None:
        """
        The answer may take a while, or be an error.  That does not count as silence.
        """
        self.ready()
        later: Deferred[Any] = Deferred()
        self.answer = later
        self.clock.advance(1.0)
        self.say(ASK)
        self.clock.advance(process.SILENCE_SECONDS * 3)
        self.assertEqual((self.process.told, self.hear()), ([], b""))
        later.errback(ControlError("it starts again"))
        self.assertIn(b"it starts again", self.hear())
        self.answer = ControlError("not now")
        self.clock.advance(process.SILENCE_SECONDS - 1.0)
        self.say(ASK)
        self.clock.advance(0)
        self.assertIn(b"not now", self.hear())
        self.assertEqual(self.process.told, [])

    def test_silent(self) -> None:
        """
        A monitor that asks nothing hangs: it is killed, and started again.
        """
        self.ready()
        self.clock.advance(process.SILENCE_SECONDS - 1.0)
        self.assertEqual(self.process.told, [])
        self.clock.advance(1.1)
        self.assertEqual(self.process.told, ["kill"])
        self.process.end("was killed by SIGKILL")
        self.assertEqual(
            self.lines("error"),
            [
                "the monitor is killed: it asks nothing for 10 s",
                "the monitor has ended, and is started again in 0.25 s: it asks nothing"
                " for 10 s (was killed by SIGKILL)",
            ],
        )
        self.clock.advance(FIRST_PAUSE_SECONDS)
        self.assertEqual((len(self.processes), self.monitor.restarts), (2, 1))
        self.clock.advance(process.READY_SECONDS - 1.0)
        self.assertEqual(self.process.told, [])
        self.clock.advance(1.1)
        self.assertEqual(self.process.told, ["kill"])

    def test_wrong(self) -> None:
        """
        A monitor that asks for anything else is killed: nothing is done for it.
        """
        for request in (
            encodeRequest(Stop()),
            encodeRequest(Workers()),
            b"nonsense\n",
            b"{}\n",
        ):
            self.ready()
            asked = self.asked
            self.assertIn("error", json.loads(self.say(request)))
            self.assertEqual(self.process.told, ["kill"])
            self.process.end("was killed by SIGKILL")
            self.assertEqual(self.asked, asked)
            self.assertIn("it asks for more than the status", self.monitor.lastEnd)
            self.monitor._pause.cancel()

    def test_long(self) -> None:
        """
        A request that does not end closes the link, and the process is killed unless it
        ends by itself.
        """
        self.ready()
        self.say(b"x" * 100_000)
        for _ in range(5):
            self.clock.read()
            self.clock.advance(0.01)
        self.assertEqual(self.process.told, ["kill after", process.END_SECONDS])

    # Its end

    def test_ends(self) -> None:
        """
        If the process ends, the reason is what it ended with.
        """
        self.ready()
        self.process.end("was killed by SIGSEGV")
        self.assertEqual(self.monitor.lastEnd, "it was killed by SIGSEGV")
        self.clock.advance(FIRST_PAUSE_SECONDS)
        self.readyAgain()

    def readyAgain(self) -> None:
        """
        The next process serves.
        """
        self.hear()
        self.process.link.sendall(ASK)
        self.clock.read()
        self.clock.advance(process.PACE_SECONDS)
        self.assertEqual(self.hear(), encodeAnswer(ALONE))
        self.assertIs(self.monitor.state, ProcessState.READY)

    def test_closes(self) -> None:
        """
        If it closes the link, it gets a little time to end.
        """
        self.ready()
        self.process.link.close()
        self.clock.read()
        self.clock.advance(0)
        self.assertEqual(self.process.told, ["kill after", process.END_SECONDS])
        self.clock.advance(process.END_SECONDS / 2)
        self.process.end("exited with 1")
        self.assertEqual(self.monitor.lastEnd, "it exited with 1")
        self.clock.advance(FIRST_PAUSE_SECONDS)
        self.readyAgain()
        self.process.link.close()
        self.clock.read()
        self.clock.advance(process.END_SECONDS)
        self.process.end("was killed by SIGKILL")
        self.assertEqual(
            self.monitor.lastEnd,
            "it closed its link, and did not end (was killed by SIGKILL)",
        )

    def test_asksAndEnds(self) -> None:
        """
        A request of a process that has ended is answered to nobody.
        """
        self.ready()
        self.say(ASK)
        self.process.end()
        self.clock.advance(FIRST_PAUSE_SECONDS)
        self.assertEqual(self.asked, 1)
        self.readyAgain()
        self.assertEqual(self.asked, 2)

    def test_stop(self) -> None:
        """
        It is told to end, and not started again, however it ends.
        """
        self.ready()
        gone: list[object] = []
        for _ in range(2):
            self.monitor.stop().addCallback(gone.append)
        self.assertEqual(self.process.told, ["stop", process.END_SECONDS])
        # It may ask until then.
        self.clock.advance(1.0)
        self.say(ASK)
        self.clock.advance(0)
        self.assertEqual(self.hear(), encodeAnswer(ALONE))
        self.clock.advance(process.SILENCE_SECONDS * 2)
        self.assertEqual(self.process.told, ["stop", process.END_SECONDS])
        self.process.end("was killed by SIGKILL")
        self.assertEqual(gone, [None, None])
        self.clock.advance(60)
        self.assertEqual(len(self.processes), 1)

    def test_stopWhileItWaits(self) -> None:
        """
        It can be stopped while it waits to be started again.
        """
        self.ready()
        self.process.end()
        self.successResultOf(self.monitor.stop())
        self.clock.advance(60)
        self.assertEqual(len(self.processes), 1)
