"""
The contestants: the servers, proxies and listeners that are measured.  Each starts its
processes.  Its C{back} processes serve, and its C{front} processes accept for them.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds that a process may take to be ready.
PATIENCE = 20.0

#: How many descriptors a process may have.
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

#: How many clients a proxy may have: it needs two descriptors for each.
PROXIED = min(30_000, (LIMIT - 200) // 2)

#: A listener for the wire of 2002, as the tests have it.
SOURCE = Path(__file__).parents[1] / "tests" / "peers" / "portlisten.c"

TICK = os.sysconf("SC_CLK_TCK")

Start = Callable[["Running"], None]


@dataclass
class Running:
    """
    A running contestant.

    @ivar port: the port that clients connect to.
    @ivar protocol: the protocol of the server.
    @ivar front: the processes before the server.
    @ivar back: the processes of the server.
    @ivar served: how many connections each process of the server had served when it
        ended.
    """

    folder: Path
    port: int
    protocol: str
    front: list[subprocess.Popen[bytes]] = field(default_factory=list)
    back: list[subprocess.Popen[bytes]] = field(default_factory=list)
    served: list[int] = field(default_factory=list)

    def serve(self, description: str, count: int = 1) -> None:
        """
        Start a server, and wait until it is ready.
        """
        with (self.folder / f"server{len(self.back)}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.serve"),
                    *(self.protocol, description, str(count)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        self.back.append(process)
        assert process.stdout is not None
        for _ in range(count):
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the server on {description} did not start")

    def before(self, *command: str) -> None:
        """
        Start a process that stands before the server.
        """
        name = self.folder / f"front{len(self.front)}.log"
        with name.open("wb") as log:
            self.front.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def reachable(self) -> None:
        """
        Wait until the port accepts connections.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"nobody listens on {self.port}") from None
                time.sleep(0.05)
            else:
                break
        time.sleep(0.3)

    def restart(self) -> None:
        """
        Replace the only server.
        """
        process = self.back.pop()
        arguments = process.args
        assert isinstance(arguments, list)
        process.send_signal(signal.SIGTERM)
        process.wait()
        self.serve(str(arguments[4]), int(arguments[5]))

    def stop(self) -> None:
        """
        End all processes.
        """
        for process in self.back:
            process.send_signal(signal.SIGTERM)
        for process in self.back:
            output, _ = process.communicate()
            self.served += [int(line.split()[1]) for line in output.splitlines()]
        for process in self.front:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def used(self) -> tuple[float, float]:
        """
        Return the processor time of the front and of the server, in seconds.
        """
        return cpu([each.pid for each in self.front]), cpu(
            [each.pid for each in self.back]
        )


def descendants(pids: list[int]) -> list[int]:
    """
    List processes and all their descendants.
    """
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [pid, *descendants([int(each) for each in text.split()])]
    return found


