"""
Workers in asyncio and uvloop, without Twisted, with a real listener: they are replaced,
killed and stopped under load, and so is the listener.
"""

from __future__ import annotations

import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients import Crowd, ask
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import needs
from tests.support.tls import certify

LINE = b"hello\n"


@pytest.fixture
def processes() -> Iterator[Processes]:
    """
    Starts processes, and ends them after the test.
    """
    with Processes() as made:
        yield made


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """
    What the workers run on.
    """
    name = str(request.param)
    if name == "uvloop":
        needs("uvloop", "uvloop")
    return name


class Pair:
    """
    A listener, and workers in asyncio.

    @param options: the listener's.
    @param share: the option of a port that it shares; empty for one that it does not.
    """

    def __init__(
        self, processes: Processes, loop: str, *options: str, share: str = ""
    ) -> None:
        self._processes = processes
        self._loop = loop
        self._options = options
        self.path = str(processes.folder / "socket")
        if share:
            self.listener = processes.twistd("portlisten", *options, share, self.path)
        else:
            self.listener = self.listen(0)
        self.port = int(self.listener.says(r"listening on .*?127\.0\.0\.1:(\d+)")[1])

    def listen(self, port: int) -> Process:
        """
        Start a listener.
        """
        address = f"tcp:{port}:interface=127.0.0.1"
        own = ["portlisten", *self._options]
        return self._processes.twistd(*own, address, self.path)

    def worker(self, *arguments: str, options: str = "") -> Process:
        """
        Start a worker, and wait until it has joined.
        """
        worker = self._processes.python(
            "-m",
            "tests.support.asyncio_worker",
            f"portlisten:{self.path}{options}",
            f"--loop={self._loop}",
            *arguments,
        )
        worker.says("joined the listener")
        return worker

    def crowd(self, atOnce: int = 8) -> Crowd:
        """
        Run clients.
        """
        return Crowd(self.port, atOnce, send=lambda: LINE)


def allAnswered(crowd: Crowd, least: int = 1) -> None:
    """
    Check that each client got one answer.

    @param least: how many clients there must have been.
    """
    answers = crowd.answers
    assert sum(answers.values()) >= least
    wrong = {
        answer: count
        for answer, count in answers.items()
        if answer is None or not re.fullmatch(rb"hello \d+\n", answer)
    }
    assert not wrong, wrong


def answered(crowd: Crowd, more: int) -> None:
    """
    Wait until so many more clients have had answers.
    """
    until = time.monotonic() + PATIENCE
    count = sum(crowd.answers.values()) + more
    while sum(crowd.answers.values()) < count:
        assert time.monotonic() < until, crowd.answers
        time.sleep(0.02)


@pytest.mark.parametrize("options", ["", ":first=yes"])
def test_replaced(processes: Processes, loop: str, options: str) -> None:
    """
    Workers are replaced under load, and no client notices.
    """
    pair = Pair(processes, loop)
    current = pair.worker(options=options)
    with pair.crowd() as crowd:
        for _ in range(4):
            answered(crowd, 50)
            successor = pair.worker(options=options)
            assert current.stop() == 0
            assert "stopped without Twisted" in current.output
            current = successor
    allAnswered(crowd, 200)
    assert "lostInService 0" in report(pair.listener)


def report(listener: Process) -> str:
    """
    Ask a listener for its counters.
    """
    before = len(listener.output)
    listener.signal(signal.SIGUSR1)
    return listener.says(r"since the start: (.*)", before)[1]


def test_killed(processes: Processes, loop: str) -> None:
    """
    If a worker is killed, at most the connections that it served are lost.
    """
    pair = Pair(processes, loop)
    pair.worker()
    with pair.crowd() as crowd:
        for _ in range(3):
            victim = pair.worker()
            answered(crowd, 30)
            victim.kill()
        answered(crowd, 30)
    lost = crowd.answers[None] + crowd.answers[b""]
    assert lost <= 3 * 8, crowd.answers
    assert re.search(r"lostInService \d", report(pair.listener))


def test_stopped(processes: Processes, loop: str) -> None:
    """
    If a worker is stopped, others get what it has not claimed, and it serves on what it
    has when it goes on.  Then it joins again.
    """
    pair = Pair(processes, loop, "--claim-timeout=0.2")
    workers = [pair.worker(), pair.worker()]
    victim = workers[1]
    own = [each.descriptors() for each in workers]
    with ExitStack() as stack:
        kept = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", pair.port), PATIENCE)
            )
            for _ in workers
        ]
        for client in kept:
            client.sendall(b"hel")
        until = time.monotonic() + PATIENCE
        pairs = list(zip(workers, own, strict=True))
        while any(each.descriptors() <= count for each, count in pairs):
            assert time.monotonic() < until, "a worker has no connection"
            time.sleep(0.02)
        for _ in range(3):
            before, told = len(victim.output), len(pair.listener.output)
            # It has no more connections than the other one, so it gets the next offers.
            victim.signal(signal.SIGSTOP)
            with pair.crowd() as crowd:
                pair.listener.says("revoked", told)
                victim.signal(signal.SIGCONT)
                victim.says("lost the listener.*unclaimed", before)
                victim.says("joined the listener", before)
                answered(crowd, 30)
            allAnswered(crowd, 30)
        for client in kept:
            client.sendall(b"lo\n")
        answers = {client.recv(99) for client in kept}
        assert answers == {b"hello %d\n" % each.pid for each in workers}


