"""
Tests for a worker in asyncio whose adopter gives connections to other processes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from portlisten._anyloop import channel as _channel
from portlisten._anyloop.interfaces import NO_REPORTS, Reports
from portlisten._anyloop.worker import Stage, Worker
from portlisten._config.settings import WorkerSettings
from portlisten._wire.codec import encode
from portlisten._wire.frames import Bye, Claim, Closed, Given, Revoked
from tests.support.asyncio_loops import HELLO, LoopTestCase, aMoment, eventually
from tests.support.channels import PATIENCE

KNOWING = replace(HELLO, frames=HELLO.frames | {Given.TYPE})


class GivingAdopter:
    """
    Keeps the connections.

    @ivar connections: the descriptors.
    @ivar given: for each connection, finds out what is to be said.
    @ivar closed: for each connection, reports its end.
    """

    gives = True

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.connections: list[int] = []
        self.given: list[Callable[[], tuple[int, bytes] | None]] = []
        self.closed: list[Callable[[], None]] = []

    def adopt(
        self,
        descriptor: int,
        cookie: int | None = None,
        reports: Reports = NO_REPORTS,
    ) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.
        """
        self.connections.append(descriptor)
        self.given.append(reports.given)
        self.closed.append(reports.closed)
        self._changed()

    def end(self, index: int) -> None:
        """
        End a connection.
        """
        os.close(self.connections.pop(index))
        self.closed.pop(index)()
        self._changed()

    def drain(self) -> None:
        """
        Do nothing.
        """

    def undrain(self) -> None:
        """
        Do nothing.
        """

    def abandon(self) -> None:
        """
        Close all.
        """
        while self.connections:
            os.close(self.connections.pop())


class GivingTests(LoopTestCase):
    """
    Tests for C{gives} and C{given}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.done = 0

        def done() -> None:
            self.done += 1

        self.worker: Worker[GivingAdopter] = Worker(
            self.loop,
            WorkerSettings(path="channel", limit=5),
            0.0,
            "",
            lambda clock, changed: GivingAdopter(changed),
            done,
        )
        self.addCleanup(self.worker.abandon)

    async def joined(self, hello: Any = KNOWING) -> Any:
        """
        Have the worker join a listener.

        @return: the listener's end, and what the worker has said.
        """
        self.path = self.bind()
        self.worker.start()
        listener = await self.accept(self.path)
        return listener, await listener.greet(hello)

    async def offered(self, listener: Any) -> None:
        """
        Have a connection offered and claimed.
        """
        _, accepted = self.pair()
        listener.offer(1, accepted)
        await eventually(lambda: self.worker.adopter.connections)
        await eventually(lambda: listener.heard(Claim))

    def test_given(self) -> None:
        """
        What is to be said is GIVEN, on the channel, until that has ended.
        """

        async def test() -> None:
            listener, hello = await self.joined()
            self.assertIn(Given.TYPE, hello.frames)
            await self.offered(listener)
            adopter = self.worker.adopter
            [given] = adopter.given
            descriptor, data = given() or (0, b"")
            self.assertEqual(data, encode(Given((1,))))
            os.write(descriptor, data)
            await eventually(lambda: listener.heard(Given))
            adopter.end(0)
            await eventually(lambda: listener.heard(Closed))
            listener.close()
            await eventually(lambda: self.isNothing(given))

        self.patch(_channel, "COPIES_SECONDS", 3 * PATIENCE)
        self.complete(test())

    def test_busy(self) -> None:
        """
        While something is under way to be written, nothing can be said.
        """

        async def test() -> None:
            listener, _ = await self.joined()
            await self.offered(listener)
            channel: Any = self.worker._channel
            channel._unsent = b"rest"
            self.assertRaises(BlockingIOError, self.worker.adopter.given[0])
            channel._unsent = b""
            self.assertIsNotNone(self.worker.adopter.given[0]())

        self.complete(test())

    def test_revoked(self) -> None:
        """
        After a revocation, the listener still has its copy for a while.  Until then,
        nobody may touch the connection.
        """

        async def test() -> None:
            listener, _ = await self.joined()
            await self.offered(listener)
            [given] = self.worker.adopter.given
            listener.say(Revoked(), Bye("hangs"))
            begin = self.loop.time()
            await eventually(listener.hasEnded)
            listener.close()
            await eventually(lambda: not self.worker._link.registered)
            await eventually(lambda: self.isNothing(given))
            self.assertGreaterEqual(self.loop.time() - begin, 0.3)

        self.patch(_channel, "COPIES_SECONDS", 0.3)
        self.complete(test())

    def test_unwritten(self) -> None:
        """
        If the channel ends while something is under way to be written, nothing need be
        said in the end.
        """

        async def test() -> None:
            listener, _ = await self.joined()
            await self.offered(listener)
            _, accepted = self.pair()
            listener.offer(2, accepted)
            adopter = self.worker.adopter
            await eventually(lambda: len(adopter.connections) == 2)
            await eventually(lambda: listener.heard(Claim))
            listener.socket.shutdown(socket.SHUT_RD)
            adopter.end(1)
            await eventually(lambda: self.isNothing(adopter.given[0]))

        self.patch(_channel, "COPIES_SECONDS", 0.1)
        self.complete(test())

    @staticmethod
    def isNothing(given: Callable[[], object]) -> bool:
        """
        Whether nothing is to be said.
        """
        try:
            return given() is None
        except BlockingIOError:
            return False

    def test_older(self) -> None:
        """
        The worker leaves a listener that is older, and says so in the log.
        """

        async def test() -> None:
            listener, _ = await self.joined(HELLO)
            await eventually(lambda: listener.heard(Bye))
            await eventually(lambda: self.log.lines)
            [line] = self.log.lines
            self.assertIn("it is older than this worker: restart it", line)
            self.assertIn("every 5 s", line)

        self.complete(test())

    def test_leave(self) -> None:
        """
        A worker that waits for its connections can be told to wait no longer.
        """

        async def test() -> None:
            listener, _ = await self.joined()
            await self.offered(listener)
            self.worker.leave()
            await aMoment()
            self.assertIs(self.worker.stage, Stage.SERVING)
            self.worker.stop()
            await aMoment()
            self.assertIs(self.worker.stage, Stage.WAITING)
            self.worker.leave()
            await eventually(lambda: self.done)
            await eventually(lambda: listener.heard(Bye))
            self.assertNotIn("still in service", "\n".join(self.log.lines))

        self.complete(test())
