"""
gunicorn, as it is on PyPI, is a worker: each of its processes claims connections.

If C{PORTLISTEN_ROUNDS} is set, processes are replaced so many times under load.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.support.asgi_servers import Clients, begun
from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates
from tests.support.gunicorns import (
    KINDS,
    Gunicorn,
    Own,
    arguments,
    askAll,
    asking,
    elapsed,
    processesOf,
    running,
    write,
)
from tests.support.load import Load, wrk
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Start, listening
from tests.support.waiting import sleep, until

LONG = os.environ.get("PORTLISTEN_ROUNDS")
ROUNDS = int(LONG or 1)
CLOSE = "--header=Connection: close"

#: gunicorn's.
VERSION = 0
with suppress(PackageNotFoundError):
    VERSION = int(version("gunicorn").partition(".")[0])

EACH = pytest.mark.parametrize("kind", KINDS)
#: The same, but only one of them if the tests are to be short.
SOME = pytest.mark.parametrize("kind", KINDS if LONG else ["gthread"])

WIRES = pytest.mark.parametrize("wire", ["plain", "tls"])


@pytest.fixture(autouse=True)
def gunicorn() -> None:
    """
    Skips a test if gunicorn is not installed.
    """
    needs("gunicorn", "gunicorn")


def graceful(kind: str) -> None:
    """
    Skip a test if gunicorn itself loses requests whenever a process ends.
    """
    if kind == "gthread" and VERSION < 24:
        pytest.skip("gthread loses requests before gunicorn 24")


async def make(
    start: Start, twistd: Start, folder: Path, wire: str = "plain"
) -> Gunicorn:
    """
    Prepare a listener and gunicorn.
    """
    tls = await certificates(start, folder) if wire == "tls" else None
    return Gunicorn(start, twistd, folder, tls)


@WIRES
@EACH
@asynchronous
async def test_serves(
    start: Start, twistd: Start, folder: Path, kind: str, wire: str
) -> None:
    """
    A thousand requests get the right answers.  Meanwhile, SIGHUP replaces the
    processes.
    """
    graceful(kind)
    pair = await make(start, twistd, folder, wire)
    await pair.open(*KINDS[kind])
    before = processesOf(pair.process.pid)
    answers = deferToThread(askAll, pair.port, 1000, False, wire == "tls")
    await sleep(0.3)
    await pair.reload()
    assert await answers == []
    assert not {*before} & {*processesOf(pair.process.pid)}
    counters = await pair.counters()
    assert counters["claimed"] >= 1000
    assert counters["lostInService"] == 0
    await pair.check()


@WIRES
@asynchronous
async def test_kept(start: Start, twistd: Start, folder: Path, wire: str) -> None:
    """
    Clients may keep their connections to C{gthread}.
    """
    pair = await make(start, twistd, folder, wire)
    await pair.open("--threads=4")
    wrong = await deferToThread(askAll, pair.port, 1000, True, wire == "tls")
    assert wrong == []
    assert (await pair.counters())["claimed"] == 8
    await pair.check()


@asynchronous
async def test_manyKept(start: Start, twistd: Start, folder: Path) -> None:
    """
    If more clients keep their connections than there are threads, all are served, and
    at once.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--threads=2", workers=1)
    clients = Clients.begin(start, pair.port, "--keep", "--pause=0.05", "--clients=20")
    await sleep(2)
    # A thread that waited for the next request of a client would do so for 2 s.
    assert await deferToThread(elapsed, pair.port) < 1.8
    figures = await clients.end()
    assert figures["errors"] == {}
    assert figures["requests"] > 200
    assert (await pair.counters())["claimed"] >= 20
    await pair.check()


@EACH
@asynchronous
async def test_quick(start: Start, twistd: Start, folder: Path, kind: str) -> None:
    """
    An answer on a kept connection does not wait for the client's acknowledgement of its
    head, as it would without C{TCP_NODELAY}: that takes 40 ms.
    """
    pair = await make(start, twistd, folder)
    await pair.open(*KINDS[kind])
    for _ in range(20):
        begin = time.monotonic()
        wrong = await deferToThread(askAll, pair.port, 200, kind == "gthread", False)
        assert wrong == []
        seconds = time.monotonic() - begin
        # A busy machine may take as long, but not each time.
        if seconds < 200 / 8 * 0.03:
            break
    assert seconds < 200 / 8 * 0.03
    await pair.check()


