"""
What a worker was offered, what it claimed, and what it may touch.  The listener keeps
the same in L{portlisten._policy.ledger}.

Two rules keep both sides in agreement, whatever is killed and whenever.

B{Claim before touch.}  A connection is touched only after its claim is in the
kernel, where the listener will find it even if this process is gone.

B{One write at a time, and the claim at its end.}  The channel may break while
some of what was written is in the kernel and some is not.  Was the claim in?
The stream can not say, unless nothing is written after a claim before all of
it is in: then the claim is in if and only if everything is.  So what the worker has to
say gathers here while a write is under way, and goes out in one piece, with the claims
last.  This costs nothing: it is also how claims come in batches.

Like the ledger, this decides and never acts.  A I{token} stands for a
descriptor.  L{Claims} holds it, and gives each back exactly once, to be served
or to be closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from portlisten._wire.frames import (
    DRAINING,
    MAXIMUM_IDS,
    MISSING_DESCRIPTOR,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Frame,
    Offer,
    Refuse,
)
from portlisten.errors import ProtocolError

Token = TypeVar("Token")


class Claims(Generic[Token]):
    """
    The claims of one channel.

    @param window: the most unclaimed offers that the listener may send.

    @ivar writing: whether a write is under way.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._loose: dict[int, Token] = {}
        self._unclaimed: dict[int, tuple[Offer, Token]] = {}
        self._claiming: dict[int, tuple[Offer, Token]] = {}
        self._refusals: list[tuple[int, int]] = []
        self._closed: list[int] = []
        self._clientsGone: list[int] = []
        self.writing = False
        self._draining = False
        self._drainSent = False

    @property
    def pending(self) -> int:
        """
        How many tokens it holds.
        """
        return len(self._loose) + len(self._unclaimed) + len(self._claiming)

    # Events

    def arrived(self, cookie: int, token: Token) -> list[Token]:
        """
        A descriptor came in.

        @return: tokens to close: another descriptor of the same connection,
            whose offer can only be one of the past.
        @raise ProtocolError: if there are more than the window allows.  The
            token is held all the same.
        """
        old = self._loose.pop(cookie, None)
        self._loose[cookie] = token
        if old is not None:
            return [old]
        if len(self._loose) > self._window:
            raise ProtocolError(
                f"more than {self._window} descriptors without their offers"
            )
        return []

    def offered(self, offer: Offer) -> list[Token]:
        """
        An offer came in.  Its descriptor came before it, or never will.

        @return: tokens to close.
        @raise ProtocolError: if it is one too many, or has been seen before.
        """
        id, unclaimed = offer.id, self._unclaimed
        if id in unclaimed or id in self._claiming:
            raise ProtocolError(f"a second OFFER of {id}")
        token = self._loose.pop(offer.cookie, None)
        if token is None or self._draining:
            reason = MISSING_DESCRIPTOR if token is None else DRAINING
            self._refusals.append((reason, id))
            return [] if token is None else [token]
        unclaimed[id] = (offer, token)
        # Those being claimed do not count: the listener may have read the claim
        # already, and made use of the room.
        if len(unclaimed) > self._window:
            raise ProtocolError(f"more than {self._window} unclaimed offers")
        return []

    def closed(self, id: int) -> None:
        """
        A claimed connection was closed.
        """
        self._closed.append(id)

    def clientGone(self, id: int) -> None:
        """
        The client of a claimed connection had left before it was adopted.
        """
        self._clientsGone.append(id)

    def draining(self) -> list[Token]:
        """
        No more offers are wanted, and those not claimed yet go back.

        @return: tokens to close.
        """
        self._draining = True
        tokens = []
        for offer, token in self._unclaimed.values():
            self._refusals.append((DRAINING, offer.id))
            tokens.append(token)
        self._unclaimed.clear()
        return tokens

    def outgoing(self) -> list[Frame]:
        """
        What is to be written now, in one piece; after which it waits for
        L{flushed}.  Empty if there is nothing to say, or a write is under way.
        """
        if self.writing:
            return []
        frames: list[Frame] = []
        if self._refusals:
            frames.extend(self._refuse())
        if self._closed:
            frames.extend(map(Closed, _fitting(self._closed)))
            self._closed = []
        if self._clientsGone:
            frames.extend(map(ClientGone, _fitting(self._clientsGone)))
            self._clientsGone = []
        if self._draining and not self._drainSent:
            self._drainSent = True
            frames.append(Drain())
        if self._unclaimed:
            frames.append(Claim(tuple(self._unclaimed)))
            self._claiming, self._unclaimed = self._unclaimed, {}
        self.writing = bool(frames)
        return frames

    def _refuse(self) -> Iterator[Refuse]:
        refusals, self._refusals = self._refusals, []
        for reason in sorted({reason for reason, _ in refusals}):
            refused = [id for why, id in refusals if why == reason]
            # A REFUSE has a reason as well.
            for ids in _fitting(refused, MAXIMUM_IDS - 1):
                yield Refuse(reason, ids)

    def flushed(self) -> list[tuple[Offer, Token]]:
        """
        All that was written is in the kernel.

        @return: what may be touched.
        """
        self.writing = False
        mine = list(self._claiming.values())
        self._claiming.clear()
        return mine

    def revoked(self) -> list[Token]:
        """
        The listener gives to others what it has seen no claim of by then.
        What is being claimed depends on the write that is under way:
        L{flushed}, or L{channelEndedAfterRevoke}.

        @return: tokens to close.
        """
        tokens = [token for _, token in self._unclaimed.values()]
        tokens.extend(self._loose.values())
        self._unclaimed.clear()
        self._loose.clear()
        return tokens

    def channelEndedAfterRevoke(self) -> list[Token]:
        """
        The channel is gone after the offers were revoked.

        @return: tokens to close, which are all.
        """
        tokens = [token for _, token in self._claiming.values()]
        self._claiming.clear()
        return tokens + self.revoked()

    def listenerDied(self) -> tuple[list[tuple[Offer, Token]], list[Token]]:
        """
        The listener is dead, and its copies with it: what it had offered is
        this worker's, claimed or not.

        @return: what may be touched, and tokens to close, whose offers never
            came.
        """
        mine = [*self._claiming.values(), *self._unclaimed.values()]
        self._claiming.clear()
        self._unclaimed.clear()
        return mine, self.revoked()


def _fitting(ids: list[int], most: int = MAXIMUM_IDS) -> Iterator[tuple[int, ...]]:
    """
    Divide ids among frames.
    """
    for start in range(0, len(ids), most):
        yield tuple(ids[start : start + most])
