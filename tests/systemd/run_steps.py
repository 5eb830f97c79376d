"""
The steps of C{portlisten-run.service}.
"""

from __future__ import annotations

import re

from tests.systemd.machine import Machine, until
from tests.systemd.run_service import (
    COMMAND,
    FILE,
    PROGRAM,
    SECOND,
    UNIT,
    file,
    fresh,
    processes,
    status,
    whole,
    workers,
)
from tests.systemd.step import Step

#: How often the listener is replaced, and the supervisor is restarted and killed.
UPGRADES = 20
RESTARTS = 20
KILLS = 5


def start(machine: Machine) -> str:
    machine.write(FILE, file())
    took = machine.systemctl("start", UNIT)
    # READY comes when all are ready, so they are ready now.
    found = status(machine)
    ready = workers(found)
    assert len(ready) == 2, found
    assert machine.show(UNIT, "Type") == "notify"
    seen = machine.ask()
    assert seen == "ok", seen
    found = whole(machine)
    # The unit hides processes of others, and not those of the supervisor.
    supervisor = found["supervisor"]
    listed = [supervisor["listener"], *supervisor["groups"][0]["processes"]]
    assert all(each["memory"] > 1_000_000 for each in listed), listed
    return f"active after {took:.1f} s, 2 of 2 workers ready then, served"


def notReady(machine: Machine) -> str:
    """
    A worker that joins late holds up the start.
    """
    sleep = '["/bin/sh", "-c", "sleep 3; exec $0 $@", "twistd"'
    late = COMMAND.replace('["twistd"', sleep)
    machine.run("systemctl", "stop", UNIT)
    machine.write(FILE, file(command=late))
    machine.systemctl("start", "--no-block", UNIT)
    until(
        lambda: "0 of 2" in machine.show(UNIT, "StatusText"),
        "the status says that no worker is ready",
    )
    state = machine.show(UNIT, "ActiveState")
    assert state == "activating", state
    until(
        lambda: machine.show(UNIT, "ActiveState") == "active",
        "it becomes active",
    )
    ready = workers(status(machine))
    assert len(ready) == 2, ready
    return "activating while workers start, active when both are ready"


def statusLine(machine: Machine) -> str:
    fresh(machine)
    done = machine.out("systemctl", "status", "--no-pager", UNIT)
    match = re.search(r'Status: "(.*)"', done)
    assert match is not None, done
    assert "2 of 2 workers of web are ready" in match[1], match[1]
    return match[1]


def restart(machine: Machine) -> str:
    before = set(workers(fresh(machine)).values())
    with machine.clients() as load:
        machine.out(PROGRAM, "restart", FILE)
    after = set(workers(whole(machine)).values())
    assert not before & after, (before, after)
    return f"2 workers replaced: {load.check()}"


def killWorker(machine: Machine) -> str:
    _, victim = workers(fresh(machine)).popitem()
    restarts = machine.show(UNIT, "NRestarts")
    with machine.clients() as load:
        machine.kill("KILL", victim)
        until(lambda: victim not in machine.processes(UNIT), "it is gone")
        until(lambda: len(workers(status(machine))) == 2, "another is ready")
    whole(machine)
    assert machine.show(UNIT, "NRestarts") == restarts
    # What it served is lost, as in any server.
    return f"started again by the supervisor: {load.check('cut')}"


def killListener(machine: Machine) -> str:
    victim = fresh(machine)["listener"]["pid"]
    restarts = machine.show(UNIT, "NRestarts")
    with machine.clients() as load:
        machine.kill("KILL", victim)
        until(lambda: victim not in machine.processes(UNIT), "it is gone")
        whole(machine)
    assert machine.show(UNIT, "NRestarts") == restarts
    return f"started again by the supervisor: {load.check('cut')}"


