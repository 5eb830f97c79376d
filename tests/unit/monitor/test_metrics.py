"""
Tests for L{portlisten._monitor.metrics}, L{portlisten._monitor.measurements} and
L{portlisten._monitor.metric_names}.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parseOpenMetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parseText
from twisted.trial.unittest import SynchronousTestCase

import twisted
from portlisten._control.messages import StatusAnswer, encodeAnswer, parseAnswer
from portlisten._control.status import (
    ClaimTimes,
    DenialStatus,
    DeniedStatus,
    QueueStatus,
    SourceStatus,
)
from portlisten._model import printable
from portlisten._monitor.metric_names import COUNTERS, METRICS, Type
from portlisten._monitor.metrics import render
from portlisten._policy.claim_times import BOUNDS
from portlisten._policy.tallies import COUNTED
from tests.support.settings import SETTINGS
from tests.support.statuses import (
    ALONE,
    BAD,
    LISTENER,
    NOBODY,
    WELL,
    worker,
)

OPEN_METRICS = "application/openmetrics-text"

#: The headers of Prometheus 2.42 and of Prometheus 3.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)

#: A listener with all that is counted.
QUEUE = QueueStatus(
    "http",
    waiting=5,
    silent=2,
    oldest=1.5,
    limit=64,
    workers=2,
    counters={name: 100 + number for number, name in enumerate(COUNTED)},
    claimTimes=ClaimTimes((3, *(0 for _ in BOUNDS[1:]), 2), 130.25),
    limited={"denied": 3, "rate": 0},
)
LISTENING = replace(
    LISTENER,
    ports=LISTENER.ports[:2],
    queues=(QUEUE,),
    workers=(),
    counters={"revoked": 4},
    held={"waiting": 5, "offered": 6, "claimed": 7, "departed": 8},
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(answer: StatusAnswer | None) -> Samples:
    """
    Render metrics in both formats, check that they say the same, and return it.
    """
    kind, body = render(answer, OPEN_METRICS)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in parseOpenMetrics(body.decode())
        for sample in family.samples
    ]
    kind, body = render(answer, "")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    text = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in parseText(body.decode())
        for sample in family.samples
    ]
    assert sorted(found) == sorted(text)
    assert max(Counter(key for key, _ in found).values()) == 1
    return dict(found)


class RenderTests(SynchronousTestCase):
    """
    Tests for L{render}.
    """

    def values(self, answer: StatusAnswer | None, name: str) -> dict[str, float]:
        """
        Find the values of a metric, by those of its labels.
        """
        return {
            ",".join(value for _, value in labels): value
            for (each, labels), value in samples(answer).items()
            if each == f"portlisten_{name}"
        }

    def value(self, answer: StatusAnswer | None, name: str) -> float:
        """
        Find the only value of a metric.
        """
        (value,) = self.values(answer, name).values()
        return value

    def test_nobody(self) -> None:
        """
        If nobody answers, that is all.
        """
        self.assertEqual(samples(None), {("portlisten_up", ()): 0})

    def test_noListener(self) -> None:
        """
        If the supervisor answers and the listener does not, only what the supervisor
        knows is told.
        """
        answer = replace(WELL, listener=None, problems=("it is dead",))
        found = {name.removesuffix("_total") for name, _ in samples(answer)}
        supervised = {each.family for each in METRICS if each.supervised}
        self.assertEqual(found - supervised, {"portlisten_up", "portlisten_problems"})
        self.assertEqual(supervised - found, set())
        self.assertEqual(self.value(answer, "up"), 0)
        self.assertEqual(self.value(answer, "problems"), 1)

    def test_all(self) -> None:
        """
        A supervisor with a listener has all metrics.  A listener alone has all but
        those of a supervisor.
        """
        complete = {each.name for each in METRICS if each.type is not Type.HISTOGRAM}
        complete |= {
            f"portlisten_claim_seconds_{each}" for each in ("bucket", "count", "sum")
        }
        answer = replace(WELL, listener=replace(LISTENING, workers=LISTENER.workers))
        self.assertEqual({name for name, _ in samples(answer)}, complete)
        alone = replace(answer, supervisor=None)
        self.assertEqual(
            {name for name, _ in samples(alone)},
            complete - {each.name for each in METRICS if each.supervised},
        )

    def test_golden(self) -> None:
        """
        A small listener, word for word.
        """
        answer = StatusAnswer(replace(LISTENING, ports=(), queues=(QUEUE,)))
        _, body = render(answer, "")
        lines = body.decode().splitlines()
        self.assertEqual(
            [each for each in lines if each.startswith("# TYPE portlisten_up")],
            ["# TYPE portlisten_up gauge"],
        )
        values = [each for each in lines if not each.startswith("#")]
        http = '{port="http"}'
        versions = (
            f'python="{platform.python_version()}",twisted="{twisted.__version__}"'
        )
        edges = [*map(str, BOUNDS[:-1]), "60.0"]
        self.assertEqual(edges[:2], ["0.0001", "0.00025"])
        self.assertEqual(
            values,
            [
                "portlisten_up 1.0",
                f'portlisten_build_info{{{versions},version="26.11.0"}} 1.0',
                "portlisten_listener_uptime_seconds 11530.0",
                "portlisten_paused 0.0",
                "portlisten_stopping 0.0",
                "portlisten_problems 0.0",
                f"portlisten_connections_waiting{http} 5.0",
                f"portlisten_connections_waiting_silent{http} 2.0",
                f"portlisten_connections_waiting_seconds{http} 1.5",
                f"portlisten_connections_waiting_limit{http} 64.0",
                "portlisten_connections_in_flight 6.0",
                "portlisten_connections_in_service 7.0",
                "portlisten_connections_departed 8.0",
                *(
                    f'portlisten_claim_seconds_bucket{{le="{edge}",port="http"}} 3.0'
                    for edge in edges
                ),
                'portlisten_claim_seconds_bucket{le="+Inf",port="http"} 5.0',
                f"portlisten_claim_seconds_count{http} 5.0",
                f"portlisten_claim_seconds_sum{http} 130.25",
                f"portlisten_connections_accepted_total{http} 100.0",
                f"portlisten_connections_offered_total{http} 101.0",
                f"portlisten_connections_claimed_total{http} 102.0",
                f"portlisten_connections_refused_total{http} 103.0",
                f"portlisten_connections_redispatched_total{http} 104.0",
                f"portlisten_connections_finished_total{http} 105.0",
                f"portlisten_connections_lost_total{http} 106.0",
                f"portlisten_connections_timed_out_total{http} 108.0",
                f"portlisten_connections_silent_too_long_total{http} 109.0",
                f"portlisten_connections_gone_total{http} 110.0",
                f"portlisten_connections_unusable_total{http} 107.0",
                f"portlisten_connections_given_total{http} 111.0",
                f"portlisten_connections_left_with_worker_total{http} 112.0",
                f"portlisten_connections_handed_over_total{http} 113.0",
                f"portlisten_connections_stopped_total{http} 114.0",
                'portlisten_connections_limited_total{port="http",reason="denied"} 3.0',
                'portlisten_connections_limited_total{port="http",reason="rate"} 0.0',
                "portlisten_denied_networks 0.0",
                "portlisten_workers_revoked_total 4.0",
            ],
        )

    def test_bounds(self) -> None:
        """
        The numbers of a histogram go up with the bounds.
        """
        counts = tuple(range(1, len(BOUNDS) + 2))
        queue = replace(QUEUE, claimTimes=ClaimTimes(counts, 1.0))
        answer = StatusAnswer(replace(LISTENING, queues=(queue,)))
        found = self.values(answer, "claim_seconds_bucket")
        self.assertEqual(found["0.0001,http"], 1)
        self.assertEqual(found["0.0005,http"], 1 + 2 + 3)
        self.assertEqual(found["60.0,http"], sum(counts[:-1]))
        self.assertEqual(found["+Inf,http"], sum(counts))

    def test_ports(self) -> None:
        """
        Ports count by their names; those without a name have one of their own.  The
        weakest port of a name counts.
        """
        http, other, _, dns = LISTENER.ports
        ports = (
            replace(http, workers=2, waiting=3),
            replace(other, workers=1, waiting=4),
            replace(http, name="", workers=1, waiting=None),
            replace(dns, workers=1, unserved=True),
        )
        answer = StatusAnswer(
            replace(LISTENER, ports=ports, queues=(replace(QUEUE, name=""),))
        )
        self.assertEqual(
            self.values(answer, "port_workers"), {"http": 1, "-": 1, "dns": 1}
        )
        self.assertEqual(
            self.values(answer, "connections_backlog"), {"http": 7, "-": 0, "dns": 0}
        )
        self.assertEqual(
            self.values(answer, "port_healthy"), {"http": 1, "-": 1, "dns": 0}
        )
        self.assertEqual(self.values(answer, "connections_waiting"), {"-": 5})

    def test_paused(self) -> None:
        """
        A listener that is paused accepts, and is not healthy.
        """
        answer = StatusAnswer(replace(LISTENER, paused=True))
        self.assertEqual(self.value(answer, "paused"), 1)
        self.assertEqual(set(self.values(answer, "port_healthy").values()), {0})
        self.assertEqual(self.value(answer, "up"), 1)

    def test_limits(self) -> None:
        """
        What the limits keep out is counted by the port and the reason.  No label has an
        address.
        """
        denied = DeniedStatus(7, (DenialStatus("192.0.2.7"),))
        sources = (SourceStatus("192.0.2.8", 1, 2, 3),)
        unnamed = replace(QUEUE, name="", limited={"max-per-source": 4})
        answer = StatusAnswer(
            replace(LISTENING, queues=(QUEUE, unnamed), denied=denied, sources=sources)
        )
        self.assertEqual(
            self.values(answer, "connections_limited_total"),
            {
                "http,denied": 3,
                "http,rate": 0,
                "-,denied": 0,
                "-,max-per-source": 4,
            },
        )
        self.assertEqual(self.value(answer, "denied_networks"), 7)
        self.assertNotIn("192.0.2", repr(samples(answer)))
        self.assertEqual(self.value(ALONE, "denied_networks"), 0)

    def test_labels(self) -> None:
        """
        Without a supervisor, the label of a worker says its group and slot.  Workers
        without a label are summed up, and so are those of one label.
        """
        workers = (
            worker(1, "web-1", claimed=1),
            worker(2, "web-1", claimed=2, serving=10),
            worker(3, "blue-web-12", claimed=4),
            worker(4, "api", claimed=8),
            worker(5, claimed=16),
            worker(6, claimed=32),
        )
        answer = StatusAnswer(replace(LISTENER, workers=workers))
        self.assertEqual(
            self.values(answer, "worker_serving"),
            {"web,1": 13, "blue-web,12": 4, "api,": 8, ",": 48},
        )
        self.assertEqual(
            self.values(answer, "worker_in_flight"),
            {"web,1": 2, "blue-web,12": 1, "api,": 1, ",": 2},
        )

    def test_slots(self) -> None:
        """
        With a supervisor, each of its slots has a value.  The label of one of its
        workers counts only for the user of that worker.
        """
        workers = (
            worker(1, "web-1", claimed=1),
            worker(2, "web-2", claimed=2, uid=NOBODY + 1),
            worker(3, "web-77", claimed=4, uid=NOBODY + 1),
            worker(4, "other-1", claimed=8, uid=NOBODY + 1),
        )
        answer = replace(WELL, listener=replace(LISTENER, workers=workers))
        self.assertEqual(
            self.values(answer, "worker_serving"),
            {"web,1": 1, "web,2": 0, "web,3": 0, "web,4": 0, "other,1": 8, ",": 6},
        )

    def test_supervisor(self) -> None:
        """
        What the supervisor says of its processes.
        """
        assert BAD.supervisor is not None
        web, api = BAD.supervisor.groups
        supervisor = replace(
            BAD.supervisor,
            restarts=3,
            groups=(replace(web, restarts=5), replace(api, restarts=7)),
        )
        answer = replace(BAD, supervisor=supervisor)
        self.assertEqual(self.value(answer, "listener_restarts_total"), 3)
        self.assertEqual(
            self.values(answer, "worker_restarts_total"), {"web": 5, "api": 7}
        )
        self.assertEqual(self.values(answer, "workers_wanted"), {"web": 4, "api": 1})
        self.assertEqual(self.values(answer, "workers_ready"), {"web": 2, "api": 0})
        self.assertEqual(self.values(answer, "workers_given_up"), {"web": 0, "api": 1})
        self.assertEqual(
            self.values(answer, "worker_memory_bytes")["web,5"], 45 * 2**20
        )
        self.assertEqual(self.value(answer, "supervisor_uptime_seconds"), 11_535)

    def test_twice(self) -> None:
        """
        If a listener says a name twice, the metrics can be read all the same.
        """
        answer = StatusAnswer(replace(LISTENING, queues=(QUEUE, QUEUE)))
        self.assertEqual(self.values(answer, "connections_waiting"), {"http": 5})

    def test_noProcessNumbers(self) -> None:
        """
        No number of a process, no user and no address is in what is rendered.
        """
        for answer in (WELL, BAD):
            _, body = render(answer, "")
            for each in ("5001", "4001", "4000", str(NOBODY), "192.0.2.1", "443"):
                self.assertNotIn(f'"{each}"', body.decode())
        self.assertNotIn("pid", {label for each in METRICS for label in each.labels})

    def test_older(self) -> None:
        """
        A listener of another version may not say everything.
        """
        listener = replace(LISTENING, counters={}, held={})
        queue = replace(QUEUE, counters={}, claimTimes=ClaimTimes((1, 2), 1.0))
        answer = StatusAnswer(replace(listener, queues=(queue,)))
        self.assertEqual(self.values(answer, "connections_lost_total"), {"http": 0})
        self.assertEqual(self.values(answer, "claim_seconds_count"), {})

    @SETTINGS
    @given(st.text(), st.text(), st.integers(), st.floats(0, 1e9))
    def test_hostile(self, name: str, label: str, count: int, seconds: float) -> None:
        """
        Whatever names and numbers a listener says, all can be read.
        """
        queue = QueueStatus(
            printable(name), abs(count) % 2**62, 0, seconds, 1, 1, {}, ClaimTimes()
        )
        said = replace(
            LISTENER,
            queues=(queue,),
            ports=(replace(LISTENER.ports[0], name=name),),
            workers=(worker(1, label),),
        )
        answer = parseAnswer(encodeAnswer(StatusAnswer(said)), StatusAnswer)
        found = self.values(answer, "connections_waiting")
        self.assertEqual([*found.values()], [float(abs(count) % 2**62)])


class AcceptTests(SynchronousTestCase):
    """
    Which format a client gets.
    """

    def isOpen(self, accept: str) -> bool:
        """
        Render for a client, and say whether it gets OpenMetrics.
        """
        kind, body = render(ALONE, accept)
        isOpen = body.endswith(b"# EOF\n")
        self.assertEqual(kind.startswith(OPEN_METRICS), isOpen)
        self.assertNotIn("evil", kind)
        return isOpen

    def test_prometheus(self) -> None:
        """
        Prometheus gets OpenMetrics, and what knows nothing else gets text.
        """
        for accept in (PROMETHEUS_2, PROMETHEUS_3, OPEN_METRICS):
            self.assertTrue(self.isOpen(accept), accept)
        for accept in ("", "*/*", "text/html,*/*;q=0.8", "text/plain;version=0.0.4"):
            self.assertFalse(self.isOpen(accept), accept)

    def test_liking(self) -> None:
        """
        What a client likes better decides.
        """
        for accept in (
            f"{OPEN_METRICS};q=0.1,text/plain;q=0.2",
            f"{OPEN_METRICS};q=0",
            f"{OPEN_METRICS};q=x",
            f"{OPEN_METRICS};q=nan",
        ):
            self.assertFalse(self.isOpen(accept), accept)
        self.assertTrue(self.isOpen(f"text/plain;q=0.1,{OPEN_METRICS}; q=0.2"))

    def test_garbage(self) -> None:
        """
        A version that is not known is not written, and no header is an error.
        """
        for accept in (
            f"{OPEN_METRICS};version=evil",
            f"{OPEN_METRICS};version=2.0.0",
            "text/plain;version=evil",
            "text/plain;version=1.0.0;escaping=evil",
            ";;,,=,;=",
            "\0\ufffd",
            ",".join([f"{OPEN_METRICS};q=0.evil"] * 5000),
        ):
            self.assertFalse(self.isOpen(accept), accept[:80])


class NamesTests(SynchronousTestCase):
    """
    The metrics follow the conventions.
    """

    def test_counters(self) -> None:
        """
        All counters of the status have a metric, and no others.
        """
        self.assertEqual(COUNTERS.keys(), set(COUNTED))

    def test_names(self) -> None:
        """
        No two have the same name in OpenMetrics, and all are valid.
        """
        families = [each.family for each in METRICS]
        self.assertEqual(len(set(families)), len(families))
        for each in METRICS:
            self.assertRegex(each.family, r"\Aportlisten_[a-z_]+[a-z]\Z")
            self.assertFalse(re.search("_(total|info|count|sum|bucket)$", each.family))
            self.assertFalse(each.meaning.endswith("."), each.meaning)
