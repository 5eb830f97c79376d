"""
Tests for L{portlisten._ports.binding}, with sockets that another process made.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.internet import endpoints
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten._config.ports import PortSettings
from portlisten._kernel import IPPROTO_MPTCP
from portlisten._model import InternetAddress, Kind, UnixAddress
from portlisten._policy.source_limits import Limits
from portlisten._ports.binding import BoundPort, bind, changed
from portlisten._ports.parsing import parse
from portlisten.errors import CannotBind
from tests.support.addresses import internet
from tests.support.backlogs import backlogOf, backlogOfUNIX
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import listening


class InheritedPortTests(SynchronousTestCase):
    """
    Tests for ports that another process made, as systemd does.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def listen(self, sock: socket.socket, address: Any) -> socket.socket:
        """
        Listen, as systemd.
        """
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.listen(3)
        return sock

    def inherit(
        self, sock: socket.socket, domain: str = "INET", options: str = ""
    ) -> PortSettings:
        """
        Have the same socket passed by systemd.

        @param options: the options of the port.
        @return: the port that it becomes.
        """
        self.descriptor = os.dup(sock.fileno())
        os.set_inheritable(self.descriptor, True)
        passed = ListenFDs([self.descriptor], ["web"])
        self.patch(endpoints._SystemdParser, "_sddaemon", passed)
        return parse(f"systemd:domain={domain}:name=web{options}", 77)

    def bind(self, sock: socket.socket, domain: str = "INET") -> BoundPort:
        """
        Inherit the same socket, and bind it.
        """
        (port,) = bind(self.inherit(sock, domain))
        self.addCleanup(port.socket.close)
        return port

    def tcp(self) -> socket.socket:
        """
        A listening TCP socket of systemd's.
        """
        return self.listen(socket.socket(), ("127.0.0.1", 0))

    def unix(self, address: str | bytes) -> socket.socket:
        """
        A listening Unix socket of systemd's.
        """
        return self.listen(socket.socket(socket.AF_UNIX), address)

    def test_same(self) -> None:
        """
        It is the descriptor that was passed, and says so itself where it
        listens.
        """
        inherited = self.tcp()
        port = self.bind(inherited)
        self.assertEqual(port.socket.fileno(), self.descriptor)
        self.assertEqual(port.address, InternetAddress("TCP", *inherited.getsockname()))

    def test_familyFromKernel(self) -> None:
        """
        The kernel knows its address family better than the description does.
        """
        inherited = self.listen(socket.socket(socket.AF_INET6), ("::1", 0))
        self.assertTrue(internet(self.bind(inherited).address).isIPv6)

    def test_nonBlocking(self) -> None:
        """
        It does not block.
        """
        self.assertRaises(BlockingIOError, self.bind(self.tcp()).socket.accept)

    def test_limits(self) -> None:
        """
        A TCP socket may have limits.
        """
        (port,) = bind(self.inherit(self.tcp(), options=":max-per-source=3"))
        self.addCleanup(port.socket.close)
        self.assertEqual(port.limits, Limits(maxPerSource=3))
        (wanted,) = (self.inherit(self.tcp(), options=":max=4"),)
        os.close(self.descriptor)
        self.assertEqual(changed(port, wanted).limits, Limits(most=4, fair=False))

    def test_limitsOfUnix(self) -> None:
        """
        A Unix socket can have none, at the start and at a reload.
        """
        sock = self.unix("")
        wanted = self.inherit(sock, "UNIX", ":max-per-source=3:deny=192.0.2.7")
        reason = (
            f"cannot listen on {wanted}: the inherited descriptor is a Unix socket,"
            " whose clients have no address: leave out max-per-source, deny"
        )
        error = self.assertRaises(CannotBind, bind, wanted)
        self.assertEqual(str(error), reason)
        os.close(self.descriptor)
        port = self.bind(sock, "UNIX")
        error = self.assertRaises(CannotBind, changed, port, wanted)
        self.assertEqual(str(error), reason)

    def test_limitsOfMultipath(self) -> None:
        """
        A socket of Multipath TCP can have limits that count nothing that lives.
        """
        try:
            sock = socket.socket(proto=IPPROTO_MPTCP)
        except OSError:
            raise SkipTest("this host has no Multipath TCP") from None
        self.listen(sock, ("127.0.0.1", 0))
        wanted = self.inherit(sock, options=":max-per-source=3:max=5:rate=5/s")
        error = self.assertRaises(CannotBind, bind, wanted)
        self.assertIn(
            "leave out max-per-source and max, or SocketProtocol=mptcp", str(error)
        )
        os.close(self.descriptor)
        (port,) = bind(self.inherit(sock, options=":rate=5/s"))
        self.addCleanup(port.socket.close)

    def test_notInherited(self) -> None:
        """
        Programs that the process runs do not inherit it in turn.
        """
        self.assertFalse(self.bind(self.tcp()).socket.get_inheritable())

    def test_backlog(self) -> None:
        """
        The backlog stays as long as systemd has made it.
        """
        self.assertEqual(backlogOf(self.bind(self.tcp()).socket), 3)
        path = self.mktemp()
        self.bind(self.unix(path), "UNIX")
        self.assertEqual(backlogOfUNIX(self, path), 3)

    def test_notShutDown(self) -> None:
        """
        It lives on when it was closed and cleaned up here.
        """
        inherited = self.tcp()
        port = self.bind(inherited)
        port.socket.close()
        port.cleanUp()
        client = socket.create_connection(inherited.getsockname())
        self.addCleanup(client.close)
        inherited.setblocking(True)
        inherited.accept()[0].close()

    def test_path(self) -> None:
        """
        A path keeps its permissions, and is there when all is cleaned up.
        """
        path = self.mktemp()
        inherited = self.unix(path)
        os.chmod(path, 0o600)
        port = self.bind(inherited, "UNIX")
        self.assertEqual(port.address, UnixAddress(path.encode()))
        port.socket.close()
        port.cleanUp()
        self.assertEqual(os.lstat(path).st_mode & 0o777, 0o600)

    def test_abstract(self) -> None:
        """
        A name in the abstract namespace is kept as it is.
        """
        name = b"\0portlisten-" + os.urandom(8).hex().encode()
        port = self.bind(self.unix(name), "UNIX")
        self.assertEqual(port.address, UnixAddress(name))

    def test_useless(self) -> None:
        """
        What can accept no stream connections cannot be bound, and stays open.
        """
        connected, other = socket.socketpair()
        packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (connected, other, datagrams):
            self.addCleanup(sock.close)
        for sock, reason in (
            (connected, "a stream socket that does not listen: its socket unit should"),
            (
                self.listen(packets, self.mktemp()),
                "a socket of type SOCK_SEQPACKET, not SOCK_STREAM: its socket unit"
                " should have ListenStream=",
            ),
            (
                datagrams,
                "a socket of type SOCK_DGRAM, not SOCK_STREAM: its socket unit should"
                " have ListenStream=",
            ),
        ):
            self.assertUseless(sock, reason)

    def assertUseless(self, sock: socket.socket, reason: str) -> None:
        """
        Expect that a socket cannot be used, and why.
        """
        port = self.inherit(sock)
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, bind, port)
        self.assertIn(
            "cannot listen on systemd:domain=INET:name=web: the inherited"
            f" descriptor is {reason}",
            str(error),
        )

    def test_otherProtocols(self) -> None:
        """
        A stream socket of another protocol than TCP is told by its name, with what
        the socket unit should have.
        """
        tried = 0
        for family, kind, protocol, reason in (
            (
                socket.AF_INET,
                socket.SOCK_STREAM,
                132,
                "an SCTP socket, not TCP: its socket unit should have no"
                " SocketProtocol=",
            ),
            (
                40,
                socket.SOCK_STREAM,
                0,
                "a vsock socket: its socket unit should have a TCP port or a path in"
                " ListenStream=",
            ),
        ):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # this kernel has none
            self.addCleanup(sock.close)
            if family == 40:
                sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            sock.listen()
            self.assertUseless(sock, reason)
            tried += 1
        if not tried:
            raise SkipTest("this kernel has no other protocols")

    def test_multipath(self) -> None:
        """
        A socket of Multipath TCP is used as it is.
        """
        port = self.bind(listening(self, protocol=IPPROTO_MPTCP), "INET")
        self.assertEqual(port.kind, Kind.CONNECTIONS)
        self.assertEqual(port.socket.proto, IPPROTO_MPTCP)
        self.assertEqual(internet(port.address).protocol, "TCP")

    def test_datagrams(self) -> None:
        """
        A UDP socket has no connections to hand off.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        port = self.inherit(sock)
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, bind, port)
        self.assertIn("is a UDP socket", str(error))
        self.assertIn("use --share", str(error))

    def test_noSocket(self) -> None:
        """
        Neither can what is no socket.
        """
        with open(os.devnull) as file:
            port = self.inherit(file)  # type: ignore[arg-type]
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, bind, port)
        self.assertIn("Socket operation on non-socket", str(error))

    def test_failure(self) -> None:
        """
        If a call fails, the descriptor stays open, as it was.
        """
        port = self.inherit(self.tcp())
        self.addCleanup(os.close, self.descriptor)

        def fail(*args: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        for name in ("setblocking", "getsockname"):
            patched = self.patch(socket.socket, name, fail)
            self.assertRaises(CannotBind, bind, port)
            patched.restore()
            self.assertTrue(stat.S_ISSOCK(os.fstat(self.descriptor).st_mode))
