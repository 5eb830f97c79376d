"""
The wall clock is stepped, or processes stand still, and nobody notices: a duration
is time in which the process ran, as the monotonic clock counts it.
"""

from __future__ import annotations

import random
import select
import signal
import socket
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.defer import Deferred

from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Offer, WorkerHello
from tests.support.asking import askMany, client
from tests.support.asynchronous import asynchronous
from tests.support.faults import HOUR, Clock, NoDescriptors
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import beside, reactor, sleep, timed, together, until

HELLO = b"hello"

#: A server that answers what its clients say, and until then keeps them.
SERVER = """
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

class Answer(Protocol):
    def dataReceived(self, data):
        self.transport.write(b"hello")
        self.transport.loseConnection()

application = Application("server")
StreamServerEndpointService(
    serverFromString(reactor, "portlisten:{path}:grace=2{more}"),
    Factory.forProtocol(Answer),
).setServiceParent(application)
"""

#: How much later than it should something may come, in seconds.  So many processes
#: start meanwhile.
LATE = 3.0

#: What is done to the clock, and the reactor.
CASES = {
    "no step": (0.0, "default"),
    "+1 h": (HOUR, "default"),
    "-1 h": (-HOUR, "default"),
    "-20 s, poll": (-20.0, "poll"),
    "-1 h, asyncio": (-HOUR, "asyncio"),
    "small steps": (None, "default"),
}


def about(seconds: float, expected: float) -> bool:
    """
    Whether something took as long as it should.
    """
    return expected - 0.3 < seconds < expected + LATE


