"""
What is going on, as values: the answer to C{status}.

The listener describes itself, its ports and its workers.  A supervisor adds what it
knows of the processes that it started.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    """
    How far a worker has drained.

    @cvar SERVING: nobody asked it to drain.
    @cvar DRAINING: connections are left, or it has not confirmed that it drains.
    @cvar DRAINED: no connection is left.
    @cvar UNKNOWN: it gets no more connections, and cannot say how many are left.
    """

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class WorkerState:
    """
    A worker, as the listener sees it.

    @ivar name: its name in the listener's log.
    @ivar label: the label that it gave itself, or empty.  That is no proof of anything.
    @ivar pid: the number of its process, from the kernel; 0 if the process is in a
        namespace that the listener does not see.
    @ivar uid: its user, from the kernel.
    @ivar connections: how many connections were offered to it, or claimed by it and not
        closed yet.
    @ivar serving: how many further connections it reports, as from a shared port; or
        L{None} if it has not reported that.
    @ivar state: how far it has drained.
    """

    name: str
    label: str
    pid: int
    uid: int
    connections: int
    serving: int | None
    state: State

    @property
    def left(self) -> int:
        """
        How many connections are known to be left.
        """
        return self.connections + (self.serving or 0)

    def isNamed(self, words: Collection[str]) -> bool:
        """
        Say whether its label or its process's number is one of these words.
        """
        return bool(self.label and self.label in words) or (
            self.pid > 0 and str(self.pid) in words
        )


@dataclass(frozen=True)
class PortStatus:
    """
    A port.

    @ivar name: the name that workers ask for, or empty.
    @ivar address: its address, as an endpoint description.
    @ivar shared: whether workers get the socket, and not the connections.
    @ivar workers: how many workers take its connections, or have its socket.
    @ivar waiting: how many connections wait in the kernel to be accepted; L{None} for
        UDP.  Of a Unix socket, the kernel only says whether any wait: 1 or 0.
    @ivar unserved: for a shared port, whether connections wait, and no worker has
        accepted any for some seconds.
    """

    name: str
    address: str
    shared: bool
    workers: int = 0
    waiting: int | None = None
    unserved: bool = False


@dataclass(frozen=True)
class ClaimTimes:
    """
    How long connections waited until a worker claimed them: from the first byte of the
    client if the listener waited for that, or else from accept(2).  If the listener
    waited in vain for the first byte, the time begins when it stopped to wait.  Each
    claim counts, so a connection that is claimed again counts again.

    @ivar counts: how many waited for at most as long as each bound of
        L{portlisten._policy.claim_times.BOUNDS}, and longer than the bound before; and
        last, how many waited for longer than all bounds.
    @ivar total: how long all together waited, in seconds.
    """

    counts: tuple[int, ...] = ()
    total: float = 0.0


@dataclass(frozen=True)
class QueueStatus:
    """
    The connections that wait in the listener for a worker, of the ports of one name.

    @ivar name: the name of the ports, or empty.
    @ivar waiting: how many connections wait.
    @ivar silent: how many of them wait for their clients to speak.
    @ivar oldest: how long the oldest connection has waited that does not wait for its
        client, in seconds; 0 if none waits.
    @ivar limit: how many connections may wait.
    @ivar workers: how many workers may be offered connections of this name.
    @ivar counters: what became of all connections of this name since the start, like
        those of L{ListenerStatus}.  C{revoked} is missing: a worker may serve several
        names.
    @ivar claimTimes: how long they waited until a worker claimed them.
    @ivar limited: how many connections the limits of these ports kept out since the
        start, by the reason.
    """

    name: str
    waiting: int
    silent: int
    oldest: float
    limit: int
    workers: int
    counters: dict[str, int] = field(default_factory=dict)
    claimTimes: ClaimTimes = ClaimTimes()
    limited: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceStatus:
    """
    The clients of one source: an address, or a network of the length that the port's
    limits say.

    @ivar source: the address, or the network.
    @ivar connections: how many connections it has.
    @ivar waiting: how many of them wait for a worker.
    @ivar refused: how many connections the limits kept out, as far as it is known.
    """

    source: str
    connections: int
    waiting: int
    refused: int


@dataclass(frozen=True)
class DenialStatus:
    """
    A network that an operator has denied.

    @ivar network: the address, or the network.
    @ivar seconds: for how long it is still denied; L{None} for as long as nobody allows
        it.
    """

    network: str
    seconds: float | None = None


@dataclass(frozen=True)
class DeniedStatus:
    """
    The networks that an operator has denied.

    @ivar count: how many there are.
    @ivar networks: some of them, those that were denied last first.
    """

    count: int = 0
    networks: tuple[DenialStatus, ...] = ()


@dataclass(frozen=True)
class WorkerStatus(WorkerState):
    """
    A worker.  What a worker says of itself is no proof of anything.

    @ivar number: the number of its channel.  Later channels have higher ones.
    @ivar joined: how long ago it joined, in seconds.
    @ivar ports: the names of the ports that it serves; an empty one for ports without
        a name.
    @ivar window: how many connections it may have been offered, and not yet claimed.
    @ivar limit: how many connections it may have; L{None} for no limit.
    @ivar offered: how many connections are offered to it, and not claimed.
    @ivar claimed: how many connections it has claimed, and not closed.
    @ivar draining: how long ago it began to drain, in seconds; 0 if it serves.
    @ivar unanswered: for how long its oldest offer is not claimed, in seconds; 0 if no
        offer waits for it.
    @ivar waits: whether it gets no offers for now, since workers of its user that
        joined before it died at once.
    """

    number: int
    joined: float
    ports: tuple[str, ...]
    window: int
    limit: int | None
    offered: int
    claimed: int
    draining: float = 0.0
    unanswered: float = 0.0
    waits: bool = False


@dataclass(frozen=True)
class ListenerStatus:
    """
    A listener.

    @ivar version: the version of portlisten.
    @ivar pid: the number of its process.
    @ivar uid: its user.
    @ivar uptime: for how long it has run, in seconds.
    @ivar path: the path of its channel.
    @ivar stopping: whether it was told to stop.
    @ivar counters: what became of the connections since the start, by names.
        C{accepted} is the sum of C{held} and of the ends that docs/control.md lists.
    @ivar held: where the other connections are, by names: how many wait, are offered to
        a worker, are claimed by a worker, and are in the hands of a worker that has
        left and that might not serve them.
    @ivar paused: whether an operator has paused it: it accepts, and its health says
        that it does not.
    @ivar claimTimes: how long connections waited until a worker claimed them.
    @ivar sources: the sources that have the most connections, if a port has limits of
        sources.
    @ivar denied: the networks that an operator has denied.
    """

    version: str
    pid: int
    uid: int
    uptime: float
    path: str
    stopping: bool
    ports: tuple[PortStatus, ...]
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerStatus, ...]
    counters: dict[str, int]
    held: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    claimTimes: ClaimTimes = ClaimTimes()
    sources: tuple[SourceStatus, ...] = ()
    denied: DeniedStatus = DeniedStatus()


class ProcessState(Enum):
    """
    How far a process has come that a supervisor started.

    @cvar STARTING: it runs, and is not ready yet.
    @cvar READY: it has joined the listener under its label.
    @cvar DRAINING: it gets no more connections, and is to be stopped.
    @cvar STOPPING: it got SIGTERM.
    @cvar WAITING: it has ended, and is started again after a pause.
    @cvar GIVEN_UP: it has ended too often, and is not started again.
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    WAITING = "waiting"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class ProcessStatus:
    """
    A process that a supervisor started.

    @ivar label: its label, such as web-1.
    @ivar pid: its number; 0 while none runs.
    @ivar state: how far it has come.
    @ivar seconds: for how long it is in this state.
    @ivar uptime: for how long it has run, in seconds; 0 while none runs.
    @ivar memory: its resident memory, with that of its children, in bytes.
    @ivar failures: how often in a row it has failed.
    @ivar restartsIn: in how many seconds it is started again, if it waits.
    @ivar lastEnd: how the process before it ended, or empty.
    """

    label: str
    pid: int
    state: ProcessState
    seconds: float
    uptime: float
    memory: int
    failures: int
    restartsIn: float
    lastEnd: str


