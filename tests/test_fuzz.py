"""
Noise against the codec of the frames: C{PORTLISTEN_FUZZ} says how many inputs.
"""

from __future__ import annotations

import os
from random import Random

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _frames
from portlisten._frames import (
    FROM_LISTENER,
    FROM_WORKER,
    MAXIMUM_PAYLOAD,
    Bye,
    Claim,
    Closed,
    Decoder,
    Drain,
    Drained,
    Frame,
    Gone,
    ListenerHello,
    Offer,
    Port,
    ProtocolError,
    Refuse,
    Revoked,
    Vocabulary,
    WorkerHello,
    encode,
)

COUNT = int(os.environ.get("PORTLISTEN_FUZZ", "100000"))

LISTENER: list[Frame] = [
    ListenerHello(
        16,
        (
            Port(0, IPv4Address("TCP", "192.0.2.1", 80)),
            Port(1, IPv6Address("TCP", "2001:db8::1", 443)),
            Port(2, UNIXAddress(b"/run/www.sock")),
        ),
    ),
    Offer(1, 0, 2**63 + 1),
    Offer(2, 1, 7),
    Drained(),
    Revoked(),
    Bye("the end, \u00e9"),
]

WORKER: list[Frame] = [
    WorkerHello(8),
    Claim((1, 2, 3)),
    Closed((1,)),
    Gone((2,)),
    Refuse(1, (4, 5)),
    Drain(),
    Bye(""),
]

STREAMS: list[tuple[Vocabulary, list[Frame]]] = [
    (FROM_LISTENER, LISTENER),
    (FROM_WORKER, WORKER),
]


class SplitTests(SynchronousTestCase):
    """
    Tests for streams that come in pieces.
    """

    def test_everySplit(self) -> None:
        """
        Wherever a stream is split in two, or into single bytes, the frames in it
        are the same.
        """
        for vocabulary, frames in STREAMS:
            stream = b"".join(map(encode, frames))
            for split in range(len(stream) + 1):
                decoder = Decoder(vocabulary)
                found = [*decoder.feed(stream[:split]), *decoder.feed(stream[split:])]
                self.assertEqual(found, frames)
            decoder = Decoder(vocabulary)
            single = [stream[at : at + 1] for at in range(len(stream))]
            self.assertEqual(
                [frame for byte in single for frame in decoder.feed(byte)], frames
            )


class NoiseTests(SynchronousTestCase):
    """
    Tests for streams that were tampered with.
    """

    def mutate(self, stream: bytes, chance: Random) -> bytes:
        """
        Tamper with a stream, a few times.
        """
        data = bytearray(stream)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                data[at : at + 1] = chance.randbytes(1)
            elif kind == 1:
                del data[at : at + chance.randrange(8)]
            elif kind == 2:
                data[at:at] = chance.randbytes(chance.randrange(40))
            elif kind == 3:
                data[at:at] = data[at : at + chance.randrange(60)]
            else:
                data[at : at + 2] = b"\xff\xff"
        return bytes(data)

    def test_noise(self) -> None:
        """
        Nothing but L{ProtocolError} comes of noise, and no more than a frame of it
        is kept.
        """
        chance = Random(2002)
        streams = [
            (vocabulary, [encode(frame) for frame in frames])
            for vocabulary, frames in STREAMS
        ]
        refused = 0
        for _ in range(COUNT):
            vocabulary, frames = chance.choice(streams)
            tail = chance.choices(frames, k=chance.randrange(4))
            data = self.mutate(b"".join(frames[:1] + tail), chance)
            decoder = Decoder(vocabulary)
            while data:
                size = chance.randrange(1, len(data) + 1)
                try:
                    for frame in decoder.feed(data[:size]):
                        self.assertIn(frame.TYPE, vocabulary)
                except ProtocolError:
                    refused += 1
                    self.assertEqual(list(decoder.feed(data)), [])
                    break
                self.assertLess(len(decoder._buffer), 4 + MAXIMUM_PAYLOAD)
                data = data[size:]
        self.assertGreater(refused, COUNT // 4)

    def test_endless(self) -> None:
        """
        A frame that announces as much as it may, and never ends, costs no more
        than that, however it comes.
        """
        decoder = Decoder(FROM_WORKER)
        header = encode(WorkerHello(1)) + b"\x05\0" + MAXIMUM_PAYLOAD.to_bytes(2, "big")
        list(decoder.feed(header))
        for _ in range(MAXIMUM_PAYLOAD - 1):
            self.assertEqual(list(decoder.feed(b"\0")), [])
        self.assertEqual(len(decoder._buffer), 4 + MAXIMUM_PAYLOAD - 1)
        (frame,) = decoder.feed(b"\0")
        self.assertEqual(len(frame.ids), _frames.MAXIMUM_IDS)
