"""
Which processes may be workers, and when.

When a process connects to the channels' path, L{Admission} decides whether it may be a
worker.  Its user must be permitted, must have a place, and must read what it is sent.
When a worker has joined, L{Newcomers} decides when it gets its first offer.  It also
notes which workers finish a connection, and which fail before that.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.about import about
from portlisten._listener.access import Access
from portlisten._listener.interfaces import IChannel
from portlisten._policy.places import Places
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.codec import encode
from portlisten._wire.frames import Bye

#: How many processes are let in at a time, and the pause after that, in seconds.  If a
#: process connects as fast as it can, it must not keep the listener busy.
PROCESSES_PER_BATCH = 8
BATCH_PAUSE_SECONDS = 0.05


class Admission:
    """
    Lets processes in at the channels' path.

    @param reactor: an L{IReactorTime} that also reads the path's socket.
    @param access: says which users may be workers.
    @param places: says how many channels a user may have.
    @param unreadBy: says how many descriptors are in flight to a user's workers that
        have left.
    @param flightLimit: how many descriptors the kernel lets a user have in flight.
    @param letIn: called with the socket and the credentials of each process that is
        let in.  It keeps the socket.  The process has a place until L{leave}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        access: Access,
        places: Places,
        unreadBy: Callable[[int], int],
        flightLimit: int,
        letIn: Callable[[socket.SocketType, _kernel.Credentials], None],
    ) -> None:
        self._reactor = reactor
        self._access = access
        self._places = places
        self._unreadBy = unreadBy
        self._flightLimit = flightLimit
        self._letIn = letIn
        self._logLimited = logLimit(reactor)
        self._acceptor: Acceptor | None = None
        self._pause = Pause(reactor, self._resume)
        # After refuseAll(): the HELLO to send before each refusal.
        self._stoppingHello: bytes | None = None

    def listen(self, sock: socket.socket, path: str, retry: float) -> None:
        """
        Begin to let processes in.

        @param sock: the path's socket.
        @param retry: how long to wait after a failure, in seconds.
        """
        self._acceptor = Acceptor(
            self._reactor, sock, path, lambda: PROCESSES_PER_BATCH, self._admit, retry
        )
        self._acceptor.resume()

    def suspend(self) -> None:
        """
        Leave processes in the backlog.
        """
        if self._acceptor is not None:
            self._acceptor.park()

    def resume(self) -> None:
        """
        Undo L{suspend}.
        """
        if self._acceptor is not None:
            self._acceptor.unpark()

    def refuseAll(self, hello: bytes) -> None:
        """
        Let in no more processes, since the listener stops.

        @param hello: the HELLO to send to each process before the refusal.
        """
        self._stoppingHello = hello

    def close(self) -> None:
        """
        Accept nothing more, and close the path's socket.
        """
        if self._acceptor is not None:
            self._acceptor.close()
        self._pause.cancel()

    def leave(self, channel: IChannel) -> None:
        """
        Free the place of a process that was let in.
        """
        self._places.free(channel.user)

    def _admit(self, batch: Sequence[Accepted]) -> None:
        assert self._acceptor is not None
        self._acceptor.suspend()
        self._pause.begin(BATCH_PAUSE_SECONDS)
        for sock, _ in batch:
            try:
                credentials = _kernel.credentials(sock)
            except OSError as error:
                self.complain("a worker", error)
                sock.close()
                continue
            reason = self._refusalReason(credentials)
            if reason:
                self._refuse(sock, credentials, reason)
            else:
                self._letIn(sock, credentials)

    def _resume(self) -> None:
        assert self._acceptor is not None
        self._acceptor.resume()

    def _refusalReason(self, credentials: _kernel.Credentials) -> str:
        """
        Say why a process is not let in.  If it is let in, give it a place.

        @return: the reason, or an empty string if the process is let in.
        """
        if self._stoppingHello is not None:
            return "the listener stops"
        if not self._access.permits(credentials):
            return self._access.explain(credentials)
        uid = credentials.uid
        unread = self._unreadBy(uid)
        if unread > self._flightLimit // 8:
            return (
                f"{unread} descriptors are on their way to processes of uid {uid} that"
                " do not read them: end those"
            )
        if not self._places.take(uid):
            return (
                f"the listener is full: {self._places.describe(uid)}; a higher"
                " 'ulimit -n' of the listener gives it more"
            )
        return ""

    def complain(self, label: str, error: OSError) -> None:
        """
        Log that a process could not be let in.

        @param label: the process's name in the log.
        """
        self._logLimited(
            self.log.error,
            "{channel} is turned away, and may try again: {error}",
            event="worker-refused",
            channel=label,
            error=str(error.strerror),
        )

    def _refuse(
        self, sock: socket.SocketType, credentials: _kernel.Credentials, reason: str
    ) -> None:
        self._logLimited(
            self.log.warn,
            "process {pid} is turned away: {reason}",
            event="worker-refused",
            pid=credentials.pid,
            reason=reason,
        )
        try:
            # A successor reads the HELLO, and a worker the BYE.
            sock.send((self._stoppingHello or b"") + encode(Bye(reason)))
        except OSError:
            pass  # the process has left already
        sock.close()


