"""
What the metrics are at the moment, from the answer to C{status}.

This decides from the answer alone, and never acts.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import twisted
from portlisten._control.messages import StatusAnswer
from portlisten._control.status import (
    ListenerStatus,
    ProcessState,
    SupervisorStatus,
    WorkerStatus,
)
from portlisten._monitor import metric_names as names
from portlisten._monitor.health import OK, health
from portlisten._monitor.metric_names import Metric
from portlisten._policy.claim_times import BOUNDS

#: How a label of a worker names its group and its slot.
_SLOTTED = re.compile(r"(.+)-([0-9]{1,6})\Z")

_Slot = tuple[str, str]

#: A worker without a label, or one whose label is another one's.
_UNKNOWN: _Slot = ("", "")


@dataclass(frozen=True)
class Measurement:
    """
    The value of one series.

    @ivar labels: the values of the metric's labels, in their order.
    @ivar value: the value; of a histogram, the sum.
    @ivar buckets: of a histogram, how many are within each of L{BOUNDS} and not within
        the one before; and last, how many are beyond all.
    """

    metric: Metric
    labels: tuple[str, ...] = ()
    value: float = 1
    buckets: tuple[int, ...] = field(default=())


def measure(answer: StatusAnswer | None) -> Iterator[Measurement]:
    """
    Find all values.  What is not known has none.

    @param answer: the status; L{None} if neither the listener nor its supervisor
        answers.
    """
    listener = None if answer is None else answer.listener
    yield Measurement(names.UP, value=int(listener is not None))
    if answer is None:
        return
    yield Measurement(names.PROBLEMS, value=len(answer.problems))
    if listener is not None:
        yield from _ofListener(listener)
        yield from _ofPorts(answer, listener)
        yield from _ofConnections(listener)
        yield from _ofWorkers(listener, answer.supervisor)
    if answer.supervisor is not None:
        yield from _ofSupervisor(answer.supervisor)


def _ofListener(listener: ListenerStatus) -> Iterator[Measurement]:
    versions = (platform.python_version(), twisted.__version__, listener.version)
    yield Measurement(names.BUILD, versions)
    yield Measurement(names.UPTIME, value=listener.uptime)
    yield Measurement(names.PAUSED, value=int(listener.paused))
    yield Measurement(names.STOPPING, value=int(listener.stopping))


def _ofPorts(answer: StatusAnswer, listener: ListenerStatus) -> Iterator[Measurement]:
    for name in dict.fromkeys(port.name for port in listener.ports):
        ports = [port for port in listener.ports if port.name == name]
        labels = (name or names.NO_NAME,)
        code, _ = health(answer, name)
        fewest = min(port.workers for port in ports)
        backlog = sum(port.waiting or 0 for port in ports)
        yield Measurement(names.HEALTHY, labels, int(code == OK))
        yield Measurement(names.PORT_WORKERS, labels, fewest)
        yield Measurement(names.BACKLOG, labels, backlog)


def _ofConnections(listener: ListenerStatus) -> Iterator[Measurement]:
    for queue in listener.queues:
        labels = (queue.name or names.NO_NAME,)
        yield Measurement(names.WAITING, labels, queue.waiting)
        yield Measurement(names.WAITING_SILENT, labels, queue.silent)
        yield Measurement(names.WAITING_SECONDS, labels, queue.oldest)
        yield Measurement(names.WAITING_LIMIT, labels, queue.limit)
        for name, metric in names.COUNTERS.items():
            yield Measurement(metric, labels, queue.counters.get(name, 0))
        # An operator may deny clients of any port, and a series begins with 0.
        for reason, count in {"denied": 0, **queue.limited}.items():
            yield Measurement(names.LIMITED, (*labels, reason), count)
        times = queue.claimTimes
        if len(times.counts) == len(BOUNDS) + 1:
            yield Measurement(names.CLAIM_SECONDS, labels, times.total, times.counts)
    yield Measurement(names.DENIED, value=listener.denied.count)
    yield Measurement(names.REVOKED, value=listener.counters.get("revoked", 0))
    held = listener.held
    yield Measurement(names.IN_FLIGHT, value=held.get("offered", 0))
    yield Measurement(names.SERVED, value=held.get("claimed", 0))
    yield Measurement(names.DEPARTED, value=held.get("departed", 0))


def _ofWorkers(
    listener: ListenerStatus, supervisor: SupervisorStatus | None
) -> Iterator[Measurement]:
    owned = _slots(supervisor)
    users = {} if supervisor is None else {g.name: g.user for g in supervisor.groups}
    # A slot whose worker is just started has zeros, and not a gap.
    offered = dict.fromkeys(owned.values(), 0)
    serving = dict.fromkeys(owned.values(), 0)
    for worker in listener.workers:
        slot = _slotOf(worker, owned, users)
        offered[slot] = offered.get(slot, 0) + worker.offered
        serving[slot] = serving.get(slot, 0) + worker.claimed + (worker.serving or 0)
    for slot in offered:
        yield Measurement(names.WORKER_IN_FLIGHT, slot, offered[slot])
        yield Measurement(names.WORKER_SERVING, slot, serving[slot])


def _slots(supervisor: SupervisorStatus | None) -> dict[str, _Slot]:
    """
    Find the slots of a supervisor's workers, by their labels.
    """
    groups = () if supervisor is None else supervisor.groups
    return {
        process.label: (group.name, process.label.removeprefix(f"{group.name}-"))
        for group in groups
        for process in group.processes
    }


def _slotOf(
    worker: WorkerStatus, owned: Mapping[str, _Slot], users: Mapping[str, int]
) -> _Slot:
    """
    Find the slot of a worker.  A worker may give itself any label.  So if it has that
    of a supervisor's worker, its user must be that worker's.
    """
    slot = owned.get(worker.label)
    if slot is None:
        found = _SLOTTED.match(worker.label)
        slot = (found[1], found[2]) if found else (worker.label, "")
    user = users.get(slot[0], worker.uid)
    return slot if user == worker.uid else _UNKNOWN


def _ofSupervisor(supervisor: SupervisorStatus) -> Iterator[Measurement]:
    yield Measurement(names.SUPERVISOR_UPTIME, value=supervisor.uptime)
    yield Measurement(names.LISTENER_RESTARTS, value=supervisor.restarts)
    yield Measurement(names.LISTENER_MEMORY, value=supervisor.listener.memory)
    for group in supervisor.groups:
        labels = (group.name,)
        givenUp = [each.state is ProcessState.GIVEN_UP for each in group.processes]
        yield Measurement(names.WORKERS_WANTED, labels, group.count)
        yield Measurement(names.WORKERS_READY, labels, group.ready)
        yield Measurement(names.WORKERS_GIVEN_UP, labels, sum(givenUp))
        yield Measurement(names.WORKER_RESTARTS, labels, group.restarts)
        for process in group.processes:
            slot = process.label.removeprefix(f"{group.name}-")
            yield Measurement(
                names.WORKER_MEMORY, (group.name, slot), float(process.memory)
            )
