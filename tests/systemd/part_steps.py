"""
The steps of the units for each process: C{portlisten.service},
C{portlisten-worker@.service} and C{portlisten.socket}.
"""

from __future__ import annotations

import json
import re

from tests.support.debian import call
from tests.systemd.machine import Machine, until
from tests.systemd.run_service import PROGRAM
from tests.systemd.step import Step

LISTENER = "portlisten"
WORKERS = ("portlisten-worker@1", "portlisten-worker@2")
SOCKET = "portlisten.socket"
RUN = "portlisten-run"
PATH = "/run/portlisten/web.sock"

#: What README.md says to write by "systemctl edit portlisten".
SYSTEMD_HOLDS = """
[Service]
Sockets=portlisten.socket
ExecStart=
ExecStart=/opt/portlisten/bin/twistd --nodaemon --pidfile= portlisten \
--listen http=systemd:domain=INET6:name=http --listen https=443 /run/portlisten/web.sock
"""

#: What README.md says to write by "systemctl edit portlisten-worker@.service".
TLS = """
[Service]
LoadCredential=key.pem:/etc/portlisten/key.pem
LoadCredential=cert.pem:/etc/portlisten/cert.pem
MemoryDenyWriteExecute=no
ExecStart=
ExecStart=/opt/portlisten/bin/twistd --nodaemon --pidfile= web --path /srv/www \
--listen=portlisten:/run/portlisten/web.sock:name=http \
--listen=portlisten:/run/portlisten/web.sock:name=https\
:privateKey=%d/key.pem:certKey=%d/cert.pem
"""

#: How often the listener is restarted.
RESTARTS = 20

#: How often the listener is killed.
KILLS = 10

_LISTENER = """
[Service]
ExecStart=
ExecStart=/opt/portlisten/bin/twistd --nodaemon --pidfile= portlisten \
--listen http=80 {} /run/portlisten/web.sock
"""

#: Its other socket has the same number and another address; or it is a Unix socket.
LOOPBACK_443 = "--listen https=tcp:443:interface=127.0.0.1"
UNIX = "--listen http=unix:/run/portlisten/http.sock"

_DROP = f"/etc/systemd/system/{LISTENER}.service.d/socket.conf"
_WORKER_DROP = "/etc/systemd/system/portlisten-worker@.service.d/tls.conf"


def fresh(machine: Machine) -> None:
    """
    Let all units run, and nothing else.
    """
    machine.run("systemctl", "stop", RUN, f"{RUN}.socket", check=False)
    machine.systemctl("start", LISTENER, *WORKERS)
    _joined(machine)


def _joined(machine: Machine, count: int = 2) -> None:
    """
    Wait until so many workers have joined.
    """

    def look() -> bool:
        done = machine.run(PROGRAM, "status", "--json", PATH, check=False)
        if done.returncode not in (0, 1):
            return False
        # A worker with two endpoints joins twice.
        found = json.loads(done.stdout)["listener"]["workers"]
        return len({each["label"] for each in found}) == count

    until(look, f"{count} workers have joined")


def _pid(machine: Machine, unit: str) -> int:
    return int(machine.show(unit, "MainPID"))


def _runsAlone(machine: Machine, unit: str, former: int) -> None:
    """
    Wait until systemd has started another process, and it is ready.
    """
    until(
        lambda: (
            _pid(machine, unit) not in (0, former)
            and machine.show(unit, "ActiveState") == "active"
        ),
        f"{unit} is restarted",
    )
    assert machine.processes(unit) == {_pid(machine, unit)}


def start(machine: Machine) -> str:
    machine.run("systemctl", "stop", RUN, f"{RUN}.socket", check=False)
    took = machine.systemctl("start", LISTENER, *WORKERS)
    seen = machine.ask()
    assert seen == "ok", seen
    _joined(machine)
    line = machine.show(LISTENER, "StatusText")
    assert "https=tcp:0.0.0.0:443" in line, line
    assert PATH in line, line
    return f"active after {took:.1f} s, served; the status names the ports and the path"


