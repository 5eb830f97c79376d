"""
Helpers for tests of workers: a listener, factories, and a clock.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from twisted.internet import reactor, tcp
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from portlisten import _kernel
from portlisten._model import InternetAddress, Port
from portlisten._wire.codec import FROM_WORKER
from portlisten._wire.frames import Frame, ListenerHello, Offer
from portlisten._worker import adoption
from portlisten._worker.worker import Worker
from tests.support.channels import Peer, aMoment, eventually, inReactor, tcpPair, texts
from tests.support.clocks import RunningClock

RETRY = 0.5
GRACE = 10.0

HELLO = ListenerHello(8, (Port(0, InternetAddress("TCP", "192.0.2.1", 80)),))


NAMED = ListenerHello(
    8,
    (
        Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
        Port(1, InternetAddress("TCP", "192.0.2.1", 443), "https"),
    ),
)


async def hear(client: socket.socket) -> bytes:
    """
    Read what is sent to a client next, while the reactor runs.  No bytes mean the end.

    @raise OSError: C{ECONNRESET} if the connection was reset.
    """
    client.setblocking(False)
    heard: list[bytes] = []

    def read() -> bool:
        try:
            heard.append(client.recv(1000))
        except BlockingIOError:
            return False
        return True

    await eventually(read)
    return heard[0]


@contextmanager
def monkeyPatched(thing: object, name: str, value: object) -> Iterator[None]:
    """
    Replace an attribute for a while.
    """
    patcher = MonkeyPatcher((thing, name, value))
    patcher.patch()
    try:
        yield
    finally:
        patcher.restore()


@contextmanager
def exhausted() -> Iterator[Callable[[], None]]:
    """
    Use up all descriptors for a while.

    @return: a function that uses up descriptors that have become free since.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken: list[int] = []

    def take() -> None:
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass

    try:
        take()
        yield take
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


class ClockedReactor:
    """
    The real reactor, but for the time, which is a L{Clock}'s.

    @ivar adopting: called before a connection is adopted; may raise.
    """

    def __init__(self) -> None:
        self.clock = RunningClock()
        self.callLater = self.clock.callLater
        self.seconds = self.clock.seconds
        self.adopting: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def replace(self, **methods: Any) -> None:
        """
        Replace methods of the reactor.
        """
        vars(self).update(methods)

    def adoptStreamConnection(self, *args: Any) -> Any:
        self.adopting()
        real: Any = reactor
        return real.adoptStreamConnection(*args)


