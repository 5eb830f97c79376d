"""
The promise under faults: real processes, real signals, real limits.  The control must
break the promise in the same tests.

Each is run against the control as well, which has to break it.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, DeferredList

from tests.support.asking import ask, askMany
from tests.support.asynchronous import asynchronous
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening, reports, settled, steady
from tests.support.waiting import reactor, sleep

LOST = "lost before a worker touched them"

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def module(start: Start) -> Start:
    """
    A function that runs a module of the tests.
    """

    def run(name: str, *arguments: str) -> Process:
        code = (
            f"import sys, runpy; sys.path.insert(0, {str(SOURCE)!r});"
            f" sys.argv[0] = {name!r};"
            f" runpy.run_module({name!r}, run_name='__main__')"
        )
        return start(sys.executable, "-c", code, *arguments)

    return run


async def figures(process: Process) -> dict[str, int]:
    """
    Wait for the end of a storm, and return its figures.
    """
    await process.ended()
    print(process.output)
    return {
        name: int(value)
        for name, value in re.findall(r"^(.*): (\d+)$", process.output, re.MULTILINE)
    }


@pytest.mark.parametrize("options", [(), ("--asyncio",)], ids=["twisted", "asyncio"])
@asynchronous
async def test_kills(module: Start, options: tuple[str, ...]) -> None:
    """
    Workers are killed all the time, and no client loses a connection that no
    worker had adopted; none is answered twice.
    """
    storm = module("tests.storm", "--connections=4000", *options)
    found = await figures(storm)
    assert found["connections"] == 4000
    assert found[LOST] == 0
    assert found["answered twice"] == 0
    assert found["lost and not in the log"] == 0
    assert found["lost in service"] <= found["signals"] * 16
    assert found["signals"] > 50


@asynchronous
async def test_killsControl(module: Start) -> None:
    """
    The control loses connections by the hundred.
    """
    found = await figures(module("tests.storm", "--connections=4000", "--naive"))
    assert found[LOST] > 100


@asynchronous
async def test_stops(module: Start) -> None:
    """
    Workers are stopped for longer than an offer may stay unclaimed, and others
    serve what they were offered; when they go on, they touch none of it.
    """
    found = await figures(module("tests.storm", "--stop=8"))
    assert found["signals"] == 8
    assert found[LOST] == 0
    assert found["answered twice"] == 0
    assert found["adopted twice"] == 0
    assert found["lost in service"] == 0
    assert found["stalled"] <= 16 * 8


@asynchronous
async def test_stopsControl(module: Start) -> None:
    """
    Nearly all of the control's clients end up waiting for the stopped worker.
    """
    found = await figures(module("tests.storm", "--stop=3", "--naive"))
    assert found["stalled"] > 16 * 3


@pytest.mark.parametrize(
    ("options", "kills"),
    [((), 0), ((), 1), (("--asyncio",), 1)],
    ids=["workers", "listener", "asyncio"],
)
@asynchronous
async def test_mixed(module: Start, options: tuple[str, ...], kills: int) -> None:
    """
    Workers are killed, told to stop, and stopped for a while, all at once, and
    perhaps the listener is killed among them.  No client loses a connection but
    what a killed worker served, or what waited in a killed listener.
    """
    storm = module(
        *("tests.storm", "--mix", "--minutes=0.2", f"--kill-listener={kills}"),
        *options,
    )
    found = await figures(storm)
    assert found["connections"] > 1000
    assert found[LOST] == 0
    assert found["answered twice"] == 0
    assert found["lost by a worker that was not killed"] == 0
    assert found["listeners killed"] == 4 * kills
    assert min(found[each] for each in ("SIGKILL", "SIGTERM", "SIGSTOP")) > 5


async def echoes(port: int, count: int, atOnce: int) -> list[bool]:
    """
    Run many clients that each send a number of their own.

    @return: for each, whether it got it back.
    """
    answers: list[bool] = []
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            answer = await ask(port, b"%d\n" % number)
            answers.append(answer.startswith(b"%d " % number))

    waiting = [Deferred.fromCoroutine(some()) for _ in range(atOnce)]
    for each in waiting:
        await each
    return answers


@asynchronous
async def test_workerOutOfDescriptors(twistd: Start, module: Start) -> None:
    """
    A worker runs out of descriptors, and every client still gets its own number
    back.
    """
    listener = twistd("portlisten", "--window=26", "0", "./socket")
    port = await listening(listener)
    module("tests.worker", "./socket", "--spare=4")
    await listener.says("joined")
    answers = await echoes(port, 400, 64)
    assert answers.count(True) == 400
    await listener.says("refused .* no descriptor")


@asynchronous
async def test_workerOutOfDescriptorsControl(twistd: Start, module: Start) -> None:
    """
    A worker that goes by the order of descriptors crosses clients, or loses them.
    """
    listener = twistd("portlisten", "--window=26", "0", "./socket")
    port = await listening(listener)
    module("tests.worker", "./socket", "--spare=4", "--by-order")
    await listener.says("joined")
    clients = [
        Deferred.fromCoroutine(echoes(port, 1, 1)).addTimeout(3, reactor)
        for _ in range(200)
    ]
    results = await DeferredList(clients, consumeErrors=True)
    good = [answers for succeeded, answers in results if succeeded and all(answers)]
    assert len(good) < 200


@asynchronous
async def test_listenerOutOfDescriptors(twistd: Start, start: Start) -> None:
    """
    A listener with hardly any descriptors serves 500 clients at once, and
    closes none.
    """
    listener = start(
        "/bin/sh",
        "-c",
        'ulimit -n 128; exec "$0" "$@"',
        command("twistd"),
        "-n",
        "--pidfile=limited.pid",
        "portlisten",
        "0",
        "./socket",
    )
    port = await listening(listener)
    clients = Deferred.fromCoroutine(askMany(port, 500, 500))
    await sleep(1)
    assert listener.descriptors() <= 128
    twistd("hellofdpass", "./socket", "hello")
    answers, _ = await clients
    assert answers.count(b"hello") == 500
    assert "closed" not in listener.output


@asynchronous
async def test_heldOpen(twistd: Start, module: Start) -> None:
    """
    Connections that workers hold cost the listener nothing after it has closed its
    copies: it has at most its windows' worth of descriptors.  C{PORTLISTEN_HOLD} says
    for how many seconds they are held.

    C{PORTLISTEN_HOLD} says for how many seconds they are held.
    """
    seconds = int(os.environ.get("PORTLISTEN_HOLD", "1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    module("tests.worker", "./socket", "--hold")
    await listener.says("joined")
    before = await steady(listener)
    clients = []
    try:
        for number in range(count):
            client = socket.socket()
            client.bind((f"127.0.1.{number % 200 + 1}", 0))
            client.connect(("127.0.0.1", port))
            clients.append(client)
            if number % 100 == 0:
                await sleep(0)
        assert await settled(listener, before) <= before + 16
        for _ in range(seconds):
            await sleep(1)
            assert listener.descriptors() <= before + 16
        assert "died" not in listener.output
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynchronous
async def test_listenerKilled(twistd: Start, module: Start, folder: Path) -> None:
    """
    The listener is killed while a worker that hangs holds offers: when it goes
    on, it serves them.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = twistd("hellofdpass", "./socket", "hello")
    await listener.says("joined")
    worker.signal(signal.SIGSTOP)
    clients = Deferred.fromCoroutine(askMany(port, 16, 16))
    await reports(listener, "16 offered")
    await listener.kill()
    worker.signal(signal.SIGCONT)
    answers, _ = await clients
    assert answers.count(b"hello") == 16


