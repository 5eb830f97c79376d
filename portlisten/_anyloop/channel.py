"""
The worker's end of a channel, without Twisted: drives a
L{portlisten._wire.worker_session.WorkerSession}.

If a write fails, the bytes that the listener had written may contain REVOKED.  So this
reads them to the end, and only then decides whether the listener is dead.  It is dead
only if the kernel says that its end is closed.

asyncio makes the protocol of a connection two turns of its loop after the connection
was adopted.  So after a read that gave connections, this reads nothing for two turns.
Then no more connections than one window are claimed and have no protocol.  If the
worker dies, the listener still has its copies of these, and hands them off again.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.clock import Clock, Soon
from portlisten._anyloop.poller import READ, WRITE, Poller
from portlisten._channel.limits import (
    BYTES_PER_TURN,
    COPIES_SECONDS,
    HELLO_SECONDS,
    KERNEL_RETRY_SECONDS,
    MAXIMUM_REST_BYTES,
    READ_TRIES,
    READS_PER_TURN,
    TEMPORARY_WRITE_ERRORS,
    UNREADABLE,
)
from portlisten._model import Port
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import LogLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.frames import Offer
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import (
    Adopt,
    ByeReceived,
    Close,
    CloseMemory,
    DrainConfirmed,
    Event,
    Joined,
    LeaveRequested,
    Left,
    ShareLoads,
    UseSocket,
    Withdrawn,
)
from portlisten._wire.worker_session import Theirs, WorkerSession


class ChannelUser(Protocol):
    """
    Gets the events of a channel.
    """

    def registered(self, channel: WorkerChannel, ports: Sequence[Port]) -> None:
        """
        The worker has joined the listener.
        """

    def adopt(self, channel: WorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        A connection belongs to this worker.

        @param descriptor: owned by the user of the channel from now on.
        """

    def loadsShared(self, loads: ShareLoads) -> None:
        """
        The worker may tell others how many connections it has, until the channel has
        ended.  Only if the session knows of this.

        @param loads: its descriptors are owned by the user of the channel from now on.
        """

    def socketShared(self, port: int, cookie: int, descriptor: int) -> None:
        """
        The worker may use a shared socket until it is withdrawn or the channel has
        ended.

        @param port: the number of the port that the socket belongs to.
        @param cookie: C{SO_COOKIE} of the socket.
        @param descriptor: owned by the user of the channel from now on.
        """

    def withdrawn(self, cookie: int) -> None:
        """
        The worker must stop using a shared socket.
        """

    def drained(self) -> None:
        """
        The listener sends no more offers.
        """

    def leaveRequested(self, channel: WorkerChannel) -> None:
        """
        The listener asks the worker to drain, and to keep the channel.
        """

    def lost(self, channel: WorkerChannel, reason: str | None) -> None:
        """
        The channel has ended.  All its other events came before this one.

        @param reason: the reason that either side gave, or L{None} if neither gave one.
        """


