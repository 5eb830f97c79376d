"""
Tests for L{portlisten._blocking.worker}: when offers are claimed, and by whom.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from portlisten import _kernel
from portlisten._blocking import receiver as _receiver
from portlisten._wire.codec import encode
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Drain,
    Drained,
    Leave,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
)
from tests.support.channels import PATIENCE
from tests.support.listening_sockets import (
    HELLO,
    Listener,
    SocketTestCase,
    eventually,
    shared,
)

#: The HELLO of a listener that knows nothing of limits.
OLD = ListenerHello(64, HELLO.ports)


class ClaimTests(SocketTestCase):
    """
    An offer is claimed when the program asks for it.
    """

    def revoke(self, listener: Listener) -> None:
        """
        Take the offers back, as a listener does.
        """
        listener.say(Revoked())
        listener.socket.shutdown(socket.SHUT_RD)

    def test_hung(self) -> None:
        """
        If the listener takes the offers back, they are dropped.  The worker joins again
        when C{accept} is called again, and not before.
        """
        listening, listener = self.listen(limit=None)
        listening.setblocking(False)
        self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening).close()
        for id in (2, 3):
            self.offer(listener, id)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.revoke(listener)
        eventually(lambda: any("lost" in each for each in self.log.lines))
        self.assertEqual(listener.heard(Claim), [Claim((1,))])
        listener.close()
        self.bound.settimeout(0.3)
        with self.assertRaises(TimeoutError):
            self.bound.accept()
        self.bound.settimeout(PATIENCE)
        # So that a server that selects calls accept().
        self.assertTrue(self.isReadable(listening, PATIENCE))
        with self.assertRaises(BlockingIOError):
            listening.accept()
        self.assertFalse(self.isReadable(listening))
        second = self.join()
        self.offer(second, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)
        self.assertFalse(any("nothing calls" in each for each in self.log.lines))

    def test_hungWhileServing(self) -> None:
        """
        A connection that was in service when the offers were taken back goes on, and
        the next channel tells of it.
        """
        listening, listener = self.listen(limit=None)
        client = self.offer(listener, 1)
        sock = self.take(listening)
        self.offer(listener, 2)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.revoke(listener)
        self.says("lost the listener")
        listening.setblocking(False)
        with self.assertRaises(BlockingIOError):
            listening.accept()
        second = self.join()
        second.hears(Serving(1))
        sock.sendall(b"answer")
        sock.close()
        second.hears(Serving(0))
        self.assertEqual(self.hear(client), b"answer")

    def test_nothingAccepts(self) -> None:
        """
        If nothing has ever called C{accept}, one line says what is wrong.
        """
        listening, listener = self.listen()
        self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.revoke(listener)
        self.says("nothing calls accept() here")
        self.assertEqual(sum("nothing calls" in each for each in self.log.lines), 1)

    def test_stopDuringClaim(self) -> None:
        """
        If the worker stops while a claim is under way, the connection ends: nobody is
        left to take it.
        """
        listening, listener = self.listen()
        listening.setblocking(False)
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        receiver: Any = listening._receiver
        with receiver._loop.lock:
            channel = receiver._worker._channel._socket
            with self.assertRaises(BlockingIOError):
                while True:
                    channel.send(encode(Serving(0)))
            with self.assertRaises(BlockingIOError):
                listening.accept()
        listening.close()
        listener.hears(Claim((1,)), Drain(), Closed((1,)))
        self.assertEqual(self.hear(client), b"")

    def test_listenerDies(self) -> None:
        """
        The offers of a listener that died are this worker's: all of them are served.
        """
        listening, listener = self.listen(limit=None)
        clients = [self.offer(listener, id) for id in range(1, 6)]
        listener.close()
        self.says("lost the listener")
        for client in clients:
            self.assertTrue(self.isReadable(listening, PATIENCE))
            sock, address = listening.accept()
            self.assertEqual(address, client.getsockname())
            sock.sendall(b"answer")
            sock.close()
            self.assertEqual(self.hear(client), b"answer")
        listening.setblocking(False)
        self.assertFalse(self.isReadable(listening))

    def test_closedAfterTheListener(self) -> None:
        """
        If the program closes its socket before it has served the offers of a listener
        that died, their clients hear of it at once, and the worker ends.
        """
        listening, listener = self.listen(limit=None)
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.bound.close()
        listener.close()
        self.says("lost the listener")
        listening.close()
        self.assertEqual(self.hear(client), b"")
        self.noThread()

    def test_left(self) -> None:
        """
        When the listener asks the worker to drain, the offers go to others, and what is
        in service goes on.  Then the worker may join again.
        """
        listening, listener = self.listen(limit=None)
        client = self.offer(listener, 1)
        sock = self.take(listening)
        self.offer(listener, 2)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        listener.say(Leave())
        eventually(lambda: listener.heard(Drain))
        self.assertEqual([each.ids for each in listener.heard(Refuse)], [(2,)])
        listener.say(Drained())
        eventually(lambda: not self.isReadable(listening))
        sock.sendall(b"answer")
        sock.close()
        listener.hears(Closed((1,)))
        self.assertEqual(self.hear(client), b"answer")
        listener.say(Bye("join again"))
        listener.socket.shutdown(socket.SHUT_WR)
        second = self.join()
        self.offer(second, 1)
        self.take(listening)

    def test_blockedChannel(self) -> None:
        """
        If the channel takes no more bytes, claims wait, and the connections come when
        it takes them again.
        """
        listening, listener = self.listen(limit=None)
        listening.settimeout(0.05)
        channel: Any = listening._receiver._worker._channel  # type: ignore[union-attr]
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        listener.hears(Serving(0))
        filler = b""
        with self.assertRaises(BlockingIOError):
            while True:
                filler += b"x" * channel._socket.send(b"x" * 4096)
        with self.assertRaises(TimeoutError):
            listening.accept()
        left = len(filler)
        while left:
            left -= len(listener.socket.recv(min(left, 65536)))
        listening.settimeout(PATIENCE)
        sock = self.take(listening)
        self.assertEqual(sock.getpeername(), client.getsockname())
        listener.hears(Claim((1,)))

    def test_exit(self) -> None:
        """
        When the process ends, the worker says so, and does not wait for connections.
        """
        listening, listener = self.listen(limit=2)
        self.offer(listener, 1)
        self.take(listening)
        self.offer(listener, 2)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.patch(_receiver, "LAST_SECONDS", PATIENCE)
        _receiver._leave()
        receiver: Any = listening._receiver
        self.assertFalse(receiver._loop._thread.is_alive())
        listener.hears(Bye("the worker stops"))
        self.assertEqual([each.ids for each in listener.heard(Refuse)], [(2,)])
        self.assertFalse(any("still in service" in each for each in self.log.lines))


class OldListenerTests(SocketTestCase):
    """
    A listener that does not know the limit.
    """

    def test_full(self) -> None:
        """
        The worker asks for one offer at a time, leaves when it is full, and joins again
        as soon as it is not.
        """
        listening, listener = self.listen(f":retry={3 * PATIENCE:g}", OLD)
        self.assertEqual(self.hello.window, 1)
        for round in range(3):
            client = self.offer(listener, 1)
            sock = self.take(listening)
            listener.hears(Claim((1,)))
            eventually(listener.hasEnded)
            self.assertTrue(listener.heard(Bye))
            listener.close()
            if round == 0:
                self.bound.settimeout(0.2)
                with self.assertRaises(TimeoutError):
                    self.bound.accept()
                self.bound.settimeout(PATIENCE)
            sock.sendall(b"answer")
            sock.close()
            listener = self.join(OLD)
            self.assertEqual(self.hear(client), b"answer")

    def test_window(self) -> None:
        """
        If the limit is more than one, the worker joins again with a window of one, so
        that it refuses no more than one offer when it is full.
        """
        listening, first = self.listen(hello=OLD, limit=2)
        self.assertEqual(self.hello.window, 2)
        eventually(lambda: first.heard(Bye))
        listener = self.join(OLD)
        self.assertEqual(self.hello.window, 1)
        self.offer(listener, 1)
        self.take(listening)
        listener.hears(Claim((1,)))
        self.offer(listener, 2)
        self.take(listening)
        eventually(lambda: listener.heard(Bye))


class SharedPortTests(SocketTestCase):
    """
    Ports that the listener shares.
    """

    def setUp(self) -> None:
        super().setUp()
        self.port = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.addCleanup(self.port.close)

    def connect(self) -> socket.socket:
        """
        Connect to the port.
        """
        client = socket.create_connection(self.port.getsockname(), PATIENCE)
        self.addCleanup(client.close)
        return client

    def share(self, limit: int | None = None) -> Any:
        """
        Make a listening socket that has the port.
        """
        self.listening, self.listener = self.listen(hello=shared(), limit=limit)
        self.listening.setblocking(False)
        self.listener.share(self.port)
        return self.listening

    def test_oneAtATime(self) -> None:
        """
        C{accept} takes one connection.  The socket is readable exactly while one waits.
        """
        listening = self.share()
        self.assertFalse(self.isReadable(listening, 0.05))
        clients = [self.connect() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            self.assertTrue(self.isReadable(listening, PATIENCE))
            sock, address = listening.accept()
            self.assertEqual(address, client.getsockname())
            self.leavesWaiting(3 - number)
            sock.sendall(b"answer")
            sock.close()
            self.assertEqual(self.hear(client), b"answer")
        self.assertFalse(self.isReadable(listening))

    def leavesWaiting(self, count: int) -> None:
        """
        Check that so many connections wait in the backlog, when all have come.
        """

        def waiting() -> int:
            queued = _kernel.queued(self.port)
            assert queued is not None
            return queued[0]

        eventually(lambda: waiting() == count)

    def test_limit(self) -> None:
        """
        At the limit, nothing is accepted, and the socket is not readable.
        """
        listening = self.share(limit=1)
        for _ in range(2):
            self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        sock = self.take(listening)
        time.sleep(0.05)
        self.assertFalse(self.isReadable(listening))
        sock.close()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)

    def test_another(self) -> None:
        """
        If another worker is faster, C{accept} finds nothing, and the socket is readable
        again for the next connection.
        """
        listening = self.share()
        self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.port.accept()[0].close()
        with self.assertRaises(BlockingIOError):
            listening.accept()
        self.assertFalse(self.isReadable(listening))
        self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)

    def test_closed(self) -> None:
        """
        Connections in the backlog stay there for others when the socket is closed.
        """
        listening = self.share()
        for _ in range(2):
            self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)
        listening.close()
        self.listener.hears(Drain())
        self.leavesWaiting(1)

    def test_listenerDies(self) -> None:
        """
        When the listener has died, the connections in the backlog are served.
        """
        listening = self.share(limit=1)
        clients = [self.connect() for _ in range(3)]
        self.listener.close()
        self.port.close()
        self.says("lost the listener")
        for client in clients:
            self.assertTrue(self.isReadable(listening, PATIENCE))
            sock = self.take(listening)
            sock.sendall(b"answer")
            sock.close()
            self.assertEqual(self.hear(client), b"answer")

    def test_withdrawn(self) -> None:
        """
        A socket that the listener withdraws is used no more.
        """
        listening = self.share()
        self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.listener.say(Withdraw(_kernel.cookie(self.port)))
        eventually(lambda: self.accepts(listening) is None)
        eventually(lambda: not self.isReadable(listening))
        self.leavesWaiting(1)

    def accepts(self, listening: Any) -> Any:
        """
        Wait until the worker has read what the listener said.
        """
        worker = listening._receiver._worker
        return next(iter(worker._sharedPorts._ports), None)

    def test_mixed(self) -> None:
        """
        A worker may get offers, too.
        """
        listening = self.share()
        first = self.connect()
        self.assertTrue(self.isReadable(listening, PATIENCE))
        second = self.offer(self.listener, 1)
        found: set[Any] = set()
        while len(found) < 2:
            self.assertTrue(self.isReadable(listening, PATIENCE))
            found.add(self.take(listening).getpeername())
        self.assertEqual(found, {first.getsockname(), second.getsockname()})


class LeakTests(SocketTestCase):
    """
    Nothing stays "in service" by mistake.
    """

    def test_cannotBeMade(self) -> None:
        """
        A connection of which no socket can be made has ended, and the next one comes.
        """
        listening, listener = self.listen()
        module: Any = _kernel
        patch = self.patch(
            module.ConnectionSocket,
            "setblocking",
            self.fail_,
        )
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        listening.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            listening.accept()
        self.says("cannot be accepted")
        patch.restore()
        listener.hears(Closed((1,)))
        self.assertEqual(self.hear(client), b"")
        listening.settimeout(None)
        self.isFree(listening, listener, 2)

    def fail_(self, *_: Any) -> None:
        raise OSError(os.strerror(5))

    def test_noDescriptor(self) -> None:
        """
        An offer whose descriptor got lost is refused.
        """
        listening, listener = self.listen()
        listener.say(Offer(1, 0, 12345))
        eventually(lambda: listener.heard(Refuse))
        self.assertFalse(self.isReadable(listening))
