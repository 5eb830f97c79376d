"""
The server's end of the control socket.

A client sends requests, one a line, and gets one answer a line, in the same order.  The
path's mode says who may connect, and the server checks each client's user as well.

A client can harm nobody: a line has a limit, silence has a limit, and the number of
clients has a limit.  If one client too many connects, the client that has been idle for
the longest is ended, so that the new one is served.  The server answers one request of
a client in a turn of the reactor.  It reads on when the answer is in the kernel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._channel.paths import BoundPath
from portlisten._channel.transport import ChannelTransport
from portlisten._control.connection import Client, LastingClient
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Answer,
    Request,
    encodeError,
    parseRequest,
)
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._reactor.log_limit import logLimit

#: How many clients may be connected at a time.
MAXIMUM_CLIENTS = 8

#: How long accepting pauses if descriptors or memory run out, in seconds.
RETRY_SECONDS = 0.1

#: What a client is told that finds no place, or must make way.
_BUSY = f"{MAXIMUM_CLIENTS} clients are connected: wait"

#: Answers requests of one type, now or later.  The second argument is the client.
Handler: TypeAlias = "Callable[[Any, _kernel.Credentials], Answer | Deferred[Any]]"


class ControlServer:
    """
    Answers the clients of a control socket.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param bound: the socket and its path, which the server owns.  L{None} if nobody can
        connect: L{serve} then adds clients.
    @param handlers: the functions that answer requests, by the types of the requests.
        A function may raise L{ControlError}.  It may return a L{Deferred} of the
        answer, which must fire within a limit of time: until then the client keeps its
        place.  If the client leaves, the answer is dropped.
    @param users: the users that may ask.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        bound: BoundPath | None,
        handlers: Mapping[type[Request], Handler],
        users: Collection[int],
    ) -> None:
        self._reactor = reactor
        self._bound = bound
        self._handlers = handlers
        self._users = frozenset(users)
        self._logLimited = logLimit(reactor)
        # The client that was active last is the last.
        self._clients: dict[Client, None] = {}
        self._acceptor: Acceptor | None = None
        if bound is None:
            return
        self._refusesDescriptors = _kernel.refuseDescriptors(bound.socket)
        self._acceptor = Acceptor(
            reactor,
            bound.socket,
            "the control socket",
            self._capacity,
            self._accepted,
            RETRY_SECONDS,
        )

    def start(self) -> None:
        """
        Accept clients.
        """
        assert self._acceptor is not None
        self._acceptor.resume()

    def serve(self, sock: socket.socket, ended: Callable[[], None]) -> None:
        """
        Serve a client that is connected already.  It may be silent for as long as it
        likes, and a request that cannot be answered does not end its connection.

        @param sock: its connection, which the server owns from now on.
        @param ended: called when the client has ended the connection.
        @raise OSError: if that is impossible.  The connection is closed then.
        """
        _kernel.refuseDescriptors(sock)
        try:
            credentials = _kernel.credentials(sock)
        except OSError:
            sock.close()
            raise
        client = LastingClient(
            self._reactor, credentials, self.answer, self._active, self._left
        )
        client.whenEnded = ended
        self._clients[client] = None
        ChannelTransport(self._reactor, sock, client, descriptors=False).start()

    def suspend(self) -> None:
        """
        Accept no clients for now: they wait.
        """
        if self._acceptor is not None:
            self._acceptor.park()

    def resume(self) -> None:
        """
        Undo L{suspend}.
        """
        if self._acceptor is not None:
            self._acceptor.unpark()

    @property
    def bound(self) -> BoundPath | None:
        """
        The socket and its path, which the server owns.
        """
        return self._bound

    def close(self) -> None:
        """
        Remove the path, and end all clients.  May be called again.
        """
        # Remove it before its socket is closed: a successor's might get the same inode.
        if self._bound is not None:
            self._bound.remove()
        if self._acceptor is not None:
            self._acceptor.close()
        for client in list(self._clients):
            client.end()

    # What clients report

    def answer(
        self, line: bytes, credentials: _kernel.Credentials
    ) -> Answer | Deferred[Any]:
        """
        Answer a request.

        @param line: the request.
        @param credentials: the client's.
        @raise ControlError: if the request cannot be answered.
        @raise Exception: if portlisten has a bug.
        """
        request = parseRequest(line)
        handler = self._handlers.get(type(request))
        if handler is None:
            raise ControlError(
                f"{request.COMMAND} means nothing to this listener: only a supervisor"
                " can do it, which 'portlisten run' starts"
            )
        return handler(request, credentials)

    def _active(self, client: Client) -> None:
        """
        Note that a client has got an answer.
        """
        if client in self._clients:
            del self._clients[client]
            self._clients[client] = None

    def _left(self, client: Client) -> None:
        """
        Note that a client's connection is closed.
        """
        self._clients.pop(client, None)

    # New clients

    def _capacity(self) -> int:
        """
        Say how many clients may be accepted in this turn of the reactor.  If all places
        are taken, accept one: the clients before it must have had a turn to ask.
        """
        return max(1, MAXIMUM_CLIENTS - len(self._clients))

    def _accepted(self, batch: Sequence[Accepted]) -> None:
        for sock, _ in batch:
            try:
                self._serve(sock)
            except OSError as error:
                sock.close()
                self._logLimited(
                    self.log.warn,
                    "a client of the control socket is turned away: {error}",
                    event="control-refused",
                    error=error.strerror,
                )

    def _serve(self, sock: socket.SocketType) -> None:
        """
        Serve a client.

        @param sock: its connection, which is the caller's if this raises an exception.
        """
        credentials = _kernel.credentials(sock)
        if credentials.uid not in self._users:
            self._logLimited(
                self.log.warn,
                "process {pid} of uid {uid} may not use the control socket",
                event="control-refused",
                pid=credentials.pid,
                uid=credentials.uid,
            )
            self._turnAway(sock, f"uid {credentials.uid} may not ask: {self._rule()}")
            return
        full = len(self._clients) >= MAXIMUM_CLIENTS
        if full and not self._makePlace(_commands(credentials.uid)):
            self._turnAway(sock, _BUSY)
            return
        client = Client(
            self._reactor, credentials, self.answer, self._active, self._left
        )
        own = socket.socket(fileno=sock.detach())
        self._clients[client] = None
        ChannelTransport(self._reactor, own, client, descriptors=False).start()

    def _rule(self) -> str:
        names = ["root" if uid == 0 else f"uid {uid}" for uid in sorted(self._users)]
        return f"only {' and '.join(names)} may"

    def _turnAway(self, sock: socket.SocketType, reason: str) -> None:
        with suppress(OSError):  # the client may have left already
            sock.send(encodeError(reason))
        sock.close()

    def _makePlace(self, first: bool) -> bool:
        """
        End the client that has been idle for the longest.  If none is idle, end one
        that does not read its answer, or asks without a pause, or has left.  A client
        that waits for an answer keeps its place.

        @param first: whether the place is for a user that may command this process.
            Other users' clients make way for it even if they wait for an answer: a
            listener that has become hostile must not keep operators out.
        @return: whether such a client was found.
        """
        clients = [each for each in self._clients if not each.waits or each.hasLeft()]
        if first and not clients:
            clients = [each for each in self._clients if not _commands(each.uid)]
        if not clients:
            return False
        client = next((each for each in clients if each.idle), clients[0])
        client.makeWay(_BUSY)
        # Its connection is closed in the next turn of the reactor.
        self._left(client)
        return True


def _commands(uid: int) -> bool:
    """
    Whether a user may command this process.
    """
    return uid in (0, os.geteuid())
