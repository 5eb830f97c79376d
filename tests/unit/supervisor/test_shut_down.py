"""
Tests for L{portlisten._supervisor.shut_down}.
"""

from __future__ import annotations

import socket
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._ports.binding import BoundPort, bind
from portlisten._ports.parsing import parse
from portlisten._supervisor.shut_down import restore, shutDown
from tests.support.descriptors import watchDescriptors
from tests.support.ports import freePort


class ShutDownTests(SynchronousTestCase):
    """
    Ports and a channel whose sockets another process may have shut down.
    """

    def setUp(self) -> None:
        self.number = freePort(20000, 30000)
        watchDescriptors(self)
        self.channel = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.channel.close)
        self.channel.bind("")
        self.channel.listen()

    def bind(self, text: str, shared: bool = False) -> list[BoundPort]:
        """
        Bind a port.
        """
        ports = bind(parse(text, 5, shared=shared))
        for port in ports:
            self.addCleanup(port.close)
        return ports

    def test_listens(self) -> None:
        """
        What listens is left alone, and so is a port for datagrams.
        """
        ports = self.bind("tcp:0:interface=127.0.0.1")
        ports += self.bind("udp:0:interface=127.0.0.1", shared=True)
        self.assertIsNone(restore(ports, self.channel, 5))

    def test_tcp(self) -> None:
        """
        A TCP port listens again.
        """
        (port,) = ports = self.bind(f"tcp:{self.number}:interface=127.0.0.1")
        address = port.socket.getsockname()
        with port.socket.dup() as other:
            other.shutdown(socket.SHUT_RDWR)
        self.assertTrue(_kernel.isShutDown(port.socket))
        self.assertIsNone(restore(ports, self.channel, 5))
        with socket.create_connection(address, 5):
            pass

    def test_unix(self) -> None:
        """
        A Unix socket cannot listen again.
        """
        (port,) = ports = self.bind(f"unix:{self.mktemp()}")
        port.socket.shutdown(socket.SHUT_RDWR)
        lost = restore(ports, self.channel, 5)
        self.assertIn("was shut down", lost or "")

    def test_channel(self) -> None:
        """
        The channel's path cannot either.
        """
        self.channel.shutdown(socket.SHUT_RDWR)
        lost = restore((), self.channel, 5)
        self.assertIn("the path of the channel was shut down", lost or "")

    def test_shutDown(self) -> None:
        """
        A port is free though another process has its socket, but an inherited port is
        left alone.
        """
        (port, kept) = [
            each for _ in range(2) for each in self.bind("tcp:0:interface=127.0.0.1")
        ]
        kept = replace(kept, inherited=True)
        address = port.socket.getsockname()
        with port.socket.dup():
            shutDown([port, kept])
            with socket.socket() as another:
                another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                another.bind(address)
                another.listen()
        self.assertTrue(_kernel.listens(kept.socket))
