"""
C{portlisten run} and what it runs, for tests.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.support.clients import ask
from tests.support.ports import freePort
from tests.support.processes import SOURCE
from tests.support.programs import pythonFor
from tests.support.spawned import Process, Start
from tests.support.waiting import PATIENCE, sleep

IS_ROOT = os.geteuid() == 0

#: The users of the listener and of the workers: L{None} for the caller.
LISTENER_USER = "nobody" if IS_ROOT else None
WORKER_USER = "daemon" if IS_ROOT else None

#: All that a supervisor starts has this variable, with the folder of the test.
MARK = "PORTLISTEN_TESTS_RUN"

#: A line of a table that names the workers' user.
USER = f'user = "{WORKER_USER}"' if IS_ROOT else ""


@dataclass
class Done:
    """
    A command that has ended.
    """

    code: int
    output: str
    errors: str


class Run:
    """
    A file of C{portlisten run} in a folder, and its supervisor.

    @param start: starts a process.

    @ivar port: a free port.
    @ivar path: the path of the channel.
    @ivar process: the supervisor.
    """

    process: Process

    def __init__(self, folder: Path, start: Start) -> None:
        self._start = start
        self.folder = folder
        self.port = freePort(20000, 30000)
        self.path = str(folder / "sock")
        self.file = folder / "web.toml"
        words = [sys.executable] if LISTENER_USER is None else pythonFor(LISTENER_USER)
        self._python = words[-1]
        path = os.pathsep.join(
            filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")])
        )
        self._variables = [*words[1:-1]] or [f"PYTHONPATH={path}"]

    # The file

    def write(self, *tables: str, ports: str = "") -> None:
        """
        Write the file.

        @param tables: the tables of workers.
        @param ports: the tables of the ports; by default one port, C{http}.
        """
        top = [f'path = "{self.path}"']
        if IS_ROOT:
            top += [f'user = "{LISTENER_USER}"', f'group = "{WORKER_USER}"']
        ports = ports or f"[ports.http]\nlisten = {self.address(self.port)}"
        self.file.write_text("\n".join([*top, ports, *tables, ""]))

    @staticmethod
    def address(port: int, also: str = "") -> str:
        """
        Write a port of the loopback device.
        """
        return f'"tcp:{port}:interface=127.0.0.1{also}"'

    def table(self, name: str, command: list[str] | None = None, also: str = "") -> str:
        """
        Write the table of a group of workers.

        @param command: by default, a worker of L{tests.support.run_worker}.
        @param also: more lines.
        """
        if command is None:
            description = "portlisten:{path}:name=http"
            command = self.module("tests.support.run_worker", description)
        words = json.dumps(command)
        lines = [f"[workers.{name}]", f"command = {words}", "stop = 5", USER, also]
        if "environment" not in also:
            lines.append(f'environment = {{MODE = "{self.mode(name)}"}}')
        return "\n".join(lines)

    def module(self, *words: str) -> list[str]:
        """
        The words that run a module, in the supervisor's environment.
        """
        return [self._python, "-m", *words]

    def script(self, module: str, *words: str) -> list[str]:
        """
        The words that run the script of a package: the function C{run} or C{main} of
        one of its modules.
        """
        name, function = module.split(":")
        code = f"from {name} import {function}; raise SystemExit({function}())"
        return [self._python, "-c", code, *words]

    def twistd(self, *words: str) -> list[str]:
        """
        The words that run C{twistd} in the foreground, as a worker does.
        """
        return self.script("twisted.scripts.twistd:run", "-n", "--pidfile=", *words)

    def mode(self, name: str, text: str | None = None) -> Path:
        """
        The file of L{tests.support.run_worker} for a group of workers.

        @param text: is written to it.
        """
        file = self.folder / f"{name}.mode"
        if text is not None or not file.exists():
            # The workers read it at any time.
            other = self.folder / "new.mode"
            other.write_text(text or "")
            other.rename(file)
        return file

    # The supervisor

    def launch(
        self, words: Sequence[str] = (), variables: Mapping[str, str] | None = None
    ) -> Process:
        """
        Start the supervisor.

        @param words: its command line, by default that of C{portlisten run FILE}.
        @param variables: are added to its environment.
        """
        every = {MARK: str(self.folder), **(variables or {})}
        given = [f"{name}={value}" for name, value in every.items()]
        words = words or self.module("portlisten", "run", str(self.file))
        self.process = self._start("/usr/bin/env", *given, *self._variables, *words)
        return self.process

    def environment(self) -> dict[str, str]:
        """
        What a supervisor has in its environment that L{launch} does not start.
        """
        pairs = [each.split("=", 1) for each in self._variables if "=" in each]
        return {MARK: str(self.folder), **dict(pairs)}

    def launchAs(
        self, ids: tuple[int, int], words: Sequence[str], variables: Mapping[str, str]
    ) -> Process:
        """
        Start another process.

        @param ids: the uid and the gid that it gets.
        """
        given = [f"{name}={value}" for name, value in variables.items()]
        uid, gid = ids
        return self._start(
            *("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
            *("/usr/bin/env", *given, *self._variables, *words),
        )

    async def begin(self, *tables: str) -> Process:
        """
        Write the file, start the supervisor, and wait until all workers are ready.
        """
        self.write(*tables)
        process = self.launch()
        await self.ready()
        return process

    async def ready(self) -> dict[str, Any]:
        """
        Wait until all workers of all groups are ready.
        """
        return await self.shows(
            lambda found: all(
                each["ready"] == each["count"] for each in groups(found).values()
            )
        )

    def members(self) -> dict[int, str]:
        """
        The processes that the supervisor started and that run, with the supervisor.

        @return: their command lines, by their numbers.
        """
        mark = f"{MARK}={self.folder}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode()
            except OSError:
                continue
        return found

    async def stop(self, code: int = 0) -> None:
        """
        Send SIGTERM to the supervisor, and check that nothing is left.
        """
        assert await self.process.stop() == code, self.process.output
        self.checkNothingLeft()

    def checkNothingLeft(self) -> None:
        """
        Check that no process, no path and no bound port is left.
        """
        # What was killed last may take a moment to end.
        end = time.monotonic() + 5
        while (members := self.members()) and time.monotonic() < end:
            time.sleep(0.05)
        assert members == {}
        assert not os.path.lexists(self.path)
        assert not os.path.lexists(f"{self.path}.ctl")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
            sock.listen()

    def end(self) -> None:
        """
        End whatever is left.
        """
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # Operators

    async def command(self, *words: str) -> Done:
        """
        Run C{portlisten}.
        """

        def run() -> Done:
            done = subprocess.run(
                ["/usr/bin/env", *self._variables, *self.module("portlisten"), *words],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=self.folder,
                check=False,
            )
            return Done(done.returncode, done.stdout, done.stderr)

        done: Done = await deferToThread(run)
        return done

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """
        Ask on the control socket.
        """
        line = json.dumps({"version": 1, "command": command, **fields})
        found: dict[str, Any] = await deferToThread(self._ask, line)
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as file:
            sock.settimeout(PATIENCE)
            sock.connect(f"{self.path}.ctl")
            sock.sendall(line.encode() + b"\n")
            answer: dict[str, Any] = json.loads(file.readline())
            return answer

    async def shows(self, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """
        Ask for the status until it is as it should be.
        """
        end = time.monotonic() + PATIENCE
        found: dict[str, Any] = {}
        while True:
            with suppress(OSError):  # the socket is not bound yet
                found = await self.ask("status")
                if what(found):
                    return found
            assert self.process.running, self.process.output
            assert time.monotonic() < end, (found, self.process.output)
            await sleep(0.05)

    # Clients

    async def client(self, line: str = "who", port: int = 0) -> dict[str, Any]:
        """
        Run a client.

        @param port: by default the one of C{http}.
        """
        answer = await deferToThread(ask, port or self.port, send=line.encode() + b"\n")
        assert answer, f"{line}: {answer!r}"
        found: dict[str, Any] = json.loads(answer)
        return found


def groups(status: dict[str, Any]) -> dict[str, Any]:
    """
    The groups of workers in an answer to C{status}, by their names.
    """
    return {each["name"]: each for each in status["supervisor"]["groups"]}


def workers(status: dict[str, Any]) -> dict[str, Any]:
    """
    The workers' processes in an answer to C{status}, by their labels.
    """
    return {
        each["label"]: each
        for group in status["supervisor"]["groups"]
        for each in group["processes"]
    }


def pids(status: dict[str, Any], name: str = "") -> dict[str, int]:
    """
    The numbers of the workers' processes, by their labels.

    @param name: of a group.
    """
    return {
        label: each["pid"]
        for label, each in workers(status).items()
        if label.startswith(name)
    }


def userOf(name: str | None) -> tuple[int, int]:
    """
    The uid and the gid that a process of this user has.
    """
    if name is None:
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(name)
    return entry.pw_uid, entry.pw_gid
