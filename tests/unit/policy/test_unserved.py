"""
Tests for L{portlisten._policy.unserved}.
"""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.unserved import (
    BUSY_SECONDS,
    PATIENCE_SECONDS,
    START_SECONDS,
    Queue,
    Verdict,
)

#: Seconds between two looks.
STEP = 0.5


class Port:
    """
    A port with a queue, and a listener that looks at it.
    """

    def __init__(self) -> None:
        self.queue = Queue()
        self.clients: deque[int] = deque()
        self.number = 0
        self.now = 0.0
        self.looksInside = 0
        self.queue.workerAdded(0.0)

    def come(self, count: int) -> None:
        """
        Have clients come.
        """
        for _ in range(count):
            self.number += 1
            self.clients.append(self.number)

    def accept(self, count: int) -> None:
        """
        Accept clients, the first first.
        """
        for _ in range(min(count, len(self.clients))):
            self.clients.popleft()

    def look(self) -> Verdict:
        """
        Look, after a while.
        """
        self.now += STEP
        verdict = self.queue.look(self.now, len(self.clients))
        if verdict is Verdict.IDENTIFY:
            self.looksInside += 1
            verdict = self.queue.identified(self.now, frozenset(self.clients))
        return verdict

    def looks(self, seconds: float) -> list[Verdict]:
        """
        Look until some time has passed.

        @return: what was to be done.
        """
        verdicts = [self.look() for _ in range(round(seconds / STEP))]
        return [each for each in verdicts if each is not Verdict.NOTHING]


