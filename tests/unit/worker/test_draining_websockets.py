"""
Tests for L{portlisten._worker.draining}, with Autobahn's WebSockets.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.policies import WrappingFactory
from twisted.test.iosim import FakeTransport, IOPump
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from portlisten._worker.draining import drain
from portlisten.interfaces import IDrainable

websocket: Any
try:
    from autobahn.twisted import websocket
    from autobahn.twisted.resource import WebSocketResource
except ImportError:
    websocket = None

REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)

#: The frame that says 1001, as a server sends it.
GOING_AWAY = b"\x88\x02\x03\xe9"


@implementer(IDrainable)
class Stream(Protocol):
    """
    What a WebSocket may carry.
    """

    def drain(self) -> None:
        assert self.transport is not None
        self.transport.write(b"goodbye")


class Connection:
    """
    A connection to a server, in memory.  Its client is a test.

    @ivar transport: the server's transport.
    """

    def __init__(self, factory: Any) -> None:
        self.client = Protocol()
        self._received: list[bytes] = []
        self.client.dataReceived = self._received.append  # type: ignore
        server = factory.buildProtocol(None)
        self.transport = FakeTransport(server, isServer=True)
        clientTransport = FakeTransport(self.client, isServer=False)
        server.makeConnection(self.transport)
        self.client.makeConnection(clientTransport)
        self._pump = IOPump(self.client, server, clientTransport, self.transport, False)

    def say(self, data: bytes) -> bytes:
        """
        Send bytes, and return what comes back.
        """
        assert self.client.transport is not None
        self.client.transport.write(data)
        return self.hear()

    def hear(self) -> bytes:
        """
        Return what the server has sent.
        """
        # The transport's protocol may be another by now.
        self._pump.server = self.transport.protocol
        self._pump.flush()
        data = b"".join(self._received)
        self._received.clear()
        return data


class WebSocketTestCase(SynchronousTestCase):
    """
    A server of WebSockets, whose time is a clock's.
    """

    if websocket is None:
        skip = "autobahn is not installed"

    def setUp(self) -> None:
        self.clock = Clock()

    def factory(self, cls: Any = None, *arguments: Any) -> Any:
        """
        Make a server's factory.
        """
        made = (cls or websocket.WebSocketServerFactory)(*arguments, reactor=self.clock)
        made.protocol = websocket.WebSocketServerProtocol
        # Its own timer is the global reactor's.
        made._batched_timer = SimpleNamespace(call_later=self.clock.callLater)
        return made

    def assertGoesAway(self, connection: Connection) -> None:
        """
        Expect the close code 1001, and the end after the client's answer.
        """
        self.assertEqual(connection.hear(), GOING_AWAY)
        self.assertFalse(connection.transport.disconnecting)
        connection.say(b"\x88\x82\0\0\0\0\x03\xe9")
        self.assertTrue(connection.transport.disconnecting)


class PlainTests(WebSocketTestCase):
    """
    A server of WebSockets alone.
    """

    def test_open(self) -> None:
        """
        The client hears that the server goes away.
        """
        connection = Connection(self.factory())
        self.assertIn(b" 101 ", connection.say(REQUEST))
        drain(connection.transport)
        self.assertGoesAway(connection)

    def test_once(self) -> None:
        """
        A WebSocket that is being closed is left alone.
        """
        connection = Connection(self.factory())
        connection.say(REQUEST)
        connection.transport.protocol.sendClose(3000)
        drain(connection.transport)
        self.assertEqual(connection.hear(), b"\x88\x02\x0b\xb8")
        connection.transport.protocol.dropConnection(True)
        drain(connection.transport)
        self.assertEqual(connection.hear(), b"")

    def test_handshake(self) -> None:
        """
        A handshake is finished first.
        """
        connection = Connection(self.factory())
        connection.say(REQUEST[:-2])
        drain(connection.transport)
        answer = connection.say(REQUEST[-2:])
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        self.assertTrue(answer.endswith(b"\r\n\r\n" + GOING_AWAY), answer)

    def test_failedHandshake(self) -> None:
        """
        If the handshake fails, there is nothing to close.
        """
        connection = Connection(self.factory())
        drain(connection.transport)
        self.assertIn(b" 400 ", connection.say(b"GET /\r\n\r\n"))

    def test_wrapped(self) -> None:
        """
        Wrappers do not matter.
        """
        connection = Connection(WrappingFactory(self.factory()))
        connection.say(REQUEST)
        drain(connection.transport)
        self.assertGoesAway(connection)

    def test_own(self) -> None:
        """
        A protocol that can say goodbye itself does so.
        """

        @implementer(IDrainable)
        class Own(websocket.WebSocketServerProtocol):  # type: ignore[misc]
            def drain(self) -> None:
                self.sendClose(3001)

        factory = self.factory()
        factory.protocol = Own
        connection = Connection(factory)
        connection.say(REQUEST)
        drain(connection.transport)
        self.assertEqual(connection.hear(), b"\x88\x02\x0b\xb9")


class StreamTests(WebSocketTestCase):
    """
    A server of a stream over WebSockets.
    """

    REQUEST = REQUEST[:-2] + b"Sec-WebSocket-Protocol: binary\r\n\r\n"

    def serve(self, protocol: type[Protocol]) -> Connection:
        """
        Serve a protocol, and connect.
        """
        factory = self.factory(
            websocket.WrappingWebSocketServerFactory,
            Factory.forProtocol(protocol),
            "ws://localhost",
        )
        return Connection(factory)

    def test_closed(self) -> None:
        """
        The WebSocket is closed.
        """
        connection = self.serve(Protocol)
        connection.say(self.REQUEST)
        drain(connection.transport)
        self.assertGoesAway(connection)

    def test_drainable(self) -> None:
        """
        If the stream's protocol can end it, that does, but not during the handshake.
        """
        connection = self.serve(Stream)
        connection.say(self.REQUEST)
        drain(connection.transport)
        self.assertEqual(connection.hear(), b"\x82\x07goodbye")
        connection = self.serve(Stream)
        drain(connection.transport)
        self.assertEqual(connection.hear(), b"")
        self.assertIn(b"\x82\x07goodbye", connection.say(self.REQUEST))


class UpgradedTests(WebSocketTestCase):
    """
    WebSockets beside pages, in Twisted's web server.
    """

    def serve(self, wrapped: bool = False) -> Connection:
        """
        Serve, and connect.
        """
        root = Resource()
        root.putChild(b"ws", WebSocketResource(self.factory()))
        site: Any = Site(root, reactor=self.clock)
        site.startFactory = lambda: None
        site._logDateTime = ""
        site.log = lambda request: None
        return Connection(WrappingFactory(site) if wrapped else site)

    def test_before(self) -> None:
        """
        A connection that has become a WebSocket is closed as one.
        """
        for wrapped in (False, True):
            connection = self.serve(wrapped)
            self.assertIn(b" 101 ", connection.say(REQUEST))
            drain(connection.transport)
            self.assertGoesAway(connection)

    def test_after(self) -> None:
        """
        A connection that becomes a WebSocket while the server drains is closed as soon
        as it is one.
        """
        for wrapped in (False, True):
            connection = self.serve(wrapped)
            drain(connection.transport)
            answer = connection.say(REQUEST)
            self.assertIn(b" 101 ", answer)
            self.assertTrue(answer.endswith(b"\r\n\r\n" + GOING_AWAY), answer)

    def test_fails(self) -> None:
        """
        If the new protocol fails to drain, that is logged, and goes no further.
        """
        connection = self.serve()
        drain(connection.transport)

        def fail(protocol: Any, code: int) -> None:
            raise RuntimeError("no")

        self.patch(websocket.WebSocketServerProtocol, "sendCloseFrame", fail)
        self.assertIn(b" 101 ", connection.say(REQUEST))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
