"""
Helpers for tests of shared sockets: a listener that shares, made by hand.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.task import deferLater

from portlisten import _kernel
from portlisten._model import InternetAddress, Kind, Port, UnixAddress
from portlisten._wire.frames import Listener as ListenerFrame
from portlisten._wire.frames import ListenerHello
from tests.support.channels import aMoment, eventually
from tests.support.workers import (
    Conversation,
    Listener,
    WorkerTestCase,
)

HELLO = ListenerHello(
    8,
    (
        Port(0, InternetAddress("TCP", "127.0.0.1", 80), "web", Kind.LISTENER),
        Port(1, InternetAddress("TCP", "127.0.0.1", 81), "group", Kind.GROUP),
        Port(2, UnixAddress(b"/run/www"), "unix", Kind.LISTENER),
        Port(3, InternetAddress("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS),
    ),
)


class SharingTestCase(WorkerTestCase):
    """
    A listener that shares.
    """

    def listen(self) -> Listener:
        """
        Start a listener that shares.
        """
        listener = super().listen()
        listener.greeting = (HELLO,)
        return listener

    def port(self, address: Any = ("127.0.0.1", 0)) -> socket.socket:
        """
        Bind a socket that listens.
        """
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.listen(64)
        return sock

    def share(self, listener: Listener, sock: socket.socket) -> None:
        """
        Share it with the worker.
        """
        frame = ListenerFrame(0, _kernel.cookie(sock))
        listener.channel.say(frame, descriptors=[sock.fileno()])

    async def joinAndShare(self, sock: socket.socket) -> Listener:
        """
        Make the worker join, and share a socket with it.
        """
        listener = await self.join()
        self.share(listener, sock)
        return listener

    def connect(self, sock: socket.socket) -> socket.socket:
        """
        Connect a client.
        """
        client = socket.socket(sock.family, socket.SOCK_STREAM)
        self.addCleanup(client.close)
        client.connect(sock.getsockname())
        return client

    async def accepted(self, sock: socket.socket) -> tuple[socket.socket, Conversation]:
        """
        Connect a client, which the worker has to accept.
        """
        count = len(self.factory.conversations)
        client = self.connect(sock)
        await eventually(lambda: len(self.factory.conversations) > count)
        await aMoment()
        return client, self.factory.conversations[-1]

    async def conversed(
        self, sock: socket.socket
    ) -> tuple[socket.socket, Conversation]:
        """
        Connect a client, and see that the worker accepts and serves it.
        """
        client, conversation = await self.accepted(sock)
        self.assertEqual(
            self.factory.addresses, [IPv4Address("TCP", *client.getsockname())]
        )
        client.send(b"hello")
        await eventually(lambda: conversation.received == b"hello")
        self.assertEqual(len(self.worker.serving), 1)
        self.assertIs(conversation.transport.protocol, conversation)
        return client, conversation

    async def settle(self) -> None:
        """
        Let pending events happen.
        """
        self.clock.advance(0)
        for _ in range(5):
            await deferLater(reactor, 0.01)

    def holders(self, sock: socket.socket) -> int:
        """
        How many descriptors of a socket this process has.
        """
        name = os.readlink(f"/proc/self/fd/{sock.fileno()}")
        count = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                count += os.readlink(f"/proc/self/fd/{number}") == name
            except FileNotFoundError:
                pass
        return count
