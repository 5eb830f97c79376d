"""
Tests for L{portlisten._asyncio.draining} and L{portlisten._asyncio.servers}, with
protocols that look like those of servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from portlisten._asyncio import draining
from portlisten._asyncio.draining import drain
from portlisten._asyncio.servers import CLOSE, lastResponse, prepare
from portlisten._policy.goodbyes import GOAWAY
from portlisten.interfaces import IDrainable


class Transport:
    """
    A transport that notes what is written.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.written = b""
        self.closed = False

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Looks:
    """
    Has the attributes that it is given.
    """

    def __init__(self, **attributes: Any) -> None:
        self.calls: list[str] = []
        vars(self).update(attributes)
        self.transport = Transport(self)

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def looks(**attributes: Any) -> Any:
    """
    Make an object that has attributes of its own.
    """
    return Looks(**attributes)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """
    An ASGI application that answers, and says nothing of the connection's end.
    """
    headers = [(b"Connection", b"keep-alive"), (b"a", b"b")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"answer"})


def http1(started: bool | None = None) -> Any:
    """
    Make what looks like an HTTP/1.1 connection of uvicorn.

    @param started: whether its response has begun; L{None} if there is no request.
    """
    cycle = None
    if started is not None:
        cycle = Looks(response_started=started, default_headers=[(b"date", b"now")])
    return Looks(app=application, cycle=cycle, server_state=None)


class AskingTestCase(SynchronousTestCase):
    """
    Tests that ask connections to end, in a loop.
    """

    def setUp(self) -> None:
        self.patch(draining, "CHECK_SECONDS", 0.01)
        self.patch(draining, "_complained", set())
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)

    def run_(self, work: Callable[[], Any], seconds: float = 0.0) -> None:
        """
        Do something in the loop, and let the loop run for a while.
        """

        async def main() -> None:
            work()
            await asyncio.sleep(0)
            # Many short pauses, so that other calls get their turns between them.
            for _ in range(round(seconds / 0.005)):
                await asyncio.sleep(0.005)

        self.loop.run_until_complete(main())

    def ask(self, protocol: Any, seconds: float = 0.0, grace: float = 10.0) -> None:
        """
        Ask a protocol to end.
        """
        self.run_(lambda: drain(protocol, protocol.transport, grace), seconds)

    def sent(self, app: Any) -> list[Any]:
        """
        What an application sends.
        """
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        self.loop.run_until_complete(app({}, None, send))
        return sent


