"""
Tests for L{portlisten._monitor.channel}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from portlisten._monitor import channel

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
ADDRESS = IPv4Address("TCP", "127.0.0.1", 50000)


class Transport(StringTransport):
    """
    A transport that notes how it was closed.
    """

    aborted = False

    def abortConnection(self) -> None:
        """
        Note it.
        """
        self.aborted = True
        self.loseConnection()


class Answers(Resource):
    """
    Answers at once, or later.

    @ivar later: the requests to be answered later; L{None} to answer at once.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.later: list[Request] | None = None

    def render_GET(self, request: Request) -> Any:
        """
        Answer.
        """
        self.asked += 1
        if self.later is None:
            return b"well"
        self.later.append(request)
        return NOT_DONE_YET


class ChannelTests(SynchronousTestCase):
    """
    Tests for L{channel.BoundedChannel} and L{channel.BoundedSite}.
    """

    def setUp(self) -> None:
        """
        Make a site.
        """
        self.clock = Clock()
        self.resource = Answers()
        self.site = channel.BoundedSite(self.resource, self.clock)
        self.site.startFactory()

    def connect(self) -> tuple[Any, Transport]:
        """
        Connect a client.
        """
        transport = Transport(peerAddress=ADDRESS)
        made = self.site.buildProtocol(ADDRESS)
        made.makeConnection(transport)
        return made, transport

    def leave(self, made: Any) -> None:
        """
        End a connection that was told to end.
        """
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        made.connectionLost(Failure(ConnectionDone()))

    def test_kept(self) -> None:
        """
        One request may follow the answer to another.
        """
        made, transport = self.connect()
        for number in range(1, 4):
            made.dataReceived(GET)
            self.assertEqual(transport.value().count(b" 200 OK"), number)
        self.assertFalse(transport.disconnecting)
        self.assertFalse(made.busy)

    def test_pieces(self) -> None:
        """
        A request may come in pieces.
        """
        made, transport = self.connect()
        for _ in range(2):
            for byte in GET:
                made.dataReceived(bytes([byte]))
        self.assertEqual(transport.value().count(b" 200 OK"), 2)

    def test_pipelined(self) -> None:
        """
        Of several requests in one piece, the first is answered.
        """
        made, transport = self.connect()
        made.dataReceived(GET * 1000)
        self.assertEqual(self.resource.asked, 1)
        self.assertEqual(transport.value().count(b" 200 OK"), 1)
        self.assertTrue(transport.disconnecting)
        self.clock.advance(channel.READ_SECONDS)
        self.assertTrue(transport.aborted)

    def test_impatient(self) -> None:
        """
        So it is if others come before the answer.
        """
        self.resource.later = []
        made, transport = self.connect()
        made.dataReceived(GET + GET)
        made.dataReceived(GET)
        [request] = self.resource.later
        request.write(b"well")
        request.finish()
        self.assertEqual(self.resource.asked, 1)
        self.assertEqual(transport.value().count(b" 200 OK"), 1)
        self.assertTrue(transport.disconnecting)

    def test_methods(self) -> None:
        """
        Nothing but GET and HEAD is answered, and no body is taken.
        """
        for request, code in (
            (b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n", b"405"),
            (b"DELETE / HTTP/1.1\r\nHost: here\r\n\r\n", b"405"),
            (b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n", b"413"),
            (b"nonsense\r\n\r\n", b"400"),
        ):
            made, transport = self.connect()
            made.dataReceived(request)
            made.dataReceived(b"abcde")
            self.assertIn(b"HTTP/1.1 " + code, transport.value())
            self.assertTrue(transport.disconnecting)
        self.assertEqual(self.resource.asked, 0)
        made, transport = self.connect()
        made.dataReceived(GET.replace(b"GET", b"HEAD"))
        self.assertIn(b"Content-Length: 4\r\n", transport.value())
        self.assertTrue(transport.value().endswith(b"\r\n\r\n"))

    def test_large(self) -> None:
        """
        Too many bytes, or headers, end the connection.
        """
        for headers in (b"X: y\r\n" * 100, b"X: " + b"y" * 9000 + b"\r\n"):
            made, transport = self.connect()
            made.dataReceived(b"GET / HTTP/1.1\r\n" + headers + b"\r\n")
            self.assertTrue(transport.disconnecting)
        self.assertEqual(self.resource.asked, 0)

    def test_slow(self) -> None:
        """
        A request must arrive in time, and a connection may not be kept for long.
        """
        made, transport = self.connect()
        for _ in range(9):
            self.clock.advance(1)
            made.dataReceived(b"G")
        self.assertFalse(transport.aborted)
        self.clock.advance(channel.REQUEST_SECONDS)
        self.assertTrue(transport.aborted)
        made, transport = self.connect()
        made.dataReceived(GET)
        self.clock.advance(channel.IDLE_SECONDS - 1)
        self.assertFalse(transport.aborted)
        self.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_unread(self) -> None:
        """
        A client that reads nothing is cut.
        """
        self.resource.later = []
        made, transport = self.connect()
        made.dataReceived(GET)
        self.clock.advance(1000)
        self.assertFalse(transport.aborted)
        made.pauseProducing()
        self.clock.advance(channel.READ_SECONDS / 2)
        made.resumeProducing()
        self.clock.advance(1000)
        self.assertFalse(transport.aborted)
        made.pauseProducing()
        self.clock.advance(channel.READ_SECONDS)
        self.assertTrue(transport.aborted)

    def test_places(self) -> None:
        """
        If all places are taken, the one that has been idle for the longest makes way.
        """
        made = [self.connect() for _ in range(channel.MAXIMUM_CONNECTIONS)]
        self.assertEqual(self.site.capacity, 1)
        self.resource.later = []
        made[0][0].dataReceived(GET)
        _, transport = self.connect()
        self.assertEqual(self.site.connections, channel.MAXIMUM_CONNECTIONS)
        self.assertFalse(made[0][1].aborted)
        self.assertTrue(made[1][1].aborted)
        self.assertFalse(transport.aborted)
        self.leave(made[1][0])
        self.leave(made[2][0])
        self.assertEqual(self.site.connections, channel.MAXIMUM_CONNECTIONS - 1)
        for each, _ in made[3:]:
            each.dataReceived(GET)
        self.connect()
        # All are busy but the one that came last.
        self.connect()
        self.assertTrue(transport.aborted)

    def test_ended(self) -> None:
        """
        A connection that has ended leaves nothing.
        """
        for data in (b"", b"G", GET, GET * 2, b"POST / HTTP/1.1\r\n\r\n"):
            made, _ = self.connect()
            made.dataReceived(data)
            self.leave(made)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.site.connections, 0)
