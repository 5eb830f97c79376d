"""
Tests for L{portlisten._kernel.connections}, and for what becomes of sockets whose
descriptors programs detach.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._asyncio import connections as _connections
from portlisten._kernel import ConnectionSocket, leadsTo
from portlisten._wire.frames import Closed
from tests.support.asyncio_loops import LoopTestCase, aMoment, eventually
from tests.support.channels import tcpPair
from tests.support.descriptors import watchDescriptors


class ConnectionSocketTests(SynchronousTestCase):
    """
    Tests for L{ConnectionSocket}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.client, accepted = tcpPair()
        self.addCleanup(self.client.close)
        self.copy = accepted.dup()
        self.addCleanup(self.copy.close)
        self.ended: list[str] = []
        self.escaped: list[tuple[int, int]] = []
        self.cookie = _kernel.cookie(accepted)
        self.socket = ConnectionSocket(
            accepted.detach(), None, lambda: self.ended.append("ended"), self.escape
        )
        self.addCleanup(self.socket.close)

    def escape(self, descriptor: int, cookie: int) -> None:
        self.escaped.append((descriptor, cookie))

    def test_close(self) -> None:
        """
        Closing the socket calls back once, and ends the connection for its client even
        if another process has a copy.
        """
        self.socket.close()
        self.socket.close()
        self.assertEqual(self.ended, ["ended"])
        self.client.settimeout(5)
        self.assertEqual(self.client.recv(1), b"")

    def test_closedAndDetached(self) -> None:
        """
        A descriptor that is closed and then detached has ended, as on uvloop.
        """
        os.close(self.socket.fileno())
        self.socket.detach()
        self.assertEqual((self.ended, self.escaped), (["ended"], []))

    def test_reused(self) -> None:
        """
        The same, if another socket has got the number of the descriptor.
        """
        number = self.socket.fileno()
        os.dup2(self.client.fileno(), number)
        self.socket.detach()
        os.close(number)
        self.assertEqual((self.ended, self.escaped), (["ended"], []))

    def test_detached(self) -> None:
        """
        A descriptor that is detached alive goes on.
        """
        descriptor = self.socket.detach()
        self.assertEqual(self.ended, [])
        self.assertEqual(self.escaped, [(descriptor, self.cookie)])
        self.assertTrue(leadsTo(descriptor, self.cookie))
        os.close(descriptor)
        self.assertFalse(leadsTo(descriptor, self.cookie))

    def test_forgotten(self) -> None:
        """
        A socket that is forgotten ends for nobody else.
        """
        self.socket.forget(close=True)
        self.copy.sendall(b"goes on")
        self.assertEqual(self.client.recv(99), b"goes on")
        self.assertEqual(self.ended, [])

    def test_collected(self) -> None:
        """
        A socket that nobody has any more is closed.
        """
        del self._cleanups[-1]
        del self.socket
        gc.collect()
        self.assertEqual(self.ended, ["ended"])

    def test_noSocket(self) -> None:
        """
        A descriptor of something else is closed.
        """
        one, other = os.pipe()
        for each in (one, other):
            with self.assertRaises(OSError):
                ConnectionSocket(each, None, lambda: None, self.escape)

    def test_duplicated(self) -> None:
        """
        A duplicate is a plain socket, and goes on when this socket is closed.
        """
        with self.socket.dup() as duplicate:
            self.assertIs(type(duplicate), socket.socket)
            self.assertEqual(duplicate.gettimeout(), 0)
            self.socket.close()
            self.assertEqual(self.ended, ["ended"])
            duplicate.sendall(b"goes on")
        self.assertEqual(self.client.recv(99), b"goes on")

    def test_defaultTimeout(self) -> None:
        """
        To look where a descriptor leads does not change it, whatever the default
        time-out of sockets is.
        """
        self.addCleanup(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(7)
        self.socket.setblocking(True)
        self.assertTrue(leadsTo(self.socket.fileno(), self.cookie))
        self.assertTrue(os.get_blocking(self.socket.fileno()))

    def test_nonBlocking(self) -> None:
        """
        The socket is non-blocking, and knows its protocol.
        """
        self.assertEqual(self.socket.gettimeout(), 0)
        self.assertEqual(self.socket.proto, socket.IPPROTO_TCP)


class EscapeTests(LoopTestCase):
    """
    Programs that detach descriptors.
    """

    def test_escape(self) -> None:
        """
        A connection whose descriptor was detached ends when that is closed.
        """

        async def test() -> None:
            self.patch(_connections, "ESCAPED_SECONDS", 0.005)
            _, listener = await self.serve()
            _, accepted = self.pair()
            listener.offer(1, accepted)
            adopter: Any = self.server._worker.adopter
            await eventually(lambda: adopter.connections)
            [connection] = adopter.connections
            sock = connection.socket
            await eventually(lambda: self.talks)
            transport = self.talks[0].transport
            transport.pause_reading()
            descriptor = sock.detach()
            await aMoment()
            self.assertEqual(listener.heard(Closed), [])
            os.close(descriptor)
            await eventually(lambda: listener.heard(Closed))
            transport.abort()
            await asyncio.sleep(0.01)

        self.complete(test())
