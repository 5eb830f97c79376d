"""
The monitor of a listener, asked as load balancers ask, and by a real HAProxy.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.requests import Requests
from tests.support.running import IS_ROOT, LISTENER_USER, Run, userOf, workers
from tests.support.spawned import Start, settled
from tests.support.waiting import PATIENCE, sleep


class Monitor:
    """
    A monitor, by its port or by its Unix path.
    """

    def __init__(self, place: int | Path) -> None:
        self._place = place

    def ask(self, path: str = "/healthz") -> tuple[int, str]:
        """
        Ask for a path.

        @return: the code, and the body.
        """
        connection = HTTPConnection("127.0.0.1", timeout=PATIENCE)
        if isinstance(self._place, int):
            address: tuple[str, int] | str = ("127.0.0.1", self._place)
            connection.sock = socket.socket()
        else:
            address = str(self._place)
            connection.sock = socket.socket(socket.AF_UNIX)
        with connection.sock:
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(address)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    async def says(self, path: str, code: int, line: str) -> None:
        """
        Ask until the answer is as it should be.
        """
        end = time.monotonic() + PATIENCE
        found: object = None
        while found != (code, line + "\n"):
            assert time.monotonic() < end, found
            with suppress(OSError):
                found = await deferToThread(self.ask, path)
            await sleep(0.02)


def child(parent: int, command: str) -> int:
    """
    Find a child of a process.
    """
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and command in (entry / "cmdline").read_text():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    return int(entry.name)
    raise AssertionError(f"process {parent} has no child with {command}")


def sockets(pid: int) -> int:
    """
    Count the sockets that a process has open.
    """
    folder = f"/proc/{pid}/fd"
    found = 0
    for each in os.listdir(folder):
        with suppress(FileNotFoundError):
            found += os.readlink(f"{folder}/{each}").startswith("socket:")
    return found


@asynchronous
async def test_health(run: Run) -> None:
    """
    The health of a supervisor's listener, by name, in each state.
    """
    place = run.folder / "monitor"
    spare, kept = freePort(24000, 24100), freePort(24100, 24200)
    ports = (
        f"[ports.http]\nlisten = {run.address(run.port)}\n"
        f"[ports.spare]\nlisten = {run.address(spare)}\n"
        f"[ports.kept]\nshare = {run.address(kept)}"
    )
    words = [run.table("web", also="count = 2")]
    top = f'grace = 2\nmetrics = "unix:{place}:mode=600"'
    run.write(*words, ports=f"{top}\n{ports}")
    run.mode("web", "wait")
    run.launch()
    monitor = Monitor(place)
    await monitor.says("/healthz/http", 503, "nobody serves http")
    run.mode("web", "")
    await monitor.says("/healthz/http", 200, "serving http")
    await run.ready()
    await monitor.says("/healthz/spare", 503, "nobody serves spare")
    await monitor.says("/healthz/kept", 503, "nobody serves kept")
    await monitor.says("/healthz", 503, "nobody serves spare and kept")
    unknown = "no port is named htps; the ports are http, spare, kept"
    await monitor.says("/healthz/htps", 404, unknown)
    unnamed = "no port is without a name; the ports are http, spare, kept"
    await monitor.says("/healthz/-", 404, unnamed)
    assert await deferToThread(monitor.ask, "/healthz/http/x") == (
        404,
        "not found: ask for /, /healthz, /healthz/NAME or /metrics\n",
    )
    listener = run.process.pid, child(run.process.pid, "supervised-listener")
    descriptors = [len(os.listdir(f"/proc/{each}/fd")) for each in listener]

    done = await run.command("pause", str(run.file))
    assert (done.code, done.errors) == (0, ""), done
    assert re.fullmatch("paused: /healthz at .* accepting goes on\n", done.output)
    await monitor.says("/healthz/http", 503, "paused by an operator")
    assert (await run.client())["label"].startswith("web-")
    # The supervisor remembers it when the listener is started again.
    os.kill(listener[1], signal.SIGKILL)
    await run.process.says(r"(?s)the listener is ready.*the listener is ready")
    await monitor.says("/healthz/http", 503, "paused by an operator")
    shown = await run.command("status", str(run.file))
    assert shown.code == 1
    assert "! paused by an operator: /healthz says 503" in shown.output
    done = await run.command("resume", run.path)
    assert (done.code, done.errors) == (0, ""), done
    await monitor.says("/healthz/http", 200, "serving http")

    assert (await run.command("drain", run.path, "web-1")).code == 0
    await monitor.says("/healthz/http", 200, "serving http")
    assert (await run.command("drain", run.path, "web-2")).code == 0
    await monitor.says("/healthz/http", 503, "nobody serves http")
    assert (await run.command("undrain", run.path, "web-1", "web-2")).code == 0
    await monitor.says("/healthz/http", 200, "serving http")

    # A monitor that dies, or hangs, is started again on the same socket.
    for number in (signal.SIGKILL, signal.SIGSTOP):
        pid = child(run.process.pid, "supervised-monitor")
        os.kill(pid, number)
        assert (await run.client())["label"].startswith("web-")
        await monitor.says("/healthz/http", 200, "serving http")
        assert child(run.process.pid, "supervised-monitor") != pid
    found = child(run.process.pid, "supervised-listener")
    assert await settled(run.process, descriptors[0]) == descriptors[0]
    assert len(os.listdir(f"/proc/{found}/fd")) == descriptors[1]

    run.mode("web", "never")
    for each in workers(await run.ready()).values():
        os.kill(each["pid"], signal.SIGKILL)
    await monitor.says("/healthz/http", 503, "nobody serves http")
    with await deferToThread(socket.create_connection, ("127.0.0.1", run.port)):
        # The listener waits for a worker, and the monitor serves on.
        run.process.signal(signal.SIGTERM)
        await monitor.says("/healthz/http", 503, "the listener stops")
    assert await run.process.ended() == 0, run.process.output
    run.checkNothingLeft()
    assert not place.exists()


@asynchronous
async def test_alone(run: Run, twistd: Start) -> None:
    """
    A listener alone has a monitor without privilege, which ends with it.
    """
    place = freePort(24200, 24300)
    user = [f"--uid={LISTENER_USER}"] if IS_ROOT else []
    listen = f"http=tcp:{run.port}:interface=127.0.0.1"
    words = run.twistd(
        *(*user, "portlisten", f"--metrics={place}", "--listen", listen, "./sock")
    )
    listener = run.launch(words)
    monitor = Monitor(place)
    await monitor.says("/healthz", 503, "nobody serves http")
    pid = child(listener.pid, "supervised-monitor")
    status = Path(f"/proc/{pid}/status").read_text()
    uid = userOf(LISTENER_USER)[0]
    assert re.search(rf"^Uid:(\t{uid}){{4}}$", status, re.MULTILINE), status
    assert re.search("^NoNewPrivs:\t1$", status, re.MULTILINE), status
    if IS_ROOT:
        assert re.search("^CapEff:\t0+$", status, re.MULTILINE), status
    # The link, and the port.
    assert sockets(pid) == 2
    hello = twistd("hellofdpass", "./sock", "hello")
    await monitor.says("/healthz/http", 200, "serving http")
    assert await hello.stop() == 0
    await monitor.says("/healthz/http", 503, "nobody serves http")
    assert await listener.kill() < 0
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        await sleep(0.05)


@asynchronous
async def test_wrong(folder: Path, twistd: Start) -> None:
    """
    A monitor that cannot listen is one line at the start.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for place, said in (
            (str(number), "Address already in use"),
            ("udp:9100", "is a port of UDP"),
            ("tcp:x", "'x' is no number"),
            (f"monitor={number}", "has a name"),
            ("unix:/nowhere/monitor", "/nowhere/monitor"),
        ):
            listener = twistd("portlisten", f"--metrics={place}", "0", "./sock")
            assert await listener.ended() == 1, listener.output
            [line] = listener.errors.splitlines()
            assert said in line, line
            assert "Traceback" not in listener.output


