"""
Tests for L{portlisten._channel.protocol}: the Protocols, over Twisted's own transports
and the kernel's own sockets, against peers that write their frames by hand.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.interfaces import IFileDescriptorReceiver, IPullProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._channel import protocol as _channel
from portlisten._channel.transport import ChannelTransport, Unread
from portlisten._kernel import sockets
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._model import InternetAddress, Kind, Port, UnixAddress
from portlisten._wire import worker_session
from portlisten._wire.frames import (
    DRAINING,
    FROM_LISTENER,
    FROM_WORKER,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Decoder,
    Drain,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Vocabulary,
    Withdraw,
    WorkerHello,
    encode,
)
from portlisten._worker.channel import WorkerChannel
from portlisten._worker.interfaces import IAdopter, IWorkerChannel
from portlisten.errors import ProtocolError
from tests.support import descriptors, watchDescriptors
from tests.support.channels import (
    PATIENCE,
    Once,
    Peer,
    RecordingAdopter,
    RecordingDispatcher,
    aMoment,
    eventually,
    inReactor,
    tcpPair,
    texts,
)


def attach(protocol: Protocol, sock: socket.socket) -> None:
    """
    Have the reactor serve a protocol on a socket, over the transport that is
    made for it.
    """
    if isinstance(protocol, ListenerChannel):
        transport = ChannelTransport(
            reactor, sock, protocol, descriptors=False, sent=Unread()
        )
    else:
        transport = ChannelTransport(reactor, sock, protocol)
    transport.start()


def adopt(protocol: Protocol, sock: socket.socket) -> None:
    """
    Likewise, over Twisted's own transport.
    """
    sock.setblocking(False)
    with sock:
        reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Once(protocol))


_TestClass = TypeVar("_TestClass", bound="type[ChannelTestCase]")


def overTwistedToo(testClass: _TestClass) -> _TestClass:
    """
    Have a class of tests run once more, over Twisted's own transport.
    """
    name = testClass.__name__.replace("Tests", "OverTwistedTests")
    content = {
        "attach": staticmethod(adopt),
        "__doc__": testClass.__doc__,
        "__module__": __name__,
    }
    globals()[name] = type(testClass)(name, (testClass,), content)
    return testClass


def stuff(protocol: Protocol) -> None:
    """
    Fill the way from a protocol to its peer, so that nothing more can be
    written before the peer has read something.
    """
    handle = protocol.transport.getHandle()
    try:
        while True:
            handle.send(b"\0" * 65536)
    except BlockingIOError:
        pass


class Short(socket.socket):
    """
    A socket for which the kernel has no memory when something is sent.

    @param sock: whose descriptor it takes.
    @ivar tries: how often something was to be sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.tries = 0

    def send(self, *_: object) -> int:
        self.tries += 1
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def findDead(protocol: Protocol) -> None:
    """
    Have a write be what finds the peer dead, before anything is read of what it
    left.
    """
    protocol.transport.stopReading()
    protocol.transport.write(b"\0")


