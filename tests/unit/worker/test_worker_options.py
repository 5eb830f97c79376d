"""
Tests for what a worker asks of its listener: a limit, clients that speak first, and a
label.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

from twisted.internet.protocol import Factory
from twisted.protocols.policies import TimeoutFactory, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from portlisten._wire.frames import MAXIMUM_WINDOW, WorkerHello
from portlisten._worker.recognition import clientsSpeakFirst, inherits
from portlisten._worker.worker import Worker
from tests.support.channels import aMoment, eventually, texts
from tests.support.sharing import HELLO, SharingTestCase
from tests.support.workers import GRACE, RETRY, WorkerTestCase

websocket: Any
try:
    from autobahn.twisted import websocket
except ImportError:
    websocket = None

tls: Any
try:
    from twisted.protocols import tls
except ImportError:
    tls = None


class IdleSite(Site):
    """
    A web server that never starts.
    """

    def __init__(self) -> None:
        pass

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass


class SpeakFirstTests(SynchronousTestCase):
    """
    Tests for L{clientsSpeakFirst}.
    """

    def test_http(self) -> None:
        """
        They do so over HTTP, and in any subclass of its factories.
        """

        for cls in (Site, IdleSite):
            self.assertTrue(clientsSpeakFirst(cls.__new__(cls)))

    def test_wrapped(self) -> None:
        """
        Twisted's wrappers change nothing.
        """
        site = IdleSite()
        self.assertTrue(clientsSpeakFirst(TimeoutFactory(WrappingFactory(site))))
        self.assertFalse(clientsSpeakFirst(TimeoutFactory(Factory())))

    def test_tls(self) -> None:
        """
        They do so if TLS is put on the connections of any factory.
        """
        if tls is None:
            self.skipTest("pyOpenSSL is not installed")
        cls = tls.TLSMemoryBIOFactory
        self.assertTrue(clientsSpeakFirst(cls.__new__(cls)))

    def test_webSocket(self) -> None:
        """
        They do so over WebSockets.
        """
        if websocket is None:
            self.skipTest("autobahn is not installed")
        for cls in (
            websocket.WebSocketServerFactory,
            websocket.WrappingWebSocketServerFactory,
        ):
            self.assertTrue(clientsSpeakFirst(cls.__new__(cls)))

    def test_others(self) -> None:
        """
        Others may wait for the server, whatever attributes and names they have.
        """

        class HTTPFactory(Factory):
            pass

        class Endless(Factory):
            @property
            def wrappedFactory(self) -> Endless:
                return self

        for factory in (Factory(), HTTPFactory(), Endless(), object(), None):
            self.assertFalse(clientsSpeakFirst(factory))

    def test_inherits(self) -> None:
        """
        The package and the name of a base both count.
        """
        self.assertTrue(inherits(Site, "twisted", "HTTPFactory"))
        self.assertFalse(inherits(Site, "twiste", "HTTPFactory"))
        self.assertFalse(inherits(Factory, "twisted", "HTTPFactory"))


class HelloTests(WorkerTestCase):
    """
    What the worker's HELLO says.
    """

    async def hello(self, factory: Any = None, **options: Any) -> WorkerHello:
        """
        Join with options.
        """
        self.worker = Worker(
            self.reactor, self.path, factory or self.factory, RETRY, GRACE, **options
        )
        listener = await self.join()
        await eventually(lambda: listener.channel.heard(WorkerHello))
        hello: WorkerHello = listener.channel.frames[0]
        return hello

    async def test_none(self) -> None:
        """
        By default the worker asks for nothing.
        """
        hello = await self.hello()
        self.assertEqual(
            (hello.limit, hello.first, hello.label, hello.window),
            (None, None, "", MAXIMUM_WINDOW),
        )

    async def test_given(self) -> None:
        """
        All options are in it, and the window is no larger than the limit.
        """
        hello = await self.hello(limit=7, first=0.25, label="web-1")
        self.assertEqual(
            (hello.limit, hello.first, hello.label, hello.window),
            (7, 250, "web-1", 7),
        )

    async def test_http(self) -> None:
        """
        A web server's clients speak first.
        """
        hello = await self.hello(WrappingFactory(IdleSite()))
        self.assertEqual(hello.first, 2000)

    async def test_httpNot(self) -> None:
        """
        The operator may say that they do not.
        """
        hello = await self.hello(WrappingFactory(IdleSite()), first=0)
        self.assertIsNone(hello.first)


class OlderTests(SharingTestCase):
    """
    A listener that does not do what the worker asks for.
    """

    async def warnings(
        self, factory: Any = None, greeting: Any = HELLO, **options: Any
    ) -> list[str]:
        """
        Join, and return what is logged.
        """
        self.worker = Worker(
            self.reactor, self.path, factory or self.factory, RETRY, GRACE, **options
        )
        listener = self.listen()
        listener.greeting = (greeting,)
        self.start()
        await eventually(listener.accept)
        await eventually(lambda: texts(self.logged, "info"))
        await aMoment()
        return texts(self.logged, "warn")

    async def test_both(self) -> None:
        """
        One line names all that is ignored.
        """
        self.assertEqual(
            await self.warnings(limit=1, first=1.0),
            [
                f"the listener at {self.path} is older than this worker, and ignores"
                " limit and first"
            ],
        )

    async def test_one(self) -> None:
        """
        What the listener does is not named.
        """
        greeting = replace(HELLO, honoursLimit=True)
        (line,) = await self.warnings(greeting=greeting, limit=1, first=1.0)
        self.assertTrue(line.endswith("ignores first"), line)

    async def test_honoured(self) -> None:
        """
        A listener of today gets no line.
        """
        greeting = replace(HELLO, honoursLimit=True, honoursFirst=True)
        self.assertEqual(await self.warnings(greeting=greeting, limit=1, first=1.0), [])

    async def test_byDefault(self) -> None:
        """
        What nobody has asked for is not named.
        """
        site = WrappingFactory(IdleSite())
        self.assertEqual(await self.warnings(site), [])

    async def test_no(self) -> None:
        """
        Nothing is missing if clients need not speak first.
        """
        self.assertEqual(await self.warnings(first=0, label="x"), [])


class LimitTests(SharingTestCase):
    """
    A limit on shared ports.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, limit=2
        )

    async def assertServed(self, count: int) -> None:
        """
        Expect that so many connections are in service, and stay so.
        """
        await eventually(lambda: len(self.worker.serving) == count)
        await self.settle()
        self.assertEqual(len(self.worker.serving), count)

    async def finish(self) -> None:
        """
        End a connection.
        """
        next(iter(self.worker.serving))._transport.loseConnection()

    async def assertLimited(self, *ports: socket.socket) -> None:
        """
        Expect that two connections are served at a time, whatever port they are from,
        and all in the end.
        """
        listener = await self.join()
        for sock in ports:
            self.share(listener, sock)
        await self.settle()
        for _ in range(3):
            for sock in ports:
                self.connect(sock)
        for _ in range(3 * len(ports) - 2):
            await self.assertServed(2)
            await self.finish()
        await self.assertServed(2)
        self.assertEqual(len(self.factory.conversations), 3 * len(ports))

    async def test_port(self) -> None:
        """
        A port accepts no more than that at a time.
        """
        await self.assertLimited(self.port())

    async def test_ports(self) -> None:
        """
        Several ports do so together, TCP and Unix.
        """
        path = os.path.join(os.path.dirname(self.path), "unix")
        await self.assertLimited(self.port(), self.port(), self.port(path))

    async def test_handedOff(self) -> None:
        """
        Connections that the listener hands off count as well.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        await self.settle()
        for id in (1, 2):
            await self.serve(listener, id)
        self.connect(sock)
        await self.assertServed(2)
        await self.finish()
        await eventually(lambda: len(self.factory.conversations) == 3)
        await self.assertServed(2)

    async def test_openedLate(self) -> None:
        """
        A socket that comes while the worker is full is used afterwards.
        """
        listener = await self.join()
        for id in (1, 2):
            await self.serve(listener, id)
        sock = self.port()
        self.share(listener, sock)
        self.connect(sock)
        await self.assertServed(2)
        await self.finish()
        await eventually(lambda: len(self.factory.conversations) == 3)

    async def test_withoutDescriptors(self) -> None:
        """
        A port that pauses for descriptors as well goes on only when both pauses are
        over.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        await self.settle()
        self.worker._sharedPorts._pauseAll("of a test")  # type: ignore[attr-defined]
        for _ in range(3):
            self.connect(sock)
        await self.assertServed(0)
        self.clock.advance(RETRY)
        await self.assertServed(2)
        self.worker._sharedPorts._pauseAll("of a test")  # type: ignore[attr-defined]
        await self.finish()
        await self.assertServed(1)
        self.clock.advance(RETRY)
        await self.assertServed(2)

    async def test_lastBacklog(self) -> None:
        """
        If the listener dies, clients that wait are served beyond the limit: nobody else
        may be left to serve them.
        """
        path = os.path.join(os.path.dirname(self.path), "unix")
        ports = [self.port(), self.port(path)]
        listener = await self.join()
        for sock in ports:
            self.share(listener, sock)
        await self.settle()
        for sock in ports:
            for _ in range(3):
                self.connect(sock)
        await self.assertServed(2)
        listener.close()
        await self.assertServed(6)
