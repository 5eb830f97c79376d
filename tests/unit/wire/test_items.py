"""
Tests for L{portlisten._wire.items}, by way of the codec.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import NAME
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    Vocabulary,
    encode,
    portNames,
)
from portlisten._wire.frames import (
    ANNOUNCED,
    Frame,
    Leave,
    ListenerHello,
    Serving,
    WorkerHello,
)
from portlisten.errors import MalformedFrame
from tests.support.frames import PORTS, hello, raw


def item(kind: int, value: bytes = b"") -> bytes:
    """
    Make an item by hand.
    """
    return struct.pack("!HH", kind, len(value)) + value


def decode(frame: bytes, vocabulary: Vocabulary) -> Frame:
    """
    Decode one frame.
    """
    (decoded,) = Decoder(vocabulary).feed(frame)
    return decoded


def fromWorker(*items: bytes) -> Frame:
    """
    Decode a worker's HELLO with these items.
    """
    return decode(raw(2, hello() + b"".join(items)), FROM_WORKER)


def fromListener(*items: bytes) -> Frame:
    """
    Decode a listener's HELLO with these items.
    """
    return decode(raw(1, hello() + b"".join(items)), FROM_LISTENER)


FRAMES = st.frozensets(st.sampled_from(ANNOUNCED))


class RoundTripTests(SynchronousTestCase):
    """
    What is encoded is decoded.
    """

    @given(
        limit=st.none() | st.integers(1, 2**32 - 1),
        frames=FRAMES,
        label=st.just("") | st.from_regex(NAME, fullmatch=True),
        first=st.none() | st.integers(1, 65535),
        names=st.sampled_from([(), ("http",), ("http", "https")]),
    )
    def test_worker(self, names: tuple[str, ...], **fields: Any) -> None:
        """
        A worker's HELLO comes out as it went in.
        """
        if fields["label"].isdecimal():
            fields["label"] += "x"
        frame = WorkerHello(8, names, **fields)
        self.assertEqual(decode(encode(frame), FROM_WORKER), frame)

    @given(
        honoursLimit=st.booleans(),
        honoursFirst=st.booleans(),
        frames=FRAMES,
        claimTimeout=st.none() | st.integers(0, 2**32 - 1),
        ports=st.sampled_from([(), PORTS]),
    )
    def test_listener(self, ports: Any, **fields: Any) -> None:
        """
        A listener's HELLO comes out as it went in.
        """
        frame = ListenerHello(8, ports, **fields)
        self.assertEqual(decode(encode(frame), FROM_LISTENER), frame)


class SkippedTests(SynchronousTestCase):
    """
    What a reader skips.
    """

    def test_nothing(self) -> None:
        """
        An older peer says nothing by items.
        """
        self.assertEqual(fromWorker(), WorkerHello(8))
        self.assertEqual(fromListener(), ListenerHello(8))

    def test_unknown(self) -> None:
        """
        Types of later versions are skipped, in any place.
        """
        limit = item(1, struct.pack("!I", 3))
        for items in [(limit, item(5, b"later")), (item(65535), limit)]:
            self.assertEqual(fromWorker(*items), WorkerHello(8, limit=3))

    def test_unknownBits(self) -> None:
        """
        So are promises of later versions.
        """
        for honours in (0, 0xFFFFFFFC):
            decoded = fromListener(item(1, struct.pack("!I", honours)))
            self.assertEqual(decoded, ListenerHello(8))

    def test_frames(self) -> None:
        """
        Bit n of FRAMES stands for the type 14 + n.
        """
        for bits, types in [
            (0, []),
            (1, [Leave.TYPE]),
            (2, [Serving.TYPE]),
            (0x80000001, [14, 45]),
        ]:
            value = item(2, struct.pack("!I", bits))
            frames = frozenset(types)
            self.assertEqual(fromWorker(value), WorkerHello(8, frames=frames))
            self.assertEqual(fromListener(value), ListenerHello(8, frames=frames))


class MalformedTests(SynchronousTestCase):
    """
    Items that are not valid.
    """

    def refused(self, items: bytes, text: str) -> None:
        """
        Check that both ends refuse a HELLO.
        """
        for read in (fromWorker, fromListener):
            error = self.assertRaises(MalformedFrame, read, items)
            self.assertEqual(str(error), text)

    def test_cut(self) -> None:
        """
        An item is whole.
        """
        for size in range(1, 7):
            self.refused(item(9, b"abc")[:size], "HELLO ends within an item")

    def test_twice(self) -> None:
        """
        No type comes twice, known or not.
        """
        for kind, value in [(2, bytes(4)), (9, b"")]:
            self.refused(item(kind, value) * 2, f"HELLO has item {kind} twice")

    def test_sizes(self) -> None:
        """
        The values of known types have their sizes.
        """
        for read, kinds in [(fromWorker, {1: 4, 2: 4, 4: 2}), (fromListener, {3: 4})]:
            for kind, size in kinds.items():
                for wrong in (0, size - 1, size + 1):
                    error = self.assertRaises(
                        MalformedFrame, read, item(kind, b"\1" * wrong)
                    )
                    self.assertEqual(
                        str(error),
                        f"HELLO has {'01' * wrong or 'nothing'} for item {kind}",
                    )

    def test_values(self) -> None:
        """
        A limit or a time of 0 is none, and a label is made like a name, but not of
        digits alone.
        """
        for kind, value in [
            (1, bytes(4)),
            (4, bytes(2)),
            (3, b""),
            (3, b"x" * 64),
            (3, b"1234"),
            (3, b"-x"),
            (3, b"a b"),
            (3, b"caf\xe9"),
            (3, b"a\n"),
        ]:
            error = self.assertRaises(MalformedFrame, fromWorker, item(kind, value))
            self.assertIn(f"for item {kind}", str(error))

    def test_room(self) -> None:
        """
        Names that fill a HELLO leave no place for items, and are refused when they are
        given.
        """
        names = [f"{number:x>63}" for number in range(254)]
        portNames(names)
        with self.assertRaises(ValueError):
            portNames([*names, "y" * 50])
