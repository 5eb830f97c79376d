"""
Workers are drained and undrained, with real processes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.asking import client
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening, reports
from tests.support.waiting import PATIENCE, sleep, together, until

#: Answers each request when there is a file "go", and keeps its connections.  With
#: "cut", it resets its connections at SIGTERM, as some servers do.
SERVER = """
import os, sys
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

class Slow(Resource):
    isLeaf = True
    waiting = set()

    def render_GET(self, request):
        print("asked", flush=True)
        self.waiting.add(request)
        request.notifyFinish().addErrback(lambda why: self.waiting.discard(request))
        self.answer(request)
        return NOT_DONE_YET

    def answer(self, request):
        if not os.path.exists("go"):
            reactor.callLater(0.02, self.answer, request)
        elif request in self.waiting:
            self.waiting.discard(request)
            request.write(b"%s " % sys.argv[2].encode() * 5000 + b"whole")
            request.finish()

    def cut(self):
        for request in list(self.waiting):
            request.channel.transport.abortConnection()

root = Slow()
if "cut" in sys.argv:
    reactor.addSystemEventTrigger("before", "shutdown", root.cut)
port = serverFromString(reactor, sys.argv[1]).listen(Site(root))
port.addCallback(lambda port: print("ready", flush=True))
reactor.run()
"""

#: Serves a listening socket that it gets from C{portlisten exec}.
PROGRAM = """
import os, socket, time
port = socket.socket(fileno=3)
print("ready", os.getpid(), flush=True)
while True:
    try:
        sock, _ = port.accept()
    except BlockingIOError:
        time.sleep(0.02)
        continue
    sock.sendall(b"program whole")
    sock.close()
"""

#: Joins as another user, confirms that it drains, and reports what it likes.
HOSTILE = """
import os, socket, sys
from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Drain, Leave, Serving, WorkerHello
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect("./socket")
sock.sendall(encode(WorkerHello(1, frames=frozenset([Leave.TYPE]), label="web-1")))
print("ready", flush=True)
decoder = Decoder(FROM_LISTENER)
while data := sock.recv(65536):
    for frame in decoder.feed(data):
        if isinstance(frame, Leave):
            sock.sendall(encode(Serving(2**32 - 1)) + encode(Drain()))
