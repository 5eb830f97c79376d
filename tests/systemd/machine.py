"""
A machine whose first process is systemd: a container of C{systemd-nspawn}, with a
network of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.support import trials
from tests.support.debian import ENVIRONMENT, Failed
from tests.systemd.control_groups import controlGroups, remove
from tests.systemd.load import Load
from tests.systemd.root import SOURCE

_T = TypeVar("_T")

#: How long anything may take, in seconds.
PATIENCE = 90.0


def until(condition: Callable[[], _T], what: str, patience: float = PATIENCE) -> _T:
    """
    See L{trials.until}.
    """
    return trials.until(condition, what, patience)


class Machine:
    """
    The machine.

    @param root: its root folder, which it may change.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = f"portlisten-{os.getpid()}"
        self._groups = [each / self.name for each in controlGroups()]
        self._console = root.parent / "console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._pid = 0

    # Its life

    def boot(self) -> float:
        """
        Start it.

        @return: how long systemd took, in seconds.
        @raise Failed: if systemd does not run.
        """
        for each in self._groups:
            each.mkdir(exist_ok=True)
        # The control groups are its own, so that nothing is left behind in others'.
        join = "".join(f"echo 0 >{each}/cgroup.procs; " for each in self._groups)
        options = ["--register=no", "--keep-unit", "--private-network", "--boot"]
        options += [f"--machine={self.name}", "--console=pipe"]
        # It ends with this process.
        guard = ["setpriv", "--pdeathsig=KILL"]
        began = time.monotonic()
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    *("sh", "-ec", f'{join}exec "$@"', "sh", *guard, "systemd-nspawn"),
                    *(*options, f"--directory={self._root}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        until(self._runs, "systemd runs")
        return time.monotonic() - began

    def _runs(self) -> bool:
        """
        Whether systemd runs, and has started all.

        @raise Failed: if it has ended, or a unit has failed.
        """
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            text = self._console.read_text(errors="replace")[-2000:]
            raise Failed(f"systemd-nspawn has ended:\n{text}")
        self._pid = self._child()
        if not self._pid:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout
        if state.startswith("degraded"):
            raise Failed(self.out("systemctl", "--failed"))
        return state.startswith("running")

    def _child(self) -> int:
        assert self._nspawn is not None
        pid = self._nspawn.pid
        with suppress(OSError):
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for each in words:
                if Path(f"/proc/{each}/comm").read_text() == "systemd\n":
                    return int(each)
        return 0

    def reboot(self) -> float:
        """
        Say C{systemctl reboot}.

        @return: how long it took, in seconds.
        """
        assert self._nspawn is not None
        began = time.monotonic()
        self.run("systemctl", "reboot")
        # With --keep-unit, it ends, and is to be started again: see
        # RestartForceExitStatus=133 in systemd-nspawn@.service.
        code = self._nspawn.wait(PATIENCE)
        assert code == 133, f"systemd-nspawn exited with {code}"
        self.boot()
        return time.monotonic() - began

    def end(self) -> None:
        """
        Power it off, and leave nothing behind.
        """
        if self._nspawn is not None:
            try:
                self.run("systemctl", "poweroff", check=False)
                self._nspawn.wait(PATIENCE)
            except (OSError, subprocess.TimeoutExpired):
                self._nspawn.kill()
                self._nspawn.wait()
        for each in self._groups:
            remove(each)
        left = Path("/run/systemd/nspawn/propagate", self.name)
        with suppress(OSError):
            left.rmdir()

    # What goes on in it

    def run(
        self, *words: str, check: bool = True, patience: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a program in it, as root.

        @raise AssertionError: if it does not succeed, and C{check} is true.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--all", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
            timeout=patience,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout[-2000:]}")
        return done

    def out(self, *words: str) -> str:
        """
        Run a program in it.

        @return: what it writes.
        """
        return self.run(*words).stdout.strip()

    def systemctl(self, *words: str) -> float:
        """
        Run C{systemctl}.

        @return: how long it took, in seconds.
        @raise AssertionError: if it does not succeed.  The text has the journal's end.
        """
        began = time.monotonic()
        done = self.run("systemctl", *words, check=False)
        took = time.monotonic() - began
        if done.returncode:
            text = f"systemctl {' '.join(words)}: {done.stdout}\n{self.journal()}"
            raise AssertionError(text)
        return took

    def kill(self, signal: str, pid: int) -> None:
        """
        Send a signal to a process.

        @param signal: its name, without C{SIG}.
        @param pid: the process's number in the machine.
        """
        self.run("sh", "-c", f"kill -{signal} {pid}")

    def show(self, unit: str, name: str) -> str:
        """
        Get a property of a unit.
        """
        return self.out("systemctl", "show", f"--property={name}", "--value", unit)

    def mark(self) -> str:
        """
        Mark a place in the journal.

        @return: the mark, for L{journal}.
        """
        text = self.out("journalctl", "--lines=0", "--show-cursor", "--quiet")
        return text.removeprefix("-- cursor: ")

    def journal(self, since: str = "", unit: str = "") -> str:
        """
        Read the journal, or its end.

        @param since: what L{mark} returned.
        """
        words = [f"--after-cursor={since}"] if since else ["--lines=1000"]
        words += [f"--unit={unit}"] if unit else []
        text = self.out("journalctl", "--quiet", "--no-pager", "--output=cat", *words)
        # The requests of clients are many.
        return "\n".join(each for each in text.splitlines() if '"GET ' not in each)

    def processes(self, unit: str) -> set[int]:
        """
        The processes of a unit, by the numbers that they have in the machine.
        """
        group = self.show(unit, "ControlGroup")
        if not group:
            return set()
        places = [
            f"{top}{group}/cgroup.procs"
            for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd")
        ]
        found = self.run("cat", *places, check=False).stdout
        return {int(each) for each in found.split() if each.isdigit()}

    def place(self, path: str) -> Path:
        """
        Find the place of a path, as this host sees it.
        """
        return self._root / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        """
        Write a file in it, with its folder, for all to read.
        """
        file = self.place(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)

    def remove(self, path: str) -> None:
        """
        Remove a file in it, if it is there.
        """
        self.place(path).unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """
        Whether a path is there.
        """
        return not self.run("test", "-e", path, check=False).returncode

    # Its clients

    @contextmanager
    def clients(self, port: int = 80, atOnce: int = 12) -> Iterator[Load]:
        """
        Let clients ask until the end of the C{with} statement.

        @return: what they saw.  It is complete after the C{with} statement.
        """
        load = Load()
        words = [sys.executable, "-m", "tests.systemd.client", str(port), str(atOnce)]
        process = subprocess.Popen(
            ["nsenter", f"--target={self._pid}", "--net", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=SOURCE,
        )
        try:
            time.sleep(1)
            yield load
            time.sleep(0.5)
            output, _ = process.communicate("", PATIENCE)
            values: dict[str, Any] = json.loads(output)
            vars(load).update(values)
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def taken(self, port: int) -> Iterator[None]:
        """
        Let another process have a port until the end of the C{with} statement.
        """
        code = (
            "import socket, sys\n"
            "kept = socket.create_server(('', int(sys.argv[1])))\n"
            "print(flush=True)\n"
            "input()"
        )
        words = [sys.executable, "-c", code]
        process = subprocess.Popen(
            ["nsenter", f"--target={self._pid}", "--net", *words, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
            process.wait()

    def code(self, port: int, path: str = "/healthz") -> int:
        """
        Ask by HTTP.

        @return: the code of the answer; 0 if nothing answers.
        """
        words = ["curl", "-sS", "-m20", "-o/dev/null", "-w%{http_code}"]
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._pid}", "--net", *words),
                f"http://127.0.0.1:{port}{path}",
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return int(done.stdout)

    def ask(
        self,
        port: int = 80,
        scheme: str = "http",
        path: str = "/",
        patience: float = 20.0,
    ) -> str:
        """
        Be one client.

        @param scheme: C{http} or C{https}.
        @return: C{ok}, C{refused}, or what else C{curl} said.
        """
        words = ["curl", "-ksS", f"-m{patience:g}"]
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._pid}", "--net", *words),
                f"{scheme}://127.0.0.1:{port}{path}",
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        known = {"hello\n": "ok"}
        if done.returncode == 7:
            return "refused"
        return known.get(done.stdout, done.stdout or f"exit code {done.returncode}")

    def askPath(self, path: str) -> str:
        """
        Be one client of a Unix socket.

        @return: C{ok}, or what was seen.
        """
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(f"/proc/{self._pid}/root{path}")
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := client.recv(4096):
                    answer += data
        except OSError as error:
            return str(error)
        return "ok" if answer.endswith(b"\r\n\r\nhello\n") else repr(answer)
