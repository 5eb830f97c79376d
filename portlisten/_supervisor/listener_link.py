"""
The supervisor's end of the link to its listener.

The link is a Unix stream socket.  The supervisor sends the start message, with all
sockets, and then one request at a time.

The listener talks to the network and to workers, so what it says is taken as hostile
input.  The link takes no descriptors, bounds each line, and parses it strictly.  If
anything is wrong, the link breaks, and the supervisor goes on.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._config.port_options import writeLimits
from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError, Refusal
from portlisten._control.messages import Answer, Request, encodeRequest, parseAnswer
from portlisten._control.start import (
    LINKS,
    GivenPort,
    StartMessage,
    encodeStart,
    isLoaded,
    parseReady,
)
from portlisten._model import printable
from portlisten._ports.binding import BoundPort
from portlisten._reactor.deadline import Deadline
from portlisten._supervisor.logs import log

#: How long the listener may take from the start message until it accepts, in seconds.
READY_SECONDS = 60.0

#: How long the listener may take to answer a request, in seconds.
ANSWER_SECONDS = 10.0

#: How many bytes a line of the listener may have.
MAXIMUM_LINE_BYTES = 4 * 1024 * 1024

#: How many requests may wait for their answers.
MAXIMUM_REQUESTS = 64

#: How long to wait before the link's socket is closed, if that is not possible now, in
#: seconds.
CLOSE_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class _Asked:
    """
    A request that was not answered yet.
    """

    request: Request
    answered: Deferred[Any]


class ListenerLink(Protocol):
    """
    The supervisor's end of the link.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sock: is connected to the listener.  The link owns it.
    @param onBroken: called once, when the link has ended without L{close}, with the
        reason in one line.  All Deferreds have failed by then.

    @ivar onBroken: the same as the parameter.
    @ivar loaded: fires when the process has loaded what it needs.  If the link ends
        before, it does not fire.
    @ivar ready: fires with the number that the listener gives as that of its process,
        when the listener accepts.  Fails with L{ControlError} if the link ends before.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        onBroken: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._reactor = reactor
        self.onBroken = onBroken
        self._requests: deque[_Asked] = deque()
        self._received = bytearray()
        self._deadline: Deadline | None = None
        self._started = self._isReady = self._ended = False
        self._refusesDescriptors = _kernel.refuseDescriptors(sock)
        self.loaded: Deferred[None] = Deferred()
        self.ready: Deferred[int] = Deferred()
        self._socket = sock
        ChannelTransport(reactor, sock, self, descriptors=False).start()

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    # What the supervisor says

    def sendStart(
        self,
        settings: ListenerSettings,
        ports: Sequence[BoundPort],
        channel: socket.socket,
        links: Sequence[socket.socket] = (),
    ) -> None:
        """
        Send the start message.  All sockets stay the caller's, and must stay open until
        L{ready} has fired or failed.

        @param ports: the ports, which listen.
        @param channel: the listening socket of the path that workers connect to.
        @param links: see L{StartMessage}: at most as many as L{LINKS}, in their order.
        """
        assert not self._started
        self._started = True
        if self._ended:
            return
        message = StartMessage(
            settings,
            tuple(
                GivenPort(
                    port.name,
                    port.kind.name,
                    str(port.address),
                    len(port.sockets),
                    port.inherited,
                    port.balanced,
                    writeLimits(port.limits),
                )
                for port in ports
            ),
            sum(len(port.sockets) for port in ports),
            LINKS[: len(links)],
        )
        bound = [each for port in ports for each in port.sockets]
        for sock in [*bound, channel, *links]:
            self._transport.sendFileDescriptor(sock.fileno())
        self._wait(READY_SECONDS, f"it does not get ready within {READY_SECONDS:g} s")
        # No descriptor comes after the end of the line: each message has some of them,
        # and at least one byte.
        self._transport.writeNow(encodeStart(message))

    def ask(self, request: Request) -> Deferred[Any]:
        """
        Ask the listener.  A request waits until the listener is ready, and has answered
        the requests before.

        @return: fires with the answer, an L{Answer} of the request's type.  Fails with
            L{ControlError} if the listener refuses the request, the link ends, or
            L{MAXIMUM_REQUESTS} wait already.  If it is cancelled, the request is not
            sent, unless it was sent already.
        """
        answered: Deferred[Any] = Deferred(self._forget)
        if self._ended:
            answered.errback(ControlError("the listener cannot be asked"))
            return answered
        if len(self._requests) >= MAXIMUM_REQUESTS:
            answered.errback(
                ControlError(
                    f"{MAXIMUM_REQUESTS} requests wait for the listener already: wait"
                )
            )
            return answered
        self._requests.append(_Asked(request, answered))
        if self._isReady and len(self._requests) == 1:
            self._sendNext()
        return answered

    def _forget(self, answered: Deferred[Any]) -> None:
        """
        Forget a request.  If it was sent, its answer must still come.
        """
        sent = 1 if self._isReady else 0
        for each in list(self._requests)[sent:]:
            if each.answered is answered:
                self._requests.remove(each)

    def close(self) -> None:
        """
        End the link.  The listener stops then.  May be called again.
        """
        self._end("the link to the listener was closed", False)

    def _sendNext(self) -> None:
        if self._requests:
            self._wait(
                ANSWER_SECONDS, f"it does not answer within {ANSWER_SECONDS:g} s"
            )
            self._transport.writeNow(encodeRequest(self._requests[0].request))

    def _wait(self, seconds: float, reason: str) -> None:
        self._stopWaiting()
        self._deadline = Deadline(self._reactor, seconds, self._break, reason)

    def _stopWaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # What the listener says

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        searched = len(self._received)
        self._received += data
        while not self._ended:
            end = self._received.find(b"\n", searched)
            if (end if end >= 0 else len(self._received)) > MAXIMUM_LINE_BYTES:
                self._break(f"it sent a line of more than {MAXIMUM_LINE_BYTES} bytes")
            elif end < 0:
                if self._received and not self._expectsLine:
                    self._break("it spoke without being asked")
                break
            else:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                searched = 0
                self._lineReceived(line)

    @property
    def _expectsLine(self) -> bool:
        if not self._isReady:
            return self._started or not self.loaded.called
        return bool(self._requests)

    def _lineReceived(self, line: bytes) -> None:
        if not self._expectsLine:
            self._break("it spoke without being asked")
            return
        if not line.isascii():
            # The listener writes other characters as \uXXXX.  So what is passed on to
            # operators is not longer than what came.
            self._break("it sent characters that are not ASCII")
            return
        if not self._isReady and not self.loaded.called and isLoaded(line):
            self.loaded.callback(None)
            return
        if not self._isReady and not self._started:
            self._break("it spoke without being asked")
            return
        self._stopWaiting()
        try:
            if self._isReady:
                self._answerReceived(line)
            else:
                pid = parseReady(line)
                self._isReady = True
                self._sendNext()
                self.ready.callback(pid)
        except ControlError as error:
            self._break(str(error))
        except Exception:
            log.failure(
                "a bug in portlisten breaks the link to the listener", event="bug"
            )
            self._break("an internal error")

    def _answerReceived(self, line: bytes) -> None:
        """
        Give an answer to those who asked.

        @raise ControlError: if it is none.
        """
        asked = self._requests[0]
        result: Answer | Failure
        try:
            result = parseAnswer(line, asked.request.ANSWER)
        except Refusal:
            result = Failure()
        self._requests.popleft()
        self._sendNext()
        # The callbacks may ask, or close the link.
        if asked.answered.called:
            pass  # it was cancelled
        elif isinstance(result, Failure):
            asked.answered.errback(result)
        else:
            asked.answered.callback(result)

    def descriptorsCame(self) -> None:
        """
        The listener sent a descriptor, which stays in the socket, unread.
        """
        self._break("it sent a descriptor")

    # The end

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        if not self._refusesDescriptors:
            self._keepUnread()
        self._break("it closed the link")

    def _keepUnread(self) -> None:
        """
        Keep the socket open while the transport closes it, and close it elsewhere:
        closing a descriptor that is queued in it may take for ever.
        """
        try:
            kept = self._socket.dup()
        except OSError:
            # No descriptor is free.  Without this, the transport would close it.
            kept = socket.socket(fileno=self._socket.detach())
        self._closeElsewhere(kept)

    def _closeElsewhere(self, sock: socket.socket) -> None:
        try:
            _kernel.closeElsewhere(sock)
        except OSError:
            self._reactor.callLater(CLOSE_RETRY_SECONDS, self._closeElsewhere, sock)

    def _break(self, reason: str) -> None:
        self._end(f"the link to the listener broke: {printable(reason)}", True)

    def _end(self, reason: str, broken: bool) -> None:
        if self._ended:
            return
        self._ended = True
        self._stopWaiting()
        self._received.clear()
        self._transport.abortConnection()
        failed = [each.answered for each in self._requests]
        self._requests.clear()
        if not self._isReady:
            failed.insert(0, self.ready)
        for each in failed:
            if not each.called:
                each.errback(ControlError(reason))
        if broken:
            self.onBroken(reason)