@asynchronous
async def test_environment(start: Start, twistd: Start, folder: Path) -> None:
    """
    The application sees the listener's port, and the client's address.
    """
    pair = await make(start, twistd, folder, "tls")
    await pair.open("--threads=2")
    said = await asking(pair.port, "/server", tls=True)
    assert said == f"127.0.0.1 {pair.port} 127.0.0.1 https"
    listens = pair.process.output
    assert "Listening at: portlisten:./socket:name=http (" in listens, listens
    await pair.check()


async def roll(pair: Own, how: str, options: list[str]) -> None:
    """
    Replace processes: by SIGHUP, or by another gunicorn.
    """
    for _ in range(ROUNDS):
        if how == "SIGHUP":
            await pair.reload()
        else:
            await pair.replace(*options)


def show(what: str, **figures: Any) -> None:
    """
    Print the figures of a test.
    """
    print(f"{what}, {ROUNDS} times:", figures)


async def loaded(pair: Own, kind: str, how: str, kept: bool) -> tuple[Load, Any]:
    """
    Replace processes under load.

    @param kept: whether clients keep their connections.
    @return: the load by clients that are always busy, and the figures of slow ones.
    """
    url = await pair.open(*KINDS[kind])
    options = ["--keep", "--pause=0.3"] if kept else ["--silence=0.3"]
    slow = Clients.begin(pair.start, pair.port, *options, "--clients=40")
    await begun()
    close = [] if kept else [CLOSE]
    work = roll(pair, how, KINDS[kind])
    load = await wrk(pair.start, url, work, *close, connections=16)
    figures = await slow.end()
    where = "own port" if type(pair) is Own else "worker"
    held = "kept" if kept else "closed"
    show(f"{where}, {kind}, {held}, {how}", busy=vars(load), slow=figures)
    return load, figures


#: Kinds of processes, whether clients keep their connections, and what replaces the
#: processes.
LOADS = [
    (kind, kept, how)
    for kind, kept in (("sync", False), ("gthread", False), ("gthread", True))
    for how in ("SIGHUP", "SIGTERM")
]

#: Those that are tried if the tests are to be short.
SHORT = [LOADS[0], LOADS[3], LOADS[4]]


@pytest.mark.parametrize(("kind", "kept", "how"), LOADS if LONG else SHORT)
@asynchronous
async def test_replaced(
    start: Start, twistd: Start, folder: Path, kind: str, kept: bool, how: str
) -> None:
    """
    Processes are replaced, by SIGHUP or by another gunicorn and SIGTERM.  No client
    has an error: neither if it sends one request for each connection, even if it is
    silent first, nor if it keeps its connection.
    """
    graceful(kind)
    pair = await make(start, twistd, folder)
    load, figures = await loaded(pair, kind, how, kept)
    assert load.connect == load.timeout == load.refused == 0
    if not kept or VERSION >= 27:
        assert load.errors == 0
        assert figures["errors"] == {}
    assert load.requests + figures["requests"] > 200
    await pair.check()


@pytest.mark.parametrize(("kind", "kept", "how"), LOADS)
@pytest.mark.skipif(not LONG, reason="for comparison: set PORTLISTEN_ROUNDS")
@asynchronous
async def test_alone(
    start: Start, twistd: Start, folder: Path, kind: str, kept: bool, how: str
) -> None:
    """
    For comparison: the same with gunicorn on a port of its own.  To replace gunicorn,
    it is stopped and started again.
    """
    load, figures = await loaded(Own(start, twistd, folder), kind, how, kept)
    if how == "SIGTERM":
        assert load.errors + sum(figures["errors"].values()) > 0


