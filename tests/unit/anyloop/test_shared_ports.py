"""
Tests for L{portlisten._anyloop.shared_ports}: servers that accept on sockets which a
listener shares.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from portlisten import _kernel
from portlisten._anyloop import shared_ports as _shared_ports
from portlisten._wire.frames import Bye, Drained, Leave, Listener, Serving, Withdraw
from tests.support.asyncio_loops import (
    LoopTestCase,
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)
from tests.support.channels import PATIENCE


class SharedTestCase(LoopTestCase):
    """
    The base.
    """

    def port(self) -> socket.socket:
        """
        Make a listening socket.
        """
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        return sock

    def share(self, listener: Any, port: socket.socket) -> int:
        """
        Share a socket with the worker.

        @return: the socket's cookie.
        """
        cookie = _kernel.cookie(port)
        listener.say(Listener(0, cookie), descriptors=[port.fileno()])
        return cookie

    def connect(self, port: Any) -> socket.socket:
        """
        Connect a client.
        """
        client = socket.create_connection(port.getsockname(), PATIENCE)
        self.addCleanup(client.close)
        return client

    async def serveShared(self, options: str = "") -> tuple[Any, Any, Any]:
        """
        Make a server that has a shared socket.

        @return: the server, the listener, and the listener's own socket.
        """
        server, listener = await self.serve(None, options)
        port = self.port()
        self.share(listener, port)
        await eventually(lambda: self.shared._ports)
        return server, listener, port

    @property
    def shared(self) -> Any:
        """
        The worker's ports.
        """
        return self.server._worker._sharedPorts


@onUvloopToo
class ServiceTests(SharedTestCase):
    """
    How connections are accepted and served.
    """

    def test_service(self) -> None:
        """
        Connections are accepted and served, and count for SERVING.
        """

        async def test() -> None:
            _, listener, port = await self.serveShared()
            clients = [self.connect(port) for _ in range(5)]
            await eventually(lambda: Serving(5) in listener.heard(Serving))
            for client in clients:
                client.sendall(b"hello\n")
                self.assertEqual(await hear(client), b"HELLO\n")
            await eventually(lambda: listener.heard(Serving)[-1] == Serving(0))

        self.complete(test())

    def test_unix(self) -> None:
        """
        A Unix socket is used as well, and its path is left alone.
        """

        async def test() -> None:
            _, listener = await self.serve()
            port = socket.socket(socket.AF_UNIX)
            self.addCleanup(port.close)
            port.bind("port")
            self.addCleanup(os.unlink, "port")
            os.chmod("port", 0o640)
            port.listen()
            self.share(listener, port)
            await eventually(lambda: self.shared._ports)
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect("port")
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.server.close()
            self.assertEqual(os.stat("port").st_mode & 0o777, 0o640)

        self.complete(test())

    def test_blocking(self) -> None:
        """
        If another holder has made the socket blocking, the loop does not block.
        """

        async def test() -> None:
            _, _, port = await self.serveShared()
            port.setblocking(True)
            client = self.connect(port)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_limit(self) -> None:
        """
        At its limit, the worker leaves connections in the backlog.
        """

        async def test() -> None:
            _, _, port = await self.serveShared(":limit=2")
            clients = [self.connect(port) for _ in range(3)]
            await eventually(lambda: len(self.talks) == 2)
            await aMoment()
            self.assertEqual(len(self.talks), 2)
            turns: list[Any] = []
            self.patch(self.shared, "_accept", lambda *each: turns.append(each))
            await aMoment()
            self.assertEqual(turns, [])
            del self.shared._accept
            self.talks[0].transport.close()
            await eventually(lambda: len(self.talks) == 3)
            for each in clients:
                each.close()

        self.complete(test())

    def test_exhausted(self) -> None:
        """
        If the process has no free descriptor, clients wait in the backlog.
        """

        async def test() -> None:
            _, _, port = await self.serveShared(":retry=0.02")
            real = _kernel.accept
            failures = [errno.EMFILE, errno.ECONNABORTED]

            def accept(*arguments: Any) -> Any:
                if failures:
                    raise OSError(failures.pop(0), "as the test wants")
                return real(*arguments)

            self.patch(_kernel, "accept", accept)
            client = self.connect(port)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.assertEqual(failures, [])
            self.assertIn("accepting pauses", self.log.lines[-1])

        self.complete(test())

    def test_reserve(self) -> None:
        """
        Some descriptors are left free.
        """

        async def test() -> None:
            _, _, port = await self.serveShared(":retry=0.02")
            self.shared._descriptorLimit = 0
            clients = [self.connect(port) for _ in range(2)]
            await eventually(lambda: self.talks)
            await aMoment()
            self.assertEqual(len(self.talks), 1)
            self.shared._descriptorLimit = 4096
            await eventually(lambda: len(self.talks) == 2)
            for each in clients:
                each.close()

        self.complete(test())


@onUvloopToo
class EndTests(SharedTestCase):
    """
    When a worker stops accepting.
    """

    async def untaken(self, port: Any) -> None:
        """
        Check that the worker accepts no more, and that the socket still listens.
        """
        count = len(self.talks)
        client = self.connect(port)
        await aMoment()
        self.assertEqual(len(self.talks), count)
        port.setblocking(True)
        port.settimeout(PATIENCE)
        accepted, _ = port.accept()
        accepted.sendall(b"by another worker")
        accepted.close()
        self.assertEqual(await hear(client), b"by another worker")
        self.assertEqual(self.shared._ports, {})

    def test_withdraw(self) -> None:
        """
        A socket that is withdrawn is closed, and not shut down.
        """

        async def test() -> None:
            _, listener, port = await self.serveShared()
            listener.say(Withdraw(_kernel.cookie(port)), Withdraw(12345))
            await eventually(lambda: not self.shared._ports)
            await self.untaken(port)

        self.complete(test())

    def test_leave(self) -> None:
        """
        A worker that drains accepts no more.
        """

        async def test() -> None:
            _, listener, port = await self.serveShared()
            listener.say(Leave())
            await eventually(lambda: not self.shared._ports)
            await self.untaken(port)

        self.complete(test())

    def test_close(self) -> None:
        """
        A server that is closed accepts no more, and waits for what it has accepted.
        """

        async def test() -> None:
            server, listener, port = await self.serveShared()
            client = self.connect(port)
            await eventually(lambda: self.talks)
            server.close()
            listener.say(Drained())
            await self.untaken(port)
            self.assertEqual(listener.heard(Bye), [])
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await server.wait_closed()

        self.complete(test())

    def test_lateSocket(self) -> None:
        """
        A socket that comes after the server was closed is closed.
        """

        async def test() -> None:
            server, listener = await self.serve()
            port = self.port()
            server.close()
            self.share(listener, port)
            await aMoment()
            await self.untaken(port)

        self.complete(test())

    def test_deadListener(self) -> None:
        """
        If the listener dies, what waits in the backlog is served.
        """

        async def test() -> None:
            self.patch(_shared_ports, "BATCH_SIZE", 2)
            _, listener, port = await self.serveShared(":limit=1")
            clients = [self.connect(port) for _ in range(5)]
            port.close()
            await eventually(lambda: self.talks)
            listener.close()
            for client in clients:
                client.sendall(b"hello\n")
                self.assertEqual(await hear(client), b"HELLO\n")
            self.assertEqual(self.shared._ports, {})

        self.complete(test())

    def test_shutDown(self) -> None:
        """
        If another holder has shut the socket down, the loop goes on and rests.
        """

        async def test() -> None:
            _, listener, port = await self.serveShared()
            port.shutdown(socket.SHUT_RDWR)
            await aMoment()
            [entry] = self.shared._ports.values()
            self.assertFalse(entry.usable)
            client, accepted = self.pair()
            listener.offer(1, accepted)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())
