"""
Tests for L{portlisten._listener.dispatcher}: the real ledger and real connections, with
channels and a clock that do as they are told.
"""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.departures import INTERVAL
from portlisten._listener.dispatcher import (
    DEATH,
    FAREWELL,
    WITNESS_INTERVAL,
    Dispatcher,
)
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._policy.ledger import Ledger
from portlisten._policy.throttle import Throttle
from portlisten._reactor.quiet import MOST
from portlisten.errors import ProtocolError
from tests.support import (
    RunningClock,
    TurningClock,
    descriptors,
    spoil,
    watchDescriptors,
)
from tests.support.channels import tcpPair, texts
from tests.support.dispatchers import (
    CLAIM_TIMEOUT,
    HOLD,
    NAMES,
    NOTHING,
    PATIENCE,
    PAUSE,
    DispatcherTestCase,
    RecordingChannel,
    portOf,
)


class InterfaceTests(SynchronousTestCase):
    """
    Who provides what.
    """

    def test_dispatcher(self) -> None:
        """
        A L{Dispatcher} is an L{IDispatcher}.
        """
        verifyClass(IDispatcher, Dispatcher)
        ledger = Ledger(1, 1, 1)
        verifyObject(IDispatcher, Dispatcher(Clock(), ledger, Throttle(), NOTHING))

    def test_connection(self) -> None:
        """
        An L{AcceptedConnection} is an L{IConnection}.
        """
        with socket.socket() as sock:
            verifyClass(IConnection, AcceptedConnection)
            verifyObject(IConnection, AcceptedConnection(sock, ("192.0.2.1", 1)))

    def test_fake(self) -> None:
        """
        What these tests use for a channel is one.
        """
        verifyObject(IChannel, RecordingChannel("worker 1"))


