"""
The listener's end of a channel, without input and output.

A driver writes L{ListenerSession.hello}, and then does three things:

  - It reads, and calls L{ListenerSession.receive} with the bytes.  It carries out the
    events that this returns, in order.
  - It gives commands, and writes the bytes that they return.  A descriptor goes out
    with the bytes of its frame, or earlier.
  - When the channel has ended, it says so by L{ListenerSession.end}.

Three events are the worker's frames themselves, since they need no translation:
L{Claim}, L{Closed} and L{ClientGone}.

The rules:

  1. The worker's first frame is HELLO or BYE, and it sends one HELLO, and one DRAIN.
  2. The worker answers, by CLAIM or REFUSE, only what it can have read.  Ids can be
     guessed.  If a worker answers unread offers, descriptors pile up in flight, and the
     kernel limits how many a user has in flight.  If a worker answers an offer that is
     not even sent, the connection may be closed, and its descriptor's number would soon
     be another's.
  3. Which ids fit is for the driver to find out, from L{portlisten._policy.ledger}.
  4. What was written before the worker's way is shut counts, whatever else was said.
     So a channel is not simply closed.  The listener I{revokes}: it says REVOKED, waits
     until that is in the kernel, shuts the way, reads what is left, and closes.

What the worker may say in each state of C{theirs}.  A state in a cell is the next one.
Nothing is read in the state LEFT.::

    theirs    HELLO  CLAIM  REFUSE  CLOSED  GONE   DRAIN     BYE
    GREETING  OPEN   error  error   error   error  error     LEFT
    OPEN      error  yes    yes     yes     yes    DRAINING  LEFT
    DRAINING  error  yes    yes     yes     yes    error     LEFT

What the listener does in each state of C{ours}.  Each step of revoking leads to the
next state.  Sharing stands for L{ListenerSession.shareSocket},
L{ListenerSession.withdraw} and L{ListenerSession.drained}, which say nothing once it is
too late.::

    ours      revoke    revocation  shut  bye    sharing
    OPEN      REVOKING  -           -     ENDED  yes
    REVOKING  -         REVOKED     -     ENDED  -
    REVOKED   -         -           SHUT  ENDED  -
    SHUT      -         -           -     ENDED  -
    ENDED     -         -           -     -      -

A worker that has not said HELLO has nothing to be revoked: the driver says BYE to it.
The ledger gives no offers to a worker that it knows to be revoked.  An offer that it
gave before is written before REVOKED.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from portlisten._model import Port
from portlisten._wire.frames import (
    FROM_WORKER,
    REFUSALS,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Refuse,
    Revoked,
    Withdraw,
    WorkerHello,
    encode,
    encodeOffer,
)
from portlisten._wire.session import (
    HELLO_MISSING,
    SECOND_HELLO,
    Broken,
    Do,
    Forbidden,
    Row,
    Session,
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
    The worker said HELLO, and wants what comes in by these ports.

    @ivar window: how many offers may be unclaimed at a time.
    """

    window: int
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """
    The worker will never touch these offers.

    @ivar reason: in words, for the log.
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
    The worker said BYE, and nothing behind it counts.
    """

    reason: str


#: What a worker says about connections.
News: TypeAlias = "Joined | Claim | Refused | Closed | ClientGone | Draining"
Event: TypeAlias = "News | Left | Broken"