class Story:
    """
    A listener and its workers, under a clock.

    @param case: which of L{CASES}.

    @cvar cases: those in which the story is told.
    """

    cases: ClassVar[Collection[str]] = CASES

    def __init__(self, start: Start, folder: Path, number: int, case: str) -> None:
        step, self._reactor = CASES[case]
        self._start = start
        self._folder = folder
        self._number = number
        self._clock = Clock(folder / f"{number}.{type(self).__name__}.clock", step)

    def twistd(self, *arguments: str) -> Process:
        """
        Start C{twistd} under the clock.
        """
        own = ["--nodaemon", "--pidfile=", f"--reactor={self._reactor}"]
        return self._start(*self._clock.under(command("twistd"), *own, *arguments))

    def path(self, wire: str = "stream") -> str:
        """
        Where this story's listener of a wire and its workers meet.
        """
        return f"./{self._number}.{wire}"

    def server(self, wire: str = "stream", more: str = "") -> Process:
        """
        Start the server with the endpoint.
        """
        name = f"{self._number}.{wire}.tac"
        text = SERVER.replace("{path}", self.path(wire)).replace("{more}", more)
        self._folder.joinpath(name).write_text(text)
        return self.twistd(f"--python={name}")

    def hello(self, *options: str, wire: str = "stream") -> Process:
        """
        Start C{hellofdpass}.
        """
        own = ["hellofdpass", f"--wire={wire}", "--grace=2", *options]
        return self.twistd(*own, self.path(wire), "hello")

    def listener(self, *options: str, wire: str = "stream") -> Process:
        """
        Start a listener.
        """
        own = ["portlisten", f"--wire={wire}", "--patience=2", "--grace=2", *options]
        return self.twistd(*own, "0", self.path(wire))

    async def stepped(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Do some work, and step the clock meanwhile, at some moment.
        """
        timer = reactor.callLater(random.uniform(0.05, 0.6), self._clock.disturb)
        try:
            await Deferred.fromCoroutine(work).addTimeout(12, reactor)
        finally:
            if timer.active():
                timer.cancel()
            self._clock.rest()


async def tell(stories: dict[str, Any]) -> None:
    """
    Tell stories side by side, each part together with those of the others: C{begin},
    and in their order the methods whose names begin with C{part}.

    @raise AssertionError: if a part of one failed; it names all that did.
    """
    parts = {
        name: [each for each in vars(type(story)) if each.startswith("part")]
        for name, story in stories.items()
    }
    await beside({name: story.begin() for name, story in stories.items()})
    failures = []
    for number in range(max(map(len, parts.values()))):
        works = {
            f"{name}, {own[number]}": stories[name].stepped(
                getattr(stories[name], own[number])()
            )
            for name, own in parts.items()
            if number < len(own)
        }
        try:
            await beside(works)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


class _Stream(Story):
    async def begin(self) -> None:
        """
        Start the workers, which find no listener.
        """
        self._hello = self.hello()
        self._server = self.server()
        for worker in (self._hello, self._server):
            await worker.says("starting up")
        await sleep(0.5)

    async def partRetry(self) -> None:
        """
        Workers that wait for their listener join it when it is there.
        """
        await sleep(0.7)
        self._listener = self.listener("--claim-timeout=1")
        self._port = await listening(self._listener)
        clients = [client(self._port) for _ in range(8)]
        for answer, seconds in await together(clients):
            assert answer == HELLO
            assert seconds < LATE
        for number in (1, 2):
            await self._listener.says(f"worker {number} .*joined", LATE)

    async def partNoDescriptors(self) -> None:
        """
        A listener that could not accept tries again soon.
        """
        with NoDescriptors(self._listener.pid):
            waiting = client(self._port)
            await sleep(1)
            assert not waiting.called
        answer, seconds = await waiting
        assert answer == HELLO
        assert about(seconds, 1)

    async def partHung(self) -> None:
        """
        What a hung worker was sent is taken away from it after the time for claims.
        """
        self._hello.signal(signal.SIGSTOP)
        results = await together(client(self._port) for _ in range(8))
        self._hello.signal(signal.SIGCONT)
        assert [answer for answer, _ in results] == [HELLO] * 8
        assert min(seconds for _, seconds in results) < 0.9
        assert about(max(seconds for _, seconds in results), 1)
        await self._listener.says("(?s)worker [12] .*joined.*worker 3 .*joined", LATE)

    async def partWorkersStop(self) -> None:
        """
        Workers with silent clients end when their grace is over.
        """
        clients = [
            socket.create_connection(("127.0.0.1", self._port)) for _ in range(4)
        ]
        await sleep(0.3)
        try:
            ends = [timed(each.stop()) for each in (self._hello, self._server)]
            ended = await together(Deferred.fromCoroutine(end) for end in ends)
        finally:
            for each in clients:
                each.close()
        for _, seconds in ended:
            assert about(seconds, 2)

    async def partPatience(self) -> None:
        """
        Clients that wait are closed when their patience is over.
        """
        for answer, seconds in await together(client(self._port) for _ in range(3)):
            assert answer == b""
            assert about(seconds, 2)

    async def partWaiting(self) -> None:
        """
        Clients that wait are offered to a worker that comes before.
        """
        waiting = client(self._port)
        await sleep(0.7)
        worker = socket.socket(socket.AF_UNIX)
        worker.connect(str(self._folder / self.path()))
        with worker:
            worker.sendall(encode(WorkerHello(1)))
            await offered(worker)
            assert not waiting.called
        await waiting

    async def partListenerStops(self) -> None:
        """
        A listener that cannot hand off what waits ends when its grace is over.
        """
        worker = socket.socket(socket.AF_UNIX)
        worker.connect(str(self._folder / self.path()))
        with worker:
            worker.sendall(encode(WorkerHello(8)))
            await sleep(0.3)
            waiting = client(self._port)
            await sleep(0.2)
            code, seconds = await timed(self._listener.stop())
            await waiting
        assert code == 0
        assert about(seconds, 2)


def readable(sock: socket.socket) -> bool:
    """
    Whether something can be read from a socket now.
    """
    return bool(select.select([sock], [], [], 0)[0])


async def offered(channel: socket.socket) -> None:
    """
    Read what a listener sends until it offers something, and close the descriptors.
    """
    decoder = Decoder(FROM_LISTENER)
    channel.setblocking(False)

    def holds() -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
        except BlockingIOError:
            return False
        assert data, "the channel has ended"
        for each in descriptors:
            socket.close(each)
        return any(isinstance(each, Offer) for each in decoder.feed(data))

    await until(holds, "an offer")


class _Datagram(Story):
    cases = ("+1 h", "-1 h", "-20 s, poll", "small steps")

    async def begin(self) -> None:
        """
        Start a listener that finds nobody, and a worker elsewhere.
        """
        self._listener = self.listener(wire="datagram")
        self._port = await listening(self._listener)
        self._server = self.server("elsewhere", ":wire=datagram")
        await self._server.says("starting up")

    async def partPatience(self) -> None:
        """
        Clients that wait are closed when their patience is over.
        """
        for answer, seconds in await together(client(self._port) for _ in range(3)):
            assert answer == b""
            assert about(seconds, 2)

    async def partWaiting(self) -> None:
        """
        Clients that wait are served by a worker that comes.
        """
        waiting = client(self._port)
        await sleep(0.7)
        path = str(self._folder / self.path("datagram"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
            worker.bind(path)
            worker.settimeout(0)
            await sleep(0.6)
            await until(lambda: readable(worker), "a connection")
            _, descriptors, _, _ = socket.recv_fds(worker, 10, 1)
            with socket.socket(fileno=descriptors[0]) as connection:
                connection.sendall(HELLO)
        Path(path).unlink()
        answer, seconds = await waiting
        assert answer == HELLO
        assert about(seconds, 1.3)

    async def partWorkerStops(self) -> None:
        """
        A worker with a silent client ends when its grace is over.
        """
        left, right = socket.socketpair()
        with left, right, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self._folder / self.path("elsewhere")))
            socket.send_fds(sender, [b"x"], [right.fileno()])
            await sleep(0.3)
            _, seconds = await timed(self._server.stop())
        assert about(seconds, 2)

    async def partListenerStops(self) -> None:
        """
        A listener that cannot hand off what waits ends when its grace is over.
        """
        waiting = client(self._port)
        await sleep(0.2)
        code, seconds = await timed(self._listener.stop())
        await waiting
        assert code == 0
        assert about(seconds, 2)


@asynchronous
async def test_steps(start: Start, folder: Path) -> None:
    """
    With a step of the clock at any moment, everything takes as long as without, on
    both wires.
    """
    await tell(
        {
            f"{case}, {make.__name__}": make(start, folder, number, case)
            for make in (_Stream, _Datagram)
            for number, case in enumerate(make.cases)
        }
    )


async def counted(listener: Process, name: str) -> int:
    """
    Ask a listener for one of its counters.
    """
    listener.output = ""
    listener.signal(signal.SIGUSR1)
    match = await listener.says(rf"since the start: .*\b{name} (\d+)")
    return int(match[1])


@asynchronous
async def test_smallStepsUnderLoad(start: Start, folder: Path) -> None:
    """
    While the clock is stepped all the time, no worker counts as hung, nobody loses
    patience, and workers come and go.
    """
    clock = Clock(folder / "clock", None)

    def twistd(*arguments: str) -> Process:
        own = ["--nodaemon", "--pidfile=", *arguments]
        return start(*clock.under(command("twistd"), *own))

    options = ["--claim-timeout=0.5", "--patience=2"]
    listener = twistd("portlisten", *options, "0", "./socket")
    workers = [twistd("hellofdpass", "./socket", "hello") for _ in range(2)]
    port = await listening(listener)
    for number in (1, 2):
        await listener.says(f"worker {number} .*joined")
    clock.disturb()
    load = Deferred.fromCoroutine(askMany(port, 1500, 48))
    await sleep(0.3)
    code, seconds = await timed(workers[0].stop())
    assert (code, seconds < LATE) == (0, True)
    workers.append(twistd("hellofdpass", "./socket", "hello"))
    answers, _ = await load
    assert answers.count(HELLO) == 1500
    assert await counted(listener, "revoked") == 0
    assert await counted(listener, "timedOut") == 0
    clock.rest()


def halt(*processes: Process) -> None:
    """
    Stop processes.
    """
    for each in processes:
        each.signal(signal.SIGSTOP)


def goOn(*processes: Process) -> None:
    """
    Let processes go on.
    """
    for each in processes:
        each.signal(signal.SIGCONT)


@asynchronous
async def test_listenerStoodStill(twistd: Start) -> None:
    """
    If a listener stood still for longer than the patience, it closes no waiting
    connection: a worker that has come by then serves them.
    """

    async def one(wire: str) -> None:
        path = f"./{wire}"
        own = ["portlisten", f"--wire={wire}", "--patience=1"]
        listener = twistd(*own, "0", path)
        port = await listening(listener)
        waiting = [client(port) for _ in range(4)]
        await sleep(0.3)
        halt(listener)
        worker = twistd("hellofdpass", f"--wire={wire}", path, "hello")
        await worker.says("starting up")
        await sleep(1.5)
        goOn(listener)
        assert [answer for answer, _ in await together(waiting)] == [HELLO] * 4

    await beside({wire: one(wire) for wire in ("stream", "datagram")})


@asynchronous
async def test_offersStoodStill(twistd: Start) -> None:
    """
    A worker is not revoked because the listener stood still, nor because both did, in
    whatever order they go on.
    """

    async def one(name: str) -> None:
        listener = twistd("portlisten", "--claim-timeout=1", "0", f"./{name}")
        worker = twistd("hellofdpass", f"./{name}", "hello")
        port = await listening(listener)
        await listener.says("joined")
        halt(worker)
        waiting = client(port)
        await sleep(0.2)
        halt(listener)
        if name == "listener alone":
            goOn(worker)
        await sleep(1.5)
        first, second = (worker, listener)
        if name == "listener first":
            first, second = second, first
        goOn(first)
        await sleep(0.1)
        goOn(second)
        answer, _ = await waiting
        assert answer == HELLO
        assert await counted(listener, "revoked") == 0

    names = ("listener alone", "worker first", "listener first")
    await beside({name: one(name) for name in names})


@asynchronous
async def test_helloStoodStill(twistd: Start, folder: Path) -> None:
    """
    A HELLO is not missed because its sender and its reader, or its reader alone,
    stood still for longer than it may take.
    """

    async def both() -> None:
        listener = twistd("portlisten", "0", "./both")
        port = await listening(listener)
        halt(listener)
        worker = twistd("hellofdpass", "./both", "hello")
        await worker.says("starting up")
        await sleep(0.5)
        halt(worker)
        await sleep(5.3)
        goOn(worker, listener)
        answer, seconds = await client(port)
        assert answer == HELLO
        assert seconds < 2

    async def reader() -> None:
        listener = twistd("portlisten", "0", "./reader")
        port = await listening(listener)
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(folder / "reader"))
            await sleep(0.3)
            halt(listener)
            channel.sendall(encode(WorkerHello(1)))
            await sleep(5.3)
            goOn(listener)
            waiting = client(port)
            await offered(channel)
        listener.signal(signal.SIGKILL)
        await waiting

    await beside({"both": both(), "reader": reader()})


@asynchronous
async def test_graceStoodStill(twistd: Start, folder: Path) -> None:
    """
    If the process stands still for longer than the grace during a stop, waiting
    connections are still served, and connections in service are still finished.
    """

    async def worker() -> None:
        text = SERVER.replace("{path}", "./worker").replace("{more}", "")
        folder.joinpath("worker.tac").write_text(text)
        listener = twistd("portlisten", "0", "./worker")
        server = twistd("--python=worker.tac")
        port = await listening(listener)
        await listener.says("joined")
        with socket.create_connection(("127.0.0.1", port)) as slow:
            await sleep(0.3)
            server.signal(signal.SIGTERM)
            await sleep(0.3)
            halt(server)
            await sleep(2.2)
            slow.sendall(b"hi\n")
            goOn(server)
            slow.settimeout(1)
            await server.ended()
            assert slow.recv(100) == HELLO

    async def listener(wire: str) -> None:
        path = f"./{wire}"
        own = ["portlisten", f"--wire={wire}", "--grace=2"]
        listener = twistd(*own, "0", path)
        waiting = client(await listening(listener))
        await sleep(0.3)
        listener.signal(signal.SIGTERM)
        await sleep(0.3)
        halt(listener)
        worker = twistd("hellofdpass", f"--wire={wire}", path, "hello")
        await worker.says("starting up")
        await sleep(2.2)
        goOn(listener)
        answer, _ = await waiting
        assert answer == HELLO
        assert await listener.ended() == 0

    await beside(
        {
            "worker": worker(),
            "stream": listener("stream"),
            "datagram": listener("datagram"),
        }
    )
