"""
Tests for L{portlisten._as_port.mappings}.
"""

from __future__ import annotations

import itertools
import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten._as_port.mappings import (
    conflict,
    find,
    host,
    parse,
    parseAll,
    writePort,
)
from portlisten.errors import BadDescription


class ParseTests(SynchronousTestCase):
    """
    From text to a mapping.
    """

    def test_number(self) -> None:
        """
        A number alone is any address.
        """
        mapping = parse("6800=/run/api.sock")
        self.assertEqual((mapping.address, mapping.number), ("", 6800))
        self.assertEqual(mapping.settings.path, "/run/api.sock")
        self.assertEqual(mapping.port, "6800")

    def test_options(self) -> None:
        """
        What follows the path are the options of a description.
        """
        settings = parse(r"80=/run/a\:b.sock:name=http,api:grace=3:limit=7").settings
        self.assertEqual(settings.path, "/run/a:b.sock")
        self.assertEqual(settings.names, ("http", "api"))
        self.assertEqual((settings.grace, settings.limit), (3.0, 7))

    def test_wholeDescription(self) -> None:
        """
        A whole description may stand there as well.
        """
        self.assertEqual(parse("80=portlisten:/a:name=b"), parse("80=/a:name=b"))

    def test_address(self) -> None:
        """
        An address is written as the kernel writes it, and in brackets if it has colons.
        """
        for text, address, port in [
            ("127.0.0.1:80", "127.0.0.1", "127.0.0.1:80"),
            ("0.0.0.0:80", "0.0.0.0", "0.0.0.0:80"),
            ("[::1]:80", "::1", "[::1]:80"),
            ("[0:0::0001]:80", "::1", "[::1]:80"),
        ]:
            mapping = parse(f"{text}=/run/a")
            self.assertEqual((mapping.address, mapping.number), (address, 80))
            self.assertEqual(mapping.port, port)

    def test_refused(self) -> None:
        """
        Each mistake has a reason that says what would be right.
        """
        for text, reason in [
            ("80", "'80' is no mapping, as in 80=/run"),
            ("=/run/a", "'' is no port, which is a number from 1 to 65535"),
            ("0=/run/a", "'0' is no port"),
            ("65536=/run/a", "'65536' is no port"),
            ("http=/run/a", "'http' is no port"),
            ("٣=/run/a", "'٣' is no port"),
            ("-1=/run/a", "'-1' is no port"),
            ("127.0.0.1:=/run/a", "'127.0.0.1:' is no port"),
            (":80=/run/a", "':80' has '' where an IP address is expected"),
            ("localhost:80=/run/a", "has 'localhost' where an IP address"),
            ("::1:80=/run/a", "without brackets: write [::1]:80"),
            ("80=", "'80=': a description has one path"),
            ("80=/run/a:b", "a description has one path"),
            ("80=/run/a:nome=b", "has no option 'nome'"),
            ("80=/run/a:grace=-1", "grace: '-1' is not a number"),
        ]:
            error = self.assertRaises(BadDescription, parse, text)
            self.assertIn(reason, str(error))
            self.assertEqual(len(str(error).splitlines()), 1)

    def test_twice(self) -> None:
        """
        A port has one mapping.
        """
        self.assertEqual(len(parseAll(["80=/a", "81=/a", "127.0.0.1:80=/a"])), 3)
        for pair in [["80=/a", "080=/b"], ["[::1]:80=/a", "[0::1]:80=/b"]]:
            error = self.assertRaises(BadDescription, parseAll, pair)
            self.assertIn("two mappings are of port", str(error))


class FindTests(SynchronousTestCase):
    """
    From a port to its mapping.
    """

    def test_addressFirst(self) -> None:
        """
        A mapping with the port's address comes before one with the number alone.
        """
        number, address, six = parseAll(["80=/a", "127.0.0.1:80=/b", "[::1]:80=/c"])
        for mappings in itertools.permutations([number, address, six]):
            self.assertIs(find(mappings, "127.0.0.1", 80), address)
            self.assertIs(find(mappings, host("0::1"), 80), six)
            self.assertIs(find(mappings, host(""), 80), number)
            self.assertIs(find(mappings, "192.0.2.1", 80), number)
            self.assertIsNone(find(mappings, "127.0.0.1", 81))

    def test_exactly(self) -> None:
        """
        A mapping with an address is of no other address.
        """
        mappings = parseAll(["127.0.0.1:80=/b"])
        self.assertIsNone(find(mappings, host(""), 80))
        self.assertIsNone(find(parseAll(["0.0.0.0:80=/b"]), "127.0.0.1", 80))

    def test_host(self) -> None:
        """
        No interface is every address, and a name stays a name.
        """
        self.assertEqual(host(""), "0.0.0.0")
        self.assertEqual(host("0:0::1"), "::1")
        self.assertEqual(host("localhost"), "localhost")

    def test_writePort(self) -> None:
        """
        Brackets keep the colons of an address apart.
        """
        self.assertEqual(writePort("::", 80), "[::]:80")
        self.assertEqual(writePort("127.0.0.1", 80), "127.0.0.1:80")


class ConflictTests(SynchronousTestCase):
    """
    Which sockets the kernel lets listen on one number.
    """

    def bound(self, address: str, number: int = 0) -> socket.socket:
        """
        Listen as Twisted does.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.addCleanup(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, number))
        sock.listen()
        return sock

    def test_asTheKernel(self) -> None:
        """
        Each pair of addresses conflicts if, and only if, it does in the kernel.
        """
        addresses = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"]
        for one, other in itertools.product(addresses, addresses):
            # Another process may use the number on the other address.
            refused = all(self.refuses(one, other) for _ in range(5))
            self.assertIs(conflict(one, other), refused, f"{one} and {other}")

    def refuses(self, one: str, other: str) -> bool:
        """
        Whether an address cannot be bound while another one is.
        """
        with self.bound(one) as first:
            try:
                self.bound(other, first.getsockname()[1]).close()
            except OSError:
                return True
        return False
