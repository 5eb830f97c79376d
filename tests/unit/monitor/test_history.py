"""
Tests for L{portlisten._monitor.history}.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import StatusAnswer
from portlisten._control.status import PortStatus, QueueStatus
from portlisten._monitor import history
from portlisten._monitor.history import History, Line
from tests.support.statuses import LISTENER, worker


def answer(
    accepted: int, uptime: float, claimed: int = 0, pid: int = 1, **others: object
) -> StatusAnswer:
    """
    Make an answer of a listener.
    """
    counters = {"accepted": accepted, "claimed": claimed, "lostInService": 0}
    listener = replace(LISTENER, pid=pid, uptime=uptime, counters=counters)
    return StatusAnswer(replace(listener, **others))  # type: ignore[arg-type]


def values(lines: Sequence[Line], name: str) -> list[float | None]:
    """
    The values of the line of a name.
    """
    [line] = [each for each in lines if each.name == name]
    return [value for _, value in line.points]


class HistoryTests(SynchronousTestCase):
    """
    Tests for L{History}.
    """

    def setUp(self) -> None:
        """
        Make a history.
        """
        self.history = History()

    def test_nothing(self) -> None:
        """
        Without a sample, nothing is known.
        """
        self.assertEqual(self.history.rates(), {})
        self.assertEqual(self.history.waiting(), [])
        self.assertEqual(self.history.serving(), [])
        self.assertEqual([each.last for each in self.history.connections()], [None] * 3)

    def test_rates(self) -> None:
        """
        A rate is that of the last five seconds.
        """
        for second in range(20):
            grown = 10 * second if second < 10 else 100 + 50 * (second - 10)
            self.history.add(1000 + second, answer(grown, 5 + second))
        self.assertEqual(self.history.rates()["accepted"], 50)
        accepted = values(self.history.connections(), "accepted")
        self.assertIsNone(accepted[0])
        self.assertEqual(accepted[1:10], [10] * 9)
        self.assertEqual(accepted[15:], [50] * 5)
        self.assertEqual(set(values(self.history.connections(), "not served")[1:]), {0})

    def test_anotherListener(self) -> None:
        """
        The counters of another listener are not compared, even if its process has the
        same number.
        """
        self.history.add(1000, answer(500, 900))
        self.history.add(1001, answer(510, 901))
        for second in range(3):
            self.history.add(1002 + second, answer(7 * second, 0.5 + second))
        accepted = values(self.history.connections(), "accepted")
        self.assertEqual(accepted, [None, 10, None, 7, 7])
        self.history.add(1005, answer(3, 3.5, pid=2))
        self.assertEqual(self.history.rates(), {})

    def test_gaps(self) -> None:
        """
        Where nobody answered, or nobody asked, a line has a gap.
        """
        self.history.add(1000, answer(0, 10))
        self.history.add(1001, None)
        self.history.add(1002, StatusAnswer(None))
        self.history.add(1003, answer(0, 13))
        self.history.add(1033, answer(600, 43))
        self.history.add(1034, answer(620, 44))
        [line] = [each for each in self.history.waiting() if each.name == "http"]
        expected = [(34, 0), (33, None), (32, None), (31, 0), (31, None), (1, 0)]
        self.assertEqual(list(line.points), [*expected, (0, 0)])
        accepted = values(self.history.connections(), "accepted")
        self.assertEqual(accepted[-2:], [None, 20])

    def test_waiting(self) -> None:
        """
        What waits in the listener and in the kernel is added up, by name.
        """
        ports = (
            PortStatus("http", "tcp:80", False, waiting=3),
            PortStatus("http", "tcp6:80", False, waiting=4),
            PortStatus("", "tcp:81", True, waiting=5),
            PortStatus("dns", "udp:53", True),
        )
        queues = (QueueStatus("http", 20, 0, 1.0, 1024, 1),)
        self.history.add(1, answer(0, 1, ports=ports, queues=queues))
        found = {each.name: each.last for each in self.history.waiting()}
        self.assertEqual(found, {"http": 27, "(no name)": 5})

    def test_serving(self) -> None:
        """
        Workers with the same label are added up.  One that has left has no value.
        """
        two = worker(1, "web-1", serving=3), worker(2, "web-1")
        self.history.add(1, answer(0, 1, workers=(*two, worker(3, ""))))
        self.history.add(2, answer(0, 2, workers=(worker(3, ""),)))
        found = {
            each.name: [v for _, v in each.points] for each in self.history.serving()
        }
        self.assertEqual(found, {"web-1": [29, None], "(no label)": [13, 13]})

    def test_bounded(self) -> None:
        """
        It keeps five minutes, and a limited number of names, in little memory.
        """
        many = tuple(worker(each, f"web-{each}" * 10) for each in range(500))
        tracemalloc.start()
        try:
            for second in range(2000):
                self.history.add(second / 2, answer(second, second / 2, workers=many))
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(size, 5 * 2**20)
        [line] = [each for each in self.history.waiting() if each.name == "http"]
        self.assertLessEqual(len(line.points), history.MAXIMUM_SAMPLES)
        self.assertLessEqual(line.points[0][0], history.KEPT_SECONDS)
        serving = self.history.serving()
        self.assertEqual(len(serving), history.MAXIMUM_NAMES)
        [others] = [each for each in serving if each.name == history.OTHERS]
        self.assertEqual(others.last, 13 * (500 - history.MAXIMUM_NAMES + 1))

    @given(
        st.lists(
            st.tuples(
                st.floats(0.01, 400),
                st.none() | st.tuples(st.integers(0, 3), st.integers(0, 10**9)),
            ),
            max_size=40,
        )
    )
    def test_anything(
        self, samples: list[tuple[float, tuple[int, int] | None]]
    ) -> None:
        """
        Whatever comes, no line has a value below zero or two points at one time, and
        the oldest point comes first.
        """
        made = History()
        at = 0.0
        for pause, found in samples:
            at += pause
            made.add(at, found and answer(found[1], at, pid=found[0]))
        for line in (*made.connections(), *made.waiting(), *made.serving()):
            times = [ago for ago, value in line.points if value is not None]
            self.assertEqual(times, sorted(set(times), reverse=True))
            self.assertTrue(all(0 <= each <= history.KEPT_SECONDS for each in times))
            self.assertTrue(all((value or 0) >= 0 for _, value in line.points))
