"""
The steps of the monitor: health, metrics and the status page, by C{portlisten run} and
by a listener alone.
"""

from __future__ import annotations

from tests.systemd import part_steps
from tests.systemd.machine import Machine, until
from tests.systemd.root import UNITS
from tests.systemd.run_service import FILE, PROGRAM, UNIT, fresh, processes, status
from tests.systemd.step import Step

PORT = 9100

#: The health of the port that workers serve.
HTTP = "/healthz/http"

#: The file that README.md installs, without and with the monitor.
WITHOUT = (UNITS / "web.toml").read_text()
WITH = WITHOUT.replace("# metrics =", "metrics =")

#: What README.md says to write by "systemctl edit portlisten".
LISTENER_DROP = "/etc/systemd/system/portlisten.service.d/metrics.conf"
LISTENER_WITH = f"""
[Service]
ExecStart=
ExecStart=/opt/portlisten/bin/twistd --nodaemon --pidfile= portlisten \
--metrics={PORT} --listen http=80 --listen https=443 /run/portlisten/web.sock
"""

#: The capabilities of a process without any.
NONE = "0000000000000000"


def _monitor(machine: Machine, unit: str, former: int = 0) -> int:
    """
    Wait until another monitor than the former serves.  Check that it has the listener's
    user, and no privilege.

    @return: its process.
    """

    def look() -> int:
        for pid in machine.processes(unit) - {former}:
            words = machine.run("cat", f"/proc/{pid}/cmdline", check=False).stdout
            if "supervised-monitor" in words and machine.code(PORT, HTTP) == 200:
                return pid
        return 0

    pid = until(look, f"a monitor serves: {machine.journal()}")
    user = machine.out("stat", "--format=%U", f"/proc/{pid}")
    assert user == "portlisten", user
    lines = machine.out("cat", f"/proc/{pid}/status").splitlines()
    found = dict(line.split(":\t", 1) for line in lines)
    kept = found["CapPrm"], found["CapEff"], found["CapAmb"]
    assert set(kept) == {NONE}, kept
    return pid


def _use(machine: Machine, unit: str, asked: str, health: int = 200) -> None:
    """
    Ask for all paths, kill the monitor, pause, and resume.

    @param asked: the file or the path that commands get.
    @param health: the code of the health of all ports.
    """
    victim = _monitor(machine, unit)
    paths = ("/healthz", HTTP, "/metrics", "/", "/healthz/nothing")
    seen = [machine.code(PORT, path) for path in paths]
    assert seen == [health, 200, 200, 200, 404], seen
    machine.kill("KILL", victim)
    _monitor(machine, unit, victim)
    machine.out(PROGRAM, "pause", asked)
    until(lambda: machine.code(PORT, HTTP) == 503, "it says 503")
    seen = [machine.code(PORT, path) for path in ("/metrics", "/")]
    assert seen == [200, 200], seen
    assert machine.ask() == "ok"
    machine.out(PROGRAM, "resume", asked)
    until(lambda: machine.code(PORT, HTTP) == 200, "it says 200")


def run(machine: Machine) -> str:
    before = processes(fresh(machine, WITHOUT))
    with machine.clients() as load:
        machine.write(FILE, WITH)
        machine.systemctl("reload", UNIT)
        _use(machine, UNIT, FILE)
        machine.write(FILE, WITHOUT)
        machine.systemctl("reload", UNIT)
        assert machine.code(PORT) == 0
    assert processes(status(machine)) == before
    assert machine.processes(UNIT) == before
    return (
        "switched on by a reload, as user portlisten without a capability;"
        " /healthz/http 200; killed, and started again; paused: 503; resumed: 200;"
        f" switched off by a reload: {load.check()}"
    )


def end(machine: Machine) -> str:
    fresh(machine, WITH, monitors=1)
    victim = _monitor(machine, UNIT)
    before = machine.processes(UNIT)
    restarts = int(machine.show(UNIT, "NRestarts"))
    machine.kill("KILL", int(machine.show(UNIT, "MainPID")))
    until(
        lambda: int(machine.show(UNIT, "NRestarts")) == restarts + 1,
        "systemd restarts it",
    )
    _monitor(machine, UNIT, victim)
    kept = before & machine.processes(UNIT)
    assert not kept, kept
    took = machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert not machine.processes(UNIT)
    assert machine.code(PORT) == 0
    return (
        "SIGKILL of the supervisor: both are started again, and no process is left of"
        f" before; the stop took {took:.1f} s"
    )


def stopHung(machine: Machine) -> str:
    found = fresh(machine, f"grace = 2\n{WITH}", monitors=1)
    machine.kill("STOP", _monitor(machine, UNIT))
    machine.kill("STOP", found["listener"]["pid"])
    took = machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert not machine.processes(UNIT)
    assert 2 < took < 30, took
    return f"took {took:.1f} s, with grace = 2 in the file: the supervisor ends them"


def alone(machine: Machine) -> str:
    machine.write(LISTENER_DROP, LISTENER_WITH)
    machine.systemctl("daemon-reload")
    try:
        machine.run("systemctl", "stop", part_steps.LISTENER)
        part_steps.fresh(machine)
        _monitor(machine, part_steps.LISTENER)
        with machine.clients() as load:
            # No worker serves port 443.
            _use(machine, part_steps.LISTENER, part_steps.PATH, 503)
        took = machine.systemctl("stop", part_steps.LISTENER)
        assert machine.show(part_steps.LISTENER, "Result") == "success"
        assert not machine.processes(part_steps.LISTENER)
        assert machine.code(PORT) == 0
    finally:
        machine.run("systemctl", "stop", part_steps.LISTENER, *part_steps.WORKERS)
        machine.remove(LISTENER_DROP)
        machine.systemctl("daemon-reload")
    return (
        "--metrics, as user portlisten without a capability; /healthz/http 200; killed,"
        f" and started again; paused: 503; resumed: 200: {load.check()}; the stop took"
        f" {took:.1f} s"
    )


STEPS = [
    Step(UNIT, "metrics = 9100, under load", run),
    Step(UNIT, "metrics = 9100, SIGKILL and systemctl stop", end),
    Step(UNIT, "SIGSTOP of the listener and the monitor, systemctl stop", stopHung),
    Step(part_steps.LISTENER, "--metrics=9100, under load", alone),
]
