"""
Tests of workers in asyncio: each in loops of its own, with a listener that writes its
frames by hand.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

import portlisten.asyncio
from portlisten import _kernel
from portlisten._model import Port, UnixAddress
from portlisten._wire.codec import FROM_WORKER
from portlisten._wire.frames import ListenerHello, Offer, Serving, WorkerHello
from tests.support.channels import PATIENCE, Peer, tcpPair
from tests.support.descriptors import watchDescriptors

HELLO = ListenerHello(
    8,
    (Port(0, UnixAddress(b"/run/www"), "www"),),
    honoursLimit=True,
    honoursFirst=True,
    frames=frozenset([Serving.TYPE]),
)


async def eventually(condition: Callable[[], Any]) -> Any:
    """
    Let the loop run until a condition holds.

    @return: what the condition gave.
    @raise AssertionError: if it does not hold in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {PATIENCE:g} s")
        await asyncio.sleep(0.002)
    return result


async def aMoment() -> None:
    """
    Let the loop turn a few times, so that an unwanted event could happen.
    """
    for _ in range(5):
        await asyncio.sleep(0.002)


async def hear(client: socket.socket) -> bytes:
    """
    Read from a client's end to the end, or to a reset.
    """
    client.setblocking(False)
    received = b""
    loop = asyncio.get_running_loop()
    try:
        while data := await asyncio.wait_for(loop.sock_recv(client, 65536), PATIENCE):
            received += data
    except ConnectionResetError:
        pass
    return received


class Lines(logging.Handler):
    """
    Keeps the lines of the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Listener(Peer):
    """
    The listener's end of a channel, spoken by hand.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, FROM_WORKER)

    async def greet(self, hello: ListenerHello = HELLO) -> WorkerHello:
        """
        Wait for the worker's HELLO, and answer.
        """
        await eventually(self.read)
        self.say(hello)
        found: WorkerHello = self.frames[0]
        return found

    def offer(self, id: int, sock: socket.socket, close: bool = True) -> None:
        """
        Offer a connection.

        @param close: whether to close the copy.
        """
        self.say(Offer(id, 0, _kernel.cookie(sock)), descriptors=[sock.fileno()])
        if close:
            sock.close()


class Talk(asyncio.Protocol):
    """
    Answers with what it got, and notes what it went through.
    """

    made: list[Talk]

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.received = b""
        self.made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.events.append(data)
        self.transport.write(data.upper())
        if data.endswith(b"\n"):
            self.transport.close()

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")


class LoopTestCase(SynchronousTestCase):
    """
    The base.

    @ivar makeLoop: makes the loop that the test runs in.
    @ivar talks: the protocols of the factory C{Talk}.
    @ivar bugs: what was passed to the loop's exception handler.
    """

    makeLoop = staticmethod(portlisten.asyncio.asyncioLoop)

    def setUp(self) -> None:
        # libuv's first loop opens descriptors that stay open.
        self.makeLoop().close()
        watchDescriptors(self)
        self.addCleanup(gc.collect)
        self.bugs: list[dict[str, Any]] = []
        self.talks: list[Talk] = []
        self.Talk = type("Talk", (Talk,), {"made": self.talks})
        self.log = Lines()
        logger = logging.getLogger("portlisten")
        level = logger.level
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(logger.removeHandler, self.log)
        self.loop: Any = self.makeLoop()
        self.loop.set_exception_handler(lambda loop, bug: self.bugs.append(bug))
        self.addCleanup(self.closeLoop)

    def closeLoop(self) -> None:
        if not self.loop.is_closed():
            self.loop.run_until_complete(asyncio.sleep(0.01))
            self.loop.close()

    def complete(self, work: Coroutine[Any, Any, Any]) -> Any:
        """
        Run a coroutine to its end.
        """
        return self.loop.run_until_complete(asyncio.wait_for(work, 6 * PATIENCE))

    def bind(self, path: str = "channel") -> socket.socket:
        """
        Bind the path of a channel.
        """
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        if os.path.exists(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen()
        sock.setblocking(False)
        return sock

    async def accept(self, sock: socket.socket) -> Listener:
        """
        Wait for a worker.
        """
        channel, _ = await asyncio.wait_for(self.loop.sock_accept(sock), PATIENCE)
        listener = Listener(channel)
        self.addCleanup(listener.close)
        return listener

    async def serve(
        self, factory: Any = None, options: str = "", **arguments: Any
    ) -> tuple[Any, Listener]:
        """
        Make a server that has joined a listener.
        """
        self.path = self.bind()
        server = await self.loop.create_server(
            factory or self.Talk, "portlisten:channel" + options, **arguments
        )
        self.server = server
        listener = await self.accept(self.path)
        await listener.greet()
        await eventually(lambda: any("joined" in each for each in self.log.lines))
        return server, listener

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """
        Make a TCP connection: the client's end, and the accepted end.
        """
        pair = tcpPair()
        for each in pair:
            self.addCleanup(each.close)
        return pair


_TestClass = TypeVar("_TestClass", bound="type[LoopTestCase]")


def onUvloopToo(testClass: _TestClass) -> _TestClass:
    """
    Run a class of tests once more, on uvloop.
    """
    name = testClass.__name__.replace("Tests", "OnUvloopTests")
    content: dict[str, Any] = {
        "makeLoop": staticmethod(portlisten.asyncio.uvloopLoop),
        "__doc__": testClass.__doc__,
        "__module__": testClass.__module__,
        "__qualname__": name,
    }
    if importlib.util.find_spec("uvloop") is None:
        content["skip"] = "uvloop is not installed: pip install uvloop"
    setattr(sys.modules[testClass.__module__], name, type(name, (testClass,), content))
    return testClass
