"""
Tests for L{portlisten._supervisor.listener}, with processes made by hand.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._children.launch import Launch
from portlisten._config.file import RunSettings
from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import Stop, StopAnswer, encodeAnswer, encodeRequest
from portlisten._control.start import encodeLoaded, encodeReady
from portlisten._ports.binding import bind
from portlisten._ports.parsing import parse
from portlisten._supervisor import listener
from portlisten._supervisor.listener import (
    END_SECONDS,
    FAILURES,
    FAREWELL_SECONDS,
    SupervisedListener,
)
from portlisten._supervisor.listener_process import ListenerProcess
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import NotReady
from portlisten.errors import CannotRun
from tests.support.channels import aMoment, eventually, inReactor
from tests.support.workers import ClockedReactor


class FakeListener:
    """
    A process of a listener that does what the test says.

    @ivar link: its end of the link.
    @ivar told: how it was told to end.
    """

    failure = ""
    tail: tuple[str, ...] = ()

    def __init__(
        self,
        reactor: Any,
        launch: Launch,
        onLine: Callable[[str], None],
        onEnd: Callable[[Any], None],
    ) -> None:
        self._launch = launch
        self._onEnd = onEnd
        self.pid = 0
        self.started = 0.0
        self.ending = ""
        self.told: list[tuple[str, float]] = []
        self._received = b""
        self._held: list[int] = []

    def start(self) -> None:
        """
        See L{portlisten._children.process.Process.start}.
        """
        if self.failure:
            raise CannotRun(self.failure)
        self.pid = 7
        self.link = socket.socket(fileno=os.dup(self._launch.descriptors[0]))
        self.link.setblocking(False)

    def received(self) -> bytes:
        """
        Read what came by the link, with what was read before.  Keep the descriptors
        until the end, as a listener does.
        """
        try:
            data, descriptors = _kernel.receive(self.link)
        except BlockingIOError:
            return self._received
        self._received += data
        self._held += descriptors
        return self._received

    def memory(self) -> int:
        """
        See L{portlisten._children.process.Process.memory}.
        """
        return 5

    def stop(self, seconds: float) -> None:
        """
        Note it.
        """
        self.told.append(("stop", seconds))

    def killAfter(self, seconds: float) -> None:
        """
        Note it.
        """
        self.told.append(("killAfter", seconds))

    def kill(self) -> None:
        """
        End, as SIGKILL does it.
        """
        self.end("was killed by SIGKILL")

    def end(self, how: str = "exited with 1") -> None:
        """
        End.
        """
        self.link.close()
        for each in self._held:
            os.close(each)
        self.ending = how
        self._onEnd(self)


class ListenerTestCase(TestCase):
    """
    A listener, whose processes are made by hand.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.reactor = ClockedReactor()
        self.clock = self.reactor.clock
        self.before = self.descriptors()
        self.made: list[FakeListener] = []
        self.givenUp: list[str] = []
        self.view = View(self.reactor, lambda: None, lambda: False)
        self.ports = bind(parse("http=tcp:0:interface=127.0.0.1", 5))
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.bind("")
        self.channel.listen()
        self.listener = SupervisedListener(
            self.reactor,
            RunSettings(listener=ListenerSettings(path="/run/s", grace=3.0)),
            self.view,
            self.ports,
            self.channel,
            self.givenUp.append,
            self.make,  # type: ignore[arg-type]
        )
        self.addCleanup(self.end)

    def descriptors(self) -> int:
        """
        Count the descriptors of this process.
        """
        return len(os.listdir("/proc/self/fd"))

    async def end(self) -> None:
        """
        End the listener, and check that nothing is left.
        """
        stopped = self.listener.stop()
        if not self.listener.gone:
            self.made[-1].end()
        self.successResultOf(stopped)
        for port in self.ports:
            port.close()
        self.channel.close()
        self.clock.advance(0)
        await aMoment()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        await eventually(lambda: self.descriptors() == self.before)

    def make(self, *arguments: Any) -> FakeListener:
        """
        Make a process.
        """
        self.made.append(FakeListener(*arguments))
        return self.made[-1]

    async def start(self) -> FakeListener:
        """
        Start the listener, and let it be ready.
        """
        self.listener.start()
        await eventually(lambda: b"links" in self.made[-1].received())
        self.made[-1].link.send(encodeReady(7))
        await eventually(lambda: self.view.ready)
        return self.made[-1]

    def state(self) -> str:
        """
        How far it has come, for an operator.
        """
        return self.listener.describe().state.value

    async def stop(self, process: FakeListener) -> Deferred[None]:
        """
        Stop the listener, and wait until the process hears it.
        """
        received = b""
        stopped = self.listener.stop()
        end = encodeRequest(Stop())

        def hears() -> bool:
            nonlocal received
            try:
                received += process.link.recv(65536)
            except BlockingIOError:
                pass
            return received.endswith(end)

        await eventually(hears)
        return stopped