#: The ways of being hostile that begin as an honest worker does.
JOINING = ["flood", "serves", "halfFrame", "neverReads", "claimsAll"]


@pytest.mark.parametrize(
    "way",
    ["linger", "flood", "serves", "halfFrame", "neverReads", "claimsAll", "connects"],
)
@asynchronous
async def test_hostileWorker(twistd: Start, module: Start, way: str) -> None:
    """
    Whatever one worker does, clients of other workers are served, none is lost, and the
    listener's loop goes on.
    """
    listener = twistd("portlisten", "--claim-timeout=0.3", "0", "./socket")
    port = await listening(listener)
    twistd("hellofdpass", "./socket", "hello")
    await listener.says("worker 1 .*joined")
    nuisance = module("tests.worker", "./socket", f"--hostile={way}")
    await nuisance.says("let in")
    if way in JOINING:
        await listener.says(r"worker (?!1 )\d+ .*joined")
    start = time.monotonic()
    answers, times = await askMany(port, 2000, 32)
    print(f"{way}: {2000 / (time.monotonic() - start):.0f}/s, last {times[-1]:.3f} s")
    assert answers.count(b"hello") == 2000
    assert listener.running
    assert "Traceback" not in listener.output


@asynchronous
async def test_hostileWorkerControl(twistd: Start, module: Start) -> None:
    """
    The control's clients wait for a worker that never reads, for ever.
    """
    control = module("tests.support.naive", "0", "./socket")
    port = await listening(control)
    honest = twistd("hellofdpass", "./socket", "hello")
    await honest.says("joined")
    module("tests.worker", "./socket", "--hostile=neverReads")
    # The second one of it: the first only waits to be let in.
    await control.says("worker 3 joined")
    clients = [
        Deferred.fromCoroutine(ask(port)).addTimeout(3, reactor) for _ in range(100)
    ]
    results = await DeferredList(clients, consumeErrors=True)
    assert sum(answer == b"hello" for _, answer in results) < 100