@asynchronous
async def test_oneAtATime(start: Start, twistd: Start, folder: Path) -> None:
    """
    Of two processes, one is busy for long and one for short.  Further clients are
    answered as soon as the second process is free, and no worker counts as hung.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--worker-class=sync")
    long = asking(pair.port, "/sleep/6")
    short = asking(pair.port, "/sleep/0.5")
    await sleep(0.2)
    further = [asking(pair.port, "/further") for _ in range(4)]
    assert await gatherResults(further) == ["hello /further\n"] * 4
    assert not long.called
    assert await short == "hello /sleep/0.5\n"
    assert await long == "hello /sleep/6\n"
    await pair.check()


@asynchronous
async def test_hung(start: Start, twistd: Start, folder: Path) -> None:
    """
    A process hangs in the application, for longer than the listener lets a worker take
    to claim.  Nobody waits for it.
    """
    pair = await make(start, twistd, folder)
    write(folder)
    await pair.listen("--claim-timeout=2")
    pair.process = await pair.serve("--worker-class=sync")
    hung = asking(pair.port, "/sleep/8")
    await sleep(0.2)
    times = [await deferToThread(elapsed, pair.port) for _ in range(60)]
    assert max(times) < 1.8
    await sleep(2.5)
    assert max([await deferToThread(elapsed, pair.port) for _ in range(60)]) < 1.8
    assert await hung == "hello /sleep/8\n"
    await pair.check()


@asynchronous
async def test_stops(start: Start, twistd: Start, folder: Path) -> None:
    """
    A process that is told to end still finishes a long request.  From that moment it
    gets no more connections, so that nobody waits for it.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--threads=4")
    slow = [asking(pair.port, "/sleep/8") for _ in range(2)]
    await sleep(0.5)
    for pid in processesOf(pair.process.pid)[:1]:
        os.kill(pid, signal.SIGTERM)
    await pair.listener.says("drains", patience=5)
    times = [await deferToThread(elapsed, pair.port) for _ in range(60)]
    assert max(times) < 1.8
    assert await gatherResults(slow) == ["hello /sleep/8\n"] * 2
    await pair.check()


@SOME
@asynchronous
async def test_killed(start: Start, twistd: Start, folder: Path, kind: str) -> None:
    """
    Processes get SIGKILL.  No client loses more than what a dead process had, and
    gunicorn starts others.
    """
    pair = await make(start, twistd, folder)
    url = await pair.open(*KINDS[kind])

    async def kill() -> None:
        for _ in range(3 * ROUNDS):
            joined = pair.joined
            os.kill(processesOf(pair.process.pid)[0], signal.SIGKILL)
            await until(lambda: pair.joined > joined, "joined")  # noqa: B023
            await sleep(0.5)

    load = await wrk(start, url, kill(), CLOSE, connections=16)
    counters = await pair.counters()
    show(f"{kind}, SIGKILL", load=vars(load), lost=counters["lostInService"])
    assert load.connect == load.timeout == load.refused == 0
    assert load.broken <= counters["lostInService"]
    assert load.requests > 300
    await pair.check()


@SOME
@asynchronous
async def test_maxRequests(
    start: Start, twistd: Start, folder: Path, kind: str
) -> None:
    """
    Processes end after so many requests, and no client has an error.
    """
    graceful(kind)
    pair = await make(start, twistd, folder)
    options = [*KINDS[kind], "--max-requests=100", "--max-requests-jitter=50"]
    url = await pair.open(*options)
    load = await wrk(start, url, sleep(3 * ROUNDS), CLOSE, connections=8)
    show(f"{kind}, --max-requests", load=vars(load))
    assert load.errors == 0
    assert pair.left > 2
    await pair.check()


@asynchronous
async def test_noListener(start: Start, twistd: Start, folder: Path) -> None:
    """
    Without a listener, the processes wait and say so, for longer than gunicorn lets
    them be silent.  A client that comes with the listener is served.
    """
    write(folder)
    bind = "portlisten:./socket:name=http"
    process = start(*arguments(bind, "--timeout=1", "--workers=2"))
    await process.says(r"waiting for a listener at \./socket, .*No such file")
    await sleep(4)
    pair = await make(start, twistd, folder)
    await pair.listen()
    pair.process = process
    assert await asking(pair.port) == "hello\n"
    assert process.output.count("Booting worker") == 2, process.output
    await pair.check()


