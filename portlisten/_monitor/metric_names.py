"""
The metrics: their names, types, labels and meanings.  C{docs/metrics.md} has a table of
them that is made from this.

The names follow the conventions of Prometheus: a prefix, base units, and C{_total} for
what only grows.  No label has a value that is new with each process, such as its number
or an address: each new value is another series for Prometheus to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The beginning of all names.
PREFIX = "portlisten_"

#: The value of the label C{port} for ports without a name.  No port can have this name.
NO_NAME = "-"


class Type(Enum):
    """
    The type of a metric.

    @cvar INFO: a gauge that is always 1, and says something by its labels.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True)
class Metric:
    """
    A metric.

    @ivar base: its name without the prefix, and without the ending that the type adds.
    @ivar labels: the names of its labels.
    @ivar meaning: what it means, as a sentence without a full stop.
    @ivar supervised: whether only a supervisor knows it.
    """

    base: str
    type: Type
    labels: tuple[str, ...]
    meaning: str
    supervised: bool = False

    @property
    def family(self) -> str:
        """
        The name that OpenMetrics has for all its series.
        """
        return PREFIX + self.base

    @property
    def name(self) -> str:
        """
        The name that queries have for it.
        """
        endings = {Type.COUNTER: "_total", Type.INFO: "_info"}
        return self.family + endings.get(self.type, "")


