"""
Streams of frames for fuzzers, and ways to damage and to cut them.

C{PORTLISTEN_FUZZ} says how many mutated streams are tried, and C{PORTLISTEN_SEED} with
which random numbers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from portlisten._model import InternetAddress, Port, UnixAddress
from portlisten._wire.codec import FROM_LISTENER, FROM_WORKER, Vocabulary
from portlisten._wire.frames import (
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Leave,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Serving,
    WorkerHello,
)

COUNT = int(os.environ.get("PORTLISTEN_FUZZ", "100000"))
SEED = int(os.environ.get("PORTLISTEN_SEED", "1"))
HEADER = 4

FRAMES_FROM_LISTENER: list[Frame] = [
    ListenerHello(
        16,
        (
            Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
            Port(1, InternetAddress("TCP", "2001:db8::1", 443, scope=3), "https"),
            Port(2, UnixAddress(b"/run/a.sock")),
            Port(3, UnixAddress(b"")),
        ),
        honoursLimit=True,
        honoursFirst=True,
        frames=frozenset([Serving.TYPE]),
        claimTimeout=5000,
    ),
    Offer(1, 0, 77),
    Offer(0xFFFFFFFF, 0xFFFF, 0xFFFFFFFFFFFFFFFF),
    Leave(),
    Drained(),
    Revoked(),
    Bye("the listener stops"),
]

FRAMES_FROM_WORKER: list[Frame] = [
    WorkerHello(
        4,
        ("https", "http"),
        limit=8,
        frames=frozenset([Leave.TYPE]),
        label="web-1",
        first=2000,
    ),
    Claim((1, 2)),
    Refuse(1, (3,)),
    Closed((1,)),
    ClientGone((2,)),
    Serving(2),
    Drain(),
    Claim((4, 0xFFFFFFFF)),
    Bye("enough, h\u00e9las"),
]

#: What the listener of the bad worker listens on.
PORTS = (
    Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
    Port(1, InternetAddress("TCP", "192.0.2.1", 443), "https"),
)

Stream = tuple[Vocabulary, list[Frame]]

STREAMS: list[Stream] = [
    (FROM_LISTENER, FRAMES_FROM_LISTENER),
    (FROM_LISTENER, [ListenerHello(1), *map(Offer, range(1, 9), [0] * 8, range(8))]),
    (FROM_WORKER, FRAMES_FROM_WORKER),
    (FROM_WORKER, [WorkerHello(128), Claim(tuple(range(1, 40))), Drain(), Bye("")]),
]


def pieces(data: bytes, source: random.Random) -> Iterator[bytes]:
    """
    Cut up some bytes at random, now and then into single ones.
    """
    largest = source.choice((1, 3, 20, 100, 1000))
    start = 0
    while start < len(data):
        size = source.randint(1, largest)
        yield data[start : start + size]
        start += size


def flipBits(data: bytearray, source: random.Random) -> None:
    for _ in range(source.randint(1, 4)):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def truncate(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(1, len(data) + 1) :]


def remove(data: bytearray, source: random.Random) -> None:
    start = source.randrange(len(data))
    del data[start : start + source.randint(1, 8)]


def insert(data: bytearray, source: random.Random) -> None:
    start = source.randrange(len(data) + 1)
    data[start:start] = source.randbytes(source.randint(1, 40))


def extreme(data: bytearray, source: random.Random) -> None:
    start = source.randrange(len(data))
    data[start : start + 2] = source.choice(
        (b"\0\0", b"\xff\xff", b"\x40\0", b"\x40\1")
    )


def starts(data: bytes | bytearray) -> list[int]:
    """
    Where the frames begin, as far as their lengths can be believed.
    """
    found = []
    start = 0
    while start + HEADER <= len(data):
        found.append(start)
        start += HEADER + int.from_bytes(data[start + 2 : start + HEADER], "big")
    return found


def changeLength(data: bytearray, source: random.Random) -> None:
    if there := starts(data):
        start = source.choice(there)
        length = source.choice((0, 1, 3, 4, 5, 16, 17, 300, 16384, 16385, 65535))
        data[start + 2 : start + 4] = length.to_bytes(2, "big")


def changeType(data: bytearray, source: random.Random) -> None:
    if there := starts(data):
        data[source.choice(there)] = source.choice((*range(16), 255))


def repeatFrame(data: bytearray, source: random.Random) -> None:
    if there := starts(data):
        start = source.choice(there)
        end = min((each for each in there if each > start), default=len(data))
        to = source.choice(there)
        data[to:to] = data[start:end] * source.randint(1, 3)


MUTATIONS = [
    flipBits,
    truncate,
    remove,
    insert,
    extreme,
    changeLength,
    changeType,
    repeatFrame,
]


def mutate(data: bytes, source: random.Random) -> bytes:
    """
    Damage a stream in one to three ways.
    """
    mutated = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        if mutated:
            source.choice(MUTATIONS)(mutated, source)
    return bytes(mutated)
