"""
The steps of C{portlisten-run.socket}: systemd holds a port of C{portlisten run}.
"""

from __future__ import annotations

from typing import Any

from tests.systemd.machine import Machine, until
from tests.systemd.run_service import (
    FILE,
    SECOND,
    SOCKET,
    SYSTEMD,
    UNIT,
    file,
    fresh,
    processes,
    whole,
    workers,
)
from tests.systemd.step import Step


def _withSocket(machine: Machine) -> Any:
    if machine.show(SOCKET, "ActiveState") != "active":
        machine.run("systemctl", "stop", UNIT, check=False)
        machine.systemctl("start", SOCKET)
    return fresh(machine, file(listen=SYSTEMD))


def socketReload(machine: Machine) -> str:
    before = workers(_withSocket(machine))
    machine.write(FILE, file(count=3, listen=SYSTEMD, also=SECOND))
    with machine.clients() as load:
        machine.systemctl("reload", UNIT)
        seen = {port: machine.ask(port) for port in (80, 443)}
    assert set(seen.values()) == {"ok"}, seen
    after = workers(whole(machine, 4))
    assert set(before.values()) < set(after.values()), (before, after)
    return f"3 workers for 2, and two ports more: {load.check()}"


def socketRestart(machine: Machine) -> str:
    before = processes(_withSocket(machine))
    with machine.clients() as load:
        took = machine.systemctl("restart", UNIT)
        after = processes(whole(machine))
    assert not before & after, (before, after)
    load.check()
    return f"took {took:.1f} s: {load}; the slowest took {load.longest:.1f} s"


def socketKill(machine: Machine) -> str:
    before = processes(_withSocket(machine))
    restarts = machine.show(UNIT, "NRestarts")
    with machine.clients() as load:
        machine.kill("KILL", int(machine.show(UNIT, "MainPID")))
        until(lambda: machine.show(UNIT, "NRestarts") != restarts, "it is restarted")
        after = processes(whole(machine))
    assert not before & after, (before, after)
    load.check("cut")
    return f"restarted by systemd: {load}; the slowest took {load.longest:.1f} s"


def socketActivation(machine: Machine) -> str:
    _withSocket(machine)
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "ActiveState") == "inactive"
    seen = machine.ask()
    assert seen == "ok", seen
    whole(machine)
    machine.systemctl("stop", SOCKET, UNIT)
    seen = machine.ask()
    assert seen == "refused", seen
    return "the service was stopped; a client starts it, and is served"


STEPS = [
    Step(SOCKET, name, do)
    for name, do in (
        ("systemctl restart portlisten-run, under load", socketRestart),
        ("SIGKILL of the supervisor, under load", socketKill),
        ("systemctl reload, under load", socketReload),
        ("a client while the service is stopped", socketActivation),
    )
]
