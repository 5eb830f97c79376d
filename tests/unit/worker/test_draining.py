"""
Tests for L{portlisten._worker.draining}, with Twisted's own web server.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, Request
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer, provider

from portlisten._policy.goodbyes import GOAWAY
from portlisten._worker.draining import drain
from portlisten.interfaces import IDrainable

h2: Any
try:
    import h2.connection
    import h2.events
except ImportError:
    h2 = None

# Types of frames, RFC 9113, section 6.
HEADERS, SETTINGS = 1, 4

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Page(Resource):
    """
    Answers.
    """

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"hello"


class Slow(Resource):
    """
    Answers when it is told to.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class Connection(StringTransport):
    """
    A transport with its protocol, as the reactor has them.
    """

    def __init__(self, protocol: Any = None) -> None:
        super().__init__()
        self.protocol = protocol


class WebTestCase(SynchronousTestCase):
    """
    A web server, and a client in memory.
    """

    def connect(self, resource: Any, transport: Any) -> Any:
        """
        Be a client.

        @return: the server's protocol.
        """
        clock = Clock()
        site = Site(resource, reactor=clock)
        site.doStart()
        self.addCleanup(site.doStop)
        # Not where the process happens to be.
        site._openLogFile = lambda path: None  # type: ignore
        protocol = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1234))
        protocol.callLater = clock.callLater
        protocol.makeConnection(transport)
        self.addCleanup(protocol.connectionLost, None)
        return protocol


