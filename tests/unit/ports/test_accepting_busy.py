"""
Tests for L{portlisten._ports.accepting}: acceptors that wait while all workers are
busy.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.logger import capturedLogs

from portlisten._kernel import sockets
from portlisten._ports import accepting as _accept
from portlisten._ports.accepting import Accepted
from tests.support.acceptors import (
    RETRY,
    ListeningTestCase,
)


class BusyTests(ListeningTestCase):
    """
    Tests for an acceptor that is told to wait, though connections fit.
    """

    def setUp(self) -> None:
        """
        Make room in the backlog.
        """
        super().setUp()
        self.patch(_accept, "SUFFICIENT_BACKLOG", 100)
        self.other.listen(100)

    def test_smallBacklog(self) -> None:
        """
        If few connections fit in the backlog, it does not let them wait.
        """
        self.other.listen(99)
        self.busy = True
        self.connect()
        self.listener.doRead()
        self.assertReading(self.listener, True)

    def test_nested(self) -> None:
        """
        What it takes may lead to it being resumed, while others come in: they are for
        a later turn of the loop.
        """
        self.busy = True
        self.listener.doRead()
        depth = deepest = 0

        def accepted(batch: list[Accepted]) -> None:
            nonlocal depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            self.accepted(batch)
            if len(self.batches) < 5:
                self.connect()
            self.listener.resume()
            depth -= 1

        self.patch(self.listener, "_accepted", accepted)
        self.connect()
        self.busy = False
        self.listener.resume()
        self.assertEqual((len(self.batches), deepest), (1, 1))
        self.assertReading(self.listener, True)

    def test_exhausted(self) -> None:
        """
        When it is resumed and finds itself out of descriptors, it pauses; when the
        socket is of no use any more, it is over.
        """
        for number in (errno.EMFILE, errno.EINVAL):
            self.busy = True
            self.listener.doRead()
            self.connect()
            self.busy = False

            def fail(sock: socket.socket, family: int, number: int = number) -> Any:
                raise OSError(number, os.strerror(number))

            accept = sockets.accept
            self.patch(sockets, "accept", fail)
            with capturedLogs():
                self.listener.resume()
            self.assertReading(self.listener, False)
            self.patch(sockets, "accept", accept)
            self.reactor.advance(RETRY)

    def test_stopPastErrors(self) -> None:
        """
        One connection that cannot be accepted does not keep the others from being
        taken at the end.
        """
        accept = sockets.accept
        errors = [errno.ECONNABORTED]

        def fail(sock: socket.socket, family: int) -> Accepted:
            if errors:
                accept(sock, family)[0].close()
                number = errors.pop()
                raise OSError(number, os.strerror(number))
            return accept(sock, family)

        self.patch(sockets, "accept", fail)
        self.patch(_accept, "BATCH_SIZE", 1)
        addresses = self.connectFrom(2)
        self.listener.stop()
        self.assertEqual(self.batches, [addresses[1:]])

    def test_rests(self) -> None:
        """
        When all are busy it no longer looks, and takes what has come by then as soon
        as they are not.
        """
        addresses = self.connectFrom(2)
        self.busy = True
        self.listener.doRead()
        self.assertEqual(self.batches, [addresses])
        self.assertReading(self.listener, False)
        more = self.connectFrom(2)
        self.listener.resume()
        self.assertEqual(self.batches, [addresses])
        self.assertReading(self.listener, False)
        self.busy = False
        self.listener.resume()
        self.assertEqual(self.batches, [addresses, more])
        self.assertReading(self.listener, True)

    def test_restsAgain(self) -> None:
        """
        If the taken connections make the workers busy, the acceptor rests on, and the
        reactor has not polled in between.
        """
        self.busy = True
        self.listener.doRead()
        added: list[object] = []
        self.patch(self.reactor, "addReader", added.append)
        addresses = self.connectFrom(2)

        def accepted(batch: list[Accepted]) -> None:
            self.busy = True
            self.accepted(batch)
            self.listener.resume()

        self.patch(self.listener, "_accepted", accepted)
        self.busy = False
        self.listener.resume()
        self.assertEqual(self.batches, [addresses])
        self.assertEqual(added, [])

    def test_lone(self) -> None:
        """
        After a single connection it goes on looking: often the worker is free before
        the next client comes.
        """
        [address] = self.connectFrom(1)
        self.busy = True
        asked: list[object] = []
        self.patch(self.reactor, "removeReader", asked.append)
        self.patch(self.reactor, "addReader", asked.append)
        self.listener.doRead()
        self.busy = False
        self.listener.resume()
        [next] = self.connectFrom(1)
        self.listener.doRead()
        self.assertEqual(self.batches, [[address], [next]])
        self.assertEqual(asked, [])

    def test_loneNoMore(self) -> None:
        """
        If the next client comes before the worker is free, it rests.
        """
        [address] = self.connectFrom(1)
        self.busy = True
        self.listener.doRead()
        self.assertReading(self.listener, True)
        more = self.connectFrom(2)
        self.listener.doRead()
        self.assertReading(self.listener, False)
        self.listener.resume()
        self.assertEqual(self.batches, [[address]])
        self.busy = False
        self.listener.resume()
        self.assertEqual(self.batches, [[address], more])
        self.assertReading(self.listener, True)

    def test_nobody(self) -> None:
        """
        If no connection waits, the acceptor polls.
        """
        self.busy = True
        self.listener.doRead()
        self.busy = False
        self.listener.resume()
        self.assertEqual(self.batches, [])
        self.assertReading(self.listener, True)

    def test_noRoom(self) -> None:
        """
        If no connection fits, it accepts none when workers are free again.
        """
        self.busy = True
        self.listener.doRead()
        self.connect()
        self.busy, self.capacity = False, 0
        self.listener.resume()
        self.assertEqual(self.batches, [])
        self.assertReading(self.listener, False)

    def test_stop(self) -> None:
        """
        When it stops, the acceptor takes connections even if the workers are busy: the
        rest would be refused.
        """
        self.busy = True
        addresses = self.connectFrom(3)
        self.listener.stop()
        self.assertEqual(self.batches, [addresses])

    def test_noMore(self) -> None:
        """
        It asks for no more than the connections that wait.
        """
        accept = sockets.accept
        asked = []

        def spy(sock: socket.socket, family: int) -> Accepted:
            asked.append(sock)
            return accept(sock, family)

        self.patch(sockets, "accept", spy)
        self.connect(3)
        self.listener.doRead()
        self.assertEqual(len(asked), 3)
