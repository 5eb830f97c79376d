"""
The promise for clients that speak Multipath TCP: no connection is lost that its worker
has not touched, and none is served twice.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from portlisten._kernel import IPPROTO_MPTCP
from tests.support.clients import Crowd, ask
from tests.support.networks import connect, inside, network, socketIn
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command, needs
from tests.support.sockets import LINGER, speaksMultipath

pytestmark = pytest.mark.skipif(
    not speaksMultipath(), reason="this host has no Multipath TCP"
)

PORT = "tcp:0:interface=127.0.0.1:mptcp=yes"


@contextmanager
def client(port: int) -> Iterator[socket.socket]:
    """
    Connect, with Multipath TCP.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        yield sock


def report(listener: Process) -> str:
    """
    Ask a listener for its counters.
    """
    before = len(listener.output)
    listener.signal(signal.SIGUSR1)
    return listener.says(r".*since the start: .*", before)[0]


@pytest.mark.parametrize("halfClosed", [False, True], ids=["open", "half closed"])
@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "touched"])
@pytest.mark.parametrize("line", [b"\n", b"first\n"], ids=["byte", "line"])
def test_killed(
    processes: Processes, line: bytes, touched: bool, halfClosed: bool
) -> None:
    """
    When the worker is killed that claimed a connection, the next worker answers, unless
    the first had read from it.  It does not matter whether the client has ended its
    side.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    first = processes.python("-m", "tests.worker", "--hold", "./socket")
    listener.says("worker 1 .*joined")
    with client(port) as sock:
        sock.sendall(line)
        first.says("holds 1")
        if halfClosed:
            sock.shutdown(socket.SHUT_WR)
            time.sleep(0.1)
        if touched:
            first.signal(signal.SIGUSR1)
            first.says("read b'")
        first.kill()
        second = processes.python("-m", "tests.worker", "./socket")
        sock.settimeout(10)
        answer = sock.recv(99)
    if touched:
        assert answer == b""
    else:
        assert answer == b"%s %d\n" % (line[:-1], second.pid)
    lost = int(touched)
    listener.says(
        rf"died, {1 - lost} connections to hand off again, {lost} lost in service"
    )


def test_silentKilled(processes: Processes) -> None:
    """
    So does the next worker if the client has sent nothing yet.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    first = processes.python("-m", "tests.worker", "--hold", "./socket")
    listener.says("worker 1 .*joined")
    with client(port) as sock:
        first.says("holds 1")
        first.kill()
        second = processes.python("-m", "tests.worker", "./socket")
        sock.sendall(b"later\n")
        assert sock.recv(99) == b"later %d\n" % second.pid
    assert "redispatched 1," in report(listener)


def test_departed(processes: Processes) -> None:
    """
    A client that resets its connection while it waits takes no place any more.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    with client(port) as sock:
        sock.sendall(b"hello\n")
        time.sleep(0.3)
        listener.signal(signal.SIGUSR1)
        listener.says("1 connections waiting")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
    for _ in range(50):
        if "goneBeforeAdoption 1" in report(listener):
            break
        time.sleep(0.1)
    assert "0 connections waiting" in report(listener)
    assert "goneBeforeAdoption 1" in report(listener)


def test_first(processes: Processes) -> None:
    """
    If clients speak first, a silent client takes no place in a worker, and is served
    when it speaks.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    worker = "tests.support.asyncio_worker"
    description = f"portlisten:{processes.folder}/socket:first=yes"
    processes.python("-m", worker, description).says("joined the listener")
    with client(listener.port()) as sock:
        time.sleep(0.5)
        assert "offered 0," in report(listener)
        sock.sendall(b"now\n")
        assert sock.recv(99).startswith(b"now ")


def workers(loop: str) -> list[str]:
    """
    How to start a worker that answers lines.
    """
    if loop == "twisted":
        return ["-m", "tests.worker", "./socket"]
    if loop == "uvloop":
        needs("uvloop", "uvloop")
    arguments = ["portlisten:./socket", f"--loop={loop}"]
    return ["-m", "tests.support.asyncio_worker", *arguments]


def answered(crowd: Crowd, more: int) -> None:
    """
    Wait until so many more clients have had answers.
    """
    until = time.monotonic() + PATIENCE
    count = sum(crowd.answers.values()) + more
    while sum(crowd.answers.values()) < count:
        assert time.monotonic() < until, crowd.answers
        time.sleep(0.02)


@pytest.mark.parametrize("way", ["--listen", "--share"])
@pytest.mark.parametrize("loop", ["twisted", "asyncio", "uvloop"])
def test_replaced(processes: Processes, loop: str, way: str) -> None:
    """
    Workers are replaced under load, and no client notices, whatever it speaks.
    """
    listener = processes.twistd("portlisten", f"{way}={PORT}", "./socket")
    port = listener.port()

    def start() -> Process:
        before = len(listener.output)
        worker = processes.python(*workers(loop))
        listener.says("worker .*joined", before)
        return worker

    current = start()
    plain = Crowd(port, 2, send=lambda: b"hello\n")
    multi = Crowd(port, 2, send=lambda: b"hello\n", protocol=IPPROTO_MPTCP)
    with plain, multi:
        for _ in range(2):
            answered(multi, 20)
            successor = start()
            answered(multi, 20)
            answered(plain, 20)
            current.stop()
            current = successor
        answered(multi, 20)
    for crowd in (plain, multi):
        for answer in crowd.answers:
            assert answer is not None, crowd.answers
            assert re.fullmatch(rb"hello \d+\n", answer), crowd.answers


