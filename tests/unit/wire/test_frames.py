"""
Tests for L{portlisten._wire.frames}: which ports a worker gets, and what they are
called.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import (
    InternetAddress,
    Kind,
    Port,
    UnixAddress,
    describe,
    socketName,
)
from portlisten._wire.frames import MAXIMUM_REASON, ListenerHello, WorkerHello
from portlisten.errors import (
    UnknownName,
    WrongKind,
)
from tests.support.frames import PORTS

STREAMS_TAKEN = {Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP}


class WantedTests(SynchronousTestCase):
    """
    Tests for L{ListenerHello.wanted}.
    """

    hello = ListenerHello(
        8,
        tuple(
            Port(number, UnixAddress(b"/s"), name)
            for number, name in enumerate(["http", "", "http", "https"])
        ),
    )

    def wanted(self, *names: str) -> list[int]:
        """
        The numbers of the ports that a worker gets if it asks for these names.
        """
        return [port.number for port in self.hello.wanted(WorkerHello(1, names))]

    def test_all(self) -> None:
        """
        A worker that asks for no names gets all ports, even those without a name.
        """
        self.assertEqual(self.wanted(), [0, 1, 2, 3])
        self.assertEqual(ListenerHello(8).wanted(WorkerHello(1)), ())

    def test_some(self) -> None:
        """
        A worker that asks for a name gets all ports of that name.
        """
        self.assertEqual(self.wanted("http"), [0, 2])
        self.assertEqual(self.wanted("https"), [3])
        self.assertEqual(self.wanted("https", "http"), [0, 2, 3])

    def test_unknown(self) -> None:
        """
        A worker that asks for an unknown name is told the known names.
        """
        for names in (("smtp",), ("http", "smtp")):
            error = self.assertRaises(
                UnknownName, self.hello.wanted, WorkerHello(1, names)
            )
            self.assertEqual(
                str(error), "no port is called 'smtp' here, only http, https"
            )

    def test_none(self) -> None:
        """
        If no port has a name, the worker is told that.
        """
        error = self.assertRaises(
            UnknownName, ListenerHello(8).wanted, WorkerHello(1, ("http",))
        )
        self.assertEqual(str(error), "no port is called 'http' here; none has a name")


class WantedKindTests(SynchronousTestCase):
    """
    Tests for L{ListenerHello.wanted} where ports are shared.
    """

    hello = ListenerHello(
        8,
        (
            Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
            Port(1, InternetAddress("TCP", "192.0.2.1", 81), "web", Kind.LISTENER),
            Port(2, InternetAddress("TCP", "192.0.2.1", 82), "group", Kind.GROUP),
            Port(3, InternetAddress("UDP", "192.0.2.1", 53), "dns", Kind.DATAGRAMS),
            Port(4, InternetAddress("TCP", "192.0.2.1", 53), "dns", Kind.LISTENER),
            Port(5, InternetAddress("UDP", "192.0.2.1", 123), "ntp", Kind.DATAGRAMS),
        ),
    )

    def wanted(self, takes: Collection[Kind], *names: str) -> list[int]:
        """
        The numbers of the ports that one gets who takes this.
        """
        hello = WorkerHello(1, names, frozenset(takes))
        return [port.number for port in self.hello.wanted(hello)]

    def assertWrong(self, takes: Collection[Kind], name: str, reason: str) -> None:
        """
        Expect that one who takes this cannot have that.
        """
        error = self.assertRaises(WrongKind, self.wanted, takes, name)
        self.assertIn(f"{name}=", str(error))
        self.assertIn(reason, str(error))

    def test_stream(self) -> None:
        """
        A worker for streams gets all but UDP, and of a name that is both its part.
        """
        self.assertEqual(self.wanted(STREAMS_TAKEN), [0, 1, 2, 4])
        self.assertEqual(self.wanted(STREAMS_TAKEN, "dns"), [4])
        self.assertWrong(STREAMS_TAKEN, "ntp", "PortlistenUDPEndpoint")

    def test_datagrams(self) -> None:
        """
        A worker for UDP gets the UDP ports.
        """
        self.assertEqual(self.wanted({Kind.DATAGRAMS}), [3, 5])
        self.assertEqual(self.wanted({Kind.DATAGRAMS}, "dns"), [3])
        for name in ("http", "web", "group"):
            self.assertWrong({Kind.DATAGRAMS}, name, "is no UDP port")

    def test_program(self) -> None:
        """
        A program that knows nothing of channels gets sockets that stay.
        """
        takes = {Kind.LISTENER, Kind.DATAGRAMS}
        self.assertEqual(self.wanted(takes), [1, 3, 4, 5])
        self.assertEqual(self.wanted(takes, "dns"), [3, 4])
        self.assertWrong(takes, "http", "start the listener with --share")
        self.assertWrong(takes, "group", "reuseport")

    def test_older(self) -> None:
        """
        A worker of before there was sharing gets what it asks for, but nothing
        that is shared; and if it asks for everything, it is told what it would
        miss.
        """
        takes = {Kind.CONNECTIONS}
        self.assertEqual(self.wanted(takes, "http"), [0])
        for name in ("web", "group"):
            self.assertWrong(takes, name, "too old")
        error = self.assertRaises(WrongKind, self.wanted, takes)
        self.assertIn("web=tcp:192.0.2.1:81 is shared", str(error))
        self.assertLess(len(str(error)), MAXIMUM_REASON)

    def test_later(self) -> None:
        """
        A port of a later kind is left out, and who asks for it is told.
        """
        later = Port(0, InternetAddress("TCP", "192.0.2.1", 80), "new", Kind.UNKNOWN)
        hello = ListenerHello(8, (later, Port(1, UnixAddress(b"/s"), "web")))
        self.assertEqual(hello.wanted(WorkerHello(1)), hello.ports[1:])
        error = self.assertRaises(WrongKind, hello.wanted, WorkerHello(1, ("new",)))
        self.assertIn("too old to know", str(error))

    def test_nothing(self) -> None:
        """
        A worker that can take no port is told so.
        """
        hello = ListenerHello(8, self.hello.ports[5:])
        error = self.assertRaises(WrongKind, hello.wanted, WorkerHello(1))
        self.assertIn("ntp=udp:192.0.2.1:123 is a UDP port", str(error))


class DescribeTests(SynchronousTestCase):
    """
    Tests for L{describe}.
    """

    def test_describe(self) -> None:
        """
        Addresses read as endpoint descriptions do.
        """
        self.assertEqual(
            [describe(port.address) for port in PORTS],
            [
                "tcp:192.0.2.1:80",
                "tcp6:[2001:db8::1]:443",
                "tcp6:[fe80::1]:8080",
                "unix:/run/web.sock",
                "unix:",
            ],
        )
        self.assertEqual(
            [
                describe(InternetAddress("UDP", "192.0.2.1", 53), "dns"),
                describe(InternetAddress("UDP", "2001:db8::1", 53)),
            ],
            ["dns=udp:192.0.2.1:53", "udp6:[2001:db8::1]:53"],
        )

    def test_unix(self) -> None:
        """
        An abstract name is told from a path, and no name can break a line.
        """
        for name, told in (
            (b"/run/www", "unix:/run/www"),
            (b"\0www", "unix:@www"),
            (b"\0a\0b\n\xff", "unix:@a\\x00b\\n\\xff"),
            (b"", "unix:"),
        ):
            self.assertEqual(describe(UnixAddress(name)), told)
        self.assertEqual(socketName("/run/b\udcff"), "/run/b\\xff")

    def test_hash(self) -> None:
        """
        A port can be a key of a dictionary, with any address.
        """
        path = self.mktemp().encode()
        for name in (path, b"\0www", b""):
            port = Port(0, UnixAddress(name))
            found = {port: "found"}
            with open(path, "w"):
                pass
            self.assertEqual(found[Port(0, UnixAddress(name))], "found")
