"""
Shared ports, with real processes: UDP, several sockets with C{SO_REUSEPORT}, what
systemd passes, and programs that know nothing of portlisten.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.clients import connect, read
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start, listening, settled, steady
from tests.support.waiting import PATIENCE, sleep

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"

#: A server of the usual kind, which binds a socket of its own with SO_REUSEPORT.
ALONE = """
import socket, sys
port = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True)
print("ready", flush=True)
while True:
    client, _ = port.accept()
    client.sendall(b"hello")
    client.close()
"""

CLIENTS = 40


def freeName(first: int = 53) -> int:
    """
    Find a port below 1024 that is free for UDP and TCP, the usual one if that is.
    """
    while True:
        port = freePort(first, 1024)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                first = port + 1
            else:
                return port


def dig(port: int, *options: str) -> str:
    """
    Ask for an address, and ask once more if no answer comes.
    """
    own = ["dig", "@127.0.0.1", f"-p{port}", "+short", "+time=15", "+tries=2"]
    process = subprocess.run(
        [*own, *options, "www.example.com"], stdout=subprocess.PIPE, check=False
    )
    return process.stdout.decode()


@asynchronous
async def test_names(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    A name server on port 53, UDP and TCP, whose listener is nobody and whose worker
    never was root, is replaced six times while others ask: with the next one there
    before, right after, and a second later.  No query stays without an answer.
    """
    if shutil.which("dig") is None:
        pytest.skip("dig is not installed: apt install bind9-dnsutils")
    port = freeName()
    shares = [
        f"--share=dns={kind}:{port}:interface=127.0.0.1" for kind in ("udp", "tcp")
    ]
    listener = twistd("portlisten", "--group=daemon", *shares, "./socket", uid="nobody")
    await listener.says("listening on")
    assert listener.status()["Uid"].split() == ["65534"] * 4
    number = 0

    async def worker() -> Process:
        nonlocal number
        number += 2
        process = twistd(python=str(EXAMPLES / "dns.tac"))
        # It has two channels.
        await listener.says(f"worker {number} .*joined")
        assert set(process.status()["Uid"].split()) != {"0"}
        return process

    current = await worker()
    answers: Counter[tuple[str, str]] = Counter()
    asking = True

    def keepAsking(*options: str) -> None:
        while asking:
            answers[" ".join(options), dig(port, *options)] += 1

    crowd = [deferToThread(keepAsking, *each) for each in ([], ["+tcp"], [], ["+tcp"])]
    for turn in range(6):
        if turn % 3 == 0:
            following = await worker()
            await current.stop()
        else:
            await current.stop()
            await sleep(turn % 3 - 1)
            following = await worker()
        current = following
    asking = False
    for each in crowd:
        await each
    print("queries answered while their server was replaced:", dict(answers))
    assert set(answers) == {("", "192.0.2.2\n"), ("+tcp", "192.0.2.2\n")}
    assert min(answers.values()) > 20
    assert "Traceback" not in listener.output + current.output


@asynchronous
async def test_waitingDatagrams(twistd: Start) -> None:
    """
    Datagrams that arrive while no worker runs wait for one, over IPv4 and IPv6.
    """
    listener = twistd(
        "portlisten",
        "--mode=0666",
        "--share=dns=udp:0:interface=127.0.0.1",
        r"--share=dns=udp6:0:interface=\:\:1",
        "--share=dns=tcp:0:interface=127.0.0.1",
        "./socket",
    )
    match = await listener.says(r"dns=udp:127.0.0.1:(\d+) .*dns=udp6:\[::1\]:(\d+) ")
    query = bytes.fromhex("4711 0000 0001 0000 0000 0000") + (
        b"\x03www\x07example\x03com\0\0\x01\0\x01"
    )
    clients = []
    for family, address in [
        (socket.AF_INET, ("127.0.0.1", int(match[1]))),
        (socket.AF_INET6, ("::1", int(match[2]))),
    ]:
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(PATIENCE)
        client.connect(address)
        client.send(query)
        clients.append(client)
    await sleep(0.5)
    twistd(python=str(EXAMPLES / "dns.tac"))
    for client in clients:
        answer = await deferToThread(client.recv, 1000)
        assert answer.startswith(b"\x47\x11")
        assert answer.endswith(bytes([192, 0, 2, 2]))
        client.close()


