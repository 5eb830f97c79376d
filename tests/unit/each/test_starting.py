"""
Tests for L{portlisten._each.starting}.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._each.starting import CannotStart, NotAnnounced, Program
from tests.support.descriptors import watchDescriptors

SH = shutil.which("sh") or "/bin/sh"
GIVEN = b"\x10\0\0\4\0\0\0\1"


def ignored() -> int:
    """
    Which signals this process ignores: a bit for each.
    """
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("SigIgn:")[1].split()[0], 16)


class StartTests(SynchronousTestCase):
    """
    Tests for L{Program.start}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.client, self.server = self.pair()
        self.listener, self.channel = self.pair()
        self.folder = self.mktemp()
        os.mkdir(self.folder)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """
        Make two sockets that do not block.
        """
        both = socket.socketpair()
        for each in both:
            self.addCleanup(each.close)
            each.setblocking(False)
        return both

    def program(self, *arguments: str, path: str = SH, **options: Any) -> Program:
        """
        Make a program.
        """
        return Program(path, ("name", *arguments), {"OWN": "own"}, **options)

    def start(self, program: Program, announced: bool = True) -> int:
        """
        Start it.
        """
        announcement = (self.channel.fileno(), GIVEN) if announced else None
        return program.start(self.server.fileno(), {"TOLD": "told"}, announcement)

    def answer(self, program: Program) -> bytes:
        """
        Start it, wait until it ends with 0, and return what it wrote.
        """
        process = self.start(program)
        self.assertEqual(os.waitpid(process, 0), (process, 0))
        return self.client.recv(1000)

    def assertFails(self, program: Program, why: int, given: bool) -> None:
        """
        Check that it does not start, that no process is left, and what was announced.
        """
        error = self.assertRaises(CannotStart, self.start, program)
        self.assertEqual((str(error), error.given), (os.strerror(why), given))
        self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)
        self.assertEqual(self.announced(), GIVEN if given else b"")
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, []), self.blocked())

    def announced(self) -> bytes:
        """
        What the listener got.
        """
        try:
            return self.listener.recv(1000)
        except BlockingIOError:
            return b""

    @staticmethod
    def blocked() -> set[Any]:
        """
        The signals that are blocked now.
        """
        return signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def test_start(self) -> None:
        """
        The program gets its arguments and variables, and the connection is blocking
        then.  The announcement was made.
        """
        text = "echo $0 $1 $OWN $TOLD"
        self.assertEqual(self.answer(self.program("-c", text, "a")), b"a own told\n")
        self.assertEqual(self.announced(), GIVEN)
        self.assertTrue(os.get_blocking(self.server.fileno()))

    def test_nothingToAnnounce(self) -> None:
        """
        There may be nothing to announce.
        """
        process = self.start(self.program("-c", "exit 3"), announced=False)
        self.assertEqual(os.waitpid(process, 0), (process, 3 << 8))
        self.assertEqual(self.announced(), b"")

    def test_missing(self) -> None:
        """
        If the program is missing, or is not executable, nothing is announced, and the
        connection stays as it was.
        """
        plain = os.path.join(self.folder, "plain")
        with open(plain, "w"):
            pass
        for path, why in (("/no/such", errno.ENOENT), (plain, errno.EACCES)):
            self.assertFails(self.program(path=path), why, False)
        self.assertFalse(os.get_blocking(self.server.fileno()))

    def test_notExecuted(self) -> None:
        """
        If the kernel cannot execute the program, that is known, and so is that it was
        announced.
        """
        for text, why in (("noise", errno.ENOEXEC), ("#!/no/such\n", errno.ENOENT)):
            path = os.path.join(self.folder, "program")
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o755)
            self.assertFails(self.program(path=path), why, True)

    def test_channelFull(self) -> None:
        """
        If the announcement cannot be made, the program does not start.
        """
        try:
            while True:
                self.channel.send(b"x" * 1000)
        except BlockingIOError:
            pass
        error = self.assertRaises(CannotStart, self.start, self.program("-c", "echo"))
        self.assertEqual((str(error), error.given), (os.strerror(errno.EAGAIN), False))
        self.assertRaises(BlockingIOError, self.client.recv, 1000)
        self.assertFalse(os.get_blocking(self.server.fileno()))

    def test_listenerGone(self) -> None:
        """
        If the listener reads no more, or is gone, the program does not start: the
        listener may hand the connection to another worker.
        """
        for end in (
            lambda: self.listener.shutdown(socket.SHUT_RD),
            self.listener.close,
        ):
            end()
            program = self.program("-c", "echo up")
            self.assertRaises(NotAnnounced, self.start, program)
            self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)
            self.assertRaises(BlockingIOError, self.client.recv, 1000)

    def test_childKilled(self) -> None:
        """
        If the process is killed before it has said that it may touch the connection,
        the program can be started again.
        """

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with mock.patch.object(_kernel, "sendBytes", die):
            error = self.assertRaises(CannotStart, self.start, self.program("-c", ""))
        self.assertEqual(
            (str(error), error.given), ("its process ended before it began", False)
        )
        self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)
        self.assertEqual(self.answer(self.program("-c", "echo up")), b"up\n")

    def test_parentKilled(self) -> None:
        """
        If the process that starts the program is killed meanwhile, the program has the
        connection all the same: the listener knows that already.
        """
        reader, other = socket.socketpair()
        gone, writer = socket.socketpair()
        other.close()
        gone.close()
        program = self.program("-c", "echo up")
        with mock.patch.object(socket, "socketpair", return_value=(reader, writer)):
            # This process has not been killed, and hears nothing.
            self.assertRaises(CannotStart, self.start, program)
        self.assertEqual(self.client.recv(1000), b"up\n")
        self.assertEqual(self.announced(), GIVEN)

    def test_noFork(self) -> None:
        """
        If there is no place for a process, or for a socket, nothing happens.
        """
        for module, name in ((os, "fork"), (socket, "socketpair")):
            error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            with mock.patch.object(module, name, side_effect=error):
                self.assertFails(self.program("-c", "echo"), errno.EAGAIN, False)

    def test_highNumbers(self) -> None:
        """
        The connection may have the number that the program gets it under.
        """
        program = self.program("-c", "echo up >&3", listenFds=True)
        own = os.dup(3) if os.path.exists("/proc/self/fd/3") else None
        kept = os.dup(self.server.fileno())
        try:
            os.dup2(kept, 3, inheritable=False)
            process = program.start(3, {}, None)
        finally:
            os.close(kept)
            if own is None:
                os.close(3)
            else:
                os.dup2(own, 3, inheritable=False)
                os.close(own)
        self.assertEqual(os.waitpid(process, 0), (process, 0))
        self.assertEqual(self.client.recv(1000), b"up\n")

    def test_standardError(self) -> None:
        """
        Standard error may be the connection, too.
        """
        program = self.program("-c", "echo up >&2", onStandardError=True)
        self.assertEqual(self.answer(program), b"up\n")

    def test_signals(self) -> None:
        """
        No signal is blocked or ignored in the program, except for those that this
        process has got so.
        """
        grep = shutil.which("grep") or "/bin/grep"
        program = self.program("-E", "SigBlk|SigIgn", "/proc/self/status", path=grep)
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            # A shell's background jobs ignore SIGINT, for one.
            expected = ignored()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
                expected &= ~(1 << number - 1)
            lines = self.answer(program).split()
        finally:
            signal.signal(signal.SIGUSR2, before)
        self.assertEqual(int(lines[1], 16), 0)
        self.assertEqual(int(lines[3], 16), expected)
