"""
Tests for L{portlisten._draining}, with Twisted's own web server.
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
from twisted.web.static import Data
from zope.interface import implementer, provider

from portlisten._draining import drain
from portlisten.interfaces import IDrainable

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def page() -> Resource:
    """
    Something to ask for.
    """
    root = Resource()
    root.putChild(b"", Data(b"hello", "text/plain"))
    return root


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


class HTTPTests(SynchronousTestCase):
    """
    A connection of HTTP/1.1, which is kept for further requests.
    """

    def connect(self, resource: Any) -> Any:
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
        self.transport = StringTransport()
        protocol.makeConnection(self.transport)
        self.addCleanup(protocol.connectionLost, None)
        return protocol

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
        protocol = self.connect(page())
        protocol.dataReceived(REQUEST)
        [answer] = self.answers()
        self.assertNotIn(b"connection: close", answer)
        drain(protocol)
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
        protocol = self.connect(page())
        drain(protocol)
        protocol.dataReceived(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
        )
        [answer] = self.answers()
        self.assertIn(b"connection: close", answer)
        self.assertTrue(self.transport.disconnecting)

    def test_underWay(self) -> None:
        """
        A request that is being served is served to its end, and the one after it
        is the last.
        """
        slow = Slow()
        protocol = self.connect(slow)
        protocol.dataReceived(REQUEST)
        drain(protocol)
        slow.requests[0].finish()
        self.assertFalse(self.transport.disconnecting)
        protocol.dataReceived(REQUEST)
        slow.requests[1].finish()
        self.assertEqual(
            [b"connection: close" in answer for answer in self.answers()],
            [False, True],
        )
        self.assertTrue(self.transport.disconnecting)

    def test_halfRead(self) -> None:
        """
        A request of which only a part has come by then is served too.
        """
        protocol = self.connect(page())
        protocol.dataReceived(REQUEST[:-4])
        drain(protocol)
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
            channel.requestFactory = factory
            drain(channel)
            channel.timeOut = None
            channel.makeConnection(StringTransport())
            channel.dataReceived(b"GET / HTTP/1.1\r\n")
        self.assertEqual([len(arguments) for arguments in calls], [2, 1])


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
    Has a protocol in it.
    """

    def __init__(self, wrappedProtocol: Any) -> None:
        self.wrappedProtocol = wrappedProtocol


class DrainTests(SynchronousTestCase):
    """
    Who is told.
    """

    def test_drainable(self) -> None:
        """
        What provides L{IDrainable}.
        """
        protocol = Drainable()
        drain(protocol)
        self.assertEqual(protocol.count, 1)

    def test_wrapped(self) -> None:
        """
        In whatever it is wrapped.
        """
        protocol = Drainable()
        drain(Wrapper(Wrapper(protocol)))
        self.assertEqual(protocol.count, 1)

    def test_others(self) -> None:
        """
        Nobody else, and nothing happens then.
        """
        drain(Protocol())
        drain(Wrapper(Protocol()))
        drain(Wrapper(None))
