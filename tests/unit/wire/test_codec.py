"""
Tests for L{portlisten._wire.codec}.
"""

from __future__ import annotations

import re
import struct
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import (
    InternetAddress,
    Kind,
    Port,
)
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    Vocabulary,
    encode,
    encodeOffer,
)
from portlisten._wire.frames import (
    MAXIMUM_IDS,
    MAXIMUM_PAYLOAD,
    MAXIMUM_REASON,
    MAXIMUM_WINDOW,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Given,
    Leave,
    Listener,
    ListenerHello,
    Loads,
    Offer,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
    WorkerHello,
)
from portlisten.errors import (
    MalformedFrame,
    OversizedFrame,
    ProtocolError,
    UnknownFrame,
    UnknownName,
    VersionMismatch,
    WrongKind,
)
from tests.support.frames import PORTS, hello, raw
from tests.support.golden import GOLDEN

PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"

LISTENER_FRAMES: list[Frame] = [
    ListenerHello(16, PORTS),
    Offer(1, 0, 10775),
    Offer(0xFFFFFFFF, 65535, 0xFFFFFFFFFFFFFFFF),
    Listener(1, 10776),
    Withdraw(0xFFFFFFFFFFFFFFFF),
    Leave(),
    Loads(1023, 65536, 1, 0xFFFFFFFFFFFFFFFF),
    Drained(),
    Revoked(),
    Bye("the listener stops"),
]

WORKER_FRAMES: list[Frame] = [
    WorkerHello(8, ("http", "a.b-c_9")),
    Claim((1,)),
    Claim((4294967295, 2, 3)),
    Refuse(MISSING_DESCRIPTOR, (4, 5)),
    Refuse(65535, (6,)),
    Closed((1, 2)),
    ClientGone((3,)),
    Serving(7),
    Given((4, 5)),
    Drain(),
    Bye(""),
    Bye("grüße"),
]

STREAMS: list[tuple[Vocabulary, list[Frame]]] = [
    (FROM_LISTENER, LISTENER_FRAMES),
    (FROM_WORKER, WORKER_FRAMES),
]

#: A port in a HELLO, and what it is if it has no name.
PORT = bytes.fromhex("0000 00 07 04 c0000201 0050")
UNNAMED = Port(0, InternetAddress("TCP", "192.0.2.1", 80))

LISTENER_HELLO = encode(ListenerHello(16))

WORKER_HELLO = encode(WorkerHello(8))


def vocabularyOf(frame: Frame) -> tuple[Vocabulary, bytes]:
    """
    Find out who says a frame, and what has to be said before it.
    """
    vocabulary, begin = (
        (FROM_LISTENER, LISTENER_HELLO)
        if frame.TYPE in FROM_LISTENER
        else (FROM_WORKER, WORKER_HELLO)
    )
    return vocabulary, b"" if begin[0] == frame.TYPE else begin


def sessions() -> list[dict[str, bytes]]:
    """
    Read the examples in hexadecimal in the documentation: a session, and the
    frames that it has no use for.

    @return: what the listener (C{L}) and the worker (C{W}) write in each.
    """
    text = PROTOCOL.read_text("utf-8").partition("## A session in hexadecimal")[2]
    found = []
    for block in text.partition("\n## ")[0].split("```")[1::2]:
        written = {"L": b"", "W": b""}
        speaker = ""
        for line in block.splitlines():
            match = re.match(r" +((?:[0-9a-f]{2}(?:\s+|$))+)", line)
            if match:
                written[speaker] += bytes.fromhex(match[1])
            elif line[:1] in written:
                speaker = line[:1]
        found.append(written)
    return found


