"""
Tests for L{portlisten._wire.proxy_header}.

C{PORTLISTEN_FUZZ} says how many damaged headers are tried.
"""

from __future__ import annotations

import random
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._wire.proxy_header import (
    MAXIMUM_BYTES,
    Header,
    ProxyHeader,
    parseHeader,
    sourceOf,
)
from tests.support.streams import COUNT, SEED, extreme, flipBits, insert, remove

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

IPV4 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
IPV6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n"
WORST = b"PROXY UNKNOWN " + b"%s %s 65535 65535\r\n" % ((b":".join([b"ffff"] * 8),) * 2)


def binary(
    rest: bytes, command: int = 0x21, kind: int = 0x11, length: int | None = None
) -> bytes:
    """
    Make a header of version 2.
    """
    size = len(rest) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, kind, size) + rest


def addresses(source: str, destination: str) -> bytes:
    """
    Make the addresses of version 2.
    """
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = [socket.inet_pton(family, each) for each in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", 56324, 443)


BINARY4 = binary(addresses("192.0.2.1", "198.51.100.7"))
BINARY6 = binary(addresses("2001:db8::1", "2001:db8::2"), kind=0x21)

ports = st.integers(0, 65535)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int, str]:
    """
    Make a valid header.

    @return: it, how many of its bytes tell the source, and the source.
    """
    version, family = draw(st.sampled_from([(4, IPv4Address), (6, IPv6Address)]))
    system, bits = (socket.AF_INET, 32) if version == 4 else (socket.AF_INET6, 128)
    numbers = st.integers(0, 2**bits - 1)
    source, destination = family(draw(numbers)), str(family(draw(numbers)))
    packed = int(source).to_bytes(bits // 8, "big")
    expected = socket.inet_ntop(system, packed)
    if draw(st.booleans()):
        text = draw(st.sampled_from([str(source), source.exploded, expected]))
        line = f"PROXY TCP{version} {text} {destination} {draw(ports)} 0\r\n"
        return line.encode(), len(line), expected
    rest = addresses(expected, destination)
    kind = (0x10 if version == 4 else 0x20) + draw(st.sampled_from([1, 2]))
    data = binary(rest + draw(st.binary(max_size=300)), kind=kind)
    return data, 16 + len(rest), expected


class ParseTests(SynchronousTestCase):
    """
    Tests for L{parseHeader}.
    """

    def test_client(self) -> None:
        """
        The client's host and port are found, and the length of the header, of which
        the end need not have come.
        """
        more = binary(addresses("192.0.2.1", "198.51.100.7") + b"x" * 700)
        for data, client in [
            (IPV4, ("192.0.2.1", 56324)),
            (IPV6, ("2001:db8::1", 65535)),
            (BINARY4, ("192.0.2.1", 56324)),
            (BINARY6, ("2001:db8::1", 56324)),
            (more, ("192.0.2.1", 56324)),
            (WORST, None),
            (b"PROXY UNKNOWN\r\n", None),
            (binary(b"x" * 300, 0x20, 0), None),
            (binary(b"x" * 9, 0x21, 0x00), None),
            (binary(b"x" * 216, 0x21, 0x31), None),
        ]:
            expected = ProxyHeader(len(data), client)
            self.assertEqual(parseHeader(data), expected)
            self.assertEqual(parseHeader(data + b"GET / HTTP/1.1"), expected)
        self.assertEqual(parseHeader(more[:28]), parseHeader(more))

    @given(headers())
    def test_agrees(self, header: tuple[bytes, int, str]) -> None:
        """
        The client's host is the source.
        """
        data, enough, expected = header
        found = parseHeader(data)
        assert isinstance(found, ProxyHeader)
        assert found.client is not None
        self.assertEqual((found.size, found.client[0]), (len(data), expected))
        self.assertIs(parseHeader(data[: enough - 1]), Header.INCOMPLETE)


class SourceTests(SynchronousTestCase):
    """
    Tests for L{sourceOf}.
    """

    @given(headers(), st.binary(max_size=50))
    def test_source(self, header: tuple[bytes, int, str], more: bytes) -> None:
        """
        As long as the addresses are not complete, more must come.  From then on, the
        source is known, whatever comes behind it.
        """
        data, enough, expected = header
        for size in range(enough):
            self.assertIs(sourceOf(data[:size]), Header.INCOMPLETE)
        for size in range(enough, len(data) + 1):
            self.assertEqual(sourceOf(data[:size]), expected)
        self.assertEqual(sourceOf(data + more), expected)
        self.assertEqual(sourceOf((data + more)[:MAXIMUM_BYTES]), expected)

    @given(st.binary() | st.binary().map(SIGNATURE.__add__))
    def test_any(self, data: bytes) -> None:
        """
        Whatever comes, there is an answer.
        """
        self.check(data)

    def check(self, data: bytes) -> Header | str:
        """
        Check that what is found does not change any more when more comes, that
        L{MAXIMUM_BYTES} are enough, and that an address is one.

        @return: the answer for all bytes.
        """
        final = sourceOf(data)
        found = sourceOf(data[:MAXIMUM_BYTES])
        self.assertEqual(final, found, data)
        if len(data) >= MAXIMUM_BYTES:
            self.assertIsNot(found, Header.INCOMPLETE, data)
        for size in range(min(len(data), MAXIMUM_BYTES)):
            before = sourceOf(data[:size])
            if before is not Header.INCOMPLETE:
                self.assertEqual(before, final, data)
                break
        if isinstance(final, str):
            ip_address(final)
        return final

    def test_damaged(self) -> None:
        """
        So it is for damaged headers.  Many are wrong, and many are not.
        """
        source = random.Random(SEED)
        valid = [IPV4, IPV6, WORST, BINARY4, BINARY6, binary(b"", 0x20, 0)]
        damages = [flipBits, remove, insert, extreme]
        found: list[Header | str] = []
        for number in range(COUNT // 10):
            data = bytearray(valid[number % len(valid)] + b"GET / HTTP/1.1\r\n")
            source.choice(damages)(data, source)
            found.append(self.check(bytes(data)))
        for each in (Header.WRONG, Header.OWN):
            self.assertGreater(found.count(each), len(found) // 10)

    def test_longest(self) -> None:
        """
        The longest line of version 1 is read, and no longer one.
        """
        self.assertEqual(len(WORST), MAXIMUM_BYTES)
        self.assertIs(sourceOf(WORST), Header.OWN)
        self.assertIs(sourceOf(WORST[:-1]), Header.INCOMPLETE)
        longer = WORST.replace(b"65535\r", b"655350\r")
        self.assertIs(sourceOf(longer[:MAXIMUM_BYTES]), Header.WRONG)
        self.assertIs(sourceOf(longer), Header.WRONG)

    def test_own(self) -> None:
        """
        A proxy may leave it to the connection to say where it comes from: if it checks
        the server's health, if it does not know the client's address, or if that
        address is of another kind.
        """
        for data in (
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN what ever \n comes\r\n",
            binary(b"", 0x20, 0),
            binary(b"", 0x20, 0xFF),
            binary(b"x", 0x20, 0x11, length=65535),
            binary(b"", 0x21, 0),
            binary(b"", 0x21, 0x10),
            binary(b"", 0x21, 0x01, length=3),
            binary(b"", 0x21, 0x31, length=216),
        ):
            self.assertIs(sourceOf(data), Header.OWN, data)

    def test_mapped(self) -> None:
        """
        A proxy may write an address of IPv4 as one of IPv6.
        """
        line = b"PROXY TCP6 ::FFFF:192.0.2.1 ::ffff:c000:202 1 2\r\n"
        self.assertEqual(sourceOf(line), "::ffff:192.0.2.1")
        rest = addresses("::ffff:192.0.2.1", "::ffff:192.0.2.2")
        self.assertEqual(sourceOf(binary(rest, kind=0x21)), "::ffff:192.0.2.1")

    def test_wrongLine(self) -> None:
        """
        A line that is not as the specification says it is no header.
        """
        for line in (
            b"GET / HTTP/1.1\r\n",
            b"proxy TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
            b"PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
            b"PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n",
            b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 nobody 1 2\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 2001:db8::1::2 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1 \r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n\r\n",
            b"PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.\u0661 198.51.100.7 1 2\r\n".encode(),
            b"PROXY TCP4 \r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY UNKNOWN\rx",
        ):
            self.assertIs(sourceOf(line), Header.WRONG, line)

    def test_early(self) -> None:
        """
        What cannot become a header is known to be wrong at its first wrong byte.
        """
        for data in (
            b"G",
            b"PROXX",
            b"PROXY TCP5",
            b"\r\n\r\n\1",
            SIGNATURE[:-1] + b"\r",
        ):
            self.assertIs(sourceOf(data[:-1]), Header.INCOMPLETE)
            self.assertIs(sourceOf(data), Header.WRONG)

    def test_wrongBinary(self) -> None:
        """
        A header of version 2 has a known version, command, family and transport, and
        room for its addresses.
        """
        rest = addresses("192.0.2.1", "198.51.100.7")
        for data in (
            binary(rest, 0x11),
            binary(rest, 0x31),
            binary(rest, 0x22),
            binary(rest, 0x2F),
            binary(rest, kind=0x41),
            binary(rest, kind=0xF1),
            binary(rest, kind=0x13),
            binary(rest, kind=0x1F),
            binary(rest, length=11),
            binary(rest, kind=0x21, length=35),
            binary(rest, kind=0x31, length=215),
        ):
            self.assertIs(sourceOf(data), Header.WRONG, data)
