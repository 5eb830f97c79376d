"""
Tests for workers in Twisted that leave clients to those that have fewer connections.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from unittest import mock

from portlisten import _kernel
from portlisten._policy.fairness import CLOSED, LATELY, MOMENT
from portlisten._wire.frames import Withdraw
from tests.support.boards import SharedLoads
from tests.support.channels import eventually, texts
from tests.support.sharing import SharingTestCase
from tests.support.workers import Listener


class BalanceTests(SharingTestCase):
    """
    A worker, and another one that is only a number.
    """

    def makePort(self) -> socket.socket:
        """
        Bind a socket.
        """
        return self.port()

    async def begin(
        self, sock: socket.socket, loads: SharedLoads | None = None
    ) -> tuple[Listener, SharedLoads]:
        """
        Share the memory, and a socket.
        """
        listener = await self.join()
        loads = loads or SharedLoads(self)
        listener.channel.say(loads.frame, descriptors=loads.descriptors)
        self.share(listener, sock)
        await eventually(lambda: self.worker._sharedPorts._ports)
        return listener, loads

    async def beginWithMore(self, sock: socket.socket) -> tuple[Listener, SharedLoads]:
        """
        Begin, and let the worker have two connections, and the other one none.
        """
        listener, loads = await self.begin(sock)
        loads.other(9)
        for _ in range(2):
            await self.accepted(sock)
        self.clock.advance(LATELY)
        loads.other(0)
        return listener, loads

    async def test_told(self) -> None:
        """
        The worker tells how many connections it has, while it accepts.
        """
        sock = self.makePort()
        listener, loads = await self.begin(sock)
        loads.other(9)
        self.assertEqual(loads.own, 0)
        _, conversation = await self.accepted(sock)
        self.assertEqual(loads.own, 1)
        conversation.transport.loseConnection()
        await eventually(lambda: loads.own == 0)
        listener.channel.say(Withdraw(_kernel.cookie(sock)))
        await eventually(lambda: not self.worker._sharedPorts._ports)

    async def test_left(self) -> None:
        """
        It leaves a client to the other one for a moment, and then accepts it.
        """
        sock = self.makePort()
        await self.beginWithMore(sock)
        self.connect(sock)
        await eventually(self.clock.getDelayedCalls)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), 2)
        self.clock.advance(2 * MOMENT)
        await eventually(lambda: len(self.factory.conversations) == 3)

    async def test_stopWhileWaiting(self) -> None:
        """
        A worker that is told to stop waits no more.
        """
        sock = self.makePort()
        _, loads = await self.beginWithMore(sock)
        self.connect(sock)
        await eventually(self.clock.getDelayedCalls)
        self.worker.stop()
        self.assertEqual(loads.own, CLOSED)

    async def test_listenerDies(self) -> None:
        """
        When the listener is dead, the worker takes all that waits, whoever has fewer.
        """
        sock = self.makePort()
        listener, loads = await self.beginWithMore(sock)
        clients = [self.connect(sock) for _ in range(2)]
        await eventually(self.clock.getDelayedCalls)
        listener.close()
        await eventually(lambda: len(self.factory.conversations) == 4)
        self.assertEqual(loads.own, CLOSED)
        for client in clients:
            client.close()

    async def test_wrongMemory(self) -> None:
        """
        If the memory is of no use, the worker says so, and accepts what comes.
        """
        sock = self.makePort()
        _, loads = await self.begin(sock, SharedLoads(self, 8192))
        loads.other(0)
        for _ in range(3):
            await self.accepted(sock)
        self.assertEqual(
            texts(self.logged, "warn")[-1:],
            [
                "this worker accepts whatever the others have: memory of 8192 bytes,"
                " where 4096 are needed"
            ],
        )

    async def test_noMemory(self) -> None:
        """
        If there is no memory to decide, the port goes on.
        """
        sock = self.makePort()
        _, loads = await self.begin(sock)
        loads.other(9)
        await self.accepted(sock)
        self.patch(_kernel, "listenQueue", mock.Mock(side_effect=MemoryError))
        for _ in range(2):
            await self.accepted(sock)
        self.assertTrue(self.flushLoggedErrors(MemoryError))

    async def test_notWanted(self) -> None:
        """
        Where the listener does not want it, the worker accepts what comes.
        """
        sock = self.makePort()
        loads = SharedLoads(self)
        loads.table.remove(0)
        await self.begin(sock, loads)
        loads.other(0)
        for _ in range(3):
            await self.accepted(sock)

    async def test_draining(self) -> None:
        """
        A worker that drains keeps no memory that comes.
        """
        listener = await self.join()
        self.worker.stop()
        loads = SharedLoads(self)
        listener.channel.say(loads.frame, descriptors=loads.descriptors)
        await self.settle()
        ports: Any = self.worker._sharedPorts
        self.assertIsNone(ports._board)


class UnixBalanceTests(BalanceTests):
    """
    The same with Unix sockets, whose queues the kernel does not count.
    """

    def makePort(self) -> socket.socket:
        """
        See L{BalanceTests.makePort}.
        """
        sock = self.port("port")
        self.addCleanup(os.unlink, "port")
        return sock