class AskingTests(AskingTestCase):
    """
    Tests for L{drain}.
    """

    def test_provides(self) -> None:
        """
        If a protocol provides L{IDrainable}, it is asked by that, once.
        """
        calls = []

        @implementer(IDrainable)
        class Drainable(Looks):
            def drain(self) -> None:
                calls.append("drain")

        self.ask(Drainable(app=1, cycle=None, server_state=None), 0.05)
        self.assertEqual(calls, ["drain"])

    def test_unknown(self) -> None:
        """
        A protocol that is not known is left alone.
        """
        protocol = Looks(something=1)
        self.ask(protocol, 0.05)
        self.assertEqual(protocol.transport.written, b"")
        self.assertFalse(protocol.transport.closed)

    def test_layerOfTLS(self) -> None:
        """
        The protocol below the layer of C{start_tls} is asked.
        """
        inner = http1()
        self.ask(Looks(_app_protocol=inner))
        self.assertIsNot(inner.app, application)

    def test_uvicornIdle(self) -> None:
        """
        The next response of an idle connection says that it is the last one, and has no
        other header of that name.
        """
        protocol = http1()
        self.ask(protocol)
        start, body = self.sent(protocol.app)
        self.assertEqual(start["headers"], [(b"a", b"b"), CLOSE])
        self.assertEqual(body["body"], b"answer")

    def test_uvicornBusy(self) -> None:
        """
        The response to the request in service is the last one, if it has not begun.
        """
        for started in (False, True):
            protocol = http1(started)
            self.ask(protocol)
            headers = protocol.cycle.default_headers
            self.assertEqual(CLOSE in headers, not started)
            self.assertEqual(self.sent(protocol.app)[0]["headers"][-1], CLOSE)

    def test_uvicornShutdown(self) -> None:
        """
        When uvicorn stops, it closes the connection only after the grace, if it is
        still open.
        """
        now = self.loop.time()
        self.patch(self.loop, "time", lambda: now)
        for closed in (False, True):
            protocol = http1()
            self.ask(protocol, grace=60.0)
            self.run_(protocol.shutdown)
            now += 59.0
            self.run_(lambda: None)
            self.assertEqual(protocol.calls, [])
            protocol.transport.closed = closed
            now += 2.0
            self.run_(lambda: None)
            self.assertEqual(protocol.calls, [] if closed else ["shutdown"])

    def test_uvicornHTTP2(self) -> None:
        """
        An HTTP/2 connection gets GOAWAY, once.
        """
        protocol = Looks(app=application, cycles={}, server_state=None)
        self.ask(protocol, 0.05)
        self.assertEqual(protocol.transport.written, GOAWAY)

    def webSocket(self, **attributes: Any) -> Any:
        """
        Make what looks like a WebSocket of uvicorn.
        """
        sent: list[int] = []
        conn = Looks(send_close=sent.append, data_to_send=lambda: [b"the", b"end"])
        return Looks(
            conn=conn,
            sent=sent,
            stop_keepalive=lambda: None,
            **{"handshake_complete": True, "close_sent": False, **attributes},
        )

    def test_webSocket(self) -> None:
        """
        A WebSocket is closed with 1001.  uvicorn does not send another end when it
        stops.
        """
        protocol = self.webSocket()
        self.ask(protocol, 0.05)
        self.assertEqual(protocol.sent, [1001])
        self.assertEqual(protocol.transport.written, b"theend")
        protocol.shutdown()
        self.assertEqual(protocol.calls, [])

    def test_webSocketOpens(self) -> None:
        """
        If the handshake of a WebSocket is under way, the WebSocket is closed after it.
        """
        protocol = self.webSocket(handshake_complete=False)
        self.ask(protocol, 0.05)
        self.assertEqual(protocol.sent, [])
        protocol.handshake_complete = True
        self.run_(lambda: None, 0.05)
        self.assertEqual(protocol.sent, [1001])

    def test_becomesWebSocket(self) -> None:
        """
        If a connection becomes a WebSocket after it was asked, the WebSocket is closed.
        """
        protocol, webSocket = http1(), self.webSocket()
        self.ask(protocol, 0.05)
        protocol.transport.set_protocol(webSocket)
        self.run_(lambda: None, 0.05)
        self.assertEqual(webSocket.sent, [1001])

    def test_webSocketEnded(self) -> None:
        """
        A WebSocket whose end was sent is left alone.
        """
        protocol = self.webSocket(close_sent=True)
        self.ask(protocol, 0.05)
        self.assertEqual(protocol.sent, [])

    def test_packageWebsockets(self) -> None:
        """
        A connection of the package C{websockets} is closed with 1001, after its
        handshake.  uvicorn, which may use one, does not send another end.
        """
        codes = []

        class Connection(Looks):
            async def recv(self) -> None:
                """
                What a WebSocket has.
                """

            async def close(self, code: int) -> None:
                codes.append(code)

        protocol = Connection(state=looks(name="CONNECTING"))
        self.ask(protocol, 0.05)
        self.assertEqual(codes, [])
        protocol.state.name = "OPEN"  # type: ignore[attr-defined]
        self.run_(lambda: None, 0.05)
        self.assertEqual(codes, [1001])
        protocol.shutdown()
        self.assertEqual(protocol.calls, [])

    def test_otherAttributes(self) -> None:
        """
        If a server is not as expected, one line says so, and its connections are left
        alone.
        """
        with self.assertLogs("portlisten", "WARNING") as logs:
            for _ in range(2):
                protocol = http1()
                protocol.cycle = object()
                self.ask(protocol, 0.05)
        [line] = logs.output
        self.assertIn("Looks cannot be asked to end, and are left alone", line)
        self.assertIs(protocol.app, application)

    def test_closed(self) -> None:
        """
        A connection that has ended is not looked at again.
        """
        protocol = http1()
        self.ask(protocol)
        protocol.transport.close()
        protocol.transport.set_protocol(webSocket := self.webSocket())
        self.run_(lambda: None, 0.05)
        self.assertEqual(webSocket.sent, [])