async def stopOne(first: Process, second: Process, port: int) -> Counter[bytes]:
    """
    Stop one of two servers, let clients come, and kill the server.

    @return: what the clients heard.
    """
    first.signal(signal.SIGSTOP)
    clients = [connect(port) for _ in range(CLIENTS)]
    await sleep(1)
    await first.kill()
    heard: Counter[bytes] = Counter()
    for client in clients:
        with client:
            heard[(await deferToThread(read, client))[-5:]] += 1
    assert second.running
    return heard


@asynchronous
async def test_reuseport(twistd: Start) -> None:
    """
    With SO_REUSEPORT the queue of a worker that is killed is not reset: its socket
    goes to another.
    """
    listener = twistd(
        "portlisten",
        "--share=web=tcp:0:interface=127.0.0.1:reuseport=2",
        "./socket",
    )
    port = await listening(listener)
    workers = []
    for _ in range(2):
        workers.append(twistd("hellofdpass", "./socket", "hello"))
        await workers[-1].says("joined the listener")
    before = await steady(listener)
    heard = await stopOne(workers[0], workers[1], port)
    print("with a listener that keeps the sockets:", dict(heard))
    assert heard == {b"hello": CLIENTS}
    twistd("hellofdpass", "./socket", "hello")
    assert await settled(listener, before) == before


@asynchronous
async def test_reuseportControl(start: Start) -> None:
    """
    Without a listener, connections that waited for the killed server are lost.
    """
    port = freePort(20000, 30000)
    servers = [start(sys.executable, "-c", ALONE, str(port)) for _ in range(2)]
    for server in servers:
        await server.says("ready")
    heard = await stopOne(servers[0], servers[1], port)
    print("each with a socket of its own:", dict(heard))
    if Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text().strip() == "0":
        assert heard[b""] > 0


@asynchronous
async def test_shutDown(twistd: Start, start: Start) -> None:
    """
    A program that shuts the shared socket down when it stops does not end the port
    for good.
    """
    port = freePort(20000, 30000)
    listener = twistd(
        "portlisten", f"--share=web=tcp:{port}:interface=127.0.0.1", "./socket"
    )
    await listening(listener)
    program = "import socket; socket.socket(fileno=3).shutdown(2)"
    exec_ = start(
        command("portlisten"), "exec", "./socket", sys.executable, "-c", program
    )
    assert await exec_.ended() == 0
    await listener.says("a worker shut web=tcp:.* down, for all workers")
    twistd("hellofdpass", "./socket", "hello")
    assert await ask(port) == b"hello"


@asynchronous
async def test_listenerRestarts(twistd: Start) -> None:
    """
    A listener that was killed can bind the port again, since its worker lets go of
    it, and the worker is back by itself.
    """
    port = freePort(20000, 30000)
    arguments = ["portlisten", f"--share=tcp:{port}:interface=127.0.0.1", "./socket"]
    listener = twistd(*arguments)
    await listening(listener)
    worker = twistd("hellofdpass", "./socket", "hello")
    assert await ask(port) == b"hello"
    await listener.kill()
    await worker.says("lost the listener")
    listener = twistd(*arguments)
    await listening(listener)
    assert await ask(port) == b"hello"
    await listener.stop()


@asynchronous
async def test_unixPath(twistd: Start, folder: Path) -> None:
    """
    The path of a shared Unix socket, and its mode, are the listener's.
    """
    path = folder / "www"
    listener = twistd("portlisten", "--share=unix:./www:mode=600", "./socket")
    await listener.says("listening on")
    before = path.stat()
    worker = twistd("hellofdpass", "./socket", "hello")
    await worker.says("joined")

    def hear() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            return read(client)

    assert await deferToThread(hear) == b"hello"
    await worker.stop()
    after = path.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    twistd("hellofdpass", "./socket", "hello again")
    assert await deferToThread(hear) == b"hello again"
    await listener.stop()
    assert not path.exists()


