"""
What is wrong, in plain sentences.

This decides from the answer to C{status} alone, and never acts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portlisten._control.messages import StatusAnswer
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
from portlisten._control.words import duration, plural

#: For how long a connection may wait before that is a problem, in seconds.
WAIT_SECONDS = 1.0

#: For how long a worker may leave an offer unclaimed, in seconds.
CLAIM_SECONDS = 2.0

#: For how long a worker may drain, in seconds.
DRAIN_SECONDS = 60.0

#: After a listener is ready, how long its workers may take to join it, in seconds.
JOIN_SECONDS = 10.0

#: For how long a worker may start, in seconds.
START_SECONDS = 30.0

# How bad a problem is: the lowest number is the worst.
(
    _NO_LISTENER,
    _UNSERVED,
    _FULL,
    _GIVEN_UP,
    _FEW,
    _HANGS,
    _WAITS,
    _FAILS,
    _SLOW,
    _IDLE,
    _PAUSED,
) = range(11)

_Problem = tuple[int, str]


def diagnosed(
    listener: ListenerStatus | None, supervisor: SupervisorStatus | None = None
) -> StatusAnswer:
    """
    Make the answer to C{status}: what is going on, and what is wrong.

    @param listener: the listener; L{None} if it does not answer.
    @param supervisor: its supervisor; L{None} if it has none.
    """
    answer = StatusAnswer(listener, supervisor)
    return replace(answer, problems=problems(answer))


def problems(status: StatusAnswer) -> tuple[str, ...]:
    """
    Find what is wrong.

    @param status: what is going on.  Its own problems do not count.
    @return: sentences, the worst first.
    """
    found: list[_Problem] = []
    if status.supervisor is not None:
        found += _ofSupervisor(status.supervisor, status.listener)
    elif status.listener is None:
        found.append((_NO_LISTENER, "the listener does not answer"))
    if status.listener is not None:
        found += _ofListener(status.listener)
    # Problems that are equally bad stay in their order.
    return tuple(text for _, text in sorted(found, key=lambda each: each[0]))


# The listener


def _ofListener(listener: ListenerStatus) -> Iterator[_Problem]:
    if listener.paused:
        yield _PAUSED, "paused by an operator: /healthz says 503"
    for queue in listener.queues:
        yield from _ofQueue(queue, listener)
    for port in listener.ports:
        if port.shared:
            yield from _ofShared(port)
    for worker in listener.workers:
        yield from _ofWorker(worker)


def _ofQueue(queue: QueueStatus, listener: ListenerStatus) -> Iterator[_Problem]:
    ports = [
        port for port in listener.ports if port.name == queue.name and not port.shared
    ]
    backlog = sum(port.waiting or 0 for port in ports)
    name = queue.name or " and ".join(port.address for port in ports)
    full = queue.waiting >= max(1, queue.limit)
    text = f"{_wait(queue.waiting)}, the oldest for {_seconds(queue.oldest)}"
    if backlog and queue.waiting:
        more = f", and {backlog} more {_verb(backlog, 'wait')} in the kernel"
    else:
        more = ""
    if not queue.workers and queue.waiting:
        ending = f"; its queue is full{more}" if full else more
        yield _UNSERVED, f"nobody serves {name}: {text}{ending}"
    elif not queue.workers and backlog:
        yield _UNSERVED, f"nobody serves {name}: {_wait(backlog)} in the kernel"
    elif not queue.workers:
        yield _IDLE, f"nobody serves {name}: its next connections will wait"
    elif full:
        silent = ""
        if queue.silent:
            silent = f", {queue.silent} of them for their clients to send something"
        count = _wait(queue.waiting)
        yield _FULL, f"the queue of {name} is full: {count}{silent}{more}"
    elif queue.oldest >= WAIT_SECONDS:
        workers = plural(queue.workers, "worker")
        takes = _verb(queue.workers, "take")
        yield _WAITS, f"{text}, for {name}: its {workers} {takes} no more for now{more}"


def _ofShared(port: PortStatus) -> Iterator[_Problem]:
    name = f"{port.name}={port.address}" if port.name else port.address
    waiting = port.waiting or 0
    if not port.workers and waiting:
        yield _UNSERVED, f"nobody serves {name}: {_wait(waiting)} in the kernel"
    elif not port.workers:
        yield _IDLE, f"nobody serves {name}"
    elif port.unserved:
        workers = plural(port.workers, "worker")
        yield (
            _UNSERVED,
            f"{_wait(waiting)} on {name}, and nobody accepts there, though {workers}"
            f" {_verb(port.workers, 'use')} its socket",
        )


def _ofWorker(worker: WorkerStatus) -> Iterator[_Problem]:
    if worker.unanswered >= CLAIM_SECONDS:
        seconds = _seconds(worker.unanswered)
        yield _HANGS, f"{worker.name} hangs: an offer is unclaimed for {seconds}"
    if worker.waits and worker.state is State.SERVING:
        yield (
            _FAILS,
            f"{worker.name} must wait for its first offer: the workers before it died"
            " at once",
        )
    if worker.draining >= DRAIN_SECONDS and worker.state is not State.DRAINED:
        left = f"{plural(worker.left, 'connection')} left"
        if worker.state is State.UNKNOWN:
            left = "and cannot say how many connections are left"
        yield _SLOW, f"{worker.name} drains for {_seconds(worker.draining)}, {left}"


# The supervisor


def _ofSupervisor(
    supervisor: SupervisorStatus, listener: ListenerStatus | None
) -> Iterator[_Problem]:
    yield from _ofListenerProcess(supervisor.listener, listener is not None)
    for group in supervisor.groups:
        yield from _ofGroup(group)
        if listener is not None and listener.uptime >= JOIN_SECONDS:
            yield from _ofAbsent(group, listener)


def _ofAbsent(group: GroupStatus, listener: ListenerStatus) -> Iterator[_Problem]:
    joined = {each.label for each in listener.workers if each.uid == group.user}
    for process in group.processes:
        if process.state is ProcessState.READY and process.label not in joined:
            yield (
                _HANGS,
                f"worker {process.label} runs, and has left the listener: 'portlisten"
                " restart' replaces it",
            )


def _ofListenerProcess(process: ProcessStatus, answers: bool) -> Iterator[_Problem]:
    text = ""
    if process.state is ProcessState.GIVEN_UP:
        text = f"was given up after {_failures(process)}"
    elif process.state is ProcessState.WAITING:
        text = f"has ended{_how(process)}, and starts again {_again(process)}"
    elif process.state is ProcessState.STARTING:
        text = "restarts" if process.failures or process.lastEnd else "starts"
        text = f"{text}{_how(process)}: new connections wait in the kernel"
    elif process.state is ProcessState.STOPPING and not process.pid:
        text = "has stopped, since the supervisor stops"
    elif not answers:
        text = f"(pid {process.pid}) does not answer"
    if text:
        yield _NO_LISTENER, f"the listener {text}"


def _ofGroup(group: GroupStatus) -> Iterator[_Problem]:
    for process in group.processes:
        label = process.label
        if process.state is ProcessState.GIVEN_UP:
            yield (
                _GIVEN_UP,
                f"worker {label} was given up after {_failures(process)}; 'portlisten"
                " restart' starts it again",
            )
        elif process.state is ProcessState.WAITING and process.failures:
            times = plural(process.failures, "time")
            yield (
                _FAILS,
                f"worker {label} has failed {times} in a row{_how(process)}, and starts"
                f" again {_again(process)}",
            )
        elif (
            process.state is ProcessState.STARTING and process.seconds >= START_SECONDS
        ):
            seconds = _seconds(process.seconds)
            yield _SLOW, f"worker {label} was started {seconds} ago, and is not ready"
    if group.ready < group.count:
        if not group.ready:
            text = f"no worker of {group.name} is ready"
        else:
            are = "is" if group.ready == 1 else "are"
            text = f"only {group.ready} of {group.count} workers of {group.name} {are}"
            text = f"{text} ready"
        yield _FEW, text


def _failures(process: ProcessStatus) -> str:
    failures = plural(process.failures, "failure")
    return f"{failures}: {process.lastEnd}" if process.lastEnd else failures


def _how(process: ProcessStatus) -> str:
    return f" ({process.lastEnd})" if process.lastEnd else ""


def _again(process: ProcessStatus) -> str:
    if process.restartsIn <= 0:
        return "at once"
    return f"in {_seconds(process.restartsIn)}"


# Words


def _wait(count: int) -> str:
    return f"{plural(count, 'connection')} {_verb(count, 'wait')}"


def _verb(count: int, verb: str) -> str:
    return f"{verb}s" if count == 1 else verb


def _seconds(seconds: float) -> str:
    return duration(seconds, exact=seconds < 1)
