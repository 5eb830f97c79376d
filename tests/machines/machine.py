"""
One machine: a network namespace with its own C{portlisten run}, its file, its path and
its workers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.support import trials
from tests.support.networks import Switch
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.run_service import (
    GROUP,
    LISTENER_USER,
    SOURCE,
    WORKERS_USER,
    portlisten,
    pythonFor,
)

CONTRIB = SOURCE / "contrib"

#: The address that clients connect to, of IPv4 and of IPv6.
ADDRESSES = ("192.0.2.1", "2001:db8::1")

#: The names of the machines, as in C{contrib/haproxy/haproxy.cfg}.
NAMES = ("one", "two", "three")

#: How many workers each machine has: the host has few cores.
WORKERS = 2

#: What the Python of the workers must have.
MODULES = ("twisted.web", "OpenSSL")

#: What the command of the workers begins with, by any Python.
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")

_T = TypeVar("_T")


def until(condition: Callable[[], _T], what: str, patience: float = PATIENCE) -> _T:
    """
    See L{trials.until}.
    """
    return trials.until(condition, what, patience, 0.02)


class Host:
    """
    A network namespace with an address, and what runs there.

    @param name: of its folder.
    @param last: the last number of its address.
    @param namespace: a new one.
    @ivar address: of IPv4.
    @ivar folder: for its files.
    """

    def __init__(
        self,
        name: str,
        last: int,
        namespace: str,
        switch: Switch,
        processes: Processes,
    ) -> None:
        self.namespace = namespace
        self.address = f"192.0.2.{last}"
        self.folder = processes.folder / name
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self._switch = switch
        self._processes = processes
        self._started: list[Process] = []
        addresses = (f"{self.address}/24", f"2001:db8::{last}/64")
        self._port = switch.plug(namespace, *addresses)

    def start(self, *program: str) -> Process:
        """
        Start a program here.
        """
        self._started.append(self._processes.start(*self.words(*program)))
        return self._started[-1]

    def words(self, *program: str) -> list[str]:
        """
        The words that run a program here.
        """
        return ["ip", "netns", "exec", self.namespace, *program]

    def link(self, up: bool) -> None:
        """
        Let its network work, or lose all packets.
        """
        self._switch.set(self._port, up)

    def pids(self) -> list[int]:
        """
        The processes here.
        """
        found = subprocess.run(
            ["ip", "netns", "pids", self.namespace], check=True, stdout=subprocess.PIPE
        )
        return [int(each) for each in found.stdout.split()]

    def kill(self) -> None:
        """
        End all processes here at once by SIGKILL.
        """
        # A process may have been about to start another one.
        while there := self.pids():
            for each in there:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            time.sleep(0.01)
        for process in self._started:
            process.wait()
        self._started.clear()

    def end(self) -> None:
        """
        End all that runs, and no longer have the address that clients connect to.
        """
        self.kill()
        self.link(up=True)
        for each in ADDRESSES:
            length = 128 if ":" in each else 32
            words = ["ip", "address", "del", f"{each}/{length}", "dev", "eth0"]
            subprocess.run(self.words(*words), check=False, capture_output=True)


class Machine(Host):
    """
    One machine.

    @param number: from 0.
    @ivar name: as in C{contrib/haproxy/haproxy.cfg}.
    @ivar process: the supervisor.
    """

    process: Process

    def __init__(
        self, number: int, namespace: str, switch: Switch, processes: Processes
    ) -> None:
        self.name = NAMES[number]
        super().__init__(self.name, 11 + number, namespace, switch, processes)
        self._file = self.folder / "web.toml"
        self._version = self.folder / "version"

    # Its file

    def write(self, source: Path, *changes: tuple[str, str]) -> None:
        """
        Write the file of C{portlisten run}.

        Only this machine's own things differ from the source: the address, paths,
        users, the Python of the workers, how many they are, and what they serve.

        @param source: a file of C{contrib}.
        @param changes: what differs as well, in the place of what.
        """
        program = json.dumps([pythonFor(*MODULES)[-1], *TWISTD])[1:-1]
        own = {
            "192.0.2.11": self.address,
            "/run/portlisten/": f"{self.folder}/",
            "/etc/portlisten/": f"{self._processes.folder}/",
            '"twistd"': program,
            "--path=/srv/www": "--class=tests.machines.site.Page",
            "count = 4": f"count = {WORKERS}",
            'user = "portlisten"': f'user = "{LISTENER_USER}"',
            'user = "web"': f'user = "{WORKERS_USER}"\n{self._environment()}',
            'group = "web"': f'group = "{GROUP}"',
        }
        text = source.read_text()
        for old, new in [*changes, *own.items()]:
            text = text.replace(old, new)
        self._file.write_text(text)
        self._file.chmod(0o644)

    def _environment(self) -> str:
        return f'environment = {{MACHINE = "{self.name}", VERSION = "{self._version}"}}'

    def install(self, version: str) -> None:
        """
        Install a version of what the workers serve.  They have it when they start.
        """
        self._version.write_text(version)
        self._version.chmod(0o644)

    # Its life

    def begin(self) -> None:
        """
        Start the supervisor.
        """
        words = portlisten("run", str(self._file), modules=MODULES)
        self.process = self.start(*words)

    def log(self) -> str:
        """
        The end of its log, without requests.
        """
        lines = self.process.output.splitlines()
        return "\n".join([each for each in lines if '"GET ' not in each][-40:])

    def ready(self) -> None:
        """
        Wait until all is well.
        """
        until(lambda: self.status().get("problems") == [], f"{self.name} is well")

    def stop(self) -> None:
        """
        Stop all by C{portlisten stop}.
        """
        self.command("stop")
        self.process.wait()

    # Operators

    def command(self, name: str, *words: str) -> str:
        """
        Run C{portlisten}.

        @return: its output.
        @raise AssertionError: if it does not succeed.
        """
        program = portlisten(name, str(self._file), *words, modules=MODULES)
        done = subprocess.run(
            program,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            cwd="/",
        )
        assert not done.returncode, f"portlisten {name}: {done.stdout}\n{self.log()}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """
        Ask for the status; it is empty if nothing answers.
        """
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as file:
            sock.settimeout(PATIENCE)
            try:
                sock.connect(f"{self.folder}/web.sock.ctl")
                sock.sendall(b'{"version": 1, "command": "status"}\n')
                return dict(json.loads(file.readline() or b"{}"))
            except OSError:
                return {}

    def labels(self) -> list[str]:
        """
        The labels of the workers.
        """
        groups = self.status()["supervisor"]["groups"]
        return [each["label"] for group in groups for each in group["processes"]]

    def serving(self) -> int:
        """
        How many connections the workers serve.
        """
        return sum(each["serving"] or 0 for each in self.status()["workers"])