@dataclass(frozen=True)
class GroupStatus:
    """
    A group of workers.

    @ivar name: its name.
    @ivar user: the number of the user of the workers.
    @ivar count: how many workers are wanted.
    @ivar ready: how many workers are ready.
    @ivar processes: the processes; while one is replaced, there may be one more.
    @ivar restarts: how often since the start of the supervisor a worker of the group
        was started again, since it had ended though nobody told it to.  That is also so
        if it exited with 0.  A replacement is no restart: at a restart, a reload, or
        since a limit of the group is reached.
    """

    name: str
    user: int
    count: int
    ready: int
    processes: tuple[ProcessStatus, ...]
    restarts: int = 0


@dataclass(frozen=True)
class SupervisorStatus:
    """
    A supervisor.

    @ivar file: the path of its file.
    @ivar pid: the number of its process.
    @ivar uptime: for how long it has run, in seconds.
    @ivar listener: the process of the listener.
    @ivar groups: the groups of workers.
    @ivar operation: what it does for an operator now, such as "restart of web", or
        empty.
    @ivar restarts: how often the listener was started again, since it had ended though
        nobody told it to.
    """

    file: str
    pid: int
    uptime: float
    listener: ProcessStatus
    groups: tuple[GroupStatus, ...]
    operation: str
    restarts: int = 0


class StepState(Enum):
    """
    How far the replacement of a worker has come.
    """

    WAITING = "waiting"
    STARTING = "starting"
    DRAINING = "draining"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Step:
    """
    The replacement of one worker.

    @ivar old: the label of the worker that is replaced; empty if none ran.
    @ivar new: the label of the worker that replaces it; empty before it is started.
    @ivar state: how far it has come.
    @ivar seconds: for how long it is in this state.
    @ivar left: how many connections the old one has; L{None} if that is not known.
    @ivar detail: what it waits for, or why it failed, in a few words; may be empty.
    """

    old: str
    new: str
    state: StepState
    seconds: float
    left: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """
    How far an operation has come.

    @ivar id: the name of the operation.
    @ivar what: what is done, such as "restart of web".
    @ivar done: whether it is over.
    @ivar error: why it failed, in a sentence; empty if it has not.
    @ivar log: the end of the log of the process that failed.
    @ivar steps: the steps, in their order.
    """

    id: str
    what: str
    done: bool
    error: str = ""
    log: tuple[str, ...] = field(default=())
    steps: tuple[Step, ...] = field(default=())