async def unstuff(peer: Peer) -> None:
    """
    Read what L{stuff} wrote, up to the first byte that it did not write.
    """

    def arrived() -> bool:
        try:
            ahead = peer.socket.recv(65536, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        zeros = len(ahead) - len(ahead.lstrip(b"\0"))
        if zeros:
            peer.socket.recv(zeros)
        return zeros < len(ahead)

    await eventually(arrived)


@implementer(IConnection)
class HeldConnection:
    """
    A connection that the listener could hold.
    """

    peer = "a client"

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.cookie = _kernel.cookie(sock)

    def fileno(self) -> int:
        return self.socket.fileno()

    def pristine(self) -> bool:
        return True

    def spoiled(self) -> bool:
        return False

    def forget(self) -> None:
        self.socket.close()


class InterfaceTests(SynchronousTestCase):
    """
    Who provides what.
    """

    def test_listenerChannel(self) -> None:
        """
        The listener's end is an L{IChannel} that can receive descriptors.
        """
        channel = ListenerChannel(Clock(), RecordingDispatcher(), ListenerHello(1), 1)
        for interface in (IChannel, IFileDescriptorReceiver):
            verifyClass(interface, ListenerChannel)
            verifyObject(interface, channel)

    def test_workerChannel(self) -> None:
        """
        The worker's end is an L{IWorkerChannel} that can receive descriptors.
        """
        channel = WorkerChannel(Clock(), RecordingAdopter())
        for interface in (IWorkerChannel, IFileDescriptorReceiver):
            verifyClass(interface, WorkerChannel)
            verifyObject(interface, channel)

    def test_flushes(self) -> None:
        """
        What watches the write buffer is an L{IPullProducer}.
        """
        verifyObject(IPullProducer, _channel._Flushes(lambda: None))

    def test_fakes(self) -> None:
        """
        What these tests put around a channel keeps its contracts.
        """
        verifyObject(IDispatcher, RecordingDispatcher())
        verifyObject(IAdopter, RecordingAdopter())
        with socket.socket() as sock:
            verifyObject(IConnection, HeldConnection(sock))


class ChannelTestCase(TestCase):
    """
    One end of a channel, and its peer.

    @cvar attach: has the reactor serve a protocol on a socket.
    """

    attach = staticmethod(attach)

    async def setUp(self) -> None:
        await inReactor(self)
        self.clock = Clock()
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def peerOf(self, protocol: Protocol, vocabulary: Vocabulary) -> Peer:
        """
        Have the reactor serve a protocol on one end of a pair of Unix sockets.

        @return: the other end.
        """
        ours, theirs = socket.socketpair()
        self.attach(protocol, ours)
        return Peer(theirs, vocabulary)

    def connections(self, count: int) -> list[tuple[socket.socket, socket.socket]]:
        """
        Make TCP connections that last as long as the test.
        """
        pairs = [tcpPair() for _ in range(count)]
        for pair in pairs:
            for sock in pair:
                self.addCleanup(sock.close)
        return pairs


@overTwistedToo
class FlushTests(ChannelTestCase):
    """
    L{_channel._Flushes} tells when the write buffer has reached the kernel.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.told = 0
        self.protocol = Protocol()
        self.peer = self.peerOf(self.protocol, {})
        self.flushes = _channel._Flushes(self._flushed)
        self.flushes.watch(self.protocol.transport)
        self.addCleanup(self.end)

    def _flushed(self) -> None:
        self.told += 1

    async def end(self) -> None:
        self.peer.close()
        await eventually(lambda: not self.protocol.transport.connected)

    async def test_notAtOnce(self) -> None:
        """
        To begin watching is no flush, nor is a write by itself.
        """
        self.protocol.transport.write(b"x")
        self.assertEqual(self.told, 0)
        await eventually(lambda: self.told == 1)

    async def test_onlyWhenAllIsWritten(self) -> None:
        """
        Nothing is told while a part of the data is not in the kernel.
        """
        self.protocol.transport.write(b"x" * 3_000_000)
        await aMoment()
        self.assertEqual(self.told, 0)

        def emptied() -> int:
            try:
                self.peer.socket.recv(1_000_000)
            except BlockingIOError:
                pass
            return self.told

        await eventually(emptied)

    async def test_stopped(self) -> None:
        """
        Nothing is told once the transport has stopped the producer.
        """
        self.flushes.stopProducing()
        self.flushes.resumeProducing()
        self.assertEqual(self.told, 0)


class ListenerChannelTestCase(ChannelTestCase):
    """
    A L{ListenerChannel}, and a worker made by hand.
    """

    hello = ListenerHello(
        4,
        (
            Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
            Port(1, InternetAddress("TCP", "192.0.2.1", 443), "https"),
        ),
    )

    async def setUp(self) -> None:
        await super().setUp()
        self.dispatcher = RecordingDispatcher()
        self.channel = ListenerChannel(self.clock, self.dispatcher, self.hello, 7)
        self.worker = self.peerOf(self.channel, FROM_LISTENER)
        self.addCleanup(self.end)

    async def end(self) -> None:
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events[-1], ("disconnected",))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @property
    def told(self) -> list[tuple[Any, ...]]:
        """
        What the dispatcher heard since the worker joined.
        """
        return self.dispatcher.events[2:]

    async def join(self, window: int = 4) -> None:
        """
        Have the worker say HELLO, once it has read the listener's.
        """
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(window))
        await eventually(lambda: len(self.dispatcher.events) > 1)

    def offer(self, id: int, sock: socket.socket) -> None:
        """
        Offer a connection that came in by port 0.
        """
        self.channel.offer(id, 0, HeldConnection(sock))

    def stopReading(self) -> None:
        """
        Keep the transport from reading, so that the channel alone can find what
        the worker writes next.
        """
        self.channel.transport.stopReading()


@overTwistedToo
class ListenerGreetingTests(ListenerChannelTestCase):
    """
    How a worker joins.
    """

    async def test_listenerSpeaksFirst(self) -> None:
        """
        The worker is told the window and the ports before it has said a word.
        """
        await eventually(self.worker.read)
        self.assertEqual(self.worker.frames, [self.hello])

    async def test_connectedFirst(self) -> None:
        """
        The dispatcher hears of the channel when it is there, not of a worker.
        """
        await aMoment()
        self.assertEqual(self.dispatcher.events, [("connected",)])

    async def test_label(self) -> None:
        """
        The label tells the worker's number, process and user.
        """
        self.assertEqual(
            str(self.channel), f"worker 7 (pid {os.getpid()}, uid {os.getuid()})"
        )
        self.assertEqual(self.channel.label, str(self.channel))
        self.assertEqual(self.channel.user, os.getuid())

    async def test_smallerWindow(self) -> None:
        """
        A worker may ask for a smaller window than the listener's.
        """
        await self.join(window=3)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 3))

    async def test_largerWindow(self) -> None:
        """
        It does not get a larger one.
        """
        await self.join(window=5)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 4))

    async def test_names(self) -> None:
        """
        The dispatcher hears of the ports that a worker asks for; of all, if it asks
        for none.
        """
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(4, ("https",)))
        await eventually(lambda: len(self.dispatcher.events) > 1)
        self.assertEqual(self.dispatcher.events[1], ("joined", 4, "https"))

    async def test_noNames(self) -> None:
        """
        A worker that asks for none gets all.
        """
        await self.join(window=4)
        self.assertEqual(self.dispatcher.events[1], ("joined", 4, "http", "https"))

    async def test_unknownName(self) -> None:
        """
        A worker that asks for a port that there is not is told what there is and
        cut off, whatever it asks for besides, and the dispatcher never hears of
        a worker.
        """
        self.worker.say(WorkerHello(4, ("http", "smtp")), Claim((1,)))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        reason = "no port is called 'smtp' here, only http, https"
        self.assertEqual(self.worker.read(), [self.hello, Bye(reason)])
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: {reason}"],
        )

    async def test_helloInPieces(self) -> None:
        """
        A HELLO may come byte by byte.
        """
        for byte in encode(WorkerHello(2)):
            self.worker.say(bytes([byte]))
            await deferLater(reactor, 0)
        await eventually(lambda: len(self.dispatcher.events) > 1)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 2))

    async def test_silence(self) -> None:
        """
        A worker that does not say HELLO in time is told so and cut off, and the
        dispatcher never hears of a worker.
        """
        await aMoment()
        self.clock.advance(4.9)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.clock.advance(0.1)
        await eventually(self.worker.hasEnded)
        self.assertEqual(
            self.worker.frames,
            [self.hello, Bye("no HELLO within 5 s")],
        )
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: no HELLO within 5 s"],
        )

    async def test_inTime(self) -> None:
        """
        Once HELLO is said, silence is no fault.
        """
        await self.join()
        self.clock.advance(3600)
        await aMoment()
        self.assertEqual(self.told, [])
        self.assertFalse(self.worker.hasEnded())

    async def test_tooLate(self) -> None:
        """
        A HELLO that comes when the worker has been sent away lets it join no
        more, and there was nothing to revoke.
        """
        await eventually(self.worker.read)
        self.channel.revoke("too late")
        self.worker.say(WorkerHello(4), Claim((1,)))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.worker.read(), [self.hello, Bye("too late")])
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])

    async def test_byeInstead(self) -> None:
        """
        A worker may say BYE without having said HELLO, and has not parted then.
        """
        self.worker.say(Bye("wrong door"))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_noRoom(self) -> None:
        """
        The window is no larger than what the kernel takes for the worker
        without reading on its part.
        """
        handle = self.channel.transport.getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.assertEqual(_kernel.room(handle), 2)
        await self.join(window=4)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 2))

    async def test_goneBefore(self) -> None:
        """
        A worker that leaves before HELLO neither died nor parted.
        """
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])


class GuessTests(ListenerChannelTestCase):
    """
    A worker that answers what it was not sent.
    """

    async def offerUnsent(self) -> None:
        """
        Offer a connection, which does not get into the kernel.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.send = _kernel.send
        self.patch(_kernel, "send", self.full)
        self.offer(9, accepted)

    def full(self, *args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")

    async def test_answers(self) -> None:
        """
        It is found out before anything comes of it: the connection would be closed,
        and whatever gets the number of its descriptor next would be sent instead.
        """
        await self.offerUnsent()
        self.worker.say(Claim((9,)), Closed((9,)), Refuse(1, (9,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told[0], ("revoking",))
        heard = {event[0] for event in self.told}
        self.assertFalse(heard & {"claimed", "refused"})

    async def test_later(self) -> None:
        """
        Once it is sent, it may be answered.
        """
        await self.offerUnsent()
        self.patch(_kernel, "send", self.send)
        await eventually(lambda: self.worker.heard(Offer))
        self.worker.say(Claim((9,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told[0], ("claimed", (9,)))


class UnreadTests(ListenerChannelTestCase):
    """
    What the listener knows of what its worker has read.
    """

    async def offerTwo(self) -> None:
        """
        Have the worker join, and offer it two connections, in a message each.
        """
        await self.join()
        for id, (_, accepted) in enumerate(self.connections(2), 1):
            self.offer(id, accepted)

    async def cutOff(self) -> None:
        """
        Wait until the worker is cut off for its answer, of which nothing comes.
        """
        await eventually(lambda: ("disconnected",) in self.told)
        reason = "an answer to an offer that it has not read"
        self.assertEqual(
            self.told, [("revoking",), ("parted", reason), ("disconnected",)]
        )
        self.assertEqual(
            texts(self.logged, "warn"), [f"{self.channel.label} is cut off: {reason}"]
        )

    async def test_claimUnread(self) -> None:
        """
        A worker that claims what it has not read is cut off.
        """
        await self.offerTwo()
        self.worker.say(Claim((2,)))
        await self.cutOff()

    async def test_refuseUnread(self) -> None:
        """
        So is one that refuses that, among what it might have read.
        """
        await self.offerTwo()
        self.worker.say(Refuse(1, (1, 2)))
        await self.cutOff()

    async def test_readInPart(self) -> None:
        """
        Of a message that was read in part, everything may be answered: the kernel does
        not say how much of it was read.
        """
        await self.offerTwo()
        whole = len(encode(Offer(1, 0, 1)))
        for size in (whole, 1):
            _, descriptors = _kernel.receive(self.worker.socket, size)
            self.worker.descriptors += descriptors
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told, [("claimed", (2,))])

    async def test_read(self) -> None:
        """
        What was read may be answered, in any order.
        """
        await self.offerTwo()
        self.worker.read()
        self.worker.say(Claim((2,)), Refuse(1, (1,)))
        await eventually(lambda: len(self.told) > 1)
        self.assertEqual(self.told[0], ("claimed", (2,)))
        self.assertEqual(self.told[1][:2], ("refused", (1,)))

    async def test_ahead(self) -> None:
        """
        A worker may be a little ahead of what the kernel says.
        """
        await self.offerTwo()
        charge = self.channel._charge
        self.worker.read()
        charges = [1 << 20]
        self.patch(
            self.channel, "_charge", lambda: charges.pop() if charges else charge()
        )
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual((self.told, charges), ([("claimed", (2,))], []))

    async def test_inFlight(self) -> None:
        """
        It tells how many descriptors the worker has not read, and whether there is
        anything that it has not.
        """
        await self.join()
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))
        for id, (_, accepted) in enumerate(self.connections(3), 1):
            self.offer(id, accepted)
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (3, True))
        _, descriptors = _kernel.receive(self.worker.socket, 1)
        self.worker.descriptors += descriptors
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (3, True))
        whole = len(encode(Offer(1, 0, 1)))
        _kernel.receive(self.worker.socket, whole - 1)
        self.assertEqual(self.channel.inFlight(), 2)
        self.worker.read()
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))

    async def test_unsent(self) -> None:
        """
        What is not even sent is unread.
        """
        await self.join()
        self.channel.drained()
        self.assertTrue(self.channel.unread())
        await eventually(lambda: self.worker.heard(Drained))
        self.assertFalse(self.channel.unread())

    async def test_unknown(self) -> None:
        """
        If the kernel does not say what is unread, all counts as read.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        await self.offerTwo()
        self.patch(_kernel, "unread", fail)
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told, [("claimed", (2,))])

    async def test_process(self) -> None:
        """
        It finds the worker's process, which is this one.
        """
        await self.join()
        process = self.channel.process()
        assert process is not None
        self.addCleanup(os.close, process)
        self.assertFalse(_kernel.hasEnded(process))
        with open(f"/proc/self/fdinfo/{process}") as file:
            self.assertIn(f"Pid:\t{os.getpid()}\n", file.read())

    async def test_dismiss(self) -> None:
        """
        What is unread is known until the channel is dismissed, though it has ended for
        the worker.
        """
        questions: list[tuple[bool, int]] = []

        def ask(event: tuple[Any, ...]) -> None:
            if event == ("disconnected",):
                questions.append((self.channel.unread(), self.channel.inFlight()))

        await self.offerTwo()
        dismiss, self.channel.dismiss = self.channel.dismiss, lambda: None
        self.dispatcher.react = ask
        self.channel.transport.abortConnection()
        await eventually(lambda: questions)
        self.assertEqual(questions, [(True, 2)])
        self.assertTrue(self.worker.hasEnded())
        dismiss()
        dismiss()
        self.assertEqual((self.channel.unread(), self.channel.inFlight()), (False, 0))


class PoisonedTests(ListenerChannelTestCase):
    """
    A worker that sends a descriptor, which perhaps nobody can close.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.closed: list[int] = []
        self.close = _kernel.closeElsewhere
        self.patch(_kernel, "closeElsewhere", self.spy)

    def spy(self, sock: socket.socket) -> None:
        """
        Close a socket in another process, and note how many descriptors there are of
        it.
        """
        links = list(descriptors().values())
        self.closed.append(links.count(os.readlink(f"/proc/self/fd/{sock.fileno()}")))
        self.close(sock)

    async def poison(self) -> None:
        """
        Have the worker send a descriptor, and wait for the end of the channel.
        """
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[0])
        await eventually(lambda: ("disconnected",) in self.told)

    def reaped(self) -> bool:
        """
        Whether the processes that close are gone.
        """
        _kernel.reap()
        return not sockets._children

    async def test_elsewhere(self) -> None:
        """
        What is queued in the channel is closed in a process of its own, which is the
        last to have it open.  What came with it was read, once.
        """
        await self.poison()
        self.assertEqual(self.closed, [1])
        self.assertEqual(self.told.count(("closed", (1,))), 1)
        self.assertIn(("parted", "it sent a descriptor"), self.told)
        await eventually(self.reaped)

    async def test_others(self) -> None:
        """
        Other channels are closed here.
        """
        await self.join()
        self.worker.say(Closed((1,)))
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.closed, [])

    async def test_noProcess(self) -> None:
        """
        If there is no process to be had, the channel's socket is kept, which is said.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        elsewhere = _kernel.closeElsewhere
        self.patch(_kernel, "closeElsewhere", fail)
        await self.poison()
        self.assertEqual(
            texts(self.logged, "error"),
            [
                f"{self.channel.label} left a descriptor that cannot be closed yet:"
                " Resource temporarily unavailable"
            ],
        )
        self.assertFalse(self.channel.dismiss())
        self.patch(_kernel, "closeElsewhere", elsewhere)
        self.assertTrue(self.channel.dismiss())
        await eventually(self.reaped)


class FailureTests(ListenerChannelTestCase):
    """
    A channel that fails, at whose other end the worker lives.
    """

    async def setUp(self) -> None:
        await super().setUp()
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        await eventually(lambda: self.worker.heard(Offer))

    def failOnce(self) -> None:
        """
        Have the transport's next read fail for good.
        """
        receive = _kernel.receiveBytes

        def fail(*args: Any, **kw: Any) -> Any:
            self.patch(_kernel, "receiveBytes", receive)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.patch(_kernel, "receiveBytes", fail)

    async def gone(self) -> None:
        """
        Wait until the channel is gone.
        """
        await eventually(lambda: ("disconnected",) in self.told)

    PARTED = [("parted", "the channel to it failed"), ("disconnected",)]

    async def test_told(self) -> None:
        """
        The worker is told that what it did not claim is not its own.  What it had
        claimed is.
        """
        self.failOnce()
        self.worker.say(Claim((1,)))
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.PARTED])
        self.assertEqual(
            self.worker.read()[-2:], [Revoked(), Bye("the channel failed")]
        )

    async def test_unclaimed(self) -> None:
        """
        If it had claimed nothing, others get what it was offered.
        """
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, self.PARTED)
        self.assertIn(Revoked(), self.worker.read())

    async def test_noRoom(self) -> None:
        """
        If it cannot be told, what it was offered is left to it, as if it had claimed
        that: it takes the end of the channel for the death of the listener.
        """
        stuff(self.channel)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.PARTED])

    async def test_answered(self) -> None:
        """
        What it had refused is not left to it.
        """
        self.worker.say(Refuse(1, (1,)))
        await eventually(lambda: self.told)
        stuff(self.channel)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told[1:], self.PARTED)

    async def test_deaf(self) -> None:
        """
        If it closed the way to it, it has taken the listener for dead already, and
        claimed what it wanted.
        """
        self.worker.socket.shutdown(socket.SHUT_RD)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, self.PARTED)

    async def test_dead(self) -> None:
        """
        If the other end is closed, the worker is dead, however that was found.
        """
        self.failOnce()
        self.worker.say(Claim((1,)))
        self.worker.close()
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), ("died",), ("disconnected",)])

    async def test_readFails(self) -> None:
        """
        If what is left of the channel cannot be read at first, it is tried again.
        """
        receive = _kernel.receiveBytes
        numbers = [errno.EINVAL, errno.ENOMEM, errno.ENOMEM]

        def fail(*args: Any, **kw: Any) -> Any:
            if numbers:
                number = numbers.pop(0)
                raise OSError(number, os.strerror(number))
            return receive(*args, **kw)

        self.patch(_kernel, "receiveBytes", fail)
        self.worker.say(Claim((1,)))
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.PARTED])


@overTwistedToo
class OfferTests(ListenerChannelTestCase):
    """
    How connections are sent.
    """

    async def test_sent(self) -> None:
        """
        An offer arrives with a descriptor of the very connection, which the
        frame names by its cookie, and the caller's stays open.
        """
        [(client, accepted)] = self.connections(1)
        await self.join()
        self.offer(9, accepted)
        await eventually(lambda: self.worker.heard(Offer))
        [descriptor] = self.worker.descriptors
        [offer] = self.worker.heard(Offer)
        self.assertEqual((offer.id, offer.port), (9, 0))
        with socket.socket(fileno=os.dup(descriptor)) as sent:
            self.assertEqual(_kernel.cookie(sent), offer.cookie)
            sent.sendall(b"from the worker")
        self.assertEqual(client.recv(100), b"from the worker")
        accepted.sendall(b"from the listener")
        self.assertEqual(client.recv(100), b"from the listener")

    async def test_kept(self) -> None:
        """
        Offers that others follow are sent when they are flushed.
        """
        pairs = self.connections(3)
        await self.join()
        for id, (_, accepted) in enumerate(pairs, 1):
            self.channel.offer(id, 0, HeldConnection(accepted), more=True)
        await aMoment()
        self.assertEqual(self.worker.heard(Offer), [])
        self.channel.flush()
        await eventually(lambda: len(self.worker.heard(Offer)) == 3)
        self.assertEqual([offer.id for offer in self.worker.heard(Offer)], [1, 2, 3])
        self.assertEqual(len(self.worker.descriptors), 3)

    async def test_keptBeforeTheRest(self) -> None:
        """
        They are sent before anything else is, so that nothing comes out of order.
        """
        [(_, accepted), (_, other)] = self.connections(2)
        await self.join()
        self.channel.offer(7, 0, HeldConnection(accepted), more=True)
        self.channel.drained()
        self.channel.offer(8, 0, HeldConnection(other), more=True)
        self.channel.revoke("it hangs")
        await eventually(lambda: self.worker.heard(Revoked))
        self.assertEqual(
            [type(frame) for frame in self.worker.frames[1:]],
            [Offer, Drained, Offer, Revoked, Bye],
        )

    async def test_keptAtTheEnd(self) -> None:
        """
        What is kept when the worker goes is not sent: it may have been closed
        since.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.channel.offer(7, 0, HeldConnection(accepted), more=True)
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        accepted.close()
        self.channel.flush()

    async def test_neverBeforeItsDescriptor(self) -> None:
        """
        Of many offers at once, read a byte at a time, each finds its descriptor
        there already.
        """
        pairs = self.connections(20)
        await self.join()
        for id, (_, accepted) in enumerate(pairs):
            self.offer(id, accepted)
        decoder = Decoder(FROM_LISTENER)
        list(decoder.feed(encode(self.hello)))
        cookies: set[int] = set()
        offers: list[Offer] = []

        def readByte() -> bool:
            try:
                data, descriptors = _kernel.receive(self.worker.socket, 1)
            except BlockingIOError:
                return False
            for descriptor in descriptors:
                with socket.socket(fileno=descriptor) as sock:
                    cookies.add(_kernel.cookie(sock))
            for frame in decoder.feed(data):
                if isinstance(frame, Offer):
                    self.assertIn(frame.cookie, cookies)
                    offers.append(frame)
            return True

        while len(offers) < 20:
            await eventually(readByte)
        self.assertEqual([offer.id for offer in offers], list(range(20)))

    async def test_drained(self) -> None:
        """
        The worker is told that no offer follows.
        """
        await self.join()
        self.channel.drained()
        await eventually(lambda: self.worker.heard(Drained))


