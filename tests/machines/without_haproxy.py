"""
Steps with two machines that share an address, without HAProxy.
"""

from __future__ import annotations

from tests.machines.balancer import Keepalived
from tests.machines.lan import Lan
from tests.machines.machine import CONTRIB, until
from tests.machines.moving import move
from tests.machines.step import Step

FOLDER = CONTRIB / "keepalived" / "without-haproxy"


def begin(lan: Lan) -> tuple[Keepalived, Keepalived]:
    """
    Let two machines run, of which the first one has the address.
    """
    for host in (*lan.balancers, *lan.machines):
        host.end()
    made = []
    for machine, name in zip(lan.machines, ("first", "second"), strict=False):
        machine.write(FOLDER / "web.toml")
        machine.begin()
        machine.ready()
        keepalived = Keepalived(machine, FOLDER / f"{name}.conf")
        keepalived.start()
        made.append(keepalived)
        until(made[0].has, "the first has the address")
    return made[0], made[1]


def paused(lan: Lan) -> str:
    """
    The machine that has the address is paused, and resumed.
    """
    first, second = begin(lan)
    moved = move(lan, first, second, lambda: lan.machines[0].command("pause"))
    lan.machines[0].command("resume")
    return str(moved)


def restarted(lan: Lan) -> str:
    """
    The workers and the listener are replaced, and the address stays.
    """
    first, second = begin(lan)
    with lan.asking(8) as coming, lan.asking(8, "keep") as kept:
        for command in ("upgrade", "restart"):
            lan.machines[0].command(command)
    assert first.has()
    assert not second.has()
    return f"{coming.seen.check()}; over kept connections: {kept.seen.check()}"


def killed(lan: Lan) -> str:
    """
    All its processes are killed, and its link is down.
    """
    first, second = begin(lan)
    machine = lan.machines[0]

    def how() -> None:
        machine.link(up=False)
        machine.kill()

    return str(move(lan, first, second, how))


STEPS = [
    Step("no HAProxy", "upgrade and restart; the address stays", restarted),
    Step("no HAProxy", "the machine is paused", paused),
    Step("no HAProxy", "all its processes killed, link down", killed),
]