class AcceptedConnectionTests(SynchronousTestCase):
    """
    A connection as the listener holds it.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.client, self.accepted = tcpPair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.accepted.close)
        self.connection = self.connectionFrom(self.client.getsockname())

    def connectionFrom(self, address: Any) -> AcceptedConnection:
        """
        Make one of a client at an address.
        """
        return AcceptedConnection(self.accepted, address)

    def test_peer(self) -> None:
        """
        The peer is written as people write addresses.
        """
        for address, text in [
            (("192.0.2.1", 80), "192.0.2.1:80"),
            (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
            ("/run/client", "/run/client"),
            (b"\0abstract", "@abstract"),
            (b"\0forged\nline", "@forged\\nline"),
            ("", "a client on a Unix socket"),
        ]:
            self.assertEqual(self.connectionFrom(address).peer, text)

    def test_sameSocket(self) -> None:
        """
        Its descriptor and its cookie are the socket's.
        """
        self.assertEqual(self.connection.fileno(), self.accepted.fileno())
        self.assertEqual(self.connection.cookie, _kernel.cookie(self.accepted))

    def test_pristine(self) -> None:
        """
        It is pristine until somebody reads from it or writes to it, which the
        client does not count as.
        """
        self.client.sendall(b"hello?")
        self.assertIs(self.connection.pristine(), True)
        self.accepted.sendall(b"hello!")
        self.assertIs(self.connection.pristine(), False)

    def test_witnessed(self) -> None:
        """
        The kernel can tell of TCP alone.
        """
        self.assertTrue(self.connection.witnessed)
        with socket.socket(socket.AF_UNIX) as sock:
            connection = AcceptedConnection(sock, "")
            self.assertFalse(connection.witnessed)
            self.assertIs(connection.pristine(), False)

    def test_forget(self) -> None:
        """
        To forget it closes this descriptor, and does not end the connection
        while there is another.
        """
        with self.accepted.dup() as other:
            self.connection.forget()
            self.assertEqual(self.accepted.fileno(), -1)
            other.sendall(b"still here")
            self.assertEqual(self.client.recv(100), b"still here")


class HandOffTests(DispatcherTestCase):
    """
    How connections come to workers.
    """

    def test_offered(self) -> None:
        """
        A connection is offered to a worker with the port that it came in by.
        """
        worker = self.join()
        self.accept(port=3)
        self.assertEqual((worker.ids, worker.ports), ([1], [3]))

    def test_together(self) -> None:
        """
        All that a worker is offered at a time is kept, and sent once.
        """
        workers = [self.join(f"worker {number}") for number in (1, 2)]
        self.accept(4)
        for worker in workers:
            self.assertEqual(len(worker.ids), 2)
            self.assertEqual(worker.kept, [True, True])
            self.assertEqual(worker.flushes, [2])

    def test_busy(self) -> None:
        """
        It is better not to accept while the worker has something to claim, but not
        for long.
        """
        self.assertFalse(self.dispatcher.busy(""))
        worker = self.join()
        self.assertFalse(self.dispatcher.busy(""))
        self.accept()
        self.assertTrue(self.dispatcher.busy(""))
        self.dispatcher.claimed(worker, worker.ids)
        self.assertFalse(self.dispatcher.busy(""))
        self.accept()
        changes = self.roomChanges
        self.clock.advance(WITNESS_INTERVAL)
        self.assertFalse(self.dispatcher.busy(""))
        self.assertGreater(self.roomChanges, changes)

    def test_notInsideItself(self) -> None:
        """
        Who is told that there is room may accept at once, and is not told of that
        while it does.
        """
        told = []

        def roomChanged() -> None:
            told.append(len(told))
            if len(told) < 5:
                self.accept()

        self.dispatcher.roomChanged = roomChanged
        self.accept()
        self.assertEqual(told, [0])
        self.assertEqual(self.ledger.waiting, 2)
        self.dispatcher.roomChanged = self.roomChanged

    def test_timePasses(self) -> None:
        """
        Time passes whatever fails.
        """

        def fail() -> None:
            raise ZeroDivisionError

        self.dispatcher.roomChanged = fail
        self.assertRaises(ZeroDivisionError, self.accept)
        self.dispatcher.roomChanged = self.roomChanged
        self.clock.advance(PATIENCE)
        self.assertEqual(self.ledger.counters.timedOut, 1)

    def test_waits(self) -> None:
        """
        Without a worker it waits for one.
        """
        self.accept(2)
        self.clock.advance(PATIENCE - 1)
        worker = self.join()
        self.assertEqual(worker.ids, [1, 2])

    def test_window(self) -> None:
        """
        A worker gets no more than its window, and more as it claims.
        """
        worker = self.join(window=1)
        self.accept(2)
        self.assertEqual(worker.ids, [1])
        self.dispatcher.claimed(worker, [1])
        self.assertEqual(worker.ids, [1, 2])

    def test_room(self) -> None:
        """
        There is room for the windows of the workers and for the queue.
        """
        self.assertEqual(self.dispatcher.room(""), 2)
        self.join(window=3)
        self.assertEqual(self.dispatcher.room(""), 5)
        self.accept(4)
        self.assertEqual(self.dispatcher.room(""), 1)

    def test_roomOfName(self) -> None:
        """
        There is room for a name in the windows of those that want it, and in its
        own queue.
        """
        self.join(window=3, names=("web",))
        self.accept(2, name="mail")
        self.assertEqual(
            [self.dispatcher.room(name) for name in NAMES],
            [2, 5, 0],
        )

    def test_names(self) -> None:
        """
        A worker gets what it wants, and another does not wait for a worker that
        is not there.
        """
        self.accept(2, name="mail")
        worker = self.join(names=("web",))
        self.accept(2, port=1, name="web")
        self.assertEqual((worker.ids, worker.ports), ([1, 2], [1, 1]))
        other = self.join("worker 2", names=("mail",))
        self.assertEqual((other.ids, other.ports), ([1, 2], [0, 0]))

    def test_namesAfterWaiting(self) -> None:
        """
        A worker that has to wait until it may take part gets what it wants as
        well.
        """
        self.die(self.join())
        worker = self.join(names=("web",))
        self.accept(name="mail")
        self.accept(port=1, name="web")
        self.clock.advance(2)
        self.assertEqual(worker.ports, [1])

    def test_roomChanged(self) -> None:
        """
        Whoever accepts is told whenever there may be room.
        """
        self.accept(2)
        before = self.roomChanges
        worker = self.join(window=2)
        self.assertEqual(self.roomChanges, before + 1)
        self.dispatcher.claimed(worker, [1])
        self.assertEqual(self.roomChanges, before + 2)

    def test_timePassesThoughLooksFail(self) -> None:
        """
        Time passes though the kernel fails when it is asked.
        """
        self.accept()

        def fail() -> None:
            raise OSError("no memory")

        with MonkeyPatcher((_kernel, "reap", fail)):
            self.assertRaises(OSError, self.clock.advance, WITNESS_INTERVAL)
        self.clock.pump([1.0] * 400)
        self.assertEqual(self.ledger.counters.timedOut, 1)

    def test_roomAfterPause(self) -> None:
        """
        So it is when a worker may have offers again after it refused one, though
        nothing is left that is waited for.
        """
        worker = self.join()
        self.accept()
        other = self.join("worker 2")
        self.dispatcher.refused(worker, [1], "no descriptor")
        self.dispatcher.claimed(other, [1])
        self.dispatcher.closed(other, [1])
        self.dispatcher.parted(other, "it says: enough")
        self.assertEqual((self.ledger.held, self.dispatcher.room("")), (0, 2))
        rooms: list[int] = []
        self.dispatcher.roomChanged = lambda: rooms.append(self.dispatcher.room(""))
        self.clock.pump([WITNESS_INTERVAL] * 6)
        self.assertEqual(rooms[-1], 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_joinedIsLogged(self) -> None:
        """
        A worker that joins is logged, with what it asks for.
        """
        self.join(window=3)
        self.join("worker 2", names=("web", "mail"))
        self.assertEqual(
            texts(self.logged, "info"),
            [
                "worker 1 joined, with a window of 3, for tcp:192.0.2.1:80, web, mail",
                "worker 2 joined, with a window of 4, for web, mail",
            ],
        )

    def test_wrongIds(self) -> None:
        """
        What is not outstanding on the very channel is a breach of the protocol,
        also on one that has no part in the work.
        """
        one, other = self.join("worker 1"), self.join("worker 2")
        self.accept()
        self.assertEqual((one.ids, other.ids), ([1], []))
        stranger = RecordingChannel("worker 3")
        for channel in (other, stranger):
            for tell in (
                self.dispatcher.claimed,
                self.dispatcher.closed,
                self.dispatcher.gone,
            ):
                self.assertRaises(ProtocolError, tell, channel, [1])
            self.assertRaises(
                ProtocolError, self.dispatcher.refused, channel, [1], "no"
            )
        self.assertEqual(
            [line for line in texts(self.logged, "info") if "refused" in line], []
        )

    def test_refused(self) -> None:
        """
        What a worker refuses goes to another, and is logged.
        """
        one = self.join("worker 1")
        self.accept()
        other = self.join("worker 2")
        self.dispatcher.refused(one, [1], "it is busy")
        self.assertEqual(other.ids, [1])
        self.assertIs(other.offers[0][1], one.offers[0][1])
        self.assertIn(
            "worker 1 refused 1 connections: it is busy", texts(self.logged, "info")
        )

    def test_spoiled(self) -> None:
        """
        What a worker did not claim and made useless is nobody's, however it comes
        back: all others would refuse it.
        """
        ends: list[Callable[[RecordingChannel], None]] = [
            lambda worker: self.dispatcher.parted(worker, "it says: enough"),
            lambda worker: self.dispatcher.refused(worker, [1, 2], "it is busy"),
            self.dispatcher.died,
        ]
        for number, end in enumerate(ends):
            name = ("", "web", "mail")[number]
            worker = self.join(f"worker {number}", names=(name,))
            self.accept(2, name=name)
            (_, bad), (_, good) = worker.offers
            spoil(bad.fileno())
            end(worker)
            self.assertEqual(bad.fileno(), -1)
            self.assertEqual(self.ledger.waitingConnections()[number:], [good])
        reason = "a worker that did not take it made it unusable"
        lines = [line for line in texts(self.logged, "warn") if reason in line]
        self.assertEqual(len(lines), 3)

    def test_refusesSpoiled(self) -> None:
        """
        To refuse what somebody else spoiled is no sign of trouble: whoever does has
        further offers at once.
        """
        worker = self.join()
        self.accept()
        spoil(worker.offers[0][1].fileno())
        self.dispatcher.refused(worker, [1], "no descriptor")
        self.accept()
        self.assertEqual(worker.ids, [1, 2])

    def test_draining(self) -> None:
        """
        A worker that drains is told that no offer follows, and none does.
        """
        worker = self.join()
        self.dispatcher.draining(worker)
        self.accept()
        self.assertEqual(worker.calls, [("drained",)])
        self.assertEqual(worker.offers, [])
        self.assertIn("worker 1 drains", texts(self.logged, "info"))

    def test_revoking(self) -> None:
        """
        A worker that is being revoked is offered nothing more, and is not told
        anything.
        """
        worker = self.join()
        self.dispatcher.revoking(worker)
        self.accept()
        self.assertEqual((worker.calls, worker.offers), ([], []))

    def test_channels(self) -> None:
        """
        Workers count from the connection to its end, and the end of one is
        told.
        """
        ends = []
        self.dispatcher.channelEnded = lambda _: ends.append(self.dispatcher.channels)
        channels = [RecordingChannel("worker 1"), RecordingChannel("worker 2")]
        for channel in channels:
            self.dispatcher.connected(channel)
        self.assertEqual(self.dispatcher.channels, 2)
        for channel in channels:
            self.dispatcher.disconnected(channel)
        self.assertEqual(ends, [1, 0])

    def test_report(self) -> None:
        """
        A report says where the connections are.
        """
        worker = self.join(window=1)
        self.accept(2)
        self.dispatcher.claimed(worker, [1])
        self.accept(1)
        self.dispatcher.report()
        self.assertIn(
            "1 workers, 1 connections waiting, 1 offered, 3 held; since the start:"
            " accepted 3, offered 2, claimed 1,",
            texts(self.logged, "info")[-1],
        )


class WitnessTests(DispatcherTestCase):
    """
    When the listener's copy of a connection is closed.
    """

    def handOff(self) -> tuple[socket.socket, socket.socket, RecordingChannel]:
        """
        Have a worker adopt a connection.

        @return: the client, the worker's descriptor, and the channel.
        """
        worker = self.join()
        [client] = self.accept()
        return client, self.adopt(worker), worker

    def test_takenUp(self) -> None:
        """
        Once the kernel has seen that the worker took it up, it is closed, so
        that the worker's close ends the connection.
        """
        client, own, _ = self.handOff()
        own.sendall(b"x")
        self.assertEqual(client.recv(1), b"x")
        self.witness()
        own.close()
        self.assertFalse(self.isOpen(client))

    def test_untouched(self) -> None:
        """
        While it is untouched, it is kept, but no longer than it is worth.
        """
        client, own, _ = self.handOff()
        own.close()
        self.clock.advance(HOLD - 0.1)
        self.assertTrue(self.isOpen(client))
        self.clock.advance(0.1)
        self.assertFalse(self.isOpen(client))

    def test_unclaimed(self) -> None:
        """
        An offer is kept, however long it is unclaimed.
        """
        self.join()
        [client] = self.accept()
        self.clock.advance(HOLD * 2)
        self.assertTrue(self.isOpen(client))

    def test_closed(self) -> None:
        """
        When the worker says that it is done, it is closed at once.
        """
        client, own, worker = self.handOff()
        own.close()
        self.dispatcher.closed(worker, [1])
        self.assertFalse(self.isOpen(client))

    def test_gone(self) -> None:
        """
        So it is when the worker found the client gone, which is counted.
        """
        client, own, worker = self.handOff()
        own.close()
        self.dispatcher.gone(worker, [1])
        self.assertFalse(self.isOpen(client))
        self.assertEqual(self.ledger.counters.goneBeforeAdoption, 1)

    def test_unixSocket(self) -> None:
        """
        Of a connection on a Unix socket the kernel can say nothing, so the claim
        alone decides.
        """
        worker = self.join()
        client, accepted = socket.socketpair()
        self.addCleanup(client.close)
        client.setblocking(False)
        self.dispatcher.accepted(portOf(), [(accepted, "")])
        self.assertTrue(self.isOpen(client))
        self.dispatcher.claimed(worker, worker.ids)
        self.assertFalse(self.isOpen(client))

    def test_idle(self) -> None:
        """
        While nothing is held, no time is spent.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])
        _, _, worker = self.handOff()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.dispatcher.closed(worker, [1])
        self.witness()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DeathTests(DispatcherTestCase):
    """
    What becomes of a dead worker's connections.
    """

    def test_unclaimed(self) -> None:
        """
        What it had not claimed goes to another.
        """
        one = self.join("worker 1")
        [client] = self.accept()
        other = self.join("worker 2")
        self.die(one)
        self.assertIs(other.offers[0][1], one.offers[0][1])
        self.assertTrue(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            ["worker 1 died, 1 connections to hand off again, 0 lost in service"],
        )

    def test_pristine(self) -> None:
        """
        What it had claimed and not touched goes to another.
        """
        one = self.join("worker 1")
        self.accept()
        self.adopt(one).close()
        other = self.join("worker 2")
        self.die(one)
        self.assertIs(other.offers[0][1], one.offers[0][1])

    def test_touched(self) -> None:
        """
        What it had touched is closed, and counted, and goes to nobody.
        """
        one = self.join("worker 1")
        [client] = self.accept()
        own = self.adopt(one)
        own.sendall(b"x")
        own.close()
        other = self.join("worker 2")
        self.die(one)
        self.assertEqual(other.offers, [])
        self.assertEqual(client.recv(10), b"x")
        self.assertFalse(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "worker 1 died, 0 connections to hand off again, 1 lost in service",
                f"the connection of 127.0.0.1:{client.getsockname()[1]} is closed:"
                " the worker that served it died",
            ],
        )

    def test_uncertain(self) -> None:
        """
        If the kernel does not say whether it was touched, it is asked several times,
        and then the connection counts as touched: nobody is served twice.
        """
        one = self.join("worker 1")
        self.accept(2)
        for id, _ in one.offers:
            self.dispatcher.claimed(one, [id])
        connections = [connection for _, connection in one.offers]
        left = 5

        def pristine(connection: AcceptedConnection) -> bool | None:
            nonlocal left
            if connection is connections[0]:
                return None
            left -= 1
            return None if left else True

        self.patch(AcceptedConnection, "pristine", pristine)
        other = self.join("worker 2")
        self.die(one)
        self.assertEqual([each for _, each in other.offers], connections[1:])
        self.assertEqual(self.ledger.counters.lostInService, 1)

    def test_parted(self) -> None:
        """
        Of a worker that parts, what it had not claimed goes to another, and what
        it had claimed is its own.
        """
        one = self.join("worker 1")
        clients = self.accept(2)
        own = self.adopt(one)
        other = self.join("worker 2")
        self.dispatcher.parted(one, "it says: enough")
        self.dispatcher.disconnected(one)
        self.assertEqual(other.offers, [(1, one.offers[0][1])])
        self.assertIn(
            "worker 1 left, 1 connections to hand off again: it says: enough",
            texts(self.logged, "info"),
        )
        self.assertTrue(self.isOpen(clients[1]))
        own.close()
        self.clock.advance(HOLD + WITNESS_INTERVAL)
        self.assertFalse(self.isOpen(clients[1]))

    def test_hung(self) -> None:
        """
        A worker that leaves an offer unclaimed is revoked, once; and the offer
        goes to another when that is done, and not before.
        """
        one = self.join("worker 1")
        self.accept()
        other = self.join("worker 2")
        self.clock.advance(CLAIM_TIMEOUT - 0.1)
        self.assertEqual(one.calls, [])
        self.clock.pump([0.1, WITNESS_INTERVAL, WITNESS_INTERVAL])
        self.assertEqual(one.calls, [("revoke", "an offer unclaimed for 5 s")])
        self.assertEqual(
            texts(self.logged, "warn"),
            ["worker 1 hangs, and is revoked: an offer unclaimed for 5 s"],
        )
        self.assertEqual(other.offers, [])
        self.dispatcher.parted(one, "revoked")
        self.assertEqual(other.ids, [1])