@overTwistedToo
class WordOfTheWorkerTests(ListenerChannelTestCase):
    """
    What a worker says, and what the dispatcher hears.
    """

    async def say(self, *frames: Frame | bytes) -> None:
        """
        Join, say it, and wait until something of it is heard.
        """
        await self.join()
        self.worker.say(*frames)
        await eventually(lambda: self.told)

    async def test_claim(self) -> None:
        """
        CLAIM is told with its ids.
        """
        await self.say(Claim((1, 2)))
        self.assertEqual(self.told, [("claimed", (1, 2))])

    async def test_closed(self) -> None:
        """
        CLOSED is told with its ids.
        """
        await self.say(Closed((3, 1)))
        self.assertEqual(self.told, [("closed", (3, 1))])

    async def test_gone(self) -> None:
        """
        GONE is told with its ids.
        """
        await self.say(ClientGone((2,)))
        self.assertEqual(self.told, [("gone", (2,))])

    async def test_refuse(self) -> None:
        """
        REFUSE is told with its ids, and with the reason in words.
        """
        await self.say(Refuse(DRAINING, (2,)))
        self.assertEqual(self.told, [("refused", (2,), "the worker is draining")])

    async def test_refuseForReasonsUnknown(self) -> None:
        """
        A reason that has no words is told as its number.
        """
        await self.say(Refuse(77, (2,)))
        self.assertEqual(self.told, [("refused", (2,), "reason 77")])

    async def test_drain(self) -> None:
        """
        DRAIN is told.
        """
        await self.say(Drain())
        self.assertEqual(self.told, [("draining",)])

    async def test_bye(self) -> None:
        """
        A worker that says BYE has parted, and has not died.  The channel is
        closed, and nothing that follows counts.
        """
        await self.say(Claim((1,)), Bye("enough for today"), Claim((2,)))
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("claimed", (1,)),
                ("parted", "it says: enough for today"),
                ("disconnected",),
            ],
        )
        self.assertEqual(texts(self.logged, "warn"), [])