def cpu(pids: list[int]) -> float:
    """
    Return the processor time of processes, in seconds.  It is the time of their
    threads, which C{schedstat} in proc(5) gives in nanoseconds, and of their ended
    children, C{cutime} and C{cstime} in C{stat}.
    """
    used = 0.0
    for pid in descendants(pids):
        place = Path(f"/proc/{pid}")
        try:
            text = (place / "stat").read_text()
            threads = [
                (each / "schedstat").read_text() for each in (place / "task").iterdir()
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
        used += sum(map(int, text.rpartition(")")[2].split()[13:15])) / TICK
        used += sum(int(each.split()[0]) for each in threads) / 1e9
    return used


@dataclass(frozen=True)
class Contestant:
    """
    A program, or a set-up of programs, to be measured.

    @ivar needs: a required program, and the Debian package that has it.
    @ivar proxy: whether the contestant copies bytes.
    """

    name: str
    start: Start
    needs: tuple[str, str] = ("", "")
    proxy: bool = False

    @property
    def missing(self) -> str:
        """
        The message if the required program is missing; empty if it is not.
        """
        program, package = self.needs
        if not program or shutil.which(program) or os.path.exists(program):
            return ""
        return f"{self.name} is left out: apt install {package}"

    @contextmanager
    def running(self, folder: Path, port: int, protocol: str) -> Iterator[Running]:
        """
        Run the contestant within a C{with} statement.
        """
        place = folder / f"{self.name.replace(' ', '-')}.{port}"
        place.mkdir()
        running = Running(place, port, protocol)
        try:
            self.start(running)
            running.reachable()
            yield running
        finally:
            running.stop()


def direct(running: Running) -> None:
    """
    A Twisted server that listens itself.
    """
    running.serve(f"tcp:{running.port}:interface=127.0.0.1:backlog=16384")


def processes(kind: str, count: int) -> Start:
    """
    Several server processes, on one socket or on a socket each.
    """
    return lambda running: running.serve(f"{kind}:{running.port}", count)


def twistd(running: Running, *arguments: str) -> None:
    """
    Start a listener.
    """
    running.before(
        *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
        *("-n", f"--pidfile={running.folder}/pid", "portlisten", *arguments),
        f"{running.folder}/socket",
    )


def portlisten(workers: int, *options: str, suffix: str = "") -> Start:
    """
    A listener, and workers.
    """

    def start(running: Running) -> None:
        description = f"tcp:{running.port}:interface=127.0.0.1"
        twistd(running, *options, description + suffix)
        running.serve(f"portlisten:{running.folder}/socket", workers)

    return start


def datagram(running: Running) -> None:
    """
    The wire of 2002.
    """
    running.serve(f"portlisten:{running.folder}/socket:wire=datagram")
    twistd(running, "--wire=datagram", f"tcp:{running.port}:interface=127.0.0.1")


def original(running: Running) -> None:
    """
    A listener in C that does what the one of 2002 did.
    """
    running.serve(f"portlisten:{running.folder}/socket:wire=datagram")
    program = running.folder / "portlisten"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
    running.before(str(program), str(running.port), f"{running.folder}/socket")


def behind(start: Callable[[Running, int], None]) -> Start:
    """
    A proxy, and a server that listens itself, on the next port.
    """

    def both(running: Running) -> None:
        port = running.port + 1
        running.serve(f"tcp:{port}:interface=127.0.0.1:backlog=16384")
        start(running, port)

    return both


def haproxy(running: Running, port: int) -> None:
    """
    HAProxy, which copies bytes.
    """
    configuration = running.folder / "haproxy.cfg"
    configuration.write_text(
        f"""
global
    maxconn {PROXIED}
    nbthread 1
defaults
    mode tcp
    timeout connect 30s
    timeout client 300s
    timeout server 300s
    backlog 16384
listen all
    bind 127.0.0.1:{running.port}
    server one 127.0.0.1:{port}
"""
    )
    running.before("haproxy", "-db", "-f", str(configuration))


def nginx(running: Running, port: int) -> None:
    """
    nginx, likewise.
    """
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    configuration = running.folder / "nginx.conf"
    configuration.write_text(
        f"""
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {LIMIT};
pid {running.folder}/nginx.pid;
error_log /dev/null crit;
events {{ worker_connections {LIMIT}; }}
stream {{
    server {{
        listen 127.0.0.1:{running.port} backlog=16384;
        proxy_pass 127.0.0.1:{port};
    }}
}}
"""
    )
    running.before("nginx", "-c", str(configuration))


def proxyd(running: Running, port: int) -> None:
    """
    systemd's proxy, for programs that cannot take sockets from systemd.
    """
    running.before(
        *("systemd-socket-activate", f"--listen=127.0.0.1:{running.port}"),
        *("/lib/systemd/systemd-socket-proxyd", f"--connections-max={PROXIED}"),
        f"127.0.0.1:{port}",
    )


def socat(running: Running, port: int) -> None:
    """
    socat, a process for each connection.
    """
    running.before(
        "socat",
        f"TCP-LISTEN:{running.port},bind=127.0.0.1,reuseaddr,fork,backlog=4096",
        f"TCP:127.0.0.1:{port}",
    )


def tcpserver(running: Running) -> None:
    """
    A process for each connection, and no server behind it.
    """
    running.before(
        *("tcpserver", "-HR", "-l0", "-c4096", "-b4096"),
        *("127.0.0.1", str(running.port), "printf", r"hello, world\n"),
    )


ALL = [
    Contestant("direct", direct),
    Contestant("inherited x2", processes("inherited", 2)),
    Contestant("inherited x4", processes("inherited", 4)),
    Contestant("reuseport x2", processes("reuseport", 2)),
    Contestant("reuseport x4", processes("reuseport", 4)),
    Contestant("listen x1", portlisten(1)),
    Contestant("listen x2", portlisten(2)),
    Contestant("listen x4", portlisten(4)),
    Contestant("share x1", portlisten(1, "--share")),
    Contestant("share x2", portlisten(2, "--share")),
    Contestant("share x4", portlisten(4, "--share")),
    Contestant("groups x4", portlisten(4, "--share", suffix=":reuseport=4")),
    Contestant("datagram", datagram),
    Contestant("C of 2002", original),
    Contestant("HAProxy", behind(haproxy), ("haproxy", "haproxy"), proxy=True),
    Contestant(
        "nginx",
        behind(nginx),
        ("/usr/lib/nginx/modules/ngx_stream_module.so", "nginx libnginx-mod-stream"),
        proxy=True,
    ),
    Contestant(
        "socket-proxyd",
        behind(proxyd),
        ("/lib/systemd/systemd-socket-proxyd", "systemd"),
        proxy=True,
    ),
    Contestant("socat", behind(socat), ("socat", "socat"), proxy=True),
    Contestant("tcpserver", tcpserver, ("tcpserver", "ucspi-tcp")),
]
