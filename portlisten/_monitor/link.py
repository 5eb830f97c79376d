"""
The monitor's end of the link to its parent, which knows the status.

The monitor sends one request at a time.  Who asks while an answer is on its way gets
that answer, if it is fresh enough.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._control.client import MAXIMUM_ANSWER_BYTES
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Status,
    StatusAnswer,
    encodeRequest,
    parseAnswer,
)
from portlisten._monitor.history import History
from portlisten._reactor.pause import Pause

#: How long to wait for an answer, in seconds.
ANSWER_SECONDS = 5.0

#: How often the status is asked for, for the history, in seconds.
POLL_SECONDS = 1.0

#: How old the answer for the history may be, in seconds.
POLL_AGE_SECONDS = 0.5


class MonitorLink(Protocol):
    """
    Asks the parent, and implements L{portlisten._monitor.source.Source}.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sock: is connected to the parent.  The link owns it.
    @param ended: called once, when the parent has closed the link, or has broken it.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, sock: socket.socket, ended: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._ended = ended
        self._isOver = False
        self._received = bytearray()
        self._answer: StatusAnswer | None = None
        # When the request was sent that brought the answer, and the one on its way.
        self._answeredAt = 0.0
        self._sentAt: float | None = None
        # Those who wait for the answer on its way, and for the one after it.
        self._waiting: dict[Deferred[StatusAnswer], None] = {}
        self._late: dict[Deferred[StatusAnswer], None] = {}
        _kernel.refuseDescriptors(sock)
        ChannelTransport(reactor, sock, self, descriptors=False).start()

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    def latest(self, age: float) -> Deferred[StatusAnswer]:
        """
        See L{portlisten._monitor.source.Source.latest}.
        """
        now = self._reactor.seconds()
        if self._answer is not None and now - self._answeredAt <= age:
            return succeed(self._answer)
        asked: Deferred[StatusAnswer] = Deferred()
        if self._isOver:
            asked.errback(ControlError("the link to the listener has ended"))
            return asked
        if self._sentAt is not None and now - self._sentAt > age:
            self._late[asked] = None
        else:
            self._waiting[asked] = None
            if self._sentAt is None:
                self._ask()

        def timedOut(result: Any, seconds: float) -> Any:
            self._waiting.pop(asked, None)
            self._late.pop(asked, None)
            if isinstance(result, Failure) and result.check(
                CancelledError, TimeoutError
            ):
                raise ControlError(f"no answer within {seconds:g} s")
            return result

        asked.addTimeout(ANSWER_SECONDS, self._reactor, timedOut)
        return asked

    def _ask(self) -> None:
        self._sentAt = self._reactor.seconds()
        self._transport.writeNow(encodeRequest(Status()))

    # What the parent says

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        searched = len(self._received)
        self._received += data
        end = self._received.find(b"\n", searched)
        if end >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._lineReceived(line)
        if len(self._received) > MAXIMUM_ANSWER_BYTES:
            self._break("a line is too long")

    def _lineReceived(self, line: bytes) -> None:
        sentAt, self._sentAt = self._sentAt, None
        if sentAt is None or self._received:
            self._break("it spoke without being asked")
            return
        waiting, self._waiting = self._waiting, self._late
        self._late = {}
        result: StatusAnswer | Failure
        try:
            self._answer = result = parseAnswer(line, StatusAnswer)
            self._answeredAt = sentAt
        except ControlError:
            result = Failure()
        if self._waiting:
            self._ask()
        for each in waiting:
            each.callback(result)

    def descriptorsCame(self) -> None:
        """
        The parent sent a descriptor, which stays in the socket, unread.
        """
        self._break("it sent a descriptor")

    # The end

    def _break(self, reason: str) -> None:
        if not self._isOver:
            self.log.error(
                "the link to the listener broke: {reason}",
                event="monitor-failed",
                reason=reason,
            )
            self._transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        self._isOver = True
        waiting = [*self._waiting, *self._late]
        self._waiting, self._late = {}, {}
        for each in waiting:
            each.errback(ControlError("the link to the listener has ended"))
        self._ended()


class Poll:
    """
    Asks again and again, for the history.

    @param reactor: an L{IReactorTime}.
    @param latest: asks: see L{portlisten._monitor.source.Source.latest}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        latest: Callable[[float], Deferred[StatusAnswer]],
        history: History,
    ) -> None:
        self._reactor = reactor
        self._latest = latest
        self._history = history
        self._pause = Pause(reactor, self._poll)
        self._due = 0.0
        self._isOver = False

    def start(self) -> None:
        """
        Begin.
        """
        self._due = self._reactor.seconds()
        self._poll()

    def stop(self) -> None:
        """
        Ask no more.
        """
        self._isOver = True
        self._pause.cancel()

    def _poll(self) -> None:
        asked: Deferred[Any] = self._latest(POLL_AGE_SECONDS)
        asked.addErrback(self._silent).addCallback(self._add)
        asked.addErrback(
            lambda failure: self.log.failure(
                "a bug in portlisten spoils the history", failure, event="bug"
            )
        )
        asked.addBoth(self._next)

    def _silent(self, failure: Failure) -> None:
        failure.trap(ControlError)

    def _add(self, answer: StatusAnswer | None) -> None:
        self._history.add(self._reactor.seconds(), answer)

    def _next(self, result: object) -> None:
        if self._isOver:
            return
        # Beats that were missed are left out.
        now = self._reactor.seconds()
        self._due = max(self._due + POLL_SECONDS, now)
        self._pause.begin(self._due - now)
