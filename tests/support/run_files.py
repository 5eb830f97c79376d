"""
Files of C{portlisten run} for tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: Runs C{portlisten check} for each file that it reads the name of, in a process each.
_SERVER = """
import os, sys
from portlisten._commands.portlisten import main
for line in sys.stdin:
    folder, file = line.rstrip(chr(10)).split(chr(9))
    child = os.fork()
    if not child:
        for name, number in ("out", 1), ("err", 2):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(os.path.join(folder, name), flags), number)
        main(["check", file])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

#: A line that names a user, if this process must name one.
USER = 'user = "nobody"' if os.geteuid() == 0 else ""

#: The same for the listener.
LISTENER = 'user = "daemon"' if os.geteuid() == 0 else ""

#: A line that gives the channel's path to the workers' group, if that is another's.
GROUP = 'group = "nogroup"' if os.geteuid() == 0 else ""

PATH = 'path = "/tmp/portlisten-none.sock"'
TOP = f"{PATH}\n{LISTENER}\n{GROUP}"
COMMAND = 'command = ["/bin/sleep", "60", "{path}"]'
WORKERS = f"[workers.web]\n{COMMAND}\n{USER}"
PORTS = "[ports.http]\nlisten = 80"


def runFile(
    top: str = TOP, ports: str = PORTS, workers: str = WORKERS, also: str = ""
) -> str:
    """
    Write a file.  Each part has a default without mistakes.

    @param top: the lines above all tables.
    @param ports: the tables of the ports.
    @param workers: the table C{[workers.web]}.
    @param also: more lines of that table.
    """
    return "\n".join([top, ports, workers, also, ""])


class Checker:
    """
    A process that has loaded the C{portlisten} command, and runs C{portlisten check} in
    children of its own.
    """

    def __enter__(self) -> Checker:
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def check(self, file: Path) -> subprocess.CompletedProcess[str]:
        """
        Check a file.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self._folder.name}\t{file}\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = (
            Path(self._folder.name, each).read_text() for each in ("out", "err")
        )
        return subprocess.CompletedProcess(["check", str(file)], code, out, err)