class Message:
    """
    What looks like the head of a request to aiohttp.
    """

    def __init__(self, should_close: bool = False, upgrade: bool = False) -> None:
        self.should_close = should_close
        self.upgrade = upgrade

    def _replace(self, should_close: bool) -> Message:
        return Message(should_close, self.upgrade)


class AiohttpTests(AskingTestCase):
    """
    Tests for the connections of aiohttp.
    """

    def setUp(self) -> None:
        super().setUp()
        self.order: list[str] = []

        async def shutdown(timeout: float) -> None:
            self.order.append(f"shutdown {timeout}")

        async def prepareHook(response: Any) -> None:
            self.order.append("prepared")

        self.factory = looks(
            request_factory=lambda message, *rest: Looks(
                _message=message, _prepare_hook=prepareHook
            ),
            request_handler=None,
            pre_shutdown=lambda: self.order.append("pre_shutdown"),
        )
        self.factory.shutdown = shutdown
        self.server = looks(is_serving=lambda: True, wait_closed=self.waitClosed)
        prepare(self.factory, self.server)
        self.protocol = looks(
            _request_factory=self.factory.request_factory,
            _manager=self.factory,
            _current_request=None,
        )

    async def waitClosed(self) -> None:
        """
        What waits until the worker has stopped.
        """
        self.order.append("closed")

    def request(self, **attributes: bool) -> Any:
        """
        Make a request as aiohttp does.
        """
        return self.protocol._request_factory(
            Message(**attributes), "payload", self.protocol
        )

    def test_idle(self) -> None:
        """
        The next response is the last one, and those before it were not.
        """
        self.assertFalse(self.request()._message.should_close)
        self.ask(self.protocol)
        self.assertTrue(self.request()._message.should_close)

    def test_busy(self) -> None:
        """
        The response to the request in service is the last one.
        """
        self.protocol._current_request = self.request()
        self.ask(self.protocol)
        self.assertTrue(self.protocol._current_request._message.should_close)

    def test_ownWebSocket(self) -> None:
        """
        A WebSocket is closed with 1001.
        """
        codes = []

        class WebSocket:
            prepared = True
            closed = False

            async def receive(self) -> None:
                """
                What a WebSocket has and another response has not.
                """

            async def close(self, code: int) -> None:
                codes.append(code)

        request = self.request(upgrade=True)
        webSocket = WebSocket()
        self.loop.run_until_complete(request._prepare_hook(webSocket))
        self.ask(self.protocol)
        self.assertEqual(codes, [1001])
        self.assertEqual(self.order, ["prepared"])

    def test_stops(self) -> None:
        """
        aiohttp closes idle connections only after the worker has stopped.
        """
        self.server.is_serving = lambda: False
        self.factory.pre_shutdown()
        self.loop.run_until_complete(self.factory.shutdown(60.0))
        self.assertEqual(self.order, ["closed", "pre_shutdown", "shutdown 60.0"])

    def test_otherFactories(self) -> None:
        """
        Other factories are left as they are.
        """
        factory = looks(request_factory=1)
        prepare(factory, self.server)
        self.assertEqual(factory.request_factory, 1)


class LastResponseTests(AskingTestCase):
    """
    Tests for L{lastResponse}.
    """

    def test_noHeaders(self) -> None:
        """
        A message need not have headers.
        """

        async def bare(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204})

        [start] = self.sent(lastResponse(bare))
        self.assertEqual(start["headers"], [CLOSE])
