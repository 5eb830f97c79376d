"""
The base of the tests of a channel's two ends: one end over a kernel socket, and a peer
that writes its frames by hand.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.unread import Unread
from portlisten._channel.worker_end import WorkerChannel
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.interfaces import IConnection
from portlisten._model import InternetAddress, Kind, Port, UnixAddress
from portlisten._wire.codec import FROM_LISTENER, FROM_WORKER, Vocabulary
from portlisten._wire.frames import ListenerHello, Offer, WorkerHello
from tests.support.channels import (
    Once,
    Peer,
    RecordingAdopter,
    RecordingDispatcher,
    eventually,
    inReactor,
    tcpPair,
)


def attach(protocol: Protocol, sock: socket.socket) -> None:
    """
    Serve a protocol on a socket in the reactor, over portlisten's transport.
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
    Serve a protocol on a socket in the reactor, over Twisted's own transport.
    """
    sock.setblocking(False)
    with sock:
        adopting: Any = reactor
        adopting.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Once(protocol))


_TestClass = TypeVar("_TestClass", bound="ChannelTestCase")


def overTwistedToo(testClass: type[_TestClass]) -> type[_TestClass]:
    """
    Run a class of tests once more, over Twisted's own transport.
    """
    name = testClass.__name__.replace("Tests", "OverTwistedTests")
    content = {
        "attach": staticmethod(adopt),
        "__doc__": testClass.__doc__,
        "__module__": testClass.__module__,
    }
    module = sys.modules[testClass.__module__]
    metaclass: Any = type(testClass)
    setattr(module, name, metaclass(name, (testClass,), content))
    return testClass


def transportOf(protocol: Protocol) -> Any:
    """
    The transport of a protocol, which provides several interfaces at once.
    """
    return protocol.transport


def stuff(protocol: Protocol) -> None:
    """
    Fill the buffer from a protocol to its peer.  Nothing more can be written until the
    peer reads.
    """
    handle = transportOf(protocol).getHandle()
    try:
        while True:
            handle.send(b"\0" * 65536)
    except BlockingIOError:
        pass


class Short(socket.socket):
    """
    A socket for which the kernel has no memory when something is sent.

    @param sock: the socket whose descriptor this one takes over.
    @ivar tries: how often C{send} was called.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.tries = 0

    def send(self, *_: object) -> int:
        self.tries += 1
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def findDead(protocol: Protocol) -> None:
    """
    Let a write find the peer dead, before the reactor reads the peer's last bytes.
    """
    transport = transportOf(protocol)
    transport.stopReading()
    transport.write(b"\0")


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

    def untouched(self) -> bool:
        return True

    def unusable(self) -> bool:
        return False

    def reset(self) -> None:
        self.socket.close()

    def closeCopy(self) -> None:
        self.socket.close()


class ChannelTestCase(TestCase):
    """
    One end of a channel, and its peer.

    @cvar attach: serves a protocol on a socket in the reactor.
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
        Serve a protocol on one end of a pair of Unix sockets in the reactor.

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
        await eventually(lambda: ("channelClosed",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events[-1], ("channelClosed",))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @property
    def told(self) -> list[tuple[Any, ...]]:
        """
        Return the dispatcher's events since the worker joined.
        """
        return self.dispatcher.events[2:]

    async def join(self, window: int = 4) -> None:
        """
        Send the worker's HELLO after the listener's has come.
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
        transportOf(self.channel).stopReading()


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
        Send the listener's HELLO after the worker's has come.
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
        Let the worker adopt some connections, with ids from 1 on.
        """
        pairs = self.connections(count)
        self.offer(*[(id, pair[1]) for id, pair in enumerate(pairs, 1)])
        await eventually(lambda: len(self.adopter.adopted) == count)
        return pairs
