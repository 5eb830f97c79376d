"""
Tests for workers in asyncio that leave clients to those that have fewer connections.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from portlisten import _kernel
from portlisten._policy.fairness import CLOSED, LATELY
from portlisten._wire.frames import Leave, Listener
from tests.support.asyncio_loops import LoopTestCase, eventually, onUvloopToo
from tests.support.boards import SharedLoads
from tests.support.channels import PATIENCE


@onUvloopToo
class BalanceTests(LoopTestCase):
    """
    A worker, and another one that is only a number.
    """

    async def begin(self, loads: SharedLoads) -> tuple[Any, socket.socket]:
        """
        Share the memory, and a socket.
        """
        _, listener = await self.serve()
        listener.say(loads.frame, descriptors=loads.descriptors)
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        listener.say(Listener(0, _kernel.cookie(sock)), descriptors=[sock.fileno()])
        await eventually(lambda: self.ports._ports)
        return listener, sock

    @property
    def ports(self) -> Any:
        """
        The worker's ports.
        """
        return self.server._worker._sharedPorts

    def connect(self, sock: socket.socket) -> socket.socket:
        """
        Connect a client.
        """
        client = socket.create_connection(sock.getsockname(), PATIENCE)
        self.addCleanup(client.close)
        return client

    def test_told(self) -> None:
        """
        The worker tells how many connections it has, until it stops.
        """

        async def test() -> None:
            loads = SharedLoads(self)
            loads.other(9)
            _, sock = await self.begin(loads)
            await eventually(lambda: loads.own == 0)
            client = self.connect(sock)
            await eventually(lambda: loads.own == 1)
            client.close()
            await eventually(lambda: loads.own == 0)
            self.server.close()
            await eventually(lambda: loads.own == CLOSED)

        self.complete(test())

    def test_left(self) -> None:
        """
        It leaves a client to the other one for a moment, and then accepts it.
        """

        async def test() -> None:
            loads = SharedLoads(self)
            loads.other(9)
            _, sock = await self.begin(loads)
            for _ in range(2):
                self.connect(sock)
            await eventually(lambda: loads.own == 2)
            await asyncio.sleep(2 * LATELY)
            loads.other(0)
            port = next(iter(self.ports._ports.values()))
            seen = []
            turns = port.turns
            over = turns._wait._then

            def then() -> None:
                seen.append(loads.own)
                over()

            turns._wait._then = then
            self.connect(sock)
            await eventually(lambda: loads.own == 3)
            self.assertEqual(seen, [2])
            self.assertFalse(turns.waiting)

        self.complete(test())

    def test_wrongMemory(self) -> None:
        """
        If the memory is of no use, the worker says so, and accepts what comes.
        """

        async def test() -> None:
            loads = SharedLoads(self, 8192)
            loads.other(0)
            _, sock = await self.begin(loads)
            for _ in range(3):
                self.connect(sock)
            await eventually(lambda: len(self.ports._adopter.connections) == 3)
            self.assertTrue(
                any("memory of 8192 bytes" in each for each in self.log.lines)
            )

        self.complete(test())

    def test_draining(self) -> None:
        """
        A worker that drains closes the memory, and takes none.
        """

        async def test() -> None:
            loads = SharedLoads(self)
            listener, _ = await self.begin(loads)
            listener.say(Leave())
            await eventually(lambda: self.ports._board is None)
            listener.say(loads.frame, descriptors=loads.descriptors)
            await asyncio.sleep(0.05)
            self.assertIsNone(self.ports._board)

        self.complete(test())
