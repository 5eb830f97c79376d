"""
C{portlisten run} whose listener, workers or operators are hostile or unlucky.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import twisted.python

import portlisten
from tests.support.ports import freePort
from tests.support.processes import Process

LISTENER_USER = "daemon"
WORKER_USER = "nobody"
IS_ROOT = os.geteuid() == 0

#: How long anything may take, in seconds.
PATIENCE = 60.0

#: Runs in the place of the listener: takes the start message, and does what the text
#: after it says.
HOSTILE = """
import array, json, os, signal, socket, sys, time
link = socket.socket(fileno=3)
line, descriptors = b"", []
while b"\\n" not in line:
    data, came, _, _ = link.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
    for _, _, each in came:
        descriptors += array.array("i", each)
    line += data
received = b""
def say(**message):
    link.sendall(json.dumps({"version": 1, **message}).encode() + b"\\n")
def asked():
    global received
    while b"\\n" not in received:
        data = link.recv(65536)
        if not data:
            sys.exit(0)
        received += data
    line, _, received = received.partition(b"\\n")
    return json.loads(line)["command"]
"""

#: Puts the hostile program in the place of the listener, if the file is there.
REPLACE = """
import os, sys
if "supervised-listener" in sys.orig_argv and os.path.exists({0!r}):
    os.execv(sys.executable, [sys.executable, {0!r}])
"""


def pythonForAll() -> tuple[str, str]:
    """
    Find a Python that all users can run, and its PYTHONPATH.
    """
    own, others = Path(portlisten.__file__), Path(str(twisted.python.__file__))
    path = f"{own.parents[1]}:{others.parents[2]}"
    if not IS_ROOT:
        return sys.executable, path
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", "import portlisten._commands.portlisten, cattrs"],
                check=True,
                capture_output=True,
                cwd="/",
                user=LISTENER_USER,
                extra_groups=[],
                env={**os.environ, "PYTHONPATH": path},
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, path
    pytest.skip("other users can run no Python that has portlisten")


def until(condition: Callable[[], object]) -> None:
    """
    Wait until a condition holds.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.05)


