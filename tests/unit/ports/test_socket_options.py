"""
Tests for L{portlisten._ports.socket_options}, and for binding ports that have options.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPIDLE, TCP_KEEPINTVL
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten._config.port_options import PortOptions
from portlisten._kernel import IPPROTO_MPTCP
from portlisten._ports import socket_options
from portlisten._ports.binding import bind
from portlisten._ports.parsing import parse
from portlisten.errors import CannotBind
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import LINGER, arrived, speaksMultipath, stream

# An address for documents, which no host has: RFC 5737, RFC 3849.
FOREIGN = {"": "192.0.2.1", "6": r"2001\:db8\:\:1"}


class BoundOptionsTests(SynchronousTestCase):
    """
    The options of bound ports, and of the connections that are accepted on them.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def bind(self, description: str, shared: bool = True) -> list[socket.socket]:
        """
        Bind.  The number that the kernel chooses for IPv4 may not be free for IPv6.

        @return: all sockets.
        """
        for _ in range(20):
            try:
                bound = bind(parse(description, 7, shared=shared))
            except CannotBind as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                break
        sockets = [sock for port in bound for sock in port.sockets]
        for sock in sockets:
            self.addCleanup(sock.close)
        return sockets

    def accept(self, sockets: list[socket.socket], protocol: int = 0) -> socket.socket:
        """
        Connect to the last of some sockets, send a byte, and accept on that, or on
        another that has the same address.
        """
        *_, sock = sockets
        address = sock.getsockname()
        client = stream(self, sock.family, protocol)
        client.connect(address[:2])
        client.send(b"x")
        # No port shall stay in TIME_WAIT.
        client.setsockopt(SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
        same = [each for each in sockets if each.getsockname() == address]
        ready, _, _ = select.select(same, [], [], 10)
        accepted, _ = ready[0].accept()
        self.addCleanup(accepted.close)
        return accepted

    def test_setAnew(self) -> None:
        """
        Options change on a bound socket, and what is not given is the host's again.
        """
        (sock,) = self.bind("tcp:0:interface=127.0.0.1:keepalive=77:defer=3")
        with socket.socket() as other:
            idle = other.getsockopt(IPPROTO_TCP, TCP_KEEPIDLE)
        for options, expected in (
            (PortOptions(nodelay=True, keepalive=99), (1, 1, 99, 0)),
            (PortOptions(keepalive=True), (0, 1, idle, 0)),
            (PortOptions(), (0, 0, idle, 0)),
        ):
            socket_options.setAnew(sock, options)
            found = (
                sock.getsockopt(IPPROTO_TCP, socket.TCP_NODELAY),
                sock.getsockopt(SOL_SOCKET, SO_KEEPALIVE),
                sock.getsockopt(IPPROTO_TCP, TCP_KEEPIDLE),
                sock.getsockopt(IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
            )
            self.assertEqual(tuple(map(int, found)), expected)
        socket_options.setAnew(sock, PortOptions(defer=3))
        self.assertTrue(sock.getsockopt(IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))
        self.assertTrue(sock.getsockopt(SOL_SOCKET, socket.SO_ACCEPTCONN))

    def assertBad(self, description: str, reason: str) -> None:
        """
        Expect that a port cannot be bound, and why.
        """
        error = self.assertRaises(CannotBind, self.bind, description)
        self.assertEqual(str(error), f"cannot listen on {description}: {reason}")

    def protocols(self) -> list[tuple[str, int]]:
        """
        TCP, and Multipath TCP if this host has it: what descriptions say for it, and
        what clients speak.
        """
        if not speaksMultipath():
            return [("", 0)]
        return [("", 0), (":mptcp=yes", IPPROTO_MPTCP), (":mptcp=yes", 0)]

    def assertInherited(
        self, options: str, expected: dict[tuple[int, int], int]
    ) -> None:
        """
        Expect that each socket of a port has certain options, and that the connections
        that are accepted on it have them as well.
        """
        for mptcp, protocol in self.protocols():
            for port in ("0", "0:reuseport=2", r"tcp6:0:interface=\:\:1"):
                sockets = self.bind(f"{port}{options}{mptcp}")
                accepted = self.accept(sockets, protocol)
                for (level, option), value in expected.items():
                    for each in (*sockets, accepted):
                        self.assertEqual(each.getsockopt(level, option), value)

    def test_nodelay(self) -> None:
        """
        Accepted connections send small writes at once.
        """
        option = (IPPROTO_TCP, socket.TCP_NODELAY)
        self.assertInherited(":nodelay=yes", {option: 1})
        self.assertInherited(":nodelay=no", {option: 0})
        self.assertInherited("", {option: 0})

    def test_keepalive(self) -> None:
        """
        Silent clients are probed, at the times of the host or others.
        """
        on = (SOL_SOCKET, SO_KEEPALIVE)
        times = [(IPPROTO_TCP, TCP_KEEPIDLE), (IPPROTO_TCP, TCP_KEEPINTVL)]
        with socket.socket() as sock:
            usual = {time: sock.getsockopt(*time) for time in times}
        self.assertInherited(":keepalive=yes", {on: 1, **usual})
        self.assertInherited(":keepalive=no", {on: 0, **usual})
        self.assertInherited(":keepalive=1", {on: 1, **dict.fromkeys(times, 1)})
        self.assertInherited(":keepalive=32767", {on: 1, **dict.fromkeys(times, 32767)})

    def test_defer(self) -> None:
        """
        The kernel keeps a connection until its client speaks.
        """
        for mptcp, protocol in self.protocols():
            [sock] = self.bind(f"tcp:0:interface=127.0.0.1:defer=7{mptcp}")
            self.assertEqual(sock.getsockopt(IPPROTO_TCP, socket.TCP_DEFER_ACCEPT), 7)
            client = stream(self, sock.family, protocol)
            client.connect(sock.getsockname())
            self.assertRaises(BlockingIOError, sock.accept)
            client.send(b"x")
            arrived(sock)
            sock.accept()[0].close()

    def test_mptcp(self) -> None:
        """
        Each client gets the protocol that it speaks.
        """
        if not speaksMultipath():
            raise SkipTest("this host has no Multipath TCP")
        for description in ("0:mptcp=yes", "0:mptcp=yes:reuseport=2"):
            sockets = self.bind(description)
            self.assertEqual({sock.proto for sock in sockets}, {IPPROTO_MPTCP})
            for protocol in (IPPROTO_MPTCP, IPPROTO_TCP):
                accepted = self.accept(sockets, protocol)
                self.assertEqual(
                    accepted.getsockopt(SOL_SOCKET, socket.SO_PROTOCOL), protocol
                )
        for sock in self.bind("0:mptcp=no"):
            self.assertEqual(
                sock.getsockopt(SOL_SOCKET, socket.SO_PROTOCOL), IPPROTO_TCP
            )

    def test_noMPTCP(self) -> None:
        """
        If the host has no Multipath TCP, the error says what is missing.
        """
        for number, reason in (
            (
                errno.ENOPROTOOPT,
                "Protocol not available; 'sysctl net.mptcp.enabled=1' switches"
                " Multipath TCP on",
            ),
            (
                errno.EPROTONOSUPPORT,
                "Protocol not supported; this kernel is without Multipath TCP",
            ),
        ):

            def fail(*arguments: Any, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            patched = self.patch(socket, "socket", fail)
            error = self.assertRaises(CannotBind, bind, parse("80:mptcp=yes", 7))
            patched.restore()
            self.assertEqual(
                str(error), f"cannot listen on port 80: mptcp=yes: {reason}"
            )

    def test_noDescriptor(self) -> None:
        """
        Another error is not blamed on Multipath TCP.
        """

        def fail(*arguments: Any) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket, "socket", fail)
        error = self.assertRaises(CannotBind, bind, parse("80:mptcp=yes", 7))
        self.assertEqual(str(error), "cannot listen on port 80: Too many open files")

    def test_freebind(self) -> None:
        """
        An address is bound that the host does not have.
        """
        for kind in ("tcp", "udp"):
            for family, host in FOREIGN.items():
                description = f"{kind}{family}:0:interface={host}"
                [sock] = self.bind(f"{description}:freebind=yes")
                self.assertEqual(sock.getsockname()[0], host.replace("\\", ""))
                error = self.assertRaises(CannotBind, self.bind, description)
                self.assertIn("freebind=yes binds one that it will have", str(error))
                error = self.assertRaises(
                    CannotBind, self.bind, f"{description}:freebind=no"
                )
                self.assertIn("Cannot assign requested address", str(error))
        if speaksMultipath():
            for family, host in FOREIGN.items():
                self.bind(f"tcp{family}:0:interface={host}:freebind=yes:mptcp=yes")
        self.bind(f"tcp:0:interface={FOREIGN['']}:freebind=yes:reuseport=2")

    def test_device(self) -> None:
        """
        A socket is bound to a network device, and so are its connections.
        """
        for mptcp, protocol in self.protocols():
            sockets = self.bind(f"0:device=lo{mptcp}")
            for each in (*sockets, self.accept(sockets, protocol)):
                name = each.getsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                self.assertEqual(name, b"lo\0")
        [sock] = self.bind("udp:0:device=lo")
        name = sock.getsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        self.assertEqual(name, b"lo\0")

    def test_noDevice(self) -> None:
        """
        If there is no such device, the error says how to see which there are.
        """
        for description in ("tcp:0:device=nonesuch", "udp6:0:device=nonesuch"):
            self.assertBad(
                description,
                "device=nonesuch: No such device; 'ip link' shows the devices of this"
                " host",
            )

    def test_kernelRefuses(self) -> None:
        """
        The error names the option, and its value as it is written.
        """

        def fail(*arguments: Any) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        for option, advice in (
            ("nodelay=yes", ""),
            ("freebind=no", ""),
            ("keepalive=30", ""),
            ("defer=3", ""),
            ("device=lo", "; before Linux 5.7 that takes CAP_NET_RAW"),
        ):
            patched = self.patch(socket.socket, "setsockopt", fail)
            self.assertBad(
                f"tcp:0:{option}", f"{option}: Operation not permitted{advice}"
            )
            patched.restore()

    def test_closed(self) -> None:
        """
        If an option cannot be set, the socket is closed, whatever was raised.
        """

        def fail(*arguments: Any) -> None:
            raise KeyboardInterrupt

        self.patch(socket.socket, "setsockopt", fail)
        self.assertRaises(
            KeyboardInterrupt,
            socket_options.openSocket,
            socket.AF_INET,
            socket.SOCK_STREAM,
            PortOptions(nodelay=True),
        )
