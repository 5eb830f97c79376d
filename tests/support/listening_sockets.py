"""
Tests of listening sockets of blocking workers, with a listener that writes its frames
by hand.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._model import Kind, Port, UnixAddress
from portlisten._wire import frames
from portlisten._wire.codec import FROM_WORKER
from portlisten._wire.frames import (
    Closed,
    Frame,
    Leave,
    ListenerHello,
    Offer,
    Serving,
    WorkerHello,
)
from portlisten.blocking import ListeningSocket
from tests.support.asyncio_loops import Lines
from tests.support.channels import PATIENCE, Peer, tcpPair
from tests.support.descriptors import watchDescriptors

HELLO = ListenerHello(
    64,
    (Port(0, UnixAddress(b"/run/www"), "www"),),
    honoursLimit=True,
    honoursFirst=True,
    frames=frozenset([Serving.TYPE, Leave.TYPE]),
)


def shared(kind: Kind = Kind.LISTENER) -> ListenerHello:
    """
    The HELLO of a listener that shares its port.
    """
    port = Port(0, UnixAddress(b"/run/www"), "www", kind)
    return ListenerHello(64, (port,), honoursLimit=True, frames=HELLO.frames)


def eventually(condition: Callable[[], Any]) -> Any:
    """
    Wait until a condition holds.

    @return: what the condition gave.
    @raise AssertionError: if it does not hold in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {PATIENCE:g} s")
        time.sleep(0.001)
    return result


class Listener(Peer):
    """
    The listener's end of a channel, spoken by hand.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, FROM_WORKER)

    def greet(self, hello: ListenerHello = HELLO) -> WorkerHello:
        """
        Wait for the worker's HELLO, and answer.
        """
        eventually(self.read)
        self.say(hello)
        found: WorkerHello = self.frames[0]
        return found

    def offer(self, id: int, sock: socket.socket) -> None:
        """
        Offer a connection, and keep no copy.
        """
        self.say(Offer(id, 0, _kernel.cookie(sock)), descriptors=[sock.fileno()])
        sock.close()

    def share(self, sock: socket.socket) -> None:
        """
        Share a socket.
        """
        shares = frames.Listener(0, _kernel.cookie(sock))
        self.say(shares, descriptors=[sock.fileno()])

    def hears(self, *expected: Frame) -> None:
        """
        Wait until these frames have come, among others.
        """
        eventually(lambda: set(expected) <= set(self.read()))


class SocketTestCase(SynchronousTestCase):
    """
    The base.
    """

    def setUp(self) -> None:
        watchDescriptors(self, PATIENCE)
        self.addCleanup(gc.collect)
        self.addCleanup(self.noThread)
        self.log = Lines()
        logger = logging.getLogger("portlisten")
        level = logger.level
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(logger.removeHandler, self.log)
        self.path = f"channel-{self.id().rsplit('.', 1)[-1]}"[:90]
        self.bound = self.bind()

    def noThread(self) -> None:
        """
        Wait until no worker's thread is left.
        """
        eventually(
            lambda: not any(each.name == "portlisten" for each in threading.enumerate())
        )

    def bind(self) -> socket.socket:
        """
        Bind the path of the channel.
        """
        if os.path.exists(self.path):
            os.unlink(self.path)
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        sock.listen()
        sock.settimeout(PATIENCE)
        return sock

    def join(self, hello: ListenerHello = HELLO) -> Listener:
        """
        Wait for a worker, and let it join.
        """
        channel, _ = self.bound.accept()
        listener = Listener(channel)
        self.addCleanup(listener.close)
        self.hello = listener.greet(hello)
        return listener

    def listen(
        self, options: str = "", hello: ListenerHello = HELLO, **arguments: Any
    ) -> tuple[ListeningSocket, Listener]:
        """
        Make a listening socket that has joined a listener.
        """
        listening = ListeningSocket(
            f"portlisten:{self.path}{options}", timeout=0, **arguments
        )
        self.addCleanup(listening.close)
        listener = self.join(hello)
        self.says("joined the listener")
        return listening, listener

    def says(self, what: str, count: int = 1) -> None:
        """
        Wait until the log has so many lines that contain something.
        """
        eventually(lambda: sum(what in each for each in self.log.lines) >= count)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """
        Make a TCP connection: the client's end, and the accepted end.
        """
        pair = tcpPair()
        for each in pair:
            self.addCleanup(each.close)
        return pair

    def offer(self, listener: Listener, id: int) -> socket.socket:
        """
        Offer a connection.

        @return: the client's end.
        """
        client, accepted = self.pair()
        listener.offer(id, accepted)
        return client

    def take(self, listening: ListeningSocket) -> socket.socket:
        """
        Accept a connection.
        """
        sock, _ = listening.accept()
        self.addCleanup(sock.close)
        return sock

    def isReadable(self, sock: socket.socket, seconds: float = 0) -> bool:
        """
        Whether a socket is readable, by each way to ask.
        """
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        with select.epoll() as epoll:
            epoll.register(sock, select.EPOLLIN)
            found = bool(poll.poll(1000 * seconds))
            while True:
                others = [bool(select.select([sock], [], [], 0)[0])]
                others.append(bool(epoll.poll(0)))
                before, found = found, bool(poll.poll(0))
                if found == before:
                    break
                # It has changed meanwhile.
        self.assertEqual(others, [found, found])
        return found

    def looks(self, listening: ListeningSocket) -> list[float]:
        """
        Note from now on how late each descriptor that was detached is looked at again.

        @return: the list that they are added to, in seconds.
        """
        loop: Any = listening._receiver._loop  # type: ignore[union-attr]
        later = loop.call_later
        found: list[float] = []

        def call_later(delay: float, then: Any, *arguments: object) -> Any:
            if getattr(then, "__name__", None) == "_look":
                found.append(delay)
            return later(delay, then, *arguments)

        loop.call_later = call_later
        return found

    def hear(self, client: socket.socket) -> bytes:
        """
        Read from a client's end to the end, or to a reset.
        """
        client.settimeout(PATIENCE)
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except ConnectionResetError:
            pass
        return received

    def isFree(self, listening: ListeningSocket, listener: Listener, id: int) -> None:
        """
        Check that nothing is in service: the worker has reported all ends, and takes
        the next connection.

        @param id: of the next offer.  All before it, from 1, were claimed.
        """
        ids = set(range(1, id))

        def ended() -> bool:
            heard = [frame.ids for frame in listener.heard(Closed)]
            return {each for one in heard for each in one} == ids

        eventually(ended)
        client = self.offer(listener, id)
        sock = self.take(listening)
        sock.sendall(b"served")
        sock.close()
        self.assertEqual(self.hear(client), b"served")
