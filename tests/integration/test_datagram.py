"""
The wire of 2002, with programs of that time at either end, or at both.
"""

from __future__ import annotations

import array
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support import clients
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening, settled, steady
from tests.support.waiting import PATIENCE, sleep

PEERS = Path(__file__).parents[1] / "peers"

WIRE = "--wire=datagram"
HELLO = b"hello, 2002"

#: A server that numbers its connections.
COUNTER = """
from itertools import count

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

numbers = count()

class Number(Protocol):
    def connectionMade(self):
        self.transport.write(b"%d" % next(numbers))
        self.transport.loseConnection()

application = Application("counter")
StreamServerEndpointService(
    serverFromString(reactor, "portlisten:./socket:wire=datagram"),
    Factory.forProtocol(Number),
).setServiceParent(application)
"""


class Pair:
    """
    Starts listeners and workers, ours or those in C.
    """

    def __init__(self, start: Start, twistd: Start, folder: Path) -> None:
        self._start = start
        self._twistd = twistd
        self._folder = folder

    async def compile(self) -> None:
        """
        Compile the programs in C.
        """
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler")
        for name in ("portlisten", "hellofdpass"):
            arguments = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-O2"]
            arguments += ["-o", f"{name}.2002", str(PEERS / f"{name}.c")]
            compiler = self._start("cc", *arguments)
            assert await compiler.ended() == 0, compiler.output

    async def listener(self, kind: str = "ours") -> tuple[Process, int]:
        """
        Start a listener.

        @return: it, and its port.
        """
        if kind == "C":
            port = freePort(10000, 20000)
            program = str(self._folder / "portlisten.2002")
            listener = self._start(program, str(port), "./socket")
            await listener.says("listening")
            return listener, port
        listener = self._twistd("portlisten", WIRE, "0", "./socket")
        return listener, await listening(listener)

    async def worker(self, kind: str = "ours", *options: str) -> Process:
        """
        Start a worker.
        """
        if kind == "C":
            program = str(self._folder / "hellofdpass.2002")
            worker = self._start(program, "./socket", HELLO.decode())
        else:
            worker = self._twistd(
                "hellofdpass", WIRE, *options, "./socket", HELLO.decode()
            )
        await worker.says("receiving")
        return worker


@pytest.fixture
def pair(start: Start, twistd: Start, folder: Path) -> Pair:
    """
    A listener and a worker, not started yet.
    """
    return Pair(start, twistd, folder)


@pytest.mark.parametrize("worker", ["ours", "C"])
@pytest.mark.parametrize("listener", ["ours", "C"])
@asynchronous
async def test_matrix(pair: Pair, listener: str, worker: str) -> None:
    """
    At either end old and new programs serve all clients: those that wait, those that
    send first, and those that come after clients that did not wait.  A worker of 2002
    leaves what a client sent first unread, so a reset follows its answer.  On this host
    the answer has arrived by then, and the reset takes nothing away; between hosts that
    is likely, but not sure.
    """
    if "C" in (listener, worker):
        await pair.compile()
    one, port = await pair.listener(listener)
    other = await pair.worker(worker)
    assert await ask(port) == HELLO
    before = await steady(one), await steady(other)
    for client in (clients.listen, clients.sendFirst, clients.leave):
        began = time.monotonic()
        answers = await deferToThread(clients.crowd, client, port, 2000)
        print(
            f"{listener} to {worker}, {client.__name__}: {dict(answers)},"
            f" {2000 / (time.monotonic() - began):.0f} a second"
        )
        expected = b"" if client is clients.leave else HELLO
        assert answers == {expected: 2000}
        assert clients.listen(port) == HELLO
    after = await settled(one, before[0]), await settled(other, before[1])
    assert after == before


@asynchronous
async def test_workerLate(pair: Pair, twistd: Start, folder: Path) -> None:
    """
    Clients that come while no worker runs are served when one comes, in the order in
    which they came.
    """
    listener, port = await pair.listener()
    waiting = [clients.connect(port) for _ in range(300)]
    await sleep(20)
    folder.joinpath("counter.tac").write_text(COUNTER)
    twistd("-y", "counter.tac")
    answers = await deferToThread(lambda: [clients.read(each) for each in waiting])
    for each in waiting:
        each.close()
    assert answers == [b"%d" % number for number in range(300)]
    assert listener.output.count("waiting for a worker") == 1