class QueueTests(SynchronousTestCase):
    """
    Tests for L{Queue}.
    """

    def setUp(self) -> None:
        self.port = Port()

    def test_unserved(self) -> None:
        """
        If clients wait and nobody accepts, that is logged once, and how many wait; and
        it is logged when somebody does.
        """
        self.assertEqual(self.port.looks(60), [])
        self.port.come(2)
        self.assertEqual(self.port.looks(BUSY_SECONDS + PATIENCE_SECONDS - STEP), [])
        self.port.come(1)
        self.assertEqual(self.port.looks(1), [Verdict.UNSERVED])
        self.assertEqual((self.port.queue.length, self.port.queue.waited), (3, 2))
        self.assertEqual(self.port.looks(60), [])
        self.port.accept(1)
        self.assertEqual(self.port.looks(1), [Verdict.SERVED])
        self.assertEqual(self.port.looks(PATIENCE_SECONDS), [])

    def test_again(self) -> None:
        """
        If nobody accepts later, it is logged again.
        """
        for _ in range(2):
            self.port.come(3)
            self.assertEqual(self.port.looks(20), [Verdict.UNSERVED])
            self.port.accept(3)
            self.assertEqual(self.port.looks(20), [Verdict.SERVED])

    def test_start(self) -> None:
        """
        A worker may take a while to start, whoever waited before.
        """
        self.port.looks(60)
        self.port.come(1)
        self.port.looks(BUSY_SECONDS + PATIENCE_SECONDS - 2 * STEP)
        self.port.queue.workerAdded(self.port.now)
        self.assertEqual(self.port.looks(START_SECONDS + PATIENCE_SECONDS - STEP), [])
        self.assertEqual(self.port.looks(2 * STEP), [Verdict.UNSERVED])

    def test_emptied(self) -> None:
        """
        A server is not accused whose queue is empty now and then, and only its length
        is looked at.
        """
        for _ in range(100):
            self.port.come(50)
            self.assertEqual(self.port.looks(BUSY_SECONDS - STEP), [])
            self.port.accept(50)
            self.assertEqual(self.port.looks(STEP), [])
        self.assertEqual(self.port.looksInside, 0)

    def test_full(self) -> None:
        """
        A server is not accused whose queue is full whenever it is looked at, if it
        accepts; and the clients are looked at only now and then.
        """
        self.port.come(4)
        for _ in range(1000):
            self.assertIs(self.port.look(), Verdict.NOTHING)
            self.port.accept(2)
            self.port.come(2)
        self.assertLessEqual(self.port.looksInside, 1000 * STEP / PATIENCE_SECONDS)
        self.assertGreater(self.port.looksInside, 90)

    def test_slow(self) -> None:
        """
        A server that accepts, but too slowly, is called slow, once, and only when a
        client has waited for too long.  That is over when nobody waits.
        """
        self.port.looks(60)
        came: dict[int, float] = {}
        heard: list[Verdict] = []
        for _ in range(100):
            self.port.come(3)
            for each in self.port.clients:
                came.setdefault(each, self.port.now)
            self.port.accept(2)
            verdict = self.port.look()
            if verdict is not Verdict.NOTHING:
                heard.append(verdict)
                waited = self.port.now - came[self.port.clients[0]]
                self.assertGreaterEqual(waited, PATIENCE_SECONDS)
        self.assertEqual(heard, [Verdict.SLOW])
        self.assertEqual(self.port.looks(60), [Verdict.UNSERVED])
        self.port.accept(1)
        self.assertEqual(self.port.looks(STEP), [Verdict.SERVED])
        self.port.accept(1000)
        self.assertEqual(self.port.looks(60), [])

    def test_slowEnds(self) -> None:
        """
        Of a slow server it is said when nobody waits any more, and not before.
        """
        self.port.come(100)
        heard = []
        for _ in range(50):
            heard.append(self.port.look())
            self.port.accept(1)
            self.port.come(1)
        self.assertEqual(heard.count(Verdict.SLOW), 1)
        self.assertEqual({*heard}, {Verdict.SLOW, Verdict.NOTHING})
        for _ in range(50):
            self.port.accept(1)
            self.assertIs(self.port.look(), Verdict.NOTHING)
        self.port.accept(50)
        self.assertEqual(self.port.looks(60), [Verdict.SERVED])
        self.port.come(1)
        self.assertEqual(self.port.looks(60), [Verdict.UNSERVED])

    def test_abandoned(self) -> None:
        """
        Without a worker, clients wait for one, and none is accused; the next is.
        """
        self.port.come(1)
        self.assertEqual(self.port.looks(20), [Verdict.UNSERVED])
        for _ in range(2):
            self.port.queue.abandoned()
            self.port.now += 60
            self.port.queue.workerAdded(self.port.now)
            self.assertEqual(self.port.looks(START_SECONDS), [])
            self.assertEqual(self.port.looks(20), [Verdict.UNSERVED])

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()),
            min_size=20,
            max_size=200,
        )
    )
    def test_truth(self, steps: list[tuple[int, int, bool]]) -> None:
        """
        Whatever clients and server do, the server is accused only if nobody was
        accepted for L{PATIENCE_SECONDS}, and called slow only if a client has waited
        for as long.  A server that never accepts is accused.
        """
        port = Port()
        came: dict[int, float] = {}
        never = not any(accepts and count for _, count, accepts in steps)
        accepted = 0.0
        accused = False
        for clients, count, accepts in steps:
            port.come(clients)
            for each in port.clients:
                came.setdefault(each, port.now)
            if accepts and count and port.clients:
                port.accept(count)
                accepted = port.now
            verdict = port.look()
            if verdict is Verdict.UNSERVED:
                accused = True
                self.assertGreaterEqual(port.now - accepted, PATIENCE_SECONDS)
            if verdict in (Verdict.UNSERVED, Verdict.SLOW):
                waited = port.now - came[port.clients[0]]
                self.assertGreaterEqual(waited, PATIENCE_SECONDS)
        first = min(came.values(), default=port.now)
        begun = max(first + BUSY_SECONDS, START_SECONDS)
        if never and port.now >= begun + PATIENCE_SECONDS + 2 * STEP:
            self.assertTrue(accused)
