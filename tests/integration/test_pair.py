"""
The main job: a listener and a worker, as real processes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.support.asking import ask, askMany
from tests.support.asynchronous import asynchronous
from tests.support.ports import backlogOverflows, freePort
from tests.support.spawned import Start, listening, settled, steady
from tests.support.waiting import PATIENCE, reactor, sleep, until

ANSWER = b"hello, world"
HELLO = ("hellofdpass", "./socket", ANSWER.decode())

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.usefixtures("root")
@asynchronous
async def test_privilegedPort(twistd: Start, folder: Path) -> None:
    """
    Root binds a port below 1024, and two other users do the rest: neither has
    any privilege left, and each of 10,000 clients gets exactly the string.
    """
    port = freePort(81, 1024)
    listener = twistd(
        "portlisten",
        "--group=daemon",
        str(port),
        "./socket",
        uid="nobody",
        gid="nogroup",
    )
    worker = twistd(*HELLO, uid="daemon")
    await listener.says("joined")
    for process, user in ((listener, "nobody"), (worker, "daemon")):
        status = process.status()
        assert set(status["Uid"].split()) == {str(pwd.getpwnam(user).pw_uid)}
        assert "0" not in status["Gid"].split() + status["Groups"].split()
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[name], 16) == 0, name
    path = folder.joinpath("socket").stat()
    assert stat.S_IMODE(path.st_mode) == 0o660
    assert "runs as root" not in listener.output + worker.output

    answers, _ = await askMany(port, 10_000, 64)
    assert set(answers) == {ANSWER}
    assert len(answers) == 10_000
    answers, _ = await askMany(port, 1_000, 64, REQUEST)
    assert set(answers) == {ANSWER}
    assert await listener.stop() == 0
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    "client",
    [
        ["curl", "--silent", "--show-error", "--http0.9"],
        ["nc", "-N"],
        ["nc"],
    ],
    ids=" ".join,
)
@asynchronous
async def test_ordinaryClient(twistd: Start, client: list[str]) -> None:
    """
    The clients that people use get the string, whether they send first, close
    their writing side at once, or keep it open.
    """
    program = shutil.which(client[0])
    if program is None:
        pytest.skip(f"{client[0]} is not installed")
    listener = twistd("portlisten", "0", "./socket")
    twistd(*HELLO)
    port = str(await listening(listener))
    target = [f"http://127.0.0.1:{port}/"] if "curl" in program else ["127.0.0.1", port]
    result = await deferToThread(
        subprocess.run,
        [program, *client[1:], *target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    assert result.stdout == ANSWER


@asynchronous
async def test_clientThatClosesFirst(twistd: Start) -> None:
    """
    A client that has closed its writing side already still gets the string, even if it
    sent nothing.
    """
    listener = twistd("portlisten", "0", "./socket")
    twistd(*HELLO)
    port = await listening(listener)
    assert await ask(port, end=True) == ANSWER
    assert await ask(port, b"data, then the end", end=True) == ANSWER


@asynchronous
async def test_stringAsGiven(twistd: Start) -> None:
    """
    The string is written byte for byte, even where it is no text.
    """
    string = b"\xff\\n\t100%\xc3\xa9 "
    listener = twistd("portlisten", "0", "./socket")
    twistd("hellofdpass", "./socket", os.fsdecode(string))
    assert await ask(await listening(listener)) == string


@asynchronous
async def test_workerLate(twistd: Start) -> None:
    """
    Five hundred clients come while no worker runs for 20 seconds, and a worker that
    comes then answers all of them.
    """
    listener = twistd("portlisten", "--queue=300", "0", "./socket")
    port = await listening(listener)
    clients = Deferred.fromCoroutine(askMany(port, 500, 500))
    await sleep(20)
    before = time.monotonic()
    twistd(*HELLO)
    answers, _ = await clients
    print(f"500 waiting clients: {time.monotonic() - before:.2f} s from the start")
    assert set(answers) == {ANSWER}
    assert len(answers) == 500


@asynchronous
async def test_listenerLate(twistd: Start) -> None:
    """
    A worker that starts first finds the listener when it comes, and logs once that it
    waits.
    """
    worker = twistd(*HELLO)
    await worker.says("waiting for a listener at ./socket")
    await sleep(0.5)
    assert worker.output.count("waiting for") == 1
    listener = twistd("portlisten", "0", "./socket")
    answers, _ = await askMany(await listening(listener), 500, 500)
    assert set(answers) == {ANSWER}
    assert len(answers) == 500


@asynchronous
async def test_burst(twistd: Start) -> None:
    """
    None of a thousand clients that come at once finds the backlog full.
    """
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < 1000:
        pytest.skip("this host's net.core.somaxconn is less than 1000")
    listener = twistd("portlisten", "0", "./socket")
    twistd(*HELLO)
    port = await listening(listener)
    await listener.says("joined")
    answers, times = await askMany(port, 1000, 1000)
    print(f"1,000 clients at once: the last was answered after {times[-1]:.3f} s")
    assert set(answers) == {ANSWER}
    assert backlogOverflows(port) == 0


@asynchronous
async def test_nothingPilesUp(twistd: Start) -> None:
    """
    After 20,000 connections both processes hold the descriptors that they held
    before, and hardly more memory.
    """
    listener = twistd("portlisten", "0", "./socket")
    worker = twistd(*HELLO)
    port = await listening(listener)
    await listener.says("joined")
    held = [await steady(process) for process in (listener, worker)]
    await askMany(port, 3_000, 64)
    memory = [process.resident() for process in (listener, worker)]
    for _ in range(2):
        answers, _ = await askMany(port, 10_000, 64)
        assert set(answers) == {ANSWER}
    grown = [listener.resident() - memory[0], worker.resident() - memory[1]]
    print(f"resident memory grew by {grown} KiB")
    assert await settled(listener, held[0]) == held[0]
    assert await settled(worker, held[1]) == held[1]
    assert max(grown) < 2048


ECHO = """
import sys
from twisted.internet.protocol import Factory, Protocol
from twisted.internet import reactor
from portlisten._worker.worker import Worker

