"""
Tests for L{portlisten._ports.parsing}.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from itertools import permutations

from twisted.internet import endpoints
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._config.port_options import PortOptions
from portlisten._config.ports import PortKind
from portlisten._ports import parsing
from portlisten._ports.parsing import parse
from portlisten.errors import BadDescription

HAPROXY = (
    "'haproxy:tcp:80' is not a plain port: use tcp, tcp6, unix or systemd, and leave"
    " TLS and the like to the worker"
)


class ParseTests(SynchronousTestCase):
    """
    Tests for L{parse}.
    """

    def assertBad(self, description: str, *reasons: str) -> None:
        """
        Expect that a description is refused in one line, and why.
        """
        error = self.assertRaises(BadDescription, parse, description, 5)
        for reason in reasons:
            self.assertIn(reason, str(error))
        self.assertEqual(len(str(error).splitlines()), 1)

    def test_number(self) -> None:
        """
        A number is a port.
        """
        for description in ("0", "80", "65535"):
            port = parse(description, 5)
            self.assertIs(port.kind, PortKind.NUMBER)
            self.assertEqual(str(port), f"port {description}")

    def test_noNumber(self) -> None:
        """
        Other numbers, and what only looks like one, are refused.
        """
        for description in ("65536", "-1", "", "http", "8 0", "1e3", "٨٠", "80\n"):
            self.assertBad(
                description, f"{description!r} is no port: give a number from 0 to"
            )

    def test_plain(self) -> None:
        """
        Endpoints whose ports are plain sockets are ports.
        """
        for description, kind in (
            ("tcp:80", PortKind.TCP),
            ("tcp6:80:interface=\\:\\:1", PortKind.TCP),
            ("unix:/run/x", PortKind.UNIX),
        ):
            port = parse(description, 5)
            self.assertIs(port.kind, kind)
            self.assertEqual(str(port), description)

    def test_named(self) -> None:
        """
        Any of them may have a name before it.
        """
        for name in ("http", "_", "0", "a.b-c_D", "x" * 63):
            for description, told in (
                ("80", "port 80"),
                ("tcp:80:interface=127.0.0.1", "tcp:80:interface=127.0.0.1"),
                ("unix:/run/a\\=b", "unix:/run/a\\=b"),
            ):
                port = parse(f"{name}={description}", 5)
                self.assertEqual((port.name, str(port)), (name, told))

    def test_badName(self) -> None:
        """
        What is no name is refused, and what would be needed is told.
        """
        for name in ("", ".a", "-a", "a b", "a/b", "x" * 64, "ü", "a\n", "٨"):
            self.assertBad(
                f"{name}=80",
                f"{name!r} is no name for a port: give up to 63",
                "such as http",
            )

    def test_badAfterName(self) -> None:
        """
        What follows the name has to be a port, and has no second name.
        """
        self.assertBad("http=", "'' is no port")
        self.assertBad("http=65536", "'65536' is no port")
        self.assertBad("http=https=80", "'https=80' is no port")
        self.assertBad("http=nonsense:80", "'nonsense:80' is no endpoint description")

    def test_noName(self) -> None:
        """
        An option of a description is no name of a port.
        """
        port = parse("tcp:80:interface=127.0.0.1", 5)
        self.assertIs(port.kind, PortKind.TCP)

    def test_malformed(self) -> None:
        """
        What Twisted does not understand is refused, with its own words.
        """
        self.assertBad("nonsense:80", "no endpoint", "Unknown endpoint type")
        self.assertBad("tcp:http", "no endpoint", "'http' is no number")
        self.assertBad("tcp:80:interfaces=x", "it has no option 'interfaces'")
        self.assertBad("tcp:interface=127.0.0.1", "'port' is missing")
        self.assertBad("tcp:80:1:2:3", "it has too many parts")
        self.assertBad("tcp:80:port=80", "it has two values for 'port'")
        self.assertBad("systemd:domain=INET:index=9", "not among", "LISTEN_FDS")

    def test_hints(self) -> None:
        """
        What can be guessed is told in the right form.
        """
        for description, meant in (
            ("tcp6:80:interface=::1", r"tcp6:80:interface=\:\:1"),
            ("tcp6:80:interface=[::1]:backlog=5", r"tcp6:80:interface=\:\:1:backlog=5"),
            ("http=tcp:80:interface=fe80::1%eth0", r"tcp:80:interface=fe80\:\:1%eth0"),
            ("127.0.0.1:80", "tcp:80:interface=127.0.0.1"),
            ("tcp:127.0.0.1:80", "tcp:80:interface=127.0.0.1"),
            ("localhost:80", "tcp:80:interface=localhost"),
            ("[::1]:80", r"tcp6:80:interface=\:\:1"),
            (":80", "80"),
            ("*:80", "80"),
            ("/run/www.sock", "unix:/run/www.sock"),
        ):
            how = "such as " if ":" not in description else "write it as '"
            self.assertBad(description, f"{how}{meant}")
            parse(meant, 5)
        error = self.assertRaises(BadDescription, parse, "udp:[::1]:53", 5, shared=True)
        self.assertIn(r": write it as 'udp6:53:interface=\:\:1'", str(error))
        for description in ("http", "tcp:http", "http:80", "tcp:80:interfaces=::1"):
            error = self.assertRaises(BadDescription, parse, description, 5)
            self.assertNotIn("write it as", str(error))

    def test_wordlessError(self) -> None:
        """
        An error without any words is told by its name, and one of many lines
        by its first.
        """
        for error, told in (
            (LookupError(), ": LookupError"),
            (LookupError("first\nsecond"), ": first"),
        ):

            def fail(*args: object, error: Exception = error) -> None:
                raise error

            self.patch(parsing, "serverFromString", fail)
            self.assertBad("tcp:80", told)

    def test_wrapper(self) -> None:
        """
        Endpoints that add something to their sockets are refused: that would
        silently be missing.
        """
        for description in ("haproxy:tcp:80", "stdio:"):
            self.assertBad(description, f"{description!r} is not a plain port")

    def test_tls(self) -> None:
        """
        So is TLS, where it is installed.
        """
        self.patch(
            parsing,
            "serverFromString",
            lambda reactor, description: endpoints.SSL4ServerEndpoint(
                reactor, 443, None
            ),
        )
        self.assertBad("ssl:443", "'ssl:443' is not a plain port", "leave TLS")

    def test_tlsMissing(self) -> None:
        """
        TLS is refused where it is not installed, too.
        """
        self.assertBad("ssl:443", "'ssl:443' is ")

    def test_unnamed(self) -> None:
        """
        systemd-socket-activate gives no names, and Twisted wants some.
        """
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        # The first that systemd passes is 3.
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        self.patch(_kernel, "initialEnvironment", environment.copy)
        for description in ("systemd:domain=INET:index=0", "systemd:index=0"):
            port = parse(description, 5)
            self.assertIs(port.kind, PortKind.INHERITED)
            self.assertEqual(port.descriptor, 3)
        for description in (
            "systemd:domain=INET:index=1",
            "systemd:domain=INET:name=x",
        ):
            self.assertRaises(BadDescription, parse, description, 5)
        environment["LISTEN_PID"] = "1"
        self.assertRaises(BadDescription, parse, "systemd:index=0", 5)


class OptionsTests(SynchronousTestCase):
    """
    Tests for L{parse}, for ports that have options of their sockets.
    """

    def assertBad(self, description: str, reason: str) -> None:
        """
        Expect that a description is refused, and why.
        """
        error = self.assertRaises(BadDescription, parse, description, 5, shared=True)
        self.assertEqual(str(error), reason)

    def test_anyOrder(self) -> None:
        """
        The options stand anywhere behind the first part, among the others.
        """
        meant = parse("tcp:80:interface=127.0.0.1:backlog=7", 5, shared=True)
        meant = replace(
            meant, name="a", options=PortOptions(reuseport=2, nodelay=True, device="lo")
        )
        parts = [
            "80",
            "interface=127.0.0.1",
            "backlog=7",
            "reuseport=2",
            "nodelay=yes",
            "device=lo",
        ]
        for order in permutations(parts):
            description = ":".join(["tcp", *order])
            settings = parse(f"a={description}", 5, shared=True)
            self.assertEqual(settings, replace(meant, description=description))

    def test_kinds(self) -> None:
        """
        A number, TCP and UDP may have them.
        """
        for description, options in (
            ("http=80:nodelay=yes", PortOptions(nodelay=True)),
            ("tcp6:80:keepalive=60:mptcp=no", PortOptions(keepalive=60, mptcp=False)),
            ("udp:53:freebind=yes", PortOptions(freebind=True)),
            ("udp6:53:device=eth0", PortOptions(device="eth0")),
        ):
            settings = parse(description, 5, shared=True)
            self.assertEqual(settings.options, options)
            self.assertEqual(settings.backlog, 0 if "udp" in description else 5)
            self.assertIn(settings.number, (53, 80))
        settings = parse("80:nodelay=yes", 5)
        self.assertEqual(str(settings), "port 80")

    def test_wrongPort(self) -> None:
        """
        If a port cannot have an option, the error says which can.
        """
        for description, reason in (
            ("unix:/run/www:nodelay=yes", "nodelay is for TCP ports only"),
            ("udp:53:defer=3", "defer is for TCP ports only"),
            ("unix:/run/www:device=lo", "device is for TCP and UDP ports only"),
        ):
            self.assertBad(description, f"{description!r}: {reason}")
        self.assertBad("haproxy:tcp:80:nodelay=yes", HAPROXY)

    def test_inherited(self) -> None:
        """
        A socket of systemd's has options in its unit.
        """
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        self.patch(_kernel, "initialEnvironment", environment.copy)
        description = "systemd:index=0:device=eth0"
        self.assertBad(
            f"http={description}",
            f"{description!r}: device is for ports that the listener binds: for a"
            " socket of systemd's, its socket unit has BindToDevice=",
        )

    def test_number(self) -> None:
        """
        If a number has other options, the error says which it may have, or how to write
        the description.
        """
        self.assertBad(
            "80:nodely=yes",
            "'80:nodely=yes' is no endpoint description: the options of a number are"
            " reuseport, nodelay, keepalive, defer, mptcp, freebind, device, balance,"
            " max-per-source, rate-per-source, max, rate, allow, deny, beyond, fair,"
            " source-prefix, source-prefix6, proxy-from",
        )
        for description, meant in (
            ("80:backlog=7", "tcp:80:backlog=7"),
            ("80:interface=127.0.0.1", "tcp:80:interface=127.0.0.1"),
            ("80:interface=::1", r"tcp:80:interface=\:\:1"),
        ):
            self.assertBad(
                f"{description}:nodelay=yes",
                f"{description!r} is no endpoint description: write it as '{meant}'",
            )
            parse(f"{meant}:nodelay=yes", 5)


class SharedParseTests(SynchronousTestCase):
    """
    Tests for L{parse}, for ports that are shared.
    """

    def kind(self, description: str) -> PortKind:
        """
        Parse a description.

        @return: what it is to be bound as.
        """
        return parse(description, 5, shared=True).kind

    def assertBad(self, description: str, *reasons: str) -> None:
        """
        Expect that a description is refused in one line, and why.
        """
        error = self.assertRaises(BadDescription, parse, description, 5, shared=True)
        for reason in reasons:
            self.assertIn(reason, str(error))
        self.assertEqual(len(str(error).splitlines()), 1)

    def test_asListened(self) -> None:
        """
        What can be listened on can be shared.
        """
        self.assertIs(self.kind("80"), PortKind.NUMBER)
        self.assertIs(self.kind("tcp:80"), PortKind.TCP)
        self.assertIs(self.kind("unix:/run/www"), PortKind.UNIX)
        self.assertBad("nonsense", "is no port")
        self.assertBad("ssl:443", "ssl")

    def test_name(self) -> None:
        """
        It may have a name.
        """
        port = parse("http=80", 5, shared=True)
        self.assertEqual((port.name, str(port)), ("http", "port 80"))
        port = parse("udp:53", 5, shared=True)
        self.assertEqual((port.name, str(port)), ("", "udp:53"))

    def test_udp(self) -> None:
        """
        UDP is understood as TCP is.
        """
        for description in (
            "udp:53",
            "dns=udp:53:interface=127.0.0.1",
            "udp6:53",
            r"udp6:53:interface=\:\:1",
            "udp:port=53",
        ):
            self.assertIs(self.kind(description), PortKind.UDP)

    def test_badUDP(self) -> None:
        """
        And what is none is refused.
        """
        self.assertBad("udp:65536", "'udp:65536' is no port", "65536")
        self.assertBad("udp:-1", "-1 is no port")
        self.assertBad("udp:nonsense", "'udp:nonsense' is no port")
        self.assertBad("udp:", "is no port")
        self.assertBad("udp:53:interfaces=x", "is no port")
        self.assertBad("udp:53:backlog=5", "has no backlog")
        self.assertBad("udp:53:reuseport=2", "reuseport is for TCP ports only")

    def test_reused(self) -> None:
        """
        TCP may have several sockets.
        """
        self.assertIs(self.kind("http=80:reuseport=4"), PortKind.NUMBER)
        self.assertIs(self.kind("tcp:80:reuseport=64"), PortKind.TCP)
        self.assertIs(self.kind("tcp:80:reuseport=1:backlog=7"), PortKind.TCP)
        self.assertIs(self.kind("tcp6:80:reuseport=2"), PortKind.TCP)

    def test_badReused(self) -> None:
        """
        Other ports may not, and not any number.
        """
        for count in ("0", "65", "", "x", "-1", "1e1", "1000"):
            self.assertBad(f"80:reuseport={count}", "from 1 to 64")
        self.assertBad("unix:/run/www:reuseport=2", "is for TCP ports only")
        self.assertBad("65536:reuseport=2", "'65536' is no port")
        self.assertBad("tcp:x:reuseport=2", "'x' is no number")
        self.assertBad("80:reuseport=2:reuseport=3", "twice")

    def test_notToListenOn(self) -> None:
        """
        These are for sharing alone.
        """
        for description, reason in [
            ("dns=udp:53", "has no connections to hand off: use --share"),
            ("udp6:53", "has no connections to hand off: use --share"),
            ("tcp:80:reuseport=2", "reuseport is for --share"),
        ]:
            error = self.assertRaises(BadDescription, parse, description, 5)
            self.assertIn(reason, str(error))