class DepartedTests(DispatcherTestCase):
    """
    What becomes of the connections that a worker had claimed when it left.
    """

    def setUp(self) -> None:
        """
        Have a worker in a process that does not read, and claims a connection.
        """
        super().setUp()
        self.ended: list[IChannel] = []
        self.dispatcher.channelEnded = self.ended.append
        self.one = self.join("worker 1")
        self.one.reads = False
        self.child = subprocess.Popen(["sleep", "60"])
        self.addCleanup(self.kill)
        self.one.child = self.child
        [self.client] = self.accept()
        self.own = self.adopt(self.one)
        self.other = self.join("worker 2")

    def kill(self) -> None:
        """
        Have the process end, and all that it held.
        """
        self.child.kill()
        self.child.wait()

    def part(self) -> None:
        """
        Have the worker part, and its channel be gone.
        """
        self.dispatcher.parted(self.one, "revoked")
        self.dispatcher.disconnected(self.one)

    def test_channelClosed(self) -> None:
        """
        One that closes its channel, and whose process goes on, has what it claimed:
        nobody else gets that while it lives, and somebody does when it does not.
        """
        self.one.reads = True
        self.die(self.one)
        self.clock.advance(DEATH + 2 * WITNESS_INTERVAL)
        self.assertIn(
            "worker 1 left, 0 connections to hand off again: it closed the channel,"
            " and lives",
            texts(self.logged, "info"),
        )
        self.assertEqual((self.ledger.held, self.other.offers), (1, []))
        self.assertEqual(self.ended, [])
        self.kill()
        self.clock.advance(WITNESS_INTERVAL)
        self.assertEqual(len(self.other.offers), 1)
        self.assertEqual(self.ended, [self.one])

    def test_diesSlowly(self) -> None:
        """
        A process may take a moment to end when its channel is closed.
        """
        self.one.reads = True
        self.die(self.one)
        self.clock.advance(WITNESS_INTERVAL)
        self.assertEqual((self.other.offers, self.ended), ([], []))
        self.kill()
        self.clock.advance(WITNESS_INTERVAL)
        self.assertEqual(len(self.other.offers), 1)
        self.assertIn(
            "worker 1 died, 1 connections to hand off again, 0 lost in service",
            texts(self.logged, "warn"),
        )
        self.assertEqual(self.ended, [self.one])

    def test_stopsMeanwhile(self) -> None:
        """
        The end of the listener does not wait for that.
        """
        self.one.reads = True
        self.die(self.one)
        stopped = self.dispatcher.stop(0)
        self.clock.advance(WITNESS_INTERVAL)
        self.dispatcher.disconnected(self.other)
        self.clock.advance(2 * WITNESS_INTERVAL)
        self.successResultOf(stopped)

    def test_standsStill(self) -> None:
        """
        While it has not read that it was revoked it can do nothing, so its connection
        is kept for as long as that lasts.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.assertEqual(self.ledger.held, 1)
        self.assertEqual(self.other.offers, [])

    def test_goesOn(self) -> None:
        """
        Once it has read that, it has as long as others to touch its connection, which
        then is its own.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.one.reads = True
        self.clock.advance(HOLD - WITNESS_INTERVAL)
        self.assertEqual(self.ledger.held, 1)
        self.clock.advance(3 * WITNESS_INTERVAL)
        self.assertEqual(self.ledger.held, 0)
        self.assertEqual(self.other.offers, [])
        self.assertTrue(self.isOpen(self.client))

    def test_ends(self) -> None:
        """
        If its process ends with the connection untouched, another worker gets it.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.own.close()
        self.kill()
        self.witness()
        self.assertIs(self.other.offers[0][1], self.one.offers[0][1])
        self.assertTrue(self.isOpen(self.client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "the process of worker 1 has ended, 1 connections to hand off again,"
                " 0 lost in service"
            ],
        )

    def test_endsAwake(self) -> None:
        """
        The same holds for one that has read it, as long as the connection is kept.
        """
        self.one.reads = True
        self.part()
        self.clock.advance(HOLD / 2)
        self.own.close()
        self.kill()
        self.witness()
        self.assertEqual(len(self.other.offers), 1)

    def test_endsTouched(self) -> None:
        """
        If it had touched the connection, that is lost, and nobody gets it.
        """
        self.part()
        self.own.sendall(b"x")
        self.own.close()
        self.kill()
        self.witness()
        self.assertEqual(self.other.offers, [])
        self.assertEqual(self.client.recv(10), b"x")
        self.assertFalse(self.isOpen(self.client))
        self.assertIn(
            "the process of worker 1 has ended, 0 connections to hand off again, 1 lost"
            " in service",
            texts(self.logged, "warn"),
        )

    def test_goesOnAndEnds(self) -> None:
        """
        What it took up is no longer watched, and its end is no news.
        """
        self.part()
        self.own.sendall(b"x")
        self.witness()
        self.assertEqual(self.ledger.held, 0)
        self.kill()
        self.clock.advance(HOLD)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.assertEqual(self.other.offers, [])

    def test_unknownProcess(self) -> None:
        """
        If there is no telling when its process ends, the connection is kept as long as
        any other, and then is its own.
        """
        self.one.child = None
        self.part()
        self.clock.advance(HOLD + 2 * WITNESS_INTERVAL)
        self.assertEqual(self.ledger.held, 0)
        self.kill()
        self.clock.advance(HOLD)
        self.assertEqual(self.other.offers, [])

    def test_nothingHeld(self) -> None:
        """
        The process is watched no longer than there is something of its to keep.
        """
        self.one.reads = True
        before = len(descriptors())
        self.part()
        self.assertEqual(len(descriptors()), before + 1)
        self.clock.advance(HOLD + 2 * WITNESS_INTERVAL)
        # The copy is closed as well.
        self.assertEqual(len(descriptors()), before - 1)
        self.assertEqual(self.ended, [self.one])

    def test_unread(self) -> None:
        """
        A channel that is gone is kept in mind while there are descriptors in it that
        nobody has read: they count for their user.
        """
        self.own.sendall(b"x")
        self.witness()
        self.part()
        self.assertEqual(self.dispatcher.unreadBy(1000), 1)
        self.assertEqual(self.dispatcher.unreadBy(0), 0)
        self.clock.advance(5 * HOLD)
        self.assertEqual(self.ended, [])
        self.assertNotIn(("dismiss",), self.one.calls)
        self.one.reads = True
        self.witness()
        self.assertEqual(self.dispatcher.unreadBy(1000), 0)
        self.assertEqual(self.ended, [self.one])
        self.assertEqual(self.one.calls.count(("dismiss",)), 1)

    def test_read(self) -> None:
        """
        One in which all was read is done with at once.
        """
        self.one.reads = True
        self.own.sendall(b"x")
        self.witness()
        self.die(self.one)
        self.assertEqual(self.ended, [self.one])
        self.assertEqual(self.one.calls, [("dismiss",)])

    def test_stop(self) -> None:
        """
        At the end nothing is waited for any more.
        """
        self.part()
        stopped = self.dispatcher.stop(0)
        self.clock.advance(2 * WITNESS_INTERVAL + FAREWELL)
        self.successResultOf(stopped)
        self.assertEqual(self.ended[0], self.one)


class BalanceTests(DispatcherTestCase):
    """
    Who gets no offers while too many descriptors are in flight.
    """

    queue = 100

    def setUp(self) -> None:
        """
        Have one worker that reads, and one that does not.
        """
        super().setUp()
        self.dispatcher._flightLimit = 8
        self.reads = self.join("worker 1", 100)
        self.doesNot = self.join("worker 2", 100)
        self.doesNot.reads = False

    def offered(self, count: int) -> tuple[int, int]:
        """
        Have clients come, and let a little time pass.

        @return: how many of them were offered to each worker.
        """
        before = len(self.reads.ids), len(self.doesNot.ids)
        self.accept(count)
        self.witness()
        return len(self.reads.ids) - before[0], len(self.doesNot.ids) - before[1]

    def test_half(self) -> None:
        """
        Up to half of the limit, each gets its part.
        """
        self.assertEqual(self.offered(8), (4, 4))
        self.assertEqual(self.offered(2), (1, 1))

    def test_more(self) -> None:
        """
        Beyond that, those who have not read all get nothing until they have.
        """
        self.assertEqual(self.offered(10), (5, 5))
        self.assertEqual(self.offered(4), (4, 0))
        self.doesNot.reads = True
        self.witness()
        self.assertEqual(self.offered(4), (0, 4))

    def test_departed(self) -> None:
        """
        What is in flight to those who have left counts as well.
        """
        self.offered(6)
        other = self.join("worker 3", 100)
        other.reads = False
        self.accept(3)
        self.assertEqual(len(other.ids), 3)
        self.dispatcher.parted(other, "it says: enough")
        self.dispatcher.disconnected(other)
        self.witness()
        self.assertEqual(self.offered(2)[1], 0)

    def test_nobody(self) -> None:
        """
        If nobody reads, clients wait, and get to whoever reads again.
        """
        self.offered(10)
        self.reads.reads = False
        self.witness()
        self.assertEqual(self.offered(2), (0, 0))
        self.assertEqual(self.ledger.waiting, 2)
        self.doesNot.reads = True
        self.reads.reads = True
        self.clock.advance(2 * WITNESS_INTERVAL)
        self.assertEqual(self.ledger.waiting, 0)


class LeftTests(DispatcherTestCase):
    """
    Clients that leave while they wait.
    """

    def leave(self, client: socket.socket, seconds: float = 0.0) -> None:
        """
        Have a client close its connection, and wait for that to arrive.
        """
        by = {
            connection.socket.getpeername(): connection.socket
            for connection in self.ledger.waitingConnections()
        }
        accepted = by[client.getsockname()]
        client.close()
        poll = select.poll()
        poll.register(accepted, select.POLLRDHUP)
        assert poll.poll(10_000)

    def look(self) -> None:
        """
        Let the time pass until it is looked who is there.
        """
        self.clock.advance(INTERVAL + 2 * WITNESS_INTERVAL)

    def test_closed(self) -> None:
        """
        One that closes and has sent nothing takes no place any more, and is dropped
        after a while, and counted as gone.
        """
        clients = self.accept(2)
        address = clients[0].getsockname()
        before = len(descriptors())
        self.assertEqual(self.dispatcher.room(""), 0)
        self.leave(clients[0])
        self.look()
        self.assertEqual((self.ledger.waiting, self.dispatcher.room("")), (2, 1))
        changes = self.roomChanges
        self.clock.advance(5)
        self.look()
        self.assertEqual(self.ledger.waiting, 1)
        self.assertEqual(self.ledger.counters.goneBeforeAdoption, 1)
        self.assertEqual(len(descriptors()), before - 2)
        self.assertGreater(self.roomChanges, changes)
        self.assertEqual(self.dispatcher.room(""), 1)
        self.assertIn(
            f"the connection of 127.0.0.1:{address[1]} is closed: its client left while"
            " it waited",
            texts(self.logged, "info"),
        )
        self.assertEqual(self.timeouts, 0)
        worker = self.join()
        self.assertEqual(len(worker.offers), 1)

    def test_reset(self) -> None:
        """
        One that resets the connection is dropped at once, though it had sent something.
        """
        [client] = self.accept()
        client.send(b"question")
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.leave(client)
        self.look()
        self.assertEqual(self.ledger.waiting, 0)

    def test_closedAfterData(self) -> None:
        """
        What a client sent before it left may be wanted: it keeps its place.
        """
        [client] = self.accept()
        client.send(b"do this")
        self.leave(client)
        self.look()
        self.assertEqual(self.ledger.waiting, 1)
        self.assertEqual(len(self.join().offers), 1)

    def test_stays(self) -> None:
        """
        One that waits silently stays.
        """
        self.accept()
        self.look()
        self.assertEqual(self.ledger.waiting, 1)


class TurnTests(SynchronousTestCase):
    """
    Before anybody is judged, what has come has its turn.
    """

    def setUp(self) -> None:
        """
        Have a dispatcher with a clock whose turns can be told apart.
        """
        watchDescriptors(self)
        self.clock = TurningClock()
        self.ledger = Ledger(2, 100, 1.0, HOLD, 0.5, PAUSE)
        self.dispatcher = Dispatcher(self.clock, self.ledger, Throttle(), NOTHING)
        self.client, accepted = tcpPair()
        self.addCleanup(self.client.close)
        batch = [(accepted, self.client.getsockname())]
        self.dispatcher.accepted(portOf(), batch)
        self.worker = RecordingChannel("worker 1")
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        Stop.
        """
        stopped = self.dispatcher.stop(0)
        self.clock.pump([WITNESS_INTERVAL] * 100)
        self.successResultOf(stopped)

    def join(self) -> None:
        """
        Have the worker join.
        """
        self.dispatcher.connected(self.worker)
        self.dispatcher.joined(self.worker, 1, [portOf()])

    def passTime(self) -> None:
        """
        Let the time pass until somebody is to be judged.
        """
        for _ in range(1000):
            if self.ledger.overdue(self.clock.seconds()):
                break
            self.clock.advance(WITNESS_INTERVAL)
        self.assertTrue(self.ledger.overdue(self.clock.seconds()))

    def test_hangs(self) -> None:
        """
        A worker whose time is over is revoked a turn later.
        """
        self.join()
        self.passTime()
        self.assertEqual(self.worker.calls, [])
        self.clock.advance(0)
        self.assertEqual(
            self.worker.calls, [("revoke", "an offer unclaimed for 0.5 s")]
        )

    def test_claims(self) -> None:
        """
        If its claim is read in that turn, it is not.
        """
        self.join()
        self.passTime()
        self.dispatcher.claimed(self.worker, self.worker.ids)
        self.clock.advance(0)
        self.clock.pump([WITNESS_INTERVAL] * 50)
        self.assertEqual(self.worker.calls, [])

    def test_patience(self) -> None:
        """
        A client whose patience is over is closed a turn later.
        """
        self.passTime()
        self.assertEqual(self.ledger.waiting, 1)
        self.clock.advance(0)
        self.assertEqual(self.ledger.waiting, 0)

    def test_again(self) -> None:
        """
        That holds for each that is judged.
        """
        self.passTime()
        self.clock.advance(0)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        self.dispatcher.accepted(portOf(), [(accepted, client.getsockname())])
        self.test_patience()

    def test_workerComes(self) -> None:
        """
        If a worker joins in that turn, the client is served.
        """
        self.passTime()
        self.join()
        self.clock.advance(0)
        self.assertEqual(self.worker.ids, [1])
        self.assertEqual(self.ledger.counters.timedOut, 0)

    def test_stoodStill(self) -> None:
        """
        While the process stood still, nobody's time ran.
        """
        self.join()
        self.clock.advance(WITNESS_INTERVAL)
        self.clock.advance(3600)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.worker.calls, [])


