"""
Tests for L{portlisten._handover.receiver}, against a predecessor that is spoken by
hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._channel.limits import HELLO_SECONDS
from portlisten._handover.messages import Stopping, decode
from portlisten._handover.receiver import KINDS, Receiver
from portlisten._handover.takeover import Transfer
from portlisten._model import InternetAddress, Kind, Port
from portlisten._ports.accepting import Accepted
from portlisten._wire.codec import FROM_WORKER
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Listener,
    ListenerHello,
    Offer,
    WorkerHello,
)
from tests.support.channels import Peer, texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import connection, listening, pair


def tcp(number: int, port: int, name: str = "", kind: Kind = Kind.CONNECTIONS) -> Port:
    """
    Describe a port.
    """
    return Port(number, InternetAddress("TCP", "192.0.2.1", port), name, kind)


class ReceiverTests(SynchronousTestCase):
    """
    Tests for L{Receiver}.
    """

    #: The ports of this listener.
    own = (
        tcp(0, 443, "web"),
        tcp(1, 80, "web"),
        tcp(2, 22, "ssh"),
        tcp(3, 53, "dns", Kind.LISTENER),
    )

    #: Those of the predecessor.
    theirs = (
        tcp(0, 80, "web"),
        tcp(1, 2222, "ssh"),
        tcp(2, 25, "mail"),
        tcp(3, 53, "dns", Kind.LISTENER),
    )

    def setUp(self) -> None:
        """
        Begin.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.accepted: list[tuple[Port, Accepted, float]] = []
        link, self.link = pair(self)
        channel, other = pair(self)
        self.predecessor = Peer(other, FROM_WORKER)
        self.addCleanup(self.predecessor.close)
        self.receiver = Receiver(
            self.clock, Transfer(link, channel, 4711), self.own, self.take
        )
        self.sockets = [link, channel]
        self.addCleanup(self.end)
        self.receiver.start()

    def end(self) -> None:
        """
        End the predecessor, and see that this end is closed.
        """
        self.predecessor.socket.close()
        self.link.close()
        for _ in range(3):
            self.turn()
        self.assertEqual([each.fileno() for each in self.sockets], [-1, -1])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for _, (sock, _), _ in self.accepted:
            sock.close()

    def take(self, port: Port, batch: Sequence[Accepted], waited: float) -> None:
        """
        Take connections.
        """
        self.accepted += [(port, each, waited) for each in batch]

    def turn(self) -> None:
        """
        Let the receiver read and write.
        """
        self.clock.read()
        self.clock.advance(0)

    def say(self, *what: Any, sockets: Sequence[socket.socket] = ()) -> None:
        """
        Let the predecessor write, and the receiver read.
        """
        self.predecessor.say(*what, descriptors=[each.fileno() for each in sockets])
        self.turn()

    def join(self) -> None:
        """
        Let the predecessor say what it has.
        """
        self.say(ListenerHello(4, self.theirs))

    def offer(self, port: int, sock: socket.socket, waited: int = 0) -> None:
        """
        Offer a connection that waits.
        """
        cookie = _kernel.cookie(sock)
        self.say(Offer(1, port, cookie, waited), sockets=[sock])

    def test_hello(self) -> None:
        """
        The successor joins as a worker that takes all ports, of all kinds.
        """
        self.turn()
        (hello,) = self.predecessor.heard(WorkerHello)
        self.assertEqual((hello.names, hello.label), ((), "next-listener"))
        self.assertEqual(set(hello.takes), set(KINDS))
        self.assertIs(self.receiver.receives, True)

    def test_connection(self) -> None:
        """
        A connection that waits is claimed, and comes in by the port of the same
        address, with the time that it has waited.
        """
        self.join()
        client, sock = connection(self)
        self.offer(0, sock, 150)
        ((port, (own, address), waited),) = self.accepted
        self.assertEqual(port, self.own[1])
        self.assertEqual(waited, 1.5)
        self.assertEqual(address, client.getsockname())
        self.assertEqual(_kernel.cookie(own), _kernel.cookie(sock))
        self.assertEqual([each.ids for each in self.predecessor.heard(Claim)], [(1,)])
        self.assertEqual(self.predecessor.heard(Closed), [])
        self.assertEqual(self.receiver.count, 1)

    def test_justCame(self) -> None:
        """
        One that has hardly waited has waited all the same.
        """
        self.join()
        self.offer(0, connection(self)[1], 0)
        self.assertGreater(self.accepted[0][2], 0)

    def test_otherAddress(self) -> None:
        """
        If no port has the same address, one of the same name takes the connection.
        """
        self.join()
        self.offer(1, connection(self)[1])
        self.assertEqual(self.accepted[0][0], self.own[2])

    def test_noPort(self) -> None:
        """
        A connection of a port that this listener lacks is closed: the predecessor
        offers none.
        """
        self.join()
        client, sock = connection(self)
        self.offer(2, sock)
        sock.close()
        self.assertEqual(self.accepted, [])
        client.settimeout(10)
        self.assertEqual(client.recv(1), b"")
        self.assertEqual(self.receiver.count, 0)

    def test_clientLeft(self) -> None:
        """
        If the client has left meanwhile, its address is not known.
        """
        self.join()
        client, sock = connection(self)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
        client.close()
        self.offer(0, sock)
        ((_, (_, address), _),) = self.accepted
        self.assertIsNone(address)

    def test_sharedSocket(self) -> None:
        """
        A shared socket came with the manifest, so a second copy is closed.
        """
        self.join()
        sock = listening(self)
        self.say(Listener(3, _kernel.cookie(sock)), sockets=[sock])
        self.assertEqual(self.accepted, [])

    def test_done(self) -> None:
        """
        BYE means that all is handed over.
        """
        self.join()
        self.offer(0, connection(self)[1])
        self.say(Bye("all is handed over"))
        self.predecessor.read()
        self.predecessor.socket.close()
        self.turn()
        self.assertIs(self.receiver.receives, False)
        self.assertEqual(
            texts(self.logged, "info"),
            [
                "the listener before this one, process 4711, has handed over 1"
                " connections that waited, and ends"
            ],
        )
        self.assertEqual(texts(self.logged, "error"), [])

    def test_predecessorDies(self) -> None:
        """
        If the predecessor ends without BYE, something may be lost.
        """
        self.join()
        self.predecessor.read()
        self.predecessor.socket.close()
        self.turn()
        self.assertIs(self.receiver.receives, False)
        (error,) = texts(self.logged, "error")
        self.assertIn("process 4711, has ended early", error)
        self.assertIn("; 0 connections came", error)

    def test_predecessorHangs(self) -> None:
        """
        The predecessor may stand still for as long as it likes.
        """
        self.clock.advance(3 * HELLO_SECONDS)
        self.assertIs(self.receiver.receives, True)
        self.join()
        self.offer(0, connection(self)[1])
        self.assertEqual(self.receiver.count, 1)

    def test_silentEvents(self) -> None:
        """
        The other events of a worker mean nothing here.
        """
        channel: Any = object()
        self.receiver.withdrawn(channel, 1)
        self.receiver.drained(channel)
        self.receiver.leaveRequested(channel)
        self.assertEqual(self.accepted, [])
        self.assertIs(self.receiver.receives, True)

    def test_stop(self) -> None:
        """
        If this listener is told to stop, the predecessor hears so.
        """
        self.receiver.stop()
        self.assertEqual(decode(self.link.recv(1000).strip()), Stopping())

    def test_close(self) -> None:
        """
        If this listener ends, the predecessor finds out by the ends of both.
        """
        self.receiver.close()
        self.receiver.close()
        self.receiver.stop()
        self.assertEqual(self.link.recv(1), b"")
        self.assertEqual(self.clock.readers, [])
        self.clock.advance(0)
        self.assertTrue(self.predecessor.hasEnded())
        self.assertIs(self.receiver.receives, False)
        self.assertEqual(texts(self.logged, "error"), [])

    def test_closeUnbegun(self) -> None:
        """
        A receiver that has not begun closes what it has.
        """
        ends = [*pair(self), *pair(self)]
        receiver = Receiver(
            self.clock, Transfer(ends[0], ends[2], os.getpid()), (), self.take
        )
        self.assertIs(receiver.receives, False)
        receiver.close()
        self.assertEqual([ends[0].fileno(), ends[2].fileno()], [-1, -1])
