"""
A network with machines, balancers and clients, each in a network namespace.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.machines.balancer import Balancer
from tests.machines.load import Asked, Seen
from tests.machines.machine import ADDRESSES, CONTRIB, Host, Machine
from tests.support.load import Load, parse
from tests.support.networks import Switch, network
from tests.support.processes import SOURCE, Processes

#: The addresses of the clients.
CLIENTS = ("192.0.2.200", "2001:db8::200")

#: Another address of clients.
SECOND_CLIENT = "192.0.2.201"

#: The programs that are needed, and Debian's packages of them.
NEEDED = {
    "ip": "iproute2",
    "haproxy": "haproxy",
    "keepalived": "keepalived",
    "wrk": "wrk",
    "curl": "curl",
    "openssl": "openssl",
}

#: Ends a load that nobody ends, in seconds.
LONGEST = 300

CLOSE = "--header=Connection: close"


_T = TypeVar("_T", bound=Host)


class Lacking(Exception):
    """
    A program is not installed.
    """


@dataclass
class Counted:
    """
    What clients saw.  It is complete after the C{with} statement.

    @ivar seen: by the counting clients.
    @ivar load: by wrk.
    """

    seen: Seen = field(default_factory=lambda: Seen([]))
    load: Load | None = None


class Lan(ExitStack):
    """
    The network: C{192.0.2.0/24} and C{2001:db8::/64}.

    @ivar machines: three.
    @ivar balancers: two.
    @ivar client: where the clients are.
    """

    def __init__(self) -> None:
        super().__init__()
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        lacking = [
            package
            for program, package in NEEDED.items()
            if shutil.which(program) is None
            and shutil.which(program, path=path) is None
        ]
        if lacking:
            raise Lacking(f"install {', '.join(lacking)}")
        self.processes = Processes()

    def __enter__(self) -> Lan:
        with ExitStack() as made:
            self._switch = Switch(made.enter_context(network()))
            made.enter_context(self.processes)

            def add(kind: Callable[..., _T], *arguments: Any) -> _T:
                place = made.enter_context(network())
                one = kind(*arguments, place, self._switch, self.processes)
                made.callback(one.kill)
                return one

            self.machines = [add(Machine, each) for each in range(3)]
            self.balancers = [add(Balancer, each) for each in range(2)]
            self.client = add(Host, "client", 200)
            words = ["ip", "address", "add", f"{SECOND_CLIENT}/24", "dev", "eth0"]
            subprocess.run(self.client.words(*words), check=True)
            self._certify()
            self.push(made.pop_all())
        return self

    def _certify(self) -> None:
        """
        Make the key and the certificate of the site.
        """
        key, certificate = (
            self.processes.folder / f"www.{each}" for each in ("key", "pem")
        )
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "group:P-256", "-noenc"]
        words += ["-days", "2", "-subj", "/CN=www", "-out", str(certificate)]
        subprocess.run(
            ["openssl", *words, "-keyout", str(key)], check=True, capture_output=True
        )
        key.chmod(0o644)

    def start(self) -> None:
        """
        Start all machines and HAProxy on the first balancer, which has the address.
        """
        for each in self.machines:
            each.install("1")
            each.write(CONTRIB / "haproxy" / "web.toml")
            each.begin()
        for each in self.machines:
            each.ready()
        self.balancers[0].take()
        self.balancers[0].begin()
        for each in self.machines:
            self.balancers[0].sees(each.name, "UP")

    @property
    def balancer(self) -> Balancer:
        """
        The first balancer.
        """
        return self.balancers[0]

    # Clients

    def url(self, path: str = "/", scheme: str = "http", version: int = 4) -> str:
        """
        What clients ask for.

        @param version: of IP.
        """
        host = ADDRESSES[0] if version == 4 else f"[{ADDRESSES[1]}]"
        return f"{scheme}://{host}{path}"

    @contextmanager
    def asking(self, atOnce: int, *options: str, url: str = "") -> Iterator[Counted]:
        """
        Let counting clients ask until the end of the C{with} statement.

        @param options: see L{tests.machines.client}.
        """
        counted = Counted()
        words = [sys.executable, "-m", "tests.machines.client", url or self.url()]
        with tempfile.TemporaryFile("w+", dir=self.processes.folder) as file:
            process = subprocess.Popen(
                self.client.words(*words, str(atOnce), *options),
                stdin=subprocess.PIPE,
                stdout=file,
                cwd=SOURCE,
            )
            try:
                yield counted
                process.communicate(timeout=LONGEST)
                assert process.returncode == 0, "the counting clients failed"
                file.seek(0)
                counted.seen = Seen([Asked(**json.loads(line)) for line in file])
            finally:
                process.kill()
                process.wait()

    def answers(self) -> bool:
        """
        Whether a client gets an answer soon.
        """
        with self.asking(1, "once", "patience=1") as counted:
            pass
        return not counted.seen.lost

    @contextmanager
    def wrk(self, *options: str, connections: int = 16) -> Iterator[Counted]:
        """
        Let wrk ask until the end of the C{with} statement.
        """
        counted = Counted()
        own = ["-t1", f"-c{connections}", f"-d{LONGEST}s", "--timeout=10s", "--latency"]
        process = subprocess.Popen(
            self.client.words("nice", "-n19", "wrk", *own, *options, self.url()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(0.5)
            yield counted
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
            counted.load = parse(output)
        finally:
            process.kill()
            process.wait()