class PatienceTests(DispatcherTestCase):
    """
    Connections that nobody takes.
    """

    def test_timedOut(self) -> None:
        """
        When its patience runs out, a connection is closed, which is logged and
        told.
        """
        [client] = self.accept()
        self.clock.advance(PATIENCE - 0.1)
        self.assertTrue(self.isOpen(client))
        self.assertEqual(self.timeouts, 0)
        self.clock.advance(0.1)
        self.assertFalse(self.isOpen(client))
        self.assertEqual(self.timeouts, 1)
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                f"the connection of 127.0.0.1:{client.getsockname()[1]} is closed:"
                " no worker took it within its patience"
            ],
        )

    def test_toldOnce(self) -> None:
        """
        That it ran out of several at a time is told once, when all of them are
        closed.
        """
        self.accept(2)
        self.clock.advance(PATIENCE)
        self.assertEqual(self.timeouts, 1)
        self.assertEqual(self.openThen, [False, False])

    def test_roomAgain(self) -> None:
        """
        There is room for another one then.
        """
        self.accept(2)
        self.assertEqual(self.dispatcher.room(""), 0)
        before = self.roomChanges
        self.clock.advance(PATIENCE)
        self.assertEqual(self.dispatcher.room(""), 2)
        self.assertGreater(self.roomChanges, before)

    def test_nobodyToTell(self) -> None:
        """
        Somebody need not be told.
        """
        clock = RunningClock()
        ledger = Ledger(self.queue, 100, PATIENCE)
        dispatcher = Dispatcher(clock, ledger, Throttle(), NOTHING)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        dispatcher.accepted(portOf(), [(accepted, client.getsockname())])
        clock.advance(PATIENCE)
        self.assertEqual(client.recv(1), b"")