@asynchronous
async def test_replaced(pair: Pair) -> None:
    """
    If a path changes hands ten times under 64 clients at once, every client is served.
    """
    _, port = await pair.listener()
    worker = await pair.worker()
    enough = False

    def load() -> Counter[bytes]:
        answers: Counter[bytes] = Counter()
        while not enough:
            answers.update(clients.crowd(clients.listen, port, 640, 64))
        return answers

    running = deferToThread(load)
    try:
        for _ in range(10):
            successor = await pair.worker("ours", "--replace")
            assert await worker.stop() == 0
            worker = successor
    finally:
        enough = True
        answers = await running
    print(f"path replaced ten times: {dict(answers)}")
    assert list(answers) == [HELLO]


@asynchronous
async def test_nothingPilesUp(pair: Pair) -> None:
    """
    After 20,000 connections both sides hold what they held before.
    """
    listener, port = await pair.listener()
    worker = await pair.worker()
    await deferToThread(clients.crowd, clients.listen, port, 100)
    before = await steady(listener), await steady(worker)
    answers = await deferToThread(clients.crowd, clients.listen, port, 20000, 64)
    assert answers == {HELLO: 20000}
    after = (
        await settled(listener, before[0]),
        await settled(worker, before[1]),
    )
    print(f"descriptors before and after 20,000 connections: {before}, {after}")
    assert after == before


@pytest.mark.parametrize("full", ["queue", "buffer"])
@asynchronous
async def test_stopped(
    request: pytest.FixtureRequest, start: Start, pair: Pair, full: str
) -> None:
    """
    While a worker is stopped, its listener waits without using the processor; all
    clients have their answers when the worker goes on.
    """
    listener, port = await pair.listener()
    if full == "buffer":
        request.getfixturevalue("root")
        worker = await longQueue(start)
    else:
        worker = await pair.worker()
    worker.signal(signal.SIGSTOP)
    answers = deferToThread(crowdInTurn, port, 700)
    await listener.says("takes no more for now")
    before = cpu(listener)
    await sleep(3)
    spent = cpu(listener) - before
    worker.signal(signal.SIGCONT)
    assert await answers == {HELLO: 700}
    print(f"{full} full: the listener used {spent:.2f} s of 3 while it waited")
    assert spent < 0.5
    assert listener.output.count("takes no more for now") == 1


@asynchronous
async def test_replacedWhileStopped(root: None, start: Start, pair: Pair) -> None:
    """
    A stopped worker with a long queue keeps the connections that it was sent, and gets
    none of its successor's; each worker serves its own.
    """
    listener, port = await pair.listener()
    stopped = await longQueue(start)
    stopped.signal(signal.SIGSTOP)
    first = deferToThread(crowdInTurn, port, 700)
    await listener.says("takes no more for now")
    await pair.worker("ours", "--replace")
    assert await ask(port) == HELLO
    stopped.signal(signal.SIGCONT)
    assert await first == {HELLO: 700}


async def longQueue(start: Start) -> Process:
    """
    Start a worker whose queue is longer than a sender's buffer, as on hosts with
    systemd.  Its network namespace sets the length; the path is the same in all
    namespaces.
    """
    unshare = shutil.which("unshare")
    if unshare is None or await start(unshare, "-n", "true").ended() != 0:
        pytest.skip("no network namespace can be made")
    worker = start(
        *(unshare, "-n", "sh", "-c"),
        'echo 512 >/proc/sys/net/unix/max_dgram_qlen && exec "$@"',
        *("sh", command("twistd"), "-n", "--pidfile=long.pid"),
        *("hellofdpass", WIRE, "./socket", HELLO.decode()),
    )
    await worker.says("receiving")
    return worker


def crowdInTurn(port: int, count: int) -> Counter[bytes]:
    """
    Run many clients that all connect before the first one reads.
    """
    waiting = [clients.connect(port) for _ in range(count)]
    answers = Counter(clients.read(each) for each in waiting)
    for each in waiting:
        each.close()
    return answers


