"""
Steps that kill a machine outright.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.machines.lan import Counted, Lan
from tests.machines.load import Seen
from tests.machines.machine import Machine, until
from tests.machines.step import Step

#: How many clients wait for a slow answer when it happens, and how long it takes.
IN_SERVICE = 24
SLOW_SECONDS = 4.0

#: How many others come all the time, with a new connection for each request.
NEW = 8

#: How long HAProxy may take to see it: its interval, and its patience with an answer.
CHECK_SECONDS = 2.0

#: How long HAProxy waits for a machine to answer a connection, and then tries the next.
CONNECT_SECONDS = 2.0

#: How long HAProxy takes to give a silent machine's connections up.
SILENT_SECONDS = 6.0

#: What processes take on a host that is busy, in seconds.
SLACK_SECONDS = 2.0


@dataclass
class Killed:
    """
    What happened.

    @ivar at: when it began, in monotonic seconds.
    @ivar done: when it was done.
    @ivar inService: how many connections HAProxy had with the machine, of those clients
        that wait for a slow answer.
    @ivar down: after how many seconds HAProxy saw it.
    @ivar waiting: what those clients saw that waited for a slow answer.
    @ivar coming: what those saw that came all the time.
    """

    at: float = 0.0
    done: float = 0.0
    inService: int = 0
    down: float = 0.0
    waiting: Seen = None  # type: ignore[assignment]
    coming: Seen = None  # type: ignore[assignment]


@contextmanager
def waiting(lan: Lan, *options: str) -> Iterator[Counted]:
    """
    Let clients wait for a slow answer, each with a connection in service.
    """
    url = lan.url(f"/slow/{SLOW_SECONDS:g}")
    with lan.asking(IN_SERVICE, "once", *options, url=url) as counted:
        until(
            lambda: sum(lan.balancer.sessions().values()) >= IN_SERVICE,
            "the slow requests are in service",
        )
        # The last of them has a connection, and now a worker has its request as well.
        time.sleep(0.3)
        yield counted


def kill(lan: Lan, machine: Machine, how: Callable[[Machine], object]) -> Killed:
    """
    Kill a machine while clients wait and come.
    """
    killed = Killed()
    with waiting(lan) as slow:
        killed.inService = lan.balancer.sessions()[machine.name]
        with lan.asking(NEW) as coming:
            time.sleep(0.7)
            killed.at = time.monotonic()
            how(machine)
            killed.done = time.monotonic()
            lan.balancer.sees(machine.name, "DOWN")
            killed.down = time.monotonic() - killed.done
            time.sleep(SILENT_SECONDS)
    killed.waiting = slow.seen
    killed.coming = coming.seen
    return killed


def revive(lan: Lan, machine: Machine) -> None:
    """
    Start the machine again.
    """
    machine.kill()
    machine.link(up=True)
    machine.begin()
    machine.ready()
    lan.balancer.sees(machine.name, "UP")


def judge(killed: Killed, machine: Machine) -> str:
    """
    Check that only what was in service there is lost.
    """
    # Those that were in service meanwhile, whichever machine had them.
    across = killed.coming.across(killed.at, killed.done)
    later = killed.coming.during(killed.done)
    assert killed.inService > 3, f"too few in service: {killed.inService}"
    assert len(killed.waiting.lost) == killed.inService, (
        f"{killed.inService} in service, {killed.waiting}: {killed.waiting.lost[:3]}"
    )
    assert not later.lost, f"new connections: {later}, {later.lost[:3]}"
    assert len(killed.coming.lost) <= len(across.asked), killed.coming
    assert killed.down < CHECK_SECONDS + SLACK_SECONDS, killed.down
    after = later.during(killed.done + killed.down + 0.1)
    assert after.longest < SLACK_SECONDS, f"after that, one took {after.longest:.1f} s"
    # Some may have come while it was done.
    slowest = killed.coming.during(killed.at).longest
    assert slowest < CONNECT_SECONDS + SLACK_SECONDS, f"{slowest:.1f} s"
    assert machine.name not in after.machines(), after.machines()
    ends = [
        max(0.0, each.ended - killed.done)
        for each in killed.waiting.lost + killed.coming.lost
    ]
    assert max(ends) < SILENT_SECONDS + SLACK_SECONDS, killed.coming.lost
    return (
        f"in service there {killed.inService}, lost {len(killed.waiting.lost)} (after"
        f" {min(ends):.1f} to {max(ends):.1f} s), of {len(killed.waiting.asked)}; short"
        f" ones under way at that moment {len(across.asked)}, lost"
        f" {len(killed.coming.lost)}; new connections in the {killed.down:.1f} s until"
        f" HAProxy saw it {len(later.asked) - len(after.asked)}, lost 0, the slowest"
        f" took {slowest:.2f} s; then {len(after.asked)}, lost 0, the slowest"
        f" {after.longest:.2f} s"
    )


def outright(machine: Machine) -> None:
    """
    As if its power failed: no packet leaves it any more.
    """
    machine.link(up=False)
    machine.kill()


def power(lan: Lan) -> str:
    """
    All processes are killed, and the link is down.
    """
    machine = lan.machines[1]
    killed = kill(lan, machine, outright)
    revive(lan, machine)
    return judge(killed, machine)


def processes(lan: Lan) -> str:
    """
    All processes are killed, and the kernel goes on: it ends their connections.
    """
    machine = lan.machines[1]
    killed = kill(lan, machine, Machine.kill)
    revive(lan, machine)
    return judge(killed, machine)


def link(lan: Lan) -> str:
    """
    The link is down, and later up again.  The machine knows nothing of it.
    """
    machine = lan.machines[1]
    killed = kill(lan, machine, lambda machine: machine.link(up=False))
    machine.link(up=True)
    lan.balancer.sees(machine.name, "UP")
    return judge(killed, machine)


#: What HAProxy does without, in the naive case.
NAIVE = [
    ("    retries 3\n    option redispatch 1\n", "    retries 0\n"),
    (" tcp-ut 5s\n", "\n"),
    ("    option srvtcpka\n", ""),
]


def naive(lan: Lan) -> str:
    """
    The same with an HAProxy that has only the checks: that must show.
    """
    machine = lan.machines[1]
    lan.balancer.stop()
    lan.balancer.begin(*NAIVE)
    try:
        with waiting(lan, "patience=12") as slow, lan.asking(NEW) as coming:
            inService = lan.balancer.sessions()[machine.name]
            outright(machine)
            at = time.monotonic()
            lan.balancer.sees(machine.name, "DOWN")
            time.sleep(SILENT_SECONDS)
    finally:
        lan.balancer.stop()
        lan.balancer.begin()
    revive(lan, machine)
    later = coming.seen.during(at)
    assert later.lost, f"a naive balancer loses no new connection: {later}"
    assert all(each.what == "late" for each in slow.seen.lost), slow.seen
    return (
        f"new connections: {later}; in service there {inService}, lost"
        f" {slow.seen.failures()}, which heard nothing for the 12 s that they waited"
    )


STEPS = [
    Step("kill", "all processes killed, link down", power),
    Step("kill", "all processes killed, the kernel goes on", processes),
    Step("kill", "link down alone, later up", link),
    Step("kill", "the first without redispatch and time-outs (naive)", naive),
]