class ThrottleTests(DispatcherTestCase):
    """
    Workers that die at once, again and again.
    """

    def crash(self, times: int, user: int = 1000) -> None:
        """
        Have workers join and die.
        """
        for number in range(times):
            self.die(self.join(f"crash {number}", user=user))

    def throttled(self) -> RecordingChannel:
        """
        Have a worker join, which has to wait for 2 s.
        """
        self.crash(1)
        return self.join()

    def test_waits(self) -> None:
        """
        Such a worker has to wait before it is offered anything, and that is
        logged.
        """
        worker = self.throttled()
        self.accept()
        self.clock.advance(1.9)
        self.assertEqual(worker.offers, [])
        self.assertEqual(
            texts(self.logged, "warn")[-1],
            "worker 1 has to wait for 2 s: those before it died at once",
        )
        self.clock.advance(0.1)
        self.assertEqual(worker.ids, [1])

    def test_others(self) -> None:
        """
        One of another user does not.
        """
        self.throttled()
        other = self.join("worker 2", user=1001)
        self.accept()
        self.assertEqual(other.ids, [1])

    def test_hungWorkers(self) -> None:
        """
        To hang is as bad as to die.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.revoking(worker)
        self.dispatcher.parted(worker, "revoked")
        self.assertEqual(self.join("worker 2").offers, [])

    def test_good(self) -> None:
        """
        One connection that was finished clears the name of those that died
        before, and the death of its worker later counts for nothing.
        """
        worker = self.throttled()
        self.clock.advance(2.0)
        self.accept(2)
        for id in (1, 2):
            self.dispatcher.claimed(worker, [id])
            self.dispatcher.closed(worker, [id])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [1])

    def test_goodBefore(self) -> None:
        """
        A worker that was there before says nothing of those that die since.
        """
        worker = self.join()
        self.crash(3)
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.closed(worker, [1])
        self.assertEqual(self.join("worker 2").ids, [])

    def test_clientsWhoLeft(self) -> None:
        """
        A client that left is nothing that a worker has finished.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.gone(worker, [1])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [])

    def test_diesWaiting(self) -> None:
        """
        A worker that dies while it waits is forgotten, and counts for nothing.
        """
        self.die(self.throttled())
        self.accept()
        self.assertEqual(self.dispatcher.channels, 0)
        worker = self.join("worker 2")
        self.clock.advance(2)
        self.assertEqual(worker.ids, [1])

    def test_partsWaiting(self) -> None:
        """
        A worker that parts while it waits is forgotten.
        """
        worker = self.throttled()
        self.dispatcher.revoking(worker)
        self.dispatcher.parted(worker, "it says: no")
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])

    def test_claimsWaiting(self) -> None:
        """
        A worker that waits has nothing to claim.
        """
        worker = self.throttled()
        self.assertRaises(ProtocolError, self.dispatcher.claimed, worker, [1])

    def test_drainsWaiting(self) -> None:
        """
        A worker that drains while it waits is told that no offer follows, and
        none does.
        """
        worker = self.throttled()
        self.dispatcher.draining(worker)
        self.assertEqual(worker.calls, [("drained",)])
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])
        self.die(worker)
        self.assertEqual(self.dispatcher.channels, 0)


