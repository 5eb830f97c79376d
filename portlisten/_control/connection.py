"""
One client of the control socket, as the server sees it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    MAXIMUM_REQUEST_BYTES,
    Answer,
    encodeAnswer,
    encodeError,
)
from portlisten._reactor.deadline import Deadline

#: How long a client may be silent, or may leave an answer unread, in seconds.
SILENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Detached(Answer):
    """
    No answer: the connection is no client's any more.

    @ivar then: gets the socket of the connection, and owns it.
    """

    then: Callable[[socket.socket], None]


#: Answers a line of a client, now or later.  It may raise any exception.
Answerer: TypeAlias = "Callable[[bytes, _kernel.Credentials], Answer | Deferred[Any]]"


@implementer(IPullProducer)
class Client(Protocol):
    """
    The connection of a client.

    @param reactor: an L{IReactorTime}.
    @param credentials: the client's.
    @param answer: answers its requests.
    @param active: called with this object when the client got an answer.
    @param left: called with this object when the connection is closed.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        credentials: _kernel.Credentials,
        answer: Answerer,
        active: Callable[[Client], None] = lambda client: None,
        left: Callable[[Client], None] = lambda client: None,
    ) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._answer = answer
        self._active = active
        self._left = left
        self._received = b""
        # Whether a request was taken, and its answer is not there yet.
        self._inHand = False
        # Whether an answer is not in the kernel yet, and whether it is being written.
        self._unsent = False
        self._writing = False
        self._ended = False
        self._silence: Deadline | None = None
        # The call that takes the next request.
        self._next: IDelayedCall | None = None

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    @property
    def uid(self) -> int:
        """
        The user of the client.
        """
        return self._credentials.uid

    @property
    def idle(self) -> bool:
        """
        Whether no request of the client is in hand.
        """
        return not (self._inHand or self._unsent or self._next is not None)

    @property
    def waits(self) -> bool:
        """
        Whether the client waits for an answer that is not there yet.
        """
        return self._inHand

    def hasLeft(self) -> bool:
        """
        Say whether the client has closed its connection, and not only its writing side.
        While a request is in hand, the reactor does not tell.
        """
        poll = select.poll()
        poll.register(self._transport.fileno(), 0)
        return bool(poll.poll(0))

    def connectionMade(self) -> None:
        self._transport.registerProducer(self, False)
        self._listen()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        self._proceed()

    # Requests

    def _proceed(self) -> None:
        """
        Take the next request, if it has come.
        """
        self._next = None
        if not self.idle or self._ended:
            return
        line, end, rest = self._received.partition(b"\n")
        if len(line) >= MAXIMUM_REQUEST_BYTES:
            self._refuse(f"a request has {MAXIMUM_REQUEST_BYTES} bytes at the most")
        elif end:
            self._received = rest
            self._take(line)
        else:
            self._transport.resumeProducing()

    def _take(self, line: bytes) -> None:
        """
        Answer a request.  Until then, nothing is read, and the client may be silent.
        """
        self._transport.pauseProducing()
        self._inHand = True
        self._stopWaiting()
        try:
            answer = self._answer(line, self._credentials)
        except Exception:
            self._failed(Failure())
            return
        if isinstance(answer, Deferred):
            answer.addCallback(self._answered).addErrback(self._failed)
            return
        try:
            self._answered(answer)
        except Exception:
            self._failed(Failure())

    def _answered(self, answer: Answer) -> None:
        if self._ended:
            return
        if isinstance(answer, Detached):
            self._detach(answer)
            return
        data = encodeAnswer(answer)
        self._inHand = False
        self._active(self)
        self._listen()
        self._reply(data)

    def _detach(self, answer: Detached) -> None:
        try:
            own = self._transport.getHandle().dup()
        except OSError as error:
            raise ControlError(f"this is impossible now: {error.strerror}") from None
        self.end()
        answer.then(own)

    def _failed(self, failure: Failure) -> None:
        if failure.check(ControlError):
            reason = failure.getErrorMessage()
        else:
            self.log.failure(
                "a bug in portlisten spoils a request", failure, event="bug"
            )
            reason = "an internal error: the log has it"
        if not self._ended:
            self._inHand = False
            self._refuseRequest(reason)

    def _refuseRequest(self, reason: str) -> None:
        """
        Answer that a request cannot be answered.
        """
        self._refuse(reason)

    def _reply(self, data: bytes) -> None:
        """
        Send an answer, and then take the next request.
        """
        self._write(data)
        if not self._unsent:
            self._continue()

    def _continue(self) -> None:
        """
        Take the next request in the next turn of the reactor: others have a turn, too.
        """
        if b"\n" in self._received:
            self._next = self._reactor.callLater(0, self._proceed)
        else:
            self._proceed()

    def _write(self, data: bytes) -> None:
        self._unsent = self._writing = True
        self._transport.writeNow(data)
        self._writing = False

    def _refuse(self, reason: str) -> None:
        """
        Answer that a request cannot be answered, and close.
        """
        if self._unsent:
            self.end()
            return
        self._end()
        self._listen()
        self._write(encodeError(reason))
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def makeWay(self, reason: str) -> None:
        """
        Close for another client, and say why if that is possible at once.
        """
        if not self._unsent:
            self._write(encodeError(reason))
        self.end()

    def end(self) -> None:
        """
        Close, without an answer.
        """
        self._end()
        self._transport.abortConnection()

    def _end(self) -> None:
        self._ended = True
        if self._next is not None:
            self._next.cancel()
            self._next = None

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
        if waited and not self._ended:
            self._continue()

    def stopProducing(self) -> None:
        pass

    def descriptorsCame(self) -> None:
        """
        The client sent a descriptor, which stays in the socket, unread.
        """
        self._refuse("no request has a descriptor")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        self._stopWaiting()
        self._left(self)


class LastingClient(Client):
    """
    A client whose connection ends only if the client, or the server, ends it.

    @ivar whenEnded: called when the client has ended it.
    """

    whenEnded: Callable[[], None] = staticmethod(lambda: None)
    _closed = False

    def end(self) -> None:
        """
        See L{Client.end}.
        """
        self._closed = True
        super().end()

    def _listen(self) -> None:
        """
        Set no limit to silence.
        """

    def _refuseRequest(self, reason: str) -> None:
        self._reply(encodeError(reason))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        super().connectionLost(reason)
        if not self._closed:
            self.whenEnded()
