"""
Tests for L{portlisten._children.process}, with real processes.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor as _reactor
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._children import launch as _launch
from portlisten._children.launch import Launch
from portlisten._children.process import TAIL_CHARACTERS, TAIL_LINES, Process
from portlisten.errors import CannotRun
from tests.support.channels import inReactor
from tests.support.children import children
from tests.support.launches import ENVIRONMENT, needsRoot, shell
from tests.support.waiting import PATIENCE, until

reactor: Any = _reactor

#: Starts a child that ignores SIGTERM, in a group or a session of its own or neither.
#: The child says its number.
PARENT = """
import os, signal, sys, time
if not os.fork():
    getattr(os, sys.argv[1])()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child", os.getpid(), flush=True)
    time.sleep(99)
time.sleep(99)
"""


def ended(pid: int) -> bool:
    """
    Whether a process has ended.
    """
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return True


def stopped(pid: int) -> bool:
    """
    Whether a process was stopped by a signal.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class ProcessTestCase(TestCase):
    """
    A test that leaves no descriptor and no process.

    @ivar lines: all lines of all processes; and how each has ended.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.lines: list[str] = []
        self.started: list[Process] = []
        self._others = children()
        self.addCleanup(self.endAll)

    async def endAll(self) -> None:
        """
        End all processes, and check that none is left.
        """
        for each in self.started:
            each.kill()
        await self.until(lambda: not any(each.running for each in self.started))
        self.assertEqual(children() - self._others, set())

    async def until(self, condition: Any) -> None:
        """
        Wait until a condition holds.
        """
        await until(condition, "a process", PATIENCE)

    def process(self, launch: Launch, own: Any = reactor) -> Process:
        """
        Make a process.
        """
        process = Process(own, launch, self.lines.append, self.onEnd)
        self.started.append(process)
        return process

    def onEnd(self, process: Process) -> None:
        """
        Called at the end of a process.
        """
        self.assertFalse(process.running)
        self.lines.append(f"{process.label} {process.ending}")

    def start(self, text: str, **options: Any) -> Process:
        """
        Start a process that runs a text of the shell.
        """
        process = self.process(shell(text, **options))
        process.start()
        return process

    def python(self, program: str, *arguments: str) -> Process:
        """
        Start a process that runs a program of this Python.
        """
        command = (sys.executable, "-c", program, *arguments)
        process = self.process(Launch("web-1", command, ENVIRONMENT))
        process.start()
        return process

    async def end(self) -> str:
        """
        Wait until the process has ended.

        @return: how.
        """
        await self.until(lambda: self.lines and self.lines[-1].startswith("web-1 "))
        return self.lines[-1].removeprefix("web-1 ")


class ProcessTests(ProcessTestCase):
    """
    Tests for L{Process}.
    """

    async def test_course(self) -> None:
        """
        It runs, writes lines, and ends by itself.
        """
        process = self.process(shell("echo one; echo two >&2; exit 3"))
        self.assertEqual((process.pid, process.running), (0, False))
        before = reactor.seconds()
        process.start()
        self.assertGreater(process.pid, 0)
        self.assertTrue(process.running)
        self.assertTrue(before <= process.started <= reactor.seconds())
        self.assertEqual((process.ending, process.label), ("", "web-1"))
        await self.end()
        self.assertEqual(self.lines, ["one", "two", "web-1 exited with 3"])
        self.assertEqual(process.tail, ("one", "two"))
        self.assertEqual((process.pid, process.ending), (0, "exited with 3"))
        # Now that it has ended, nothing happens.
        process.stop(0)
        process.kill()
        self.assertEqual(process.memory(), 0)

    async def test_killed(self) -> None:
        """
        The signal that ended it has a name.
        """
        self.start("kill -9 $$")
        self.assertEqual(await self.end(), "was killed by SIGKILL")

    async def test_lastLine(self) -> None:
        """
        The end is told after the last line, though much is left in the pipe, and the
        last line has no end.
        """
        self.start("seq 1 9000; printf last")
        await self.end()
        self.assertEqual(self.lines[-2:], ["last", "web-1 exited with 0"])
        self.assertEqual(len(self.lines), 9002)

    async def test_outputEndsFirst(self) -> None:
        """
        A process may close its output, and run on.
        """
        process = self.start("echo one; exec >&- 2>&-; kill -STOP $$; exit 4")
        await self.until(lambda: process._outputEnded and stopped(process.pid))
        self.assertTrue(process.running)
        os.kill(process.pid, signal.SIGCONT)
        self.assertEqual(await self.end(), "exited with 4")
        self.assertEqual(self.lines[0], "one")

    async def test_tail(self) -> None:
        """
        The tail has the last lines, and they are cut.
        """
        process = self.start(f"seq 1 50; head -c {TAIL_CHARACTERS * 2} /dev/zero")
        await self.end()
        self.assertEqual(len(process.tail), TAIL_LINES)
        self.assertEqual(process.tail[-2], "50")
        self.assertEqual(process.tail[-1], "\ufffd" * TAIL_CHARACTERS)
        self.assertEqual(len(self.lines[-2]), TAIL_CHARACTERS * 2)

    async def test_flood(self) -> None:
        """
        Processes that write without end leave time for others, and are ended.
        """
        flood = [self.start("yes"), self.start("yes ''"), self.start("cat /dev/zero")]
        other = self.start("echo up; exec sleep 99")
        await self.until(lambda: "up" in self.lines and len(self.lines) > 20_000)
        for each in [*flood, other]:
            each.stop(30)
        await self.until(lambda: not any(each.running for each in self.started))
        self.assertEqual({each.ending for each in flood}, {"was killed by SIGTERM"})
        await self.until(lambda: self.lines.count("web-1 was killed by SIGTERM") == 4)

    async def test_stop(self) -> None:
        """
        SIGTERM goes to the process itself, once, even if it was stopped.
        """
        text = (
            "trap 'echo term; exit 5' TERM; sleep 99 & echo $!; kill -STOP $$;"
            " while :; do sleep 0.05; done"
        )
        process = self.start(text)
        await self.until(lambda: self.lines and stopped(process.pid))
        child = int(self.lines[0])
        with mock.patch.object(
            signal, "pidfd_send_signal", wraps=signal.pidfd_send_signal
        ) as sent:
            process.stop(99)
            process.stop(99)
        self.assertEqual(
            [call.args[1] for call in sent.mock_calls], [signal.SIGTERM, signal.SIGCONT]
        )
        self.assertEqual(await self.end(), "exited with 5")
        self.assertEqual(self.lines[1:-1], ["term"])
        await self.until(lambda: ended(child))
        self.assertIsNone(process._killTimer)

    async def test_stopInTime(self) -> None:
        """
        A process that ignores SIGTERM is killed after the time, and so is the rest of
        its session.
        """
        text = "trap '' TERM; echo up; while :; do sleep 0.05; done"
        process = self.start(text)
        await self.until(lambda: self.lines)
        process.stop(0.05)
        self.assertEqual(await self.end(), "was killed by SIGKILL")

    async def test_stopSooner(self) -> None:
        """
        A second call makes the time shorter, and never longer.
        """
        process = self.start("trap '' TERM; echo up; while :; do sleep 0.05; done")
        await self.until(lambda: self.lines)
        for seconds in (99, 10, 99):
            process.stop(seconds)
        call = process._killTimer
        assert call is not None
        self.assertLess(call.getTime(), reactor.seconds() + 11)
        process.stop(0)
        self.assertEqual(await self.end(), "was killed by SIGKILL")

    async def test_grandchildren(self) -> None:
        """
        When it has ended, however that was, its children are killed that are in its
        group or in another group of its session.
        """
        for change in ("getpid", "setpgrp"):
            for end in (
                lambda process: process.kill(),
                lambda process: process.stop(99),
                # Some shells ignore SIGINT for what they start in the background.
                lambda process: os.kill(process.pid, signal.SIGUSR1),
            ):
                del self.lines[:]
                process = self.python(PARENT, change)
                await self.until(lambda: self.lines)
                child = int(self.lines[0].split()[1])
                self.assertFalse(ended(child))
                end(process)
                await self.end()
                await self.until(lambda child=child: ended(child))

    async def test_otherSession(self) -> None:
        """
        A child in another session is left alone.  Its output is not waited for.
        """
        process = self.python(PARENT, "setsid")
        await self.until(lambda: self.lines)
        child = int(self.lines[0].split()[1])
        process.kill()
        self.assertEqual(await self.end(), "was killed by SIGKILL")
        self.assertFalse(ended(child))
        os.kill(child, signal.SIGKILL)

    async def test_killBeforeWait(self) -> None:
        """
        The session is killed while the number of the process is still its own.
        """
        seen = []
        real = _kernel.signalSession

        def look(session: int, number: int) -> None:
            seen.append(Path(f"/proc/{session}/stat").read_text().split()[2])
            real(session, number)

        self.patch(_kernel, "signalSession", look)
        self.start("exit 0")
        await self.end()
        self.assertEqual(seen, ["Z"])

    async def test_waitedFor(self) -> None:
        """
        If other code has waited for it, its number is not used any more.
        """
        process = self.start("exec sleep 99")
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        with mock.patch.object(_kernel, "signalSession") as sent:
            process.kill()
            process.stop(99)
            self.assertEqual(await self.end(), "ended")
        self.assertEqual(sent.mock_calls, [])

    async def test_refused(self) -> None:
        """
        If it may not be signalled, the log says so once.
        """
        process = self.start("exec sleep 99")
        with (
            mock.patch.object(signal, "pidfd_send_signal", side_effect=PermissionError),
            mock.patch.object(_kernel, "signalSession", side_effect=PermissionError),
            capturedLogs() as logged,
        ):
            process.stop(99)
            process.kill()
        [event] = logged
        self.assertIn("has become another user's", formatEvent(event))

    async def test_memory(self) -> None:
        """
        The memory is that of all processes of the session.
        """
        program = (
            "import os, time\nblock = b'x' * 30_000_000\npid = os.fork()\n"
            "if not pid:\n    block += b'y'\n    print('up', flush=True)\n"
            "time.sleep(99)"
        )
        process = self.python(program)
        await self.until(lambda: self.lines)
        self.assertGreater(process.memory(), 60_000_000)
        self.assertLess(process.memory(), 200_000_000)

    async def test_dropped(self) -> None:
        """
        If the reactor drops it, it is killed with its session, and nothing is left.
        """
        process = self.python(PARENT, "getpid")
        await self.until(lambda: self.lines)
        child = int(self.lines[0].split()[1])
        assert process._watch is not None
        process._watch.connectionLost(None)
        self.assertFalse(process.running)
        self.assertEqual(children() - self._others, set())
        await self.until(lambda: ended(child))

    @needsRoot
    async def test_user(self) -> None:
        """
        It may open its own output again, though it is another user's.
        """
        self.start("echo up >/dev/stderr", uid=pwd.getpwnam("nobody").pw_uid)
        await self.end()
        self.assertEqual(self.lines, ["up", "web-1 exited with 0"])


class CannotStartTests(ProcessTestCase):
    """
    Tests for processes that cannot be started.
    """

    async def reason(self, process: Process) -> str:
        """
        Check that it cannot be started.

        @return: why.
        """
        error = self.assertRaises(CannotRun, process.start)
        self.assertEqual(children() - self._others, set())
        self.assertEqual((process.running, process.ending), (False, ""))
        self.assertEqual(self.lines, [])
        return str(error)

    async def test_program(self) -> None:
        """
        The reason is that of the start.  A later start may succeed.
        """
        process = self.process(shell("exit 6", folder="/no/such"))
        why = await self.reason(process)
        self.assertEqual(why, "the folder /no/such does not exist: make it")
        self.patch(os, "chdir", lambda folder: None)
        process.start()
        self.assertEqual(await self.end(), "exited with 6")

    async def test_exhausted(self) -> None:
        """
        If no pipe can be made, or no pidfd, or the reactor cannot watch it, nothing is
        left.
        """
        error = OSError(errno.EMFILE, "no more")
        with mock.patch.object(os, "pipe", side_effect=error):
            why = await self.reason(self.process(shell("exec sleep 99")))
        self.assertEqual(why, "no pipe can be made: no more")
        with mock.patch.object(os, "pidfd_open", side_effect=error):
            why = await self.reason(self.process(shell("exec sleep 99")))
        self.assertEqual(why, "the process cannot be watched: no more")
        older = OSError(errno.ENOSYS, "no such call")
        with mock.patch.object(os, "pidfd_open", side_effect=older):
            why = await self.reason(self.process(shell("exec sleep 99")))
        self.assertIn("must be Linux 5.4", why)
        for fails in (1, 2):

            class Failing:
                def __init__(self, left: int) -> None:
                    self.left = left

                def addReader(self, reader: Any) -> None:
                    self.left -= 1
                    if not self.left:
                        raise error
                    reactor.addReader(reader)

                def __getattr__(self, name: str) -> Any:
                    return getattr(reactor, name)

            why = await self.reason(
                self.process(shell("exec sleep 99"), Failing(fails))
            )
            self.assertIn("cannot be watched: no more", why)

    async def test_interrupted(self) -> None:
        """
        Whatever the start raises, the pipe is closed.
        """
        process = self.process(shell(""))
        with mock.patch.object(_launch, "start", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, process.start)
