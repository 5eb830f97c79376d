"""
Steps that take machines out of service, and bring them back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.machines.lan import CLOSE, Counted, Lan
from tests.machines.machine import Machine, until
from tests.machines.step import Step
from tests.support.load import Load

#: How long the connections of a drained machine may take to end, in seconds.
PATIENCE = 20.0

#: What HAProxy does without, in the naive case.
NAIVE = [
    ("    retries 3\n    option redispatch 1\n", "    retries 0\n"),
]


def takeOut(lan: Lan, machine: Machine) -> str:
    """
    Pause a machine, and wait until no connection to it is left.

    @return: how long that took.
    """
    began = time.monotonic()
    machine.command("pause")
    lan.balancer.sees(machine.name, "DOWN")
    seen = time.monotonic()
    machine.command("drain", *machine.labels())
    until(
        lambda: not lan.balancer.sessions()[machine.name],
        f"HAProxy has no session with {machine.name}",
        PATIENCE,
    )
    gone = time.monotonic()
    return f"seen after {seen - began:.1f} s, drained after {gone - seen:.1f} s more"


def inPlace(lan: Lan, machine: Machine) -> None:
    """
    Replace the listener and the workers, while the supervisor goes on.
    """
    machine.command("upgrade")
    machine.command("restart")
    machine.command("resume")


def anew(lan: Lan, machine: Machine) -> None:
    """
    Stop all, and start all.
    """
    machine.stop()
    machine.begin()


def upgrade(
    lan: Lan, machine: Machine, how: Callable[[Lan, Machine], None], version: str
) -> str:
    """
    Take a machine out, upgrade it, and bring it back.

    @return: how long that took.
    """
    began = time.monotonic()
    text = takeOut(lan, machine)
    machine.install(version)
    how(lan, machine)
    machine.ready()
    lan.balancer.sees(machine.name, "UP")
    return f"{machine.name}: {text}, back after {time.monotonic() - began:.1f} s"


def loads(*counted: Counted) -> list[Load]:
    """
    What wrk saw.
    """
    return [each.load for each in counted if each.load is not None]


def eachInTurn(lan: Lan) -> str:
    """
    Upgrade each machine in turn, in place and anew, while wrk asks over connections
    that it keeps, and over one for each request; and slower clients as well.
    """
    times = []
    version = f"{time.monotonic():.0f}"
    slow = lan.url("/slow/0.3")
    with (
        lan.wrk() as kept,
        lan.wrk(CLOSE) as closing,
        lan.asking(6, url=slow) as slower,
        lan.asking(4, "keep") as keeping,
    ):
        for number, machine in enumerate(lan.machines):
            how = anew if number == 1 else inPlace
            times.append(upgrade(lan, machine, how, version))
        time.sleep(1)
    assert [each.errors for each in loads(kept, closing)] == [0, 0], loads(
        kept, closing
    )
    counts = [each.requests for each in loads(kept, closing)]
    assert min(counts) > 1000, counts
    keeping.seen.check()
    last = {each.machine: each.version for each in slower.seen.check().asked}
    assert last == {each.name: version for each in lan.machines}, last
    return (
        f"wrk: {counts[0]} requests over kept connections, {counts[1]} over a"
        f" connection each, 0 errors; {slower.seen}, of 0.3 s each; {'; '.join(times)}"
    )


def naively(lan: Lan, machine: Machine) -> tuple[Load, Load, Counted]:
    """
    Stop a machine and start it again without a pause, under load.
    """
    slow = lan.url("/slow/0.3")
    with (
        lan.wrk() as kept,
        lan.wrk(CLOSE) as closing,
        lan.asking(6, url=slow) as slower,
    ):
        machine.stop()
        time.sleep(2)
        machine.begin()
        machine.ready()
        lan.balancer.sees(machine.name, "UP")
    first, second = loads(kept, closing)
    return first, second, slower


def withoutPause(lan: Lan) -> str:
    """
    Stop a machine without a pause.  HAProxy sends refused connections elsewhere.
    """
    kept, closing, slower = naively(lan, lan.machines[0])
    return (
        f"errors: {kept.errors} of {kept.requests} over kept connections,"
        f" {closing.errors} of {closing.requests} over a connection each; {slower.seen}"
    )


def withoutRedispatch(lan: Lan) -> str:
    """
    The same with an HAProxy that tries no other machine: that must show.
    """
    lan.balancer.stop()
    lan.balancer.begin(*NAIVE)
    try:
        kept, closing, slower = naively(lan, lan.machines[0])
    finally:
        lan.balancer.stop()
        lan.balancer.begin()
    lost = kept.errors + closing.errors + len(slower.seen.lost)
    assert lost, f"a naive balancer loses nothing: {closing}"
    return (
        f"errors: {kept.errors} of {kept.requests} over kept connections,"
        f" {closing.errors} of {closing.requests} over a connection each; {slower.seen}"
    )


def withShutdown(lan: Lan) -> str:
    """
    Pause a machine, and HAProxy ends the sessions of machines that are down: that must
    show.
    """
    machine = lan.machines[0]
    lan.balancer.stop()
    lan.balancer.begin(("rise 2", "rise 2 on-marked-down shutdown-sessions"))
    try:
        with lan.asking(12, "once", url=lan.url("/slow/4")) as slow:
            until(
                lambda: sum(lan.balancer.sessions().values()) == 12,
                "the slow requests are in service",
            )
            time.sleep(0.3)
            there = lan.balancer.sessions()[machine.name]
            machine.command("pause")
            lan.balancer.sees(machine.name, "DOWN")
    finally:
        machine.command("resume")
        lan.balancer.stop()
        lan.balancer.begin()
    assert len(slow.seen.lost) == there > 0, slow.seen
    return f"in service there {there}, cut by the pause {len(slow.seen.lost)}"


STEPS = [
    Step("take out", "each machine in turn is paused, drained, upgraded", eachInTurn),
    Step("take out", "one is stopped without a pause", withoutPause),
    Step("take out", "the same without redispatch (naive)", withoutRedispatch),
    Step(
        "take out",
        "a pause, and on-marked-down shutdown-sessions (naive)",
        withShutdown,
    ),
]
