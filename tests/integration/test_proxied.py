"""
The source of clients behind a real HAProxy.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import reactor

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.proxied_clients import ProxiedClients
from portlisten._wire.proxy_header import MAXIMUM_BYTES
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.spawned import Start
from tests.support.waiting import PATIENCE, sleep, until

CONFIGURATION = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
listen proxy
    bind {host}:{port}
    server worker {server} {options}
"""


class Proxied:
    """
    Connections from HAProxy, and what is found out about them.

    @ivar reports: the connections and their sources.
    """

    def __init__(self, start: Start, folder: Path) -> None:
        haproxy = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin")
        if haproxy is None:
            pytest.skip("haproxy is not installed")
        self._haproxy = haproxy
        self._start = start
        self._folder = folder
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE)
        self.reports: list[tuple[AcceptedConnection, str | None]] = []
        self._clients = ProxiedClients(reactor, self.reports.extend)

    def run(self, options: str, host: str = "127.0.0.1") -> int:
        """
        Start HAProxy.

        @param options: how it writes its header.
        @return: the port that it listens on.
        """
        port = freePort(24700, 24800)
        server = "{}:{}".format(*self._server.getsockname())
        (self._folder / "haproxy.cfg").write_text(
            CONFIGURATION.format(host=host, port=port, server=server, options=options)
        )
        self._start(self._haproxy, "-db", "-f", "haproxy.cfg")
        return port

    async def accept(self) -> tuple[AcceptedConnection, str | None]:
        """
        Accept a connection from HAProxy, and wait until its source is known.
        """
        accepted, address = self._server.accept()
        accepted.setblocking(False)
        self._clients.add([AcceptedConnection(accepted, address)])
        await until(lambda: bool(self.reports), "the source is known")
        return self.reports.pop()

    def close(self) -> None:
        """
        Close everything.
        """
        for connection in self._clients.close():
            connection.closeCopy()
        self._server.close()


@pytest.fixture
def proxied(start: Start, folder: Path) -> Iterator[Proxied]:
    """
    Connections from HAProxy.
    """
    made = Proxied(start, folder)
    yield made
    made.close()


async def connect(address: tuple[str, int], source: str) -> socket.socket:
    """
    Connect to HAProxy, as soon as it listens.
    """
    for _ in range(int(PATIENCE / 0.05)):
        try:
            return socket.create_connection(address, PATIENCE, (source, 0))
        except ConnectionRefusedError:
            await sleep(0.05)
    raise AssertionError("HAProxy does not listen")


@pytest.mark.parametrize(
    ("options", "signature"),
    [
        ("send-proxy", b"PROXY TCP"),
        ("send-proxy-v2", b"\r\n\r\n\0\r\nQUIT\n\x21"),
        ("send-proxy-v2 proxy-v2-options crc32c", b"\r\n\r\n\0\r\nQUIT\n\x21"),
    ],
    ids=["v1", "v2", "v2-crc"],
)
@pytest.mark.parametrize(
    ("host", "source"),
    [("127.0.0.1", "127.0.0.5"), ("::1", "::1")],
    ids=["ipv4", "ipv6"],
)
@asynchronous
async def test_source(
    proxied: Proxied, options: str, signature: bytes, host: str, source: str
) -> None:
    """
    The source is the client's, by both versions of the protocol.  The connection is
    untouched, and the header is there for the worker.
    """
    port = proxied.run(options, host)
    with await connect((host, port), source) as client:
        connection, found = await proxied.accept()
        assert found == source
        assert connection.address[0] == "127.0.0.1"
        assert connection.untouched()
        client.sendall(b"hello")
        first = _kernel.peekBytes(connection.fileno(), MAXIMUM_BYTES)
        assert first.startswith(signature)
        connection.closeCopy()


@asynchronous
async def test_health(proxied: Proxied) -> None:
    """
    When HAProxy checks whether the server is well, the source is HAProxy.
    """
    proxied.run("send-proxy-v2 check inter 100ms")
    connection, found = await proxied.accept()
    assert found == "127.0.0.1"
    connection.closeCopy()


@asynchronous
async def test_noHeader(proxied: Proxied) -> None:
    """
    Without a header, there is no source.
    """
    port = proxied.run("")
    with await connect(("127.0.0.1", port), "127.0.0.5") as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        connection, found = await proxied.accept()
        assert found is None
        assert connection.untouched()
        connection.closeCopy()
