"""
Makes Hypercorn a worker, without a change to Hypercorn.

Hypercorn binds its sockets itself, and starts processes.  This module teaches it one
more kind of address, C{portlisten:PATH}.  To load the module, give it to Hypercorn as
its configuration::

    hypercorn -c python:portlisten.hypercorn --bind portlisten:PATH:name=http app:app

A configuration in Python may begin with C{from portlisten.hypercorn import *} instead,
and a program that calls C{hypercorn.asyncio.serve} may import this module.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import importlib.util
import sys
from functools import partialmethod
from typing import Any

from zope.interface import directlyProvides

from portlisten._asyncio.servers import CLOSE_SECONDS
from portlisten._config.descriptions import PREFIX
from portlisten._policy.goodbyes import GOAWAY, GOING_AWAY
from portlisten.asyncio import create_server
from portlisten.errors import EndpointError
from portlisten.interfaces import IDrainable

__all__ = ["workers"]

#: Hypercorn's option: it serves in the process that was started, and starts no other.
workers = 0

#: How often a connection is asked to end, in seconds.  It may become HTTP/2 or a
#: WebSocket after the first time.
_ASK_SECONDS = 0.5


class _Listener:
    """
    Takes the place of a listening socket in Hypercorn's lists.

    @ivar family: no family of addresses: Hypercorn then shows the name as it is.
    """

    family = 0

    def __init__(self, description: str) -> None:
        self.description = description

    def getsockname(self) -> str:
        """
        Give the name that Hypercorn shows.
        """
        return self.description

    def close(self) -> None:
        """
        Do nothing: Hypercorn closes its sockets when it stops, and this is none.
        """


def _createSockets(config: Any, ordinary: Any) -> Any:
    """
    Take the place of C{Config.create_sockets}.
    """
    listeners, config.bind = _split(config.bind)
    insecure, config.insecure_bind = _split(config.insecure_bind)
    if listeners or insecure:
        _check(config)
    sockets = ordinary(config)
    if config.ssl_enabled:
        sockets.secure_sockets.extend(listeners)
        sockets.insecure_sockets.extend(insecure)
    else:
        sockets.insecure_sockets.extend(listeners)
    return sockets


def _split(binds: list[str]) -> tuple[list[_Listener], list[str]]:
    """
    Divide addresses into those of listeners and the others.
    """
    listeners = [_Listener(each) for each in binds if each.startswith(PREFIX)]
    return listeners, [each for each in binds if not each.startswith(PREFIX)]


def _check(config: Any) -> None:
    """
    Check that a worker can have this configuration.

    @raise EndpointError: if it cannot.
    """
    if config.use_reloader:
        raise EndpointError("Hypercorn's --reload does not work in a worker")
    if config.workers > 1:
        raise EndpointError(
            f"one process is one worker: start {config.workers} processes, each without"
            " --workers"
        )
    if config.worker_class not in ("asyncio", "uvloop"):
        raise EndpointError(
            "Hypercorn's --worker-class must be asyncio or uvloop, not"
            f" {config.worker_class}"
        )
    # With 1, Hypercorn would start another process and give it the sockets.
    config.workers = 0


def _acceptListeners(loop: Any) -> None:
    """
    Make a loop's C{create_server} accept a L{_Listener} as a socket.
    """
    ordinary = loop.create_server

    async def createServer(
        factory: Any, *arguments: Any, sock: Any = None, **options: Any
    ) -> Any:
        if not isinstance(sock, _Listener):
            return await ordinary(factory, *arguments, sock=sock, **options)
        # The listener has a backlog of its own.
        options.pop("backlog", None)
        return await create_server(_drainable(factory), sock.description, **options)

    loop.create_server = createServer


def _drainable(factory: Any) -> Any:
    """
    Wrap a factory of protocols, so that they are drainable.
    """

    def build() -> Any:
        protocol = factory()
        protocol.ending = ending = _Ending()
        protocol.drain = ending.drain
        directlyProvides(protocol, IDrainable)
        return protocol

    # So it counts as a server of HTTP: its clients speak first.
    build.__module__ = "hypercorn"
    return build


class _Ending:
    """
    Asks a connection to end.

    @ivar server: Hypercorn's C{TCPServer}, its part of the connection, which is known
        only a moment after the connection was made.
    """

    def __init__(self) -> None:
        self.server: Any = None
        self._asked: set[Any] = set()
        self._terminated: Any = None
        self._task: Any = None
        self._turns = 10

    def drain(self) -> None:
        """
        Ask, and go on asking until the connection has ended.
        """
        loop = asyncio.get_running_loop()
        if self.server is None:
            self._turns -= 1
            if self._turns:
                loop.call_soon(self.drain)
        elif self.server.writer.transport.is_closing() or self.server.reader.at_eof():
            self._release(loop)
        else:
            # Hypercorn makes the protocol when it begins to serve the connection.
            wrapper = getattr(self.server, "protocol", None)
            if wrapper is not None:
                self._ask(loop, wrapper.protocol)
            loop.call_later(_ASK_SECONDS, self.drain)

    def _ask(self, loop: Any, protocol: Any) -> None:
        if self.server not in self._asked:
            self._asked.add(self.server)
            self._outlast(loop)
        if hasattr(protocol, "streams"):
            if protocol not in self._asked:
                self._asked.add(protocol)
                # hyper-h2's own way would end the responses in service.
                self.server.writer.write(GOAWAY)
            streams = list(protocol.streams.values())
        else:
            # So many requests end a connection: the next response is the last one.
            most = self.server.config.keep_alive_max_requests
            protocol.keep_alive_requests = max(protocol.keep_alive_requests, most)
            streams = [protocol.stream]
        for stream in streams:
            if stream not in self._asked and _isWebSocket(stream):
                self._asked.add(stream)
                self._endWebSocket(loop, stream)

    def _outlast(self, loop: Any) -> None:
        """
        When Hypercorn stops, keep it from closing a connection that is idle, or whose
        response has not said that it is the last one: a request may be on its way.
        """
        server, wrapper = self.server, self.server.protocol
        context = copy.copy(server.context)
        context.terminated = self._terminated = context.event_class()
        for each in (server, wrapper, wrapper.protocol):
            each.context = context
        # The timer of an idle connection has the first context.
        close = server._initiate_server_close
        end = loop.time() + server.config.keep_alive_timeout

        def closeIdle() -> None:
            if _isIdle(wrapper.protocol):
                server._task_group.spawn(close)

        async def closeLater() -> None:
            loop.call_at(end, closeIdle)

        server._initiate_server_close = closeLater

    def _release(self, loop: Any) -> None:
        """
        Let Hypercorn end a connection that the client has closed.  Without this,
        Hypercorn would wait as for an idle connection.
        """
        if self._terminated is not None:
            self._task = loop.create_task(self._terminated.set())

    def _endWebSocket(self, loop: Any, stream: Any) -> None:
        event = sys.modules["wsproto.events"].CloseConnection(code=GOING_AWAY)
        self.server._task_group.spawn(stream._send_wsproto_event, event)
        loop.call_later(CLOSE_SECONDS, self.server.writer.close)


def _isIdle(protocol: Any) -> bool:
    """
    Whether a protocol of Hypercorn's serves no request.
    """
    if hasattr(protocol, "streams"):
        return bool(protocol.idle)
    return protocol.stream is None


def _isWebSocket(stream: Any) -> bool:
    """
    Whether a stream of Hypercorn's is a WebSocket that is open.
    """
    return hasattr(stream, "handshake") and stream.state.name == "CONNECTED"


def _install() -> None:
    """
    Change what Hypercorn calls.
    """
    config = importlib.import_module("hypercorn.config").Config
    package: Any = importlib.import_module("hypercorn.asyncio")
    run: Any = importlib.import_module("hypercorn.asyncio.run")
    createSockets, serve = config.create_sockets, run.worker_serve
    makeServer = run.TCPServer

    async def workerServe(*arguments: Any, **options: Any) -> None:
        _acceptListeners(asyncio.get_running_loop())
        await serve(*arguments, **options)

    def makeDrainable(*arguments: Any) -> Any:
        server = makeServer(*arguments)
        ending = getattr(server.writer.transport.get_protocol(), "ending", None)
        if ending is not None:
            ending.server = server
        return server

    config.create_sockets = partialmethod(_createSockets, createSockets)
    run.worker_serve = package.worker_serve = workerServe
    run.TCPServer = makeDrainable


if importlib.util.find_spec("hypercorn") is not None:
    _install()
