"""
The kernel's view of untouched connections, in races that are widened: strace(1) delays
the listener between its two questions.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import older
from tests.support.processes import Process, Processes
from tests.support.tracing import canTrace, failing

PORT = "tcp:0:interface=127.0.0.1"

#: For how long a question is delayed, in seconds, and as strace is told it.
DELAY = 0.4
DELAYED = f"delay_enter={DELAY * 1e6:.0f}"

CALLS = ["ioctl", "getsockopt"]

# linux/include/linux/socket.h, linux/include/uapi/linux/sched.h
_MSG_FASTOPEN = 0x20000000
_CLONE_NEWNET = 0x40000000

# linux/include/uapi/asm-generic/socket.h, since Linux 6.5
SO_PEERPIDFD = 77

traced = pytest.mark.skipif(
    not canTrace(), reason="needs strace, and the right to attach it"
)


def holder(processes: Processes, listener: Process) -> Process:
    """
    Start a worker that claims, and touches nothing until it is told to.
    """
    worker = processes.python("-m", "tests.worker", "--hold", "./socket")
    listener.says("worker 1 .*joined")
    return worker


def answer(client: socket.socket, processes: Processes) -> bytes:
    """
    Start a worker that answers a line, and return its answer to a client.

    @return: the answer; empty if the connection ends, or none comes.
    """
    processes.python("-m", "tests.worker", "./socket")
    client.settimeout(6)
    try:
        return client.recv(100)
    except OSError:
        return b""


@traced
@pytest.mark.parametrize("call", CALLS)
def test_bytesBetweenTheQuestions(processes: Processes, call: str) -> None:
    """
    Bytes come between the listener's two questions.  The connection is untouched,
    and the next worker answers when the one that claimed it is killed.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    worker = holder(processes, listener)
    with socket.create_connection(("127.0.0.1", port)) as client:
        worker.says("holds 1")
        with failing(listener, call, DELAYED, "1") as seen:
            time.sleep(DELAY / 2)
            client.sendall(b"first\n")
            time.sleep(DELAY / 2 + 0.1)
            worker.kill()
            time.sleep(0.1)
        assert seen["injected"] == 1
        assert answer(client, processes).startswith(b"first ")


def waitForEnd(trace: Path) -> None:
    """
    Wait until a traced listener has read the end of a channel.
    """
    for _ in range(200):
        lines = trace.read_text().splitlines() if trace.exists() else []
        if any("recv" in line and line.endswith("= 0") for line in lines):
            return
        time.sleep(0.01)
    raise AssertionError(f"no end of a channel: {lines}")


@traced
@pytest.mark.parametrize("call", CALLS)
def test_readBetweenTheQuestions(processes: Processes, call: str) -> None:
    """
    A worker whose channel ends reads the request between the listener's two
    questions, and as much comes again.  No other worker answers the second half.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    worker = holder(processes, listener)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"first\n")
        worker.says("holds 1")
        with failing(
            listener, call, DELAYED, "1+1", "recvfrom,recvmsg,getsockopt,ioctl"
        ):
            worker.signal(signal.SIGUSR2)
            waitForEnd(listener.log.with_name("strace.txt"))
            time.sleep(DELAY / 4)
            worker.signal(signal.SIGUSR1)
            worker.says("read b'first")
            client.sendall(b"other\n")
            time.sleep(2 * DELAY)
        worker.kill()
        assert answer(client, processes) == b""


@pytest.mark.parametrize("kernel", ["this", "older"])
def test_revokedThenKilled(processes: Processes, kernel: str) -> None:
    """
    A worker claims a connection, hangs, is revoked for another, and is killed.  The
    next worker answers both, also where the kernel does not give the process's
    descriptor along with its credentials.
    """
    options = ["portlisten", "--claim-timeout=0.2", PORT, "./socket"]
    if kernel == "this":
        listener = processes.twistd(*options)
    elif platform.machine() in older.CALLS:
        twistd = str(Path(sys.executable).with_name("twistd"))
        own = [twistd, "-n", "--pidfile=", *options]
        listener = processes.python(
            "-m", "tests.support.older", str(SO_PEERPIDFD), "--", *own
        )
    else:
        pytest.skip("the numbers of this machine's system calls are not known")
    port = listener.port()
    worker = holder(processes, listener)
    with ExitStack() as stack:

        def connect() -> socket.socket:
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"first\n")
            return stack.enter_context(client)

        clients = [connect()]
        worker.says("holds 1")
        worker.signal(signal.SIGSTOP)
        clients.append(connect())
        listener.says("hangs, and is revoked")
        time.sleep(0.1)
        worker.kill()
        answers = [answer(client, processes)[:6] for client in clients]
    assert answers == [b"first "] * 2


@pytest.fixture
def namespace(root: None) -> Iterator[str]:
    """
    A network of its own, where the server's side of TCP Fast Open needs no option.
    """
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    name = f"portlisten{os.getpid()}"
    added = subprocess.run(["ip", "netns", "add", name], check=False)
    if added.returncode:
        pytest.skip("no network namespace can be made here")
    try:
        inside(name, "ip", "link", "set", "lo", "up")
        # Both sides, without cookies, and for each listening socket.
        inside(name, "sysctl", "-qw", f"net.ipv4.tcp_fastopen={0x607}")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, *command: str, send: str = "") -> None:
    """
    Run a program in a network namespace.
    """
    prefix = ["ip", "netns", "exec", namespace]
    subprocess.run([*prefix, *command], input=send.encode(), check=True)


def socketIn(namespace: str) -> socket.socket:
    """
    Make a TCP socket of another network namespace.
    """
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}", "rb") as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET) == 0:
                made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.parametrize("touched", [False, True])
def test_unfinishedHandshake(
    processes: Processes, namespace: str, touched: bool
) -> None:
    """
    The client's request comes with its SYN, and its ACK never does.  When the worker
    that claimed the connection is killed, the next one answers; but not if the first
    had read the request.
    """
    twistd = str(Path(sys.executable).with_name("twistd"))
    listener = processes.start(
        *("ip", "netns", "exec", namespace, twistd, "-n", "--pidfile="),
        *("portlisten", PORT, "./socket"),
    )
    port = listener.port()
    worker = holder(processes, listener)
    rule = f"tcp dport {port} tcp flags & (syn|ack) == ack drop"
    chain = "type filter hook output priority 0;"
    inside(
        *(namespace, "nft", "-f", "-"),
        send=f"table inet lost {{ chain out {{ {chain} {rule}; }}; }}\n",
    )
    with socketIn(namespace) as client:
        client.sendto(b"first\n", _MSG_FASTOPEN, ("127.0.0.1", port))
        # Without the fast open there would be nothing to claim: no ACK, no accept.
        worker.says("holds 1", patience=5)
        if touched:
            worker.signal(signal.SIGUSR1)
            worker.says("read b'first")
        time.sleep(0.3)
        worker.kill()
        time.sleep(0.1)
        inside(namespace, "nft", "delete", "table", "inet", "lost")
        said = answer(client, processes)
    assert said.startswith(b"first ") != touched
    assert touched == (said == b"")
