"""
Tests for L{portlisten._policy.balance}.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.balance import Balance
from tests.support.settings import SETTINGS

NAMES = ("web", "mail")


@dataclass(eq=False)
class Worker:
    """
    A worker that may get a connection.
    """

    capacity: int = 1
    load: int = 0
    names: tuple[str, ...] = NAMES
    resume: float = 0.0
    turn: int = 0


workers = st.lists(
    st.builds(
        Worker,
        capacity=st.integers(0, 2),
        load=st.integers(0, 3),
        names=st.sampled_from([NAMES, ("web",), ("mail",), ()]),
        resume=st.sampled_from([0.0, 1.0, 2.0]),
    ),
    max_size=6,
)


class CandidateTests(SynchronousTestCase):
    """
    Tests for L{Balance.candidates}.
    """

    def isCandidate(self, worker: Worker, now: float = 1.0) -> bool:
        """
        Say whether a worker may have a connection of the web's port.
        """
        return Balance().candidates([worker], "web", now) == [worker]

    def test_any(self) -> None:
        """
        A worker that has capacity and wants the name is one.
        """
        self.assertTrue(self.isCandidate(Worker()))

    def test_noCapacity(self) -> None:
        """
        A worker without capacity is none.
        """
        self.assertFalse(self.isCandidate(Worker(capacity=0)))

    def test_otherName(self) -> None:
        """
        A worker that wants only other names is none.
        """
        self.assertFalse(self.isCandidate(Worker(names=("mail",))))

    def test_pauses(self) -> None:
        """
        A worker that pauses is one when its pause is over.
        """
        worker = Worker(resume=1.5)
        self.assertFalse(self.isCandidate(worker, 1.49))
        self.assertTrue(self.isCandidate(worker, 1.5))


class ChooseTests(SynchronousTestCase):
    """
    Tests for L{Balance.choose}.
    """

    def test_leastOutstanding(self) -> None:
        """
        The worker with the fewest load connections is next, though it had the
        last turn.
        """
        balance = Balance()
        few, many = Worker(load=1), Worker(load=2)
        for _ in range(2):
            self.assertIs(balance.choose([many, few]), few)

    def test_equals(self) -> None:
        """
        Workers that have the same number have their turns.
        """
        balance = Balance()
        three = [Worker(load=1) for _ in range(3)]
        chosen = [three.index(balance.choose(three)) for _ in range(6)]
        self.assertEqual(chosen, [0, 1, 2, 0, 1, 2])

    def test_roundRobin(self) -> None:
        """
        With round robin, each worker has its turn, with few connections or many.
        """
        balance = Balance(roundRobin=True)
        three = [Worker(load=number) for number in range(3)]
        chosen = [three.index(balance.choose(three)) for _ in range(6)]
        self.assertEqual(chosen, [0, 1, 2, 0, 1, 2])

    def test_onlyOne(self) -> None:
        """
        The turn of a worker that was the only candidate counts as well.
        """
        balance = Balance()
        one, other = Worker(), Worker()
        balance.choose([one])
        self.assertIs(balance.choose([one, other]), other)


class PropertyTests(SynchronousTestCase):
    """
    Properties of the choice, with any workers.
    """

    @SETTINGS
    @given(workers, st.sampled_from(NAMES), st.booleans(), st.integers(1, 30))
    def test_choice(
        self, workers: list[Worker], name: str, roundRobin: bool, count: int
    ) -> None:
        """
        No worker is chosen that lacks capacity, pauses or does not want the name; none
        is passed over for another that has more load connections; and none that
        has as few waits for more turns than others have.
        """
        balance = Balance(roundRobin)
        now = 1.0
        chosen: list[Worker] = []
        for _ in range(count):
            candidates = balance.candidates(workers, name, now)
            expected = [
                each
                for each in workers
                if each.capacity > 0 and each.resume <= now and name in each.names
            ]
            self.assertEqual(candidates, expected)
            if not candidates:
                break
            worker = balance.choose(candidates)
            if not roundRobin:
                least = min(each.load for each in candidates)
                self.assertEqual(worker.load, least)
            equals = [
                each for each in candidates if roundRobin or each.load == worker.load
            ]
            lately = chosen[max(0, len(chosen) - len(equals) + 1) :]
            self.assertNotIn(worker, lately)
            chosen.append(worker)

    @SETTINGS
    @given(workers, st.booleans(), st.integers(0, 12), st.integers(1, 3))
    def test_severalAtOnce(
        self, workers: list[Worker], roundRobin: bool, count: int, rounds: int
    ) -> None:
        """
        To choose for several connections is to choose for one after the other.
        """
        others = [replace(each) for each in workers]
        balance, other = Balance(roundRobin), Balance(roundRobin)
        for _ in range(rounds):
            able = balance.candidates(workers, "web", 1.0)
            chosen = balance.assign(able, count) if able else []
            for worker in chosen:
                worker.load += 1
                worker.capacity -= 1
            expected: list[Worker] = []
            while len(expected) < count:
                able = other.candidates(others, "web", 1.0)
                if not able:
                    break
                worker = other.choose(able)
                worker.load += 1
                worker.capacity -= 1
                expected.append(worker)
            self.assertEqual(
                [workers.index(each) for each in chosen],
                [others.index(each) for each in expected],
            )
            for each in (*workers, *others):
                each.capacity += 1
