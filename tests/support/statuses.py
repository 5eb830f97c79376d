"""
Answers to C{status}, for tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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

#: A user that no system has.
NOBODY = 987654


def worker(number: int, label: str = "", **others: Any) -> WorkerStatus:
    """
    Make a worker.
    """
    made = WorkerStatus(
        name=f"worker {number}",
        label=label,
        pid=5000 + number,
        uid=NOBODY,
        connections=0,
        serving=None,
        state=State.SERVING,
        number=number,
        joined=11_520.0,
        ports=("http", "https"),
        window=26,
        limit=None,
        offered=1,
        claimed=12,
    )
    return replace(made, **others)


def process(label: str, number: int, **others: Any) -> ProcessStatus:
    """
    Make a process of a supervisor.

    @param number: of its worker; 0 if none runs.
    """
    made = ProcessStatus(
        label=label,
        pid=5000 + number if number else 0,
        state=ProcessState.READY,
        seconds=3.2,
        uptime=11_523.0 if number else 0.0,
        memory=45 * 2**20 if number else 0,
        failures=0,
        restartsIn=0.0,
        lastEnd="",
    )
    return replace(made, **others)


LISTENER = ListenerStatus(
    version="26.11.0",
    pid=4001,
    uid=NOBODY,
    uptime=11_530.0,
    path="/run/portlisten/web.sock",
    stopping=False,
    ports=(
        PortStatus("http", "tcp:80", False),
        PortStatus("http", "tcp6:80", False),
        PortStatus("https", "tcp:443:interface=192.0.2.1", False),
        PortStatus("dns", "udp:53", True),
    ),
    queues=(
        QueueStatus("http", 0, 0, 0.0, 1024, 4),
        QueueStatus("https", 0, 0, 0.0, 1024, 4),
    ),
    workers=tuple(worker(number, f"web-{number}") for number in range(1, 5)),
    counters={"accepted": 1_204_345, "offered": 4, "claimed": 0, "timedOut": 3},
)

SUPERVISOR = SupervisorStatus(
    file="/etc/portlisten/web.toml",
    pid=4000,
    uptime=11_535.0,
    listener=process("listener", 1, pid=4001),
    groups=(
        GroupStatus(
            name="web",
            user=NOBODY,
            count=4,
            ready=4,
            processes=tuple(process(f"web-{n}", n) for n in range(1, 5)),
        ),
    ),
    operation="",
)

#: All is well, with and without a supervisor.
WELL = StatusAnswer(LISTENER, SUPERVISOR)
ALONE = StatusAnswer(LISTENER)

#: Much is wrong.
BAD = StatusAnswer(
    replace(
        LISTENER,
        queues=(
            QueueStatus("http", 0, 0, 0.0, 1024, 2),
            QueueStatus("https", 12, 3, 8.2, 1024, 0),
        ),
        workers=(
            worker(1, "web-1"),
            worker(2, "web-2", serving=3, limit=100),
            worker(3, "web-3", state=State.DRAINING, connections=7, claimed=7),
            worker(9, ports=("",), claimed=0, offered=0),
        ),
    ),
    replace(
        SUPERVISOR,
        operation="restart of web",
        groups=(
            GroupStatus(
                name="web",
                user=NOBODY,
                count=4,
                ready=2,
                processes=(
                    process("web-1", 1),
                    process("web-2", 2),
                    process("web-3", 3, state=ProcessState.DRAINING),
                    process(
                        "web-4",
                        0,
                        state=ProcessState.WAITING,
                        failures=3,
                        restartsIn=4.0,
                        lastEnd="exit status 1",
                    ),
                    process("web-5", 5, state=ProcessState.STARTING),
                ),
            ),
            GroupStatus(
                name="api",
                user=NOBODY,
                count=1,
                ready=0,
                processes=(
                    process(
                        "api-1",
                        0,
                        state=ProcessState.GIVEN_UP,
                        failures=8,
                        lastEnd="signal 11",
                    ),
                ),
            ),
        ),
    ),
    (
        "nobody serves https: 12 wait, the oldest for 8 s",
        "api-1 has failed 8 times in a row, and is given up",
    ),
)