class WorkerChannel:
    """
    The worker's end of a channel.  The listener is at the other end.

    @param clock: the loop's.
    @param poller: watches the socket.
    @param sock: the connected, non-blocking socket.  The channel owns it, also if
        L{start} fails.
    @param user: gets what comes.
    @param logLimited: limits the lines of the log.
    @param inTurns: whether the loop's turns set the pace, as in asyncio: it rests after
        connections were adopted, and reports are gathered.
    @param waitsOn: called each time that the listener's HELLO takes too long.  Says
        whether to wait for as long again.

    @ivar released: whether the listener has said BYE.
    @ivar ignored: the options of workers that the listener is too old for.  Empty until
        the worker has joined.
    """

    def __init__(
        self,
        clock: Clock,
        poller: Poller,
        sock: socket.socket,
        session: WorkerSession[int],
        user: ChannelUser,
        logLimited: LogLimit,
        inTurns: bool = True,
        waitsOn: Callable[[], bool] = lambda: False,
    ) -> None:
        self._poller = poller
        self._waitsOn = waitsOn
        self._clock = clock
        self._inTurns = inTurns
        self._socket = sock
        self._session = session
        self._user = user
        self._logLimited = logLimited
        self._unsent = b""
        self._pumpSoon = Soon(clock, self.pump)
        self._end = Soon(clock, self._lose)
        self._secondTurn = Soon(clock, lambda: None)
        self._firstTurn = Soon(clock, self._secondTurn.request)
        self._readPause = Pause(clock, self._watchOrRetry)
        self._writePause = Pause(clock, self.pump)
        self._readPoll = select.poll()
        self._readPoll.register(sock, select.POLLIN)
        self._deadline: Deadline | None = None
        self._blocked = False
        self._lost = False
        self._copiesEnd = math.inf
        self.released = False
        self.ignored: Sequence[str] = ()
        self._handlers: dict[type[Event[int]], Callable[[Any], None]] = {
            Adopt: self._adopt,
            Close: self._closeDescriptor,
            Joined: self._onJoined,
            UseSocket: self._useSocket,
            ShareLoads: self._shareLoads,
            CloseMemory: self._closeMemory,
            Withdrawn: self._onWithdrawn,
            DrainConfirmed: self._onDrainConfirmed,
            LeaveRequested: self._onLeaveRequested,
            ByeReceived: self._onByeReceived,
            Broken: self._onBroken,
            Left: self._onLeft,
        }

    @property
    def broken(self) -> bool:
        """
        Whether the worker ended the channel because of an error that the next channel
        may have as well.
        """
        return self._session.broken

    @property
    def claimable(self) -> int:
        """
        How many offers wait for L{claim}.
        """
        return self._session.claimable

    @property
    def revoked(self) -> bool:
        """
        Whether the listener took this worker for hung, and has taken its offers back.
        """
        return self._session.theirs is Theirs.REVOKED

    def start(self) -> None:
        """
        Say HELLO, and read.

        @raise OSError: if the socket cannot be watched.  It is closed then.
        """
        try:
            # Otherwise urgent data would make the socket readable, and reading would
            # not take it.
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            self._watch()
        except BaseException:
            self._socket.close()
            raise
        self._awaitHello()
        self._unsent = self._session.hello()
        self.pump()

    # What the worker does

    def reportServing(self, total: int) -> None:
        """
        Tell the listener, if it wants to know and the number is new, how many
        connections the worker has that did not come through this channel.

        @param total: how many the worker has, those of this channel among them.
        """
        self._session.serving(max(0, total - self._session.inService))
        self._reportSoon()

    def drain(self) -> None:
        """
        Ask for no more offers, and refuse the offers that are not claimed.  Calls the
        user's C{drained} when no further offer can come.
        """
        self._carryOut(self._session.drain())
        self.pump()

    def claim(self) -> None:
        """
        Claim the oldest offer that waits.  If the kernel takes all of the claim, the
        connection is adopted before this returns.
        """
        self._session.claim()
        self.pump()

    def closed(self, id: int) -> None:
        """
        Report that a claimed connection has ended.
        """
        self._session.closed(id)
        self._reportSoon()

    def clientGone(self, id: int) -> None:
        """
        Report that the client of a claimed connection had left before the connection
        was adopted.
        """
        self._session.clientGone(id)
        self._reportSoon()

    def given(self, id: int) -> tuple[int, bytes] | None:
        """
        Find out how to say that another process may touch a claimed connection from now
        on.  That process may write this itself, and must do so before it touches the
        connection.  Nobody else may write to the channel until then, so the caller
        waits for it.

        @return: the descriptor of the channel, which the channel owns, and what to
            write to it in one piece; or L{None} if no copy of the connection is left,
            or the listener is too old to be told.
        @raise BlockingIOError: if something else is under way to be written; or if the
            channel has ended, and the listener may still have its copy.  It would hand
            the copy to another worker if this process ended.
        """
        if self._session.listenerDied or self._clock.seconds() >= self._copiesEnd:
            return None
        if self._unsent or self._lost or self._session.ended:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        data = self._session.given(id)
        return (self._socket.fileno(), data) if data else None

    def bye(self, reason: str) -> None:
        """
        Refuse the offers that are not claimed, say BYE, and close the channel.
        """
        if not self._session.ended:
            self._stopWaiting()
            self._carryOut(self._session.leave(reason))
            self.pump()

    def giveUp(self, reason: str) -> None:
        """
        End the channel, whose state is not certain any more.  If possible, tell the
        listener that this worker lives on.  Otherwise other workers would get what this
        one still serves.

        @param reason: the reason for the log.
        """
        self._lose(reason)

    def abandon(self) -> None:
        """
        Close the channel at once, without BYE.  To the listener, the worker is dead.
        Calls the user no more.  May be called after the loop was closed.
        """
        if self._lost:
            return
        self._lost = True
        self._stopTimers()
        self._poller.forget(self._socket.fileno())
        self._socket.close()
        for event in self._session.channelEnded(False):
            if isinstance(event, Close):
                os.close(event.token)
            elif isinstance(event, CloseMemory):
                os.close(event.descriptor)

    # What is received

    def _watch(self) -> None:
        events = 0
        if not (self._readPause.active or self._session.readsNoMore):
            events |= READ
        if self._blocked:
            events |= WRITE
        self._poller.watch(self._socket.fileno(), events, self._ready)

    def _watchOrRetry(self) -> None:
        """
        Watch the socket.  If that fails, as for lack of memory, try again later.
        """
        try:
            self._watch()
        except OSError as error:
            self._logLimited(
                log.error,
                "a channel cannot be watched, and is tried again every {pause:g} s:"
                " {error}",
                event="channel-read-failed",
                pause=KERNEL_RETRY_SECONDS,
                error=error.strerror,
            )
            self._readPause.begin(KERNEL_RETRY_SECONDS)

    def _ready(self, events: int) -> None:
        if events & ~READ and self._blocked:
            self.pump()
        if events & ~WRITE and not self._lost:
            self._read()

    def _read(self) -> None:
        left = BYTES_PER_TURN
        for _ in range(READS_PER_TURN):
            if self._session.readsNoMore or self._rests:
                break
            try:
                data, descriptors = _kernel.receive(self._socket, left)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNRESET:
                    continue  # the peer closed with bytes unread; the next read tells
                self._readFailed(error)
                return
            self._receive(data, descriptors)
            if not data:
                self._lose()
                return
            left -= len(data)
            done = left <= 0 or self._lost or self._session.ended
            if done or not self._readPoll.poll(0):
                # Reading and catching an exception would take ten times as long.
                return

    @property
    def _rests(self) -> bool:
        """
        Whether some adopted connections have no protocol yet.
        """
        return self._firstTurn.requested or self._secondTurn.requested

    def _readFailed(self, error: OSError) -> None:
        """
        Read again later, if that may succeed.  The bytes stay in the socket.
        """
        if error.errno in UNREADABLE:
            self._lose()
            return
        self._logLimited(
            log.warning,
            "reading from a channel fails, and is tried again every {pause:g} s:"
            " {error}",
            event="channel-read-failed",
            pause=KERNEL_RETRY_SECONDS,
            error=error.strerror,
        )
        self._readPause.begin(KERNEL_RETRY_SECONDS)
        self._watchOrRetry()

    def _receive(self, data: bytes, descriptors: list[int]) -> None:
        """
        Take in what one read gave.

        @param descriptors: owned by this object from now on.
        """
        for descriptor in descriptors:
            self._descriptorReceived(descriptor)
        events = self._session.receive(data)
        if events:
            self._carryOut(events)
        if self._session.readsNoMore and not self._lost:
            self._watchOrRetry()
        self.pump()

    def _descriptorReceived(self, descriptor: int) -> None:
        """
        Give a descriptor to the session.  If the descriptor comes too late, close it.
        """
        session = self._session
        if not session.wantsDescriptors:
            os.close(descriptor)
            return
        events = session.descriptorCame(descriptor)
        if events:
            self._carryOut(events)

    def _awaitHello(self) -> None:
        self._deadline = Deadline(self._clock, HELLO_SECONDS, self._helloTimedOut)

    def _helloTimedOut(self) -> None:
        if self._waitsOn():
            self._awaitHello()
            return
        self._carryOut(self._session.fail(f"no HELLO within {HELLO_SECONDS:g} s"))
        self.pump()

    def _stopWaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Events of the session

    def _carryOut(self, events: Iterable[Event[int]]) -> None:
        for event in events:
            try:
                self._handlers[type(event)](event)
            except Exception as bug:
                self._logBug(bug)
                self._session.mistake()
                self._carryOut(self._session.fail("an internal error"))

    def _logBug(self, bug: BaseException) -> None:
        log.bug(
            "a bug in portlisten ends the channel of the listener", bug, event="bug"
        )

    def _adopt(self, event: Adopt[int]) -> None:
        if self._inTurns and not self._lost:
            self._firstTurn.request()
        try:
            self._user.adopt(self, event.offer, event.token)
        except Exception as bug:
            log.bug("a bug in portlisten loses a connection", bug, event="bug")

    def _closeDescriptor(self, event: Close[int]) -> None:
        os.close(event.token)

    def _onJoined(self, event: Joined) -> None:
        self._stopWaiting()
        self.ignored = event.ignored
        self._user.registered(self, event.ports)

    def _useSocket(self, event: UseSocket[int]) -> None:
        if self._session.ended:
            os.close(event.token)
        else:
            self._user.socketShared(event.port, event.cookie, event.token)

    def _shareLoads(self, event: ShareLoads) -> None:
        if self._session.ended:
            os.close(event.loads)
            os.close(event.members)
        else:
            self._user.loadsShared(event)

    def _closeMemory(self, event: CloseMemory) -> None:
        os.close(event.descriptor)

    def _onWithdrawn(self, event: Withdrawn) -> None:
        self._user.withdrawn(event.cookie)

    def _onDrainConfirmed(self, event: DrainConfirmed) -> None:
        self._user.drained()

    def _onLeaveRequested(self, event: LeaveRequested) -> None:
        self._user.leaveRequested(self)

    def _onByeReceived(self, event: ByeReceived) -> None:
        """
        Read on: the end of the stream follows, and perhaps REVOKED before it.
        """
        self.released = True

    def _onBroken(self, event: Broken) -> None:
        self._stopWaiting()
        if event.bug is not None:
            self._logBug(event.bug)

    def _onLeft(self, event: Left) -> None:
        self._user.lost(self, event.reason)

    # What is sent

    def _reportSoon(self) -> None:
        """
        Write the session's next frames.  If turns set the pace, do so in the next one,
        together with frames that are added until then.
        """
        if self._lost or self._session.ended:
            return
        if self._inTurns:
            self._pumpSoon.request()
        else:
            self.pump()

    def pump(self) -> None:
        """
        Write the session's next frames, unless a write is under way.  If the kernel
        takes all of a claim, its connections are adopted before this returns.
        """
        while not (self._lost or self._end.requested or self._writePause.active):
            if not self._unsent:
                self._unsent = self._session.outgoing()
            if not self._unsent:
                if self._session.ended:
                    self._end.request()
                break
            if not self._send():
                break

    def _send(self) -> bool:
        """
        Write what is unsent.

        @return: whether all of it is in the kernel.
        """
        try:
            sent = self._socket.send(self._unsent)
        except OSError as error:
            self._sendFailed(error)
            return False
        self._unsent = self._unsent[sent:]
        self._setBlocked(bool(self._unsent))
        if self._unsent:
            return False
        for event in self._session.flushed():
            self._adopt(event)
        return True

    def _sendFailed(self, error: OSError) -> None:
        if error.errno == errno.EAGAIN:
            self._setBlocked(True)
        elif error.errno in TEMPORARY_WRITE_ERRORS:
            self._writePause.begin(KERNEL_RETRY_SECONDS)
        else:
            # Events of the session may not be carried out yet.
            self._end.request()

    def _setBlocked(self, blocked: bool) -> None:
        if blocked != self._blocked:
            self._blocked = blocked
            self._watchOrRetry()

    # The end

    def _lose(self, reason: str | None = None) -> None:
        """
        Find out whether the listener is dead.  Stop it from writing, and process the
        bytes that it wrote and that were not read.

        @param reason: why the channel failed, if that is known here.
        """
        if self._lost:
            return
        self._lost = True
        self._stopTimers()
        self._poller.forget(self._socket.fileno())
        session = self._session
        died = False
        if not session.ended:
            died = _kernel.hungUp(self._socket)
            self._readRest()
        frames = session.finalBye(died)
        with suppress(OSError):
            if frames:
                # If this fails, the listener takes this worker for dead.
                _kernel.retry(self._socket.send, frames)
        self._socket.close()
        self._copiesEnd = self._clock.seconds() + COPIES_SECONDS
        self._carryOut(session.channelEnded(died, reason))

    def _readRest(self) -> None:
        with suppress(OSError):
            # ENOTCONN: the other end is closed, and can write nothing more.
            self._socket.shutdown(socket.SHUT_RD)
        session = self._session
        left, tries = MAXIMUM_REST_BYTES, READ_TRIES
        while left > 0 and tries and not (session.ended or session.readsNoMore):
            try:
                data, descriptors = _kernel.receive(self._socket)
            except OSError:
                tries -= 1
                continue
            self._receive(data, descriptors)
            if not data:
                break
            left -= len(data)

    def _stopTimers(self) -> None:
        self._stopWaiting()
        for soon in (self._pumpSoon, self._end, self._firstTurn, self._secondTurn):
            soon.cancel()
        for pause in (self._readPause, self._writePause):
            pause.cancel()