class HTTPTests(WebTestCase):
    """
    A connection of HTTP/1.1, which is kept for further requests.
    """

    def setUp(self) -> None:
        self.transport = StringTransport()

    def answers(self) -> list[bytes]:
        """
        The heads of the answers so far, which are forgotten then.
        """
        text = self.transport.value().lower()
        self.transport.clear()
        return [b"http/1.1" + each for each in text.split(b"http/1.1")[1:]]

    def test_nextIsLast(self) -> None:
        """
        The next request is served, and its answer says that it is the last one,
        after which the connection is closed.
        """
        protocol = self.connect(Page(), self.transport)
        protocol.dataReceived(REQUEST)
        [answer] = self.answers()
        self.assertNotIn(b"connection: close", answer)
        drain(Connection(protocol))
        self.assertFalse(self.transport.disconnecting)
        protocol.dataReceived(REQUEST)
        [answer] = self.answers()
        self.assertTrue(answer.startswith(b"http/1.1 200"))
        self.assertIn(b"connection: close", answer)
        self.assertTrue(answer.endswith(b"hello"))
        self.assertTrue(self.transport.disconnecting)

    def test_keepAlive(self) -> None:
        """
        The client's own wish to keep it counts for nothing then.
        """
        protocol = self.connect(Page(), self.transport)
        drain(Connection(protocol))
        protocol.dataReceived(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
        )
        [answer] = self.answers()
        self.assertIn(b"connection: close", answer)
        self.assertTrue(self.transport.disconnecting)

    def test_inHand(self) -> None:
        """
        If a request is in hand, and its response has not begun, that is the last one.
        """
        slow = Slow()
        protocol = self.connect(slow, self.transport)
        protocol.dataReceived(REQUEST)
        drain(Connection(protocol))
        self.assertFalse(self.transport.disconnecting)
        slow.requests[0].write(b"hello")
        slow.requests[0].finish()
        [answer] = self.answers()
        self.assertIn(b"connection: close", answer)
        self.assertIn(b"hello", answer)
        self.assertTrue(self.transport.disconnecting)

    def test_begun(self) -> None:
        """
        If the response has begun, it is written to its end, and the one after it is the
        last.
        """
        slow = Slow()
        protocol = self.connect(slow, self.transport)
        protocol.dataReceived(REQUEST)
        slow.requests[0].write(b"hel")
        drain(Connection(protocol))
        slow.requests[0].finish()
        self.assertFalse(self.transport.disconnecting)
        protocol.dataReceived(REQUEST)
        slow.requests[1].finish()
        self.assertEqual(
            [b"connection: close" in answer for answer in self.answers()],
            [False, True],
        )
        self.assertTrue(self.transport.disconnecting)

    def test_upgrade(self) -> None:
        """
        A request for another protocol is not told that its connection ends.
        """
        slow = Slow()
        protocol = self.connect(slow, self.transport)
        protocol.dataReceived(
            REQUEST[:-2] + b"Connection: upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        drain(Connection(protocol))
        slow.requests[0].finish()
        [answer] = self.answers()
        self.assertNotIn(b"connection: close", answer)
        self.assertFalse(self.transport.disconnecting)

    def test_halfRead(self) -> None:
        """
        A request of which only a part has come by then is served too.
        """
        protocol = self.connect(Page(), self.transport)
        protocol.dataReceived(REQUEST[:-4])
        drain(Connection(protocol))
        protocol.dataReceived(REQUEST[-4:])
        [answer] = self.answers()
        self.assertTrue(answer.endswith(b"hello"))

    def test_queued(self) -> None:
        """
        Factories of requests are called as they would be: only some kinds are
        told whether others wait.
        """
        calls: list[tuple[Any, ...]] = []

        def build(*arguments: Any) -> Request:
            calls.append(arguments)
            return Request(arguments[0])

        @provider(INonQueuedRequestFactory)
        def buildNonQueued(*arguments: Any) -> Request:
            return build(*arguments)

        for factory in (build, buildNonQueued):
            channel = HTTPChannel()
            self.patch(channel, "requestFactory", factory)
            drain(Connection(channel))
            channel.timeOut = None
            channel.makeConnection(StringTransport())
            channel.dataReceived(b"GET / HTTP/1.1\r\n")
        self.assertEqual([len(arguments) for arguments in calls], [2, 1])


class HTTP2Tests(WebTestCase):
    """
    A connection of HTTP/2, on which requests go side by side.
    """

    if h2 is None:
        skip = "h2 is not installed: pip install 'twisted[http2]'"

    def setUp(self) -> None:
        self.transport = Negotiated()
        self.slow = Slow()
        self.transport.wrappedProtocol = self.connect(self.slow, self.transport)
        self.client = h2.connection.H2Connection()
        self.client.initiate_connection()

    def ask(self) -> None:
        """
        Send a request.
        """
        self.client.send_headers(
            self.client.get_next_available_stream_id(),
            [
                (":method", "GET"),
                (":path", "/"),
                (":scheme", "https"),
                (":authority", "localhost"),
            ],
            end_stream=True,
        )
        self.transport.wrappedProtocol.dataReceived(self.client.data_to_send())

    def heard(self) -> list[bytes]:
        """
        The frames that the client is told next; but for the lengths, which stand
        before each.
        """
        data, frames = self.transport.value(), []
        self.transport.clear()
        while data:
            end = 9 + int.from_bytes(data[:3], "big")
            frames.append(data[3:end])
            data = data[end:]
        return frames

    def test_format(self) -> None:
        """
        A client understands that it is to ask for nothing more, and that it has
        its answers to what it had asked for.
        """
        self.client.receive_data(self.transport.value())
        [event] = self.client.receive_data(GOAWAY)
        self.assertIsInstance(event, h2.events.ConnectionTerminated)
        self.assertEqual(event.error_code, 0)
        self.assertEqual(event.last_stream_id, 2**31 - 1)

    def test_goAway(self) -> None:
        """
        The client is told at once, and what it had asked for is answered.
        """
        self.ask()
        self.heard()
        drain(Connection(self.transport))
        self.assertEqual(self.heard(), [GOAWAY[3:]])
        self.assertFalse(self.transport.disconnecting)
        self.slow.requests[0].finish()
        [headers] = self.heard()
        self.assertEqual(headers[0], HEADERS)

    def test_beforeTheFirstRequest(self) -> None:
        """
        A client that has said nothing yet is told with its first request, after
        the SETTINGS, and once.
        """
        drain(Connection(self.transport))
        self.assertEqual(self.heard(), [])
        self.ask()
        self.ask()
        frames = self.heard()
        self.assertEqual(frames[0][0], SETTINGS)
        self.assertEqual(frames.count(GOAWAY[3:]), 1)
        self.assertEqual(len(self.slow.requests), 2)
        for request in self.slow.requests:
            self.assertFalse(request.requestHeaders.hasHeader(b"connection"))


class Negotiated(StringTransport):
    """
    A transport with TLS, on which HTTP/2 was agreed.
    """

    negotiatedProtocol = b"h2"
    wrappedProtocol: Any = None


@implementer(IDrainable)
class Drainable(Protocol):
    """
    Counts.
    """

    count = 0

    def drain(self) -> None:
        self.count += 1


class Wrapper(Protocol):
    """
    A protocol that wraps another one.
    """

    def __init__(self, wrappedProtocol: Any) -> None:
        self.wrappedProtocol = wrappedProtocol


class DrainTests(SynchronousTestCase):
    """
    Which protocols are told.
    """

    def test_drainable(self) -> None:
        """
        A protocol that provides L{IDrainable}.
        """
        protocol = Drainable()
        drain(Connection(protocol))
        self.assertEqual(protocol.count, 1)

    def test_wrapped(self) -> None:
        """
        A protocol is told through all its wrappers.
        """
        protocol = Drainable()
        drain(Connection(Wrapper(Wrapper(protocol))))
        self.assertEqual(protocol.count, 1)

    def test_others(self) -> None:
        """
        Nobody else, and nothing happens then.
        """
        for protocol in (Protocol(), Wrapper(Protocol()), Wrapper(None)):
            drain(Connection(protocol))
