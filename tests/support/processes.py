"""
Real processes for the commands that try faults, without a reactor.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

SOURCE = Path(__file__).parents[2]

#: How long anything here may take, in seconds.
PATIENCE = 30.0


class Process:
    """
    A process that writes a log, and ends with the C{with} statement.

    @ivar log: the file that has all its output.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        name: str,
        limit: int = 0,
        user: str = "",
    ) -> None:
        """
        Start it.

        @param limit: C{RLIMIT_NOFILE}; with 0, the usual one.
        @param user: the user to run it as; empty for the user of this process.
        """
        self.log = folder / f"{name}.log"
        program = list(arguments)
        if user:
            entry = pwd.getpwnam(user)
            ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}"]
            program = ["setpriv", *ids, "--clear-groups", *arguments]
        if limit:
            program = ["prlimit", f"--nofile={limit}:{limit}", *program]

        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(SOURCE)},
            )
        self.pid = self._process.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """
        Return its output so far.
        """
        return self.log.read_text("utf-8", "replace")

    @property
    def running(self) -> bool:
        """
        Whether it has not ended.
        """
        return self._process.poll() is None

    def says(
        self, pattern: str, since: int = 0, patience: float = PATIENCE
    ) -> re.Match[str]:
        """
        Wait until its output matches a pattern.

        @param since: how many characters of its output do not count.
        @raise AssertionError: if it does not in time.
        """
        until = time.monotonic() + patience
        while True:
            ended = not self.running
            match = re.search(pattern, self.output[since:])
            if match is not None:
                return match
            if ended or time.monotonic() > until:
                raise AssertionError(f"no {pattern!r} in the log:\n{self.output}")
            time.sleep(0.02)

    def port(self) -> int:
        """
        Wait for a listener, and say on which port it listens.
        """
        return int(self.says(r"listening on \S+:(\d+)\b.*workers (?:connect|bind)")[1])

    def descriptors(self) -> int:
        """
        How many descriptors it has open.
        """
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """
        Its resident memory, in KiB.
        """
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
        assert match is not None
        return int(match[1])

    def signal(self, number: int) -> None:
        """
        Send it a signal, if it has not ended.
        """
        self._process.send_signal(number)

    def stop(self) -> int:
        """
        Send it SIGTERM, and wait for its end.

        @return: the exit code.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """
        Wait for its end.

        @return: the exit code.
        """
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """
        Send it SIGKILL, and wait for its end.
        """
        self._process.kill()
        self._process.wait()


class Processes(ExitStack):
    """
    Starts processes in a folder of its own, and ends all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="portlisten."))
        self.folder.chmod(0o755)
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._count = 0

    def start(self, *arguments: str, limit: int = 0, user: str = "") -> Process:
        """
        Start a program.
        """
        self._count += 1
        name = f"{self._count}-{Path(arguments[0]).name}"
        return self.enter_context(Process(arguments, self.folder, name, limit, user))

    def python(self, *arguments: str, limit: int = 0, user: str = "") -> Process:
        """
        Run this Python.
        """
        return self.start(sys.executable, *arguments, limit=limit, user=user)

    def twistd(self, *arguments: str, uid: str = "", limit: int = 0) -> Process:
        """
        Run C{twistd} in the foreground.

        @param uid: the user to become; empty for the user of this process.
        """
        program = str(Path(sys.executable).with_name("twistd"))
        own = [f"--uid={uid}"] if uid else []
        return self.start(program, "-n", "--pidfile=", *own, *arguments, limit=limit)
