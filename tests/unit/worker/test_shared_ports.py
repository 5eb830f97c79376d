"""
Tests for L{portlisten._worker.shared_ports}, by a worker and a listener made by hand.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any

from twisted.internet.protocol import DatagramProtocol, Factory

from portlisten._model import Kind
from portlisten._wire.frames import (
    WorkerHello,
)
from portlisten._worker.shared_ports import DatagramPorts
from portlisten._worker.worker import Worker
from tests.support.channels import eventually
from tests.support.sharing import HELLO, SharingTestCase
from tests.support.workers import (
    GRACE,
    RETRY,
    hear,
)


class Echo(DatagramProtocol):
    """
    Says what it hears.
    """

    def __init__(self) -> None:
        self.stopped = False

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        assert self.transport is not None
        self.transport.write(datagram, addr)

    def stopProtocol(self) -> None:
        self.stopped = True


class DatagramTests(SharingTestCase):
    """
    Tests for L{DatagramPorts}.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.protocols: list[Echo] = []
        factory = Factory()
        factory.noisy = False
        self.worker = Worker(
            self.reactor,
            self.path,
            factory,
            RETRY,
            GRACE,
            makePorts=partial(
                DatagramPorts, makeProtocol=self.make, maxPacketSize=1000
            ),
        )

    def make(self) -> Echo:
        """
        Make a protocol.
        """
        self.protocols.append(Echo())
        return self.protocols[-1]

    def udp(self, host: str = "127.0.0.1") -> socket.socket:
        """
        Bind a UDP socket.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(sock.close)
        sock.bind((host, 0))
        return sock

    def ask(self, sock: socket.socket, question: bytes) -> socket.socket:
        """
        Send a datagram.

        @return: where the answer comes.
        """
        client = socket.socket(sock.family, socket.SOCK_DGRAM)
        self.addCleanup(client.close)
        client.sendto(question, sock.getsockname())
        return client

    async def test_takes(self) -> None:
        """
        The listener is told that UDP alone is taken.
        """
        listener = await self.join()
        (hello,) = listener.channel.heard(WorkerHello)
        self.assertEqual(hello.takes, frozenset([Kind.DATAGRAMS]))
        self.assertEqual(self.worker.ports, HELLO.ports[3:])

    async def test_serves(self) -> None:
        """
        Each socket has a protocol of its own, which answers from the address that
        was asked, IPv4 and IPv6, and what waited before it came.
        """
        listener = await self.join()
        for host in ("127.0.0.1", "::1"):
            sock = self.udp(host)
            client = self.ask(sock, b"ask " + host.encode())
            self.share(listener, sock)
            self.assertEqual(await hear(client), b"ask " + host.encode())
        self.assertEqual(len(self.protocols), 2)

    async def test_givenBack(self) -> None:
        """
        When it stops, datagrams wait for the next one.
        """
        sock = self.udp()
        await self.joinAndShare(sock)
        await eventually(lambda: self.protocols)
        self.worker.stop()
        await eventually(lambda: self.protocols[0].stopped)
        self.assertEqual(self.holders(sock), 1)
        client = self.ask(sock, b"too late")
        datagram, address = sock.recvfrom(100)
        self.assertEqual((datagram, address[1]), (b"too late", client.getsockname()[1]))

    async def test_blocking(self) -> None:
        """
        A socket that somebody else made blocking does not stop the process.
        """
        sock = self.udp()
        await self.joinAndShare(sock)
        await eventually(lambda: self.protocols)
        os.set_blocking(sock.fileno(), True)
        for _ in range(2):
            self.assertEqual(await hear(self.ask(sock, b"hello")), b"hello")

    async def test_failingProtocol(self) -> None:
        """
        A protocol that cannot be made, or fails at its start, serves nothing and
        leaves nothing open; and the channel goes on.
        """
        listener = await self.join()

        def fail() -> Any:
            raise ZeroDivisionError

        class Failing(DatagramProtocol):
            def startProtocol(self) -> None:
                raise ZeroDivisionError

        for make in (fail, Failing):
            self.worker._sharedPorts._makeProtocol = make  # type: ignore[attr-defined]
            sock = self.udp()
            self.share(listener, sock)
            await eventually(lambda: self.flushLoggedErrors(ZeroDivisionError))
            await self.settle()
            self.assertEqual(self.holders(sock), 1)
        self.worker._sharedPorts._makeProtocol = self.make  # type: ignore[attr-defined]
        sock = self.udp()
        self.share(listener, sock)
        self.assertEqual(await hear(self.ask(sock, b"hello")), b"hello")