@overTwistedToo
class LendTests(ListenerChannelTestCase):
    """
    Lending shared sockets, on the listener's side.
    """

    async def test_lend(self) -> None:
        """
        A socket goes out with its frame, and stays open here.
        """
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.lend(7, sock)
            await eventually(lambda: self.worker.heard(Listener))
            (frame,) = self.worker.heard(Listener)
            self.assertEqual(frame, Listener(7, _kernel.cookie(sock)))
            (descriptor,) = self.worker.descriptors
            self.assertEqual(
                _kernel.identify(descriptor, [Kind.LISTENER]),
                (Kind.LISTENER, frame.cookie),
            )
            self.assertNotEqual(sock.fileno(), -1)

    async def test_forgotten(self) -> None:
        """
        What was lent and has been read is not kept in mind.
        """
        sent = getattr(self.channel.transport, "sent", None)
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            for count in range(1, 21):
                self.channel.withdraw(sock)
                await eventually(
                    lambda count=count: len(self.worker.heard(Withdraw)) == count
                )
                self.assertFalse(self.channel.unread())
        self.assertFalse(sent)

    async def test_withdraw(self) -> None:
        """
        It can be asked back.
        """
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.withdraw(sock)
            await eventually(lambda: self.worker.heard(Withdraw))
            self.assertEqual(
                self.worker.heard(Withdraw), [Withdraw(_kernel.cookie(sock))]
            )

    async def test_afterTheEnd(self) -> None:
        """
        A worker that is being parted with is lent nothing, and asked for nothing.
        """
        await self.join()
        self.channel.bye("enough")
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.lend(7, sock)
            self.channel.withdraw(sock)
            await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.heard(Listener), [])
        self.assertEqual(self.worker.heard(Withdraw), [])
        self.assertEqual(self.worker.descriptors, [])

    async def test_wrongKind(self) -> None:
        """
        A worker that cannot take what there is of the port that it asks for is told
        why and cut off, and the dispatcher never hears of it.
        """
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(1, ("http",), frozenset([Kind.DATAGRAMS])))
        await eventually(self.worker.hasEnded)
        (bye,) = self.worker.heard(Bye)
        self.assertIn("is no UDP port", bye.reason)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertIn("is no UDP port", "".join(texts(self.logged, "warn")))


@overTwistedToo
class DeathTests(ListenerChannelTestCase):
    """
    A worker that is gone without a word.
    """

    async def test_died(self) -> None:
        """
        A channel at its end is a death.
        """
        await self.join()
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.told, [("died",), ("disconnected",)])

    async def test_drainedBeforeJudged(self) -> None:
        """
        What it had written counts, also where the transport never read it: a
        connection that it claimed is not one to hand off again.
        """
        await self.join()
        self.worker.say(Claim((1,)), Closed((1,)))
        self.worker.say(Claim((2, 3)))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("claimed", (1,)),
                ("closed", (1,)),
                ("claimed", (2, 3)),
                ("died",),
                ("disconnected",),
            ],
        )

    async def test_lastWordBye(self) -> None:
        """
        A BYE among what was left unread makes it a parting.
        """
        await self.join()
        self.worker.say(Bye("gone"))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.told, [("parted", "it says: gone"), ("disconnected",)])


class OfferToTheDeadTests(ListenerChannelTestCase):
    """
    A worker that is dead, while there is more to offer.
    """

    async def test_roomByTheLastClaims(self) -> None:
        """
        A claim found at the end makes room for another offer.  One made to the
        dead worker in answer to it harms nothing: the claims behind it count,
        and the worker has died.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.dispatcher.react = lambda event: (
            self.offer(4, accepted) if event == ("claimed", (1,)) else None
        )
        self.worker.say(Claim((1,)), Claim((2,)))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(
            self.told,
            [("claimed", (1,)), ("claimed", (2,)), ("died",), ("disconnected",)],
        )


@overTwistedToo
class MisconductTests(ListenerChannelTestCase):
    """
    A worker that breaks the protocol.
    """

    async def cutOff(self, reason: str) -> None:
        """
        Wait until the worker is cut off, and check that everybody was told why.
        """
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.worker.frames[-2:], [Revoked(), Bye(reason)])
        self.assertEqual(self.told[-2:], [("parted", reason), ("disconnected",)])
        self.assertEqual(self.told.count(("revoking",)), 1)
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: {reason}"],
        )

    async def test_unknownFrame(self) -> None:
        """
        An unknown frame cuts it off; what was said before counts.
        """
        await self.join()
        self.worker.say(Claim((1,)), b"\xee\0\0\0", Claim((2,)))
        await self.cutOff("a frame of the unknown type 238")
        self.assertEqual(self.told[0], ("claimed", (1,)))

    async def test_framesOfTheListener(self) -> None:
        """
        A worker that sends OFFER is cut off.
        """
        await self.join()
        self.worker.say(Offer(1, 0, 1))
        await self.cutOff("a frame of the unknown type 3")

    async def test_wrongId(self) -> None:
        """
        What the dispatcher takes for a breach of the protocol cuts it off.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "claimed":
                raise ProtocolError("no such offer")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Claim((66,)))
        await self.cutOff("no such offer")

    async def test_misconductOnce(self) -> None:
        """
        However much is wrong, it is said once.
        """
        await self.join()
        self.worker.say(Closed((1,)), b"\xee\0\0\0")
        self.worker.say(b"\xef\0\0\0")
        await self.cutOff("a frame of the unknown type 238")

    async def test_goodAfterBad(self) -> None:
        """
        A frame that makes no sense does not undo what is written behind it.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Closed((66,)), Claim((1,)))
        await self.cutOff("no such connection")
        self.assertIn(("claimed", (1,)), self.told)

    async def test_nothingTwice(self) -> None:
        """
        What had come together with a bad frame is not read again along with
        what came later.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                self.worker.say(Claim((2,)))
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Claim((1,)), Closed((66,)))
        await self.cutOff("no such connection")
        self.assertEqual(
            [event for event in self.told if event[0] == "claimed"],
            [("claimed", (1,)), ("claimed", (2,))],
        )

    async def test_lastWords(self) -> None:
        """
        A worker whose last words make no sense has died.
        """
        await self.join()
        self.worker.say(Claim((1,)), b"\xee\0\0\0")
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [("claimed", (1,)), ("revoking",), ("died",), ("disconnected",)],
        )

    async def test_tooMuch(self) -> None:
        """
        Who goes on and on with what makes no sense is not listened to for ever.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(*[Closed((66,))] * 1000, Claim((1,)))
        await self.cutOff("no such connection")
        self.assertLess(self.told.count(("closed", (66,))), 100)
        self.assertNotIn(("claimed", (1,)), self.told)

    async def test_secondDrain(self) -> None:
        """
        DRAIN may be said once.
        """
        await self.join()
        self.worker.say(Drain(), Drain())
        await self.cutOff("a second DRAIN")
        self.assertEqual(self.told.count(("draining",)), 1)

    async def test_bug(self) -> None:
        """
        A bug of ours in handling a frame is logged as such, and ends this
        channel alone.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ZeroDivisionError

        self.dispatcher.react = fail
        await self.join()
        self.worker.say(Closed((1,)))
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn(
            f"a bug in portlisten ends the channel of {self.channel.label}",
            texts(self.logged, "critical"),
        )

    async def test_socketSent(self) -> None:
        """
        A worker that sends a socket is cut off, and the socket closed.
        """
        await self.join()
        with socket.socket() as sock:
            self.worker.say(Closed((1,)), descriptors=[sock.fileno()])
        await self.cutOff("it sent a descriptor")

    async def test_manySent(self) -> None:
        """
        Descriptors of any kind are closed, and are one complaint.
        """
        ends = os.pipe()
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[*ends, 0])
        for end in ends:
            os.close(end)
        await self.cutOff("it sent a descriptor")

    async def test_lingeringSocketSent(self) -> None:
        """
        To close a socket that the worker set up to linger takes no time.
        """
        [(_, accepted)] = self.connections(1)
        try:
            while True:
                accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass
        linger = struct.pack("ii", 1, 30)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[accepted.fileno()])
        accepted.close()  # leaves the last one to the channel
        start = time.monotonic()
        await self.cutOff("it sent a descriptor")
        self.assertLess(time.monotonic() - start, 5)

    async def test_lastDescriptor(self) -> None:
        """
        Descriptors among what was left unread at a death are closed as well.
        """
        await self.join()
        with socket.socket() as sock:
            self.worker.say(Claim((1,)), descriptors=[sock.fileno()])
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertIn(("claimed", (1,)), self.told)