# Programs that know nothing of portlisten

WSGI = """
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from WSGI, uid {os.getuid()}".encode()]
"""

ASGI = """
import os
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"hello from ASGI, uid {os.getuid()}".encode()
    # Without a length, some of its parsers answer in chunks.
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize(
    ("module", "arguments", "ready", "answer"),
    [
        (
            "uvicorn",
            ["--lifespan=off", "--fd=3", "asgi:app"],
            "Uvicorn running",
            b"hello from ASGI, uid 1",
        ),
        (
            "gunicorn",
            # It may miss a signal while it starts.
            ["--workers=2", "--graceful-timeout=1", "--no-control-socket"],
            "Booting worker",
            b"hello from WSGI, uid 1",
        ),
    ],
    ids=["uvicorn", "gunicorn"],
)
@asynchronous
async def test_exec(
    root: None,
    start: Start,
    twistd: Start,
    folder: Path,
    module: str,
    arguments: list[str],
    ready: str,
    answer: bytes,
) -> None:
    """
    Servers that take listening sockets from systemd serve a port below 1024 and never
    were root; clients wait while a server restarts.
    """
    needs(module, module)
    folder.joinpath("asgi.py").write_text(ASGI)
    folder.joinpath("wsgi.py").write_text(WSGI)
    if module == "gunicorn":
        arguments = [*arguments, "wsgi:app"]
    port = freePort(80, 1024)
    listener = twistd(
        *("portlisten", "--group=daemon"),
        f"--share=http=tcp:{port}:interface=127.0.0.1",
        "./socket",
        uid="nobody",
    )
    await listening(listener)

    def serve() -> Process:
        # In this order, since Python may be where only root may look.
        return start(
            *(command("portlisten"), "exec", "--name=http", "./socket"),
            *("setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"),
            *(command(module), *arguments),
        )

    server = serve()
    await server.says(ready)
    assert (await ask(port, REQUEST)).endswith(answer)
    assert server.status()["Uid"].split() == ["1"] * 4
    assert int(server.status()["CapEff"], 16) == 0
    await server.stop()
    await listener.says("is gone")
    waiting = deferToThread(lambda: dial(port))
    await sleep(0.5)
    server = serve()
    assert (await waiting).endswith(answer)
    await server.stop()
    assert "Traceback" not in listener.output


def dial(port: int) -> bytes:
    """
    Ask for a page.
    """
    with connect(port) as client:
        client.sendall(REQUEST)
        return read(client)


# systemd


@pytest.mark.parametrize("share", [False, True], ids=["listen", "share"])
@asynchronous
async def test_socketActivation(
    start: Start, twistd: Start, folder: Path, share: bool
) -> None:
    """
    A socket that systemd holds is listened on, or shared; and both sides tell it how
    they are doing.
    """
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd-socket-activate is not installed: apt install systemd")
    port = freePort(20000, 30000)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(folder / "notify"))
    notified.settimeout(PATIENCE)
    notify = f"NOTIFY_SOCKET={folder}/notify"
    worker = start(
        *("env", notify, command("twistd"), "-n", "--pidfile=w.pid"),
        *("hellofdpass", "./socket", "hello"),
    )
    await worker.says("waiting for a listener")
    said = [notified.recv(1000).decode()]
    assert said[0].startswith("STATUS=waiting for a listener at ./socket")
    listener = start(
        *("env", notify, program, "-E", "NOTIFY_SOCKET", "-l", str(port)),
        *(command("twistd"), "-n", "--pidfile=l.pid", "portlisten"),
        *(["--share"] if share else []),
        *("web=systemd:domain=INET6:index=0", "./socket"),
    )
    await listener.says("Listening on")
    assert await ask(port) == b"hello"
    assert await ask(port) == b"hello"
    counts = await listener.says("worker 1 .*joined, .* for web")
    assert counts
    await worker.stop()
    await listener.stop()
    while len(said) < 7:
        said.append(notified.recv(1000).decode())
    notified.close()
    assert said.count("READY=1") == 2
    assert sum(each.startswith("STOPPING=1\n") for each in said) == 2
    assert any(each.startswith("STATUS=listening on web=tcp6:[::]:") for each in said)
    assert any(each.startswith("STATUS=serving web=tcp6:[::]:") for each in said)


# Passes a Unix socket with a name in the abstract namespace, as systemd would.
ABSTRACT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(b"\\0" + sys.argv[1].encode())
sock.listen(64)
if sock.fileno() != 3:
    os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[2], sys.argv[2:])
"""


