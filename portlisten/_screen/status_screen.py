"""
The answer to C{status}, in words and tables for an operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from portlisten._control.messages import StatusAnswer
from portlisten._control.status import (
    GroupStatus,
    ListenerStatus,
    ProcessState,
    ProcessStatus,
    QueueStatus,
    State,
    SupervisorStatus,
    WorkerStatus,
)
from portlisten._control.words import brief, duration, plural, size
from portlisten._process.users import nameOf
from portlisten._screen.tables import Column, Mood, Screen, Table, Text

#: The counters that are shown even if they are 0.
SHOWN = ("accepted", "offered", "claimed")

_NONE = Text("")
_DASH = Text("-", Mood.FAINT)

_WORKERS = (
    Column("label"),
    Column("pid", 3, right=True),
    Column("user", 6),
    Column("state"),
    Column("up", 7, right=True),
    Column("joined", 9, right=True),
    Column("serves", 8),
    Column("offered", 4, right=True),
    Column("serving", 1, right=True),
    Column("limit", 10, right=True),
    Column("memory", 2, right=True),
    Column("failures", 5),
)

_PORTS = (
    Column("port"),
    Column("address", 1),
    Column("accepted by", 5),
    Column("waiting", 0, right=True),
    Column("silent", 4, right=True),
    Column("oldest", 2, right=True),
    Column("limit", 6, right=True),
    Column("workers", 3, right=True),
)

_COUNTERS = (
    Column("connections"),
    Column("since the start", 0, right=True),
    Column("a second", 1, right=True),
)

_SOURCES = (
    Column("source"),
    Column("connections", 1, right=True),
    Column("waiting", 2, right=True),
    Column("kept out", 0, right=True),
)

_LIMITED = (
    Column("port"),
    Column("reason"),
    Column("kept out since the start", 0, right=True),
)


def isWell(answer: StatusAnswer) -> bool:
    """
    Say whether nothing is wrong.
    """
    return not answer.problems and answer.listener is not None


def rates(
    before: StatusAnswer | None, now: StatusAnswer, seconds: float
) -> dict[str, float]:
    """
    Compute how fast the counters of a listener grow.

    @param before: an earlier answer, if one is known.
    @param seconds: the time between the answers.
    @return: for each counter, how much it grows in a second.  Empty if another
        listener gave the earlier answer.
    """
    old, new = before and before.listener, now.listener
    if not old or not new or seconds <= 0:
        return {}
    if old.pid != new.pid or new.uptime < old.uptime:
        return {}
    return {
        name: max(0.0, (count - old.counters.get(name, count)) / seconds)
        for name, count in new.counters.items()
    }


def screenOf(answer: StatusAnswer, rates: Mapping[str, float]) -> Screen:
    """
    Show an answer.

    @param rates: how fast the counters grow, see L{rates}.
    """
    listener, supervisor = answer.listener, answer.supervisor
    facts: list[tuple[str, list[str]]] = []
    tables = []
    if supervisor is not None:
        facts.append(("supervisor", _supervisor(supervisor)))
    process = supervisor and supervisor.listener
    if listener is not None:
        facts.append(("listener", _listener(listener, process or None)))
        tables.append(_ports(listener))
    elif process:
        facts.append(("listener", _process(process)))
    tables.append(_workers(listener, supervisor))
    if listener is not None:
        tables.append(_counters(listener, rates))
        tables.append(_limited(listener))
        tables.append(_sources(listener))
    return Screen(
        tuple(_verdict(answer)),
        tuple((name, tuple(words)) for name, words in facts),
        tuple(each for each in tables if each.rows),
    )


def _verdict(answer: StatusAnswer) -> Iterator[Text]:
    if isWell(answer):
        yield Text("all is well", Mood.GOOD)
    elif not answer.problems:
        yield Text("the listener does not answer", Mood.BAD)
    for problem in answer.problems:
        yield Text(problem, Mood.BAD)


# The processes


def _supervisor(supervisor: SupervisorStatus) -> list[str]:
    words = [supervisor.file, f"pid {supervisor.pid}"]
    words.append(f"up {duration(supervisor.uptime)}")
    if supervisor.operation:
        words.append(supervisor.operation)
    return words


def _listener(listener: ListenerStatus, process: ProcessStatus | None) -> list[str]:
    words = [
        listener.path,
        f"pid {listener.pid}",
        f"user {nameOf(listener.uid)}",
        f"up {duration(listener.uptime)}",
        f"version {brief(listener.version, 20)}",
    ]
    if process is not None:
        words += [size(process.memory)] if process.memory > 0 else []
        words += [_failures(process)] if process.failures > 0 else []
    if listener.denied.count:
        words.append(f"{plural(listener.denied.count, 'network')} denied")
    if listener.stopping:
        words.append("stopping")
    return words


def _process(process: ProcessStatus) -> list[str]:
    words = [_processState(process).text]
    if process.pid:
        words.append(f"pid {process.pid}")
    if process.failures > 0:
        words.append(_failures(process))
    return words


def _failures(process: ProcessStatus) -> str:
    end = f" (last: {process.lastEnd})" if process.lastEnd else ""
    return f"{plural(process.failures, 'failure')} in a row{end}"


def _processState(process: ProcessStatus) -> Text:
    """
    Say how far a process has come that a supervisor started.
    """
    match process.state:
        case ProcessState.READY:
            return Text("ready", Mood.GOOD)
        case ProcessState.GIVEN_UP:
            return Text("given up", Mood.BAD)
        case ProcessState.WAITING:
            return Text(f"restarts in {duration(process.restartsIn)}", Mood.BAD)
        case ProcessState.STARTING:
            words = "starting"
        case ProcessState.DRAINING:
            words = "draining"
        case ProcessState.STOPPING:
            words = "stopping"
    return Text(f"{words} for {duration(process.seconds)}", Mood.BUSY)


# The workers


def _workers(
    listener: ListenerStatus | None, supervisor: SupervisorStatus | None
) -> Table:
    unmatched = list(listener.workers if listener else ())
    rows = []
    groups = supervisor.groups if supervisor else ()
    for group in groups:
        for process in group.processes:
            found = [each for each in unmatched if each.label == process.label]
            for worker in found:
                unmatched.remove(worker)
            # A process with two endpoints is two workers.
            for index, each in enumerate(found or [None]):
                rows.append(_workerRow(each, group, process, first=not index))
    rows += [_workerRow(each, None, None, first=True) for each in unmatched]
    return Table(_workersTitle(groups, len(unmatched)), _WORKERS, tuple(rows))


def _workersTitle(groups: tuple[GroupStatus, ...], others: int) -> str:
    if not groups:
        return plural(others, "worker")
    words = [f"{each.name} {each.ready} of {each.count} ready" for each in groups]
    if others:
        words.append(plural(others, "other"))
    return f"workers: {', '.join(words)}"


def _workerRow(
    worker: WorkerStatus | None,
    group: GroupStatus | None,
    process: ProcessStatus | None,
    first: bool,
) -> tuple[Text, ...]:
    """
    @param first: whether this is the first row of its process.
    """
    label = process.label if process else worker.label if worker else ""
    pid = process.pid if process and process.pid else worker.pid if worker else 0
    uid = worker.uid if worker else group.user if group else 0
    return (
        Text(brief(label)) if label else Text("(no label)", Mood.FAINT),
        Text(str(pid)) if pid else _DASH,
        Text(brief(nameOf(uid), 20)),
        _state(worker, process),
        _up(process if first else None),
        *_seen(worker),
        *(_owned(process) if first and process else [_NONE] * 2),
    )


def _up(process: ProcessStatus | None) -> Text:
    if process is None or not process.pid:
        return _NONE
    return Text(duration(process.uptime))


def _state(worker: WorkerStatus | None, process: ProcessStatus | None) -> Text:
    if process is not None and process.state is not ProcessState.READY:
        state = _processState(process)
        if worker is not None and process.state is ProcessState.DRAINING:
            return Text(f"{state.text}, {worker.left} left", state.mood)
        return state
    if worker is None:
        # The supervisor has not noticed yet that it left; or the listener is silent.
        return Text("ready, not joined" if process else "", Mood.BUSY)
    match worker.state:
        case State.SERVING:
            return Text("ready" if process else "serving", Mood.GOOD)
        case State.DRAINING:
            return Text(f"draining, {worker.left} left", Mood.BUSY)
        case State.DRAINED:
            return Text("drained", Mood.BUSY)
        case State.UNKNOWN:
            return Text("draining, left unknown", Mood.BUSY)


def _seen(worker: WorkerStatus | None) -> list[Text]:
    """
    The cells that the listener knows: from "joined" to "limit".
    """
    if worker is None:
        return [_NONE, _NONE, _DASH, _DASH, _NONE]
    ports = ", ".join(name or "(no name)" for name in worker.ports)
    return [
        Text(duration(worker.joined)),
        Text(brief(ports, 30)),
        Text(str(worker.offered)),
        Text(str(worker.claimed + (worker.serving or 0))),
        _NONE if worker.limit is None else Text(str(worker.limit)),
    ]


def _owned(process: ProcessStatus) -> list[Text]:
    """
    The cells that the supervisor knows: from "memory" on.
    """
    failures = [str(process.failures)] if process.failures > 0 else []
    if process.lastEnd and (failures or not process.pid):
        failures.append(f"last: {brief(process.lastEnd)}")
    return [
        Text(size(process.memory)) if process.memory > 0 else _NONE,
        Text(", ".join(failures), Mood.BAD),
    ]


# The ports and the counters


def _ports(listener: ListenerStatus) -> Table:
    queues = {each.name: each for each in listener.queues}
    rows = []
    for port in listener.ports:
        queue = None if port.shared else queues.pop(port.name, None)
        by = "workers" if port.shared else "listener"
        rows.append(
            (
                _portName(port.name),
                Text(brief(port.address, 60)),
                Text(by),
                *_queue(queue),
            )
        )
    rows += [
        (_portName(queue.name), _NONE, _NONE, *_queue(queue))
        for queue in queues.values()
        if queue.waiting
    ]
    return Table(plural(len(listener.ports), "port"), _PORTS, tuple(rows))


def _portName(name: str) -> Text:
    return Text(brief(name)) if name else Text("(no name)", Mood.FAINT)


def _queue(queue: QueueStatus | None) -> tuple[Text, ...]:
    if queue is None:
        return (_NONE,) * 5
    waits = Mood.BUSY if queue.waiting else Mood.PLAIN
    return (
        Text(str(queue.waiting), waits),
        Text(str(queue.silent)) if queue.silent else _DASH,
        Text(duration(queue.oldest), waits) if queue.waiting else _DASH,
        Text(str(queue.limit)),
        Text(str(queue.workers), Mood.PLAIN if queue.workers else Mood.BAD),
    )


def _counters(listener: ListenerStatus, rates: Mapping[str, float]) -> Table:
    return Table(
        "",
        _COUNTERS,
        tuple(
            (
                Text(brief(re.sub("([A-Z])", r" \1", name).lower())),
                Text(f"{count:,}"),
                _rate(rates[name]) if name in rates else _NONE,
            )
            for name, count in listener.counters.items()
            if count or name in SHOWN
        ),
    )


def _limited(listener: ListenerStatus) -> Table:
    """
    Show how many connections the limits kept out.
    """
    return Table(
        "",
        _LIMITED,
        tuple(
            (_portName(queue.name), Text(brief(reason)), Text(f"{count:,}"))
            for queue in listener.queues
            for reason, count in queue.limited.items()
            if count
        ),
    )


def _sources(listener: ListenerStatus) -> Table:
    return Table(
        "the busiest sources",
        _SOURCES,
        tuple(
            (
                Text(brief(each.source, 60)),
                Text(f"{each.connections:,}"),
                Text(f"{each.waiting:,}", Mood.BUSY) if each.waiting else _DASH,
                Text(f"{each.refused:,}") if each.refused else _DASH,
            )
            for each in listener.sources
        ),
    )


def _rate(rate: float) -> Text:
    if not rate:
        return _DASH
    return Text(f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}")
