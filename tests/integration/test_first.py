"""
Limits of workers, and clients that send nothing, with real processes.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.processes import PATIENCE, Process, Processes

PORT = "tcp:0:interface=127.0.0.1"

#: So long that no silent connection is offered for its time alone, in milliseconds.
LONG = 60_000


class Scene(Processes):
    """
    A listener, its workers, and clients.

    @ivar listener: the listener.
    @ivar ports: its ports.
    """

    def listen(self, *options: str) -> None:
        """
        Start the listener.
        """
        self.listener = self.twistd("portlisten", *options, "./socket")
        line = self.listener.says("listening on (.*), as uid .*workers")[1]
        self.ports = [int(each) for each in re.findall(r":(\d+)(?:,|$)", line)]

    def worker(self, *options: str) -> Process:
        """
        Start a worker, and wait until it has joined.
        """
        before = len(self.listener.output)
        worker = self.python("-m", "tests.support.limited", "./socket", *options)
        self.listener.says("joined", before)
        return worker

    def hello(self, *options: str) -> Process:
        """
        Start a worker that answers before its client speaks, and wait until it has
        joined.
        """
        before = len(self.listener.output)
        worker = self.twistd("hellofdpass", *options, "./socket", "hello, world")
        self.listener.says("joined", before)
        return worker

    def client(self, port: int = 0) -> socket.socket:
        """
        Connect a client.
        """
        address = ("127.0.0.1", self.ports[port])
        client = socket.create_connection(address, PATIENCE)
        self.callback(client.close)
        return client

    def reports(self, pattern: str) -> None:
        """
        Wait until a report of the listener matches.
        """
        before = len(self.listener.output)
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.listener.output[before:]):
            assert time.monotonic() < end, self.listener.output
            self.listener.signal(10)
            time.sleep(0.05)

    def quiet(self, worker: Process) -> bool:
        """
        Whether a worker has got only connections whose clients had spoken.
        """
        return "silent" not in worker.output


@pytest.fixture
def scene() -> Iterator[Scene]:
    """
    Ends all processes.
    """
    with Scene() as started:
        yield started


def ask(client: socket.socket, line: bytes = b"question") -> bytes:
    """
    Speak, and read to the end.

    @return: the answer, without the process id.
    """
    client.sendall(line + b"\n")
    return read(client).rpartition(b" ")[0]


def read(client: socket.socket) -> bytes:
    """
    Read to the end.
    """
    heard = b""
    while data := client.recv(1000):
        heard += data
    return heard


def test_oneSpeaks(scene: Scene) -> None:
    """
    Among 500 silent clients, those that speak are answered, before and after the
    others' time is over, by a worker with a limit of 8.  Nobody is revoked.
    """
    scene.listen(PORT)
    worker = scene.worker("--limit=8", "--first=2000")
    began = time.monotonic()
    silent = [scene.client() for _ in range(500)]
    assert ask(scene.client()) == b"question"
    soon = time.monotonic() - began < 1.5
    assert scene.quiet(worker) or not soon
    worker.says("(?:silent\n){4}")
    for client in [scene.client(), scene.client(), *silent[-3:]]:
        assert ask(client) == b"question"
    assert worker.output.count("silent") == 4
    assert ask(silent[0]) == b"question"
    assert "revoked" not in scene.listener.output
    assert worker.running


def test_keptForLongEnough(scene: Scene) -> None:
    """
    A silent client is offered after its time, and is answered when it speaks.
    """
    scene.listen(PORT)
    worker = scene.worker("--first=300")
    client = scene.client()
    worker.says("silent")
    assert ask(client) == b"question"


def test_keptNoLonger(scene: Scene) -> None:
    """
    A silent client is not offered before its time, and then at once when it speaks.
    """
    scene.listen(PORT)
    worker = scene.worker(f"--first={LONG}")
    client = scene.client()
    scene.reports(r"1 connections waiting \(1 silent\), 0 offered")
    time.sleep(0.3)
    assert ask(client) == b"question"
    assert scene.quiet(worker)


def test_leaves(scene: Scene) -> None:
    """
    If a silent client resets its connection, the listener closes it; if one ends its
    side, the worker gets it.
    """
    scene.listen(PORT)
    worker = scene.worker(f"--first={LONG}")
    client = scene.client()
    scene.reports("1 silent")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    scene.listener.says("its client left while it waited")
    client = scene.client()
    client.shutdown(socket.SHUT_WR)
    assert read(client) == b""
    scene.reports(r"0 connections waiting, 0 offered, 0 held.* accepted 2, offered 1,")
    assert scene.quiet(worker)


def test_killed(scene: Scene) -> None:
    """
    A worker is killed while silent clients wait.  The next worker answers all of them.
    """
    scene.listen(PORT)
    worker = scene.worker("--limit=4", f"--first={LONG}")
    clients = [scene.client() for _ in range(20)]
    scene.reports(r"20 connections waiting \(20 silent\)")
    worker.kill()
    scene.listener.says("died")
    for client in clients[::2]:
        client.sendall(b"question\n")
    scene.worker("--limit=4", f"--first={LONG}")
    for client in clients[::2]:
        assert read(client).startswith(b"question ")
    for client in clients[1::2]:
        assert ask(client) == b"question"
    scene.reports("0 connections waiting, 0 offered, 0 held")


def test_descriptors(scene: Scene) -> None:
    """
    After many silent clients, the listener has as many descriptors as after one.
    """
    scene.listen(PORT)
    scene.worker("--limit=4", f"--first={LONG}")
    assert ask(scene.client()) == b"question"
    with ExitStack() as first:
        client = scene.client()
        scene.reports("1 silent")
        first.callback(ask, client)
    scene.reports("0 connections waiting, 0 offered, 0 held")
    before = scene.listener.descriptors()
    clients = [scene.client() for _ in range(100)]
    scene.reports("100 silent")
    for client in clients:
        assert ask(client) == b"question"
    scene.reports("0 connections waiting, 0 offered, 0 held")
    assert scene.listener.descriptors() == before


def test_bothKinds(scene: Scene) -> None:
    """
    If one worker's clients need not speak first, connections are offered at once, and
    those that were silent until then, too.
    """
    scene.listen(PORT)
    first = scene.worker(f"--first={LONG}")
    clients = [scene.client() for _ in range(2)]
    scene.reports("2 silent")
    scene.hello()
    first.says("silent")
    answered, _, _ = select.select(clients, [], [], PATIENCE)
    assert read(answered[0]) == b"hello, world"
    [other] = [client for client in clients if client is not answered[0]]
    assert ask(other) == b"question"


def test_names(scene: Scene) -> None:
    """
    The workers of one name do not matter for another.
    """
    scene.listen(f"--listen=web={PORT}", f"--listen=mail={PORT}")
    web = scene.worker("--name=web", f"--first={LONG}")
    scene.hello("--name=mail")
    silent = scene.client(0)
    assert read(scene.client(1)) == b"hello, world"
    scene.reports("1 connections waiting .1 silent., 0 offered")
    assert ask(silent) == b"question"
    assert scene.quiet(web)


def test_stop(scene: Scene) -> None:
    """
    When the listener stops, silent connections go to the worker, which serves them.
    """
    scene.listen(PORT)
    worker = scene.worker(f"--first={LONG}")
    client = scene.client()
    scene.reports("1 silent")
    scene.listener.signal(15)
    worker.says("silent")
    assert ask(client) == b"question"


def test_full(scene: Scene) -> None:
    """
    If the queue is full of silent clients, others are served all the same.
    """
    scene.listen("--queue=10", PORT)
    worker = scene.worker("--limit=4", "--first=500")
    silent = [scene.client() for _ in range(30)]
    for _ in range(3):
        assert ask(scene.client()) == b"question"
    scene.listener.says("its client sent nothing, and others need its place")
    assert worker.running
    assert len(silent) == 30


def test_twisted(scene: Scene) -> None:
    """
    A worker in Twisted says what its options say.
    """
    scene.listen(PORT)
    scene.hello("--first=60", "--limit=3")
    scene.listener.says("with a window of 3 and a limit of 3")
    client = scene.client()
    scene.reports("1 silent")
    client.sendall(b"x")
    assert read(client) == b"hello, world"