def test_shutDown(processes: Processes) -> None:
    """
    A program that shuts a shared socket down does not end the port for good.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    port = f"--share=tcp:{number}:interface=127.0.0.1:mptcp=yes:nodelay=yes"
    listener = processes.twistd("portlisten", port, "./socket")
    assert listener.port() == number
    program = [
        sys.executable,
        "-c",
        "import socket; socket.socket(fileno=3).shutdown(2)",
    ]
    processes.start(command("portlisten"), "exec", "./socket", "--", *program)
    listener.says("a worker shut tcp:.* down, for all workers: .* it listens again")
    processes.python("-m", "tests.worker", "./socket")
    with client(number) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(99).startswith(b"hello ")


def subflows(sock: socket.socket) -> int:
    """
    How many TCP connections a connection of Multipath TCP has, besides the first.
    """
    # linux/include/uapi/linux/mptcp.h: SOL_MPTCP, MPTCP_INFO, mptcpi_subflows
    return sock.getsockopt(284, 1, 4)[0]


@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "touched"])
def test_secondPath(processes: Processes, touched: bool) -> None:
    """
    The request comes through a second network, after the first has failed.  When the
    worker is killed that claimed the connection, the next one answers, unless the first
    had read the request.
    """
    with network() as here, network() as there:
        if subprocess.run(["ip", "mptcp", "limits"], check=False).returncode:
            pytest.skip("this ip knows nothing of Multipath TCP")
        connect(here, there, "one", "192.0.2")
        connect(here, there, "two", "198.51.100")
        limits = ["subflow", "1", "add_addr_accepted", "1"]
        for space in (here, there):
            inside(space, "ip", "mptcp", "limits", "set", *limits)
        inside(here, "ip", "mptcp", "endpoint", "add", "198.51.100.1", "signal")
        listener = processes.start(
            *("ip", "netns", "exec", here, command("twistd"), "-n", "--pidfile="),
            *("portlisten", "tcp:8080:mptcp=yes", "./socket"),
        )
        listener.port()
        with socketIn(there, IPPROTO_MPTCP) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("192.0.2.1", 8080))
            until = time.monotonic() + PATIENCE
            while subflows(sock) < 1:
                assert time.monotonic() < until, "there is no second path"
                time.sleep(0.02)
            inside(there, "ip", "link", "set", "one", "down")
            sock.sendall(b"first\n")
            # TCP_INFO tells of the first path only, and does not count these bytes.
            time.sleep(1.5)
            first = processes.python("-m", "tests.worker", "--hold", "./socket")
            first.says("holds 1")
            if touched:
                first.signal(signal.SIGUSR1)
                first.says("read b'first")
            first.kill()
            second = processes.python("-m", "tests.worker", "./socket")
            lost = int(touched)
            listener.says(
                rf"died, {1 - lost} connections to hand off again, {lost} lost"
            )
            answer = sock.recv(99)
    assert answer == (b"" if touched else b"first %d\n" % second.pid)


# Passes a listening socket of Multipath TCP, as systemd does.
ACTIVATE = """
import os, socket, sys
passed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
passed.bind(("127.0.0.1", 0))
passed.listen()
if passed.fileno() != 3:
    os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("way", ["--listen", "--share"])
def test_inherited(processes: Processes, way: str) -> None:
    """
    A socket of Multipath TCP that systemd passes is listened on, or shared.
    """
    listener = processes.python(
        *("-c", ACTIVATE, command("twistd"), "-n", "--pidfile=", "portlisten"),
        *(f"{way}=web=systemd:domain=INET:name=web", "./socket"),
    )
    port = listener.port()
    worker = ["tests.support.telling_worker", "twisted", "portlisten:./socket"]
    processes.python("-m", *worker)
    with client(port) as sock:
        sock.sendall(b"x")
        assert b'"protocol": 262' in sock.recv(999)
    assert os.path.exists(processes.folder / "socket")


@pytest.mark.parametrize("loop", ["twisted", "asyncio", "uvloop"])
def test_cookieOfTheSocket(processes: Processes, loop: str) -> None:
    """
    Somebody has asked for C{SO_COOKIE} of the listening socket, as C{ss -M} does.  Then
    the kernel gives each connection that cookie, and all are served all the same.
    """
    asks = "passed.getsockopt(socket.SOL_SOCKET, 57, 8)"
    listener = processes.python(
        *("-c", ACTIVATE.replace("passed.listen()", f"passed.listen(); {asks}")),
        *(command("twistd"), "-n", "--pidfile=", "portlisten"),
        *("--listen=web=systemd:domain=INET:name=web", "./socket"),
    )
    port = listener.port()
    with ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(ask, port, send=b"hello\n", protocol=IPPROTO_MPTCP)
            for _ in range(8)
        ]
        # All are offered at once.
        until = time.monotonic() + PATIENCE
        while "8 connections waiting" not in report(listener):
            assert time.monotonic() < until, listener.output
        processes.python(*workers(loop))
        answers = [each.result() for each in waiting]
    assert all(re.fullmatch(rb"hello \d+\n", each or b"") for each in answers), answers


def test_storm(processes: Processes) -> None:
    """
    While workers are killed one after the other, no connection is lost that its worker
    had not touched, and none is answered twice.
    """
    storm = processes.python("-m", "tests.support.multipath_storm", "3000")
    assert storm.wait() == 0, storm.output
    figures = dict(re.findall("(.*): ([0-9]+)$", storm.output, re.MULTILINE))
    assert figures["connections"] == "3000"
    assert figures["lost before a worker touched them"] == "0"
    assert figures["answered twice"] == "0"
    # Otherwise nothing was at risk.
    assert int(figures["adopted twice"]) > 10