@overTwistedToo
class RevocationTests(ListenerChannelTestCase):
    """
    How offers are taken back.
    """

    async def test_toldWhy(self) -> None:
        """
        The worker is told that what it has not claimed is gone, and why; once,
        however often it is revoked.
        """
        await self.join()
        self.channel.revoke("it hangs")
        self.channel.revoke("it hangs still")
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("disconnected",) in self.told)
        self.channel.revoke("it hung")
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        self.assertEqual(
            self.told, [("revoking",), ("parted", "it hangs"), ("disconnected",)]
        )

    async def test_claimBefore(self) -> None:
        """
        A claim that was in the kernel when the worker's way was shut counts.
        """
        await self.join()
        self.worker.say(Claim((1,)))
        self.channel.revoke("it hangs")
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("revoking",),
                ("claimed", (1,)),
                ("parted", "it hangs"),
                ("disconnected",),
            ],
        )

    async def test_byeBefore(self) -> None:
        """
        A BYE that was in the kernel by then is its parting, and the only one.
        """
        await self.join()
        self.worker.say(Claim((1,)), Bye("gone"))
        self.channel.revoke("it hangs")
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("revoking",),
                ("claimed", (1,)),
                ("parted", "it says: gone"),
                ("disconnected",),
            ],
        )

    async def test_claimAfter(self) -> None:
        """
        From the moment that the dispatcher hears of the parting, a claim fails
        in the kernel.
        """
        failures: list[str] = []

        def claim(event: tuple[Any, ...]) -> None:
            if event[0] == "parted":
                try:
                    self.worker.say(Claim((1,)))
                except BrokenPipeError:
                    failures.append("EPIPE")

        self.dispatcher.react = claim
        await self.join()
        self.channel.revoke("it hangs")
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(failures, ["EPIPE"])
        self.assertNotIn(("claimed", (1,)), self.told)

    async def test_noRoomForTheWord(self) -> None:
        """
        While the word of it cannot be written, nothing is taken back: a worker
        that saw the end without it would serve what it holds.  What it claims
        meanwhile counts.
        """
        await self.join()
        stuff(self.channel)
        self.channel.revoke("it hangs")
        self.worker.say(Claim((1,)))
        await eventually(lambda: len(self.told) > 1)
        self.clock.advance(3600)
        await aMoment()
        self.assertEqual(self.told, [("revoking",), ("claimed", (1,))])
        await unstuff(self.worker)
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.told[2:], [("parted", "it hangs"), ("disconnected",)])

    async def test_noMemoryForTheWord(self) -> None:
        """
        The word is said a little later if the kernel is short of something: only a
        worker that closed the way to it is deaf.
        """
        await self.join()
        short = Short(self.channel._socket)
        self.channel._duplicate = short
        self.channel.revoke("it hangs")
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(short.tries, 1)
        self.assertEqual(
            self.told, [("revoking",), ("parted", "it hangs"), ("disconnected",)]
        )

    async def test_behindTheOffers(self) -> None:
        """
        What was to be sent before goes first, so that the word comes behind each
        offer that the worker will ever see.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        self.channel.revoke("it hangs")
        self.channel.drained()
        await eventually(self.worker.hasEnded)
        self.assertEqual(
            [type(frame) for frame in self.worker.frames],
            [ListenerHello, Offer, Revoked, Bye],
        )
        self.assertEqual(len(self.worker.descriptors), 1)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told, [("revoking",), ("parted", "it hangs"), ("disconnected",)]
        )

    async def test_alreadyDead(self) -> None:
        """
        A worker that turns out to be dead has died; what it had claimed counts.
        """
        await self.join()
        self.worker.say(Claim((1,)))
        self.worker.close()
        self.channel.revoke("it hangs")
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [("revoking",), ("claimed", (1,)), ("died",), ("disconnected",)],
        )

    async def test_deathBehindTheWord(self) -> None:
        """
        One that goes when the word is out, and its way not shut yet, may have
        heard it and be alive: what it claimed is its own.
        """

        def react(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")
            if event[0] == "claimed":
                self.worker.close()

        self.dispatcher.react = react
        await self.join()
        self.worker.say(Closed((66,)), Claim((1,)))
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("closed", (66,)),
                ("revoking",),
                ("claimed", (1,)),
                ("parted", "no such connection"),
                ("disconnected",),
            ],
        )

    async def test_deathMeanwhile(self) -> None:
        """
        One that goes before the word is out has died.
        """
        await self.join()
        stuff(self.channel)
        self.channel.revoke("it hangs")
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.told, [("revoking",), ("died",), ("disconnected",)])

    async def test_unsentStaysUnsent(self) -> None:
        """
        What is unsent when a worker parts is never sent: it is about to become
        somebody else's.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        stuff(self.channel)
        self.offer(1, accepted)
        self.worker.say(Bye("enough"))
        await eventually(lambda: self.told)
        while not self.worker.ended:
            try:
                data, descriptors = _kernel.receive(self.worker.socket)
            except BlockingIOError:
                await deferLater(reactor, 0.002)
            except ConnectionResetError:
                break
            else:
                self.assertEqual((data.strip(b"\0"), descriptors), (b"", []))
                self.worker.ended = not data


