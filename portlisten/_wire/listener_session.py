"""
The listener's end of a channel, without input and output.

A driver writes L{ListenerSession.hello}, and then does three things:

  - It reads, and calls L{ListenerSession.receive} with the bytes.  It carries out the
    events that this returns, in order.
  - It gives commands, and writes the bytes that they return.  A descriptor goes out
    with the bytes of its frame, or earlier.
  - When the channel has ended, it calls L{ListenerSession.end}.

Four events are the worker's frames themselves, since they need no translation:
L{Claim}, L{Closed}, L{ClientGone}, L{Serving} and L{Given}.

The rules:

  1. The worker's first frame is HELLO or BYE, and it sends one HELLO, and one DRAIN.
  2. The worker answers, by CLAIM or REFUSE, only offers that it can have read.  It
     could guess ids.  If a worker answers unread offers, descriptors pile up in flight,
     and the kernel limits how many a user has in flight.  If a worker answers an offer
     that is not sent yet, the listener might close the connection, and the number of
     its descriptor would soon be another connection's.
  3. The driver checks which ids are valid, with L{portlisten._policy.ledger}.
  4. All frames count that the worker wrote before the listener shut down the reading
     side of the channel.  So the listener does not simply close a channel.  It
     I{revokes}: it says REVOKED, waits until that is in the kernel, shuts down its
     reading side, reads the rest, and closes.

This table shows what the worker may say in each state of C{theirs}.  A state in a cell
is the next one.  Nothing is read in the state LEFT.::

    theirs    HELLO  CLAIM  REFUSE  CLOSED  GONE   SERVING  GIVEN  DRAIN     BYE
    GREETING  OPEN   error  error   error   error  error    error  error     LEFT
    OPEN      error  yes    yes     yes     yes    yes      yes    DRAINING  LEFT
    DRAINING  error  yes    yes     yes     yes    yes      yes    error     LEFT

This table shows what the listener does in each state of C{ours}.  Each step of revoking
leads to the next state.  Sharing stands for L{ListenerSession.shareSocket},
L{ListenerSession.shareLoads}, L{ListenerSession.withdraw}, L{ListenerSession.leave} and
L{ListenerSession.drained}.
After OPEN these say nothing.::

    ours      revoke    revocation  shut  bye    sharing
    OPEN      REVOKING  -           -     ENDED  yes
    REVOKING  -         REVOKED     -     ENDED  -
    REVOKED   -         -           SHUT  ENDED  -
    SHUT      -         -           -     ENDED  -
    ENDED     -         -           -     -      -

If a worker has not said HELLO, it has no offers to revoke: the driver says BYE to it.
The ledger gives no offers to a worker that it has revoked.  The driver writes earlier
offers before REVOKED.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from portlisten._model import Port
from portlisten._wire.codec import FROM_WORKER, SECOND_HELLO, encode, encodeOffer
from portlisten._wire.frames import (
    REFUSALS,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Given,
    Leave,
    Listener,
    ListenerHello,
    Loads,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
    WorkerHello,
)
from portlisten._wire.session import (
    Broken,
    Do,
    Forbidden,
    Row,
    Session,
    beforeHello,
)
from portlisten.errors import ProtocolError

SECOND_DRAIN = "a second DRAIN"
UNREAD = "an answer to an offer that it has not read"


class Theirs(Enum):
    """
    What the worker has said.
    """

    GREETING = "nothing"
    OPEN = "HELLO"
    DRAINING = "that it wants no more offers"
    LEFT = "BYE"


class Ours(Enum):
    """
    What the listener has said, or is about to say.
    """

    OPEN = "HELLO"
    REVOKING = "nothing more but that it revokes"
    REVOKED = "that it revokes"
    SHUT = "the same, and the worker can say nothing more"
    ENDED = "all"


@dataclass(frozen=True, slots=True)
class Joined:
    """
    The worker said HELLO.

    @ivar window: how many offers may be unclaimed at a time.
    @ivar ports: the ports whose connections or sockets the worker wants.
    @ivar limit: the most connections that the worker may have, offered or claimed and
        not closed; L{None} for no limit.
    @ivar first: if the worker's clients speak first, how long to keep a connection
        whose client is silent, in seconds.  L{None} if they need not.
    @ivar label: what the worker says that the operator calls it; may be empty.
    @ivar leaves: whether the worker knows LEAVE.
    @ivar gives: whether the worker says GIVEN before others touch its connections.
    @ivar balances: whether the worker knows LOADS.
    """

    window: int
    ports: tuple[Port, ...]
    limit: int | None = None
    first: float | None = None
    label: str = ""
    leaves: bool = False
    gives: bool = False
    balances: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """
    The worker refused these offers, and never touches their connections.

    @ivar reason: the reason, for the log.
    """

    ids: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Draining:
    """
    The worker wants no more offers.
    """


@dataclass(frozen=True, slots=True)
class Left:
    """
    The worker said BYE.  Nothing after it counts.

    @ivar reason: the reason, for the log.
    """

    reason: str


#: The events that the dispatcher gets.
News: TypeAlias = (
    "Joined | Claim | Refused | Closed | ClientGone | Serving | Given | Draining"
)
Event: TypeAlias = "News | Left | Broken"


class ListenerSession(Session):
    """
    The listener's end.

    @param hello: the listener's HELLO.
    @param mayHaveRead: tells whether the worker may have read this many of the bytes
        that were returned to be written.

    @ivar ours: what the listener has said.
    @ivar reason: why the worker is revoked, or L{None} if it is not.
    @ivar guesses: whether the worker has answered an offer that was not made to it.  If
        so, the driver calls L{checkAnswer} again before it carries out an answer: what
        it did in between may have led to the offer.
    """

    theirs: Theirs

    def __init__(
        self, hello: ListenerHello, mayHaveRead: Callable[[int], bool] = bool
    ) -> None:
        super().__init__(FROM_WORKER, Theirs.GREETING)
        self._hello = hello
        self._mayHaveRead = mayHaveRead
        # How many bytes were returned to be written.  For each unanswered offer, how
        # many up to the end of its frame.
        self._written = 0
        self._offerEnds: dict[int, int] = {}
        self.ours = Ours.OPEN
        self.reason: str | None = None
        self.guesses = False
        self._knowsLeave = False

    @property
    def revokedSent(self) -> bool:
        """
        Whether L{revocation} was called, and the channel has not ended.
        """
        return self.ours in (Ours.REVOKED, Ours.SHUT)

    @property
    def unanswered(self) -> tuple[int, ...]:
        """
        The ids of the offers that were neither claimed nor refused.
        """
        return tuple(self._offerEnds)

    # Frames of the worker

    def _onHello(self, frame: WorkerHello) -> None:
        ports = self._hello.wanted(frame)
        self._knowsLeave = Leave.TYPE in frame.frames
        self._events.append(
            Joined(
                min(frame.window, self._hello.window),
                ports,
                frame.limit,
                None if frame.first is None else frame.first / 1000,
                frame.label,
                self._knowsLeave,
                Given.TYPE in frame.frames,
                Loads.TYPE in frame.frames,
            )
        )

    def _onClaim(self, frame: Claim) -> None:
        self.checkAnswer(frame.ids)
        self._events.append(frame)

    def _onRefuse(self, frame: Refuse) -> None:
        self.checkAnswer(frame.ids)
        reason = REFUSALS.get(frame.reason, f"reason {frame.reason}")
        self._events.append(Refused(frame.ids, reason))

    def _onReport(self, frame: Closed | ClientGone | Serving | Given) -> None:
        self._events.append(frame)

    def _onDrain(self, frame: Drain) -> None:
        self._events.append(Draining())

    def _onBye(self, frame: Bye) -> None:
        self._events.append(Left(f"it says: {frame.reason}"))

    def checkAnswer(self, ids: Collection[int]) -> None:
        """
        Check that the worker can have read the offers that it answers.  They count as
        answered then.

        @raise ProtocolError: if it cannot have read them.
        """
        ends = self._offerEnds
        last = 0
        for id in ids:
            end = ends.get(id, 0)
            if end > last:
                last = end
        if not self._mayHaveRead(last):
            raise ProtocolError(UNREAD)
        for id in ids:
            if ends.pop(id, None) is None:
                self.guesses = True

    # Frames of the listener

    def _encode(self, *frames: Frame) -> bytes:
        data = b"".join(map(encode, frames))
        self._written += len(data)
        return data

    def _encodeIfOpen(self, frame: Frame) -> bytes:
        return self._encode(frame) if self.ours is Ours.OPEN else b""

    def hello(self) -> bytes:
        """
        Give the bytes to write first.
        """
        return self._encode(self._hello)

    def offer(
        self,
        offers: Iterable[tuple[int, int, int]],
        waited: Callable[[int], int] | None = None,
    ) -> bytes:
        """
        Offer connections.

        @param offers: for each the id, the number of its port, and its cookie.
        @param waited: says of an id how long the connection has waited, as in L{Offer}.
            If L{None}, the other end is not told.
        """
        frames = []
        end = self._written
        for id, port, cookie in offers:
            frame = encodeOffer(id, port, cookie, waited(id) if waited else 0)
            end += len(frame)
            self._offerEnds[id] = end
            frames.append(frame)
        self._written = end
        return b"".join(frames)

    def shareSocket(self, port: int, cookie: int) -> bytes:
        """
        Let the worker use a socket of a shared port.

        @return: empty if C{ours} is past OPEN.
        """
        return self._encodeIfOpen(Listener(port, cookie))

    def shareLoads(self, slot: int, ports: int, loads: int, members: int) -> bytes:
        """
        Let the worker and others tell each other how many connections they have.  See
        L{Loads}.  The worker must know this frame.

        @return: empty if C{ours} is past OPEN.
        """
        return self._encodeIfOpen(Loads(slot, ports, loads, members))

    def withdraw(self, cookie: int) -> bytes:
        """
        Make the worker stop using a shared socket.

        @return: empty if C{ours} is past OPEN.
        """
        return self._encodeIfOpen(Withdraw(cookie))

    def leave(self) -> bytes:
        """
        Ask the worker to drain, and to end the connections that it keeps for further
        requests.

        @return: empty if C{ours} is past OPEN, or the worker does not know LEAVE.
        """
        return self._encodeIfOpen(Leave()) if self._knowsLeave else b""

    def drained(self) -> bytes:
        """
        Confirm that no offer follows.

        @return: empty if C{ours} is past OPEN.
        """
        return self._encodeIfOpen(Drained())

    def bye(self, reason: str) -> bytes:
        """
        End the channel.  The worker keeps its offers.
        """
        self.end()
        return self._encode(Bye(reason))

    def revoke(self, reason: str) -> None:
        """
        Begin to take back the offers that are not claimed.  The driver writes what goes
        before REVOKED, and then calls L{revocation}.
        """
        if self.ours is Ours.OPEN:
            self.ours = Ours.REVOKING
            self.reason = reason

    def revocation(self, reason: str | None = None) -> bytes:
        """
        Tell the worker that its unclaimed offers belong to others.

        @param reason: the reason, if L{revoke} was not called.
        """
        if self.ours is Ours.REVOKING:
            self.ours = Ours.REVOKED
        return self._encode(Revoked(), Bye(reason or self.reason or ""))

    def shut(self) -> None:
        """
        Note that the reading side is shut down.  The driver reads what the worker wrote
        before.
        """
        self.ours = Ours.SHUT

    def end(self) -> None:
        """
        See L{Session.end}.
        """
        super().end()
        self.ours = Ours.ENDED


_OPEN: Row = {
    WorkerHello: Forbidden(SECOND_HELLO),
    Claim: Do(ListenerSession._onClaim),
    Refuse: Do(ListenerSession._onRefuse),
    Closed: Do(ListenerSession._onReport),
    ClientGone: Do(ListenerSession._onReport),
    Serving: Do(ListenerSession._onReport),
    Given: Do(ListenerSession._onReport),
    Drain: Do(ListenerSession._onDrain, Theirs.DRAINING),
    Bye: Do(ListenerSession._onBye, Theirs.LEFT),
}

ListenerSession.table = {
    Theirs.GREETING: {
        **beforeHello(Claim, Refuse, Closed, ClientGone, Serving, Given, Drain),
        WorkerHello: Do(ListenerSession._onHello, Theirs.OPEN),
        Bye: Do(ListenerSession._onBye, Theirs.LEFT),
    },
    Theirs.OPEN: _OPEN,
    Theirs.DRAINING: {**_OPEN, Drain: Forbidden(SECOND_DRAIN)},
    Theirs.LEFT: {},
}
