"""
Programs under C{portlisten exec}, with real processes: as another user, and started so
that they do not serve.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.clients import connect, read
from tests.support.ports import freePort
from tests.support.programs import command, moduleFor
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import PATIENCE, sleep

REQUEST = b"GET / HTTP/1.0\r\n\r\n"

#: How often a server is restarted while clients ask.
RESTARTS = int(os.environ.get("PORTLISTEN_ROUNDS", "1")) + 1

WSGI = """
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = [os.environ.get(each, "-") for each in ("HOME", "USER", "SHELL")]
    return [f"hello from uid {os.getuid()}, {' '.join(names)}".encode()]
"""

ASGI = """
import os
async def app(scope, receive, send):
    names = [os.environ.get(each, "-") for each in ("HOME", "USER", "SHELL")]
    body = f"hello from uid {os.getuid()}, {' '.join(names)}".encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

GUNICORN = ["--workers=2", "--graceful-timeout=5", "--no-control-socket", "wsgi:app"]
UVICORN = ["--lifespan=off", "--fd=3", "asgi:app"]


def exec_(start: Start, *words: str) -> Process:
    """
    Start C{portlisten exec}.
    """
    return start(command("portlisten"), "exec", *words)


def dial(port: int) -> bytes:
    """
    Ask for a page.
    """
    with connect(port) as client:
        client.sendall(REQUEST)
        return read(client)


class Crowd:
    """
    Clients that ask all the time.

    @ivar heard: the answers.
    """

    def __init__(self, port: int) -> None:
        self.heard: list[bytes] = []
        self._port = port
        self._asks = False
        self._threads: list[Deferred[None]] = []
        self.come()

    def come(self) -> None:
        """
        Begin to ask.
        """
        self._asks = True
        self._threads = [deferToThread(self._ask) for _ in range(3)]

    async def leave(self) -> None:
        """
        Wait for the last answers.
        """
        self._asks = False
        for each in self._threads:
            await each

    def _ask(self) -> None:
        while self._asks:
            self.heard.append(dial(self._port))


def write(folder: Path) -> None:
    """
    Write the servers' applications.
    """
    folder.joinpath("wsgi.py").write_text(WSGI)
    folder.joinpath("asgi.py").write_text(ASGI)


@pytest.mark.parametrize(
    ("module", "arguments", "ready"),
    [
        ("gunicorn", GUNICORN, "Booting worker"),
        ("uvicorn", UVICORN, "Uvicorn running"),
    ],
    ids=["gunicorn", "uvicorn"],
)
@asynchronous
async def test_user(
    root: None,
    start: Start,
    twistd: Start,
    folder: Path,
    module: str,
    arguments: list[str],
    ready: str,
) -> None:
    """
    A server that the command runs as another user serves a port below 1024, has that
    user's groups and no capability, and the listener sees that user.  Clients that ask
    all the time are all answered while it is restarted; with uvicorn, those that come
    after it has ended.
    """
    write(folder)
    words = [*moduleFor("daemon", module), *arguments]
    port = freePort(80, 1024)
    listener = twistd(
        *("portlisten", "--mode=0660", "--group=daemon", "--allow-user=daemon"),
        *(f"--share=http=tcp:{port}:interface=127.0.0.1", "./socket"),
        uid="nobody",
    )
    await listening(listener)

    async def serve() -> Process:
        server = exec_(
            start, "--user=daemon", "--group=daemon", "./socket", "--", *words
        )
        await server.says(ready)
        return server

    server = await serve()
    entry = pwd.getpwnam("daemon")
    uid, gid = str(entry.pw_uid), str(entry.pw_gid)
    status = server.status()
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [gid] * 4
    groups = sorted(os.getgrouplist("daemon", entry.pw_gid))
    assert sorted(map(int, status["Groups"].split())) == groups
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind], 16) == 0
    await listener.says(rf"worker 1 \(pid {server.pid}, uid {uid}\) joined")
    answer = f"hello from uid {uid}, {entry.pw_dir} daemon -".encode()
    crowd = Crowd(port)
    for turn in range(RESTARTS):
        await sleep(0.3)
        if module == "uvicorn":
            # It closes connections whose requests it has not read, by itself as well.
            await crowd.leave()
            await server.stop()
            crowd.come()
            await sleep(0.3)
            server = await serve()
        elif turn % 2:
            following = await serve()
            await server.stop()
            server = following
        else:
            await server.stop()
            server = await serve()
    await sleep(0.3)
    await crowd.leave()
    heard = Counter(each[-len(answer) :] for each in crowd.heard)
    print(f"{module}, restarted {RESTARTS} times while clients asked: {dict(heard)}")
    assert set(heard) == {answer}
    assert heard[answer] > 20
    await server.stop()
    assert "can accept" not in listener.output
    assert "has ended" not in listener.output


