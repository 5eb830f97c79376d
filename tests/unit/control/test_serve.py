"""
Tests for L{ControlServer.serve}: a client that is connected already.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.server import ControlServer
from tests.support.channels import aMoment, eventually, inReactor
from tests.support.workers import ClockedReactor

ASK = encodeRequest(Workers())
ANSWER = encodeAnswer(WorkersAnswer())


class ServeTests(TestCase):
    """
    A server without a path, and its client.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.reactor = ClockedReactor()
        self.pids: list[int] = []
        self.ended = 0
        self.refuses = False
        self.server = ControlServer(self.reactor, None, {Workers: self.answer}, ())
        self.client, theirs = socket.socketpair()
        self.client.setblocking(False)
        self.received = b""
        self.server.serve(theirs, self.end)
        self.addCleanup(self.close)

    async def close(self) -> None:
        """
        Check that nothing is left.
        """
        self.server.close()
        self.reactor.clock.advance(0)
        await aMoment()
        self.client.close()
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])

    def end(self) -> None:
        self.ended += 1

    def answer(self, request: Any, client: _kernel.Credentials) -> WorkersAnswer:
        self.pids.append(client.pid)
        if self.refuses:
            raise ControlError("no")
        return WorkersAnswer()

    def hears(self, count: int) -> bool:
        """
        Whether so many answers have come.
        """
        self.reactor.clock.advance(0)
        try:
            self.received += self.client.recv(65536)
        except BlockingIOError:
            pass
        return self.received.count(b"\n") >= count

    async def test_answers(self) -> None:
        """
        It gets answers, however long it was silent.
        """
        for count in range(1, 4):
            self.reactor.clock.advance(3600)
            await aMoment()
            self.client.send(ASK)
            await eventually(lambda count=count: self.hears(count))
        self.assertEqual(self.received, ANSWER * 3)
        self.assertEqual(self.pids, [os.getpid()] * 3)
        self.assertEqual(self.ended, 0)

    async def test_refused(self) -> None:
        """
        A request that cannot be answered ends nothing.
        """
        self.refuses = True
        self.client.send(ASK + b"nonsense\n")
        await eventually(lambda: self.hears(2))
        self.refuses = False
        self.client.send(ASK)
        await eventually(lambda: self.hears(3))
        self.assertTrue(self.received.endswith(ANSWER))
        self.assertEqual(self.received.count(b'"error"'), 2)

    async def test_ended(self) -> None:
        """
        Its end is reported, once.
        """
        self.client.shutdown(socket.SHUT_WR)
        await eventually(lambda: self.ended)
        self.server.close()
        self.assertEqual(self.ended, 1)

    async def test_closed(self) -> None:
        """
        If the server ends it, that is not reported.
        """
        self.server.close()
        self.reactor.clock.advance(0)
        await aMoment()
        self.assertEqual(self.client.recv(1), b"")
        self.assertEqual(self.ended, 0)