class ListenerTests(ListenerTestCase):
    """
    Tests for L{SupervisedListener}.
    """

    async def test_ready(self) -> None:
        """
        It is ready when it says so, and is started again when it ends.
        """
        self.listener.start()
        self.assertEqual(self.state(), "starting")
        self.made[0].link.send(encodeReady(7))
        await eventually(lambda: self.view.ready)
        self.assertEqual(self.state(), "ready")
        self.made[0].end()
        self.assertFalse(self.view.ready)
        status = self.listener.describe()
        self.assertEqual(status.state.value, "waiting")
        self.assertEqual((status.failures, status.restartsIn), (1, 0.25))
        self.assertEqual(status.lastEnd, "it exited with 1")
        error = self.failureResultOf(self.listener.ask(Stop()), ControlError)
        self.assertIn("is not ready", error.getErrorMessage())
        self.clock.advance(0.25)
        self.assertEqual(len(self.made), 2)
        self.assertEqual(self.state(), "starting")

    async def test_cannotStart(self) -> None:
        """
        If it cannot be started, that is tried again, and the listener is given up at
        last.
        """
        self.patch(FakeListener, "failure", "no such program")
        self.listener.start()
        for _ in range(FAILURES):
            self.assertEqual(self.listener.lastEnd, "no such program")
            self.clock.advance(30)
        self.assertEqual(len(self.made), FAILURES)
        self.assertEqual(self.state(), "given up")
        self.assertEqual(
            self.givenUp, ["the listener has failed 8 times in a row: no such program"]
        )

    async def test_noDescriptors(self) -> None:
        """
        Likewise if no descriptor is free for its link.
        """

        def fail() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with self.patchedPair(fail):
            self.listener.start()
        self.assertEqual(
            self.listener.lastEnd, "no link to it can be made: Too many open files"
        )
        self.assertEqual(self.state(), "waiting")
        self.clock.advance(0.25)
        self.assertEqual(len(self.made), 1)
        self.assertEqual(self.state(), "starting")

    def patchedPair(self, replacement: Callable[[], None]) -> Any:
        """
        Replace L{socket.socketpair} for a while.
        """
        return patch.object(socket, "socketpair", replacement)

    async def test_breaks(self) -> None:
        """
        A listener that breaks its link is killed, and that is why it ended.
        """
        process = await self.start()
        process.link.send(b"nonsense\n")
        await eventually(lambda: not self.view.ready)
        self.assertEqual(self.state(), "ready")
        self.clock.advance(END_SECONDS)
        self.assertEqual(
            self.listener.lastEnd,
            "the link to the listener broke: it spoke without being asked",
        )
        self.assertEqual(self.state(), "waiting")

    async def test_endsItself(self) -> None:
        """
        A listener that closes its link and ends is not killed.
        """
        process = await self.start()
        process.link.close()
        await eventually(lambda: not self.view.ready)
        process.end("exited with 3")
        self.assertEqual(self.listener.lastEnd, "it exited with 3")

    async def test_stop(self) -> None:
        """
        A listener that is ready is asked to stop, and killed if that takes too long.
        """
        process = await self.start()
        stopped = await self.stop(process)
        again = self.listener.stop()
        self.assertEqual(process.told, [])
        process.link.send(encodeAnswer(StopAnswer(7)))
        await eventually(lambda: process.told)
        self.assertEqual(process.told, [("killAfter", 3 + FAREWELL_SECONDS)])
        self.assertEqual(self.state(), "stopping")
        self.assertNoResult(stopped)
        process.end("exited with 0")
        self.successResultOf(stopped)
        self.successResultOf(again)
        self.clock.advance(100)
        self.assertEqual(len(self.made), 1)

    async def test_stopUnanswered(self) -> None:
        """
        If it does not answer, it gets SIGTERM, and nothing else.
        """
        process = await self.start()
        await self.stop(process)
        process.link.close()
        await eventually(lambda: process.told)
        self.assertEqual(process.told, [("stop", 3 + FAREWELL_SECONDS)])

    async def test_stopWhileItStarts(self) -> None:
        """
        If it is not ready, it gets SIGTERM, and does not count as ready any more.
        """
        self.listener.start()
        stopped = self.listener.stop()
        (process,) = self.made
        self.assertEqual(process.told, [("stop", 3 + FAREWELL_SECONDS)])
        process.link.send(encodeReady(7))
        await aMoment()
        await aMoment()
        self.assertEqual(self.state(), "stopping")
        self.assertFalse(self.view.ready)
        process.end("was killed by SIGTERM")
        self.successResultOf(stopped)