class Peer(Protocol):
    def connectionMade(self):
        self.transport.write(repr((self.transport.getPeer(),
            self.transport.getHost())).encode())
        self.transport.loseConnection()

Worker(reactor, "./socket", Factory.forProtocol(Peer)).start()
reactor.run()
"""


@asynchronous
async def test_families(twistd: Start, start: Start, folder: Path) -> None:
    """
    Connections over IPv4, over IPv6 and to a Unix socket are adopted in their own
    family, with the client's real address.
    """
    listener = twistd("portlisten", "--listen=unix:./served", "0", "./socket")
    port = await listening(listener)
    folder.joinpath("echo.py").write_text(ECHO)
    start(sys.executable, "echo.py")
    await listener.says("joined")

    def client(family: int, address: tuple[str, int] | str) -> tuple[Any, str]:
        with socket.socket(family) as sock:
            sock.settimeout(10)
            sock.connect(address)
            name = sock.getsockname()
            return name, sock.makefile().read()

    name, peer = await deferToThread(client, socket.AF_INET, ("127.0.0.2", port))
    assert f"(IPv4Address(type='TCP', host='127.0.0.1', port={name[1]})" in peer
    assert f"host='127.0.0.2', port={port}" in peer
    if socket.has_ipv6:
        name, peer = await deferToThread(client, socket.AF_INET6, ("::1", port))
        assert f"IPv6Address(type='TCP', host='::1', port={name[1]}" in peer
    name, peer = await deferToThread(
        client, socket.AF_UNIX, str(folder.joinpath("served"))
    )
    assert "UNIXAddress" in peer
    assert await listener.stop() == 0
    assert not folder.joinpath("served").exists()


@asynchronous
async def test_workerRestarts(twistd: Start) -> None:
    """
    While the only worker is restarted five times under load, every client is
    answered.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = twistd(*HELLO)
    await listener.says("worker 1 .*joined")
    clients = Deferred.fromCoroutine(askMany(port, 8_000, 32))
    for number in range(5):
        await sleep(0.2)
        assert await worker.stop() == 0
        await sleep(0.2)
        worker = twistd(*HELLO)
        await listener.says(f"worker {number + 2} .*joined")
    answers, _ = await clients
    assert set(answers) == {ANSWER}
    assert len(answers) == 8_000
    assert "lost in service" not in listener.output


@asynchronous
async def test_listenerRestarts(twistd: Start, folder: Path) -> None:
    """
    A worker joins the listener's successor, whether the listener was stopped or
    killed; the path that a killed one leaves is replaced.
    """
    port = str(freePort(20000, 30000))
    listener = twistd("portlisten", port, "./socket")
    worker = twistd(*HELLO)
    await worker.says("joined the listener")
    assert await ask(int(port)) == ANSWER
    assert await listener.stop() == 0
    assert not folder.joinpath("socket").exists()
    for _ in range(2):
        listener = twistd("portlisten", port, "./socket")
        await listener.says("joined")
        assert await ask(int(port)) == ANSWER
        await listener.kill()
        assert folder.joinpath("socket").exists()
    assert worker.running