@asynchronous
async def test_noFolder(start: Start, twistd: Start, folder: Path) -> None:
    """
    While gunicorn runs, the folder of the path may go and come back, as systemd does to
    it when a listener restarts.
    """
    pair = await make(start, twistd, folder)
    write(folder)
    home = folder / "run"
    home.mkdir()
    own = ["--workers=1", "--timeout=2"]
    pair.process = start(*arguments("portlisten:./run/socket", *own))
    await pair.process.says("waiting for a listener")
    home.rmdir()
    pair.process.signal(signal.SIGHUP)
    await pair.process.says("the folder '\\./run' of '\\./run/socket' does not exist")
    await sleep(3)
    home.mkdir()
    port = "http=tcp:0:interface=127.0.0.1"
    pair.listener = twistd("portlisten", port, "run/socket")
    pair.port = await listening(pair.listener)
    assert await asking(pair.port) == "hello\n"
    assert pair.process.output.count("Booting worker") == 2, pair.process.output
    await pair.check()


@SOME
@asynchronous
async def test_orphaned(start: Start, twistd: Start, folder: Path, kind: str) -> None:
    """
    If the arbiter is killed, its processes end.
    """
    pair = await make(start, twistd, folder)
    await pair.open(*KINDS[kind], "--timeout=2")
    pids = processesOf(pair.process.pid)
    await pair.process.kill()
    await until(lambda: not any(map(running, pids)), "ended")
    await until(lambda: pair.left == 2, "left")
    assert "lost" not in pair.listener.output


@asynchronous
async def test_numbers(start: Start, twistd: Start, folder: Path) -> None:
    """
    SIGTTIN adds a process, and SIGTTOU takes one away.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--preload")
    pair.process.signal(signal.SIGTTIN)
    await until(lambda: pair.joined == 3, "joined")
    pair.process.signal(signal.SIGTTOU)
    await until(lambda: pair.left == 1, "left")
    assert await asking(pair.port) == "hello\n"
    await pair.check()


@pytest.mark.parametrize("option", ["--preload", "--reuse-port"])
@asynchronous
async def test_several(start: Start, twistd: Start, folder: Path, option: str) -> None:
    """
    Processes serve two listeners and a port of gunicorn's own.
    """
    pair = await make(start, twistd, folder)
    await pair.open(option)
    other = twistd("portlisten", "http=tcp:0:interface=127.0.0.1", "./other")
    ports = [pair.port, await listening(other), freePort(10000, 11000)]
    await pair.process.stop()
    binds = ["--bind=portlisten:./other", f"--bind=127.0.0.1:{ports[2]}"]
    pair.process = await pair.serve(*binds, option)
    await until(lambda: other.output.count(" joined") == 2, "joined")
    for port in ports:
        assert await asking(port) == "hello\n"
    await pair.check()


@asynchronous
async def test_upgraded(start: Start, twistd: Start, folder: Path) -> None:
    """
    SIGUSR2 starts another arbiter, which serves the same addresses.  Then the first one
    stops.
    """
    pair = await make(start, twistd, folder)
    write(folder)
    await pair.listen()
    own = freePort(10000, 11000)
    first = await pair.serve(f"--bind=127.0.0.1:{own}", "--pid=pid")
    pair.process = first
    before = len(os.listdir(f"/proc/{first.pid}/fd"))
    joined = pair.joined
    first.signal(signal.SIGUSR2)
    await until(lambda: pair.joined == joined + 2, "joined")
    second = int((folder / "pid.2").read_text())
    assert len(os.listdir(f"/proc/{second}/fd")) <= before
    try:
        first.signal(signal.SIGTERM)
        await until(lambda: not running(first.pid), "ended")
        for port in (pair.port, own):
            pids = {int(await asking(port, "/pid")) for _ in range(4)}
            assert pids <= {*processesOf(second)}
    finally:
        os.kill(second, signal.SIGTERM)
    await until(lambda: pair.left == joined + 2, "left")
    assert "Traceback" not in first.output, first.output


@asynchronous
async def test_operator(start: Start, twistd: Start, folder: Path) -> None:
    """
    The operator drains one process by its number, or all by their label.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--env=PORTLISTEN_LABEL=shop")
    drained, other = processesOf(pair.process.pid)
    portlisten = command("portlisten")
    drain = start(portlisten, "drain", "./socket", str(drained))
    assert await drain.ended() == 0, drain.output
    assert {await asking(pair.port, "/pid") for _ in range(8)} == {f"{other}\n"}
    undrain = start(portlisten, "undrain", "./socket", "shop")
    assert await undrain.ended() == 0, undrain.output
    both = {await asking(pair.port, "/pid") for _ in range(8)}
    assert both == {f"{drained}\n", f"{other}\n"}
    await pair.check()


