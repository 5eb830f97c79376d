"""
How to ask the connections of common asyncio servers to end.

These servers have no public way for that: they can only stop as a whole, and then they
close idle connections.  So this module knows some of their attributes.  It looks for
these attributes and imports no server.  If a server has others one day, its connections
are left alone.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from portlisten._policy.goodbyes import GOAWAY, GOING_AWAY

#: How long a client may take to answer the end of a WebSocket, in seconds.
CLOSE_SECONDS = 10.0

#: The header of a response that says that it is the last one.
CLOSE = (b"connection", b"close")

Application = Callable[[Any, Any, Any], Awaitable[Any]]


def _has(subject: Any, *names: str) -> bool:
    return all(hasattr(subject, name) for name in names)


# uvicorn, HTTP


def isUvicornHTTP1(protocol: Any) -> bool:
    """
    Whether this is an HTTP/1.1 connection of uvicorn.
    """
    return _has(protocol, "app", "cycle", "server_state", "shutdown")


def endUvicornHTTP1(loop: Any, protocol: Any, grace: float) -> bool:
    """
    Make the next response the last one.  This is the response to the request in
    service, unless that response has begun.
    """
    cycle = protocol.cycle
    if cycle is not None and not cycle.response_started:
        cycle.default_headers = [*cycle.default_headers, CLOSE]
    protocol.app = lastResponse(protocol.app)
    _delayShutdown(loop, protocol, grace)
    return True


def _delayShutdown(loop: Any, protocol: Any, grace: float) -> None:
    """
    When uvicorn stops, keep it from closing an idle connection at once: a request may
    be on its way.
    """
    shutdown = protocol.shutdown
    protocol.shutdown = lambda: loop.call_later(grace, _shutdown, protocol, shutdown)


def _shutdown(protocol: Any, shutdown: Callable[[], None]) -> None:
    if not protocol.transport.is_closing():
        shutdown()


def lastResponse(app: Application) -> Application:
    """
    Wrap an ASGI application, so that its responses say that they are the last ones.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> Any:
        async def sendLast(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                kept = [each for each in headers if each[0].lower() != CLOSE[0]]
                message = {**message, "headers": [*kept, CLOSE]}
            await send(message)

        return await app(scope, receive, sendLast)

    return wrapped


def isUvicornHTTP2(protocol: Any) -> bool:
    """
    Whether this is an HTTP/2 connection of uvicorn.
    """
    return _has(protocol, "app", "cycles", "server_state", "shutdown")


def endUvicornHTTP2(loop: Any, protocol: Any, grace: float) -> bool:
    """
    Tell the client to ask for nothing more on this connection.
    """
    protocol.transport.write(GOAWAY)
    _delayShutdown(loop, protocol, grace)
    return True


# WebSockets


def isUvicornWebSocket(protocol: Any) -> bool:
    """
    Whether this is a WebSocket of uvicorn, with one of its protocols that do no I/O.
    """
    return _has(protocol, "conn", "handshake_complete", "close_sent", "stop_keepalive")


def endUvicornWebSocket(loop: Any, protocol: Any, grace: float) -> bool:
    """
    Close the WebSocket.  The application hears of that when the client has answered.
    """
    if not protocol.handshake_complete:
        return False
    if protocol.close_sent:
        return True
    protocol.stop_keepalive()
    if hasattr(protocol.conn, "send_close"):
        protocol.conn.send_close(GOING_AWAY)
        data = b"".join(protocol.conn.data_to_send())
    else:
        event = sys.modules["wsproto.events"].CloseConnection(code=GOING_AWAY)
        data = protocol.conn.send(event)
    protocol.transport.write(data)
    loop.call_later(CLOSE_SECONDS, protocol.transport.close)
    # uvicorn's own would send another end.
    protocol.shutdown = lambda: None
    return True


def isWebSocket(protocol: Any) -> bool:
    """
    Whether this is a connection of the package C{websockets}, which uvicorn may use.
    """
    return (
        inspect.iscoroutinefunction(getattr(protocol, "close", None))
        and inspect.iscoroutinefunction(getattr(protocol, "recv", None))
        and hasattr(protocol, "state")
    )


def endWebSocket(loop: Any, protocol: Any, grace: float) -> bool:
    """
    Close the WebSocket.
    """
    if protocol.state.name == "CONNECTING":
        return False
    if hasattr(protocol, "shutdown"):
        # uvicorn's would be faster, and send another code.
        protocol.shutdown = lambda: None
    _start(loop, protocol.close(GOING_AWAY))
    return True


# aiohttp


def isAiohttp(protocol: Any) -> bool:
    """
    Whether this is a connection of aiohttp's server.
    """
    return _has(protocol, "_request_factory", "_manager", "_current_request")


def endAiohttp(loop: Any, protocol: Any, grace: float) -> bool:
    """
    Make the next response the last one, or close a WebSocket.
    """
    webSocket = _aiohttpWebSockets.get(id(protocol))
    if webSocket is not None:
        if webSocket.prepared and not webSocket.closed:
            _start(loop, webSocket.close(code=GOING_AWAY))
        return True
    build = protocol._request_factory

    def last(message: Any, *rest: Any) -> Any:
        return build(message._replace(should_close=True), *rest)

    protocol._request_factory = last
    request = protocol._current_request
    if request is not None:
        request._message = request._message._replace(should_close=True)
    return True


#: The WebSockets of aiohttp, by the C{id} of their protocol, which no other object has
#: while the WebSocket is in use.
_aiohttpWebSockets: WeakValueDictionary[int, Any] = WeakValueDictionary()


def prepare(factory: Any, server: asyncio.AbstractServer) -> None:
    """
    Prepare the factory of a server's protocols, if it is aiohttp's.  Its connections do
    not know their WebSockets, so keep account of these.  When aiohttp stops, it closes
    idle connections, and does not wait for those that have just come.  So make it wait
    for the server first.

    @param server: what uses the factory.
    """
    if not _has(factory, "request_factory", "request_handler", "pre_shutdown"):
        return
    build = factory.request_factory
    preShutdown, shutdown = factory.pre_shutdown, factory.shutdown

    async def waitAndShutdown(*arguments: Any, **options: Any) -> None:
        if not server.is_serving():
            await server.wait_closed()
        preShutdown()
        await shutdown(*arguments, **options)

    factory.pre_shutdown = lambda: None
    factory.shutdown = waitAndShutdown

    def watched(message: Any, payload: Any, protocol: Any, *rest: Any) -> Any:
        request = build(message, payload, protocol, *rest)
        if message.upgrade:
            _watchRequest(request, protocol)
        return request

    factory.request_factory = watched


def _watchRequest(request: Any, protocol: Any) -> None:
    prepare = request._prepare_hook

    async def prepareAndWatch(response: Any) -> None:
        if inspect.iscoroutinefunction(getattr(response, "receive", None)):
            _aiohttpWebSockets[id(protocol)] = response
        await prepare(response)

    request._prepare_hook = prepareAndWatch


#: Tasks under way.  A loop keeps only weak references to its tasks.
_tasks: set[Any] = set()


def _start(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    task = loop.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_finished)


def _finished(task: Any) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        # The connection has ended first, or its server has said why not.
        task.exception()


Recipe = tuple[Callable[[Any], bool], Callable[[Any, Any, float], bool]]

#: What recognises a protocol, and what asks it.
RECIPES: list[Recipe] = [
    (isUvicornHTTP1, endUvicornHTTP1),
    (isUvicornHTTP2, endUvicornHTTP2),
    (isUvicornWebSocket, endUvicornWebSocket),
    (isWebSocket, endWebSocket),
    (isAiohttp, endAiohttp),
]