def test_listenerRestarted(processes: Processes, loop: str) -> None:
    """
    If the listener is replaced, connections in service go on, and the worker joins the
    next one.
    """
    pair = Pair(processes, loop)
    worker = pair.worker()
    with socket.create_connection(("127.0.0.1", pair.port), PATIENCE) as client:
        client.sendall(b"hel")
        with pair.crowd() as crowd:
            answered(crowd, 30)
        allAnswered(crowd, 30)
        before = len(worker.output)
        pair.listener.kill()
        worker.says("lost the listener.*1 connections in service", before)
        pair.listener = pair.listen(pair.port)
        worker.says("joined the listener", before)
        with pair.crowd() as crowd:
            answered(crowd, 30)
        allAnswered(crowd, 30)
        client.sendall(b"lo\n")
        assert client.recv(99) == b"hello %d\n" % worker.pid
    assert worker.stop() == 0


def test_descriptors(processes: Processes, loop: str) -> None:
    """
    Neither side keeps a descriptor of a connection that has ended.
    """
    pair = Pair(processes, loop)
    worker = pair.worker()
    with socket.create_connection(("127.0.0.1", pair.port), PATIENCE) as silent:
        # The listener begins to watch silent clients, which takes a descriptor.
        time.sleep(0.1)
        silent.sendall(LINE)
        assert silent.recv(99)
    # By then, neither side has this connection any more.
    time.sleep(1.5)
    both = (worker, pair.listener)
    before = [steady(each) for each in both]
    with pair.crowd() as crowd:
        answered(crowd, 200)
    assert [steady(each) for each in both] == before


def steady(process: Process) -> int:
    """
    How many descriptors a process has, once that has not changed for half a second.
    """
    until = time.monotonic() + PATIENCE
    count, since = process.descriptors(), time.monotonic()
    while time.monotonic() < since + 0.5:
        assert time.monotonic() < until, "its descriptors change all the time"
        time.sleep(0.05)
        if process.descriptors() != count:
            count, since = process.descriptors(), time.monotonic()
    return count


def test_tls(processes: Processes, loop: str) -> None:
    """
    A worker speaks TLS, and one whose client fails goes on.
    """
    needs("cryptography", "twisted[tls]")
    key, certificate = certify(str(processes.folder / "localhost"))
    pair = Pair(processes, loop)
    worker = pair.worker("--tls", key, certificate)
    context = ssl.create_default_context(cafile=certificate)
    for _ in range(10):
        assert ask(pair.port, send=b"this is no TLS\n") in (b"", None)
        plain = socket.create_connection(("127.0.0.1", pair.port), PATIENCE)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(LINE)
            assert client.recv(99) == b"hello %d\n" % worker.pid
    assert worker.stop() == 0
    assert re.search(r"claimed 20\b.*lostInService 0", report(pair.listener))


def test_streams(processes: Processes, loop: str) -> None:
    """
    C{start_server} serves as well.
    """
    pair = Pair(processes, loop)
    worker = pair.worker("--streams")
    with pair.crowd() as crowd:
        answered(crowd, 50)
    allAnswered(crowd, 50)
    assert worker.stop() == 0


@pytest.mark.parametrize("reuseport", ["", ":reuseport=2"])
def test_shared(processes: Processes, loop: str, reuseport: str) -> None:
    """
    Workers that accept themselves are replaced under load, and no client notices.
    """
    pair = Pair(processes, loop, share=f"--share=tcp:0:interface=127.0.0.1{reuseport}")
    current = pair.worker()
    with pair.crowd() as crowd:
        for _ in range(3):
            answered(crowd, 50)
            successor = pair.worker()
            # Both accept for a while.
            answered(crowd, 50)
            assert current.stop() == 0
            current = successor
    allAnswered(crowd, 150)


def test_limit(processes: Processes, loop: str) -> None:
    """
    A worker gets no more connections at a time than its limit.
    """
    pair = Pair(processes, loop)
    pair.worker(options=":limit=2")
    clients = [
        socket.create_connection(("127.0.0.1", pair.port), PATIENCE) for _ in range(3)
    ]
    for client in clients[:2]:
        client.sendall(LINE[:-1])
    time.sleep(0.2)
    clients[2].sendall(LINE)
    clients[2].settimeout(0.3)
    with pytest.raises(TimeoutError):
        clients[2].recv(99)
    clients[0].sendall(b"\n")
    clients[2].settimeout(PATIENCE)
    assert clients[2].recv(99)
    for client in clients:
        client.close()
