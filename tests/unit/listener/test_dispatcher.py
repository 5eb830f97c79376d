"""
Tests for L{portlisten._listener.dispatcher} with the real ledger and real connections,
and with scripted channels and a scripted clock.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.copy_check import CHECK_SECONDS
from portlisten._listener.dispatcher import Dispatcher
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._policy.ledger import Ledger
from portlisten._policy.throttle import Throttle
from portlisten._wire.listener_session import Joined
from portlisten.errors import ProtocolError
from tests.support.channels import tcpPair, texts
from tests.support.clocks import RunningClock, TurningClock
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import (
    HOLD,
    NAMES,
    NOTHING,
    PATIENCE,
    PAUSE,
    DispatcherTestCase,
    RecordingChannel,
    portOf,
)
from tests.support.sockets import spoil


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
        self.clock.advance(CHECK_SECONDS)
        self.assertFalse(self.dispatcher.busy(""))
        self.assertGreater(self.roomChanges, changes)

    def test_notInsideItself(self) -> None:
        """
        If the callback for new capacity accepts at once, it is not called again
        meanwhile.
        """
        told: list[Any] = []

        def capacityChanged() -> None:
            told.append(len(told))
            if len(told) < 5:
                self.accept()

        self.dispatcher.capacityChanged = capacityChanged
        self.accept()
        self.assertEqual(told, [0])
        self.assertEqual(self.ledger.waiting, 2)
        self.dispatcher.capacityChanged = self.capacityChanged

    def test_timePasses(self) -> None:
        """
        Time passes even if something fails.
        """

        def fail() -> None:
            raise ZeroDivisionError

        self.dispatcher.capacityChanged = fail
        self.assertRaises(ZeroDivisionError, self.accept)
        self.dispatcher.capacityChanged = self.capacityChanged
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
        The capacity is the windows of the workers and the queue.
        """
        self.assertEqual(self.dispatcher.capacity(""), 2)
        self.join(window=3)
        self.assertEqual(self.dispatcher.capacity(""), 5)
        self.accept(4)
        self.assertEqual(self.dispatcher.capacity(""), 1)

    def test_roomOfName(self) -> None:
        """
        The capacity for a name is the windows of the workers that want it, and its own
        queue.
        """
        self.join(window=3, names=("web",))
        self.accept(2, name="mail")
        self.assertEqual(
            [self.dispatcher.capacity(name) for name in NAMES],
            [2, 5, 0],
        )

    def test_names(self) -> None:
        """
        A worker gets the connections that it wants, and these do not wait for other
        workers.
        """
        self.accept(2, name="mail")
        worker = self.join(names=("web",))
        self.accept(2, port=1, name="web")
        self.assertEqual((worker.ids, worker.ports), ([1, 2], [1, 1]))
        other = self.join("worker 2", names=("mail",))
        self.assertEqual((other.ids, other.ports), ([1, 2], [0, 0]))

    def test_namesAfterWaiting(self) -> None:
        """
        A worker that must wait before its first offer gets the connections that it
        wants as well.
        """
        self.die(self.join())
        worker = self.join(names=("web",))
        self.accept(name="mail")
        self.accept(port=1, name="web")
        self.clock.advance(2)
        self.assertEqual(worker.ports, [1])

    def test_capacityChanged(self) -> None:
        """
        The callback is called whenever the capacity may have grown.
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
            self.assertRaises(OSError, self.clock.advance, CHECK_SECONDS)
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
        self.dispatcher.left(other, "it says: enough")
        self.assertEqual((self.ledger.held, self.dispatcher.capacity("")), (0, 2))
        rooms: list[int] = []
        self.dispatcher.capacityChanged = lambda: rooms.append(
            self.dispatcher.capacity("")
        )
        self.clock.pump([CHECK_SECONDS] * 6)
        self.assertEqual(rooms[-1], 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_joinedIsLogged(self) -> None:
        """
        When a worker joins, this is logged, with the ports that it asks for.
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
        An id that is not outstanding on the same channel is a protocol error, also on
        the channel of a worker that has not joined.
        """
        one, other = self.join("worker 1"), self.join("worker 2")
        self.accept()
        self.assertEqual((one.ids, other.ids), ([1], []))
        stranger = RecordingChannel("worker 3")
        for channel in (other, stranger):
            for tell in (
                self.dispatcher.claimed,
                self.dispatcher.closed,
                self.dispatcher.clientGone,
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
        If a worker made an unclaimed connection unusable, no worker gets it, however it
        comes back: all others would refuse it.
        """
        ends: list[Callable[[RecordingChannel], None]] = [
            lambda worker: self.dispatcher.left(worker, "it says: enough"),
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
        A worker that refuses an unusable connection gets further offers at once: the
        refusal is no sign of trouble.
        """
        worker = self.join()
        self.accept()
        spoil(worker.offers[0][1].fileno())
        self.dispatcher.refused(worker, [1], "no descriptor")
        self.accept()
        self.assertEqual(worker.ids, [1, 2])

    def test_draining(self) -> None:
        """
        A worker that drains gets DRAINED, and no offers after it.
        """
        worker = self.join()
        self.dispatcher.draining(worker)
        self.accept()
        self.assertEqual(worker.calls, [("drained",)])
        self.assertEqual(worker.offers, [])
        self.assertIn("worker 1 drains", texts(self.logged, "info"))

    def test_revoking(self) -> None:
        """
        A worker that is being revoked gets no offers and no other frames.
        """
        worker = self.join()
        self.dispatcher.revoking(worker)
        self.accept()
        self.assertEqual((worker.calls, worker.offers), ([], []))

    def test_channels(self) -> None:
        """
        Workers are counted from their connection to their end, and the end is reported.
        """
        ends = []
        self.dispatcher.departed.channelEnded = lambda _: ends.append(
            self.dispatcher.channels
        )
        channels = [RecordingChannel("worker 1"), RecordingChannel("worker 2")]
        for channel in channels:
            self.dispatcher.connected(channel)
        self.assertEqual(self.dispatcher.channels, 2)
        for channel in channels:
            self.dispatcher.channelClosed(channel)
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


class CopyTests(DispatcherTestCase):
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
        self.check()
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
        self.dispatcher.clientGone(worker, [1])
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
        self.dispatcher.accepted(portOf(), [AcceptedConnection(accepted, "")])
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
        self.check()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FlightTests(DispatcherTestCase):
    """
    Who gets no offers while too many descriptors are in flight.
    """

    queue = 100

    def setUp(self) -> None:
        """
        Make one worker join that reads, and one that does not.
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
        self.check()
        return len(self.reads.ids) - before[0], len(self.doesNot.ids) - before[1]

    def test_half(self) -> None:
        """
        Up to half of the limit, each gets its part.
        """
        self.assertEqual(self.offered(8), (4, 4))
        self.assertEqual(self.offered(2), (1, 1))

    def test_more(self) -> None:
        """
        Beyond that limit, workers with unread descriptors get no offers until they have
        read all.
        """
        self.assertEqual(self.offered(10), (5, 5))
        self.assertEqual(self.offered(4), (4, 0))
        self.doesNot.reads = True
        self.check()
        self.assertEqual(self.offered(4), (0, 4))

    def test_departed(self) -> None:
        """
        Descriptors in flight to workers that have left count as well.
        """
        self.offered(6)
        other = self.join("worker 3", 100)
        other.reads = False
        self.accept(3)
        self.assertEqual(len(other.ids), 3)
        self.dispatcher.left(other, "it says: enough")
        self.dispatcher.channelClosed(other)
        self.check()
        self.assertEqual(self.offered(2)[1], 0)

    def test_nobody(self) -> None:
        """
        If no worker reads, clients wait until one reads again.
        """
        self.offered(10)
        self.reads.reads = False
        self.check()
        self.assertEqual(self.offered(2), (0, 0))
        self.assertEqual(self.ledger.waiting, 2)
        self.doesNot.reads = True
        self.reads.reads = True
        self.clock.advance(2 * CHECK_SECONDS)
        self.assertEqual(self.ledger.waiting, 0)


class TurnTests(SynchronousTestCase):
    """
    Before a worker is revoked or a client given up, frames that have come are read.
    """

    def setUp(self) -> None:
        """
        Make a dispatcher with a clock whose turns can be told apart.
        """
        watchDescriptors(self)
        self.clock = TurningClock()
        self.ledger = Ledger(2, 100, 1.0, HOLD, 0.5, PAUSE)
        self.dispatcher = Dispatcher(self.clock, self.ledger, Throttle(), NOTHING)
        self.client, accepted = tcpPair()
        self.addCleanup(self.client.close)
        batch = [AcceptedConnection(accepted, self.client.getsockname())]
        self.dispatcher.accepted(portOf(), batch)
        self.worker = RecordingChannel("worker 1")
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        Stop.
        """
        stopped = self.dispatcher.stop(0)
        self.clock.pump([CHECK_SECONDS] * 100)
        self.successResultOf(stopped)

    def join(self) -> None:
        """
        Make the worker join.
        """
        self.dispatcher.connected(self.worker)
        self.dispatcher.joined(self.worker, Joined(1, (portOf(),)))

    def passTime(self) -> None:
        """
        Let the time pass until a worker or a client is overdue.
        """
        for _ in range(1000):
            if self.ledger.overdue(self.clock.seconds()):
                break
            self.clock.advance(CHECK_SECONDS)
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
        self.clock.pump([CHECK_SECONDS] * 50)
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
        This holds each time that a worker or a client is overdue.
        """
        self.passTime()
        self.clock.advance(0)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        self.dispatcher.accepted(
            portOf(), [AcceptedConnection(accepted, client.getsockname())]
        )
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
        The time in which the process stood still counts for no worker and no client.
        """
        self.join()
        self.clock.advance(CHECK_SECONDS)
        self.clock.advance(3600)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.worker.calls, [])


class PatienceTests(DispatcherTestCase):
    """
    Connections that no worker takes.
    """

    def test_timedOut(self) -> None:
        """
        When the patience of a connection runs out, it is closed, which is logged and
        reported.
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
        If the patience of several runs out together, this is reported once, after all
        of them are closed.
        """
        self.accept(2)
        self.clock.advance(PATIENCE)
        self.assertEqual(self.timeouts, 1)
        self.assertEqual(self.openThen, [False, False])

    def test_roomAgain(self) -> None:
        """
        Then the capacity has grown for another connection.
        """
        self.accept(2)
        self.assertEqual(self.dispatcher.capacity(""), 0)
        before = self.roomChanges
        self.clock.advance(PATIENCE)
        self.assertEqual(self.dispatcher.capacity(""), 2)
        self.assertGreater(self.roomChanges, before)

    def test_nobodyToTell(self) -> None:
        """
        The callback is optional.
        """
        clock = RunningClock()
        ledger = Ledger(self.queue, 100, PATIENCE)
        dispatcher = Dispatcher(clock, ledger, Throttle(), NOTHING)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        dispatcher.accepted(
            portOf(), [AcceptedConnection(accepted, client.getsockname())]
        )
        clock.advance(PATIENCE)
        self.assertEqual(client.recv(1), b"")
