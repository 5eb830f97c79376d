"""
A kernel whose system calls fail now and then, under real processes.

C{python -m tests.kernel} tries all that these tests try a part of.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.kernel import HELLO, Case, Pair, Runner
from tests.support.clients import ask
from tests.support.processes import Processes
from tests.support.tracing import canTrace, failing

pytestmark = pytest.mark.skipif(
    not canTrace(), reason="needs strace, and the right to attach it"
)

PORT = "tcp:0:interface=127.0.0.1"

#: A part of the matrix.  It tries each role and each kind of call, under an error
#: that the kernel does give.
PART = [
    Case("listener", "epoll_ctl", "ENOMEM", "2+5"),
    Case("listener", "epoll_ctl", "ENOSPC", "3"),
    Case("listener", "accept4", "EMFILE", "3+4"),
    Case("listener", "sendmsg", "ENOMEM", "5+6"),
    Case("listener", "recvfrom", "ENOMEM", "4+5"),
    Case("listener", "getsockopt", "ENOMEM", "2+5"),
    Case("worker", "epoll_ctl", "ENOSPC", "7+6"),
    Case("worker", "recvmsg", "ENOMEM", "5+7"),
    Case("worker", "poll", "ENOMEM", "8+8"),
    Case("worker", "fcntl", "EMFILE", "3+4"),
    Case("sharing worker", "accept4", "EMFILE", "9+8"),
    Case("sharing worker", "epoll_ctl", "ENOMEM", "5+9"),
    Case("datagram listener", "getsockopt", "ENOMEM", "5+5"),
    Case("datagram listener", "sendmsg", "ENOMEM", "9+8"),
    Case("datagram worker", "recvmsg", "ENOMEM", "9+8"),
]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """
    Tries cases, on the same processes where they are for the same role.
    """
    tried = Runner()
    yield tried
    tried.close()


@pytest.mark.parametrize("case", PART, ids=str)
def test_matrix(runner: Runner, case: Case) -> None:
    """
    While calls of one process fail, each client gets its answer, once; when the calls
    succeed again, everything works again.
    """
    outcome = runner.run(case)
    print(f"{outcome.injected} calls failed, {outcome.answers}")
    assert outcome.injected > 0
    assert outcome.faults == []


def joins(pair: Pair) -> None:
    """
    Start a worker, and check that it is let in.
    """
    worker = pair.processes.twistd("hellofdpass", "./socket", "hello")
    worker.says("joined the listener", patience=30)


@pytest.mark.parametrize("error", ["ENOMEM", "EINTR"])
def test_credentials(processes: Processes, error: str) -> None:
    """
    If the kernel once fails to give a worker's credentials, the worker is let in at its
    next attempt, and so are others.
    """
    pair = Pair(processes, (PORT,), 0)
    # The acceptor's question for what waits, then SO_PEERCRED, then others.
    with failing(pair.listener, "getsockopt", f"error={error}", "1..4") as seen:
        worker = processes.twistd("hellofdpass", "./socket", "hello")
        worker.says("joined the listener", patience=30)
    assert seen["injected"] > 0
    joins(pair)
    assert ask(pair.port, 20) == HELLO
    assert "restart the listener" not in pair.listener.output
    assert "Traceback" not in pair.listener.output


def test_credentialsOfOthers(processes: Processes) -> None:
    """
    If the kernel fails to give the credentials of one of several workers, the others
    lose nothing.
    """
    pair = Pair(processes, (PORT,), 0)
    path = str(pair.listener.log.with_name("socket"))
    with ExitStack() as stack:
        channels = [
            stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)
        ]
        with failing(pair.listener, "getsockopt", "error=ENOMEM", "2") as seen:
            for channel in channels:
                channel.connect(path)
            time.sleep(1)
        assert seen["injected"] > 0
        heard = []
        for channel in channels:
            channel.settimeout(4)
            try:
                heard.append(bool(channel.recv(100)))
            except TimeoutError:
                heard.append(False)
        # Each hears HELLO; but for the one, perhaps, which hears the end.
        assert heard.count(False) <= 1
    joins(pair)


def test_admissionFailsHalfway(processes: Processes) -> None:
    """
    Workers cannot be registered with the reactor, again and again.  They hear the
    end of their channels at once, and keep no places: with few descriptors, others
    are let in afterwards.
    """
    listener = processes.twistd("portlisten", PORT, "./socket", limit=64)
    port = listener.port()
    before = listener.descriptors()
    path = str(listener.log.with_name("socket"))
    # One of a channel's registrations fails, now the first, now the second.
    with failing(listener, "epoll_ctl", "error=ENOMEM", "2+2") as seen:
        for _ in range(12):
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(4)
                channel.connect(path)
                try:
                    channel.recv(100)
                except TimeoutError:
                    pytest.fail("a worker heard neither HELLO nor the end for 4 s")
    assert seen["injected"] > 0
    worker = processes.twistd("hellofdpass", "./socket", "hello")
    worker.says("joined the listener", patience=30)
    assert ask(port, 20) == HELLO
    assert "Traceback" not in listener.output
    worker.stop()
    until = time.monotonic() + 20
    while listener.descriptors() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert listener.descriptors() <= before


def test_cookie(processes: Processes) -> None:
    """
    If the kernel once fails to give the cookie of an accepted connection, its client is
    still answered.
    """
    pair = Pair(processes, (PORT,), 1)
    # The acceptor's question for what waits, and SO_COOKIE.
    with failing(pair.listener, "getsockopt", "error=ENOMEM", "2..3") as seen:
        answer = ask(pair.port, 20)
    assert seen["injected"] > 0
    assert answer == HELLO
    assert ask(pair.port, 20) == HELLO
    assert "Traceback" not in pair.listener.output


@pytest.mark.parametrize("when", ["1+1", "1+2"])
def test_sharedPortOutOfDescriptors(processes: Processes, when: str) -> None:
    """
    A worker is out of descriptors while clients of a shared port come, all the time
    or now and then.  They wait in the backlog, and none is closed.
    """
    listener = processes.twistd("portlisten", f"--share={PORT}", "./socket")
    port = listener.port()
    worker = processes.twistd("hellofdpass", "./socket", "hello")
    worker.says("joined the listener")
    answers: list[bytes | None] = []
    clients = [
        threading.Thread(target=lambda: answers.append(ask(port, 30))) for _ in range(5)
    ]
    with failing(worker, "accept4", "error=EMFILE", when) as seen:
        for each in clients:
            each.start()
        time.sleep(1)
        early = list(answers)
    for each in clients:
        each.join()
    assert seen["injected"] > 0
    assert early == [] or when == "1+2"
    assert answers == [HELLO] * 5
    # It paused, rather than asked for ever.
    assert seen["accept4"] < 200


def test_registrationOfPort(processes: Processes) -> None:
    """
    If the reactor once fails to register a port after a pause, the port comes back.
    """
    pair = Pair(processes, ("--queue=1", PORT), 0)
    waiting = [socket.create_connection(("127.0.0.1", pair.port)) for _ in range(4)]
    time.sleep(0.3)
    with failing(pair.listener, "epoll_ctl", "error=ENOSPC", "1..20"):
        worker = processes.twistd("hellofdpass", "./socket", "hello")
        time.sleep(2)
    worker.says("joined the listener", patience=30)
    for client in waiting:
        with client:
            client.settimeout(20)
            assert client.recv(100) == HELLO
    assert ask(pair.port, 20) == HELLO
