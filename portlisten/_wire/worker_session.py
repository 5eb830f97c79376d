"""
The worker's end of a channel, without input and output.

A driver connects, writes L{WorkerSession.hello}, and then does four things:

  - It reads.  For each descriptor that comes it asks the kernel what that is, and calls
    L{WorkerSession.descriptorArrived}.  Then it calls L{WorkerSession.receive} with the
    bytes: a descriptor never comes later than its frame.
  - It carries out each event that a method returns, in order.
  - It writes what L{WorkerSession.outgoing} returns, after each of these calls and
    after each command.  When all of it is in the kernel, it calls
    L{WorkerSession.flushed}.  If C{outgoing} ends the session, the driver closes the
    channel as soon as the last bytes are written.
  - When the stream is at its end, it calls L{WorkerSession.channelEnded}.

A I{token} stands for a descriptor.  The session holds it, and gives each back exactly
once: to be served (L{Adopt}), used (L{UseSocket}) or closed (L{Close}).  All events are
in L{portlisten._wire.worker_events}.

The rules:

  1. The listener's first frame is HELLO or BYE, and it sends one HELLO.
  2. A connection is touched only after its claim is in the kernel, and nothing is
     written after a claim before that: see L{portlisten._wire.claims}, which this
     session uses.
  3. BYE from the listener changes nothing: the worker reads on, since REVOKED may
     follow.  The end of the stream without REVOKED is the listener's death.
  4. If the listener breaks a rule, the worker gives back what it has not claimed, says
     DRAIN and then BYE with the reason, and closes.

What the listener may say in each state of C{theirs}.  A state in a cell is the next
one.::

    theirs    HELLO  OFFER    LISTENER  WITHDRAW  DRAINED  REVOKED  BYE
    GREETING  OPEN   error    error     error     error    error    yes
    OPEN      error  yes      yes       yes       DRAINED  REVOKED  yes
    DRAINED   error  yes      yes       yes       yes      REVOKED  yes
    REVOKED   error  refused  yes       yes       yes      yes      yes

Three cells are kinder than the protocol: after DRAINED a listener must send no OFFER
and no LISTENER, and DRAINED once.  The worker treats these as before: if it has asked
to drain, it refuses the offer.  After REVOKED every descriptor that comes is closed, so
an OFFER lacks its descriptor and is refused, unless the channel is closed before.

What the worker does in each state of C{ours}.  It is I{idle} if it has nothing to
write, and no claim is being written.::

    ours      drain     leave, or a broken rule  idle
    OPEN      DRAINING  LEAVING                  ENDED if theirs is REVOKED
    DRAINING  -         LEAVING                  ENDED if theirs is REVOKED
    LEAVING   -         -                        BYE, ENDED
    ENDED     -         -                        -
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Generic

from portlisten._model import Kind
from portlisten._wire import frames
from portlisten._wire.claims import Claims, Token
from portlisten._wire.codec import FROM_LISTENER, encode
from portlisten._wire.frames import (
    MAXIMUM_WINDOW,
    Bye,
    Frame,
    ListenerHello,
    Offer,
    WorkerHello,
)
from portlisten._wire.session import (
    HELLO_MISSING,
    SECOND_HELLO,
    Do,
    Forbidden,
    Row,
    Session,
)
from portlisten._wire.worker_events import (
    Adopt,
    ByeReceived,
    Close,
    DrainConfirmed,
    Event,
    Joined,
    Left,
    UseSocket,
    Withdrawn,
)
from portlisten.errors import ProtocolError

#: How many shared sockets a worker keeps whose frames have not come.
MAXIMUM_SOCKETS = 1024


class Theirs(Enum):
    """
    What the listener has said.
    """

    GREETING = "nothing, or BYE"
    OPEN = "HELLO"
    DRAINED = "that no offer follows"
    REVOKED = "that what is not claimed belongs to others"


class Ours(Enum):
    """
    What the worker has said, or is about to say.
    """

    OPEN = "that it takes offers"
    DRAINING = "that it wants no more offers"
    LEAVING = "nothing but BYE when its claims are written"
    ENDED = "all"


# To look them up in their classes takes as long as what is done with them.
_LEAVING = Ours.LEAVING
_REVOKED = Theirs.REVOKED


class WorkerSession(Session, Generic[Token]):
    """
    The worker's end.

    @param window: how many unclaimed offers the worker wants at the most.
    @param names: what the ports are called that it wants; if empty, it wants all.
    @param takes: what it takes of a port.

    @ivar ours: what the worker has said.
    @ivar wantsDescriptors: whether a descriptor that comes can be of use.
    @ivar broken: whether the listener broke the protocol, or what was asked of it is
        impossible: the next one may be no better.
    """

    theirs: Theirs

    def __init__(
        self,
        window: int = MAXIMUM_WINDOW,
        names: Iterable[str] = (),
        takes: Collection[Kind] = (Kind.CONNECTIONS,),
    ) -> None:
        super().__init__(FROM_LISTENER, Theirs.GREETING)
        self._hello = WorkerHello(window, tuple(names), frozenset(takes))
        self._claims: Claims[Token] = Claims(window)
        self._sockets: dict[int, Token] = {}
        self._reason: str | None = None
        self._byeReason = ""
        self.ours = Ours.OPEN
        self.wantsDescriptors = True
        self.broken = False

    def hello(self) -> bytes:
        """
        What the driver writes first.  Nothing need wait for that to be written.
        """
        return encode(self._hello)

    @property
    def takes(self) -> frozenset[Kind]:
        """
        The kinds of descriptors that are of use.
        """
        return self._hello.takes

    @property
    def writing(self) -> bool:
        """
        Whether the session waits for L{flushed}.
        """
        return self._claims.writing

    @property
    def pending(self) -> int:
        """
        How many tokens the session holds.
        """
        return self._claims.pending + len(self._sockets)

    # What comes

    def descriptorArrived(
        self, kind: Kind, cookie: int, token: Token
    ) -> list[Event[Token]]:
        """
        A descriptor came in, of a kind that the worker L{takes}.  The session holds it
        from now on.

        @param kind: what it is of.
        @param cookie: C{SO_COOKIE} of its socket.
        """
        if not self.wantsDescriptors:
            return [Close(token)]
        try:
            if kind is Kind.CONNECTIONS:
                older = self._claims.descriptorArrived(cookie, token)
                if older:
                    self._close(older)
            else:
                self._keepSocket(cookie, token)
        except ProtocolError as error:
            self._broken(str(error))
        return self._take() if self._events else []

    def _keepSocket(self, cookie: int, token: Token) -> None:
        """
        Keep a shared socket until the frame comes that names it.
        """
        if cookie in self._sockets:
            self._close([self._sockets[cookie]])
        self._sockets[cookie] = token
        if len(self._sockets) > MAXIMUM_SOCKETS:
            raise ProtocolError(
                f"more than {MAXIMUM_SOCKETS} sockets without their frames"
            )

    def _onHello(self, frame: ListenerHello) -> None:
        self._events.append(Joined(frame.wanted(self._hello)))

    def _onOffer(self, frame: Offer) -> None:
        refused = self._claims.offered(frame)
        if refused:
            self._close(refused)

    def _onListener(self, frame: frames.Listener) -> None:
        try:
            token = self._sockets.pop(frame.cookie)
        except KeyError:
            raise ProtocolError("a shared socket got lost on its way") from None
        self._events.append(UseSocket(frame.port, frame.cookie, token))

    def _onWithdraw(self, frame: frames.Withdraw) -> None:
        self._events.append(Withdrawn(frame.cookie))

    def _onDrained(self, frame: frames.Drained) -> None:
        self._events.append(DrainConfirmed())

    def _onRevoked(self, frame: frames.Revoked) -> None:
        self.wantsDescriptors = False
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

    # What the worker does

    def closed(self, id: int) -> None:
        """
        A claimed connection has ended.
        """
        if not self.ended:
            self._claims.closed(id)

    def clientGone(self, id: int) -> None:
        """
        The client of a claimed connection had left before it was adopted.
        """
        if not self.ended:
            self._claims.clientGone(id)

    def drain(self) -> list[Event[Token]]:
        """
        The worker wants no more offers, and gives back those not claimed.
        L{DrainConfirmed} follows when none is on its way any more.
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
        The worker gives back what it has not claimed, and says BYE once its claims are
        written.
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
        The driver finds that this listener is of no use.  Like L{leave}, and L{Broken}
        is among the events.
        """
        self._broken(reason)
        return self._take()

    def outgoing(self) -> bytes:
        """
        What is to be written now, in one piece.  The session says no more until
        L{flushed}.  Empty if there is nothing to say, or the session waits.

        If this ends the session, the driver writes what is returned, and closes.
        """
        if self.ended:
            return b""
        claims = self._claims
        if claims.writing:
            return b""
        said = claims.outgoing()
        if said:
            return b"".join(map(encode, said))
        if self.ours is _LEAVING:
            self.end()
            return encode(Bye(self._byeReason))
        if self.theirs is _REVOKED:
            self.end()
        return b""

    def flushed(self) -> list[Adopt[Token]]:
        """
        All that was written is in the kernel.
        """
        return [Adopt(offer, token) for offer, token in self._claims.flushed()]

    # The end

    @property
    def deathMatters(self) -> bool:
        """
        Whether it matters if the listener is dead: only if neither side has ended the
        channel.
        """
        return self.theirs is not Theirs.REVOKED and (
            self.ours in (Ours.OPEN, Ours.DRAINING)
        )

    def finalBye(self, listenerDied: bool) -> bytes:
        """
        What the driver tries to write past the channel's buffer when the channel has
        ended.  It tells a listener that lives that this worker does, too.
        """
        if listenerDied or not self.deathMatters:
            return b""
        return encode(Bye("the channel failed"))

    def channelEnded(
        self, listenerDied: bool, error: str | None = None
    ) -> list[Event[Token]]:
        """
        The channel has ended, and all that had come was taken in.  If the listener is
        dead and did not revoke, what it had offered is this worker's, claimed or not.
        Otherwise it may have given that to others.

        @param listenerDied: whether the other end is closed.
        @param error: what went wrong with the channel, if neither side ends it.
        """
        if self._reason is None:
            self._reason = error
        if listenerDied and self.deathMatters:
            adopted, loose = self._claims.listenerDied()
            self._close(loose)
            self._events.extend(Adopt(offer, token) for offer, token in adopted)
        else:
            self._close(self._claims.channelEndedAfterRevoke())
        self._close(list(self._sockets.values()))
        self._sockets.clear()
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


def _before(reason: str) -> dict[type[Frame], Forbidden]:
    return {
        frame: Forbidden(reason)
        for frame in (
            ListenerHello,
            Offer,
            frames.Listener,
            frames.Withdraw,
            frames.Drained,
            frames.Revoked,
        )
    }


_BYE: Row = {Bye: Do(WorkerSession._onBye)}

_OPEN: Row = {
    ListenerHello: Forbidden(SECOND_HELLO),
    Offer: Do(WorkerSession._onOffer),
    frames.Listener: Do(WorkerSession._onListener),
    frames.Withdraw: Do(WorkerSession._onWithdraw),
    frames.Drained: Do(WorkerSession._onDrained, Theirs.DRAINED),
    frames.Revoked: Do(WorkerSession._onRevoked, Theirs.REVOKED),
    **_BYE,
}

WorkerSession.table = {
    Theirs.GREETING: {
        **_before(HELLO_MISSING),
        ListenerHello: Do(WorkerSession._onHello, Theirs.OPEN),
        **_BYE,
    },
    Theirs.OPEN: _OPEN,
    Theirs.DRAINED: _OPEN,
    Theirs.REVOKED: {**_OPEN, frames.Drained: Do(WorkerSession._onDrained)},
}
