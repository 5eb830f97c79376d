"""
Programs of Twisted's that know the number of their port alone: C{portlisten as-port}.
"""

from __future__ import annotations

import ftplib
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening
from tests.support.tls import certify, needsTLS
from tests.support.waiting import sleep

REQUEST = b"GET /index.html HTTP/1.0\r\n\r\n"

Result = TypeVar("Result")

#: A number that no process listens on, in the programs.
NUMBER = 6800

#: A server in a few lines, which has no log.
SCRIPT = """
import sys
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

class Tell(Protocol):
    def connectionMade(self):
        host = self.transport.getHost().port
        self.transport.write(f"{sys.argv[1:]} on {host}\\n".encode())
        self.transport.loseConnection()

port = reactor.listenTCP(6800, Factory.forProtocol(Tell))
print("it listens on", port.getHost().port, flush=True)
reactor.run()
"""


@pytest.fixture
def asPort(start: Start, folder: Path) -> Start:
    """
    A function that starts a program: the words after C{portlisten as-port}.
    """
    folder.joinpath("www").mkdir()
    folder.joinpath("www", "index.html").write_text("hello, web")

    def run(*words: str) -> Process:
        return start(command("portlisten"), "as-port", *words)

    return run


def mapped(*words: str) -> tuple[str, ...]:
    """
    Map the number to the listener's socket.
    """
    return (f"{NUMBER}=./socket", "--", *words)


def foreground(*words: str) -> tuple[str, ...]:
    """
    Run C{twistd} in the foreground, with the number mapped.
    """
    return mapped("twistd", "-n", "--pidfile=", *words)


async def inThread(client: Callable[[], Result]) -> Result:
    """
    Run a client that blocks.
    """
    result: Result = await deferToThread(client)
    return result


async def startListener(twistd: Start, *options: str) -> tuple[Process, int]:
    """
    Start a listener.

    @return: the listener, and the number of its port.
    """
    port = options or ("tcp:0:interface=127.0.0.1",)
    listener = twistd("portlisten", *port, "./socket")
    return listener, await listening(listener)


REACTORS = ["select", "poll", "epoll", "asyncio", "gi"]


@pytest.mark.parametrize("name", REACTORS)
@asynchronous
async def test_reactors(twistd: Start, asPort: Start, name: str) -> None:
    """
    A web server that gets a number serves the listener's port, on each reactor, and
    stops in good order.
    """
    if name == "gi" and importlib.util.find_spec("gi") is None:
        pytest.skip("PyGObject is not installed: pip install PyGObject")
    listener, port = await startListener(twistd)
    words = ["twistd", "-r", name, "-n", "--pidfile=", "web", "--path=www"]
    web = asPort(*mapped(*words, f"--listen=tcp:{NUMBER}"))
    await listener.says("joined")
    assert (await ask(port, REQUEST)).endswith(b"hello, web")
    assert re.search(rf"reactor class: \S*\.{name}", web.output, re.IGNORECASE)
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", NUMBER)) != 0
    assert await web.stop() == -signal.SIGTERM
    assert "Traceback" not in web.output