@overTwistedToo
class FarewellTests(ListenerChannelTestCase):
    """
    How the listener leaves.
    """

    async def test_bye(self) -> None:
        """
        What was offered before still goes out; then the channel is closed.  The
        dispatcher, who knows, is told of no parting and no death.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        self.channel.bye("the listener stops")
        self.channel.bye("again")
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            [type(frame) for frame in self.worker.frames], [ListenerHello, Offer, Bye]
        )
        self.assertEqual(len(self.worker.descriptors), 1)
        self.assertEqual(self.worker.frames[-1], Bye("the listener stops"))
        self.assertEqual(self.told, [("disconnected",)])

    async def test_deaf(self) -> None:
        """
        Nothing that the worker says after it is listened to.
        """
        await self.join()
        stuff(self.channel)
        self.channel.bye("the listener stops")
        self.worker.say(Claim((1,)))
        await aMoment()
        await unstuff(self.worker)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.told, [("disconnected",)])

    async def test_beforeHello(self) -> None:
        """
        A worker that has not said HELLO yet is told as well.
        """
        self.channel.bye("the listener stops")
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames[-1], Bye("the listener stops"))

    async def test_afterTheEnd(self) -> None:
        """
        To a worker that is gone there is nothing to say.
        """
        await self.join()
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.channel.bye("too late")
        self.channel.revoke("too late")
        self.channel.dataReceived(encode(Claim((1,))))
        self.assertEqual(self.told, [("died",), ("disconnected",)])


class WorkerChannelTestCase(ChannelTestCase):
    """
    A L{WorkerChannel}, and a listener made by hand.
    """

    hello = ListenerHello(4, (Port(0, UnixAddress(b"/run/www")),))
    window = 4
    takes = frozenset([Kind.CONNECTIONS])

    async def setUp(self) -> None:
        await super().setUp()
        self.adopter = RecordingAdopter()
        self.channel = WorkerChannel(
            self.clock, self.adopter, self.window, takes=self.takes
        )
        self.listener = self.peerOf(self.channel, FROM_WORKER)
        self.addCleanup(self.end)

    async def end(self) -> None:
        self.listener.close()
        await self.gone()
        self.assertEqual(len(self.adopter.lostFor), 1)
        self.assertEqual(self.adopter.events[-1][0], "lost")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for descriptor in self.adopter.descriptors.values():
            os.close(descriptor)

    async def gone(self) -> None:
        """
        Wait until the channel is lost.
        """
        await eventually(lambda: self.adopter.lostFor)

    async def register(self) -> None:
        """
        Have the listener say HELLO, once it has read the worker's.
        """
        await eventually(self.listener.read)
        self.listener.say(self.hello)
        await eventually(lambda: self.adopter.events)

    def offer(self, *pairs: tuple[int, socket.socket]) -> None:
        """
        Offer connections, in one message.
        """
        self.listener.say(
            *[Offer(id, 0, _kernel.cookie(sock)) for id, sock in pairs],
            descriptors=[sock.fileno() for _, sock in pairs],
        )

    async def adopt(self, count: int) -> list[tuple[socket.socket, socket.socket]]:
        """
        Have the worker adopt some connections, with ids from 1 on.
        """
        pairs = self.connections(count)
        self.offer(*[(id, pair[1]) for id, pair in enumerate(pairs, 1)])
        await eventually(lambda: len(self.adopter.adopted) == count)
        return pairs


class ExhaustedTests(ChannelTestCase):
    """
    A process that has no descriptor left for a channel.
    """

    def exhaust(self) -> None:
        """
        Have it impossible to duplicate a socket.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket.socket, "dup", fail)

    def check(self, channel: Protocol, vocabulary: Vocabulary) -> None:
        """
        See that the channel is not made, and that nothing of it is left.
        """
        self.exhaust()
        ours, theirs = socket.socketpair()
        with theirs:
            self.assertRaises(OSError, self.attach, channel, ours)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_listener(self) -> None:
        """
        The dispatcher hears that it is over, and of no worker.
        """
        dispatcher = RecordingDispatcher()
        channel = ListenerChannel(self.clock, dispatcher, ListenerHello(1), 1)
        self.check(channel, FROM_LISTENER)
        await aMoment()
        self.assertEqual(dispatcher.events, [("disconnected",)])

    async def test_worker(self) -> None:
        """
        The adopter hears why.
        """
        adopter = RecordingAdopter()
        self.check(WorkerChannel(self.clock, adopter), FROM_WORKER)
        await aMoment()
        self.assertEqual(adopter.events, [("lost", "Too many open files")])


@overTwistedToo
class WorkerGreetingTests(WorkerChannelTestCase):
    """
    How the worker meets its listener.
    """

    async def test_hello(self) -> None:
        """
        The worker says HELLO with its window, without being asked.
        """
        await eventually(self.listener.read)
        self.assertEqual(self.listener.frames, [WorkerHello(4)])

    async def test_registered(self) -> None:
        """
        The adopter hears what the listener's HELLO says.
        """
        await self.register()
        self.assertEqual(self.adopter.events, [("registered", self.hello.ports)])
        self.assertEqual(str(self.channel), "the listener")

    async def test_inTime(self) -> None:
        """
        Once HELLO is said, silence is no fault.
        """
        await self.register()
        self.clock.advance(3600)
        await aMoment()
        self.assertFalse(self.listener.hasEnded())

    async def test_silence(self) -> None:
        """
        A listener that does not say HELLO in time is left, with a BYE that says
        why.
        """
        self.clock.advance(4.9)
        self.assertFalse(self.listener.hasEnded())
        self.clock.advance(0.1)
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(
            self.listener.frames,
            [WorkerHello(4), Drain(), Bye("no HELLO within 5 s")],
        )
        self.assertEqual(self.adopter.lostFor, ["no HELLO within 5 s"])

    async def test_turnedAway(self) -> None:
        """
        A listener may say BYE instead of HELLO, and the adopter hears why.
        """
        self.listener.say(Bye("members only"))
        self.listener.close()
        await self.gone()
        self.assertEqual(
            self.adopter.events, [("lost", "the listener says: members only")]
        )