def upgrade(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        for _ in range(UPGRADES):
            machine.out(PROGRAM, "upgrade", FILE)
    whole(machine)
    return f"{UPGRADES} times: {load.check()}"


def killSupervisor(machine: Machine) -> str:
    before = processes(fresh(machine))
    restarts = int(machine.show(UNIT, "NRestarts"))
    with machine.clients() as load:
        for number in range(1, KILLS + 1):
            machine.kill("KILL", int(machine.show(UNIT, "MainPID")))
            until(
                lambda: int(machine.show(UNIT, "NRestarts")) == restarts + number,  # noqa: B023
                "systemd restarts it",
            )
            after = processes(whole(machine))
            assert not before & after, (before, after)
            before = after
    return f"{KILLS} times, restarted by systemd: {load.check('cut')}; no orphan"


def watchdog(machine: Machine) -> str:
    drop = f"/etc/systemd/system/{UNIT}.service.d/watchdog.conf"
    machine.write(drop, "[Service]\nWatchdogSec=4s\n")
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("stop", UNIT)
        before = processes(fresh(machine))
        restarts = int(machine.show(UNIT, "NRestarts"))
        mark = machine.mark()
        with machine.clients() as load:
            machine.kill("STOP", int(machine.show(UNIT, "MainPID")))
            until(
                lambda: int(machine.show(UNIT, "NRestarts")) == restarts + 1,
                "the watchdog fires",
            )
            after = processes(whole(machine))
        assert not before & after, (before, after)
        text = machine.journal(mark)
        assert "Watchdog timeout" in text, text
        load.check("cut")
        return f"the watchdog fires, systemd restarts it: {load}; no orphan"
    finally:
        machine.remove(drop)
        machine.systemctl("daemon-reload")


def stop(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        took = machine.systemctl("stop", UNIT)
        left = machine.processes(UNIT)
        seen = machine.ask()
    assert machine.show(UNIT, "Result") == "success"
    assert not left, left
    assert seen == "refused", seen
    assert not machine.exists("/run/portlisten")
    load.check("refused", "cut")
    return f"took {took:.1f} s: {load}; ports closed, /run/portlisten gone"


def stopHung(machine: Machine) -> str:
    fresh(machine, file(also="stop = 3"))
    machine.ask(path="/hang.rpy", patience=1)
    took = machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    left = machine.processes(UNIT)
    assert not left, left
    assert 2 < took < 20, took
    return f"took {took:.1f} s, with stop = 3 in the file: the supervisor kills it"


def systemctlRestart(machine: Machine) -> str:
    before = processes(fresh(machine))
    longest = 0.0
    with machine.clients() as load:
        for _ in range(RESTARTS):
            longest = max(longest, machine.systemctl("restart", UNIT))
            after = processes(whole(machine))
            assert not before & after, (before, after)
            before = after
    return f"{RESTARTS} times, each in up to {longest:.1f} s: {load.check()}"


def withoutStore(machine: Machine) -> str:
    """
    Without the descriptor store, clients are refused: the other steps can tell.
    """
    drop = f"/etc/systemd/system/{UNIT}.service.d/store.conf"
    machine.write(drop, "[Service]\nFileDescriptorStoreMax=0\nEnvironment=FDSTORE=0\n")
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("stop", UNIT)
        fresh(machine)
        with machine.clients() as load:
            machine.systemctl("restart", UNIT)
            whole(machine)
    finally:
        machine.remove(drop)
        machine.systemctl("daemon-reload")
        machine.run("systemctl", "stop", UNIT)
    load.check("refused")
    assert load.refused, load
    return f"{load}; refused for {load.window:.1f} s"


def restartAdded(machine: Machine) -> str:
    """
    A port that a reload has added is stored as the others are.
    """
    fresh(machine)
    machine.write(FILE, file(also=SECOND))
    machine.systemctl("reload", UNIT)
    whole(machine, 3)
    with machine.clients(443) as load:
        machine.systemctl("restart", UNIT)
        whole(machine, 3)
    load.check()
    machine.write(FILE, file())
    machine.systemctl("reload", UNIT)
    whole(machine, 2)
    return f"port 443: {load}"


def reload(machine: Machine) -> str:
    before = workers(fresh(machine))
    stored = int(machine.show(UNIT, "NFileDescriptorStore"))
    machine.write(FILE, file(count=3, also=SECOND))
    with machine.clients() as load:
        took = machine.systemctl("reload", UNIT)
        seen = {port: machine.ask(port) for port in (80, 443, 8443)}
    assert set(seen.values()) == {"ok"}, seen
    after = workers(whole(machine, 4))
    assert int(machine.show(UNIT, "NFileDescriptorStore")) == stored + 4
    assert set(before.values()) < set(after.values()), (before, after)
    load.check()
    machine.write(FILE, file())
    machine.run("systemctl", "kill", "--signal=HUP", "--kill-whom=main", UNIT)
    until(lambda: len(workers(status(machine))) == 2, "2 workers are left")
    whole(machine, 2)
    seen = {port: machine.ask(port) for port in (80, 443, 8443)}
    assert seen == {80: "ok", 443: "refused", 8443: "refused"}, seen
    assert int(machine.show(UNIT, "NFileDescriptorStore")) == stored
    return (
        f"3 workers for 2, and ports 443 and 8443 added, in {took:.1f} s: {load};"
        " SIGHUP takes them away"
    )


def reloadWrong(machine: Machine) -> str:
    before = processes(fresh(machine))
    machine.write(FILE, file() + "\nwrong = 1\n")
    mark = machine.mark()
    with machine.clients() as load:
        done = machine.run("systemctl", "reload", UNIT, check=False)
    assert done.returncode, "reload says that all is well"
    text = machine.journal(mark, UNIT)
    assert re.search(r"workers\.web\.wrong: no such key", text), text
    machine.write(FILE, file())
    assert machine.show(UNIT, "ActiveState") == "active"
    after = processes(whole(machine))
    assert before == after, (before, after)
    return f"fails, the journal names the key, the processes stay: {load.check()}"


def startWrong(machine: Machine) -> str:
    machine.run("systemctl", "stop", UNIT)
    machine.write(FILE, file() + "\nwrong = 1\n")
    mark = machine.mark()
    done = machine.run("systemctl", "start", UNIT, check=False)
    assert done.returncode, "start says that all is well"
    text = machine.journal(mark, UNIT)
    assert re.search(r"workers\.web\.wrong: no such key", text), text
    machine.run("systemctl", "stop", UNIT)
    machine.write(FILE, file())
    fresh(machine)
    return "fails, and the journal names the key"


def startTaken(machine: Machine) -> str:
    machine.run("systemctl", "stop", UNIT)
    machine.write(FILE, file())
    mark = machine.mark()
    with machine.taken(80):
        done = machine.run("systemctl", "start", UNIT, check=False)
        assert done.returncode, "start says that all is well"
        until(lambda: int(machine.show(UNIT, "NRestarts")) >= 7, "systemd tries again")
    assert "Address already in use" in machine.journal(mark, UNIT)
    until(lambda: machine.ask() == "ok", "it serves when the port is free")
    whole(machine)
    return "fails, the journal says why; systemd tries on, and it serves when it can"


def reboot(machine: Machine) -> str:
    machine.write(FILE, file())
    machine.run("systemctl", "stop", UNIT)
    machine.systemctl("enable", UNIT)
    try:
        took = machine.reboot()
        seen = machine.ask()
        assert seen == "ok", seen
        whole(machine)
    finally:
        machine.run("systemctl", "disable", UNIT)
    return f"the machine runs after {took:.1f} s, and serves then"


STEPS = [
    Step(UNIT, name, do)
    for name, do in (
        ("start", start),
        ("start, with slow workers", notReady),
        ("systemctl status", statusLine),
        ("portlisten restart, under load", restart),
        ("systemctl reload, under load", reload),
        ("systemctl reload, wrong file", reloadWrong),
        ("portlisten upgrade, under load", upgrade),
        ("SIGKILL of a worker, under load", killWorker),
        ("SIGKILL of the listener, under load", killListener),
        ("SIGKILL of the supervisor, under load", killSupervisor),
        ("SIGSTOP of the supervisor, under load", watchdog),
        ("systemctl restart, under load", systemctlRestart),
        ("systemctl restart, no store", withoutStore),
        ("systemctl reload and restart, under load", restartAdded),
        ("systemctl stop, under load", stop),
        ("systemctl stop, a worker hangs", stopHung),
        ("systemctl start, wrong file", startWrong),
        ("systemctl start, the port is taken", startTaken),
        ("enable, and reboot", reboot),
    )
]