class EncodeTests(SynchronousTestCase):
    """
    Tests for L{encode}.
    """

    def test_golden(self) -> None:
        """
        Each frame is the bytes that the documentation says.
        """
        for frame, golden in GOLDEN:
            self.assertEqual(encode(frame).hex(), bytes.fromhex(golden).hex(), frame)

    def test_goldenIsComplete(self) -> None:
        """
        Every type of frame is among those whose bytes are pinned.
        """
        self.assertEqual(
            {frame.TYPE for frame, _ in GOLDEN}, FROM_LISTENER.keys() | FROM_WORKER
        )

    def test_offer(self) -> None:
        """
        An offer can be encoded without one being made.
        """
        for offer in (Offer(1, 2, 3), Offer(2**32 - 1, 2**16 - 1, 2**64 - 1)):
            self.assertEqual(
                encodeOffer(offer.id, offer.port, offer.cookie), encode(offer)
            )

    def test_values(self) -> None:
        """
        Frames are values, and do not change.  OFFER, which nobody changes, could.
        """
        for frame in [each for each, _ in GOLDEN if not isinstance(each, Offer)]:
            name = next((each.name for each in fields(frame)), "reason")
            self.assertRaises(FrozenInstanceError, setattr, frame, name, 1)

    def test_documentedSession(self) -> None:
        """
        The session in the documentation is what these frames are encoded to.
        """
        listener: list[Frame] = [
            ListenerHello(
                16,
                (
                    Port(0, InternetAddress("TCP", "0.0.0.0", 80), "http"),
                    Port(1, InternetAddress("TCP", "::", 80), "http"),
                    Port(2, InternetAddress("TCP", "127.0.0.1", 81)),
                ),
                honoursLimit=True,
                honoursFirst=True,
                frames=frozenset([Serving.TYPE]),
                claimTimeout=5000,
            ),
            Offer(1, 0, 10775),
            Leave(),
            Drained(),
        ]
        worker: list[Frame] = [
            WorkerHello(
                8,
                ("http",),
                limit=100,
                frames=frozenset([Leave.TYPE]),
                label="web-1",
                first=2000,
            ),
            Serving(0),
            Claim((1,)),
            Closed((1,)),
            Drain(),
            Bye("the worker stops"),
        ]
        written = sessions()[0]
        self.assertEqual(b"".join(map(encode, listener)).hex(), written["L"].hex())
        self.assertEqual(b"".join(map(encode, worker)).hex(), written["W"].hex())

    def test_documentedRest(self) -> None:
        """
        The other examples in the documentation are whole frames as well.
        """
        rest = sessions()[1]
        for data, vocabulary, begin in [
            (rest["L"], FROM_LISTENER, LISTENER_HELLO),
            (rest["W"], FROM_WORKER, WORKER_HELLO),
        ]:
            frames = list(Decoder(vocabulary).feed(begin + data))
            self.assertGreater(len(frames), 1)
            self.assertEqual(b"".join(map(encode, frames)), begin + data)

    def test_largest(self) -> None:
        """
        As many ids as the documentation allows fit in a frame.
        """
        ids = tuple(range(MAXIMUM_IDS))
        self.assertEqual(len(encode(Claim(ids))), 4 + MAXIMUM_PAYLOAD)
        self.assertEqual(len(encode(Refuse(1, ids[1:]))), 4 + MAXIMUM_PAYLOAD)
        self.assertEqual(MAXIMUM_IDS, 4096)

    def test_tooLarge(self) -> None:
        """
        One id more is an error, and never bytes that the other side takes for
        malformed ones.
        """
        ids = tuple(range(MAXIMUM_IDS + 1))
        for frame in (Claim(ids), Closed(ids), ClientGone(ids), Refuse(1, ids[1:])):
            error = self.assertRaises(ValueError, encode, frame)
            self.assertIn(f"{type(frame).__name__} of 16388 bytes", str(error))

    def test_longReason(self) -> None:
        """
        A reason is cut where the other side would not take more of it.
        """
        self.assertEqual(encode(Bye("é" * 200)), raw(11, ("é" * 200).encode()[:255]))

    def test_oddReason(self) -> None:
        """
        A reason with an undecodable byte of some path in it is encoded all the
        same.
        """
        self.assertEqual(encode(Bye("no /\udcff")), raw(11, b"no /?"))

    def test_zoneOfAddress(self) -> None:
        """
        The zone in the text of an IPv6 address is left out: the scope says it.
        """
        plain, zoned = (
            ListenerHello(1, (Port(0, InternetAddress("TCP", host, 80, scope=2)),))
            for host in ("fe80::1", "fe80::1%eth0")
        )
        self.assertEqual(encode(zoned), encode(plain))