def restartWorkers(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        for each in WORKERS:
            machine.systemctl("restart", each)
    return f"one after the other: {load.check()}"


def drainWorkers(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        for number, each in enumerate(WORKERS, 1):
            machine.out(PROGRAM, "drain", "--timeout", "60", PATH, f"web-{number}")
            machine.systemctl("restart", each)
    return f"one after the other: {load.check()}"


def killWorker(machine: Machine) -> str:
    fresh(machine)
    victim = _pid(machine, WORKERS[0])
    with machine.clients() as load:
        machine.kill("KILL", victim)
        _runsAlone(machine, WORKERS[0], victim)
    _joined(machine)
    return f"restarted by systemd: {load.check('cut')}"


def killListener(machine: Machine) -> str:
    fresh(machine)
    workers = [_pid(machine, each) for each in WORKERS]
    with machine.clients() as load:
        for _ in range(KILLS):
            victim = _pid(machine, LISTENER)
            machine.kill("KILL", victim)
            _runsAlone(machine, LISTENER, victim)
            _joined(machine)
    assert workers == [_pid(machine, each) for each in WORKERS], "the workers ended"
    load.check("cut")
    return f"{KILLS} times, restarted by systemd: {load}; the workers stay"


def restartListener(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        for _ in range(RESTARTS):
            machine.systemctl("restart", LISTENER)
            _joined(machine)
    return f"{RESTARTS} times: {load.check()}"


def withoutStore(machine: Machine) -> str:
    """
    Without the descriptor store, clients are refused: the steps before can tell.
    """
    machine.write(_DROP, "[Service]\nFileDescriptorStoreMax=0\nEnvironment=FDSTORE=0\n")
    machine.systemctl("daemon-reload")
    try:
        machine.run("systemctl", "stop", LISTENER)
        fresh(machine)
        with machine.clients() as load:
            machine.systemctl("restart", LISTENER)
            _joined(machine)
    finally:
        machine.run("systemctl", "stop", LISTENER)
        machine.remove(_DROP)
        machine.systemctl("daemon-reload")
    load.check("refused")
    assert load.refused, load
    return f"{load}; refused for {load.window:.1f} s"


def portRemoved(machine: Machine) -> str:
    """
    A stored socket that no port takes is closed, and leaves the store.
    """
    fresh(machine)
    before = int(machine.show(LISTENER, "NFileDescriptorStore"))
    machine.write(_DROP, _LISTENER.format(""))
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("restart", LISTENER)
        _joined(machine)
        seen = machine.ask(80), machine.ask(443)
        assert seen == ("ok", "refused"), seen
        after = int(machine.show(LISTENER, "NFileDescriptorStore"))
        assert after == before - 2, (before, after)
    finally:
        machine.run("systemctl", "stop", LISTENER)
        machine.remove(_DROP)
        machine.systemctl("daemon-reload")
    return f"port 443 is closed; {before} sockets in the store, then {after}"


def addressChanged(machine: Machine) -> str:
    """
    A stored socket is not in the way of a port that has changed its address.
    """
    fresh(machine)
    stored = machine.show(LISTENER, "NFileDescriptorStore")
    drops = (_LISTENER.format(LOOPBACK_443), _LISTENER.format("--listen https=443"))
    counts = []
    try:
        with machine.clients() as load:
            for drop in drops:
                machine.write(_DROP, drop)
                machine.systemctl("daemon-reload")
                machine.systemctl("restart", LISTENER)
                _joined(machine)
                counts.append(machine.show(LISTENER, "NFileDescriptorStore"))
                line = machine.show(LISTENER, "StatusText")
                assert (
                    f"tcp:{'0.0.0.0' if len(counts) > 1 else '127.0.0.1'}:443" in line
                )
        assert counts == [str(int(stored) - 1), stored], (stored, counts)
    finally:
        machine.run("systemctl", "stop", LISTENER)
        machine.remove(_DROP)
        machine.systemctl("daemon-reload")
    return f"port 443 on 127.0.0.1 alone, and on all addresses again: {load.check()}"


def unixPort(machine: Machine) -> str:
    """
    A Unix port stays the same file, with the same socket.
    """
    machine.run("systemctl", "stop", LISTENER)
    machine.write(_DROP, _LISTENER.format(UNIX))
    machine.systemctl("daemon-reload")
    path = "/run/portlisten/http.sock"
    places = set()
    try:
        fresh(machine)
        for number in range(5):
            seen = machine.askPath(path)
            assert seen == "ok", seen
            places.add(machine.out("stat", "--format=%i", path))
            lock = machine.out("readlink", f"{path}.lock")
            assert lock == str(_pid(machine, LISTENER)), lock
            if number % 2:
                machine.systemctl("restart", LISTENER)
            else:
                victim = _pid(machine, LISTENER)
                machine.kill("KILL", victim)
                seen = machine.askPath(path)
                assert seen == "ok", seen
                _runsAlone(machine, LISTENER, victim)
            _joined(machine)
        assert len(places) == 1, places
    finally:
        machine.run("systemctl", "stop", LISTENER)
        machine.remove(_DROP)
        machine.systemctl("daemon-reload")
    return "restarted and killed: the path leads to the same socket, and is served"


def tls(machine: Machine) -> str:
    machine.place("/etc/portlisten").mkdir(exist_ok=True)
    call(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc"),
            *("-subj", "/CN=localhost", "-days", "2"),
            *("-keyout", machine.place("/etc/portlisten/key.pem")),
            *("-out", machine.place("/etc/portlisten/cert.pem")),
        ]
    )
    machine.place("/etc/portlisten/key.pem").chmod(0o600)
    machine.write(_WORKER_DROP, TLS)
    machine.systemctl("daemon-reload")
    try:
        fresh(machine)
        machine.systemctl("restart", *WORKERS)
        seen = machine.ask(443, "https"), machine.ask(80)
        assert seen == ("ok", "ok"), seen
    finally:
        machine.remove(_WORKER_DROP)
        machine.systemctl("daemon-reload")
        machine.run("systemctl", "stop", *WORKERS)
    return "both ports served, with a key that only root may read"


def exposure(machine: Machine) -> str:
    found = []
    for unit, most in ((RUN, 3.0), (LISTENER, 1.5), (WORKERS[0], 1.0)):
        words = ("systemd-analyze", "security", "--no-pager", f"{unit}.service")
        match = re.search(r"exposure level for \S+: ([0-9.]+)", machine.out(*words))
        assert match is not None
        assert float(match[1]) <= most, f"{unit}: {match[1]}"
        found.append(f"{unit} {match[1]}")
    version = machine.out("systemctl", "--version").split()[1]
    return f"{', '.join(found)}, by systemd {version}"


def stop(machine: Machine) -> str:
    fresh(machine)
    with machine.clients() as load:
        took = machine.systemctl("stop", LISTENER, *WORKERS)
        seen = machine.ask()
    assert seen == "refused", seen
    for each in (LISTENER, *WORKERS):
        assert machine.show(each, "Result") == "success", each
        assert not machine.processes(each), each
    assert not machine.exists("/run/portlisten")
    load.check("refused", "cut")
    return f"took {took:.1f} s: {load}; ports closed, /run/portlisten gone"


def _withSocket(machine: Machine) -> None:
    machine.write(_DROP, SYSTEMD_HOLDS)
    machine.run("systemctl", "stop", RUN, f"{RUN}.socket", LISTENER, check=False)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", SOCKET)
    machine.systemctl("start", LISTENER, *WORKERS)
    _joined(machine)


def socketRestart(machine: Machine) -> str:
    _withSocket(machine)
    with machine.clients() as load:
        for _ in range(3):
            machine.systemctl("restart", LISTENER)
            _joined(machine)
    load.check()
    return f"three times: {load}; the slowest took {load.longest:.1f} s"


def socketKill(machine: Machine) -> str:
    _withSocket(machine)
    victim = _pid(machine, LISTENER)
    with machine.clients() as load:
        machine.kill("KILL", victim)
        _runsAlone(machine, LISTENER, victim)
        _joined(machine)
    return f"restarted by systemd: {load.check('cut')}"


def socketActivation(machine: Machine) -> str:
    _withSocket(machine)
    machine.systemctl("stop", LISTENER)
    state = machine.show(LISTENER, "ActiveState")
    assert state == "inactive", state
    seen = machine.ask()
    assert seen == "ok", seen
    state = machine.show(LISTENER, "ActiveState")
    assert state == "active", state
    return "the listener was stopped; a client starts it, and is served"


def socketEnd(machine: Machine) -> str:
    machine.run("systemctl", "stop", SOCKET, LISTENER, *WORKERS)
    machine.remove(_DROP)
    machine.systemctl("daemon-reload")
    seen = machine.ask()
    assert seen == "refused", seen
    return "all stopped; the port is closed"


STEPS = [
    Step(unit, name, do)
    for unit, name, do in (
        (LISTENER, "start, with two workers", start),
        ("portlisten-worker@", "systemctl restart, under load", restartWorkers),
        ("portlisten-worker@", "drain and restart, under load", drainWorkers),
        ("portlisten-worker@", "SIGKILL, under load", killWorker),
        (LISTENER, "systemctl restart, under load", restartListener),
        (LISTENER, "SIGKILL, under load", killListener),
        (LISTENER, "systemctl restart, no store", withoutStore),
        (LISTENER, "systemctl restart, a port is removed", portRemoved),
        (LISTENER, "systemctl restart, other address, under load", addressChanged),
        (LISTENER, "restart and SIGKILL, a Unix port", unixPort),
        (LISTENER, "systemctl stop of all, under load", stop),
        ("portlisten-worker@", "start with TLS", tls),
        (SOCKET, "systemctl restart portlisten, under load", socketRestart),
        (SOCKET, "SIGKILL of the listener, under load", socketKill),
        (SOCKET, "a client while the listener is stopped", socketActivation),
        (SOCKET, "systemctl stop", socketEnd),
        ("all", "systemd-analyze security", exposure),
    )
]