def hear(address: str | bytes) -> bytes:
    """
    Run a client of a Unix socket.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        # It has a name itself.
        client.bind("")
        client.connect(address)
        return read(client)


@pytest.mark.parametrize("share", [False, True], ids=["listen", "share"])
@asynchronous
async def test_abstract(start: Start, twistd: Start, share: bool) -> None:
    """
    A Unix socket that has no path is listened on, or shared, for one worker after
    another; the log writes its name as systemd does.
    """
    name = f"portlisten-{os.getpid()}"
    listener = start(
        *(sys.executable, "-c", ABSTRACT, name),
        *(command("twistd"), "-n", "--pidfile=l.pid", "portlisten"),
        *(["--share"] if share else []),
        *("web=systemd:domain=UNIX:name=web", "./socket"),
    )
    await listener.says(f"listening on web=unix:@{name}")
    for number in range(2):
        worker = twistd("hellofdpass", "./socket", f"hello {number}")
        await worker.says("joined the listener")
        for _ in range(3):
            answer = await deferToThread(hear, b"\0" + name.encode())
            assert answer == b"hello %d" % number
        await worker.kill()
        await listener.says(f"worker {number + 1} .*(is gone|died)")
    if share:
        program = "import socket; socket.socket(fileno=3).accept()[0].send(b'bare')"
        start(command("portlisten"), "exec", "./socket", sys.executable, "-c", program)
        assert await deferToThread(hear, b"\0" + name.encode()) == b"bare"
    assert "Traceback" not in listener.output


@asynchronous
async def test_pathIsLost(root: None, twistd: Start, folder: Path) -> None:
    """
    A Unix socket is shared, and listened on, even if its path is removed or the
    listener may not look at it any more.
    """
    private = folder / "private"
    private.mkdir()
    listener = twistd(
        *("portlisten", "--share=web=unix:./private/www"),
        *("old=unix:./private/old", "./socket"),
        uid="nobody",
    )
    await listener.says("listening on")
    private.chmod(0o700)
    for turn in range(3):
        worker = twistd("hellofdpass", "./socket", "hello")
        await worker.says("joined")
        for name in ("www", "old"):
            path = private / f"{name}{'.moved' * turn}"
            assert await deferToThread(hear, str(path)) == b"hello"
            path.rename(private / f"{name}{'.moved' * (turn + 1)}")
        await worker.kill()
        await listener.says(f"worker {turn + 1} .*died")
    assert "Traceback" not in listener.output
    await listener.stop()


@asynchronous
async def test_memberHangs(twistd: Start) -> None:
    """
    A member of a group that stops reading is given up, whenever it does, and its
    sockets go to others.
    """
    listener = twistd(
        *("portlisten", "--claim-timeout=1"),
        *("--share=web=tcp:0:interface=127.0.0.1:reuseport=2", "./socket"),
    )
    port = await listening(listener)
    workers = []
    for number in range(2):
        workers.append(twistd("hellofdpass", "./socket", "hello"))
        await listener.says(f"worker {number + 1} .*joined")
    await sleep(1)
    workers[1].signal(signal.SIGSTOP)
    await workers[0].kill()
    await listener.says("worker 2 .*did not read its shared sockets within 1 s", 10)
    twistd("hellofdpass", "./socket", "hello")
    await listener.says("worker 3 .*joined")
    for _ in range(5):
        assert await ask(port) == b"hello"


# Mistakes


@asynchronous
async def test_wrongKinds(twistd: Start, start: Start) -> None:
    """
    A worker that asks for a port of a wrong kind gets the reason, and the listener goes
    on: a stream server for UDP, an older worker for a shared port, a program for a port
    that is not shared, and a program that does not exist.
    """
    listener = twistd(
        "portlisten",
        "--share=dns=udp:0:interface=127.0.0.1",
        "--share=web=tcp:0:interface=127.0.0.1",
        "old=tcp:0:interface=127.0.0.1",
        "./socket",
    )
    match = await listener.says(r"listening on old=\S+:(\d+), dns=\S+:\d+ ")
    stream = twistd("hellofdpass", "--name=dns", "./socket", "hello")
    await stream.says(
        r"cannot serve this worker: .*dns=udp:.* is a UDP port, which no stream server"
    )
    await listener.says(r"worker 1 .*is cut off: dns=udp:.* is a UDP port")
    with socket.socket(socket.AF_UNIX) as older:
        older.connect(str(Path(os.readlink(f"/proc/{listener.pid}/cwd"), "socket")))
        older.sendall(bytes.fromhex("02000010706f72746c73746e0001000800000000"))
        older.settimeout(PATIENCE)
        heard = b""
        while data := older.recv(1000):
            heard += data
    assert b"is shared: its listening socket goes to each worker" in heard
    assert b"too old" in heard
    for arguments, code, reason in [
        (["--name=old", "./socket", "true"], 1, "start the listener with --share"),
        (["--name=nosuch", "./socket", "true"], 1, "no port is called 'nosuch'"),
        (["./socket", "nosuch"], 127, "the program 'nosuch' does not exist"),
    ]:
        program = start(command("portlisten"), "exec", *arguments)
        assert await program.ended() == code
        assert reason in program.output
        assert len(program.output.splitlines()) == 1
    worker = twistd("hellofdpass", "./socket", "hello")
    await worker.says("joined")
    assert await ask(int(match[1])) == b"hello"
    assert listener.running
    assert "Traceback" not in listener.output


@asynchronous
async def test_sharedAndListened(twistd: Start) -> None:
    """
    A name is either shared or listened on.
    """
    listener = twistd("portlisten", "--share=web=81", "web=80", "./socket")
    assert await listener.ended() == 1
    assert "'web' is both shared and listened on" in listener.output
    assert "Traceback" not in listener.output


@asynchronous
async def test_descriptors(twistd: Start) -> None:
    """
    After 2,000 connections and five workers that shared three kinds of ports, the
    listener has as many descriptors as before, and so has the last worker.
    """
    listener = twistd(
        "portlisten",
        "--share=a=tcp:0:interface=127.0.0.1",
        "--share=b=tcp:0:interface=127.0.0.1:reuseport=3",
        "--share=c=unix:./www",
        "./socket",
    )
    port = await listening(listener)
    for _ in range(4):
        worker = twistd("hellofdpass", "./socket", "hello")
        await worker.says("joined")
        assert await ask(port) == b"hello"
        before = await steady(listener)
        await worker.kill()
    worker = twistd("hellofdpass", "./socket", "hello")
    await worker.says("joined")
    assert await ask(port) == b"hello"
    own = await steady(worker)
    began = time.monotonic()

    def hear(_: int) -> bytes:
        with connect(port) as client:
            return read(client)

    heard = await deferToThread(lambda: Counter(map(hear, range(2000))))
    assert heard == {b"hello": 2000}
    print(f"2000 connections in {time.monotonic() - began:.1f} s")
    assert await settled(worker, own) == own
    assert await settled(listener, before) == before
