"""
The clients' addresses behind a real HAProxy, as unmodified servers see them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.certificates import Certificates, certificates
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Start, listening
from tests.support.waiting import PATIENCE, sleep

#: Applications that answer with the address of their client.
WSGI = """
def app(environ, start_response):
    address = environ["REMOTE_ADDR"].encode()
    start_response("200 OK", [("Content-Length", str(len(address)))])
    return [address]
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    address = scope["client"][0].encode()
    headers = [(b"content-length", b"%d" % len(address))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": address})
"""

#: HAProxy, whose own address is one that no client has here.
CONFIGURATION = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
listen proxy
    bind 127.0.0.1:{port}
    bind [::1]:{port}
    source 127.0.0.9
    server worker 127.0.0.1:{server} {options}
"""

FORGED = b"PROXY TCP4 203.0.113.66 127.0.0.1 1 80\r\n"

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Server:
    """
    A server that is not modified.

    @ivar module: what it needs, and how that is installed.
    @ivar words: makes its command from a description, and the files of TLS.
    """

    module: tuple[str, str]
    words: Callable[[str, Certificates | None], list[str]]


def _twisted(description: str, tls: Certificates | None) -> list[str]:
    if tls is not None:
        description += f":privateKey={tls.key}:certKey={tls.certificate}"
    own = ["-n", "--pidfile=", "web", "--wsgi=who.app", f"--listen={description}"]
    return [command("twistd"), *own]


def _uvicorn(description: str, tls: Certificates | None) -> list[str]:
    own = ["--loop", "portlisten.asyncio:asyncioLoop", "--host", description]
    if tls is not None:
        own += ["--ssl-keyfile", str(tls.key), "--ssl-certfile", str(tls.certificate)]
    # uvicorn believes X-Forwarded-For of the loopback address otherwise.
    return [command("uvicorn"), *own, "--no-proxy-headers", "who_asgi:app"]


def _gunicorn(description: str, tls: Certificates | None) -> list[str]:
    own = ["-c", "python:portlisten.gunicorn", "--bind", description]
    if tls is not None:
        own += ["--keyfile", str(tls.key), "--certfile", str(tls.certificate)]
    return [command("gunicorn"), *own, "who:app"]


SERVERS = {
    "twisted": Server(("OpenSSL", "twisted[tls]"), _twisted),
    "uvicorn": Server(("uvicorn", "uvicorn"), _uvicorn),
    "gunicorn": Server(("gunicorn", "gunicorn"), _gunicorn),
}


def ask(
    address: tuple[str, int],
    source: str,
    before: bytes = b"",
    trusting: ssl.SSLContext | None = None,
) -> bytes:
    """
    Ask for a page.

    @param source: the client's address.
    @param before: what to send first.
    @param trusting: for TLS behind that.
    @return: all of the answer; empty if the connection is closed without one.
    """
    with socket.create_connection(address, PATIENCE, (source, 0)) as sock:
        sock.sendall(before)
        try:
            talking = sock
            if trusting is not None:
                talking = trusting.wrap_socket(sock, server_hostname="localhost")
            with talking:
                talking.sendall(REQUEST)
                return b"".join(iter(partial(talking.recv, 1000), b""))
        except (ssl.SSLError, ConnectionError):
            return b""


async def _haproxy(start: Start, folder: Path, server: int, options: str) -> int:
    """
    Start HAProxy in front of a port.

    @return: the port that it listens on.
    """
    program = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    port = freePort(24800, 24900)
    (folder / "haproxy.cfg").write_text(
        CONFIGURATION.format(port=port, server=server, options=options)
    )
    start(program, "-db", "-f", "haproxy.cfg")
    for _ in range(int(PATIENCE / 0.05)):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return port
        await sleep(0.05)
    raise AssertionError("HAProxy does not listen")


@pytest.mark.parametrize(
    ("name", "secure", "options"),
    [
        ("twisted", False, "send-proxy"),
        *((name, secure, "send-proxy-v2") for name in SERVERS for secure in (0, 1)),
    ],
)
@asynchronous
async def test_client(
    twistd: Start, start: Start, folder: Path, name: str, secure: bool, options: str
) -> None:
    """
    A server sees the addresses of HAProxy's clients, of both families, also with TLS in
    the worker.  A client that forges a header is not believed.
    """
    server = SERVERS[name]
    needs(*server.module)
    (folder / "who.py").write_text(WSGI)
    (folder / "who_asgi.py").write_text(ASGI)
    made = await certificates(start, folder) if secure else None
    trusting = None
    if made is not None:
        trusting = ssl.create_default_context(cafile=str(made.root))
        trusting.load_verify_locations(str(made.chain))
    # With a limit of sources, and without.
    limit = ":max-per-source=9:proxy-from=127.0.0.9" if secure else ""
    listener = twistd("portlisten", f"tcp:0{limit}", "./socket")
    port = await listening(listener)
    words = server.words("portlisten:./socket:proxyFrom=127.0.0.9", made)
    path = os.pathsep.join([str(folder), *sys.path])
    process = start("env", f"PYTHONPATH={path}", *words)
    await listener.says("joined")
    proxy = await _haproxy(start, folder, port, options)

    for host, source in (("127.0.0.1", "127.0.0.5"), ("::1", "::1")):
        answer = await deferToThread(ask, (host, proxy), source, b"", trusting)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert answer.endswith(b"\r\n\r\n" + source.encode())
    direct = ("127.0.0.1", port)
    answer = await deferToThread(ask, direct, "127.0.0.6", b"", trusting)
    assert answer.endswith(b"\r\n\r\n127.0.0.6")
    answer = await deferToThread(ask, direct, "127.0.0.6", FORGED, trusting)
    assert b"200" not in answer.partition(b"\r\n")[0]
    assert not answer.endswith(b"\r\n\r\n203.0.113.66")
    # The proxy itself must say who its client is.
    assert await deferToThread(ask, direct, "127.0.0.9", b"", trusting) == b""
    process.signal(signal.SIGTERM)  # gunicorn's worker would stay after SIGKILL
    await process.ended()
