"""
The worker's end of a channel, without input and output.

A driver connects, writes L{WorkerSession.hello}, and then does four things:

  - It reads.  For each descriptor that comes, it calls L{WorkerSession.descriptorCame},
    in the order in which they came.  Then it calls L{WorkerSession.receive} with the
    bytes: a descriptor never comes later than its frame.
  - It carries out each event that a method returns, in order.
  - It writes what L{WorkerSession.outgoing} returns, after each of these calls and
    after each command.  When all of it is in the kernel, it calls
    L{WorkerSession.flushed}.  If C{outgoing} ends the session, the driver closes the
    channel as soon as the last bytes are written.
  - When the channel has ended, it calls L{WorkerSession.channelEnded}.

A I{token} stands for a descriptor.  The session holds each token and returns it exactly
once: to be served (L{Adopt}), used (L{UseSocket}) or closed (L{Close}).  All events are
in L{portlisten._wire.worker_events}.

The cookie in a frame tells which descriptor belongs to the frame.  Most descriptors
come in the order of their frames.  So for an OFFER, the session first asks whether the
oldest descriptor has the offer's cookie, which takes one system call.  If it has not,
as after one was lost on its way, the session asks for the kinds and the cookies of all
descriptors that have come, and finds the right one by its cookie.

The rules:

  1. The listener's first frame is HELLO or BYE, and it sends one HELLO.
  2. The worker touches a connection only after its claim is in the kernel, and writes
     nothing after a claim before that: see L{portlisten._wire.claims}, which this
     session uses.
  3. After BYE from the listener, the worker reads on, since REVOKED may follow.  If the
     channel ends without REVOKED, the listener is dead.
  4. If the listener breaks a rule, the worker refuses the offers that it has not
     claimed, says DRAIN and then BYE with the reason, and closes.

This table shows what the listener may say in each state of C{theirs}.  A state in a
cell is the next one.::

    theirs    HELLO  OFFER    LISTENER  WITHDRAW  LOADS  LEAVE  DRAINED  REVOKED  BYE
    GREETING  OPEN   error    error     error     error  error  error    error    yes
    OPEN      error  yes      yes       yes       yes    yes    DRAINED  REVOKED  yes
    DRAINED   error  yes      yes       yes       yes    yes    yes      REVOKED  yes
    REVOKED   error  refused  yes       yes       yes    yes    yes      yes      yes

Three cells allow more than the protocol: a listener must send DRAINED once, and no
OFFER and no LISTENER after it.  The worker treats such frames as before DRAINED: if it
has asked to drain, it refuses the offer.  After REVOKED, every descriptor that comes is
closed.  So an OFFER lacks its descriptor and is refused, unless the channel is closed
before.

This table shows what the worker does in each state of C{ours}.  The worker is I{idle}
if it has nothing to write, and no claim is being written.::

    ours      drain     leave, or a broken rule  idle
    OPEN      DRAINING  LEAVING                  ENDED if theirs is REVOKED
    DRAINING  -         LEAVING                  ENDED if theirs is REVOKED
    LEAVING   -         -                        BYE, ENDED
    ENDED     -         -                        -
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import Generic, cast

from portlisten._model import Kind
from portlisten._wire import frames
from portlisten._wire.claims import Claims, Token
from portlisten._wire.codec import FROM_LISTENER, SECOND_HELLO, encode
from portlisten._wire.frames import (
    MAXIMUM_FIRST,
    MAXIMUM_LIMIT,
    MAXIMUM_WINDOW,
    Bye,
    Given,
    Leave,
    ListenerHello,
    Loads,
    Offer,
    Serving,
    WorkerHello,
)
from portlisten._wire.session import (
    Do,
    Forbidden,
    Row,
    Session,
    beforeHello,
)
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
from portlisten.errors import ProtocolError

#: The most shared sockets that a worker holds before their frames come.
MAXIMUM_SOCKETS = 1024

#: The most memories that a worker holds before their frame comes.
MAXIMUM_MEMORIES = 2


class Theirs(Enum):
    """
    What the listener has said.
    """

    GREETING = "nothing, or BYE"
    OPEN = "HELLO"
    DRAINED = "that no offer follows"
    REVOKED = "that unclaimed offers belong to others"


class Ours(Enum):
    """
    What the worker has said, or is about to say.
    """

    OPEN = "that it takes offers"
    DRAINING = "that it wants no more offers"
    LEAVING = "nothing but BYE when its claims are written"
    ENDED = "all"


# Looking these up in their classes would take as long as the comparison.
_CONNECTIONS = Kind.CONNECTIONS
_LEAVING = Ours.LEAVING
_REVOKED = Theirs.REVOKED


class WorkerSession(Session, Generic[Token]):
    """
    The worker's end.

    @param window: how many unclaimed offers the worker wants at the most.
    @param names: the names of the ports that the worker wants; if empty, all ports.
    @param takes: the kinds that the worker can take.
    @param limit: the most connections that the worker may have, offered or claimed and
        not closed; L{None} for no limit.
    @param label: what the operator calls the worker; may be empty.
    @param first: if the worker's clients speak first, how long the listener keeps a
        connection whose client is silent, in seconds.  L{None} if they need not.
    @param leaves: whether the driver carries out L{LeaveRequested}.
    @param balances: whether the driver carries out L{ShareLoads}.
    @param claimsAll: whether the session claims all offers as they come.  Otherwise
        each waits for L{claim}.
    @param most: how many of them it claims in one write.  The next write follows after
        L{flushed}.
    @param gives: whether the driver gives each connection to another process, and
        writes L{given} first.  The session then takes only a listener that knows this
        frame and keeps to the limit.
    @param hasCookie: says whether the socket of a token has a cookie.  It is asked only
        of a token that may be a connection's.
    @param identify: says of a token which kind its socket has, and its cookie; L{None}
        if it is not of one of the kinds, or the kernel does not tell.  If tokens are
        descriptors, a token may be memory that the session wants: then L{None} in place
        of the kind, and the number of its inode.

    @ivar ours: what the worker has said.
    @ivar takes: the kinds of sockets that the worker can take.
    @ivar inService: how many connections that were claimed on this channel are in
        service: the driver has their L{Adopt}, and has not reported their ends.
    @ivar wantsDescriptors: whether the session still takes descriptors.
    @ivar listenerDied: whether the channel has ended because the listener has died or
        stopped.  Then it has no copies.
    @ivar broken: whether the listener broke the protocol, or cannot give what the
        worker asks for.  The next listener may do the same.
    """

    theirs: Theirs

    def __init__(
        self,
        window: int = MAXIMUM_WINDOW,
        names: Iterable[str] = (),
        takes: Collection[Kind] = (Kind.CONNECTIONS,),
        *,
        limit: int | None = None,
        label: str = "",
        first: float | None = None,
        leaves: bool = False,
        balances: bool = False,
        claimsAll: bool = True,
        most: int = MAXIMUM_WINDOW,
        gives: bool = False,
        hasCookie: Callable[[Token, int], bool] = lambda token, cookie: False,
        identify: Callable[[Token], tuple[Kind | None, int] | None] = lambda token: (
            None
        ),
    ) -> None:
        super().__init__(FROM_LISTENER, Theirs.GREETING)
        self.takes = frozenset(takes)
        if limit is not None:
            limit = min(limit, MAXIMUM_LIMIT)
            window = min(window, limit)
        self._hello = WorkerHello(
            window,
            tuple(names),
            self.takes,
            limit,
            frozenset(
                [Leave.TYPE] * leaves + [Given.TYPE] * gives + [Loads.TYPE] * balances
            ),
            label,
            None if first is None else min(max(1, round(first * 1000)), MAXIMUM_FIRST),
        )
        self._claims: Claims[Token] = Claims(window, claimsAll, most)
        self._window = window
        self._hasCookie = hasCookie
        self._identify = identify
        # The tokens that came and were not identified, the oldest first.
        self._arrived: deque[Token] = deque()
        self._gives = gives
        self._balances = balances
        self._knowsGiven = False
        self._reportsServing = False
        self._serving: int | None = None
        self.inService = 0
        self._sockets: dict[int, Token] = {}
        self._memories: dict[int, int] = {}
        self._loadsCame = False
        self._reason: str | None = None
        self._byeReason = ""
        self.ours = Ours.OPEN
        self.wantsDescriptors = True
        self.listenerDied = False
        self.broken = False

    def hello(self) -> bytes:
        """
        Give the bytes to write first.  The driver need not wait until they are in the
        kernel.
        """
        return encode(self._hello)

    @property
    def writing(self) -> bool:
        """
        Whether the session waits for L{flushed}.
        """
        return self._claims.writing

    @property
    def pending(self) -> int:
        """
        How many tokens this holds.
        """
        held = len(self._sockets) + len(self._memories) + len(self._arrived)
        return self._claims.pending + held

    # What comes

    def descriptorCame(self, token: Token) -> list[Event[Token]]:
        """
        Hold a descriptor that came in.  Its frame tells later what it is.
        """
        if not self.wantsDescriptors:
            return [Close(token)]
        self._arrived.append(token)
        if len(self._arrived) > self._window:
            # Perhaps more than may come without their frames.
            self._identifyArrived()
        return self._take() if self._events else []

    def _identifyArrived(self) -> None:
        """
        Find out what all the descriptors are that have come.
        """
        while self._arrived:
            token = self._arrived.popleft()
            found = self._identify(token)
            if found is None:
                self._close([token])
            elif found[0] is None:
                self._keepMemory(found[1], cast(int, token))
            else:
                self._hold(found[0], found[1], token)

    def descriptorArrived(
        self, kind: Kind, cookie: int, token: Token
    ) -> list[Event[Token]]:
        """
        Hold a descriptor that came in, of which it is known what it is.

        @param kind: the kind of its socket, which is one of L{takes}.
        @param cookie: C{SO_COOKIE} of its socket.
        """
        if not self.wantsDescriptors:
            return [Close(token)]
        self._hold(kind, cookie, token)
        return self._take() if self._events else []

    def _hold(self, kind: Kind, cookie: int, token: Token) -> None:
        try:
            if kind is _CONNECTIONS:
                older = self._claims.descriptorArrived(cookie, token)
                if older:
                    self._close(older)
            else:
                self._keepSocket(cookie, token)
        except ProtocolError as error:
            self._broken(str(error))

    @property
    def wantsMemories(self) -> bool:
        """
        Whether the session takes memory.
        """
        return self._balances and self.wantsDescriptors

    def memoryArrived(self, number: int, descriptor: int) -> list[Event[Token]]:
        """
        Hold a descriptor of memory that came in.

        @param number: the number of its inode.
        """
        self._keepMemory(number, descriptor)
        return self._take()

    def _keepMemory(self, number: int, descriptor: int) -> None:
        if not self.wantsMemories:
            self._closeMemories([descriptor])
            return
        if number in self._memories:
            self._closeMemories([self._memories[number]])
        self._memories[number] = descriptor
        if len(self._memories) > MAXIMUM_MEMORIES:
            self._broken(f"more than {MAXIMUM_MEMORIES} memories without their frame")

    def _keepSocket(self, cookie: int, token: Token) -> None:
        """
        Hold a shared socket until its frame comes.

        @raise ProtocolError: if more than L{MAXIMUM_SOCKETS} are held.
        """
        if cookie in self._sockets:
            self._close([self._sockets[cookie]])
        self._sockets[cookie] = token
        if len(self._sockets) > MAXIMUM_SOCKETS:
            raise ProtocolError(
                f"more than {MAXIMUM_SOCKETS} sockets without their frames"
            )

    def _onHello(self, frame: ListenerHello) -> None:
        self._knowsGiven = Given.TYPE in frame.frames
        if self._gives and not (frame.honoursLimit and self._knowsGiven):
            raise ProtocolError("it is older than this worker: restart it")
        timeout = frame.claimTimeout
        self._events.append(
            Joined(
                frame.wanted(self._hello),
                frame.honoursLimit,
                frame.honoursFirst,
                None if timeout is None else timeout / 1000,
            )
        )
        self._reportsServing = Serving.TYPE in frame.frames

    def _onOffer(self, frame: Offer) -> None:
        claims, arrived = self._claims, self._arrived
        token = None
        if arrived:
            if not claims.unmatched and self._hasCookie(arrived[0], frame.cookie):
                token = arrived.popleft()
            else:
                self._identifyArrived()
        refused = claims.offered(frame, token)
        if refused:
            self._close(refused)

    def _onListener(self, frame: frames.Listener) -> None:
        self._identifyArrived()
        try:
            token = self._sockets.pop(frame.cookie)
        except KeyError:
            raise ProtocolError("a shared socket got lost on its way") from None
        self._events.append(UseSocket(frame.port, frame.cookie, token))

    def _onLoads(self, frame: Loads) -> None:
        self._identifyArrived()
        if self._loadsCame or frame.loads == frame.members:
            raise ProtocolError("a second LOADS, or one memory twice")
        self._loadsCame = True
        found = [
            self._memories.pop(number, None) for number in (frame.loads, frame.members)
        ]
        loads, members = found
        if loads is None or members is None:
            # The process had no free descriptor.  It serves without this.
            self._closeMemories(each for each in found if each is not None)
        else:
            self._events.append(ShareLoads(frame.slot, frame.ports, loads, members))

    def _onWithdraw(self, frame: frames.Withdraw) -> None:
        self._events.append(Withdrawn(frame.cookie))

    def _onLeave(self, frame: Leave) -> None:
        self._events.append(LeaveRequested())

    def _onDrained(self, frame: frames.Drained) -> None:
        self._events.append(DrainConfirmed())

    def _onRevoked(self, frame: frames.Revoked) -> None:
        self.wantsDescriptors = False
        self._identifyArrived()
        self._close(self._claims.revoked())

    def _onBye(self, frame: Bye) -> None:
        self._reason = f"the listener says: {frame.reason}"
        self._events.append(ByeReceived(self._reason))

    def _broken(self, reason: str, bug: Exception | None = None) -> None:
        super()._broken(reason, bug)
        self.broken = True
        self._leave(reason)

    def _close(self, tokens: list[Token]) -> None:
        self._events.extend(map(Close, tokens))

    def _closeMemories(self, descriptors: Iterable[int]) -> None:
        self._events.extend(map(CloseMemory, descriptors))

    # What the worker does

    @property
    def claimable(self) -> int:
        """
        How many offers wait for L{claim}.
        """
        return 0 if self.ended else self._claims.claimable

    def claim(self) -> None:
        """
        Claim the oldest offer that waits, if one does.
        """
        if not self.ended:
            self._claims.claim()

    def closed(self, id: int) -> None:
        """
        Report that a claimed connection has ended.
        """
        if not self.ended:
            self.inService -= 1
            self._claims.closed(id)

    def clientGone(self, id: int) -> None:
        """
        Report that the client of a claimed connection had left before the connection
        was adopted.
        """
        if not self.ended:
            self.inService -= 1
            self._claims.clientGone(id)

    def given(self, id: int) -> bytes:
        """
        Say that another process may touch a claimed connection from now on.  The
        process that gets the connection may write this itself, and must do so before it
        touches the connection.  Nothing else may be under way to be written.

        @return: the bytes to write, in one piece; or nothing if the listener does not
            know the frame.
        """
        return encode(Given((id,))) if self._knowsGiven else b""

    def serving(self, count: int) -> None:
        """
        Report how many connections live in the worker that no id of this channel names:
        all connections, less L{inService}.  The driver calls this when it has L{Joined}
        and when the number has changed, at most every 100 ms.  If the listener does not
        know the frame, this does nothing.
        """
        if self._reportsServing and not self.ended and count != self._serving:
            self._serving = count
            self._claims.serving(count)

    def drain(self) -> list[Event[Token]]:
        """
        Ask for no more offers, and refuse the offers that are not claimed.
        L{DrainConfirmed} follows when no further offer can come.
        """
        if not self.ended:
            self._drain()
        return self._take()

    def _drain(self) -> None:
        if self.ours is Ours.OPEN:
            self.ours = Ours.DRAINING
        self._close(self._claims.draining())

    def leave(self, reason: str) -> list[Event[Token]]:
        """
        Refuse the offers that are not claimed, and say BYE once all claims are written.
        """
        self._leave(reason)
        return self._take()

    def _leave(self, reason: str) -> None:
        if self.ours in (Ours.OPEN, Ours.DRAINING):
            self.ours = Ours.LEAVING
            self._reason = self._byeReason = reason
            self._drain()

    def fail(self, reason: str) -> list[Event[Token]]:
        """
        Leave because of an error that the driver found.  Like L{leave}, but the events
        contain L{Broken}.
        """
        self._broken(reason)
        return self._take()

    def outgoing(self) -> bytes:
        """
        The bytes to write now, in one piece.  Further bytes wait for L{flushed}.

        If this ends the session, the driver writes the bytes, and closes the channel.

        @return: empty if nothing is to be written, or the session waits for L{flushed}.
        """
        if self.ended:
            return b""
        claims = self._claims
        if claims.writing:
            return b""
        frames = claims.outgoing()
        if frames:
            return b"".join(map(encode, frames))
        if self.ours is _LEAVING:
            self.end()
            return encode(Bye(self._byeReason))
        if self.theirs is _REVOKED:
            self.end()
        return b""

    def flushed(self) -> list[Adopt[Token]]:
        """
        The write is over: all of it is in the kernel.
        """
        adopted = [Adopt(offer, token) for offer, token in self._claims.flushed()]
        self.inService += len(adopted)
        return adopted

    # The end

    @property
    def deathMatters(self) -> bool:
        """
        Whether the driver must find out if the listener is dead: only if neither side
        has ended the channel.
        """
        return self.theirs is not Theirs.REVOKED and (
            self.ours in (Ours.OPEN, Ours.DRAINING)
        )

    def finalBye(self, listenerDied: bool) -> bytes:
        """
        The bytes that the driver tries to write when the channel has ended, without the
        channel's write buffer.  If the listener is alive, they tell it that this worker
        is alive, too.

        @param listenerDied: whether the other end is closed.
        """
        if listenerDied or not self.deathMatters:
            return b""
        return encode(Bye("the channel failed"))

    def channelEnded(
        self, listenerDied: bool, error: str | None = None
    ) -> list[Event[Token]]:
        """
        End the session: the channel has ended, and all bytes that came were taken in.

        If the listener is dead and had not revoked, its offers belong to this worker,
        claimed or not.  Otherwise the listener may have offered them to others.

        @param listenerDied: whether the other end is closed.
        @param error: why the channel failed, if neither side ended it.
        """
        if self._reason is None:
            self._reason = error
        self.listenerDied = listenerDied and self.deathMatters
        # No frame of theirs can come.
        self._close(list(self._arrived))
        self._arrived.clear()
        if self.listenerDied:
            adopted, loose = self._claims.listenerDied()
            self._close(loose)
            self._events.extend(Adopt(offer, token) for offer, token in adopted)
        else:
            self._close(self._claims.channelEndedAfterRevoke())
        self._close(list(self._sockets.values()))
        self._closeMemories(self._memories.values())
        self._sockets.clear()
        self._memories.clear()
        self._events.append(Left(self._reason))
        self.end()
        return self._take()

    def end(self) -> None:
        """
        See L{Session.end}.
        """
        super().end()
        self.wantsDescriptors = False
        self.ours = Ours.ENDED


_BYE: Row = {Bye: Do(WorkerSession._onBye)}

_OPEN: Row = {
    ListenerHello: Forbidden(SECOND_HELLO),
    Offer: Do(WorkerSession._onOffer),
    frames.Listener: Do(WorkerSession._onListener),
    frames.Withdraw: Do(WorkerSession._onWithdraw),
    Leave: Do(WorkerSession._onLeave),
    Loads: Do(WorkerSession._onLoads),
    frames.Drained: Do(WorkerSession._onDrained, Theirs.DRAINED),
    frames.Revoked: Do(WorkerSession._onRevoked, Theirs.REVOKED),
    **_BYE,
}

WorkerSession.table = {
    Theirs.GREETING: {
        **beforeHello(
            Offer,
            frames.Listener,
            frames.Withdraw,
            Leave,
            Loads,
            frames.Drained,
            frames.Revoked,
        ),
        ListenerHello: Do(WorkerSession._onHello, Theirs.OPEN),
        **_BYE,
    },
    Theirs.OPEN: _OPEN,
    Theirs.DRAINED: _OPEN,
    Theirs.REVOKED: {**_OPEN, frames.Drained: Do(WorkerSession._onDrained)},
}