@overTwistedToo
class ClaimTests(WorkerChannelTestCase):
    """
    Claim before touch.
    """

    async def test_claimFirst(self) -> None:
        """
        When a connection is given to the adopter, its claim is in the kernel:
        the listener can read it there.
        """
        seen: list[list[Claim]] = []
        self.adopter.react = lambda event: (
            seen.append(self.listener.heard(Claim)) if event[0] == "adopt" else None
        )
        await self.register()
        await self.adopt(2)
        self.assertEqual(seen, [[Claim((1, 2))]] * 2)

    async def test_notWhileUnwritten(self) -> None:
        """
        While the claim cannot be written, nothing is adopted; afterwards it is.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        await unstuff(self.listener)
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])

    async def test_batches(self) -> None:
        """
        What comes while a claim is being written is claimed after it, in one.
        """
        pairs = self.connections(3)
        await self.register()
        stuff(self.channel)
        for id, (_, accepted) in enumerate(pairs):
            self.offer((id, accepted))
            await aMoment()
        await unstuff(self.listener)
        await eventually(lambda: len(self.adopter.adopted) == 3)
        self.assertEqual(self.listener.heard(Claim), [Claim((0,)), Claim((1, 2))])

    async def test_theConnectionItself(self) -> None:
        """
        The adopter gets the connection that the offer names, whatever the order
        in which the descriptors came.
        """
        pairs = self.connections(3)
        await self.register()
        self.listener.say(
            *[Offer(id, 0, _kernel.cookie(pair[1])) for id, pair in enumerate(pairs)],
            descriptors=[accepted.fileno() for _, accepted in reversed(pairs)],
        )
        await eventually(lambda: len(self.adopter.adopted) == 3)
        for id, (client, _) in enumerate(pairs):
            os.write(self.adopter.descriptors[id], b"%d" % id)
            self.assertEqual(client.recv(10), b"%d" % id)

    async def test_descriptorAhead(self) -> None:
        """
        A descriptor may come long before its offer.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        frame = encode(Offer(1, 0, _kernel.cookie(accepted)))
        self.listener.say(frame[:1], descriptors=[accepted.fileno()])
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        self.listener.say(frame[1:])
        await eventually(lambda: self.adopter.adopted)

    async def test_closeOnExec(self) -> None:
        """
        What is adopted is not passed on to programs that the worker runs.
        """
        await self.register()
        await self.adopt(1)
        self.assertFalse(os.get_inheritable(self.adopter.descriptors[1]))

    async def test_gone(self) -> None:
        """
        A client that left before its connection was adopted is reported.
        """
        await self.register()
        await self.adopt(2)
        self.channel.clientGone(2)
        await eventually(lambda: self.listener.heard(ClientGone))
        self.assertEqual(self.listener.heard(ClientGone), [ClientGone((2,))])

    async def test_bug(self) -> None:
        """
        A bug that loses one connection is logged, and loses no other.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "adopt" and event[1].id == 1:
                raise ZeroDivisionError

        self.adopter.react = fail
        await self.register()
        await self.adopt(2)
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_closed(self) -> None:
        """
        The end of a connection is reported.
        """
        await self.register()
        await self.adopt(2)
        self.channel.closed(2)
        await eventually(lambda: self.listener.heard(Closed))
        self.assertEqual(self.listener.heard(Closed), [Closed((2,))])


@overTwistedToo
class UselessDescriptorTests(WorkerChannelTestCase):
    """
    Descriptors of what is no stream connection.
    """

    async def check(self, descriptor: int, complaint: str) -> None:
        """
        Send one, along with one of a connection, and check that this alone is
        adopted and that the other is closed with a complaint.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(
            Offer(1, 0, 12345),
            Offer(2, 0, _kernel.cookie(accepted)),
            descriptors=[descriptor, accepted.fileno()],
        )
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.adopter.adopted, [2])
        self.assertEqual(
            self.listener.heard(Refuse), [Refuse(MISSING_DESCRIPTOR, (1,))]
        )
        [line] = texts(self.logged, "warn")
        self.assertIn(complaint, line)

    async def test_pipe(self) -> None:
        """
        A pipe is closed.
        """
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        await self.check(ends[0], "non-socket")

    async def test_file(self) -> None:
        """
        A file is closed.
        """
        with open(os.devnull) as file:
            await self.check(file.fileno(), "non-socket")

    async def test_listeningSocket(self) -> None:
        """
        A listening socket is closed.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await self.check(sock.fileno(), "a listening socket")

    async def test_datagramSocket(self) -> None:
        """
        A connected datagram socket, which Twisted would adopt, is closed.
        """
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
            await self.check(sock.fileno(), "a UDP socket")


@overTwistedToo
class MissingDescriptorTests(WorkerChannelTestCase):
    """
    Offers whose descriptor did not arrive.
    """

    async def test_refused(self) -> None:
        """
        Such an offer is refused, and those around it are not affected.
        """
        pairs = self.connections(3)
        await self.register()
        offers = [
            Offer(id, 0, _kernel.cookie(pair[1])) for id, pair in enumerate(pairs)
        ]
        self.listener.say(
            *offers, descriptors=[pairs[0][1].fileno(), pairs[2][1].fileno()]
        )
        await eventually(lambda: len(self.adopter.adopted) == 2)
        self.assertEqual(self.adopter.adopted, [0, 2])
        self.assertEqual(
            self.listener.heard(Refuse), [Refuse(MISSING_DESCRIPTOR, (1,))]
        )

    async def test_tooMany(self) -> None:
        """
        A listener that sends more descriptors than the window allows, and no
        offers, is left; none of them is kept.
        """
        pairs = self.connections(5)
        await self.register()
        self.listener.say(b"\3", descriptors=[pair[1].fileno() for pair in pairs])
        await self.gone()
        self.assertEqual(
            self.adopter.lostFor, ["more than 4 descriptors without their offers"]
        )
        self.assertEqual(self.adopter.adopted, [])


@overTwistedToo
class RevokedTests(WorkerChannelTestCase):
    """
    A listener that takes its offers back.
    """

    def revoke(self) -> None:
        """
        Revoke as a listener does: tell the worker, shut its way, and close.
        """
        self.listener.say(Bye("you hang"), Revoked())
        self.listener.socket.shutdown(socket.SHUT_RD)
        self.listener.close()

    async def test_claimInFlightFails(self) -> None:
        """
        What is being claimed when the way is shut is not touched.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.revoke()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])
        self.assertEqual(self.adopter.lostFor, ["the listener says: you hang"])

    async def test_claimInFlightArrives(self) -> None:
        """
        A claim that reached the kernel after REVOKED came, and before the way
        was shut, holds: the connection is served.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.listener.say(Revoked())
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        await unstuff(self.listener)
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])
        await self.gone()

    async def test_unclaimed(self) -> None:
        """
        What was waiting to be claimed is closed, and never claimed; so are
        descriptors whose offers did not come, and those that come too late.
        """
        pairs = self.connections(4)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        self.listener.say(encode(Revoked())[:1], descriptors=[pairs[2][1].fileno()])
        self.listener.say(encode(Revoked())[1:])
        await aMoment()
        self.listener.say(b"\3", descriptors=[pairs[3][1].fileno()])
        await aMoment()
        await unstuff(self.listener)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])

    async def test_idle(self) -> None:
        """
        A worker with nothing in flight closes the channel, and goes on serving
        what it has claimed.
        """
        await self.register()
        [(client, _)] = await self.adopt(1)
        self.listener.say(Bye("you hang"), Revoked())
        await eventually(self.listener.hasEnded)
        await self.gone()
        os.write(self.adopter.descriptors[1], b"still here")
        self.assertEqual(client.recv(100), b"still here")

    async def test_unread(self) -> None:
        """
        Word of it counts where it was left unread when a write failed.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.revoke()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])


@overTwistedToo
class ListenerGoneTests(WorkerChannelTestCase):
    """
    A listener that dies, and says nothing.
    """

    async def test_unclaimedIsServed(self) -> None:
        """
        What it had offered is this worker's, whether the claim could be written
        or not, and in the order in which it came.
        """
        pairs = self.connections(2)
        await self.register()
        stuff(self.channel)
        for id, (_, accepted) in enumerate(pairs, 1):
            self.offer((id, accepted))
            await aMoment()
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(self.adopter.lostFor, [None])

    async def test_unreadIsServed(self) -> None:
        """
        So is what it had offered and the transport never read; and it is not
        passed on to programs that the worker runs.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        self.listener.close()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertFalse(os.get_inheritable(self.adopter.descriptors[1]))

    async def test_byeIsNoRevocation(self) -> None:
        """
        A listener that says BYE and closes leaves its offers to the worker.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        self.listener.say(Bye("the listener stops"))
        self.listener.close()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(
            self.adopter.lostFor, ["the listener says: the listener stops"]
        )

    async def test_looseIsClosed(self) -> None:
        """
        A descriptor whose offer never came is closed.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(b"\3", descriptors=[accepted.fileno()])
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])

    async def test_channelFails(self) -> None:
        """
        If its channel fails and the listener lives, a worker says so: the listener
        takes the end of the channel for the death of the worker otherwise, and has
        others serve what the worker serves.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        await eventually(lambda: self.adopter.adopted)

        def fail(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(_kernel, "send", fail)
        if isinstance(self.channel.transport, ChannelTransport):
            self.channel.closed(1)
            await self.gone()
            await eventually(self.listener.hasEnded)
            self.assertEqual(
                self.listener.frames[-2:], [Claim((1,)), Bye("the channel failed")]
            )

    async def test_afterTheEnd(self) -> None:
        """
        There is nobody to talk to any more, and a descriptor that turns up all
        the same is closed.
        """
        await self.register()
        self.listener.close()
        await self.gone()
        self.channel.closed(1)
        self.channel.clientGone(2)
        self.channel.drain()
        self.channel.bye("too late")
        self.channel.fileDescriptorReceived(os.dup(0))
        self.channel.dataReceived(encode(Drained()))
        self.assertEqual(self.adopter.events[1:], [("lost", None)])


class ListenerFailureTests(WorkerChannelTestCase):
    """
    A channel that fails, at whose other end the listener lives.
    """

    async def offerUnclaimed(self) -> socket.socket:
        """
        Have the worker be offered a connection that it cannot claim.

        @return: the client.
        """
        [(client, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        accepted.close()
        await aMoment()
        return client

    def failOnce(self) -> None:
        """
        Have the transport's next read fail for good.
        """
        receive = _kernel.receive

        def fail(*args: Any) -> Any:
            self.patch(_kernel, "receive", receive)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.patch(_kernel, "receive", fail)

    async def test_unclaimed(self) -> None:
        """
        What is not claimed is closed: the listener may give it to somebody else.
        """
        client = await self.offerUnclaimed()
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])
        self.assertEqual(client.recv(1), b"")

    async def test_claimed(self) -> None:
        """
        What is claimed is served on.
        """
        await self.register()
        [(client, _)] = await self.adopt(1)
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        await self.gone()
        os.write(self.adopter.descriptors[1], b"still here")
        self.assertEqual(client.recv(100), b"still here")

    async def test_dead(self) -> None:
        """
        If the other end is closed, the listener is dead, however that was found, and
        what it had offered is this worker's.
        """
        client = await self.offerUnclaimed()
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        os.write(self.adopter.descriptors[1], b"served")
        self.assertEqual(client.recv(100), b"served")


@overTwistedToo
class LentTests(WorkerChannelTestCase):
    """
    Being lent shared sockets, on the worker's side.
    """

    takes = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.DATAGRAMS])

    async def setUp(self) -> None:
        await super().setUp()
        self.shared = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.shared.close)
        self.addCleanup(self.closeLent)
        self.cookie = _kernel.cookie(self.shared)

    def closeLent(self) -> None:
        """
        Close what the adopter was given.
        """
        for descriptor in self.adopter.sharedDescriptors:
            os.close(descriptor)

    def lend(self, *frames: Frame, sock: socket.socket | None = None) -> None:
        """
        Send a socket, and frames.
        """
        descriptor = (sock or self.shared).fileno()
        self.listener.say(*frames, descriptors=[descriptor])

    async def test_lent(self) -> None:
        """
        The adopter gets a socket when the frame is there that names it.
        """
        await self.register()
        self.lend(Listener(0, self.cookie))
        await eventually(lambda: self.adopter.sharedDescriptors)
        self.assertEqual(
            self.adopter.events[-1], ("socketShared", Listener(0, self.cookie))
        )
        (descriptor,) = self.adopter.sharedDescriptors
        self.assertFalse(os.get_inheritable(descriptor))
        self.assertEqual(
            _kernel.identify(descriptor, self.takes), (Kind.LISTENER, self.cookie)
        )

    async def test_datagrams(self) -> None:
        """
        UDP likewise.
        """
        await self.register()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            cookie = _kernel.cookie(sock)
            self.lend(Listener(0, cookie), sock=sock)
            await eventually(lambda: self.adopter.sharedDescriptors)
        self.assertEqual(self.adopter.events[-1], ("socketShared", Listener(0, cookie)))

    async def test_withdrawn(self) -> None:
        """
        It hears when one is not to be used any more.
        """
        await self.register()
        self.listener.say(Withdraw(5))
        await eventually(lambda: self.adopter.events[-1] == ("withdrawn", 5))

    async def test_missing(self) -> None:
        """
        A frame whose socket did not come ends the channel: the worker joins anew,
        and is sent it again.
        """
        await self.register()
        self.listener.say(Listener(0, self.cookie))
        await eventually(self.listener.hasEnded)
        (bye,) = self.listener.heard(Bye)
        self.assertIn("got lost on its way", bye.reason)

    async def test_neverNamed(self) -> None:
        """
        A socket that no frame names is closed when the channel is gone; and if it
        comes twice, one of the two at once.
        """
        await self.register()
        self.lend(Drained())
        self.lend(Drained())
        await eventually(lambda: self.adopter.events.count(("drained",)) == 2)
        self.listener.close()
        await eventually(lambda: self.adopter.lostFor)
        self.assertEqual(self.adopter.sharedDescriptors, [])

    async def test_tooMany(self) -> None:
        """
        A listener that sends sockets and never says what for is left.
        """
        self.patch(worker_session, "MAXIMUM_SOCKETS", 2)
        await self.register()
        for _ in range(3):
            with socket.create_server(("127.0.0.1", 0)) as sock:
                self.lend(Drained(), sock=sock)
        await eventually(self.listener.hasEnded)
        (bye,) = self.listener.heard(Bye)
        self.assertEqual(bye.reason, "more than 2 sockets without their frames")