class Newcomers:
    """
    The workers that have joined, and have not finished a connection yet.

    @param reactor: an L{IReactorTime}.
    @param throttle: says how long a user's next worker waits for its first offer.
    """

    log = Logger()

    def __init__(self, reactor: Any, throttle: Throttle) -> None:
        self._reactor = reactor
        self._throttle = throttle
        self._logLimited = logLimit(reactor)
        # With the timer of the wait, or None if the worker wants no more offers.
        self._awaitingFirstOffer: dict[IChannel, IDelayedCall | None] = {}
        # With the number of its user's deaths before the worker began.
        self._awaitingFirstClose: dict[IChannel, int] = {}

    def add(self, channel: IChannel, begin: Callable[[], None]) -> None:
        """
        Add a worker that joined.

        @param begin: called when the worker may have its first offer.  That may be
            before this returns.
        """
        delay = self._throttle.delay(channel.user)
        if not delay:
            begin()
            return
        self._logLimited(
            self.log.warn,
            "{channel} must wait {delay:g} s: the workers before it died at once",
            event="worker-throttled",
            **about(channel),
            delay=delay,
        )
        self._awaitingFirstOffer[channel] = self._reactor.callLater(
            delay, self._waitEnded, channel, begin
        )

    def _waitEnded(self, channel: IChannel, begin: Callable[[], None]) -> None:
        del self._awaitingFirstOffer[channel]
        begin()

    def hold(self, channel: IChannel) -> None:
        """
        Add a worker that is to have no offers, instead of L{add}.
        """
        self._awaitingFirstOffer[channel] = None

    def begin(self, channel: IChannel) -> None:
        """
        Note that a worker is offered connections from now on.
        """
        self._awaitingFirstClose[channel] = self._throttle.deaths(channel.user)

    def waits(self, channel: IChannel) -> bool:
        """
        Whether a worker still waits for its first offer.
        """
        return channel in self._awaitingFirstOffer

    def drain(self, channel: IChannel) -> None:
        """
        Note that a worker that L{waits} wants no more offers: its wait never ends.
        """
        timer = self._awaitingFirstOffer[channel]
        if timer is not None:
            timer.cancel()
        self._awaitingFirstOffer[channel] = None

    def leave(self, channel: IChannel) -> bool:
        """
        Note that a worker leaves.

        @return: whether the worker had waited for its first offer until now.
        """
        if channel not in self._awaitingFirstOffer:
            return False
        timer = self._awaitingFirstOffer.pop(channel)
        if timer is not None:
            timer.cancel()
        return True

    def finished(self, channel: IChannel) -> None:
        """
        Note that a worker has finished a connection.
        """
        began = self._awaitingFirstClose.pop(channel, None)
        if began is not None:
            self._throttle.succeeded(channel.user, began)

    def failed(self, channel: IChannel) -> None:
        """
        Note that a worker died or hangs.  That counts if it had finished nothing.
        """
        if self._awaitingFirstClose.pop(channel, None) is not None:
            self._throttle.failed(channel.user)

    def sharingFailed(self, channel: IChannel) -> None:
        """
        Note that a worker hangs that only uses shared sockets.  That always counts,
        since such a worker sends no sign that it works.
        """
        self._throttle.failed(channel.user)

    def channelClosed(self, channel: IChannel) -> None:
        """
        Note that the channel of a worker is closed.
        """
        self._awaitingFirstClose.pop(channel, None)
