"""
Tests that feed L{portlisten._wire.codec} and L{portlisten._channel.protocol} what no
honest peer would write, and what honest ones write in pieces of every size.

C{PORTLISTEN_FUZZ} says how many mutated streams the decoder is fed; a channel,
which is slower, is fed a hundredth of them, and never fewer than L{FEWEST}.
"""

from __future__ import annotations

import os
import random
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener.channel import ListenerChannel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.departed_workers import PROCESS_END_SECONDS
from portlisten._listener.dispatcher import Dispatcher
from portlisten._listener.sharing import Sharing
from portlisten._model import Port
from portlisten._policy.ledger import Ledger
from portlisten._policy.throttle import Throttle
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    Vocabulary,
    encode,
)
from portlisten._wire.frames import (
    MAXIMUM_IDS,
    MAXIMUM_PAYLOAD,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Frame,
    ListenerHello,
    Offer,
    Refuse,
    WorkerHello,
)
from portlisten.errors import ProtocolError
from tests.support.clocks import RunningClock
from tests.support.descriptors import watchDescriptors
from tests.support.streams import COUNT, HEADER, PORTS, SEED, STREAMS, mutate, pieces

#: How many streams a channel is fed at the least: enough that each kind of worker is
#: among those that write them.
FEWEST = 100


