"""
Tests for L{portlisten._kernel.peers}.
"""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from typing import Any
from unittest import SkipTest, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import peers
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import Scripted, pair


class CredentialsTests(SynchronousTestCase):
    """
    Tests for L{peers.credentials}.
    """

    def test_own(self) -> None:
        """
        They say who is at the other end: here, this process.
        """
        credentials = peers.credentials(pair(self)[0])
        self.assertEqual(
            (credentials.pid, credentials.uid, credentials.gid),
            (os.getpid(), os.geteuid(), os.getegid()),
        )
        self.assertEqual(sorted(credentials.groups), sorted(os.getgroups()))

    def test_groupsUntold(self) -> None:
        """
        If the kernel does not tell the groups, none are known.
        """
        answers = {
            socket.SO_PEERCRED: struct.pack("=iii", 1, 2, 3),
            peers.SO_PEERGROUPS: OSError(errno.ENOPROTOOPT, "unknown"),
        }
        sock: Any = Scripted(pair(self)[0], answers)
        self.assertEqual(peers.credentials(sock), peers.Credentials(1, 2, 3, (), False))

    def test_manyGroupsUntold(self) -> None:
        """
        Nor where it does not tell them a second time.
        """
        answers = {
            socket.SO_PEERCRED: struct.pack("=iii", 1, 2, 3),
            peers.SO_PEERGROUPS: OSError(errno.ERANGE, "too many"),
        }
        with socket.socket() as sock:
            scripted: Any = Scripted(sock, answers)
            self.assertFalse(peers.credentials(scripted).groupsKnown)

    @skipUnless(os.geteuid() == 0, "only root may become somebody else")
    def test_largeNumbers(self) -> None:
        """
        Users and groups may have numbers of 32 bits, and a user may be in as many
        groups as the kernel allows.
        """
        for count in (0, 255, 256, 65536):
            groups = tuple(range(4_000_000_000, 4_000_000_000 + count))
            who = self.somebody(3_000_000_000, 3_500_000_000, groups)
            self.assertEqual((who.uid, who.gid), (3_000_000_000, 3_500_000_000))
            self.assertEqual((who.groups, who.groupsKnown), (groups, True))

    def somebody(
        self, uid: int, gid: int, groups: tuple[int, ...]
    ) -> peers.Credentials:
        """
        Have a process of somebody else connect.
        """
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(b"")
            server.listen()
            address = server.getsockname()
            child = os.fork()
            if not child:
                try:
                    os.setgroups(groups)
                    os.setresgid(gid, gid, gid)
                    os.setresuid(uid, uid, uid)
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(address)
                        client.recv(1)
                finally:
                    os._exit(0)
            try:
                server.settimeout(30)
                with server.accept()[0] as accepted:
                    return peers.credentials(accepted)
            finally:
                os.waitpid(child, 0)


class PeerProcessTests(SynchronousTestCase):
    """
    Tests for L{peers.peerProcess}, L{peers.hasEnded} and L{peers.hungUp}.
    """

    def setUp(self) -> None:
        """
        Start a process at the other end of a Unix socket.
        """
        watchDescriptors(self)
        path = os.path.relpath(self.mktemp())
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            code = f"""
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect({path!r})
sys.stdin.read()
"""
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE
            )
            self.addCleanup(self.end)
            server.settimeout(30)
            self.socket, _ = server.accept()
        self.addCleanup(self.socket.close)

    def end(self) -> None:
        """
        End the process.
        """
        self.process.kill()
        self.process.communicate()

    def assertFound(self, pid: int) -> None:
        """
        See that the process is found, and its end.
        """
        pidfd = peers.peerProcess(self.socket, pid)
        assert pidfd is not None
        self.addCleanup(os.close, pidfd)
        self.assertIs(peers.hasEnded(pidfd), False)
        self.process.send_signal(signal.SIGSTOP)
        self.assertIs(peers.hasEnded(pidfd), False)
        self.end()
        self.assertIs(peers.hasEnded(pidfd), True)

    def test_byTheSocket(self) -> None:
        """
        The kernel knows the process, even if its number is given wrong.
        """
        try:
            size = array.array("i").itemsize
            data = self.socket.getsockopt(socket.SOL_SOCKET, peers.SO_PEERPIDFD, size)
            os.close(array.array("i", data)[0])
        except OSError:
            raise SkipTest("this kernel does not know the process") from None
        self.assertFound(os.getpid())

    def test_byTheNumber(self) -> None:
        """
        An older kernel finds it by its number.
        """
        self.patch(peers, "SO_PEERPIDFD", -1)
        self.assertFound(self.process.pid)

    def test_nobody(self) -> None:
        """
        There may be none with that number.
        """
        self.patch(peers, "SO_PEERPIDFD", -1)
        self.end()
        for pid in (0, -1):
            self.assertIsNone(peers.peerProcess(self.socket, pid))

    def test_hungUp(self) -> None:
        """
        The other end is closed when its process has ended.
        """
        self.assertIs(peers.hungUp(self.socket), False)
        self.end()
        self.assertIs(peers.hungUp(self.socket), True)

    def test_shutDown(self) -> None:
        """
        An end that is shut down in one direction is not closed, nor is one that sent
        something.
        """
        for how in (socket.SHUT_WR, socket.SHUT_RD):
            ours, theirs = pair(self)
            theirs.send(b"x")
            theirs.shutdown(how)
            self.assertIs(peers.hungUp(ours), False)
            theirs.close()
            self.assertIs(peers.hungUp(ours), True)


class Waited(socket.socket):
    """
    A Unix socket of which the kernel does not tell the process at its other end.

    @cvar code: why not.
    """

    code = errno.ENOPROTOOPT

    def getsockopt(self, *_: Any) -> Any:
        raise OSError(self.code, os.strerror(self.code))


class PeerPidfdTests(SynchronousTestCase):
    """
    Tests for L{peers.peerProcess} and L{peers.hasEnded}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        Have the child end, and wait for it.
        """
        self.child.communicate()

    def process(self, sock: socket.socket) -> int:
        """
        Find the process, which is the child if the kernel does not say.
        """
        process = peers.peerProcess(sock, self.child.pid)
        assert process is not None
        self.addCleanup(os.close, process)
        return process

    def test_lives(self) -> None:
        """
        A process that lives has not ended.
        """
        left, right = socket.socketpair()
        with left, right:
            self.assertFalse(peers.hasEnded(self.process(left)))

    def test_byNumber(self) -> None:
        """
        Where the kernel has no pidfd of it, its number leads to it.
        """
        with Waited() as sock:
            process = self.process(sock)
        self.assertFalse(peers.hasEnded(process))
        self.end()
        self.assertTrue(peers.hasEnded(process))

    def test_ended(self) -> None:
        """
        A process that was waited for has ended.
        """
        self.end()
        with Waited() as sock:
            self.assertRaises(ProcessLookupError, self.process, sock)

    def test_endedAndReplaced(self) -> None:
        """
        If the kernel says that a process has ended, its number is another's.
        """
        for code in (errno.EINVAL, errno.ESRCH):
            with Waited() as sock:
                sock.code = code
                self.assertRaises(ProcessLookupError, self.process, sock)

    def test_elsewhere(self) -> None:
        """
        Nothing is known of a process in another pid namespace.
        """
        with Waited() as sock:
            self.assertIsNone(peers.peerProcess(sock, 0))
