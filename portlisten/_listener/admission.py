"""
Which processes may be workers, and when.

L{Admission} decides as a process connects to the channels' path: whether its user is
permitted, has a place, and reads what it is sent.  L{Newcomers} decides when a worker
that has joined gets its first offer, and notes whether workers prove to work.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.access import Access
from portlisten._listener.interfaces import IChannel
from portlisten._policy.places import Places
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.codec import encode
from portlisten._wire.frames import Bye

#: How many processes are let in at a time, and the pause after that, in seconds: a
#: process that connects as fast as it can must not keep the listener busy.
GREETED = 8
GREETING_PAUSE = 0.05


class Admission:
    """
    Lets processes in at the channels' path.

    @param reactor: an L{IReactorTime}, and one that the path's socket is read with.
    @param access: says which users may be workers.
    @param places: says how many channels a user may have.
    @param unreadBy: says how many descriptors are in flight to processes of a user that
        have left.
    @param flightLimit: how many descriptors the kernel lets a user have in flight.
    @param letIn: called with the socket of each process that is let in, which it keeps,
        and with what the kernel says of the process.  The process has a place then,
        until L{leave}.
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
        self._quiet = logLimit(reactor)
        self._acceptor: Acceptor | None = None
        self._pause = Pause(reactor, self._resume)
        # What is sent before a refusal, once nobody is let in any more.
        self._farewell: bytes | None = None

    def listen(self, sock: socket.socket, path: str, retry: float) -> None:
        """
        Begin to let processes in.

        @param sock: the path's socket.
        @param retry: how long to wait after a failure, in seconds.
        """
        self._acceptor = Acceptor(
            self._reactor, sock, path, lambda: GREETED, self._admit, retry
        )
        self._acceptor.resume()

    def refuseAll(self, greeting: bytes) -> None:
        """
        Let nobody in any more, since the listener stops.

        @param greeting: what is sent to each process before the refusal.
        """
        self._farewell = greeting

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
        self._pause.begin(GREETING_PAUSE)
        for sock, _ in batch:
            try:
                who = _kernel.credentials(sock)
            except OSError as error:
                self.complain("a worker", error)
                sock.close()
                continue
            reason = self._objection(who)
            if reason:
                self._turnAway(sock, who, reason)
            else:
                self._letIn(sock, who)

    def _resume(self) -> None:
        assert self._acceptor is not None
        self._acceptor.resume()

    def _objection(self, who: _kernel.Credentials) -> str:
        """
        Say why a process is not let in, or nothing if it is: it has a place then.
        """
        if self._farewell is not None:
            return "the listener stops"
        if not self._access.permits(who):
            return self._access.explain(who)
        unread = self._unreadBy(who.uid)
        if unread > self._flightLimit // 8:
            return (
                f"{unread} descriptors are on their way to processes of uid"
                f" {who.uid} that do not read them: end those"
            )
        if not self._places.take(who.uid):
            return (
                f"the listener is full: {self._places.describe(who.uid)}; a higher"
                " 'ulimit -n' of the listener gives it more"
            )
        return ""

    def complain(self, who: str, error: OSError) -> None:
        """
        Log that a process could not be let in.

        @param who: what the log calls it.
        """
        self._quiet(
            self.log.error,
            "{channel} is turned away, and may try again: {error}",
            channel=who,
            error=str(error.strerror),
        )

    def _turnAway(
        self, sock: socket.SocketType, who: _kernel.Credentials, reason: str
    ) -> None:
        self._quiet(
            self.log.warn,
            "process {pid} is turned away: {reason}",
            pid=who.pid,
            reason=reason,
        )
        try:
            # A successor looks at the first, and a worker at the second.
            sock.send((self._farewell or b"") + encode(Bye(reason)))
        except OSError:
            pass  # it is gone already
        sock.close()


class Newcomers:
    """
    Workers that have joined, and have not finished a connection yet.

    @param reactor: an L{IReactorTime}.
    @param throttle: says how long a user's next worker waits for its first offer.
    """

    log = Logger()

    def __init__(self, reactor: Any, throttle: Throttle) -> None:
        self._reactor = reactor
        self._throttle = throttle
        self._quiet = logLimit(reactor)
        # With the end of the wait, or None if the worker wants no offers any more.
        self._awaitingFirstOffer: dict[IChannel, IDelayedCall | None] = {}
        # With the number of deaths of its user before it began.
        self._awaitingFirstClose: dict[IChannel, int] = {}

    def add(self, channel: IChannel, begin: Callable[[], None]) -> None:
        """
        A worker joined.

        @param begin: called when it may have its first offer, which may be now.
        """
        delay = self._throttle.delay(channel.user)
        if not delay:
            begin()
            return
        self._quiet(
            self.log.warn,
            "{channel} has to wait for {delay:g} s: those before it died at once",
            channel=channel.label,
            delay=delay,
        )
        self._awaitingFirstOffer[channel] = self._reactor.callLater(
            delay, self._waited, channel, begin
        )

    def _waited(self, channel: IChannel, begin: Callable[[], None]) -> None:
        del self._awaitingFirstOffer[channel]
        begin()

    def begin(self, channel: IChannel) -> None:
        """
        A worker is offered connections from now on.
        """
        self._awaitingFirstClose[channel] = self._throttle.deaths(channel.user)

    def waits(self, channel: IChannel) -> bool:
        """
        Whether a worker still waits for its first offer.
        """
        return channel in self._awaitingFirstOffer

    def drain(self, channel: IChannel) -> None:
        """
        A worker that L{waits} wants no offers any more: its wait never ends.
        """
        timer = self._awaitingFirstOffer[channel]
        if timer is not None:
            timer.cancel()
        self._awaitingFirstOffer[channel] = None

    def leave(self, channel: IChannel) -> bool:
        """
        A worker leaves.

        @return: whether it had waited for its first offer until now.
        """
        if channel not in self._awaitingFirstOffer:
            return False
        timer = self._awaitingFirstOffer.pop(channel)
        if timer is not None:
            timer.cancel()
        return True

    def finished(self, channel: IChannel) -> None:
        """
        A worker has finished a connection.
        """
        began = self._awaitingFirstClose.pop(channel, None)
        if began is not None:
            self._throttle.succeeded(channel.user, began)

    def failed(self, channel: IChannel) -> None:
        """
        A worker died or hangs.  That counts if it had finished nothing.
        """
        if self._awaitingFirstClose.pop(channel, None) is not None:
            self._throttle.failed(channel.user)

    def sharingFailed(self, channel: IChannel) -> None:
        """
        A worker that is offered nothing hangs.  That always counts: it sends no sign
        that it works.
        """
        self._throttle.failed(channel.user)

    def forget(self, channel: IChannel) -> None:
        """
        The channel of a worker is closed.
        """
        self._awaitingFirstClose.pop(channel, None)
