"""
One balancer: a network namespace with HAProxy, keepalived, or both.
"""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.machines.machine import ADDRESSES, CONTRIB, Host, until
from tests.support.networks import Switch
from tests.support.processes import PATIENCE, Process, Processes

#: The names of the balancers, by the files of C{contrib/keepalived}.
NAMES = ("first", "second")


class Keepalived:
    """
    keepalived on some host.

    @param host: which one.
    @param file: its file, which is used as it is.
    """

    process: Process

    def __init__(self, host: Host, file: Path) -> None:
        self._host = host
        self._file = file

    def start(self, *changes: tuple[str, str]) -> None:
        """
        Start it.

        @param changes: what differs in the file, in the place of what.
        """
        text = self._file.read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        file = self._host.folder / "keepalived.conf"
        file.write_text(text)
        file.chmod(0o644)
        files = {kind: self._host.folder / kind for kind in ("pid", "vrrp_pid")}
        for each in files.values():
            each.unlink(missing_ok=True)
        own = [f"--{kind}={path}" for kind, path in files.items()]
        # At its end, it sends SIGTERM to its process group.
        program = ["setsid", "keepalived", "-n", "-l", "-D", "-P", *own]
        self.process = self._host.start(*program, "-f", str(file))

    def stop(self) -> None:
        """
        Stop it by SIGTERM: it gives the address up.
        """
        self.process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """
        Kill all its processes.
        """
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def has(self) -> bool:
        """
        Whether this host has both addresses.
        """
        shown = subprocess.run(
            ["ip", "-n", self._host.namespace, "-o", "address"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        return all(f" {each}/" in shown for each in ADDRESSES)


class Balancer(Host):
    """
    One balancer.

    @param number: from 0.
    @ivar name: C{first} or C{second}.
    @ivar haproxy: HAProxy.
    @ivar keepalived: keepalived, which L{Keepalived.start} starts.
    """

    haproxy: Process

    def __init__(
        self, number: int, namespace: str, switch: Switch, processes: Processes
    ) -> None:
        self.name = NAMES[number]
        super().__init__(self.name, 2 + number, namespace, switch, processes)
        file = CONTRIB / "keepalived" / f"{self.name}.conf"
        self.keepalived = Keepalived(self, file)

    def begin(self, *changes: tuple[str, str]) -> None:
        """
        Start HAProxy, by C{contrib/haproxy/haproxy.cfg}.  Only the folder of its socket
        differs.

        @param changes: what differs as well, in the place of what.
        """
        text = (CONTRIB / "haproxy" / "haproxy.cfg").read_text()
        for old, new in [("/run/haproxy", str(self.folder)), *changes]:
            assert old in text, old
            text = text.replace(old, new)
        file = self.folder / "haproxy.cfg"
        file.write_text(text)
        self.haproxy = self.start("haproxy", "-db", "-f", str(file))
        until(self.states, "HAProxy answers")

    def stop(self) -> None:
        """
        End HAProxy, if it runs.
        """
        self.haproxy.kill()

    def take(self) -> None:
        """
        Have the address, without keepalived.
        """
        for each in ADDRESSES:
            also = ["nodad"] if ":" in each else []
            words = ["ip", "address", "add", each, "dev", "eth0", *also]
            subprocess.run(self.words(*words), check=True)

    def ask(self, line: str) -> str:
        """
        Ask HAProxy by its socket.

        @return: the answer; it is empty if nothing answers.
        """
        with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
            sock.settimeout(PATIENCE)
            sock.connect(str(self.folder / "admin.sock"))
            sock.sendall(f"{line}\n".encode())
            return sock.makefile().read()
        return ""

    def _column(self, name: str, backend: str) -> dict[str, str]:
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return {
            each["svname"]: each[name]
            for each in rows
            if each["pxname"] == backend
            and each["svname"] not in ("BACKEND", "FRONTEND")
        }

    def states(self, backend: str = "http") -> dict[str, str]:
        """
        The states of the machines, such as C{UP} and C{DOWN}, by their names.
        """
        return {
            name: state.split()[0]
            for name, state in self._column("status", backend).items()
        }

    def sessions(self, backend: str = "http") -> dict[str, int]:
        """
        How many sessions each machine has.
        """
        return {
            name: int(count) for name, count in self._column("scur", backend).items()
        }

    def sees(self, name: str, state: str, patience: float = PATIENCE) -> None:
        """
        Wait until it sees a machine in a state.
        """
        # A state that is about to change is as in "UP 1/2".
        until(
            lambda: self._column("status", "http").get(name) == state,
            f"HAProxy sees {name} {state}",
            patience,
        )