"""

#: Runs the command as nobody.
AS_NOBODY = """
import os, sys
from portlisten._commands.portlisten import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
main(sys.argv[1:])
"""

KEPT = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUEST = KEPT[:-2] + b"Connection: close\r\n\r\n"
LOOPBACK = "tcp:0:interface=127.0.0.1"


class Site:
    """
    A listener, its workers, and an operator.
    """

    def __init__(self, start: Start, twistd: Start, folder: Path) -> None:
        self._start = start
        self._twistd = twistd
        self._folder = folder

    async def listen(self, *options: str, port: str = LOOPBACK) -> int:
        """
        Start a listener.

        @return: its port.
        """
        self.listener = self._twistd("portlisten", *options, port, "./socket")
        return await listening(self.listener)

    async def worker(self, label: str, *options: str) -> Process:
        """
        Start a worker.
        """
        description = f"portlisten:./socket:label={label}"
        program = [sys.executable, "-c", SERVER, description, label, *options]
        worker = self._start(*program)
        await worker.says("ready")
        return worker

    def go(self) -> None:
        """
        Let the servers answer.
        """
        (self._folder / "go").touch()

    def operate(self, name: str, *arguments: str) -> Process:
        """
        Run C{portlisten drain} or C{portlisten undrain}.
        """
        *options, workers = arguments
        program = [command("portlisten"), name, *options, "./socket"]
        return self._start(*program, *workers.split())

    async def ask(
        self, worker: Process, port: int, count: int = 1
    ) -> list[Deferred[tuple[object, float]]]:
        """
        Start clients, and wait until a worker has their requests.
        """
        before = worker.output.count("asked")
        clients = [client(port, REQUEST) for _ in range(count)]
        await until(
            lambda: worker.output.count("asked") >= before + count,
            f"{count} requests in service",
        )
        return clients


def read(sock: socket.socket, end: bytes = b"") -> bytes:
    """
    Read up to some bytes, or to the end.
    """
    received = b""
    while not (end and received.endswith(end)):
        data = sock.recv(65536)
        if not data:
            break
        received += data
    return received


@pytest.fixture
def site(start: Start, twistd: Start, folder: Path) -> Site:
    """
    Nothing yet.
    """
    return Site(start, twistd, folder)


async def wholes(clients: list[Deferred[tuple[object, float]]]) -> list[str]:
    """
    Wait for answers that are whole.

    @return: the label of the worker that gave each.
    """
    labels = []
    for answer, _ in await together(clients):
        assert isinstance(answer, bytes), answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert body.endswith(b"whole\r\n0\r\n\r\n"), body[-100:]
        labels.append(body.split()[-3].decode())
    return labels


@asynchronous
async def test_requests(site: Site) -> None:
    """
    Ten requests are in service.  The command waits until they are answered.  Meanwhile
    new clients wait for the next worker, and the drained one goes on to run.
    """
    port = await site.listen()
    worker = await site.worker("web-1")
    clients = await site.ask(worker, port, 10)
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says(r"worker 1 \(web-1, .*\): 10 connections left")
    late = client(port, REQUEST)
    await reports(site.listener, "1 connections waiting, 0 offered")
    assert drain.running
    site.go()
    assert await wholes(clients) == ["web-1"] * 10
    assert await drain.ended() == 0
    assert "(web-1, " in drain.output
    assert " is drained\ndone, after" in drain.output
    assert worker.running
    await site.worker("web-2")
    assert await wholes([late]) == ["web-2"]
    assert "is drained; it had 10 connections" in site.listener.output
    await worker.stop()


@asynchronous
async def test_timeout(site: Site) -> None:
    """
    If the time is over, the command says what is left, and may be used again.
    """
    port = await site.listen()
    worker = await site.worker("web-1")
    clients = await site.ask(worker, port, 2)
    drain = site.operate("drain", "--timeout=0.5", "web-1")
    assert await drain.ended() == 1
    assert "after 0.5 s: 2 connections left; it stays drained" in drain.errors
    again = site.operate("drain", "--timeout=60", "web-1")
    await again.says("2 connections left")
    site.go()
    await wholes(clients)
    assert await again.ended() == 0


@asynchronous
async def test_interrupted(site: Site) -> None:
    """
    After SIGINT, the worker stays drained, until it is undrained.
    """
    port = await site.listen()
    worker = await site.worker("web-1")
    clients = await site.ask(worker, port)
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says("1 connection left")
    drain.signal(signal.SIGINT)
    assert await drain.ended() == 130
    assert "interrupted; what is drained stays drained" in drain.errors
    assert "Traceback" not in drain.errors
    listed = site.operate("drain", "")
    assert await listed.ended() == 2
    assert "web-1  pid" in listed.errors
    assert "draining, 1 connection" in listed.errors
    undrain = site.operate("undrain", "web-1")
    assert await undrain.ended() == 0
    clients += await site.ask(worker, port)
    site.go()
    assert await wholes(clients) == ["web-1"] * 2


@asynchronous
async def test_undrain(site: Site) -> None:
    """
    A drained worker serves again when it is undrained, and can be drained again.  It is
    named by its label, or by the number of its process.
    """
    port = await site.listen()
    worker = await site.worker("web-1")
    site.go()
    for name in ("web-1", str(worker.pid)):
        assert await site.operate("drain", name).ended() == 0
        late = client(port, REQUEST)
        await reports(site.listener, "1 connections waiting, 0 offered")
        undrain = site.operate("undrain", name)
        assert await undrain.ended() == 0
        assert " serves\n" in undrain.output
        assert await wholes([late]) == ["web-1"]
    assert worker.running


@asynchronous
async def test_kept(site: Site) -> None:
    """
    A connection that its client keeps for further requests ends with the next response,
    which says so.
    """
    port = await site.listen()
    await site.worker("web-1")
    site.go()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as kept:
        kept.sendall(KEPT)
        first = await deferToThread(read, kept, b"whole\r\n0\r\n\r\n")
        assert b"connection: close" not in first.lower()
        drain = site.operate("drain", "--timeout=60", "web-1")
        await drain.says("1 connection left")
        await sleep(0.5)
        assert drain.running
        kept.sendall(KEPT)
        second = await deferToThread(read, kept)
    assert b"connection: close" in second.lower()
    assert b"whole" in second
    assert await drain.ended() == 0


@asynchronous
async def test_labels(site: Site, start: Start) -> None:
    """
    Of two workers, one is drained, and the other gets all new connections.
    """
    port = await site.listen()
    one = await site.worker("web-1")
    clients = await site.ask(one, port)
    two = await site.worker("web-2")
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says("1 connection left")
    others = await site.ask(two, port, 6)
    wrong = site.operate("drain", "web-1 web-3")
    assert await wrong.ended() == 2
    assert "no worker is web-3; these workers are connected:" in wrong.errors
    assert f"web-2  pid {two.pid}" in wrong.errors
    site.go()
    assert await wholes(clients) == ["web-1"]
    assert await drain.ended() == 0
    assert await site.operate("drain", "web-2").ended() == 0
    assert await wholes(others) == ["web-2"] * 6
    assert one.running
    assert two.running


@asynchronous
async def test_stranger(root: None, site: Site, start: Start) -> None:
    """
    Another user cannot ask the listener.
    """
    await site.listen("--mode=0666")
    await site.worker("web-1")
    program = (sys.executable, "-c", AS_NOBODY)
    for name in ("drain", "undrain"):
        stranger = start(*program, name, "./socket", "web-1")
        assert await stranger.ended() == 2
        assert stranger.errors == (
            f"portlisten {name}: ./socket.ctl: Permission denied; only root, the"
            " user that started the listener and the listener's own user may ask it\n"
        )


@asynchronous
async def test_dropped(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    After the listener has dropped its privileges, root can ask it, and so can the
    listener's own user.
    """
    listener = twistd("portlisten", "0", "./socket", uid="nobody")
    await listening(listener)
    status = os.stat(folder / "socket.ctl")
    assert (status.st_uid, status.st_mode & 0o777) == (65534, 0o600)
    for words in (
        [command("portlisten"), "drain"],
        [sys.executable, "-c", AS_NOBODY, "drain"],
    ):
        asked = start(*words, "./socket")
        assert await asked.ended() == 2
        assert "no worker is connected to the listener at ./socket" in asked.errors
    await listener.stop()
    # The next listener replaces the path, which the first one could not remove.
    following = twistd("portlisten", "0", "./socket", uid="nobody")
    await listening(following)
    assert following.running


