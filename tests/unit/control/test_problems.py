"""
Tests for L{portlisten._control.problems}.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import StatusAnswer, encodeAnswer, parseAnswer
from portlisten._control.problems import problems
from portlisten._control.status import (
    GroupStatus,
    ListenerStatus,
    PortStatus,
    ProcessState,
    ProcessStatus,
    QueueStatus,
    State,
    SupervisorStatus,
    WorkerStatus,
)
from portlisten._policy.counters import ENDS, Counters
from portlisten._policy.inventory import Whereabouts

DOCS = Path(__file__).parents[3] / "docs"

PORT = PortStatus("https", "tcp:0.0.0.0:443", False, 1, 0)
SHARED = PortStatus("dns", "tcp:0.0.0.0:53", True, 2, 0)
QUEUE = QueueStatus("https", 0, 0, 0.0, 1024, 2)
WORKER = WorkerStatus(
    name="worker 3 (web-1, pid 5689, uid 998)",
    label="web-1",
    pid=5689,
    uid=998,
    connections=3,
    serving=None,
    state=State.SERVING,
    number=3,
    joined=1.5,
    ports=("https",),
    window=26,
    limit=None,
    offered=1,
    claimed=2,
)
LISTENER = ListenerStatus(
    version="1.2.3",
    pid=1,
    uid=998,
    uptime=7.5,
    path="/run/web.sock",
    stopping=False,
    ports=(PORT, SHARED),
    queues=(QUEUE,),
    workers=(WORKER,),
    counters={"accepted": 3},
    held={"waiting": 0, "offered": 1, "claimed": 2, "departed": 0},
)
PROCESS = ProcessStatus("web-1", 5689, ProcessState.READY, 60.0, 60.0, 0, 0, 0.0, "")
ENDED = replace(PROCESS, pid=0, failures=8, restartsIn=12.4, lastEnd="exit code 1")
GROUP = GroupStatus("web", 998, 1, 1, (PROCESS,))
SUPERVISOR = SupervisorStatus("/etc/web.toml", 1, 60.0, PROCESS, (GROUP,), "")


class ProblemsTestCase(SynchronousTestCase):
    """
    A listener and a supervisor with changes.
    """

    def found(
        self,
        queue: QueueStatus = QUEUE,
        port: PortStatus = PORT,
        shared: PortStatus = SHARED,
        worker: WorkerStatus = WORKER,
    ) -> list[str]:
        """
        Find the problems of a listener.
        """
        listener = replace(
            LISTENER, ports=(port, shared), queues=(queue,), workers=(worker,)
        )
        return list(problems(StatusAnswer(listener)))

    def supervised(
        self,
        process: ProcessStatus = PROCESS,
        group: GroupStatus = GROUP,
        listener: ListenerStatus | None = LISTENER,
    ) -> list[str]:
        """
        Find the problems of a supervisor.
        """
        supervisor = replace(SUPERVISOR, listener=process, groups=(group,))
        return list(problems(StatusAnswer(listener, supervisor)))


class ListenerTests(ProblemsTestCase):
    """
    Problems of a listener.
    """

    def test_none(self) -> None:
        """
        A listener that serves has none.  Connections may wait for a moment, for their
        clients, and a worker may have offers.
        """
        self.assertEqual(self.found(), [])
        waits = replace(QUEUE, waiting=5, silent=2, oldest=0.9)
        worker = replace(WORKER, unanswered=1.9, draining=59.0, state=State.DRAINING)
        self.assertEqual(self.found(waits, worker=worker), [])

    def test_unserved(self) -> None:
        """
        Nobody serves a name: the sentence says how many wait, where, and for how long.
        """
        for waiting, oldest, backlog, expected in (
            (0, 0.0, 0, "its next connections will wait"),
            (12, 8.1, 0, "12 connections wait, the oldest for 8 s"),
            (1, 0.25, 0, "1 connection waits, the oldest for 0.2 s"),
            (
                1024,
                8.1,
                30,
                "1024 connections wait, the oldest for 8 s; its queue is full, and 30"
                " more wait in the kernel",
            ),
            (0, 0.0, 1, "1 connection waits in the kernel"),
        ):
            queue = replace(QUEUE, workers=0, waiting=waiting, oldest=oldest)
            found = self.found(queue, replace(PORT, waiting=backlog))
            self.assertEqual(found, [f"nobody serves https: {expected}"])

    def test_withoutName(self) -> None:
        """
        Ports without a name are named by their addresses.
        """
        queue = replace(QUEUE, name="", workers=0)
        found = self.found(queue, replace(PORT, name=""))
        self.assertTrue(found[0].startswith("nobody serves tcp:0.0.0.0:443: "))

    def test_full(self) -> None:
        """
        A queue is full.
        """
        for silent, backlog, expected in (
            (0, 0, ""),
            (0, 3, ", and 3 more wait in the kernel"),
            (
                9,
                1,
                ", 9 of them for their clients to send something, and 1 more waits in"
                " the kernel",
            ),
        ):
            queue = replace(QUEUE, waiting=1024, oldest=30.0, silent=silent)
            self.assertEqual(
                self.found(queue, replace(PORT, waiting=backlog)),
                [f"the queue of https is full: 1024 connections wait{expected}"],
            )
        self.assertEqual(self.found(replace(QUEUE, limit=0)), [])

    def test_waits(self) -> None:
        """
        Connections wait, though workers serve the name.
        """
        queue = replace(QUEUE, waiting=2, oldest=3.0)
        expected = "2 connections wait, the oldest for 3 s, for https: its"
        self.assertEqual(
            self.found(queue), [f"{expected} 2 workers take no more for now"]
        )
        found = self.found(replace(queue, workers=1), replace(PORT, waiting=5))
        self.assertEqual(
            found,
            [
                f"{expected} 1 worker takes no more for now, and 5 more wait in the"
                " kernel"
            ],
        )

    def test_shared(self) -> None:
        """
        A shared port has no worker, or its workers do not accept.
        """
        for changes, expected in (
            ({"workers": 0}, "nobody serves dns=tcp:0.0.0.0:53"),
            ({"workers": 0, "waiting": None}, "nobody serves dns=tcp:0.0.0.0:53"),
            (
                {"workers": 0, "waiting": 3},
                "nobody serves dns=tcp:0.0.0.0:53: 3 connections wait in the kernel",
            ),
            (
                {"waiting": 3, "unserved": True},
                "3 connections wait on dns=tcp:0.0.0.0:53, and nobody accepts there,"
                " though 2 workers use its socket",
            ),
            (
                {"name": "", "waiting": 1, "workers": 1, "unserved": True},
                "1 connection waits on tcp:0.0.0.0:53, and nobody accepts there, though"
                " 1 worker uses its socket",
            ),
        ):
            found = self.found(shared=replace(SHARED, **changes))
            self.assertEqual(found, [expected])
        self.assertEqual(self.found(shared=replace(SHARED, waiting=3)), [])

    def test_hangs(self) -> None:
        """
        A worker does not claim an offer.
        """
        self.assertEqual(
            self.found(worker=replace(WORKER, unanswered=3.2)),
            [
                "worker 3 (web-1, pid 5689, uid 998) hangs: an offer is unclaimed for"
                " 3 s"
            ],
        )

    def test_mustWait(self) -> None:
        """
        A worker must wait, since others died.
        """
        worker = replace(WORKER, waits=True)
        self.assertEqual(
            self.found(worker=worker),
            [
                "worker 3 (web-1, pid 5689, uid 998) must wait for its first offer: the"
                " workers before it died at once"
            ],
        )
        self.assertEqual(self.found(worker=replace(worker, state=State.DRAINED)), [])

    def test_drains(self) -> None:
        """
        A worker drains for long.
        """
        name = "worker 3 (web-1, pid 5689, uid 998) drains for 2 min,"
        for state, serving, expected in (
            (State.DRAINING, 0, [f"{name} 3 connections left"]),
            (State.DRAINING, 4, [f"{name} 7 connections left"]),
            (
                State.UNKNOWN,
                None,
                [f"{name} and cannot say how many connections are left"],
            ),
            (State.DRAINED, 0, []),
        ):
            worker = replace(WORKER, state=state, serving=serving, draining=120.0)
            self.assertEqual(self.found(worker=worker), expected)

    def test_order(self) -> None:
        """
        The worst comes first.
        """
        found = self.found(
            replace(QUEUE, waiting=1024, oldest=1.0),
            shared=replace(SHARED, workers=0, waiting=1),
            worker=replace(WORKER, unanswered=9.0, draining=99.0, state=State.DRAINING),
        )
        words = [each.split(":")[0] for each in found]
        self.assertEqual(words[0], "nobody serves dns=tcp")
        self.assertEqual(words[1], "the queue of https is full")
        self.assertIn("hangs", words[2])
        self.assertIn("drains", words[3])

    def test_old(self) -> None:
        """
        The answer's own problems do not count.
        """
        self.assertEqual(problems(StatusAnswer(LISTENER, problems=("x",))), ())

    def test_document(self) -> None:
        """
        The answer in the document can be read, adds up, and has its problem.
        """
        text = (DOCS / "control.md").read_text("utf-8")
        (example,) = re.findall("```json\n(.*?)```", text, re.DOTALL)
        answer = parseAnswer(example.encode(), StatusAnswer)
        listener = answer.listener
        assert listener is not None
        ends = [listener.counters[name] for name in ENDS]
        total = sum(ends) + sum(listener.held.values())
        self.assertEqual(listener.counters["accepted"], total)
        self.assertEqual(listener.counters.keys(), asdict(Counters()).keys())
        self.assertEqual(listener.held.keys(), asdict(Whereabouts(0, 0, 0, 0)).keys())
        self.assertEqual(problems(answer), answer.problems)
        written = json.loads(encodeAnswer(answer))
        self.assertEqual(written, json.loads(example))

    def test_documentedSum(self) -> None:
        """
        The document lists all numbers of the sum.
        """
        text = (DOCS / "control.md").read_text("utf-8")
        part = text.partition("### The sum")[2].partition("The names from")[0]
        listed = re.findall(r"^\| `([\w.]+)`", part, re.MULTILINE)
        held = [f"held.{name}" for name in asdict(Whereabouts(0, 0, 0, 0))]
        self.assertEqual(listed, [*held, *ENDS])

    def test_written(self) -> None:
        """
        The answer can be written and read again.
        """
        answer = StatusAnswer(LISTENER, SUPERVISOR, ("nobody serves https",))
        self.assertEqual(parseAnswer(encodeAnswer(answer), StatusAnswer), answer)


class SupervisorTests(ProblemsTestCase):
    """
    Problems of a supervisor.
    """

    def test_none(self) -> None:
        """
        A supervisor whose listener and workers are ready has none.
        """
        self.assertEqual(self.supervised(), [])

    def test_listener(self) -> None:
        """
        The listener does not answer, restarts, or was given up.
        """
        for changes, expected in (
            ({}, "(pid 5689) does not answer"),
            (
                {"state": ProcessState.STOPPING, "pid": 0},
                "has stopped, since the supervisor stops",
            ),
            (
                {"state": ProcessState.STARTING},
                "starts: new connections wait in the kernel",
            ),
            (
                {"state": ProcessState.STARTING, "lastEnd": "SIGKILL"},
                "restarts (SIGKILL): new connections wait in the kernel",
            ),
            (
                {
                    "state": ProcessState.WAITING,
                    "restartsIn": 2.0,
                    "lastEnd": "SIGKILL",
                },
                "has ended (SIGKILL), and starts again in 2 s",
            ),
            (
                {"state": ProcessState.WAITING},
                "has ended, and starts again at once",
            ),
            (
                {
                    "state": ProcessState.GIVEN_UP,
                    "failures": 8,
                    "lastEnd": "exit code 1",
                },
                "was given up after 8 failures: exit code 1",
            ),
        ):
            found = self.supervised(replace(PROCESS, **changes), listener=None)
            self.assertEqual(found, [f"the listener {expected}"])
        self.assertEqual(
            problems(StatusAnswer(None)), ("the listener does not answer",)
        )

    def test_group(self) -> None:
        """
        Workers were given up, fail, or do not get ready.
        """
        for state, changes, expected in (
            (
                ProcessState.GIVEN_UP,
                {},
                "worker web-1 was given up after 8 failures: exit code 1; 'portlisten"
                " restart' starts it again",
            ),
            (
                ProcessState.GIVEN_UP,
                {"failures": 1, "lastEnd": ""},
                "worker web-1 was given up after 1 failure; 'portlisten restart' starts"
                " it again",
            ),
            (
                ProcessState.WAITING,
                {},
                "worker web-1 has failed 8 times in a row (exit code 1), and starts"
                " again in 12 s",
            ),
            (
                ProcessState.STARTING,
                {"seconds": 31.0},
                "worker web-1 was started 31 s ago, and is not ready",
            ),
        ):
            process = replace(ENDED, state=state, **changes)
            found = self.supervised(group=replace(GROUP, processes=(process,)))
            self.assertEqual(found, [expected])
        for state in (ProcessState.WAITING, ProcessState.STARTING):
            process = replace(PROCESS, state=state, seconds=2.0)
            found = self.supervised(group=replace(GROUP, processes=(process,)))
            self.assertEqual(found, [])

    def test_few(self) -> None:
        """
        Fewer workers are ready than are wanted.
        """
        for ready, count, expected in (
            (0, 1, "0 of 1 worker of web are ready"),
            (1, 4, "1 of 4 workers of web is ready"),
        ):
            group = replace(GROUP, ready=ready, count=count)
            self.assertEqual(self.supervised(group=group), [expected])

    def test_absent(self) -> None:
        """
        A ready worker has left the listener, and another user's worker has its label.
        A listener that has just begun is given time.
        """
        expected = (
            "worker web-1 runs, and has left the listener: 'portlisten restart'"
            " replaces it"
        )
        for workers, uptime, found in (
            ((), 10.0, [expected]),
            ((replace(WORKER, uid=997),), 10.0, [expected]),
            ((WORKER,), 10.0, []),
            ((), 9.9, []),
        ):
            listener = replace(LISTENER, workers=workers, uptime=uptime)
            self.assertEqual(self.supervised(listener=listener), found)

    def test_both(self) -> None:
        """
        The problems of the listener are told as well, among the others.
        """
        listener = replace(
            LISTENER, queues=(replace(QUEUE, workers=0, waiting=1, oldest=2.0),)
        )
        found = self.supervised(group=replace(GROUP, ready=0), listener=listener)
        self.assertEqual(len(found), 2)
        self.assertIn("nobody serves https", found[0])
