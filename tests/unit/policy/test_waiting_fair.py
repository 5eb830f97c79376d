"""
Tests for L{portlisten._policy.waiting}: queues in which sources take turns, and what
limits keep out.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.entries import Entry, Worker
from portlisten._policy.source_limits import Limits, SourceLimits
from portlisten._policy.tallies import Tally
from portlisten._policy.waiting import WaitingQueue
from tests.support.settings import SETTINGS

PATIENCE = 60.0


class FairTests(SynchronousTestCase):
    """
    Tests for a fair L{WaitingQueue}.  Connections are words: a source and a number.
    """

    def setUp(self) -> None:
        self.start()

    def start(self) -> None:
        """
        Make an empty queue.
        """
        self.queue = WaitingQueue("web", 1000, PATIENCE, 5.0, fair=True)
        self.table = SourceLimits(Limits())
        self.number = 0

    def make(self, connection: str, now: float = 0.0) -> Entry:
        """
        Make a connection of the source that is its first letter.
        """
        self.number += 1
        entry = Entry(self.number, 1, "web", connection, True, now, Tally())
        entry.source = self.table.find(connection[0], now)
        return entry

    def add(self, *connections: str, now: float = 0.0) -> None:
        """
        Let connections wait.
        """
        for each in connections:
            self.queue.add(self.make(each, now))

    def pop(self, count: int) -> list[str]:
        """
        Take connections.
        """
        return [self.queue.pop().connection for _ in range(count)]

    def test_turns(self) -> None:
        """
        Sources take turns, each in its own order.
        """
        self.add("a1", "a2", "a3", "a4", "b1", "c1", "b2")
        self.assertEqual(self.pop(7), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"])

    def test_newcomer(self) -> None:
        """
        A source that comes later gains nothing for the time when it was not there.
        """
        self.add(*[f"a{n}" for n in range(50)])
        self.pop(10)
        self.add("b1", "b2", "b3")
        self.assertEqual(self.pop(6), ["b1", "a10", "b2", "a11", "b3", "a12"])

    @SETTINGS
    @given(
        st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=80),
    )
    def test_oneTurn(self, happens: list[str]) -> None:
        """
        The first connection of a source waits for one connection of each other source
        at the most, however many wait.  If the source was served before, it waits for
        what is left of that turn as well.
        """
        self.start()
        waiting: dict[str, int] = {}
        passed: dict[str, list[str]] = {}
        served: set[str] = set()
        for each in happens:
            if each:
                if not waiting.get(each):
                    passed[each] = []
                waiting[each] = waiting.get(each, 0) + 1
                self.add(each)
            elif any(waiting.values()):
                [source] = self.pop(1)
                waiting[source] -= 1
                passed.pop(source, None)
                served.add(source)
                for other, before in passed.items():
                    before.append(source)
                    most = 2 if other in served else 1
                    self.assertTrue(before.count(source) <= most)

    def test_again(self) -> None:
        """
        A connection that was offered before is the first one.
        """
        self.add("a1", "a2", "b1", "b2")
        taken = self.queue.pop()
        taken.worker = Worker("channel", 1, 1, frozenset(["web"]), None, None, None)
        self.queue.add(taken)
        self.assertEqual(self.pop(4), ["a1", "b1", "a2", "b2"])

    def test_againWithoutTurn(self) -> None:
        """
        So is one that was offered at once, before others had to wait.
        """
        entry = self.make("a0")
        self.add("a1", "b1")
        entry.worker = Worker("channel", 1, 1, frozenset(["web"]), None, None, None)
        self.queue.add(entry)
        self.assertEqual(self.pop(3), ["a0", "a1", "b1"])

    def test_late(self) -> None:
        """
        What a limit has kept out comes behind everybody else, and those take turns as
        well.
        """
        parked = [self.make(each) for each in ("a1", "a2", "b1")]
        for each in parked:
            each.late = True
            self.queue.park(each)
        self.add("c1", "c2")
        self.assertEqual(self.queue.count, 5)
        for each in parked:
            self.queue.release(each)
        self.add("c3")
        self.assertEqual(self.pop(6), ["c1", "c2", "c3", "a1", "b1", "a2"])

    def test_overdue(self) -> None:
        """
        Whose patience is over goes, wherever it stands.
        """
        self.add("a1", "a2", "a3", now=0.0)
        self.add("b1", now=10.0)
        late = self.make("b2", now=5.0)
        self.queue.park(late)
        self.assertFalse(self.queue.overdue(PATIENCE - 0.1))
        self.assertEqual(self.queue.oldestReady(20.0), 20.0)
        found = self.queue.takeReadyOverdue(PATIENCE + 5.0)
        self.assertEqual([each.connection for each in found], ["a1", "a2", "a3", "b2"])
        self.assertEqual(self.pop(1), ["b1"])
        self.assertEqual(self.queue.count, 0)

    def test_takeAll(self) -> None:
        """
        The oldest goes first if all must go.
        """
        self.add("a1", "a2", "b1")
        late = self.make("c1")
        self.queue.park(late)
        self.add("d1")
        order = [each.connection for each in self.queue.takeAll()]
        self.assertEqual(order, ["a1", "a2", "b1", "c1", "d1"])
        self.assertEqual(self.queue.count, 0)

    def test_parkedHalfClosed(self) -> None:
        """
        A parked connection whose client has ended its side takes no place, and is given
        up like others.
        """
        late = self.make("a1")
        free = self.queue.free
        self.queue.park(late)
        self.assertEqual(self.queue.clientsHalfClosed({"a1"}, 1.0, False), [])
        self.assertEqual(self.queue.free, free)
        self.assertEqual(self.queue.clientsHalfClosed({"a1"}, 6.0, False), ["a1"])
        self.queue.remove(["a1"])
        self.assertEqual(self.queue.free, free)

    def test_releasedHalfClosed(self) -> None:
        """
        If it is released, it takes a place like others.
        """
        late = self.make("a1")
        free = self.queue.free
        self.queue.park(late)
        self.queue.clientsHalfClosed({"a1"}, 1.0, False)
        self.queue.release(late)
        self.assertEqual(self.queue.free, free - 1)
        self.pop(1)
        self.assertEqual(self.queue.free, free)

    def test_remove(self) -> None:
        """
        Clients leave, parked ones among them.
        """
        self.add("a1", "b1")
        late = self.make("c1")
        self.queue.park(late)
        found = self.queue.remove(["b1", "c1", "x"])
        self.assertEqual([each.connection for each in found], ["b1", "c1"])
        self.assertEqual(self.queue.count, 1)

    def test_withoutSource(self) -> None:
        """
        A connection of which nobody knows the source has the present turn.
        """
        self.add("a1", "a2", "a3")
        self.pop(1)
        entry = self.make("x")
        entry.source = None
        self.queue.add(entry)
        self.assertEqual(self.pop(3), ["x", "a2", "a3"])