@asynchronous
async def test_restartedListener(site: Site) -> None:
    """
    The next listener knows from the worker how many connections it has kept.
    """
    number = freePort(20000, 30000)
    port = await site.listen(port=str(number))
    worker = await site.worker("web-1")
    clients = await site.ask(worker, port, 3)
    await site.listener.stop()
    await site.listen(port=str(number))
    await site.listener.says("web-1")
    clients += await site.ask(worker, port)
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says(r"\(web-1, .*\): 4 connections left")
    await sleep(0.5)
    assert drain.running
    site.go()
    assert await wholes(clients) == ["web-1"] * 4
    assert await drain.ended() == 0


@pytest.mark.parametrize("kind", ["", ":reuseport=2"])
@asynchronous
async def test_shared(site: Site, kind: str) -> None:
    """
    A worker that accepts on a shared port accepts no more, and its connections are
    waited for.  The other worker gets all that come.
    """
    port = await site.listen("--share", f"tcp:0:interface=127.0.0.1{kind}", port="0")
    shared = await site.listener.says(r"listening on .*?, \S*tcp:127\.0\.0\.1:(\d+)")
    port = int(shared[1])
    one = await site.worker("web-1")
    clients = await site.ask(one, port, 2)
    two = await site.worker("web-2")
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says(r"\(web-1, .*\): 2 connections left")
    # Until then, it may accept.
    await site.listener.says(r"\(web-1, .*\) drains\n")
    others = await site.ask(two, port, 20)
    assert one.output.count("asked") == 2
    assert drain.running
    site.go()
    assert await wholes(clients) == ["web-1"] * 2
    assert await drain.ended() == 0
    assert await site.operate("undrain", "web-1").ended() == 0
    assert await site.operate("drain", "web-2").ended() == 0
    assert await wholes(others) == ["web-2"] * 20
    last = await site.ask(one, port, 5)
    assert await site.operate("drain", "web-1").ended() == 0
    assert await wholes(last) == ["web-1"] * 5