class DecoderTests(SynchronousTestCase):
    """
    Tests for L{Decoder} and what is well-formed.
    """

    def test_golden(self) -> None:
        """
        The bytes that the documentation describes are the frames that it says.
        """
        for frame, golden in GOLDEN:
            vocabulary, begin = vocabularyOf(frame)
            decoder = Decoder(vocabulary)
            frames = list(decoder.feed(begin + bytes.fromhex(golden)))
            self.assertEqual(frames[-1], frame)

    def test_roundTrip(self) -> None:
        """
        Encoded frames are decoded to the same frames, in the same order.
        """
        for vocabulary, frames in STREAMS:
            data = b"".join(map(encode, frames))
            self.assertEqual(list(Decoder(vocabulary).feed(data)), frames)

    def test_everyFrame(self) -> None:
        """
        Every type of frame makes the round trip.
        """
        for vocabulary, frames in STREAMS:
            self.assertEqual({frame.TYPE for frame in frames}, set(vocabulary))

    def test_split(self) -> None:
        """
        It makes no difference where a stream is split in two.
        """
        for vocabulary, frames in STREAMS:
            data = b"".join(map(encode, frames))
            for at in range(len(data) + 1):
                decoder = Decoder(vocabulary)
                begin = list(decoder.feed(data[:at]))
                self.assertEqual(begin + list(decoder.feed(data[at:])), frames, at)

    def test_byteByByte(self) -> None:
        """
        Each frame is given with its last byte, and not before.
        """
        for vocabulary, frames in STREAMS:
            decoder = Decoder(vocabulary)
            for frame in frames:
                *begin, last = encode(frame)
                for byte in begin:
                    self.assertEqual(list(decoder.feed(bytes([byte]))), [])
                self.assertEqual(list(decoder.feed(bytes([last]))), [frame])

    def test_nothing(self) -> None:
        """
        No bytes are no frames.
        """
        self.assertEqual(list(Decoder(FROM_WORKER).feed(b"")), [])

    def test_abandoned(self) -> None:
        """
        Frames that were not asked for come with the next bytes.
        """
        decoder = Decoder(FROM_WORKER)
        frames = decoder.feed(WORKER_HELLO + encode(Claim((1,))) + b"\x07")
        self.assertEqual(next(frames), WorkerHello(8))
        frames.close()  # type: ignore[attr-defined]
        rest = encode(Closed((1,)))[1:]
        self.assertEqual(list(decoder.feed(rest)), [Claim((1,)), Closed((1,))])

    def test_largest(self) -> None:
        """
        A frame may have the largest payload that is allowed.
        """
        frames: list[Frame] = [WorkerHello(8), Claim(tuple(range(MAXIMUM_IDS)))]
        data = b"".join(map(encode, frames))
        self.assertEqual(list(Decoder(FROM_WORKER).feed(data)), frames)

    def test_windows(self) -> None:
        """
        A window may be of 1 to 128 offers.
        """
        for window in (1, MAXIMUM_WINDOW):
            decoder = Decoder(FROM_WORKER)
            frames = list(decoder.feed(raw(2, hello(window=window))))
            self.assertEqual(frames, [WorkerHello(window)])
        self.assertEqual(MAXIMUM_WINDOW, 128)

    def test_zeroFields(self) -> None:
        """
        Fields and flags that are zero today are not looked at.
        """
        cases: list[tuple[Vocabulary, str, Frame]] = [
            (
                FROM_LISTENER,
                "01 ff 001b 706f72746c73746e 0001 0010 0001 fffe"
                "0000 00 07 04 c0000201 0050",
                ListenerHello(16, (UNNAMED,)),
            ),
            (
                FROM_WORKER,
                "02 ff 0010 706f72746c73746e 0001 0008 0000 0001",
                WorkerHello(8),
            ),
        ]
        for vocabulary, data, frame in cases:
            decoder = Decoder(vocabulary)
            self.assertEqual(list(decoder.feed(bytes.fromhex(data))), [frame])
        offer = bytes.fromhex("03 ff 0010 00000001 0002 0000 0000000000000003")
        frames = Decoder(FROM_LISTENER).feed(LISTENER_HELLO + offer)
        self.assertEqual(list(frames)[1:], [Offer(1, 2, 3)])

    def test_waited(self) -> None:
        """
        An offer to the next listener says how long the connection has waited.
        """
        offer = Offer(1, 2, 3, 65535)
        frames = Decoder(FROM_LISTENER).feed(LISTENER_HELLO + encode(offer))
        self.assertEqual(list(frames)[1:], [offer])
        self.assertEqual(encodeOffer(1, 2, 3, 65535), encode(offer))
        refuse = bytes.fromhex("06 ff 0008 0001 ffff 00000002")
        frames = Decoder(FROM_WORKER).feed(WORKER_HELLO + refuse)
        self.assertEqual(list(frames)[1:], [Refuse(1, (2,))])
        shared = bytes.fromhex("04 ff 000c 0001 ffff 0000000000000003")
        frames = Decoder(FROM_LISTENER).feed(LISTENER_HELLO + shared)
        self.assertEqual(list(frames)[1:], [Listener(1, 3)])

    def test_olderWorker(self) -> None:
        """
        A worker that says nothing of what it takes, since it was there before
        that, takes connections.
        """
        data = bytes.fromhex("02 00 0010 706f72746c73746e 0001 0008 0000 0000")
        self.assertEqual(list(Decoder(FROM_WORKER).feed(data)), [WorkerHello(8)])

    def test_laterKinds(self) -> None:
        """
        What a later version may have of a port, and what it may take of one, is
        nothing to this one.
        """
        data = bytes.fromhex(
            "01 00 001b 706f72746c73746e 0001 0010 0001 00000000 04 07 04 c0000201 0050"
        )
        port = replace(UNNAMED, kind=Kind.UNKNOWN)
        self.assertEqual(
            list(Decoder(FROM_LISTENER).feed(data)), [ListenerHello(16, (port,))]
        )
        for kinds, takes in [("ffff", list(Kind)[:4]), ("fff0", [])]:
            data = bytes.fromhex(f"02 00 0010 706f72746c73746e 0001 0008 0000 {kinds}")
            self.assertEqual(
                list(Decoder(FROM_WORKER).feed(data)),
                [WorkerHello(8, (), frozenset(takes))],
            )

    def test_longerHello(self) -> None:
        """
        Items that a later version may put at the end of a HELLO are ignored.
        """
        more = bytes.fromhex("0005 0000  ffff 0003 abcdef")
        for count, names, wanted in [(0, b"", ()), (1, b"\4http", ("http",))]:
            worker = Decoder(FROM_WORKER)
            payload = hello(ports=count) + names + more
            frames = list(worker.feed(raw(2, payload)))
            self.assertEqual(frames, [WorkerHello(8, wanted)])
        for count, ports in [(0, ()), (1, PORTS[:1])]:
            listener = Decoder(FROM_LISTENER)
            payload = hello(ports=count) + (PORT + b"\4http") * count + more
            frames = list(listener.feed(raw(1, payload)))
            self.assertEqual(frames, [ListenerHello(8, ports)])

    def test_namelessListener(self) -> None:
        """
        The HELLO of a listener that knows of no names may end with its ports,
        and those have none.
        """
        decoder = Decoder(FROM_LISTENER)
        frames = list(decoder.feed(raw(1, hello(ports=2) + PORT * 2)))
        self.assertEqual(frames, [ListenerHello(8, (UNNAMED, UNNAMED))])

    def test_names(self) -> None:
        """
        A name is made of letters, digits and a few marks, and has 63 bytes at
        the most.
        """
        for name in ("a", "Z", "0", "_", "a.b-c_d", "x" * 63):
            payload = bytes([len(name)]) + name.encode()
            worker = Decoder(FROM_WORKER).feed(raw(2, hello(ports=1) + payload))
            self.assertEqual(list(worker), [WorkerHello(8, (name,))])
            listener = Decoder(FROM_LISTENER).feed(
                raw(1, hello(ports=1) + PORT + payload)
            )
            port = Port(0, InternetAddress("TCP", "192.0.2.1", 80), name)
            self.assertEqual(list(listener), [ListenerHello(8, (port,))])

    def test_byeFirst(self) -> None:
        """
        A BYE may be the first frame, and is no HELLO.
        """
        decoder = Decoder(FROM_WORKER)
        self.assertEqual(list(decoder.feed(raw(11, b"no"))), [Bye("no")])
        self.assertEqual(list(decoder.feed(WORKER_HELLO)), [WorkerHello(8)])


