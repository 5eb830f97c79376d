"""
A worker's offers: which ones it holds, which ones it claims, and which connections it
may touch.  The listener keeps the same in L{portlisten._policy.ledger}.

Two rules keep both sides in agreement, even if a process is killed at any moment.

B{Claim before touch.}  A worker touches a connection only after its claim is in the
kernel.  The listener finds the claim there even if the worker is dead.

B{One write at a time, and the claim at its end.}  The channel may break when a part of
a write is in the kernel and the rest is not.  The worker must then know whether the
claim is in the kernel.  So it writes nothing after a claim before all of the claim is
in the kernel.  Then the claim is in the kernel if and only if all of the write is.
While a write is under way, L{Claims} collects the next frames.  They are written in one
piece, with the claims last.  Batches save time as well.

A worker claims offers as they come, or only as many as it asks for: C{claimsAll}.  If
it claims them as they come, one write claims only some of them.  The offers that it has
not claimed yet are for another worker if this one stops or dies.

Like the ledger, this decides and never acts.  A I{token} stands for a descriptor.
L{Claims} holds each token and returns it exactly once: to be served or to be closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

from portlisten._wire.frames import (
    DRAINING,
    MAXIMUM_IDS,
    MAXIMUM_WINDOW,
    MISSING_DESCRIPTOR,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Frame,
    Offer,
    Refuse,
    Serving,
)
from portlisten.errors import ProtocolError

Token = TypeVar("Token")


class Claims(Generic[Token]):
    """
    The claims of one channel.

    @param window: the most unclaimed offers that the listener may send.
    @param claimsAll: whether offers are claimed as they come.  Otherwise each waits for
        L{claim}.
    @param most: how many offers one write claims, if they are claimed as they come.

    @ivar writing: whether a write is under way.
    """

    def __init__(
        self, window: int, claimsAll: bool = True, most: int = MAXIMUM_WINDOW
    ) -> None:
        self._window = window
        self._most = most
        self._claimsAll = claimsAll
        self._asked = 0
        self._unmatched: dict[int, Token] = {}
        self._unclaimed: dict[int, tuple[Offer, Token]] = {}
        self._claiming: dict[int, tuple[Offer, Token]] = {}
        self._refusals: list[tuple[int, int]] = []
        self._closed: list[int] = []
        self._clientsGone: list[int] = []
        self._serving: int | None = None
        self.writing = False
        self._draining = False
        self._drainSent = False

    @property
    def pending(self) -> int:
        """
        How many tokens this holds.
        """
        return len(self._unmatched) + len(self._unclaimed) + len(self._claiming)

    @property
    def claimable(self) -> int:
        """
        How many offers wait for L{claim}.
        """
        return 0 if self._claimsAll else len(self._unclaimed) - self._asked

    # Events

    def claim(self) -> None:
        """
        Claim the oldest of the L{claimable} offers with the next write.
        """
        if self.claimable:
            self._asked += 1

    def descriptorArrived(self, cookie: int, token: Token) -> list[Token]:
        """
        Hold a descriptor that came in.

        @return: tokens to close: an older descriptor of the same connection, since its
            offer can only be a past one.
        @raise ProtocolError: if more descriptors lack their offers than the window
            allows.  The token is held all the same.
        """
        old = self._unmatched.pop(cookie, None)
        self._unmatched[cookie] = token
        if old is not None:
            return [old]
        if len(self._unmatched) > self._window:
            raise ProtocolError(
                f"more than {self._window} descriptors without their offers"
            )
        return []

    @property
    def unmatched(self) -> bool:
        """
        Whether this holds descriptors without their offers.
        """
        return bool(self._unmatched)

    def offered(self, offer: Offer, token: Token | None = None) -> list[Token]:
        """
        Enter an offer that came in.  If its descriptor has not come before it, the
        descriptor never comes.

        @param token: the offer's descriptor, if nothing is L{unmatched}.  Otherwise it
            is one of those that L{descriptorArrived} holds.
        @return: tokens to close.
        @raise ProtocolError: if the offer exceeds the window, or came before.  The
            token is held all the same.
        """
        id, unclaimed = offer.id, self._unclaimed
        if id in unclaimed or id in self._claiming:
            if token is not None:
                self._unmatched[offer.cookie] = token
            raise ProtocolError(f"a second OFFER of {id}")
        if token is None:
            token = self._unmatched.pop(offer.cookie, None)
        if token is None or self._draining:
            reason = MISSING_DESCRIPTOR if token is None else DRAINING
            self._refusals.append((reason, id))
            return [] if token is None else [token]
        unclaimed[id] = (offer, token)
        # Offers that are being claimed do not count: the listener may have read the
        # claim already, and sent further offers.
        if len(unclaimed) > self._window:
            raise ProtocolError(f"more than {self._window} unclaimed offers")
        return []

    def closed(self, id: int) -> None:
        """
        Report that a claimed connection was closed.
        """
        self._closed.append(id)

    def clientGone(self, id: int) -> None:
        """
        Report that the client of a claimed connection had left before the connection
        was adopted.
        """
        self._clientsGone.append(id)

    def serving(self, count: int) -> None:
        """
        Report how many connections live in the worker that no id of this channel names.
        """
        self._serving = count

    def draining(self) -> list[Token]:
        """
        Ask for no more offers, and refuse the offers that are not claimed yet.

        @return: tokens to close.
        """
        self._draining = True
        tokens = []
        for offer, token in self._unclaimed.values():
            self._refusals.append((DRAINING, offer.id))
            tokens.append(token)
        self._unclaimed.clear()
        self._asked = 0
        return tokens

    def outgoing(self) -> list[Frame]:
        """
        The frames to write now, in one piece.  The next frames wait for L{flushed}.

        @return: empty if nothing is to be written, or a write is under way.
        """
        if self.writing:
            return []
        frames: list[Frame] = []
        if self._refusals:
            frames.extend(self._refuse())
        if self._closed:
            frames.extend(map(Closed, _split(self._closed)))
            self._closed = []
        if self._clientsGone:
            frames.extend(map(ClientGone, _split(self._clientsGone)))
            self._clientsGone = []
        if self._serving is not None:
            frames.append(Serving(self._serving))
            self._serving = None
        if self._draining and not self._drainSent:
            self._drainSent = True
            frames.append(Drain())
        count = self._most if self._claimsAll else self._asked
        self._asked = 0
        if count >= len(self._unclaimed) > 0:
            frames.append(Claim(tuple(self._unclaimed)))
            self._claiming, self._unclaimed = self._unclaimed, {}
        elif count and self._unclaimed:
            ids = tuple(islice(self._unclaimed, count))
            frames.append(Claim(ids))
            self._claiming = {id: self._unclaimed.pop(id) for id in ids}
        self.writing = bool(frames)
        return frames

    def _refuse(self) -> Iterator[Refuse]:
        refusals, self._refusals = self._refusals, []
        for reason in sorted({reason for reason, _ in refusals}):
            refused = [id for why, id in refusals if why == reason]
            # The reason in a REFUSE takes as much space as one id.
            for ids in _split(refused, MAXIMUM_IDS - 1):
                yield Refuse(reason, ids)

    def flushed(self) -> list[tuple[Offer, Token]]:
        """
        The write is over: all of it is in the kernel.

        @return: the connections that may be touched.
        """
        self.writing = False
        mine = list(self._claiming.values())
        self._claiming.clear()
        return mine

    def revoked(self) -> list[Token]:
        """
        Drop the offers that are not claimed: the listener offers them to others.
        Offers that are being claimed depend on the write that is under way: L{flushed}
        or L{channelEndedAfterRevoke} follows.

        @return: tokens to close.
        """
        tokens = [token for _, token in self._unclaimed.values()]
        tokens.extend(self._unmatched.values())
        self._unclaimed.clear()
        self._unmatched.clear()
        self._asked = 0
        return tokens

    def channelEndedAfterRevoke(self) -> list[Token]:
        """
        Drop all offers: the channel ended after they were revoked.

        @return: tokens to close: all that are held.
        """
        tokens = [token for _, token in self._claiming.values()]
        self._claiming.clear()
        return tokens + self.revoked()

    def listenerDied(self) -> tuple[list[tuple[Offer, Token]], list[Token]]:
        """
        Take all offers, claimed or not: the listener is dead, and its copies of the
        connections are closed.

        @return: the connections that may be touched; and the tokens to close, whose
            offers never came.
        """
        mine = [*self._claiming.values(), *self._unclaimed.values()]
        self._claiming.clear()
        self._unclaimed.clear()
        return mine, self.revoked()


def _split(ids: list[int], most: int = MAXIMUM_IDS) -> Iterator[tuple[int, ...]]:
    """
    Divide ids into parts that each fit a frame.
    """
    for start in range(0, len(ids), most):
        yield tuple(ids[start : start + most])
