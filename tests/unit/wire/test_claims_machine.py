"""
Stateful tests of L{portlisten._wire.claims}: the claims alone, against a model of them.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from portlisten._wire.claims import Claims
from portlisten._wire.codec import encode
from portlisten._wire.frames import (
    MAXIMUM_PAYLOAD,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Frame,
    Offer,
    Refuse,
    Serving,
)
from tests.support.machines import (
    mostly,
    one,
    pick,
    refuses,
)
from tests.support.settings import SETTINGS

Arrivals = list[tuple[bool, bool, int]]
arrivals: st.SearchStrategy[Arrivals] = st.lists(
    st.tuples(mostly, mostly, st.integers(0, 4)), max_size=5
)


class ClaimsMachine(RuleBasedStateMachine):
    """
    The worker's book, told what may happen in any order in which it may.  A
    descriptor is a number here, and so is the cookie of its connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.held: set[int] = set()

    @initialize(
        window=st.integers(1, 4), claimsAll=st.booleans(), most=st.integers(1, 4)
    )
    def begin(self, window: int, claimsAll: bool, most: int) -> None:
        self.claims: Claims[int] = Claims(window, claimsAll, most)
        self.most = most
        self.window = window
        self.claimsAll = claimsAll
        self.asked = 0
        self.ids = 0
        self.loose: dict[int, int] = {}
        self.unclaimed: dict[int, int] = {}
        self.claiming: dict[int, int] = {}
        self.serving: set[int] = set()
        self.unsaid: set[tuple[type[Frame], int]] = set()
        self.unreported: int | None = None
        self.draining = False
        self.drains = 0
        self.written: list[Frame] = []
        self.revoked = False
        self.cutOff = False

    # What comes of it

    def close(self, tokens: list[int]) -> None:
        """
        Each descriptor is given back once.
        """
        for token in tokens:
            self.held.remove(token)

    def serve(self, mine: list[tuple[Offer, int]], expected: dict[int, int]) -> None:
        assert {offer.id: token for offer, token in mine} == expected
        self.close([token for _, token in mine])
        self.serving.update(expected)

    def said(self, frame: Frame) -> None:
        if isinstance(frame, Drain):
            self.drains += 1
            assert self.draining
            assert self.drains == 1
        elif isinstance(frame, Serving):
            assert frame.count == self.unreported
            self.unreported = None
        else:
            assert isinstance(frame, Claim | Refuse | Closed | ClientGone)
            for id in frame.ids:
                self.unsaid.remove((type(frame), id))

    # What happens

    @rule(arrivals=arrivals)
    def come(self, arrivals: Arrivals) -> None:
        """
        Descriptors and offers come in, often one after the other.
        """
        for descriptor, offer, cookie in arrivals:
            if descriptor and not self.revoked:
                self.descriptorComes(cookie)
            if offer and not self.revoked:
                self.offerComes(cookie)

    @rule(count=st.integers(0, 3))
    def report(self, count: int) -> None:
        """
        The number of connections changes that the channel's ids do not name.
        """
        self.unreported = count
        self.claims.serving(count)

    def descriptorComes(self, cookie: int) -> None:
        self.tokens += 1
        self.held.add(self.tokens)
        old = self.loose.pop(cookie, None)
        self.loose[cookie] = self.tokens
        if old is None and len(self.loose) > self.window:
            assert refuses(lambda: self.claims.descriptorArrived(cookie, self.tokens))
            self.cutOff = True
        else:
            tokens = self.claims.descriptorArrived(cookie, self.tokens)
            assert tokens == ([] if old is None else [old])
            self.close(tokens)

    def offerComes(self, cookie: int) -> None:
        self.ids += 1
        offer = Offer(self.ids, 0, cookie)
        token = self.loose.pop(cookie, None)
        if token is None or self.draining:
            tokens = self.claims.offered(offer)
            assert tokens == ([] if token is None else [token])
            self.close(tokens)
            self.unsaid.add((Refuse, offer.id))
            return
        self.unclaimed[offer.id] = token
        if len(self.unclaimed) > self.window:
            assert refuses(lambda: self.claims.offered(offer))
            self.cutOff = True
        else:
            assert self.claims.offered(offer) == []

    @precondition(lambda self: self.unclaimed or self.claiming)
    @rule(which=one, cookie=one)
    def offerComesAgain(self, which: int, cookie: int) -> None:
        id = pick(which, [*self.unclaimed, *self.claiming])
        assert refuses(lambda: self.claims.offered(Offer(id, 0, cookie)))
        self.cutOff = True

    @precondition(lambda self: self.serving)
    @rule(which=one, left=st.booleans())
    def connectionEnds(self, which: int, left: bool) -> None:
        id = pick(which, self.serving)
        self.serving.remove(id)
        if left:
            self.claims.clientGone(id)
        else:
            self.claims.closed(id)
        self.unsaid.add((ClientGone if left else Closed, id))

    @rule(arrivals=arrivals)
    def drain(self, arrivals: Arrivals) -> None:
        self.come(arrivals)
        tokens = self.claims.draining()
        self.draining = True
        assert sorted(tokens) == sorted(self.unclaimed.values())
        self.close(tokens)
        for id in self.unclaimed:
            self.unsaid.add((Refuse, id))
        self.unclaimed.clear()
        self.asked = 0

    @rule(arrivals=arrivals, flushes=st.booleans())
    def write(self, arrivals: Arrivals, flushes: bool) -> None:
        self.come(arrivals)
        frames = self.claims.outgoing()
        if self.written:
            assert frames == []
        else:
            count = self.most if self.claimsAll else self.asked
            for id in list(self.unclaimed)[:count]:
                self.claiming[id] = self.unclaimed.pop(id)
                self.unsaid.add((Claim, id))
            self.asked = 0
            self.saidAtOnce(frames)
        if flushes:
            self.flush()

    @rule()
    def claim(self) -> None:
        """
        The worker asks for one connection more.
        """
        waiting = 0 if self.claimsAll else len(self.unclaimed) - self.asked
        assert self.claims.claimable == waiting
        self.claims.claim()
        self.asked += waiting > 0

    def saidAtOnce(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.said(frame)
            assert len(encode(frame)) <= 4 + MAXIMUM_PAYLOAD
        assert not self.unsaid, "something is kept back"
        assert self.unreported is None
        assert self.drains == self.draining
        assert not any(isinstance(frame, Claim) for frame in frames[:-1])
        self.written = frames

    @rule()
    def flush(self) -> None:
        self.written = []
        self.serve(self.claims.flushed(), self.claiming)
        self.claiming = {}

    @rule(arrivals=arrivals)
    def revoke(self, arrivals: Arrivals) -> None:
        self.come(arrivals)
        self.revoked = True
        tokens = self.claims.revoked()
        assert sorted(tokens) == sorted(
            [*self.unclaimed.values(), *self.loose.values()]
        )
        self.close(tokens)
        self.unclaimed.clear()
        self.loose.clear()
        self.asked = 0

    @rule(
        window=st.integers(1, 4),
        claimsAll=st.booleans(),
        most=st.integers(1, 4),
        arrivals=arrivals,
    )
    def loseChannel(
        self, window: int, claimsAll: bool, most: int, arrivals: Arrivals
    ) -> None:
        """
        And find the listener again, with a new book.
        """
        self.come(arrivals)
        if self.revoked or self.draining or self.cutOff:
            self.close(self.claims.channelEndedAfterRevoke())
        else:
            mine, loose = self.claims.listenerDied()
            self.serve(mine, {**self.claiming, **self.unclaimed})
            assert sorted(loose) == sorted(self.loose.values())
            self.close(loose)
        assert not self.held
        assert self.claims.pending == 0
        self.begin(window, claimsAll, most)

    def teardown(self) -> None:
        if hasattr(self, "claims"):
            self.loseChannel(1, True, 4, [])

    # What always holds

    @invariant()
    def everyDescriptorIsSomewhere(self) -> None:
        assert self.claims.pending == len(self.held)
        assert self.held == {
            *self.loose.values(),
            *self.unclaimed.values(),
            *self.claiming.values(),
        }

    @invariant()
    def oneWriteAtATime(self) -> None:
        assert self.claims.writing == bool(self.written)


class MachineTests(SynchronousTestCase):
    """
    The machine, through many histories.
    """

    def test_claims(self) -> None:
        """
        Whatever the order of events, the worker's claims give each descriptor
        back once, and say each thing once, the claims last.
        """
        run_state_machine_as_test(ClaimsMachine, settings=SETTINGS)
