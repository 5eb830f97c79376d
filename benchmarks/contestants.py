"""
The contestants: the servers, proxies and listeners that are measured.  Each starts its
processes.  Its C{back} processes serve, and its C{front} processes accept for them.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running import Running
from benchmarks.serve import STRING

#: How many descriptors a process may have.
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

#: How many clients a proxy may have: it needs two descriptors for each.
PROXIED = min(30_000, (LIMIT - 200) // 2)

#: A listener for the wire of 2002, as the tests have it.
SOURCE = Path(__file__).parents[1] / "tests" / "peers" / "portlisten.c"

Start = Callable[[Running], None]


@dataclass(frozen=True)
class Contestant:
    """
    A program, or a set-up of programs, to be measured.

    @ivar needs: a required program, and the Debian package that has it.
    @ivar proxy: whether the contestant copies bytes.
    @ivar request: what a client sends first.
    @ivar answer: what the client expects.
    @ivar stayRequest: what a client that stays sends first.
    @ivar module: a required module of Python.
    """

    name: str
    start: Start
    needs: tuple[str, str] = ("", "")
    proxy: bool = False
    request: str = ""
    answer: bytes = STRING
    stayRequest: str = ""
    module: str = ""

    @property
    def missing(self) -> str:
        """
        How to install what is missing; empty if nothing is.
        """
        program, package = self.needs
        if program and not shutil.which(program) and not os.path.exists(program):
            return f"apt install {package}"
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"pip install {self.module}"
        return ""

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


def present(contestants: Iterable[Contestant]) -> list[Contestant]:
    """
    Return those of which nothing is missing.  Say how to install what is missing, in a
    line for each.
    """
    there: list[Contestant] = []
    left: dict[str, list[str]] = {}
    for each in contestants:
        if each.missing:
            left.setdefault(each.missing, []).append(each.name)
        else:
            there.append(each)
    for remedy, names in left.items():
        print(f"left out: {', '.join(names)}: {remedy}", file=sys.stderr)
    return there


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
    Contestant("inherited x1", processes("inherited", 1)),
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
    Contestant("unbalanced x1", portlisten(1, "--share", suffix=":balance=no")),
    Contestant("unbalanced x2", portlisten(2, "--share", suffix=":balance=no")),
    Contestant("unbalanced x4", portlisten(4, "--share", suffix=":balance=no")),
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