HAPROXY = """
global
    stats socket {admin}
defaults
    mode http
    retries 0
    option httpclose
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    timeout check 5s
frontend web
    bind 127.0.0.1:{port}
    default_backend machines
backend machines
    option httpchk GET /healthz/http
    http-check expect status 200
    default-server check inter 100ms fall 1 rise 1
{servers}
"""


class Machine:
    """
    A listener and its worker, in the folder of the test.

    @ivar name: its name.
    @ivar port: the port of the listener.
    @ivar monitor: the port of its monitor.
    @ivar health: asks the monitor.
    """

    def __init__(self, number: int, twistd: Start) -> None:
        self._twistd = twistd
        self.name = f"machine{number}"
        self.port = freePort(25000 + 500 * number, 25500 + 500 * number)
        self.monitor = freePort(24300 + 100 * number, 24400 + 100 * number)
        self.health = Monitor(self.monitor)

    def start(self) -> None:
        """
        Start both.
        """
        listen = f"http=tcp:{self.port}:interface=127.0.0.1"
        self._listener = self._twistd(
            *("portlisten", f"--metrics={self.monitor}", "--listen", listen),
            f"./{self.name}",
        )
        description = f"--listen=portlisten:./{self.name}"
        self._worker = self._twistd("web", "--path=site", description)

    async def pause(self, start: Start) -> None:
        """
        Pause it, as an operator does.
        """
        paused = start(command("portlisten"), "pause", f"./{self.name}")
        assert await paused.ended() == 0, paused.output

    async def stop(self) -> None:
        """
        End both.
        """
        assert await self._listener.stop() == 0, self._listener.output
        await self._worker.stop()