class ListenerSession(Session):
    """
    The listener's end.

    @param hello: what the worker is told of the listener.
    @param mayHaveRead: says whether the worker may have read so many of the bytes that
        were returned to be written.

    @ivar ours: what the listener has said.
    @ivar reason: why the worker is revoked, if it is.
    @ivar guesses: whether the worker has answered what was not offered to it.  Then the
        driver calls L{checkAnswer} again before it carries out an answer: what it did
        in between may have led to the offer.
    """

    theirs: Theirs

    def __init__(
        self, hello: ListenerHello, mayHaveRead: Callable[[int], bool] = bool
    ) -> None:
        super().__init__(FROM_WORKER, Theirs.GREETING)
        self._hello = hello
        self._mayHaveRead = mayHaveRead
        # How many bytes were returned to be written, and where among them the frames
        # end of those offers that are not answered.
        self._written = 0
        self._ends: dict[int, int] = {}
        self.ours = Ours.OPEN
        self.reason: str | None = None
        self.guesses = False

    @property
    def revokedSent(self) -> bool:
        """
        Whether L{revocation} was given out, and the channel has not ended.
        """
        return self.ours in (Ours.REVOKED, Ours.SHUT)

    @property
    def unanswered(self) -> tuple[int, ...]:
        """
        The ids of the offers that were neither claimed nor refused.
        """
        return tuple(self._ends)

    # What the worker says

    def _greeted(self, frame: WorkerHello) -> None:
        ports = self._hello.wanted(frame)
        self._events.append(Joined(min(frame.window, self._hello.window), ports))

    def _claimed(self, frame: Claim) -> None:
        self.checkAnswer(frame.ids)
        self._events.append(frame)

    def _refused(self, frame: Refuse) -> None:
        self.checkAnswer(frame.ids)
        reason = REFUSALS.get(frame.reason, f"reason {frame.reason}")
        self._events.append(Refused(frame.ids, reason))

    def _reported(self, frame: Closed | ClientGone) -> None:
        self._events.append(frame)

    def _draining(self, frame: Drain) -> None:
        self._events.append(Draining())

    def _left(self, frame: Bye) -> None:
        self._events.append(Left(f"it says: {frame.reason}"))

    def checkAnswer(self, ids: Collection[int]) -> None:
        """
        Check that a worker can have read the offers that it answers.  They are answered
        then.

        @raise ProtocolError: if it cannot.
        """
        ends = self._ends
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

    # What the listener says

    def _say(self, *frames: Frame) -> bytes:
        data = b"".join(map(encode, frames))
        self._written += len(data)
        return data

    def hello(self) -> bytes:
        """
        What is written first.
        """
        return self._say(self._hello)

    def offer(self, offers: Iterable[tuple[int, int, int]]) -> bytes:
        """
        Offer connections.

        @param offers: of each the id, the number of its port, and its cookie.
        """
        said = []
        end = self._written
        for id, port, cookie in offers:
            frame = encodeOffer(id, port, cookie)
            end += len(frame)
            self._ends[id] = end
            said.append(frame)
        self._written = end
        return b"".join(said)

    def shareSocket(self, port: int, cookie: int) -> bytes:
        """
        Let the worker use a socket of a shared port.  Empty if it is too late.
        """
        return self._say(Listener(port, cookie)) if self.ours is Ours.OPEN else b""

    def withdraw(self, cookie: int) -> bytes:
        """
        Ask for such a socket back.  Empty if it is too late.
        """
        return self._say(Withdraw(cookie)) if self.ours is Ours.OPEN else b""

    def drained(self) -> bytes:
        """
        Confirm that no offer follows.  Empty if it is too late.
        """
        return self._say(Drained()) if self.ours is Ours.OPEN else b""

    def bye(self, reason: str) -> bytes:
        """
        End the channel.  What is offered stays the worker's.
        """
        self.end()
        return self._say(Bye(reason))

    def revoke(self, reason: str) -> None:
        """
        Take back what is not claimed.  L{revocation} follows when the driver has
        written what is to be written before it.
        """
        if self.ours is Ours.OPEN:
            self.ours = Ours.REVOKING
            self.reason = reason

    def revocation(self, reason: str | None = None) -> bytes:
        """
        Say that what is not claimed belongs to others.

        @param reason: why, if the worker is not being revoked.
        """
        if self.ours is Ours.REVOKING:
            self.ours = Ours.REVOKED
        return self._say(Revoked(), Bye(reason or self.reason or ""))

    def shut(self) -> None:
        """
        The way of the worker is shut: what it wrote before is being read.
        """
        self.ours = Ours.SHUT

    def end(self) -> None:
        """
        See L{Session.end}.
        """
        super().end()
        self.ours = Ours.ENDED


_EARLY: Row = {
    frame: Forbidden(HELLO_MISSING)
    for frame in (Claim, Refuse, Closed, ClientGone, Drain)
}

_OPEN: Row = {
    WorkerHello: Forbidden(SECOND_HELLO),
    Claim: Do(ListenerSession._claimed),
    Refuse: Do(ListenerSession._refused),
    Closed: Do(ListenerSession._reported),
    ClientGone: Do(ListenerSession._reported),
    Drain: Do(ListenerSession._draining, Theirs.DRAINING),
    Bye: Do(ListenerSession._left, Theirs.LEFT),
}

ListenerSession.table = {
    Theirs.GREETING: {
        **_EARLY,
        WorkerHello: Do(ListenerSession._greeted, Theirs.OPEN),
        Bye: Do(ListenerSession._left, Theirs.LEFT),
    },
    Theirs.OPEN: _OPEN,
    Theirs.DRAINING: {**_OPEN, Drain: Forbidden(SECOND_DRAIN)},
    Theirs.LEFT: {},
}
