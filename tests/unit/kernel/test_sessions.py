"""
Tests for L{portlisten._kernel.sessions}.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import sessions
from tests.support.descriptors import watchDescriptors

#: Starts a process in each group that it is told, and says their numbers.
FAMILY = """
import os, time
def member(change):
    if not os.fork():
        change()
        os.write(1, f"{os.getpid()}\\n".encode())
        time.sleep(99)
member(lambda: None)
member(os.setpgrp)
member(os.setsid)
time.sleep(99)
"""


def until(condition: Callable[[], object]) -> None:
    """
    Wait until a condition holds.
    """
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """
    Whether a process has not ended.
    """
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False


class SessionsTests(SynchronousTestCase):
    """
    Tests for the functions that look at a session.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """
        Start a process in a session of its own.
        """
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, text=True
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def family(self) -> tuple[subprocess.Popen[str], list[int]]:
        """
        Start a process that has one in its own group, one in another group of the
        session, and one in another session.
        """
        process = self.begin(sys.executable, "-c", FAMILY)
        assert process.stdout is not None
        numbers = [int(process.stdout.readline()) for _ in range(3)]
        for each in numbers:
            self.addCleanup(self.end, each)
        groups = {os.getsid(each): each for each in numbers}
        stranger = groups[next(each for each in groups if each != process.pid)]
        own = sorted(numbers, key=lambda each: (each == stranger, os.getpgid(each)))
        return process, own

    @staticmethod
    def end(pid: int) -> None:
        """
        End a process that may have ended.
        """
        if alive(pid):
            os.kill(pid, signal.SIGKILL)

    def test_members(self) -> None:
        """
        The members of a session are those of all of its groups, without those that have
        ended.
        """
        process, (one, two, _) = self.family()
        self.assertEqual(
            sorted(sessions.sessionMembers(process.pid)),
            sorted([process.pid, one, two]),
        )
        os.kill(one, signal.SIGKILL)
        until(lambda: not alive(one))
        self.assertEqual(
            sorted(sessions.sessionMembers(process.pid)), sorted([process.pid, two])
        )

    def test_oddName(self) -> None:
        """
        The name of a process may look like the fields behind it.
        """
        path = Path(self.mktemp())
        path.mkdir()
        program = path / ") Z 1 (2 3"
        program.symlink_to("/bin/sleep")
        process = self.begin(str(program), "99")
        until(lambda: ") Z" in Path(f"/proc/{process.pid}/comm").read_text())
        self.assertEqual(sessions.sessionMembers(process.pid), [process.pid])

    def test_untold(self) -> None:
        """
        If the kernel does not tell, no members are found.
        """
        with mock.patch.object(os, "listdir", side_effect=FileNotFoundError):
            self.assertEqual(sessions.sessionMembers(os.getsid(0)), [])
            self.assertEqual(sessions.sessionSizes(), {})

    def test_signal(self) -> None:
        """
        All members of the session get the signal, and no process of another session.
        """
        process, (one, two, stranger) = self.family()
        sessions.signalSession(process.pid, signal.SIGKILL)
        for each in (process.pid, one, two):
            until(lambda each=each: not alive(each))  # type: ignore[misc]
        self.assertTrue(alive(stranger))
        # Its number is still its own.
        sessions.signalSession(process.pid, signal.SIGKILL)
        self.assertEqual(process.wait(), -signal.SIGKILL)

    def test_leftSession(self) -> None:
        """
        If a process that was found is another one by now, it gets no signal.
        """
        process, (_, two, _) = self.family()
        with mock.patch.object(sessions, "_isMember", side_effect=[False]):
            sessions._signalMember(two, process.pid, signal.SIGKILL)
        self.assertTrue(alive(two))

    def test_refused(self) -> None:
        """
        If a process may not be signalled, the others are.
        """
        process, (_, two, _) = self.family()
        with mock.patch.object(os, "killpg", side_effect=PermissionError):
            self.assertRaises(
                PermissionError, sessions.signalSession, process.pid, signal.SIGKILL
            )
        until(lambda: not alive(two))
        self.assertTrue(alive(process.pid))

    def test_sizes(self) -> None:
        """
        The memory is that of the kernel's other account of it, and is not counted after
        the end.
        """
        process = self.begin("/bin/sleep", "99")
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")

        def agree() -> bool:
            status = Path(f"/proc/{process.pid}/status").read_text()
            match = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
            assert match is not None
            expected = int(match[1]) * 1024
            return sessions.sessionSizes()[process.pid] == expected > 100_000

        until(agree)
        process.kill()
        until(lambda: not alive(process.pid))
        self.assertNotIn(process.pid, sessions.sessionSizes())
        process.wait()
        self.assertNotIn(process.pid, sessions.sessionSizes())

    def test_allSizes(self) -> None:
        """
        All processes of a session count, and those of another session do not.
        """
        process, (*_, stranger) = self.family()
        sizes = sessions.sessionSizes()
        self.assertGreater(sizes[process.pid], sizes[os.getsid(stranger)])

    def test_unread(self) -> None:
        """
        The bytes in a pipe are counted, and stay there.
        """
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.assertEqual(sessions.unreadBytes(reader), 0)
        os.write(writer, b"x" * 5000)
        self.assertEqual(sessions.unreadBytes(reader), 5000)
        os.read(reader, 1000)
        self.assertEqual(sessions.unreadBytes(reader), 4000)