class Balancer:
    """
    HAProxy before two listeners.

    @ivar port: where clients connect.
    """

    def __init__(self, folder: Path, start: Start, machines: Sequence[Machine]) -> None:
        haproxy = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin")
        if haproxy is None:
            pytest.skip("haproxy is not installed")
        self.port = freePort(24500, 24600)
        self._admin = folder / "admin"
        servers = "\n".join(
            f"    server {each.name} 127.0.0.1:{each.port} port {each.monitor}"
            for each in machines
        )
        text = HAPROXY.format(admin=self._admin, port=self.port, servers=servers)
        (folder / "haproxy.cfg").write_text(text)
        self.process = start(haproxy, "-db", "-f", "haproxy.cfg")

    def state(self, name: str) -> tuple[str, int]:
        """
        What HAProxy makes of a machine.

        @return: its state, and how many connections it got.
        """
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("r") as file:
            sock.settimeout(PATIENCE)
            sock.connect(str(self._admin))
            sock.sendall(b"show stat\n")
            [found] = [
                each
                for each in csv.DictReader(file)
                if (each["# pxname"], each["svname"]) == ("machines", name)
            ]
            return found["status"], int(found["stot"])

    async def says(self, name: str, state: str) -> None:
        """
        Wait until a machine has a state.
        """
        end = time.monotonic() + PATIENCE
        found = ""
        while found != state:
            assert time.monotonic() < end, (name, found, self.process.output)
            with suppress(FileNotFoundError, ConnectionError):
                found, _ = await deferToThread(self.state, name)
            await sleep(0.02)


@asynchronous
async def test_balancer(folder: Path, twistd: Start, start: Start) -> None:
    """
    HAProxy takes a machine out that is paused, so its listener and its worker can be
    replaced while no client notices.
    """
    (folder / "site").mkdir()
    (folder / "site" / "all").write_text("hello all\n")
    machines = [Machine(number, twistd) for number in range(2)]
    for each in machines:
        each.start()
    for each in machines:
        await each.health.says("/healthz/http", 200, "serving http")
    balancer = Balancer(folder, start, machines)
    for each in machines:
        await balancer.says(each.name, "UP")
    with Requests(balancer.port, threads=4, path="/all") as requests:
        for each in machines:
            await deferToThread(requests.reach, 50)
            await each.pause(start)
            await balancer.says(each.name, "DOWN")
            before = balancer.state(each.name)[1]
            await deferToThread(requests.reach, 50)
            assert balancer.state(each.name)[1] == before
            await each.stop()
            each.start()
            await balancer.says(each.name, "UP")
            while balancer.state(each.name)[1] == before:
                await deferToThread(requests.reach, 10)
    assert requests.wrong == []
    for each in machines:
        await each.stop()