@asynchronous
async def test_script(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    A script that has no log says on its standard error that it waits, and serves when
    a listener has come.
    """
    folder.joinpath("tell.py").write_text(SCRIPT)
    program = asPort(*mapped("tell.py", "a", "-b"))
    await program.says("it listens on 6800")
    await program.says("portlisten as-port: waiting for a listener at ")
    listener, port = await startListener(twistd)
    await listener.says("joined")
    assert await ask(port) == f"['a', '-b'] on {port}\n".encode()
    await program.stop()


@asynchronous
async def test_module(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    So does a module, with an option of Python.
    """
    folder.joinpath("tell.py").write_text(SCRIPT)
    listener, port = await startListener(twistd)
    program = asPort(*mapped("python", "-u", "-m", "tell", "x"))
    await listener.says("joined")
    assert await ask(port) == f"['x'] on {port}\n".encode()
    await program.stop()


@asynchronous
async def test_tls(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    C{listenSSL} of the program, and files for TLS in the mapping.
    """
    if needsTLS:
        pytest.skip(needsTLS)
    key, certificate = certify(str(folder / "web"))
    encrypted = SCRIPT.replace(
        "reactor.listenTCP(6800, Factory.forProtocol(Tell))",
        "reactor.listenSSL(6800, Factory.forProtocol(Tell), context)",
    ).replace(
        "class Tell",
        "from twisted.internet.ssl import DefaultOpenSSLContextFactory\n"
        f"context = DefaultOpenSSLContextFactory({key!r}, {certificate!r})\n"
        "class Tell",
    )
    folder.joinpath("plain.py").write_text(SCRIPT)
    folder.joinpath("encrypted.py").write_text(encrypted)
    options = f"privateKey={key}:certKey={certificate}"
    context = ssl.create_default_context(cafile=certificate)
    listener, port = await startListener(twistd)

    def client() -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            return sock.recv(100)

    for count, words in enumerate(
        [
            mapped("encrypted.py"),
            (f"{NUMBER}=./socket:{options}", "--", "plain.py"),
        ]
    ):
        program = asPort(*words)
        await listener.says(f"worker {count + 1} .*joined")
        assert await inThread(client) == f"[] on {port}\n".encode()
        await program.kill()


@asynchronous
async def test_ftp(twistd: Start, asPort: Start) -> None:
    """
    An FTP server takes logins from the listener, and binds its ports for data itself.
    """
    listener, port = await startListener(twistd)
    program = asPort(*foreground("ftp", f"--port={NUMBER}", "--root=www"))
    await listener.says("joined")

    def client() -> bytes:
        text = io.BytesIO()
        with ftplib.FTP(timeout=10) as ftp:
            ftp.connect("127.0.0.1", port)
            ftp.login()
            ftp.retrbinary("RETR index.html", text.write)
            ftp.quit()
        return text.getvalue()

    assert await inThread(client) == b"hello, web"
    await program.stop()


@asynchronous
async def test_socks(twistd: Start, asPort: Start) -> None:
    """
    A proxy of SOCKS 4 connects a client to a server.
    """
    listener, port = await startListener(twistd)
    program = asPort(*foreground("socks", "--interface=127.0.0.1", f"--port={NUMBER}"))
    await listener.says("joined")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        target = server.getsockname()[1]

        def client() -> tuple[bytes, bytes]:
            address = socket.inet_aton("127.0.0.1")
            request = struct.pack("!BBH4s", 4, 1, target, address) + b"joe\0"
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(request)
                accepted, _ = server.accept()
                with accepted:
                    accepted.sendall(b"hello")
                    file = sock.makefile("rb")
                    return file.read(8)[:2], file.read(5)

        assert await inThread(client) == (bytes([0, 90]), b"hello")
    await program.stop()


@asynchronous
async def test_dns(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    A name server takes questions over TCP from the listener, and binds its UDP port
    itself, with a warning.
    """
    if shutil.which("dig") is None:
        pytest.skip("dig is not installed: apt install bind9-dnsutils")
    zone = "zone = [SOA('example.com'), A('www.example.com', '192.0.2.2')]"
    folder.joinpath("example.com").write_text(zone)
    listener, port = await startListener(twistd)
    number = freePort(12000, 12500)
    words = ["dns", "--interface=127.0.0.1", f"--port={number}", "--pyzone=example.com"]
    twistdWords = ["twistd", "-n", "--pidfile=", *words]
    program = asPort(f"{number}=./socket", "--", *twistdWords)
    await program.says(f"the program binds UDP port {number} itself")
    await listener.says("joined")
    for options in ([f"-p{port}", "+tcp"], [f"-p{number}", "+notcp"]):
        dig = ["dig", "@127.0.0.1", *options, "+short", "+tries=1", "www.example.com"]
        ended = await inThread(
            lambda dig=dig: subprocess.run(  # type: ignore[misc]
                dig, stdout=subprocess.PIPE, timeout=30, check=False
            )
        )
        assert ended.stdout == b"192.0.2.2\n", options
    await program.stop()


@asynchronous
async def test_shared(twistd: Start, asPort: Start) -> None:
    """
    The number may be that of a port that the listener shares.
    """
    listener = twistd("portlisten", "--share", "tcp:0:interface=127.0.0.1", "./socket")
    port = await listening(listener)
    words = ["twistd", "-n", "--pidfile=", "web", f"--listen=tcp:{port}", "--path=www"]
    web = asPort(f"{port}=./socket", "--", *words)
    await listener.says("joined")
    assert (await ask(port, REQUEST)).endswith(b"hello, web")
    await web.stop()
    assert "Traceback" not in web.output


@asynchronous
async def test_privileges(
    twistd: Start, asPort: Start, folder: Path, root: None
) -> None:
    """
    A program that listens as root, becomes a daemon and drops its privileges joins the
    listener as its user, and serves a port below 1024.
    """
    port = freePort(600, 1000)
    listener = twistd(
        "portlisten", "--group=daemon", str(port), "./socket", uid="nobody"
    )
    await listening(listener)
    pidFile = folder / "web.pid"
    tac = folder / "web.tac"
    tac.write_text(
        "from twisted.application import internet, service\n"
        "from twisted.web import server, static\n"
        "application = service.Application('web')\n"
        "site = server.Site(static.File('www'))\n"
        f"internet.TCPServer({NUMBER}, site).setServiceParent(application)\n"
    )
    own = ["--uid=daemon", f"--pidfile={pidFile}", "--logfile=web.log"]
    folder.joinpath("web.log").touch()
    shutil.chown(folder / "web.log", "daemon")
    # It becomes a daemon, and its parent says nothing.
    parent = asPort(*mapped("twistd", *own, "-y", "web.tac"))
    assert await parent.ended() == 0, parent.output
    assert parent.output == ""
    pid = int(pidFile.read_text())
    try:
        assert await listener.says(rf"worker 1 \(pid {pid}, uid 1\) joined")
        assert (await ask(port, REQUEST)).endswith(b"hello, web")
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\s+1\s+1\s+1\s+1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    finally:
        os.kill(pid, signal.SIGKILL)


@asynchronous
async def test_daemon(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    A program may listen before it becomes a daemon: the daemon joins the listener.
    """
    listener, port = await startListener(twistd)
    folder.joinpath("web.tac").write_text(
        "from twisted.application import service\n"
        "from twisted.internet import reactor\n"
        "from twisted.web import server, static\n"
        "application = service.Application('web')\n"
        f"reactor.listenTCP({NUMBER}, server.Site(static.File('www')))\n"
    )
    words = ["--pidfile=web.pid", "--logfile=web.log", "-y", "web.tac"]
    parent = asPort(*mapped("twistd", *words))
    assert await parent.ended() == 0, parent.output
    assert parent.output == ""
    pid = int(folder.joinpath("web.pid").read_text())
    try:
        await listener.says(rf"worker 1 \(pid {pid}, uid \d+\) joined")
        assert (await ask(port, REQUEST)).endswith(b"hello, web")
        os.kill(pid, signal.SIGTERM)
        await listener.says("worker 1 .*left")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@asynchronous
async def test_restart(twistd: Start, asPort: Start) -> None:
    """
    While the only worker is replaced, no client is refused, and each gets its answer.
    """
    listener, port = await startListener(twistd)
    words = foreground("web", f"--listen=tcp:{NUMBER}", "--path=www")
    web = asPort(*words)
    await listener.says("joined")
    answers: Counter[bytes] = Counter()
    go = True

    async def clients() -> None:
        while go:
            answers[(await ask(port, REQUEST))[-10:]] += 1

    running = gatherResults([ensureDeferred(clients()) for _ in range(4)])
    for count in (2, 3):
        await sleep(0.3)
        await web.stop()
        before = answers.total()
        web = asPort(*words)
        await listener.says(f"worker {count} .*joined")
        assert answers.total() - before < 5
    await sleep(0.3)
    go = False
    await running
    assert set(answers) == {b"hello, web"}
    assert answers.total() > 20
    await web.stop()


@asynchronous
async def test_grace(twistd: Start, asPort: Start, folder: Path) -> None:
    """
    A request in service is answered after SIGTERM, although the program stops its port
    itself, and waits for nothing else.
    """
    folder.joinpath("slow.py").write_text(
        "from twisted.internet import reactor\n"
        "from twisted.web import resource, server\n"
        "class Slow(resource.Resource):\n"
        "    isLeaf = True\n"
        "    def render_GET(self, request):\n"
        "        print('asked', flush=True)\n"
        "        reactor.callLater(1, request.write, b'slowly')\n"
        "        reactor.callLater(1.1, request.finish)\n"
        "        return server.NOT_DONE_YET\n"
        "def stop():\n"
        "    return port.stopListening()\n"
        "reactor.addSystemEventTrigger('before', 'shutdown', stop)\n"
        f"port = reactor.listenTCP({NUMBER}, server.Site(Slow()))\n"
        "reactor.run()\n"
    )
    listener, port = await startListener(twistd)
    slow = asPort(*mapped("slow.py"))
    await listener.says("joined")
    answer = ensureDeferred(ask(port, REQUEST))
    await slow.says("asked")
    await slow.stop()
    assert (await answer).endswith(b"slowly")


@asynchronous
async def test_otherNumber(twistd: Start, asPort: Start) -> None:
    """
    If the program listens on another number, a warning in its log names both, and the
    processes that it has started.
    """
    number = freePort(12500, 13000)
    words = ["web", f"--listen=tcp:{number}:interface=127.0.0.1", "--path=www"]
    program = asPort("--warn-after=0.5", *foreground(*words))
    await program.says(
        r"Watch#warn\] the program does not listen, 0.5 s after its reactor began to"
        rf" run, on port {NUMBER}; it listened on 127.0.0.1:{number}\n"
    )
    assert (await ask(number, REQUEST)).endswith(b"hello, web")
    await program.stop()
    assert program.output.count("the program") == 1


@asynchronous
async def test_children(asPort: Start) -> None:
    """
    If another process of the program's listens, the warning says that such a one is
    not changed.
    """
    code = (
        "import subprocess\n"
        "from twisted.internet import reactor\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "reactor.addSystemEventTrigger('after', 'shutdown', child.kill)\n"
        "reactor.run()\n"
    )
    program = asPort("--warn-after=0.3", *mapped("python", "-c", code))
    match = await program.says(r"it has started processes \((\d+)\), and as-port")
    assert Path(f"/proc/{match[1]}").exists()
    await program.stop()


@asynchronous
async def test_end(asPort: Start) -> None:
    """
    A program that ends well and has listened on nothing is told so once, and one that
    fails is not.
    """
    for code, status, expected in [
        ("pass", 0, "the program has made no reactor of Twisted's, and never listened"),
        ("from twisted.internet import reactor", 0, "the program has ended, and never"),
        (
            "from twisted.internet import reactor\n"
            "reactor.callWhenRunning(reactor.stop)\nreactor.run()",
            *(0, "the program stops, and has never listened on port 6800"),
        ),
        ("raise SystemExit(3)", 3, ""),
    ]:
        program = asPort(*mapped("-c", code))
        assert await program.ended() == status
        assert expected in program.output
        assert program.output.count("\n") == bool(expected)