@asynchronous
async def test_clientsThatLeave(twistd: Start) -> None:
    """
    Clients that reset, close, or send and close at once leave nothing behind.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = twistd("hellofdpass", "./socket", "hello")
    await listener.says("joined")
    before = [await steady(listener), await steady(worker)]
    for number in range(900):
        client = socket.create_connection(("127.0.0.1", port))
        if number % 3 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif number % 3 == 1:
            client.sendall(b"data, then the end")
        client.close()
        if number % 30 == 0:
            await sleep(0)
    assert await ask(port) == b"hello"
    assert await settled(listener, before[0]) == before[0]
    assert await settled(worker, before[1]) == before[1]
    assert await worker.stop() == 0
    assert await listener.stop() == 0
    assert "Traceback" not in worker.output + listener.output
    assert "accepted 901" in listener.output


@asynchronous
async def test_report(twistd: Start) -> None:
    """
    SIGUSR1 logs the counters.
    """
    listener = twistd("portlisten", "0", "./socket")
    await listening(listener)
    listener.signal(signal.SIGUSR1)
    await listener.says("0 workers, .* since the start: accepted 0, offered 0")


@pytest.mark.usefixtures("root")
@asynchronous
async def test_whoMayBeWorker(twistd: Start) -> None:
    """
    A user that is not on the list is turned away, and both sides' logs say why; root
    and members of a listed group are let in.
    """
    listener = twistd(
        "portlisten",
        "--mode=666",
        "--allow-user=games",
        "--allow-group=daemon",
        "0",
        "./socket",
        uid="nobody",
        gid="nogroup",
    )
    await listening(listener)
    stranger = twistd("hellofdpass", "./socket", "hello", uid="www-data")
    await listener.says("turned away: uid .* may not be a worker here: .*--allow-user")
    await stranger.says("the listener says: uid .* may not be a worker here")
    for name, uid in (("games", "games"), ("daemon", "daemon")):
        worker = twistd("hellofdpass", "./socket", name, uid=uid)
        await worker.says("joined the listener")


@pytest.mark.usefixtures("root")
@asynchronous
async def test_whoMayBeListener(twistd: Start, folder: Path) -> None:
    """
    A worker does not join a listener of another user, unless an option names that user.
    """
    folder.chmod(0o1777)
    impostor = socket.socket(socket.AF_UNIX)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            impostor.bind(str(folder / "socket"))
            os.chmod(folder / "socket", 0o666)
            impostor.listen()
            time.sleep(60)
        finally:
            os._exit(0)
    try:
        await sleep(0.3)
        worker = twistd("hellofdpass", "./socket", "hello", uid="daemon")
        await worker.says("has the uid 65534: --listener-user .* must name it")
        other = twistd(
            "hellofdpass", "--listener-user=nobody", "./socket", "hello", uid="daemon"
        )
        await other.says("Server Shut Down|no HELLO has come", 10)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        impostor.close()


@asynchronous
async def test_crashLoop(twistd: Start, module: Start) -> None:
    """
    A worker that dies at once, again and again, has to wait, and an honest worker goes
    on serving.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    twistd("hellofdpass", "./socket", "hello")
    await listener.says("joined")
    module("tests.worker", "./socket", "--hostile=claimsAll")
    await listener.says("must wait 0.1 s: the workers before it died at once")
    answers, _ = await askMany(port, 200, 16)
    assert answers.count(b"hello") == 200