@asynchronous
async def test_forked(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    A server that runuser or a shell starts as a child listens elsewhere.  The command
    warns of runuser.  The listener warns of both, once clients have waited: it names
    the port and the process.  The clients are answered when a worker accepts.
    """
    if shutil.which("runuser") is None:
        pytest.skip("runuser is not installed: apt install util-linux")
    write(folder)
    server = moduleFor("nobody", "gunicorn")
    ports = [freePort(20000 + 1000 * number, 30000) for number in range(4)]
    listener = twistd(
        *("portlisten", "--mode=0666"),
        *(f"--share=a=tcp:{ports[0]}:interface=127.0.0.1",),
        *(f"--share=b=tcp:{ports[1]}:interface=127.0.0.1", "./socket"),
    )
    await listening(listener)
    wrong = [
        [*server, f"--bind=127.0.0.1:{port}", "--no-control-socket", "wsgi:app"]
        for port in ports[2:]
    ]
    first = exec_(
        start, "--name=a", "./socket", "--", "runuser", "-u", "nobody", "--", *wrong[0]
    )
    await first.says("runuser starts the server as a child.*say --user")
    second = exec_(
        start, "--name=b", "./socket", "sh", "-c", f"{' '.join(wrong[1])}; true"
    )
    try:
        for each in (first, second):
            await each.says("Listening at: http://127.0.0.1")
        clients = [deferToThread(dial, port) for port in ports[:2]]
        began = time.monotonic()
        for name, process in (("a", first), ("b", second)):
            await listener.says(
                rf"1 client waits on {name}=tcp:\S+, and nobody was accepted there for"
                rf" 5 s, though worker \d \(pid {process.pid}, uid 0\) can accept"
            )
        print(f"warned {time.monotonic() - began:.1f} s after the clients came")
        assert "starts the server as a child" not in second.output
        for port in ports[2:]:
            assert b" 200 OK" in await ask(port, REQUEST)
        twistd("hellofdpass", "./socket", "hello")
        for each_ in clients:
            assert await each_ == b"hello"
        for name in ("a", "b"):
            await listener.says(rf"clients of {name}=tcp:\S+ are served again")
    finally:
        for child in [*childrenOf(first.pid), *childrenOf(second.pid)]:
            os.kill(child, signal.SIGTERM)
    for each in (first, second):
        await each.ended()


def childrenOf(pid: int) -> list[int]:
    """
    The children of a process.
    """
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


#: Serves on descriptor 3, which does not block.
SERVES = """
import os, select, socket
sock = socket.socket(fileno=3)
print(f"child {os.getpid()}", flush=True)
while select.select([sock], [], []):
    client, _ = sock.accept()
    client.sendall(b"hello")
    client.close()
"""


@asynchronous
async def test_orphan(start: Start, twistd: Start, folder: Path) -> None:
    """
    A program ends, and leaves a child.  The listener says so once, and takes nothing
    away: the child may serve.  When the child has ended, the worker is gone.
    """
    folder.joinpath("serves.py").write_text(SERVES)
    listener = twistd("portlisten", "--share=web=tcp:0:interface=127.0.0.1", "./socket")
    port = await listening(listener)
    program = exec_(start, "./socket", "sh", "-c", "python3 serves.py & exit 0")
    child = int((await program.says(r"child (\d+)"))[1])
    try:
        await listener.says(
            rf"the process of worker 1 \(pid {program.pid}, uid \d+\) has ended, and a"
            r" child of it holds web=tcp:127.0.0.1:\d+: if"
        )
        assert child != program.pid
        for _ in range(3):
            assert await ask(port) == b"hello"
            await sleep(0.7)
        assert "is gone" not in listener.output
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    await listener.says("worker 1 .*is gone")
    assert listener.output.count("has ended") == 1
    assert await program.ended() == 0


@asynchronous
async def test_daemon(start: Start, twistd: Start, folder: Path) -> None:
    """
    A program whose children end right after it is not reported.
    """
    listener = twistd("portlisten", "--share=web=tcp:0:interface=127.0.0.1", "./socket")
    await listening(listener)
    exec_(start, "./socket", "sh", "-c", "sleep 1 & exit 0")
    await listener.says("worker 1 .*is gone", PATIENCE)
    assert "has ended" not in listener.output