class StopTests(DispatcherTestCase):
    """
    How the listener ends.
    """

    def stop(self, grace: float = 10.0) -> Deferred[None]:
        """
        Stop, and give it the time that it needs to look around.
        """
        stopped = self.dispatcher.stop(grace)
        self.witness()
        return stopped

    def end(self) -> None:
        """
        Let the time pass until everything is over.
        """
        self.clock.pump([WITNESS_INTERVAL, 20, FAREWELL])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """
        With nothing to do it ends at once, and says what there was.
        """
        self.successResultOf(self.stop())
        self.assertIn("since the start: accepted 0", texts(self.logged, "info")[-1])

    def test_nothingLeft(self) -> None:
        """
        When it has ended, nothing is left to be done later.
        """
        leftovers: list[Any] = []
        stopped = self.dispatcher.stop(0)
        stopped.addCallback(
            lambda result: self.clock.callLater(
                0, lambda: leftovers.extend(self.clock.getDelayedCalls())
            )
        )
        self.clock.pump([WITNESS_INTERVAL, 0])
        self.successResultOf(stopped)
        self.assertEqual(leftovers, [])

    def test_farewell(self) -> None:
        """
        Every worker is told, also one that has not joined and one that has to
        wait; it ends when all of them are gone.
        """
        joined = self.join()
        silent = RecordingChannel("worker 2")
        self.dispatcher.connected(silent)
        self.throttle.failed(7)
        held = self.join("worker 3", user=7)
        stopped = self.stop()
        for channel in (joined, silent, held):
            self.assertEqual(channel.calls, [("bye", "the listener stops")])
            self.assertNoResult(stopped)
            self.dispatcher.disconnected(channel)
        self.witness()
        self.successResultOf(stopped)

    def test_leftOut(self) -> None:
        """
        The log then tells of the lines that were left out.
        """
        for number in range(MOST + 2):
            self.join(f"worker {number}")
        stopped = self.stop()
        self.clock.advance(FAREWELL)
        self.successResultOf(stopped)
        self.assertEqual(
            [line for line in texts(self.logged, "info") if "left out" in line],
            [
                "2 more lines like this one were left out in 10 s: {channel} joined,"
                " with a window of {window}, for {names}"
            ],
        )

    def test_farewellTakesTooLong(self) -> None:
        """
        It does not wait for long for them.
        """
        worker = self.join()
        stopped = self.stop()
        self.clock.advance(FAREWELL - 0.1)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])

    def test_unclaimed(self) -> None:
        """
        What is offered is waited for, until it is claimed.
        """
        worker = self.join()
        self.accept()
        stopped = self.stop(grace=3)
        self.assertEqual(worker.calls, [])
        self.dispatcher.claimed(worker, [1])
        self.witness()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.dispatcher.disconnected(worker)
        self.witness()
        self.successResultOf(stopped)

    def test_waiting(self) -> None:
        """
        What waits is handed off while there is a worker.
        """
        worker = self.join(window=1)
        clients = self.accept(2)
        self.stop(grace=3)
        for id in (1, 2):
            self.assertEqual((worker.ids[-1], worker.calls), (id, []))
            self.dispatcher.claimed(worker, [id])
            self.witness()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.assertTrue(all(map(self.isOpen, clients)))

    def test_graceRunsOut(self) -> None:
        """
        What is unclaimed after the grace is left to its worker, who holds a
        descriptor of it.
        """
        worker = self.join()
        [client] = self.accept()
        connection = worker.offers[0][1]
        own = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(own.close)
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertEqual(worker.calls, [])
        self.clock.advance(0.1)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.clock.advance(FAREWELL)
        self.successResultOf(stopped)
        own.sendall(b"x")
        self.assertEqual(client.recv(1), b"x")

    def test_nobodyToTakeIt(self) -> None:
        """
        What waits for a worker when there is none is kept for the grace, and then
        closed, and logged.
        """
        [client] = self.accept()
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertNoResult(stopped)
        self.assertTrue(self.isOpen(client))
        self.clock.advance(0.2)
        self.successResultOf(stopped)
        self.assertFalse(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                f"the connection of 127.0.0.1:{client.getsockname()[1]} is closed:"
                " the listener stopped while it waited"
            ],
        )
        self.assertEqual(self.timeouts, 0)

    def test_somebodyComes(self) -> None:
        """
        A worker that comes within the grace is given what waits.
        """
        [client] = self.accept()
        stopped = self.stop(grace=3)
        self.clock.advance(2)
        worker = self.join()
        self.dispatcher.claimed(worker, worker.ids)
        self.assertEqual(worker.ids, [1])
        self.witness()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.assertTrue(self.isOpen(client))
        self.assertNoResult(stopped)

    def test_elsewhere(self) -> None:
        """
        What waits elsewhere is waited for as well; and nothing at all ends it at
        once.
        """
        waits = [True]
        stopped = self.dispatcher.stop(3, lambda: waits[0])
        self.clock.advance(2)
        self.assertNoResult(stopped)
        waits.clear()
        waits.append(False)
        self.witness()
        self.successResultOf(stopped)

    def test_nobodyOfThatName(self) -> None:
        """
        So it is if those that are there want something else.
        """
        worker = self.join(names=("web",))
        [client] = self.accept(name="mail")
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertEqual(worker.calls, [])
        self.clock.advance(0.2)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.dispatcher.parted(worker, "it says: enough")
        self.dispatcher.disconnected(worker)
        self.witness()
        self.successResultOf(stopped)
        self.assertFalse(self.isOpen(client))

    def test_died(self) -> None:
        """
        A worker that dies in the end is not waited for, but another is, for what it
        was offered.
        """
        worker = self.join()
        self.accept()
        stopped = self.stop(grace=3)
        self.die(worker)
        self.witness()
        self.assertNoResult(stopped)
        self.clock.advance(3)
        self.successResultOf(stopped)