@asynchronous
async def test_drained(start: Start, twistd: Start, folder: Path) -> None:
    """
    If a process of C{gthread} is drained, clients that keep connections to it are told
    to leave.  No request is lost.
    """
    pair = await make(start, twistd, folder)
    await pair.open("--threads=2")
    clients = Clients.begin(start, pair.port, "--keep", "--pause=0.1", "--clients=20")
    await begun()
    drained, other = processesOf(pair.process.pid)
    for name, command_ in ((str(drained), "drain"), (str(drained), "undrain")):
        tool = start(command("portlisten"), command_, "./socket", name)
        assert await tool.ended() == 0, tool.output
        await sleep(1.5)
    figures = await clients.end()
    assert figures["errors"] == {}
    assert (await pair.counters())["claimed"] >= 30
    pids = {await asking(pair.port, "/pid") for _ in range(8)}
    assert pids == {f"{drained}\n", f"{other}\n"}
    await pair.check()


#: Hooks of a user's, each of which writes its name; and an SSLContext of a user's.
HOOKS = """
def note(name):
    with open("hooks", "a") as file:
        file.write(f"{name}\\n")

def on_starting(server):
    note("on_starting")

def when_ready(server):
    note("when_ready")

def pre_fork(server, worker):
    note("pre_fork")

def post_fork(server, worker):
    note("post_fork")

def post_worker_init(worker):
    note("post_worker_init")

def pre_request(worker, request):
    note("pre_request")
    note(type(request.unreader.sock).__name__)

def worker_exit(server, worker):
    note("worker_exit")

def on_exit(server):
    note("on_exit")

def ssl_context(config, makeDefault):
    note("ssl_context")
    return makeDefault()
"""


@asynchronous
async def test_hooks(start: Start, twistd: Start, folder: Path) -> None:
    """
    All hooks of a user's own configuration are called.  The user's SSLContext makes
    sockets that tell their ends at once.
    """
    pair = await make(start, twistd, folder, "tls")
    write(folder, HOOKS)
    await pair.listen()
    pair.process = await pair.serve(workers=1)
    assert await asking(pair.port, tls=True) == "hello\n"
    await pair.check()
    called = {*(folder / "hooks").read_text().split()}
    assert called == {"TLSSocket", *re.findall(r"note\(.(\w+).\)\n", HOOKS)}


#: What is wrong, and the line that says so.
REFUSED = {
    "path": (["-bportlisten:"], r"a description has one path"),
    "folder": (["-bportlisten:/nowhere/web"], r"the folder '/nowhere' .* does not"),
    "reuse": (["-bportlisten:/nowhere/web", "--reuse-port"], r"the folder '/nowhere'"),
    "file": (["-bportlisten:app.py"], r"app.py exists and is no socket"),
    "option": (["-bportlisten:./socket:nmae=x"], r".*no option 'nmae'"),
    "limit": (["-bportlisten:./socket:limit=0"], r"limit: '0' is not"),
    "wire": (["-bportlisten:./socket:wire=datagram"], r".*leave wire out"),
    "key": (["-bportlisten:./socket:privateKey=x"], r".*give gunicorn --certfile"),
    "gevent": (["-bportlisten:./socket", "-kgevent"], r".*not gevent: let the list"),
    "tornado": (["-bportlisten:./socket", "-ktornado"], r".*not tornado: let the li"),
    "asgi": (["-bportlisten:./socket", "-kasgi"], r".*not asgi: start uvicorn"),
    "uvicorn": (
        ["-bportlisten:./socket", "-kuvicorn.workers.UvicornWorker"],
        r".*not uvicorn\.workers\.UvicornWorker: start uvicorn itself",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@asynchronous
async def test_refused(start: Start, folder: Path, name: str) -> None:
    """
    What can never work ends gunicorn with one line, before it starts a process.
    """
    write(folder)
    options, line = REFUSED[name]
    process = start(
        command("gunicorn"), "-c", "python:portlisten.gunicorn", *options, "app:app"
    )
    assert await process.ended() == 1
    assert re.fullmatch(rf"portlisten: {line}.*\n", process.output), process.output
