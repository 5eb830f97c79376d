"""
Tests for L{benchmarks.compare}, for what is computed of raw figures, and for clients
that stay.
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import compare, questions, staying
from benchmarks.compare import Series, judge
from benchmarks.ratios import collect, cost, isOurs, mostToFewest, spread
from benchmarks.staying import counts


def series(*values: float, more: bool = True) -> Series:
    """
    A figure that was measured in some rounds.
    """
    return Series("this", values, more)


class RatioTests(SynchronousTestCase):
    """
    Tests for L{benchmarks.ratios}.
    """

    def test_mostToFewest(self) -> None:
        """
        The worker with the most is compared with the one that has the fewest.
        """
        self.assertEqual(mostToFewest([120, 100, 80, 60]), 2.0)

    def test_none(self) -> None:
        """
        A worker that has none counts as if it had one.
        """
        self.assertEqual(mostToFewest([30, 10, 0, 0]), 30.0)

    def test_unmet(self) -> None:
        """
        A worker that no client has met has no connection, and counts.
        """
        self.assertEqual(counts({7: 3, 8: 5}), [5, 3, 0, 0])

    def test_cost(self) -> None:
        """
        The cost of a connection is that of the listener and of the worker.
        """
        self.assertEqual(cost([{"front": 12.0, "back": 30.0}]), [{"cost": 42.0}])

    def test_spread(self) -> None:
        """
        A single value has no range.
        """
        self.assertEqual(spread([1.0]), "1.00")
        self.assertEqual(spread([1.0, 3.0, 2.0]), "2.00 (1.00 to 3.00)")

    def test_ours(self) -> None:
        """
        uvicorn is ours where it serves a listener's connections.
        """
        ours = ["listen x4", "share x1", "uvicorn listen x1", "datagram"]
        others = ["direct", "C listen x1", "uvicorn x4", "Node shared x4"]
        self.assertTrue(all(map(isOurs, ours)))
        self.assertFalse(any(map(isOurs, others)))

    def test_collect(self) -> None:
        """
        All values of a key are found, wherever they are.
        """
        figures = {"64": {"direct": [{"taken": 0.2}, {"taken": 0.3}]}, "x": [1]}
        self.assertEqual(list(collect(figures, "taken")), [0.2, 0.3])


class JudgeTests(SynchronousTestCase):
    """
    Tests for L{compare.judge}.
    """

    def test_small(self) -> None:
        """
        A difference below 5 % means nothing, even if no run has any spread.
        """
        verdict = judge(series(1.0, 1.0, 1.0), series(0.96, 0.96, 0.96))
        self.assertEqual(verdict.word, "same")

    def test_worse(self) -> None:
        """
        Less is worse where more is better, and the other way round.
        """
        kept, now = (1.0, 1.0, 1.0), (0.9, 0.9, 0.9)
        self.assertEqual(judge(series(*kept), series(*now)).word, "worse")
        verdict = judge(series(*kept, more=False), series(*now, more=False))
        self.assertEqual(verdict.word, "better")

    def test_spread(self) -> None:
        """
        The more the rounds of either run differ, the more the medians may.
        """
        steady, unsteady = (1.0,) * 5, (0.6, 0.8, 0.9, 1.0, 1.2)
        lower = tuple(each - 0.2 for each in unsteady)
        self.assertEqual(judge(series(*steady), series(*unsteady)).word, "same")
        self.assertEqual(judge(series(*unsteady), series(*lower)).word, "same")
        self.assertEqual(judge(series(*steady), series(0.7, 0.7, 0.7)).word, "worse")

    def test_outlier(self) -> None:
        """
        One round that went wrong does not make a run unsteady.
        """
        verdict = judge(series(1.0, 1.0, 0.2, 1.0, 1.0), series(0.8, 0.8, 0.8))
        self.assertEqual(verdict.word, "worse")

    def test_one_round(self) -> None:
        """
        A run that is too short to have a spread is judged by the other's.
        """
        kept = series(0.9, 0.95, 1.0, 1.05, 1.1)
        self.assertAlmostEqual(judge(kept, series(0.9)).tolerance, 1.5 * 0.1)
        self.assertAlmostEqual(judge(series(1.0), series(0.9)).tolerance, 0.05)

    def test_none_lost(self) -> None:
        """
        Where nothing was lost, the first loss is worse.
        """
        kept, now = series(0.0, 0.0, more=False), series(1.0, 1.0, more=False)
        self.assertEqual(judge(kept, kept).word, "same")
        self.assertEqual(judge(kept, now).word, "worse")

    def test_text(self) -> None:
        """
        The line has the verdict, both runs and the tolerance.
        """
        verdict = judge(series(1.0, 1.0, 1.0), series(0.5, 0.5, 0.8))
        self.assertEqual(
            str(verdict),
            "worse: this: 0.50 (0.50 to 0.80), was 1.00 (1.00 to 1.00); tolerance 0.11",
        )


class ClientsTests(SynchronousTestCase):
    """
    Tests for L{staying.Clients}.
    """

    def setUp(self) -> None:
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.clients = staying.Clients(self.port.getsockname()[1], b"who?")
        self.addCleanup(self.clients.close)
        self.served: list[socket.socket] = []

    def serve(self, *answers: bytes) -> None:
        """
        Let as many clients arrive, and give each its answer.
        """

        def accept() -> None:
            for answer in answers:
                connection, _ = self.port.accept()
                self.addCleanup(connection.close)
                connection.recv(100)
                if answer:
                    connection.sendall(answer)
                else:
                    connection.close()
                self.served.append(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        self.clients.arrive(len(answers))
        thread.join()

    def test_alive(self) -> None:
        """
        The living connections of each process are counted.
        """
        self.serve(b"pid 7\n", b"HTTP/1.1 200 OK\r\n\r\npid 8\n", b"pid 7\n")
        self.assertEqual(self.clients.alive(), {7: 2, 8: 1})
        self.served[0].close()
        self.clients.stay(0.1)
        self.assertEqual(self.clients.alive(), {7: 1, 8: 1})
        self.assertEqual(self.clients.lost, 0)

    def test_lost(self) -> None:
        """
        A client whose connection ends without an answer is lost.
        """
        self.serve(b"pid 7\n", b"")
        self.assertEqual(self.clients.alive(), {7: 1})
        self.assertEqual(self.clients.lost, 1)


def hopFigures(rate: float) -> dict[str, Any]:
    """
    Figures of the hand-off, in which a worker serves so many connections a second.
    """
    direct = {"rate": 100.0, "front": 0.0, "back": 40.0}
    listen = {"rate": rate, "front": 20.0, "back": 40.0}
    found = {"direct": [direct] * 3, "listen x1": [listen] * 3}
    return {"minimal": {"64": {**found, "inherited x2": [direct] * 3}}}


class CompareTests(SynchronousTestCase):
    """
    Tests for L{compare.compare} and for what it compares.
    """

    def test_questions(self) -> None:
        """
        Each question can be checked.
        """
        self.assertEqual(set(compare.COMPARED), set(questions.ALL))

    def test_hop(self) -> None:
        """
        The rate got worse, the processor time did not, and others are not compared.
        """
        verdicts, alone = compare.compare("hop", hopFigures(80), hopFigures(60))
        self.assertEqual(
            [(each.word, each.now.what) for each in verdicts],
            [
                (
                    "worse",
                    "listen x1 to direct, connections per second, minimal, 64 at a"
                    " time",
                ),
                ("same", "listen x1 to direct, processor time, minimal, 64 at a time"),
            ],
        )
        self.assertEqual(alone, [])

    def test_alone(self) -> None:
        """
        What only one of the runs has is named, and not compared.
        """
        kept, now = hopFigures(80), hopFigures(80)
        del now["minimal"]["64"]["listen x1"]
        verdicts, alone = compare.compare("hop", kept, now)
        self.assertEqual(verdicts, [])
        self.assertEqual(len(alone), 2)

    def test_stay(self) -> None:
        """
        Connections that stay are compared when they have arrived and after one worker
        was replaced.
        """
        even, uneven = [100, 100, 100, 100], [130, 120, 125, 25]
        kept = {"listen x4": [{"first": even, "later": even}] * 3}
        now = {"listen x4": [{"first": even, "later": uneven}] * 3}
        verdicts, _ = compare.compare("stay", kept, now)
        self.assertEqual([each.word for each in verdicts], ["same", "worse"])

    def test_share(self) -> None:
        """
        Sharing is compared with as many processes on an inherited socket.
        """
        found = {
            f"{kind} x{count}": [{"rate": 10.0 * count, "p99": 5.0}]
            for kind in ("inherited", "share")
            for count in (1, 4)
        }
        verdicts, _ = compare.compare("share", {"8": found}, {"8": found})
        self.assertEqual(len(verdicts), 4)
        self.assertEqual({each.now.values[0] for each in verdicts}, {1.0})

    def test_kept(self) -> None:
        """
        Each question's kept figures can be compared with themselves, and are no worse.
        """
        folder = Path(__file__).parents[2] / "docs" / "benchmarks"
        for name in compare.COMPARED:
            figures = compare.read(folder, name)["figures"]
            verdicts, alone = compare.compare(name, figures, figures)
            self.assertTrue(verdicts, name)
            self.assertEqual({each.word for each in verdicts}, {"same"})
            self.assertEqual(alone, [])

    def test_machine(self) -> None:
        """
        Another machine, or another scale, is named, but not another date.
        """
        kept = {"processors": 2, "model": "one", "date": "2026-01-01", "scale": 1.0}
        now = {"processors": 4, "model": "one", "date": "2026-01-02", "scale": 0.1}
        self.assertEqual(
            compare.changes(kept, now), ["processors 4, was 2", "scale 0.1, was 1.0"]
        )


class ReadTests(SynchronousTestCase):
    """
    Tests for L{compare.read}.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def test_none(self) -> None:
        """
        If there are no kept figures, the error says how to measure them.
        """
        error = self.assertRaises(compare.NoFigures, compare.read, self.folder, "stay")
        self.assertIn("no figures of 'stay' are kept", str(error))
        self.assertIn("python -m benchmarks --only stay", str(error))

    def test_unreadable(self) -> None:
        """
        A file that has no figures is named.
        """
        file = self.folder / "hop.json"
        for text in ("", "{}", "[]", '{"figures": {"minimal": {"64": 1}}}'):
            file.write_text(text)
            error = self.assertRaises(
                compare.NoFigures, compare.read, self.folder, "hop"
            )
            self.assertIn(f"{file} has no figures of 'hop'", str(error))

    def test_read(self) -> None:
        """
        The figures come with the machine that they are from.
        """
        content = {"machine": {"processors": 2}, "figures": hopFigures(80)}
        (self.folder / "hop.json").write_text(json.dumps(content))
        self.assertEqual(compare.read(self.folder, "hop"), content)