class ByeTests(SynchronousTestCase):
    """
    Tests for the text of a BYE, which ends in logs.
    """

    def decoded(self, text: bytes) -> str:
        """
        Decode a reason.
        """
        (frame,) = Decoder(FROM_LISTENER).feed(raw(11, text))
        assert isinstance(frame, Bye)
        return frame.reason

    def test_unprintable(self) -> None:
        """
        What would move a terminal's cursor or fake a line of the log is
        replaced.
        """
        self.assertEqual(
            self.decoded("a\nb\r\x1b[2J\0\x7f\u202e\u2028c".encode()), "a?b??[2J????c"
        )

    def test_printable(self) -> None:
        """
        Spaces and letters of any alphabet are left alone.
        """
        self.assertEqual(
            self.decoded("so ist es: größer".encode()), "so ist es: größer"
        )

    def test_cutCharacter(self) -> None:
        """
        A text may end in the middle of a character.
        """
        self.assertEqual(self.decoded("aü".encode()[:-1]), "a\N{REPLACEMENT CHARACTER}")

    def test_longest(self) -> None:
        """
        A text may be 255 bytes long.
        """
        self.assertEqual(self.decoded(b"x" * MAXIMUM_REASON), "x" * 255)


class MalformedTests(SynchronousTestCase):
    """
    Tests for L{Decoder} and what is malformed.
    """

    def refused(
        self,
        vocabulary: Vocabulary,
        data: bytes,
        error: type[ProtocolError],
        text: str,
        begin: list[Frame] | None = None,
    ) -> None:
        """
        Check that some bytes are refused, after the frames before them.
        """
        frames = list(begin or [])
        stream = Decoder(vocabulary).feed(b"".join(map(encode, frames)) + data)
        for frame in frames:
            self.assertEqual(next(stream), frame)
        raised = self.assertRaises(ProtocolError, list, stream)
        self.assertEqual((type(raised), str(raised)), (error, text))

    def fromWorker(self, data: bytes, error: type[ProtocolError], text: str) -> None:
        """
        Check that it is refused from a worker that has said HELLO.
        """
        self.refused(FROM_WORKER, data, error, text, [WorkerHello(8)])

    def fromListener(self, data: bytes, error: type[ProtocolError], text: str) -> None:
        """
        Check that it is refused from a listener that has said HELLO.
        """
        self.refused(FROM_LISTENER, data, error, text, [ListenerHello(16)])

    def test_unknown(self) -> None:
        """
        There are types of frames that nobody may send.
        """
        for kind in (0, 18, 255):
            text = f"a frame of the unknown type {kind}"
            self.fromWorker(raw(kind), UnknownFrame, text)
            self.fromListener(raw(kind), UnknownFrame, text)

    def test_wrongSide(self) -> None:
        """
        A frame of one side's is unknown from the other.
        """
        for kind in FROM_LISTENER.keys() - FROM_WORKER:
            text = f"a frame of the unknown type {kind}"
            self.fromWorker(raw(kind), UnknownFrame, text)
        for kind in FROM_WORKER.keys() - FROM_LISTENER:
            text = f"a frame of the unknown type {kind}"
            self.fromListener(raw(kind), UnknownFrame, text)

    def test_vocabularies(self) -> None:
        """
        Each side has its own types of frames, and BYE is of both.
        """
        self.assertEqual(set(FROM_LISTENER), {1, 3, 4, 9, 10, 11, 13, 14, 17})
        self.assertEqual(set(FROM_WORKER), {2, 5, 6, 7, 8, 11, 12, 15, 16})

    def test_oversized(self) -> None:
        """
        A payload of more than 16384 bytes is refused before any of it is there.
        """
        for length in (MAXIMUM_PAYLOAD + 1, 65535):
            header = struct.pack("!BBH", 5, 0, length)
            self.fromWorker(header, OversizedFrame, f"a frame of {length} bytes")
        self.assertEqual(MAXIMUM_PAYLOAD, 16384)

    def test_noHello(self) -> None:
        """
        A first frame that is no HELLO is refused, even before it is whole.
        """
        text = "no HELLO to begin with"
        for data in (encode(Claim((1,))), encode(Drain()), encode(Claim((1,)))[:4]):
            self.refused(FROM_WORKER, data, MalformedFrame, text)
        for data in (encode(Offer(1, 0, 2)), encode(Revoked()), encode(Drained())):
            self.refused(FROM_LISTENER, data, MalformedFrame, text)

    def test_secondHello(self) -> None:
        """
        A second HELLO is refused.
        """
        self.fromWorker(WORKER_HELLO, MalformedFrame, "a second HELLO")
        self.fromListener(LISTENER_HELLO, MalformedFrame, "a second HELLO")

    def test_shortHello(self) -> None:
        """
        A HELLO that ends too early is refused.
        """
        text = "HELLO without portlisten's magic"
        for length in (0, 8, 15):
            payload = hello()[:length]
            self.refused(FROM_WORKER, raw(2, payload), MalformedFrame, text)
            self.refused(FROM_LISTENER, raw(1, payload), MalformedFrame, text)

    def test_otherMagic(self) -> None:
        """
        A peer that speaks another protocol is told so.
        """
        payload = hello(magic=b"PORTLSTN", version=2)
        text = "HELLO without portlisten's magic"
        self.refused(FROM_WORKER, raw(2, payload), MalformedFrame, text)
        self.refused(FROM_LISTENER, raw(1, payload), MalformedFrame, text)

    def test_otherVersion(self) -> None:
        """
        Another version is refused, even if the rest of its HELLO is different.
        """
        for version in (0, 2):
            payload = hello(version=version, window=0, ports=9)
            text = f"the peer speaks version {version} of the protocol, not 1"
            self.refused(FROM_WORKER, raw(2, payload), VersionMismatch, text)
            self.refused(FROM_LISTENER, raw(1, payload), VersionMismatch, text)

    def test_windows(self) -> None:
        """
        A window of no offers is refused, and one of too many.
        """
        for window in (0, MAXIMUM_WINDOW + 1, 65535):
            payload = hello(window=window)
            text = f"HELLO has a window of {window}"
            self.refused(FROM_WORKER, raw(2, payload), MalformedFrame, text)
            self.refused(FROM_LISTENER, raw(1, payload), MalformedFrame, text)

    def test_ports(self) -> None:
        """
        Ports that do not fit into their HELLO are refused.
        """
        for count, ports, text in [
            (1, b"", "HELLO ends within a port"),
            (1, PORT[:3], "HELLO ends within a port"),
            (2, PORT, "HELLO ends within a port"),
            (1, PORT[:4], "HELLO ends within an address"),
            (1, PORT[:-1], "HELLO ends within an address"),
        ]:
            data = raw(1, hello(ports=count) + ports)
            self.refused(FROM_LISTENER, data, MalformedFrame, text)

    def test_names(self) -> None:
        """
        Names that do not fit into their HELLO are refused, and so is what is no
        name.
        """
        for names, text in [
            (b"\4htt", "HELLO ends within a name"),
            (b"\1", "HELLO ends within a name"),
            (b"\xff" + b"x" * 254, "HELLO ends within a name"),
            (b"\x40" + b"x" * 64, f"HELLO has '{'x' * 64}' for a name"),
            (b"\2.a", "HELLO has '.a' for a name"),
            (b"\2-a", "HELLO has '-a' for a name"),
            (b"\3a b", "HELLO has 'a b' for a name"),
            (b"\2a\n", "HELLO has 'a\\n' for a name"),
            (b"\2a=", "HELLO has 'a=' for a name"),
            (b"\2\xc3\xbc", "HELLO has '\xc3\xbc' for a name"),
        ]:
            data = raw(1, hello(ports=1) + PORT + names)
            self.refused(FROM_LISTENER, data, MalformedFrame, text)
            data = raw(2, hello(ports=1) + names)
            self.refused(FROM_WORKER, data, MalformedFrame, text)

    def test_missingNames(self) -> None:
        """
        There are as many names as the HELLO says: of a listener none or one for
        each port.
        """
        text = "HELLO ends within a name"
        for names in (b"\4http", b"\0"):
            data = raw(1, hello(ports=2) + PORT * 2 + names)
            self.refused(FROM_LISTENER, data, MalformedFrame, text)
        for names in (b"", b"\4http"):
            data = raw(2, hello(ports=2) + names)
            self.refused(FROM_WORKER, data, MalformedFrame, text)

    def test_wantedNames(self) -> None:
        """
        A worker asks for no name that is empty, and for none twice.
        """
        for names, text in [
            (b"\4http\0", "HELLO asks for a port with no name"),
            (b"\4http\4http", "HELLO asks for a name twice"),
        ]:
            data = raw(2, hello(ports=2) + names)
            self.refused(FROM_WORKER, data, MalformedFrame, text)

    def test_addresses(self) -> None:
        """
        Addresses of unknown families are refused, and those of a wrong length.
        """
        for address in (
            b"",
            b"\x00",
            b"\x05" + bytes(6),
            b"\x04" + bytes(5),
            b"\x04" + bytes(7),
            b"\x06" + bytes(21),
            b"\x06" + bytes(23),
        ):
            port = struct.pack("!HBB", 0, 0, len(address)) + address
            self.refused(
                FROM_LISTENER,
                raw(1, hello(ports=1) + port),
                MalformedFrame,
                "HELLO has an address of an unknown kind",
            )

    def test_offer(self) -> None:
        """
        An OFFER has 16 bytes.
        """
        for length in (0, 15, 17):
            text = f"OFFER of {length} bytes"
            self.fromListener(raw(3, bytes(length)), MalformedFrame, text)

    def test_ids(self) -> None:
        """
        Frames with ids have at least one, and none but whole ones.
        """
        for kind, name in [(5, "CLAIM"), (7, "CLOSED"), (12, "GONE")]:
            for length in (0, 1, 3, 5):
                text = f"{name} of {length} bytes"
                self.fromWorker(raw(kind, bytes(length)), MalformedFrame, text)

    def test_refuse(self) -> None:
        """
        A REFUSE has a reason and at least one id, and none but whole ones.
        """
        for length in (0, 2, 4, 7, 9):
            ids = max(0, length - 4)
            text = f"REFUSE of {ids} bytes"
            self.fromWorker(raw(6, bytes(length)), MalformedFrame, text)

    def test_payload(self) -> None:
        """
        Frames without a payload have none.
        """
        self.fromWorker(raw(8, b"\0"), MalformedFrame, "DRAIN with a payload")
        self.fromListener(raw(9, b"\0"), MalformedFrame, "DRAINED with a payload")
        self.fromListener(raw(10, b"\0"), MalformedFrame, "REVOKED with a payload")

    def test_longBye(self) -> None:
        """
        A BYE has at most 255 bytes.
        """
        data = raw(11, b"x" * (MAXIMUM_REASON + 1))
        self.fromWorker(data, MalformedFrame, "BYE of 256 bytes")
        self.fromListener(data, MalformedFrame, "BYE of 256 bytes")
        self.assertEqual(MAXIMUM_REASON, 255)

    def test_framesBefore(self) -> None:
        """
        The frames before a malformed one are given, though all came in one
        piece.
        """
        for vocabulary, frames in STREAMS:
            self.refused(
                vocabulary,
                raw(18),
                UnknownFrame,
                "a frame of the unknown type 18",
                frames,
            )

    def test_oneBase(self) -> None:
        """
        L{ProtocolError} is the base of all these errors.
        """
        for error in (
            MalformedFrame,
            UnknownFrame,
            OversizedFrame,
            VersionMismatch,
            UnknownName,
            WrongKind,
        ):
            self.assertTrue(issubclass(error, ProtocolError))
