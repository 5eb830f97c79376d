"""
Tests for L{portlisten._each.service}, with real programs and a listener by hand.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from typing import Any

import portlisten.asyncio
from portlisten._config.settings import EachSettings
from portlisten._each import service as _service
from portlisten._each.service import Service
from portlisten._each.starting import Program
from portlisten._wire.frames import Bye, Claim, Closed, Drain, Drained, Given
from tests.support.asyncio_loops import HELLO, LoopTestCase, aMoment, eventually

KNOWING = replace(HELLO, frames=HELLO.frames | {Given.TYPE})

#: The signals that a service handles.
HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD")


class ServiceTests(LoopTestCase):
    """
    Tests for L{Service}.
    """

    makeLoop = staticmethod(portlisten.asyncio.asyncioLoop)

    def setUp(self) -> None:
        for name in HANDLED:
            number = getattr(signal, name)
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            signal.signal(number, signal.SIG_DFL)
        super().setUp()
        self.patch(_service, "KILL_SECONDS", 0.2)

    async def begin(self, text: str, **options: Any) -> Any:
        """
        Begin to serve connections by a script, and join a listener.
        """
        settings = EachSettings(path="channel", program=("sh",), **options)
        program = Program("/bin/sh", ("sh", "-c", text), dict(os.environ))
        self.path = self.bind()
        self.service = Service(self.loop, settings, program, "")
        self.addCleanup(self.service.worker.abandon)
        self.service.start()
        self.listener = await self.accept(self.path)
        await self.listener.greet(KNOWING)

    async def connect(self, id: int = 1) -> socket.socket:
        """
        Hand a connection off.

        @return: the client's end.
        """
        client, accepted = self.pair()
        client.setblocking(False)
        before = len(self.listener.heard(Claim))
        self.listener.offer(id, accepted)
        await eventually(lambda: len(self.listener.heard(Claim)) > before)
        return client

    async def hear(self, client: socket.socket) -> bytes:
        """
        Wait for some bytes.
        """
        return bytes(await self.loop.sock_recv(client, 100))

    async def ended(self) -> None:
        """
        Wait until the service has ended.
        """
        await eventually(self.service.done.done)
        self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)

    def test_course(self) -> None:
        """
        A connection is claimed, given, and closed when its process has ended.
        """

        async def test() -> None:
            await self.begin("echo up")
            client = await self.connect()
            self.assertEqual(await self.hear(client), b"up\n")
            await eventually(lambda: self.listener.heard(Closed))
            kinds = [type(each) for each in self.listener.frames[1:]]
            kinds = [each for each in kinds if each in (Claim, Given, Closed)]
            self.assertEqual(kinds, [Claim, Given, Closed])
            self.service.stop(signal.SIGTERM)
            await self.ended()

        self.complete(test())

    def test_grace(self) -> None:
        """
        After the grace come SIGTERM, and SIGKILL after another while.
        """

        async def test() -> None:
            text = "trap '' TERM; echo up; while :; do sleep 0.05; done"
            await self.begin(text, grace=0.1)
            client = await self.connect()
            self.assertEqual(await self.hear(client), b"up\n")
            self.service.stop(signal.SIGTERM)
            await self.ended()
            self.assertEqual(await self.hear(client), b"")
            said = [each for each in self.log.lines if "have not ended" in each]
            self.assertEqual(
                [each.split()[-1] for each in said], ["SIGTERM", "SIGKILL"]
            )
            await eventually(lambda: self.listener.heard(Bye))

        self.complete(test())

    def test_finish(self) -> None:
        """
        Processes may finish within the grace, and the listener hears of that first.
        """

        async def test() -> None:
            await self.begin("read x; echo $x", grace=60)
            client = await self.connect()
            await eventually(lambda: self.service.worker.adopter.running)
            self.service.stop(signal.SIGTERM)
            await eventually(lambda: self.listener.heard(Drain))
            self.listener.say(Drained())
            await aMoment()
            self.assertFalse(self.service.done.done())
            client.sendall(b"last\n")
            self.assertEqual(await self.hear(client), b"last\n")
            await self.ended()
            await eventually(lambda: self.listener.heard(Bye))
            self.assertTrue(self.listener.heard(Closed))

        self.complete(test())

    def test_givenBack(self) -> None:
        """
        What has no process yet is left untouched, and nobody waits for it.
        """

        async def test() -> None:
            await self.begin("exec sleep 100", grace=60, limit=2)
            worker = self.service.worker
            worker.adopter.startNoMore()
            await self.connect()
            await self.connect(2)
            self.service.stop(signal.SIGTERM)
            await self.ended()
            await eventually(lambda: self.listener.heard(Bye))
            for kind in (Given, Closed):
                self.assertEqual(self.listener.heard(kind), [])

        self.complete(test())

    def test_hurry(self) -> None:
        """
        The second signal ends the grace, and the third one kills.
        """

        async def test() -> None:
            self.patch(_service, "KILL_SECONDS", 60)
            text = "trap '' TERM; echo up; while :; do sleep 0.05; done"
            await self.begin(text, grace=60)
            client = await self.connect()
            self.assertEqual(await self.hear(client), b"up\n")
            for _ in range(3):
                self.assertFalse(self.service.done.done())
                self.service.stop(signal.SIGTERM)
                await aMoment()
            await self.ended()

        self.complete(test())

    def test_signals(self) -> None:
        """
        Signals that mean nothing are logged.
        """

        async def test() -> None:
            await self.begin("echo up")
            os.kill(os.getpid(), signal.SIGHUP)
            said = "received SIGHUP, which means nothing to this command"
            await eventually(lambda: said in self.log.lines)
            os.kill(os.getpid(), signal.SIGTERM)
            await self.ended()

        self.complete(test())