class Supervisor:
    """
    Runs C{portlisten run} on a file with one port, and ends it and all that it started.

    @ivar folder: a folder that all users can enter.
    @ivar file: the file.
    @ivar port: the number of the port.
    @ivar hostile: the program that is run in the place of the listener, if it exists.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="portlisten-hostile-", dir="/tmp"))
        stack.callback(shutil.rmtree, self.folder)
        self.folder.chmod(0o755)
        self._stack = stack
        self._python, self._modules = pythonForAll()
        self.file = self.folder / "web.toml"
        self.path = self.folder / "socket"
        self.port = freePort(20000, 30000)
        self.hostile = self.folder / "hostile.py"
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(REPLACE.format(str(self.hostile)))
        self._modules = f"{site}:{self._modules}"

    def write(
        self,
        command: str = '["sleep", "99"]',
        count: int = 1,
        ports: str = "listen",
        more: str = "",
    ) -> None:
        """
        Write the file.

        @param more: lines for the workers.
        """
        worker = f'user = "{WORKER_USER}"' if IS_ROOT else ""
        listener = f'user = "{LISTENER_USER}"' if IS_ROOT else ""
        self.file.write_text(
            f'path = "{self.path}"\n{listener}\nmode = "0666"\ngrace = 1\n'
            f'[ports.http]\n{ports} = "tcp:{self.port}:interface=127.0.0.1"\n'
            f"[workers.web]\ncommand = {command}\ncount = {count}\n{worker}\nstop = 1\n"
            f"grace = 1\n{more}\n"
        )

    def be(self, text: str) -> None:
        """
        Let all listeners from now on be hostile.
        """
        new = self.folder / "new"
        new.write_text(HOSTILE + text)
        new.chmod(0o644)
        new.rename(self.hostile)

    def run(self, name: str = "run", before: str = "", *words: str) -> Process:
        """
        Start it.

        @param before: a program in Python that runs before it in its process.
        @param words: these come before the words of the supervisor.
        """
        program = f"{before}\nfrom portlisten._commands.portlisten import main\nmain()"
        process = Process(
            [
                *words,
                "env",
                f"PYTHONPATH={self._modules}",
                self._python,
                "-c",
                program,
                "run",
                str(self.file),
            ],
            self.folder,
            name,
        )
        self._stack.callback(self._end, process)
        return process

    def _end(self, process: Process) -> None:
        if process.running:
            process.stop()

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """
        Run one of the operator's commands.
        """
        return subprocess.run(
            [sys.executable, "-m", "portlisten", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """
    A supervisor that is not started yet.
    """
    with ExitStack() as stack:
        yield Supervisor(stack)


def pids(text: str) -> list[int]:
    """
    Find the processes that have a text in their command line or environment.
    """
    found = []
    for each in Path("/proc").iterdir():
        try:
            data = (each / "cmdline").read_bytes() + (each / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in data and each.name != str(os.getpid()):
            found.append(int(each.name))
    return found


def test_interrupted(supervisor: Supervisor) -> None:
    """
    SIGINT while the first process is started leaves no traceback, no path and no
    process.
    """
    supervisor.write()
    process = supervisor.run(
        "run",
        "import os, signal\n"
        "from portlisten._children import launch\n"
        "def interrupted(*arguments): os.kill(os.getpid(), signal.SIGINT)\n"
        "launch._failure = interrupted\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
    )
    assert process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in process.output
    assert not supervisor.path.exists()
    assert not Path(f"{supervisor.path}.ctl").exists()
    until(lambda: not pids(str(supervisor.folder)))


#: Says that it is ready.
READY = 'say(ready=True, pid=os.getpid())\nprint("hostile", flush=True)\n'


def test_hangs(supervisor: Supervisor) -> None:
    """
    While the listener answers slowly, status says so, and does not wait for it.
    """
    supervisor.write()
    supervisor.be(
        READY + 'while True:\n    asked()\n    time.sleep(9)\n    say(error="no")'
    )
    process = supervisor.run()
    process.says("hostile")
    for _ in range(2):
        answer = supervisor.ask("status", str(supervisor.file))
        assert "supervisor" in answer.stdout, answer
        assert answer.returncode == 1
    process.kill()


def test_portsKept(supervisor: Supervisor) -> None:
    """
    A child of the listener that outlives it does not keep the ports.
    """
    supervisor.write()
    supervisor.be(
        READY + "if not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        '        print("escaped", os.getpid(), flush=True)\n        time.sleep(99)\n'
        "    os._exit(0)\nwhile True:\n"
        '    command = asked()\n    say(error="no")\n    if command == "stop":\n'
        "        os._exit(0)\n"
    )
    process = supervisor.run()
    escaped = int(process.says(r"escaped (\d+)")[1])
    try:
        assert process.stop() == 0
        os.kill(escaped, 0)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", supervisor.port))
            sock.listen()
    finally:
        os.kill(escaped, signal.SIGKILL)


def test_portsShutDown(supervisor: Supervisor) -> None:
    """
    If a listener shuts a port down, the port listens again for the next listener.
    """
    supervisor.write()
    supervisor.be(
        READY + "socket.socket(fileno=descriptors[0]).shutdown(socket.SHUT_RDWR)\n"
        "asked()\nos._exit(1)"
    )
    process = supervisor.run()
    process.says("hostile")
    supervisor.hostile.unlink()
    process.says(r"the port .* was shut down", patience=PATIENCE)
    process.says(r"the listener is ready(?s:.*)listening on", patience=PATIENCE)
    with socket.create_connection(("127.0.0.1", supervisor.port)):
        pass
    assert process.stop() == 0


def test_channelShutDown(supervisor: Supervisor) -> None:
    """
    If a listener shuts the path of the channel down, the supervisor ends: it can bind
    the path anew at its next start only.
    """
    supervisor.write()
    supervisor.be(
        READY + "socket.socket(fileno=descriptors[1]).shutdown(socket.SHUT_RDWR)\n"
        "asked()\nos._exit(1)"
    )
    process = supervisor.run()
    process.says(r"was shut down", patience=PATIENCE)
    assert process.wait() == 1


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a capability")
def test_capabilities(supervisor: Supervisor) -> None:
    """
    If the supervisor is not root, and has capabilities for its children, neither the
    listener nor a worker gets them.
    """
    supervisor.write('["sh", "-c", "grep Cap /proc/self/status; exec sleep 99"]')
    lines = supervisor.file.read_text().splitlines()
    text = "\n".join(each for each in lines if not each.startswith("user"))
    supervisor.file.write_text(text)
    shutil.chown(supervisor.folder, WORKER_USER)
    process = supervisor.run(
        "run",
        "",
        "setpriv",
        f"--reuid={WORKER_USER}",
        "--clear-groups",
        "--inh-caps=+net_bind_service",
        "--ambient-caps=+net_bind_service",
    )
    listener = int(process.says(r"the listener is started as process (\d+)")[1])
    process.says("the listener is ready")
    own = Path(f"/proc/{process.pid}/status").read_text()
    assert "CapEff:\t0000000000000400" in own
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{listener}/status").read_text()
    process.says(r"CapEff:\t0000000000000000")
    process.says(r"CapAmb:\t0000000000000000")
    assert process.stop() == 0


@pytest.mark.skipif(not IS_ROOT, reason="all users are the same")
def test_placesTaken(supervisor: Supervisor) -> None:
    """
    If the listener takes all places of the control socket, and answers slowly, root's
    commands are carried out nevertheless.
    """
    supervisor.write()
    supervisor.be(
        READY + "def take():\n    clients = []\n    while len(clients) < 8:\n"
        "        client = socket.socket(socket.AF_UNIX)\n"
        f'        client.connect("{supervisor.path}.ctl")\n'
        '        client.send(b\'{"version": 1, "command": "workers"}\\n\')\n'
        "        clients.append(client)\n"
        '    print("taken", flush=True)\n'
        "    return clients\n"
        "clients = take()\n"
        'while True:\n    asked()\n    time.sleep(9)\n    say(error="")'
    )
    process = supervisor.run()
    process.says("taken")
    until(lambda: len(list(Path(f"/proc/{process.pid}/fd").iterdir())) > 20)
    answer = supervisor.ask("status", str(supervisor.file))
    assert "supervisor" in answer.stdout, answer
    process.kill()