class SplitTests(SynchronousTestCase):
    """
    Frames that come in pieces.
    """

    def test_twoPieces(self) -> None:
        """
        Wherever a stream is cut in two, the frames are the same, and each is
        there as soon as its last byte is.
        """
        for vocabulary, frames in STREAMS:
            data = b"".join(map(encode, frames))
            ends = [
                len(b"".join(map(encode, frames[:count])))
                for count in range(1, len(frames) + 1)
            ]
            for cut in range(len(data) + 1):
                decoder = Decoder(vocabulary)
                whole = sum(end <= cut for end in ends)
                self.assertEqual(list(decoder.feed(data[:cut])), frames[:whole])
                self.assertEqual(list(decoder.feed(data[cut:])), frames[whole:])

    def test_singleBytes(self) -> None:
        """
        Nor does it matter if every byte comes alone.
        """
        for vocabulary, frames in STREAMS:
            decoder = Decoder(vocabulary)
            data = b"".join(map(encode, frames))
            found = [
                frame
                for at in range(len(data))
                for frame in decoder.feed(data[at : at + 1])
            ]
            self.assertEqual(found, frames)

    def test_largestFrame(self) -> None:
        """
        The largest frame there can be is decoded, wherever it is cut, and what
        is kept of it until then is no more than itself.
        """
        frame = Claim(tuple(range(1, MAXIMUM_IDS + 1)))
        data = encode(frame)
        self.assertEqual(len(data), HEADER + MAXIMUM_PAYLOAD)
        for cut in (*range(1, HEADER + 6), len(data) // 2, len(data) - 1):
            decoder = Decoder(FROM_WORKER)
            list(decoder.feed(encode(WorkerHello(1))))
            self.assertEqual(list(decoder.feed(data[:cut])), [])
            self.assertEqual(len(decoder._buffer), cut)
            self.assertEqual(list(decoder.feed(data[cut:])), [frame])
            self.assertEqual(decoder._buffer, b"")


class MutatedStreamTests(SynchronousTestCase):
    """
    Streams that were valid once.
    """

    def outcome(
        self, vocabulary: Vocabulary, parts: Iterator[bytes]
    ) -> tuple[list[Frame], str]:
        """
        Feed a new decoder.

        @return: the frames, and the error that ended it.
        """
        decoder = Decoder(vocabulary)
        frames: list[Frame] = []
        for part in parts:
            try:
                frames.extend(decoder.feed(part))
            except ProtocolError as error:
                self.assertLessEqual(len(decoder._buffer), HEADER + MAXIMUM_PAYLOAD)
                return frames, f"{type(error).__name__}: {error}"
            if len(decoder._buffer) >= HEADER + MAXIMUM_PAYLOAD:
                self.fail(f"{len(decoder._buffer)} bytes are kept")
        return frames, ""

    def test_onlyProtocolErrors(self) -> None:
        """
        Whatever is wrong with a stream, a decoder gives frames or raises
        L{ProtocolError}, keeps less than the largest frame, and does the same
        whether the stream comes in pieces or whole.
        """
        source = random.Random(SEED)
        valid = [(words, b"".join(map(encode, frames))) for words, frames in STREAMS]
        ended = 0
        for number in range(COUNT):
            vocabulary, data = valid[number % len(valid)]
            mutated = mutate(data, source)
            whole = self.outcome(vocabulary, iter([mutated]))
            if self.outcome(vocabulary, pieces(mutated, source)) != whole:
                self.fail(f"it depends on the pieces: {mutated.hex()}")
            ended += bool(whole[1])
        self.assertGreater(ended, COUNT // 4)
        self.assertLess(ended, COUNT)

    def test_oversized(self) -> None:
        """
        A frame that is too large is found out by its header, whatever its type,
        so that nothing of it is waited for.
        """
        for vocabulary, frames in STREAMS:
            for kind in (0, *vocabulary, 255):
                for length in (MAXIMUM_PAYLOAD + 1, 0x8000, 0xFFFF):
                    header = bytes((kind, 0)) + length.to_bytes(2, "big")
                    parts = [encode(frames[0]), header]
                    found, error = self.outcome(vocabulary, iter(parts))
                    self.assertEqual(found, frames[:1])
                    self.assertIn("Frame: ", error)

    def test_noise(self) -> None:
        """
        Nor does noise raise anything else.
        """
        source = random.Random(SEED)
        for _ in range(COUNT // 10):
            noise = source.randbytes(source.randint(1, 60))
            for vocabulary in (FROM_LISTENER, FROM_WORKER):
                self.outcome(vocabulary, pieces(noise, source))

    def test_memory(self) -> None:
        """
        Feeding 16 MiB takes no more memory than a few of the largest frames,
        be they frames without end or a decoder that is fed on after an error.
        """
        claim = encode(Claim(tuple(range(1, MAXIMUM_IDS + 1))))
        for first in (encode(WorkerHello(1)), b"noise"):
            decoder = Decoder(FROM_WORKER)
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            try:
                for data in (first, *[claim[:9000], claim[9000:]] * 1024):
                    for _ in decoder.feed(data):
                        pass
            except ProtocolError:
                for _ in range(1024):
                    self.assertEqual(list(decoder.feed(claim)), [])
            _, peak = tracemalloc.get_traced_memory()
            self.assertLess(peak, 20 * MAXIMUM_PAYLOAD + 32 * MAXIMUM_IDS)


class FakeTransport:
    """
    Keeps what is written until it is flushed, and has a real socket for what a
    channel does past its transport.
    """

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle
        self._producer: Any = None
        self.written = b""
        self.unsent = False
        self.closing = False

    def getHandle(self) -> socket.socket:
        return self._handle

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.written += data
        self.unsent = True

    def sendFileDescriptor(self, descriptor: int) -> None:
        os.fstat(descriptor)

    def pauseProducing(self) -> None:
        self.closing = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.closing = True

    def flush(self) -> None:
        self.unsent = False
        if self._producer is not None:
            self._producer.resumeProducing()


class End:
    """
    A worker of a real listener, without a reactor between them.
    """

    def __init__(self, clock: Clock, dispatcher: Dispatcher, number: int) -> None:
        ours, self.peer = socket.socketpair()
        for each in (ours, self.peer):
            each.setblocking(False)
        self._ours = ours
        self.transport = FakeTransport(ours)
        self.read = self.left = b""
        hello = ListenerHello(4, PORTS)
        self.channel = ListenerChannel(clock, dispatcher, hello, number)
        self.channel.makeConnection(self.transport)
        self.transport.flush()

    def feed(self, data: bytes, source: random.Random) -> None:
        """
        Have the channel read some of it by its transport, and find the rest in
        its socket.
        """
        cut = source.choice((len(data), source.randint(0, len(data))))
        self.peer.send(data[cut:])
        self.left += data[cut:]
        for piece in pieces(data[:cut], source):
            if self.transport.closing:
                break
            self.read += piece
            self.channel.dataReceived(piece)
            if source.random() < 0.5:
                self.transport.flush()

    @property
    def offered(self) -> set[int]:
        """
        The ports of which it was offered connections.
        """
        frames = Decoder(FROM_LISTENER).feed(self.transport.written)
        return {frame.port for frame in frames if isinstance(frame, Offer)}

    @property
    def wanted(self) -> set[int]:
        """
        The ports that it has asked for.
        """
        try:
            hello = next(Decoder(FROM_WORKER).feed(self.read + self.left), None)
            assert isinstance(hello, WorkerHello)
            ports = ListenerHello(4, PORTS).wanted(hello)
        except (AssertionError, ProtocolError):
            return set()
        return {port.number for port in ports}

    def lose(self) -> None:
        self.peer.close()
        self.channel.connectionLost()
        self._ours.close()


class MutatedWorkerTests(SynchronousTestCase):
    """
    A worker that writes mutated streams, next to an honest one.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        with socket.create_server(("127.0.0.1", 0)) as port:
            self.client = socket.create_connection(port.getsockname())
            self.accepted, self.address = port.accept()
        self.addCleanup(self.client.close)
        self.addCleanup(self.accepted.close)

    def accept(self, dispatcher: Dispatcher, count: int, port: Port) -> None:
        """
        Clients connect: all of them copies of the one there is.
        """
        sockets = [self.accepted.dup() for _ in range(count)]
        self.held += sockets
        connections = [AcceptedConnection(each, self.address) for each in sockets]
        dispatcher.accepted(port, connections)

    def stream(self, source: random.Random) -> tuple[bytes, bytes]:
        """
        What the bad worker would write if it were not mutated, HELLO apart: as
        it knows, the ids that it is offered are 1 and on.
        """
        kinds: list[Frame] = [
            Claim((1,)),
            Claim((2, 3)),
            Refuse(1, (1,)),
            Refuse(2, (4,)),
        ]
        kinds += [
            Closed((1,)),
            ClientGone((2,)),
            Closed((2, 3)),
            Drain(),
            Bye("no more"),
        ]
        kinds.append(WorkerHello(3))
        frames = source.choices(kinds, k=source.randint(1, 5))
        names = source.choice(((), ("http",), ("https",), ("https", "http")))
        return encode(WorkerHello(4, names)), b"".join(map(encode, frames))

    def test_othersAreUnharmed(self) -> None:
        """
        It is cut off at the most.  Nothing is logged as a bug, no descriptor is
        lost, it is offered nothing that it does not ask for, and the other worker
        keeps its offers and gets what is left.
        """
        source = random.Random(SEED)
        self.gains: set[frozenset[int]] = set()
        for _ in range(max(FEWEST, COUNT // 100)):
            self.tryOne(source)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertIn({0}, self.gains)
        self.assertIn({1}, self.gains)

    def tryOne(self, source: random.Random) -> None:
        self.held: list[socket.socket] = []
        clock = RunningClock()
        ledger = Ledger(8, 64, 60.0, names=[port.name for port in PORTS])
        dispatcher = Dispatcher(
            clock, ledger, Throttle(), Sharing(clock, (), {}, 1, 1, 1)
        )
        bad = End(clock, dispatcher, 1)
        good = End(clock, dispatcher, 2)
        good.channel.dataReceived(encode(WorkerHello(2)))
        good.transport.flush()
        self.accept(dispatcher, 2, source.choice(PORTS))
        hello, rest = self.stream(source)
        if source.random() < 0.9:
            bad.feed(hello, source)
            for port in PORTS:
                self.accept(dispatcher, source.randint(1, 4), port)
            bad.feed(mutate(rest, source), source)
        else:
            bad.feed(mutate(hello + rest, source), source)
        self.assertLessEqual(bad.offered, bad.wanted)
        self.gains.add(frozenset(bad.offered))
        self.assertEqual(ledger.outstanding(good.channel), 2)
        self.assertFalse(good.transport.closing)
        bad.lose()
        # Its process, which is this one, goes on.
        clock.advance(2 * PROCESS_END_SECONDS)
        self.assertEqual(ledger.workers, 1)
        self.serve(good, ledger, clock)
        self.assertEqual(ledger.held, 0)
        self.assertEqual([each for each in self.held if each.fileno() >= 0], [])
        good.lose()
        self.assertEqual(ledger.workers, 0)
        self.assertEqual(clock.getDelayedCalls(), [])

    def serve(self, good: End, ledger: Ledger, clock: Clock) -> None:
        """
        Have the honest worker claim what it is offered and close it, until
        there is nothing left.
        """
        last = 0
        while (ledger.waiting or ledger.unclaimed) and last < 20:
            last += 1
            good.channel.dataReceived(encode(Claim((last,))) + encode(Closed((last,))))
            clock.advance(0.02)
        self.assertFalse(good.transport.closing)
        # The copies of what the other claimed, before it left, are kept for a while.
        clock.advance(1.1)