@asynchronous
async def test_patience(twistd: Start) -> None:
    """
    A connection that waited too long is closed, logged with its address, and counted;
    the listener goes on and serves later clients.
    """
    listener = twistd("portlisten", "--patience=0.5", "0", "./socket")
    port = await listening(listener)
    assert await ask(port) == b""
    await listener.says(r"connection of 127\.0\.0\.1:\d+ is closed: no worker took it")
    twistd(*HELLO)
    await listener.says("joined")
    assert await ask(port) == ANSWER
    assert await listener.stop() == 0
    assert "timedOut 1" in listener.output


@asynchronous
async def test_exitOnTimeout(twistd: Start, folder: Path) -> None:
    """
    With C{--on-timeout=exit}, the listener gives up when a connection's patience
    has run out, as in 2002, cleans up, and exits with 1.
    """
    listener = twistd(
        "portlisten", "--on-timeout=exit", "--patience=0.5", "0", "./socket"
    )
    port = await listening(listener)
    assert await ask(port) == b""
    assert await listener.ended() == 1
    assert list(folder.iterdir()) == []


@asynchronous
async def test_stopHandsOff(twistd: Start) -> None:
    """
    A listener that is told to stop hands off all accepted connections and its backlog
    before it exits with 0.
    """
    listener = twistd("portlisten", "--window=1", "0", "./socket")
    port = await listening(listener)
    worker = twistd(*HELLO)
    await listener.says("joined")
    clients = Deferred.fromCoroutine(askMany(port, 200, 200))
    await sleep(0.01)
    assert await listener.stop() == 0
    answers, _ = await clients
    served = [answer for answer in answers if answer == ANSWER]
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert len(served) + len(refused) == 200
    assert "stopped 0" in listener.output
    match = await listener.says(r"accepted (\d+), ")
    assert len(served) == int(match[1])
    assert worker.running


@asynchronous
async def test_grace(twistd: Start) -> None:
    """
    A worker that is told to stop while a client lingers waits for it no longer
    than its grace.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = twistd("hellofdpass", "--grace=1", "./socket", "hello")
    await listener.says("joined")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(60)
        await sleep(0.5)
        assert client.recv(100) == b"hello"
        before = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - before < 8
    assert "1 connections are still in service after 1 s" in worker.output
    await listener.says("it says: the worker stops")


@asynchronous
async def test_manyWorkers(twistd: Start) -> None:
    """
    Several workers share the connections of one path.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    for name in "abc":
        twistd("hellofdpass", "./socket", name)
    await listener.says("worker 3 .*joined")
    answers, _ = await askMany(port, 300, 8)
    assert set(answers) == {b"a", b"b", b"c"}
    assert min(answers.count(name) for name in (b"a", b"b", b"c")) >= 50


@asynchronous
async def test_tac(twistd: Start, folder: Path) -> None:
    """
    The .tac files run the same pair.
    """
    tac = Path(__file__).parents[2] / "tac"
    folder.chmod(0o777)
    text = tac.joinpath("portlisten.tac").read_text()
    assert 'PORT = "10000"' in text
    text = text.replace('PORT = "10000"', 'PORT = "0"').replace("0660", "0666")
    folder.joinpath("portlisten.tac").write_text(text)
    listener = twistd("-y", "portlisten.tac")
    port = await listening(listener)
    worker = twistd("-y", str(tac / "hellofdpass.tac"))
    await listener.says("joined")
    assert await ask(port) == b"hello, world\n"
    results = await gatherResults([listener.stop(), worker.stop()])
    assert results == [0, 0]
    assert reactor.running


@asynchronous
async def test_scheduling(twistd: Start) -> None:
    """
    The listener alone has the policy of programs that need not run at once: neither its
    worker has it, nor what the listener starts.
    """
    metrics = f"--metrics=tcp:{freePort(20000, 30000)}:interface=127.0.0.1"
    listener = twistd("portlisten", metrics, "tcp:0", "./socket")
    worker = twistd(*HELLO)
    await listener.says("joined")
    task = Path(f"/proc/{listener.pid}/task/{listener.pid}")
    await until(lambda: bool((task / "children").read_text()), "the monitor is there")
    [child] = map(int, (task / "children").read_text().split())
    assert os.sched_getscheduler(listener.pid) == os.SCHED_BATCH
    assert os.sched_getscheduler(worker.pid) == os.SCHED_OTHER
    assert os.sched_getscheduler(child) == os.SCHED_OTHER