@overTwistedToo
class ListenerMisconductTests(WorkerChannelTestCase):
    """
    A listener that breaks the protocol.
    """

    async def cutOff(self, reason: str) -> None:
        """
        Check that it is left, with a BYE that says why, and the adopter told.
        """
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(self.listener.frames[-1], Bye(reason))
        self.assertEqual(self.adopter.lostFor, [reason])

    async def test_malformed(self) -> None:
        """
        What makes no sense ends the channel, and what is not claimed by then
        goes back.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(
            Offer(1, 0, _kernel.cookie(accepted)),
            b"\xee\0\0\0",
            descriptors=[accepted.fileno()],
        )
        await self.cutOff("a frame of the unknown type 238")
        self.assertEqual(
            self.listener.frames,
            [
                WorkerHello(4),
                Refuse(DRAINING, (1,)),
                Drain(),
                Bye("a frame of the unknown type 238"),
            ],
        )
        self.assertEqual(self.adopter.adopted, [])

    async def test_once(self) -> None:
        """
        However much is wrong, it is said once.
        """
        await self.register()
        stuff(self.channel)
        for _ in range(2):
            self.listener.say(b"\xee\0\0\0")
            await aMoment()
        await unstuff(self.listener)
        await self.cutOff("a frame of the unknown type 238")

    async def test_bug(self) -> None:
        """
        A bug of ours in handling a frame is logged as such, and ends this
        channel.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "drained":
                raise ZeroDivisionError

        self.adopter.react = fail
        await self.register()
        self.listener.say(Drained(), Drained())
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


@overTwistedToo
class DrainTests(WorkerChannelTestCase):
    """
    A worker that wants no more.
    """

    async def test_drain(self) -> None:
        """
        The listener is asked once, and the adopter hears its answer.
        """
        await self.register()
        self.channel.drain()
        self.channel.drain()
        await eventually(lambda: self.listener.heard(Drain))
        self.listener.say(Drained())
        await eventually(lambda: ("drained",) in self.adopter.events)
        self.assertEqual(self.listener.heard(Drain), [Drain()])

    async def test_givesBack(self) -> None:
        """
        What waited to be claimed goes back, and so does what comes later; what
        was being claimed is served.
        """
        pairs = self.connections(3)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        await aMoment()
        self.channel.drain()
        self.offer((3, pairs[2][1]))
        await aMoment()
        await unstuff(self.listener)
        await eventually(lambda: self.listener.heard(Drain))
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.listener.heard(Refuse), [Refuse(DRAINING, (2, 3))])

    async def test_bye(self) -> None:
        """
        BYE is the last word, and is said once what was being claimed is
        claimed.
        """
        pairs = self.connections(2)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        await aMoment()
        self.channel.bye("the worker stops")
        self.channel.bye("again")
        await unstuff(self.listener)
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(
            self.listener.frames,
            [
                WorkerHello(4),
                Claim((1,)),
                Refuse(DRAINING, (2,)),
                Drain(),
                Bye("the worker stops"),
            ],
        )
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.adopter.lostFor, ["the worker stops"])

    async def test_lostWhileParting(self) -> None:
        """
        A listener that is gone before BYE could be said leaves to the worker
        what was being claimed to be closed: it said that it would not serve it.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.channel.bye("the worker stops")
        self.offer((1, accepted))
        await aMoment()
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])


OUT_OF_DESCRIPTORS = """
import os, resource, socket, sys
from twisted.internet import reactor
from portlisten._worker.channel import WorkerChannel
from tests.support.channels import Once, RecordingAdopter

class Adopter(RecordingAdopter):
    def adopt(self, channel, offer, descriptor):
        os.write(descriptor, b"%d" % offer.id)
        os.close(descriptor)
        channel.closed(offer.id)

    def lost(self, channel, reason):
        reactor.stop()

def exhaust():
    # What is not open yet when it is needed could not be opened any more.
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    soft = max(used) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    filler = []
    try:
        while True:
            filler.append(os.dup(0))
    except OSError:
        os.close(filler.pop())
    os.write(1, b"ready")

sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(False)
channel = WorkerChannel(reactor, Adopter())
reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Once(channel))
sock.close()
reactor.callWhenRunning(exhaust)
reactor.run()
"""


class OutOfDescriptorsTests(SynchronousTestCase):
    """
    A worker that has no room for all descriptors of a message, some of which
    the kernel then drops, and says so by C{MSG_CTRUNC}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        pairs = [tcpPair() for _ in range(4)]
        for pair in pairs:
            for sock in pair:
                self.addCleanup(sock.close)
        self.clients = [client for client, _ in pairs]
        self.accepted = [accepted for _, accepted in pairs]

    def start(self) -> tuple[Peer, subprocess.Popen[bytes]]:
        """
        Start a worker, and wait until it has one free descriptor.
        """
        ours, theirs = socket.socketpair()
        repository = str(Path(__file__).resolve().parents[3])
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": repository},
            )
        listener = Peer(ours, FROM_WORKER)
        assert child.stdout is not None
        for cleanup in (child.wait, child.kill, child.stdout.close, listener.close):
            self.addCleanup(cleanup)
        self.assertEqual(child.stdout.read(5), b"ready")
        return listener, child

    def test_truncated(self) -> None:
        """
        The offers that lost their descriptor are refused, and the one that did
        not is answered to the very client that it belongs to.
        """
        listener, child = self.start()
        listener.say(
            ListenerHello(4),
            *[
                Offer(id, 0, _kernel.cookie(sock))
                for id, sock in enumerate(self.accepted)
            ],
            descriptors=[sock.fileno() for sock in self.accepted],
        )
        while not (listener.heard(Closed) and listener.heard(Refuse)):
            self.assertTrue(select.select([listener.socket], [], [], PATIENCE)[0])
            self.assertFalse(listener.hasEnded())
        [refuse], [claim] = listener.heard(Refuse), listener.heard(Claim)
        self.assertEqual(refuse, Refuse(MISSING_DESCRIPTOR, (1, 2, 3)))
        self.assertEqual(claim, Claim((0,)))
        self.assertEqual(self.clients[0].recv(10), b"0")
        for client in self.clients[1:]:
            client.setblocking(False)
            self.assertRaises(BlockingIOError, client.recv, 1)
        listener.close()
        self.assertEqual(child.wait(10), 0)