def _counter(base: str, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(base, Type.COUNTER, labels, meaning)


def _gauge(base: str, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(base, Type.GAUGE, labels, meaning)


_PORT = ("port",)
_GROUP = ("group",)
_SLOT = ("group", "slot")

UP = _gauge("up", (), "1 if the listener answers, and otherwise 0")
BUILD = Metric(
    "build",
    Type.INFO,
    ("python", "twisted", "version"),
    "The version of the listener, and those of Python and Twisted",
)
UPTIME = _gauge(
    "listener_uptime_seconds", (), "For how long the listener has run, in seconds"
)
PAUSED = _gauge("paused", (), "1 if an operator has paused the listener")
STOPPING = _gauge("stopping", (), "1 if the listener was told to stop")
PROBLEMS = _gauge(
    "problems", (), "How many problems 'portlisten status' lists at the moment"
)
HEALTHY = _gauge(
    "port_healthy", _PORT, "1 if /healthz answers for ports of this name with 200"
)
PORT_WORKERS = _gauge(
    "port_workers",
    _PORT,
    "How many workers take connections of a port of this name, or have its socket; of"
    " several ports, the one with the fewest",
)
BACKLOG = _gauge(
    "connections_backlog",
    _PORT,
    "How many connections wait in the kernel to be accepted; a Unix socket counts 1 if"
    " any wait, and UDP none",
)
WAITING = _gauge(
    "connections_waiting",
    _PORT,
    "How many connections wait in the listener for a worker",
)
WAITING_SILENT = _gauge(
    "connections_waiting_silent",
    _PORT,
    "How many of these wait for their clients to send something",
)
WAITING_SECONDS = _gauge(
    "connections_waiting_seconds",
    _PORT,
    "For how long the oldest of the others has waited, in seconds; 0 if none waits",
)
WAITING_LIMIT = _gauge(
    "connections_waiting_limit",
    _PORT,
    "How many connections may wait in the listener; more wait in the kernel",
)
IN_FLIGHT = _gauge(
    "connections_in_flight",
    (),
    "How many connections are offered to workers, and not claimed yet",
)
SERVED = _gauge(
    "connections_in_service",
    (),
    "How many connections workers have claimed, and not reported as closed",
)
DEPARTED = _gauge(
    "connections_departed",
    (),
    "How many connections were claimed by workers that have left, and may still be"
    " untouched; if such a process ends, other workers get them",
)
CLAIM_SECONDS = Metric(
    "claim_seconds",
    Type.HISTOGRAM,
    _PORT,
    "How long connections waited until a worker claimed them, in seconds: from the"
    " first byte of the client if the listener waited for that, or else from accept",
)
#: The counters of connections, by the names that the status has for them.
COUNTERS: dict[str, Metric] = {
    "accepted": _counter(
        "connections_accepted", _PORT, "Connections that the listener accepted"
    ),
    "offered": _counter(
        "connections_offered",
        _PORT,
        "Offers to workers; a connection may be offered more than once",
    ),
    "claimed": _counter("connections_claimed", _PORT, "Offers that workers claimed"),
    "refused": _counter("connections_refused", _PORT, "Offers that workers refused"),
    "redispatched": _counter(
        "connections_redispatched",
        _PORT,
        "Connections that were taken back from workers that left or died, to be offered"
        " to others",
    ),
    "finished": _counter(
        "connections_finished", _PORT, "Connections that workers reported as closed"
    ),
    "lostInService": _counter(
        "connections_lost",
        _PORT,
        "Connections that a worker was serving when it died",
    ),
    "timedOut": _counter(
        "connections_timed_out",
        _PORT,
        "Connections that were closed, since they waited longer than the patience",
    ),
    "silentTooLong": _counter(
        "connections_silent_too_long",
        _PORT,
        "Connections that were closed, since their clients sent nothing, and took the"
        " places of others",
    ),
    "goneBeforeAdoption": _counter(
        "connections_gone",
        _PORT,
        "Connections whose clients left before a worker served them",
    ),
    "unusable": _counter(
        "connections_unusable",
        _PORT,
        "Connections that a hostile worker made unusable",
    ),
    "given": _counter(
        "connections_given",
        _PORT,
        "Connections that a worker had given to other processes before it left or died",
    ),
    "leftWithWorker": _counter(
        "connections_left_with_worker",
        _PORT,
        "Connections that a worker kept when it left the listener",
    ),
    "handedOver": _counter(
        "connections_handed_over",
        _PORT,
        "Connections that waited when the next listener took over, and went there",
    ),
    "stopped": _counter(
        "connections_stopped",
        _PORT,
        "Connections that were closed, since they waited when the listener stopped",
    ),
}
LIMITED = _counter(
    "connections_limited",
    ("port", "reason"),
    "Connections that the limits of a port kept out, or that an operator denied",
)
DENIED = _gauge(
    "denied_networks", (), "How many networks 'portlisten deny' denies at the moment"
)
REVOKED = _counter(
    "workers_revoked",
    (),
    "Workers that the listener gave up, since they left an offer unclaimed for too long"
    " or broke the protocol",
)
WORKER_IN_FLIGHT = _gauge(
    "worker_in_flight",
    _SLOT,
    "How many connections are offered to the worker, and not claimed yet",
)
WORKER_SERVING = _gauge(
    "worker_serving",
    _SLOT,
    "How many connections the worker serves: those that it has claimed, and those that"
    " it has from shared ports, as far as it says",
)
WORKER_MEMORY = Metric(
    "worker_memory_bytes",
    Type.GAUGE,
    _SLOT,
    "The resident memory of the worker and its children, in bytes",
    True,
)
WORKERS_WANTED = Metric(
    "workers_wanted", Type.GAUGE, _GROUP, "How many workers the group is to have", True
)
WORKERS_READY = Metric(
    "workers_ready", Type.GAUGE, _GROUP, "How many workers of the group are ready", True
)
WORKERS_GIVEN_UP = Metric(
    "workers_given_up",
    Type.GAUGE,
    _GROUP,
    "How many workers of the group have failed too often, and are not started again",
    True,
)
WORKER_RESTARTS = Metric(
    "worker_restarts",
    Type.COUNTER,
    _GROUP,
    "How often a worker of the group was started again, since it had ended though"
    " nobody told it to; replacements do not count",
    True,
)
LISTENER_RESTARTS = Metric(
    "listener_restarts",
    Type.COUNTER,
    (),
    "How often the listener was started again, since it had ended though nobody told it"
    " to",
    True,
)
LISTENER_MEMORY = Metric(
    "listener_memory_bytes",
    Type.GAUGE,
    (),
    "The resident memory of the listener, in bytes",
    True,
)
SUPERVISOR_UPTIME = Metric(
    "supervisor_uptime_seconds",
    Type.GAUGE,
    (),
    "For how long the supervisor has run, in seconds",
    True,
)

#: All metrics, in their order.
METRICS: tuple[Metric, ...] = (
    UP,
    BUILD,
    UPTIME,
    PAUSED,
    STOPPING,
    PROBLEMS,
    HEALTHY,
    PORT_WORKERS,
    BACKLOG,
    WAITING,
    WAITING_SILENT,
    WAITING_SECONDS,
    WAITING_LIMIT,
    IN_FLIGHT,
    SERVED,
    DEPARTED,
    CLAIM_SECONDS,
    *COUNTERS.values(),
    LIMITED,
    DENIED,
    REVOKED,
    WORKER_IN_FLIGHT,
    WORKER_SERVING,
    WORKER_MEMORY,
    WORKERS_WANTED,
    WORKERS_READY,
    WORKERS_GIVEN_UP,
    WORKER_RESTARTS,
    LISTENER_RESTARTS,
    LISTENER_MEMORY,
    SUPERVISOR_UPTIME,
)
