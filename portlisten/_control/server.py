"""
The listener's end of the control socket.

A client sends requests, one a line, and gets one answer a line, in the same order.  The
path's mode says who may connect.  A client can harm nobody: a line has a limit, silence
has a limit, and the number of clients has a limit.  The next request is read only when
the answer before it is in the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.paths import BoundPath
from portlisten._channel.transport import ChannelTransport
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    MAXIMUM_REQUEST_BYTES,
    Answer,
    Request,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import logLimit

#: How many clients may be connected at a time.
MAXIMUM_CLIENTS = 8

#: How long a client may be silent, or may leave an answer unread, in seconds.
SILENCE_SECONDS = 5.0

#: How long accepting pauses if descriptors or memory run out, in seconds.
RETRY_SECONDS = 0.1

#: Answers requests of one type.  The second argument is the client.
Handler: TypeAlias = "Callable[[Any, _kernel.Credentials], Answer]"


class ControlServer:
    """
    Answers the clients of a control socket.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param bound: the socket and its path, which the server owns.  L{None} if nobody can
        connect: L{serve} then adds clients.
    @param handlers: the functions that answer requests, by the types of the requests.
        A function may raise L{ControlError}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        bound: BoundPath | None,
        handlers: Mapping[type[Request], Handler],
    ) -> None:
        self._reactor = reactor
        self._acceptor: Acceptor | None = None
        self._bound = bound
        self._handlers = handlers
        self._logLimited = logLimit(reactor)
        self._clients: set[_Client] = set()
        if bound is None:
            return
        self._refusesDescriptors = _kernel.refuseDescriptors(bound.socket)
        self._acceptor = Acceptor(
            reactor,
            bound.socket,
            "the control socket",
            lambda: MAXIMUM_CLIENTS,
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
            client = _LastingClient(
                self._reactor, self, _kernel.credentials(sock), ended
            )
        except OSError:
            sock.close()
            raise
        self._clients.add(client)
        ChannelTransport(self._reactor, sock, client, descriptors=False).start()

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

    def answer(self, line: bytes, credentials: _kernel.Credentials) -> bytes:
        """
        Answer a request.

        @param line: the request.
        @param credentials: the client's.
        @return: the line of the answer.
        @raise ControlError: if the request cannot be answered.
        """
        request = parseRequest(line)
        handler = self._handlers.get(type(request))
        if handler is None:
            raise ControlError(f"{request.COMMAND} means nothing to this listener")
        try:
            return encodeAnswer(handler(request, credentials))
        except ControlError:
            raise
        except Exception:
            self.log.failure("a bug in portlisten spoils a request")
            raise ControlError("an internal error: the listener's log has it") from None

    def left(self, client: _Client) -> None:
        """
        Note that a client's connection is closed.
        """
        self._clients.discard(client)

    def _accepted(self, batch: Sequence[Accepted]) -> None:
        for sock, _ in batch:
            try:
                self._serve(sock)
            except OSError as error:
                sock.close()
                self._logLimited(
                    self.log.warn,
                    "a client of the control socket is turned away: {error}",
                    error=error.strerror,
                )

    def _serve(self, sock: socket.SocketType) -> None:
        """
        Serve a client.

        @param sock: its connection, which is the caller's if this raises an exception.
        """
        if len(self._clients) >= MAXIMUM_CLIENTS:
            try:
                sock.send(encodeError(f"{MAXIMUM_CLIENTS} clients are connected: wait"))
            except OSError:
                pass  # the client has left already
            sock.close()
            return
        client = _Client(self._reactor, self, _kernel.credentials(sock))
        own = socket.socket(fileno=sock.detach())
        self._clients.add(client)
        ChannelTransport(self._reactor, own, client, descriptors=False).start()


@implementer(IPullProducer)
class _Client(Protocol):
    """
    The connection of a client.

    @param credentials: the client's.
    """

    def __init__(
        self, reactor: Any, server: ControlServer, credentials: _kernel.Credentials
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._credentials = credentials
        self._received = b""
        # Whether an answer is not in the kernel yet, and whether it is being written.
        self._unsent = False
        self._writing = False
        self._ended = False
        self._silence: Deadline | None = None

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    def connectionMade(self) -> None:
        self._transport.registerProducer(self, False)
        self._listen()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        self._proceed()

    def _proceed(self) -> None:
        """
        Answer the requests that have come, until an answer cannot be written.
        """
        while not (self._unsent or self._ended):
            line, end, rest = self._received.partition(b"\n")
            if len(line) >= MAXIMUM_REQUEST_BYTES:
                self._refuse(f"a request has {MAXIMUM_REQUEST_BYTES} bytes at the most")
            elif end:
                self._received = rest
                self._answer(line)
            else:
                break

    def _answer(self, line: bytes) -> None:
        try:
            answer = self._server.answer(line, self._credentials)
        except ControlError as error:
            self._refuseRequest(str(error))
        else:
            self._listen()
            self._write(answer)

    def _refuseRequest(self, reason: str) -> None:
        """
        Answer that a request cannot be answered.
        """
        self._refuse(reason)

    def _write(self, data: bytes) -> None:
        self._unsent = self._writing = True
        self._transport.writeNow(data)
        self._writing = False
        if self._unsent:
            self._transport.pauseProducing()

    def _refuse(self, reason: str) -> None:
        """
        Answer that a request cannot be answered, and close.
        """
        if self._unsent:
            self.end()
            return
        self._ended = True
        self._listen()
        self._write(encodeError(reason))
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def end(self) -> None:
        """
        Close, without an answer.
        """
        self._ended = True
        self._transport.abortConnection()

    # Silence

    def _listen(self) -> None:
        """
        Give the client the whole time again.
        """
        self._stopWaiting()
        self._silence = Deadline(self._reactor, SILENCE_SECONDS, self._silent)

    def _stopWaiting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _silent(self) -> None:
        self._refuse(f"no request within {SILENCE_SECONDS:g} s")

    # IPullProducer: the transport calls this when all bytes are in the kernel

    def resumeProducing(self) -> None:
        waited = self._unsent and not self._writing
        self._unsent = False
        if waited:
            self._transport.resumeProducing()
            self._proceed()

    def stopProducing(self) -> None:
        pass

    def descriptorsCame(self) -> None:
        """
        The client sent a descriptor, which stays in the socket, unread.
        """
        self._refuse("no request has a descriptor")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = True
        self._stopWaiting()
        self._server.left(self)


class _LastingClient(_Client):
    """
    A client whose connection ends only if the client, or the server, ends it.

    @param ended: called when the client has ended it.
    """

    def __init__(
        self,
        reactor: Any,
        server: ControlServer,
        credentials: _kernel.Credentials,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(reactor, server, credentials)
        self._whenEnded = ended
        self._closed = False

    def end(self) -> None:
        """
        See L{_Client.end}.
        """
        self._closed = True
        super().end()

    def _listen(self) -> None:
        """
        Set no limit to silence.
        """

    def _refuseRequest(self, reason: str) -> None:
        self._write(encodeError(reason))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if not self._closed:
            self._whenEnded()