@asynchronous
async def test_program(site: Site, start: Start) -> None:
    """
    A program under C{portlisten exec} cannot be asked.  The command says so, and
    neither a drain nor its end does the program any harm.
    """
    await site.listen("--share", "name=tcp:0:interface=127.0.0.1", port="0")
    shared = await site.listener.says(r"name=tcp:127\.0\.0\.1:(\d+)")
    port = int(shared[1])
    program = start(
        *(command("portlisten"), "exec", "--name=name", "./socket"),
        *(sys.executable, "-c", PROGRAM),
    )
    await program.says("ready")
    for _ in range(2):
        drain = site.operate("drain", "--timeout=0.5", str(program.pid))
        assert await drain.ended() == 1
        assert "it cannot say what is left: it is older, or runs" in drain.errors
        answer, _ = await client(port)
        assert answer == b"program whole"
        undrain = site.operate("undrain", str(program.pid))
        assert await undrain.ended() == 0, undrain.errors
        answer, _ = await client(port)
        assert answer == b"program whole"
    assert program.running
    assert "Traceback" not in site.listener.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@asynchronous
async def test_listenerStops(site: Site, number: int) -> None:
    """
    If the listener ends while a drain waits, the command says so: it does not take the
    worker for drained.
    """
    port = await site.listen()
    worker = await site.worker("web-1")
    clients = await site.ask(worker, port)
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says("1 connection left")
    site.listener.signal(number)
    assert await drain.ended() == 2
    assert drain.errors == ("portlisten drain: the listener at ./socket has stopped\n")
    site.go()
    await wholes(clients)


@asynchronous
async def test_sameLabel(root: None, site: Site, start: Start) -> None:
    """
    A hostile worker takes another's label, and lies.  It is drained as well, and holds
    up nothing but the command, which says whom it waits for.
    """
    port = await site.listen("--mode=0666")
    honest = await site.worker("web-1")
    hostile = start(sys.executable, "-c", HOSTILE)
    await hostile.says("ready")
    await site.listener.says("uid 65534\\) joined")
    site.go()
    drain = site.operate("drain", "--timeout=1", "web-1")
    assert await drain.ended() == 1
    assert "uid 0) is drained\n" in drain.output
    (line,) = drain.errors.splitlines()
    assert "uid 65534), after 1 s: 4294967295 connections left" in line
    assert await site.operate("drain", str(honest.pid)).ended() == 0
    assert await site.operate("undrain", str(honest.pid)).ended() == 0
    clients = await site.ask(honest, port, 3)
    assert await site.operate("drain", str(honest.pid)).ended() == 0
    assert await wholes(clients) == ["web-1"] * 3
    assert "Traceback" not in site.listener.output


@asynchronous
async def test_serverThatCuts(site: Site) -> None:
    """
    Some servers cut their own work at SIGTERM.  If such a worker is drained first,
    nothing is lost.
    """
    port = await site.listen()
    worker = await site.worker("web-1", "cut")
    clients = await site.ask(worker, port, 5)
    worker.signal(signal.SIGTERM)
    answers = [answer for answer, _ in await together(clients)]
    assert not any(
        isinstance(answer, bytes) and b"whole" in answer for answer in answers
    )
    await worker.ended()

    worker = await site.worker("web-1", "cut")
    clients = await site.ask(worker, port, 5)
    drain = site.operate("drain", "--timeout=60", "web-1")
    await drain.says("5 connections left")
    site.go()
    assert await drain.ended() == 0
    worker.signal(signal.SIGTERM)
    assert await wholes(clients) == ["web-1"] * 5
    await worker.ended()