def cpu(process: Process) -> float:
    """
    Return how long a process has used a processor, in seconds: proc(5).
    """
    text = Path(f"/proc/{process.pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def send(path: Path, *descriptors: int, data: bytes = b"x") -> None:
    """
    Send a datagram.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        control: Sequence[tuple[int, int, array.array[int]]] = []
        if descriptors:
            rights = array.array("i", descriptors)
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        sock.sendmsg([data], control, 0, str(path))


@asynchronous
async def test_badDatagrams(pair: Pair, folder: Path) -> None:
    """
    Datagrams that do not belong to this wire do a worker no harm, and leave nothing
    open in it.
    """
    _, port = await pair.listener()
    worker = await pair.worker()
    assert await ask(port) == HELLO
    before = await steady(worker)
    path = folder / "socket"
    left, right = os.pipe()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening = socket.create_server(("127.0.0.1", 0))
    useless = [left, right, udp.fileno(), listening.fileno()]
    for _ in range(20):
        send(path)
        send(path, data=b"")
        send(path, data=b"x" * 5000)
        for descriptor in useless:
            send(path, descriptor)
        send(path, *useless)
        send(path, listening.fileno(), *[left] * 200)
        assert await ask(port) == HELLO
    for descriptor in (left, right):
        os.close(descriptor)
    udp.close()
    listening.close()
    assert await settled(worker, before) == before
    assert "Traceback" not in worker.output


@asynchronous
async def test_oddDatagrams(pair: Pair, folder: Path) -> None:
    """
    Connections are served even if a datagram has several, has another descriptor among
    them, or has no data or much data.
    """
    _, port = await pair.listener()
    worker = await pair.worker()
    assert await ask(port) == HELLO
    before = await steady(worker)
    left, right = os.pipe()
    for data in (b"", b"x", b"x" * 5000):
        waiting, connections = [], []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for _ in range(5):
                waiting.append(clients.connect(server.getsockname()[1]))
                connections.append(server.accept()[0])
        numbers = [each.fileno() for each in connections]
        send(folder / "socket", *numbers[:2], left, right, *numbers[2:], data=data)
        for each in connections:
            each.close()
        for each in waiting:
            assert await deferToThread(clients.read, each) == HELLO
            each.close()
    for descriptor in (left, right):
        os.close(descriptor)
    assert await settled(worker, before) == before


@asynchronous
async def test_workerOutOfDescriptors(start: Start, pair: Pair) -> None:
    """
    A worker with few descriptors takes no more than it can serve, and serves all.
    """
    _, port = await pair.listener()
    hello = [command("twistd"), "-n", "--pidfile=w.pid", "hellofdpass", WIRE]
    worker = start(
        *("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"),
        *(*hello, "./socket", HELLO.decode()),
    )
    await worker.says("receiving")
    answers = await deferToThread(clients.crowd, clients.listen, port, 400, 200)
    assert answers == {HELLO: 400}


@asynchronous
async def test_pathTaken(pair: Pair, twistd: Start) -> None:
    """
    A path where a worker lives is refused, in one line that says what to do.
    """
    await pair.worker()
    second = twistd("hellofdpass", WIRE, "./socket", "again")
    assert await second.ended() == 1
    [line] = second.errors.splitlines()
    assert "a worker lives at ./socket already" in line
    assert "--replace" in line


@asynchronous
async def test_wiresDiffer(pair: Pair, twistd: Start) -> None:
    """
    A listener of one wire and a worker of the other wait for each other, and say
    what is there.
    """
    stream = twistd("portlisten", "0", "./socket")
    await listening(stream)
    listener, port = await pair.listener()
    with clients.connect(port):
        await listener.says("waiting for a worker .* a socket of another kind is there")
    worker = twistd("hellofdpass", WIRE, "./socket", "again")
    assert await worker.ended() == 1
    assert "a socket of another kind is bound to ./socket" in worker.errors


@pytest.mark.parametrize("option", ["--group=nogroup", "--mode=0666"])
@asynchronous
async def test_permissions(
    root: None, twistd: Start, folder: Path, option: str
) -> None:
    """
    If the listener may not write to the path, its log says so, and the worker's group
    or mode mends it.  Both sides serve without privileges.
    """
    port = freePort(80, 1024)
    listener = twistd(
        "portlisten", WIRE, str(port), "./socket", uid="nobody", gid="nogroup"
    )
    await listening(listener)
    worker = twistd("hellofdpass", WIRE, "./socket", HELLO.decode(), uid="daemon")
    await worker.says("receiving")
    send(folder / "socket")
    await worker.says("without a descriptor")  # so it runs, and stops in good order
    with clients.connect(port) as client:
        await listener.says("Permission denied; the worker's --mode and --group")
        assert await worker.stop() == 0
        worker = twistd(
            *("hellofdpass", WIRE, option, "./socket", HELLO.decode()),
            uid="daemon",
        )
        client.settimeout(PATIENCE)
        assert await deferToThread(clients.read, client) == HELLO
    for process, user in ((listener, "65534"), (worker, "1")):
        assert process.status()["Uid"].split() == [user] * 4
        assert int(process.status()["CapEff"], 16) == 0


@asynchronous
async def test_anyServer(pair: Pair, twistd: Start, folder: Path) -> None:
    """
    Twisted's own web server is a worker on this wire, too.
    """
    folder.joinpath("site").mkdir()
    folder.joinpath("site", "index.html").write_text("hello, web")
    _, port = await pair.listener()
    web = twistd(
        "web", "--listen=portlisten:./socket:wire=datagram:mode=0600", "--path=site"
    )
    answer = await ask(port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"hello, web")
    web.signal(signal.SIGTERM)
    await web.ended()
    assert not folder.joinpath("socket").exists()