class ReplaceTests(ListenerTestCase):
    """
    Tests for L{SupervisedListener.replace}.
    """

    def settings(self, grace: float) -> RunSettings:
        """
        Make other settings.
        """
        return RunSettings(listener=ListenerSettings(path="/run/s", grace=grace))

    async def replace(self) -> tuple[FakeListener, FakeListener, Deferred[None]]:
        """
        Begin to replace a listener, until the new process has the sockets.

        @return: the old and the new process, and the result.
        """
        old = await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        new = self.made[-1]
        new.link.send(encodeLoaded())
        await eventually(lambda: b'"grace": 9.0' in new.received())
        self.assertIn(b'"links": ["successors", "predecessor"]', new.received())
        self.assertEqual((old.told, self.state()), ([], "ready"))
        self.assertNoResult(done)
        return old, new, done

    async def takeOver(self, new: FakeListener, done: Deferred[None]) -> None:
        """
        The new process takes over.
        """
        new.link.send(encodeReady(7))
        await eventually(lambda: done.called)
        self.successResultOf(done)

    async def test_replace(self) -> None:
        """
        The old process serves until the new one has taken over, and may take its grace
        to end.
        """
        old, new, done = await self.replace()
        await self.takeOver(new, done)
        self.assertTrue(self.view.ready)
        self.assertEqual(old.told, [("killAfter", 3 + FAREWELL_SECONDS)])
        self.assertEqual(self.state(), "ready")
        old.end("exited with 0")
        self.assertTrue(self.view.ready)
        self.assertEqual(len(self.made), 2)
        self.assertEqual(self.listener.describe().failures, 0)
        # If it ends, it is started again with the same settings.
        new.end()
        self.assertEqual(self.listener.restarts, 0)
        self.clock.advance(0.25)
        await eventually(lambda: b'"grace": 9.0' in self.made[2].received())
        self.assertIn(b'"links": ["successors"]', self.made[2].received())
        self.assertEqual(self.listener.restarts, 1)

    async def test_backToBack(self) -> None:
        """
        The next one may be replaced while the one before it has not ended.
        """
        old, new, done = await self.replace()
        await self.takeOver(new, done)
        done = self.listener.replace(self.settings(8.0), self.ports)
        newest = self.made[-1]
        newest.link.send(encodeLoaded())
        await eventually(lambda: b'"grace": 8.0' in newest.received())
        await self.takeOver(newest, done)
        self.assertEqual(new.told, [("killAfter", 9 + FAREWELL_SECONDS)])
        new.end("exited with 0")
        old.end("exited with 0")
        self.assertTrue(self.view.ready)
        self.assertEqual(self.state(), "ready")

    async def test_notReady(self) -> None:
        """
        If the new process does not take over, the old one goes on.
        """
        _, new, done = await self.replace()
        new.tail = ("why",)
        new.end("exited with 1")
        await self.goesOn(done, reason="it exited with 1", log="why")

    async def test_bothEnd(self) -> None:
        """
        If the old process dies, and the new one as well, one with the old settings is
        started.
        """
        old, new, done = await self.replace()
        old.end("was killed by SIGKILL")
        self.assertEqual((self.state(), len(self.made)), ("starting", 2))
        new.end("exited with 1")
        self.failureResultOf(done, NotReady)
        self.assertEqual(len(self.made), 3)
        await eventually(lambda: b'"grace": 3.0' in self.made[2].received())

    async def test_oldEnds(self) -> None:
        """
        If the old process dies, the new one serves as soon as it is ready.
        """
        old, new, done = await self.replace()
        old.end("was killed by SIGKILL")
        self.assertFalse(self.view.ready)
        await self.takeOver(new, done)
        self.assertTrue(self.view.ready)
        self.assertEqual((self.state(), len(self.made)), ("ready", 2))

    async def test_cannotBeTold(self) -> None:
        """
        If the old process cannot be told of the new one, it goes on.
        """
        await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        new = self.made[-1]
        with patch.object(
            ListenerProcess, "introduce", side_effect=OSError(errno.EMFILE, "full")
        ):
            new.link.send(encodeLoaded())
            await eventually(lambda: new.ending)
        await self.goesOn(done, reason="the old one cannot be told of it: full")

    async def goesOn(self, done: Deferred[None], *, reason: str, log: str = "") -> None:
        """
        The replacement has failed, and the old process goes on as if nothing had been.
        """
        error = self.failureResultOf(done, NotReady).value
        self.assertEqual((error.reason, "".join(error.log)), (reason, log))
        self.assertEqual((self.state(), self.made[0].told), ("ready", []))
        # The next replacement is as if this one had not been.
        number = len(self.made)
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.made[-1].link.send(encodeLoaded())
        await eventually(lambda: b'"grace": 9.0' in self.made[-1].received())
        await self.takeOver(self.made[-1], done)
        self.made[0].end("exited with 0")
        self.assertEqual(len(self.made), number + 1)

    async def test_slow(self) -> None:
        """
        If the new process takes too long to load, the old one goes on.
        """
        self.patch(listener, "LOADING_SECONDS", 1.0)
        await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.clock.advance(1.0)
        self.assertEqual(self.made[1].ending, "was killed by SIGKILL")
        reason = "it does not load within 1 s"
        await self.goesOn(done, reason=reason)

    async def test_cannotLoad(self) -> None:
        """
        If the new process ends before it has loaded, as if the installation is broken,
        the old one goes on.
        """
        await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        new = self.made[1]
        new.tail = ("no such module",)
        new.link.shutdown(socket.SHUT_RDWR)
        await eventually(lambda: new.told)
        self.assertEqual(new.told, [("killAfter", END_SECONDS)])
        self.assertNoResult(done)
        new.end("exited with 1")
        await self.goesOn(done, reason="it exited with 1", log="no such module")

    async def test_otherVersion(self) -> None:
        """
        The same holds if it says something else, as another version may.
        """
        await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.made[1].link.send(b"hello\n")
        await eventually(lambda: self.made[1].told)
        self.made[1].kill()
        await self.goesOn(
            done,
            reason="the link to the listener broke: it spoke without being asked",
        )

    async def test_brokenHeir(self) -> None:
        """
        If the link of the new process breaks, it is killed, and the old one goes on.
        """
        _, new, done = await self.replace()
        new.link.shutdown(socket.SHUT_RDWR)
        await eventually(lambda: new.told)
        new.kill()
        reason = "the link to the listener broke: it closed the link"
        await self.goesOn(done, reason=reason)

    async def test_oldDies(self) -> None:
        """
        If the old process dies before the new one has loaded, the new one starts alone.
        """
        old = await self.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        old.end("was killed by SIGKILL")
        new = self.made[-1]
        new.link.send(encodeLoaded())
        await eventually(lambda: b'"links": ["successors"]' in new.received())
        await self.takeOver(new, done)
        self.assertEqual(len(self.made), 2)

    async def test_whileItStarts(self) -> None:
        """
        If the old process has not started yet, one with the new settings is started.
        """
        self.listener.start()
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.assertEqual(self.made[0].ending, "was killed by SIGKILL")
        self.assertEqual(len(self.made), 2)
        await eventually(lambda: b'"grace": 9.0' in self.made[1].received())
        await self.takeOver(self.made[1], done)
        self.assertEqual(self.listener.restarts, 0)

    async def test_whileItWaits(self) -> None:
        """
        If no process runs, since the last one has died, the new one is started at once.
        """
        (await self.start()).end()
        self.assertEqual(self.state(), "waiting")
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.assertEqual(len(self.made), 2)
        self.made[-1].link.send(encodeReady(7))
        await eventually(lambda: self.view.ready)
        self.successResultOf(done)
        self.clock.advance(10)
        self.assertEqual(len(self.made), 2)

    async def test_stop(self) -> None:
        """
        A stop meanwhile ends both processes, and the replacement.
        """
        old, new, done = await self.replace()
        stopped = self.listener.stop()
        self.assertEqual(new.ending, "was killed by SIGKILL")
        self.failureResultOf(done, NotReady)
        old.end("exited with 0")
        self.successResultOf(stopped)

    async def test_stopWhileItRetires(self) -> None:
        """
        A stop waits for the process that was replaced as well.
        """
        old, new, done = await self.replace()
        await self.takeOver(new, done)
        stopped = self.listener.stop()
        self.assertIn(("stop", END_SECONDS), old.told)
        new.end("exited with 0")
        self.assertNoResult(stopped)
        old.end("exited with 0")
        self.successResultOf(stopped)

    async def test_stopped(self) -> None:
        """
        After a stop, nothing is replaced.
        """
        process = await self.start()
        stopped = await self.stop(process)
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.failureResultOf(done, NotReady)
        process.end("exited with 0")
        self.successResultOf(stopped)
        self.failureResultOf(
            self.listener.replace(self.settings(9.0), self.ports), NotReady
        )
        self.assertEqual(len(self.made), 1)

    async def test_cannotStart(self) -> None:
        """
        If no process can be started, the old one goes on.
        """
        await self.start()
        self.patch(FakeListener, "failure", "no such program")
        done = self.listener.replace(self.settings(9.0), self.ports)
        self.patch(FakeListener, "failure", "")
        await self.goesOn(done, reason="no such program")