class Conversation(Protocol):
    """
    Keeps the bytes that it receives.
    """

    transport: tcp.Connection

    def __init__(self, factory: Conversations) -> None:
        self._factory = factory
        self.received = b""
        self.lost = False

    def connectionMade(self) -> None:
        self._factory.made(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@implementer(IHalfCloseableProtocol)
class HalfConversation(Conversation):
    """
    A conversation that goes on when the client has ended its side.
    """

    readLost = False
    writeLost = False

    def readConnectionLost(self) -> None:
        self.readLost = True

    def writeConnectionLost(self) -> None:
        self.writeLost = True

    def logPrefix(self) -> str:
        return "half a conversation"


class Conversations(Factory):
    """
    Builds one protocol a connection, and counts its own starts and stops.

    @ivar build: builds a protocol.
    @ivar made: called with each connected protocol.
    @ivar addresses: the addresses of the built protocols.
    """

    noisy = False

    def __init__(self) -> None:
        self.build: Callable[[Conversations], Any] = Conversation
        self.made: Callable[[Any], object] = lambda conversation: None
        self.conversations: list[Any] = []
        self.addresses: list[Any] = []
        self.calls: list[str] = []

    def startFactory(self) -> None:
        self.calls.append("start")

    def stopFactory(self) -> None:
        self.calls.append("stop")

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        conversation = self.build(self)
        self.conversations.append(conversation)
        return conversation


class Listener:
    """
    A listener made by hand.

    @ivar channels: its ends of all the channels that it has accepted.
    @ivar greeting: the first bytes to each worker.
    """

    def __init__(self, path: str, backlog: int = 5) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(backlog)
        self._socket.setblocking(False)
        self.channels: list[Peer] = []
        self.greeting: tuple[Frame | bytes, ...] = (HELLO,)

    def accept(self) -> bool:
        """
        Accept a worker if one has connected, and greet it.
        """
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return False
        self.channels.append(Peer(sock, FROM_WORKER))
        try:
            self.channels[-1].say(*self.greeting)
        except BrokenPipeError:
            pass  # it has gone again
        return True

    @property
    def channel(self) -> Peer:
        """
        The channel that was accepted last.
        """
        return self.channels[-1]

    def handOff(self, id: int, sock: socket.socket) -> None:
        """
        Send a connection, and close the listener's descriptor.
        """
        with sock:
            self.channel.say(
                Offer(id, 0, _kernel.cookie(sock)), descriptors=[sock.fileno()]
            )

    def close(self) -> None:
        """
        Die.
        """
        for channel in self.channels:
            channel.close()
        self._socket.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


class ClockedTestCase(TestCase):
    """
    A path, a reactor whose time is a L{Clock}'s, and what is logged.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        logs = capturedLogs()
        self.logged = cast(list[dict[str, Any]], logs.__enter__())
        self.addCleanup(logs.__exit__, None, None, None)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.reactor = ClockedReactor()
        self.clock = self.reactor.clock

    def client(self) -> tuple[socket.socket, socket.socket]:
        """
        Connect a client.

        @return: its end, which lasts as long as the test, and the accepted one.
        """
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        return client, accepted


_TestClass = TypeVar("_TestClass", bound="WorkerTestCase")


def directlyToo(testClass: type[_TestClass]) -> type[_TestClass]:
    """
    Run a class of tests once more, with transports that are made without
    C{adoptStreamConnection}.
    """
    name = "Direct" + testClass.__name__
    content = {
        "direct": True,
        "__doc__": testClass.__doc__,
        "__module__": testClass.__module__,
    }
    module = sys.modules[testClass.__module__]
    metaclass: Any = type(testClass)
    setattr(module, name, metaclass(name, (testClass,), content))
    return testClass


class DirectReactor:
    """
    The reactor of transports that are made without C{adoptStreamConnection}.

    @param clocked: its C{adopting} is called before a reader is added.
    """

    def __init__(self, clocked: ClockedReactor) -> None:
        self._clocked = clocked

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def addReader(self, reader: Any) -> None:
        self._clocked.adopting()
        real: Any = reactor
        real.addReader(reader)


class WorkerTestCase(ClockedTestCase):
    """
    A L{Worker} whose time is a L{Clock}'s.

    @cvar direct: whether it makes transports without C{adoptStreamConnection}.
    """

    direct = False

    async def setUp(self) -> None:
        await super().setUp()
        self.factory = Conversations()
        self.patch(adoption, "posixReactor", DirectReactor)
        self.makeWorker()
        self.started = False
        self.addCleanup(self.end)

    def makeWorker(self) -> None:
        """
        Make the worker.
        """
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, direct=self.direct
        )

    async def end(self) -> None:
        """
        Stop the worker, if the test has not, and check that it leaves nothing.
        """
        if self.started:
            stopped = self.worker.stop()
            while not stopped.called:
                self.clock.advance(1)
                await deferLater(reactor, 0)
        for conversation in self.factory.conversations:
            if conversation is not None and conversation.transport is not None:
                conversation.transport.abortConnection()
        await aMoment()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self) -> None:
        """
        Start the worker.
        """
        self.started = True
        self.worker.bind()
        self.worker.start()

    def listen(self) -> Listener:
        """
        Start a listener.
        """
        listener = Listener(self.path)
        self.addCleanup(listener.close)
        return listener

    async def join(self) -> Listener:
        """
        Start a listener, and make the worker join it.
        """
        listener = self.listen()
        self.start()
        await eventually(listener.accept)
        await eventually(lambda: texts(self.logged, "info"))
        return listener

    async def serve(self, listener: Listener, id: int = 1) -> tuple[socket.socket, Any]:
        """
        Hand off a connection.

        @return: the client, and the protocol that serves it.
        """
        client, accepted = self.client()
        count = len(self.factory.conversations)
        listener.handOff(id, accepted)
        await eventually(lambda: len(self.factory.conversations) > count)
        return client, self.factory.conversations[-1]
