"""
Tests for L{portlisten._listener.dispatcher}: silent clients, and limits.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from portlisten import _kernel
from portlisten._listener.copy_check import CHECK_SECONDS
from tests.support.channels import texts
from tests.support.dispatchers import DispatcherTestCase, RecordingChannel
from tests.support.sockets import reset

FIRST = 2.0


class SilentTests(DispatcherTestCase):
    """
    Clients that send nothing, and workers whose clients speak first.
    """

    queue = 8

    def peers(self, channel: RecordingChannel) -> list[int]:
        """
        Return the local ports of the clients whose connections a worker was offered.
        """
        peers = [connection.peer for _, connection in channel.offers]
        return [int(peer.rpartition(":")[2]) for peer in peers]

    def test_kept(self) -> None:
        """
        A connection is offered when its client speaks.
        """
        worker = self.join(first=FIRST)
        first, second = self.accept(2)
        self.assertEqual(worker.offers, [])
        second.send(b"x")
        self.clock.read()
        self.assertEqual(self.peers(worker), [second.getsockname()[1]])
        first.send(b"x")
        self.clock.read()
        self.assertEqual(len(worker.offers), 2)

    def test_keptForLongEnough(self) -> None:
        """
        It is offered all the same when it was kept for long enough, and is not watched
        after that.
        """
        worker = self.join(first=FIRST)
        [client] = self.accept()
        self.clock.advance(FIRST - 2 * CHECK_SECONDS)
        self.assertEqual(worker.offers, [])
        self.clock.advance(3 * CHECK_SECONDS)
        self.assertEqual(worker.ids, [1])
        client.send(b"x")
        self.clock.read()
        self.adopt(worker)
        self.assertEqual(worker.ids, [1])

    def test_spokeBefore(self) -> None:
        """
        A client that has spoken when it is accepted is not watched.
        """
        worker = self.join(first=FIRST)
        self.patch(self.dispatcher._silentClients, "find", lambda batch: set())
        self.accept()
        self.assertEqual(worker.ids, [1])
        self.assertEqual(self.clock.readers, [])

    def test_otherWorker(self) -> None:
        """
        Clients are not even checked if one of the workers does not ask for it.
        """
        self.join(first=FIRST)
        other = self.join("worker 2")
        self.patch(_kernel, "silent", None)
        self.accept(2)
        self.assertEqual(len(other.offers), 1)

    def test_joinedLater(self) -> None:
        """
        What waits when a worker joins is checked.
        """
        _, second = self.accept(2)
        second.send(b"x")
        worker = self.join(first=FIRST)
        self.assertEqual(self.peers(worker), [second.getsockname()[1]])
        self.assertEqual(self.ledger.silent, 1)

    def test_lastOneGoes(self) -> None:
        """
        If the last worker goes whose clients speak first, the silent connections wait
        for the next worker, and get to it when they speak or are due.
        """
        worker = self.join(first=FIRST)
        clients = self.accept(2)
        self.dispatcher.left(worker, "it left")
        self.dispatcher.channelClosed(worker)
        clients[1].send(b"x")
        self.clock.read()
        self.assertEqual((self.ledger.silent, self.ledger.waiting), (1, 2))
        new = self.join("worker 2")
        ports = [client.getsockname()[1] for client in reversed(clients)]
        self.assertEqual(self.peers(new), ports)

    def test_diesWithSilent(self) -> None:
        """
        If a worker dies with connections that were silent, they are watched again.
        """
        worker = self.join(first=FIRST)
        other = self.join("worker 2", 1, first=FIRST)
        [spoken] = self.accept()
        self.dispatcher.left(worker, "it left")
        self.dispatcher.channelClosed(worker)
        spoken.send(b"x")
        self.clock.read()
        self.assertEqual(other.ids, [1])
        [client] = self.accept()
        third = self.join("worker 3", first=FIRST)
        self.clock.advance(FIRST + CHECK_SECONDS)
        self.assertEqual(third.ids, [1])
        self.die(third)
        self.assertEqual(self.ledger.silent, 1)
        client.send(b"x")
        self.clock.read()
        self.assertEqual(self.ledger.silent, 0)
        self.dispatcher.claimed(other, other.ids)
        self.assertEqual(len(other.offers), 2)

    def test_left(self) -> None:
        """
        If a silent client resets its connection, the connection is closed.
        """
        worker = self.join(first=FIRST)
        [client] = self.accept()
        reset(client)
        self.clients.remove(client)
        self.clock.read()
        self.assertEqual(worker.offers, [])
        self.assertEqual(self.ledger.held, 0)
        self.assertEqual(self.ledger.counters.goneBeforeAdoption, 1)

    def test_halfClosed(self) -> None:
        """
        If a silent client ends its side, the connection is offered.
        """
        worker = self.join(first=FIRST)
        [client] = self.accept()
        client.shutdown(1)
        self.clock.read()
        self.assertEqual(worker.ids, [1])

    def test_cannotWatch(self) -> None:
        """
        If a connection cannot be watched, it counts as having spoken.
        """

        def add(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        worker = self.join(first=FIRST)
        self.patch(_kernel.FirstBytes, "add", add)
        self.accept(2)
        self.assertEqual(worker.ids, [1, 2])
        self.assertEqual(worker.flushes[-1], 2)

    def test_full(self) -> None:
        """
        If the queue is full, the oldest is offered.
        """
        worker = self.join(first=FIRST)
        clients = self.accept(9)
        ports = [client.getsockname()[1] for client in clients]
        self.assertEqual(self.peers(worker), ports[:2])

    def test_stop(self) -> None:
        """
        When the listener stops, silent connections are offered.
        """
        worker = self.join(first=FIRST)
        self.accept(2)
        stopped = self.dispatcher.stop(5)
        self.assertEqual(worker.ids, [1, 2])
        self.accept()
        self.assertEqual(worker.ids, [1, 2, 3])
        self.dispatcher.claimed(worker, worker.ids)
        self.check()
        self.die(worker)
        self.check()
        self.successResultOf(stopped)

    def test_stopWithSilent(self) -> None:
        """
        If no worker takes them until the end, they are closed.
        """
        worker = self.join(first=FIRST)
        clients = self.accept(2)
        self.die(worker)
        self.end()
        self.assertFalse(any(map(self.isOpen, clients)))

    def test_report(self) -> None:
        """
        The report says how many are silent.
        """
        self.join(first=FIRST)
        self.accept(2)
        self.dispatcher.report()
        line = texts(self.logged, "info")[-1]
        self.assertIn("1 workers, 2 connections waiting (2 silent), 0 offered", line)


class LimitTests(DispatcherTestCase):
    """
    Workers with a limit.
    """

    queue = 8

    def test_limit(self) -> None:
        """
        A worker gets no more than its limit, until it has CLOSED some.
        """
        worker = self.join(limit=2)
        self.accept(3)
        self.dispatcher.claimed(worker, worker.ids)
        self.assertEqual(worker.ids, [1, 2])
        self.dispatcher.closed(worker, [1])
        self.assertEqual(worker.ids, [1, 2, 3])

    def test_logged(self) -> None:
        """
        The log says what the limit is.
        """
        self.join(limit=2)
        self.assertIn(
            "with a window of 4 and a limit of 2, for", texts(self.logged, "info")[-1]
        )

    def test_oneSpeaks(self) -> None:
        """
        However many clients are silent, one that speaks finds a place at a worker with
        a limit, also when the silent ones are due.
        """
        worker = self.join(limit=4, first=FIRST)
        clients = self.accept(7)
        self.clock.advance(FIRST + CHECK_SECONDS)
        self.dispatcher.claimed(worker, worker.ids)
        self.clock.advance(FIRST)
        self.assertEqual(worker.ids, [1, 2])
        clients[-1].send(b"x")
        self.clock.read()
        self.assertEqual(worker.ids, [1, 2, 3])
        self.assertEqual(worker.calls, [])
