"""
Tests for how L{portlisten._listener.service} and L{portlisten._listener.stream} take
over from a listener that is spoken by hand, in the real reactor.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from typing import Any

from portlisten import _kernel
from portlisten._control.messages import Status, Workers, encodeRequest
from portlisten._handover.messages import Commit, Running, Stopping
from portlisten._listener import successor
from portlisten._policy.denials import Denial
from portlisten._policy.networks import networkOf
from portlisten._wire.frames import (
    Bye,
    Claim,
    Leave,
    ListenerHello,
    Offer,
    WorkerHello,
)
from portlisten.errors import StartFailure
from tests.support.channels import Peer, aMoment, eventually, tcpPair, texts
from tests.support.listeners import ListenerTestCase
from tests.support.predecessors import COMMIT, Predecessor


class InheritingTestCase(ListenerTestCase):
    """
    A listener that replaces another one.
    """

    async def setUp(self) -> None:
        """
        Let another listener live at the path.
        """
        await super().setUp()
        # Nobody says HELLO there.
        self.patch(successor, "HELLO_SECONDS", 0.001)

    def live(self, commit: Commit | str | None = COMMIT) -> tuple[Predecessor, str]:
        """
        Let another listener live at the path.

        @return: it, and its port.
        """
        sock = socket.create_server(("127.0.0.1", 0))
        other = Predecessor(self.path, [sock], commit=commit)
        self.addCleanup(other.remove)
        return other, f"tcp:{sock.getsockname()[1]}:interface=127.0.0.1"

    async def takeOver(self, commit: Commit | None = COMMIT) -> Predecessor:
        """
        Take over.
        """
        other, port = self.live(commit)
        self.start("--replace", port=port)
        return other

    async def greet(self, other: Predecessor) -> Peer:
        """
        Let the other listener greet the one that has joined it.
        """
        await eventually(lambda: other.transfer.heard(WorkerHello))
        ports = self.service._describePorts()
        other.transfer.say(ListenerHello(8, tuple(ports)))
        return other.transfer


class ServeTests(InheritingTestCase):
    """
    It takes over.
    """

    async def test_serves(self) -> None:
        """
        Clients and workers come to it.
        """
        other = await self.takeOver()
        worker, hello = await self.join()
        self.client(hello)
        await eventually(lambda: worker.heard(Offer))
        await eventually(lambda: len(other.heard) == 2)
        self.assertEqual(other.heard[1], Running(os.getpid()))

    async def test_waiting(self) -> None:
        """
        What waits at the other one comes, with the time that it has waited, and goes to
        a worker.
        """
        other = await self.takeOver()
        transfer = await self.greet(other)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        with accepted:
            transfer.say(
                Offer(1, 0, _kernel.cookie(accepted), 1000),
                descriptors=[accepted.fileno()],
            )
            await eventually(lambda: transfer.heard(Claim))
        (queue,) = self.service._wire._dispatcher._ledger.queues(
            self.service._wire._dispatcher.now()
        ).values()
        self.assertGreaterEqual(queue.oldest, 10)
        worker, _ = await self.join()
        await eventually(lambda: worker.heard(Offer))
        transfer.say(Bye("all is handed over"))
        transfer.socket.close()
        await eventually(
            lambda: any("handed over 1" in each for each in texts(self.logged, "info"))
        )

    async def test_state(self) -> None:
        """
        It is paused if the other one was, drains the workers that were drained, and
        denies what was denied.
        """
        denied = (("192.0.2.7", None), ("2001:db8::/32", 600.0))
        await self.takeOver(Commit(True, (os.getpid(),), denied))
        _, (newest, oldest) = self.service._wire._limiter.denials()
        self.assertEqual(oldest, Denial(networkOf("192.0.2.7")))
        self.assertEqual(newest.network, networkOf("2001:db8::/32"))
        assert newest.seconds is not None
        self.assertGreater(newest.seconds, 500)
        worker, _ = await self.greeted()
        worker.say(WorkerHello(16, frames=frozenset([Leave.TYPE])))
        await eventually(lambda: worker.heard(Leave))
        second, _ = await self.greeted()
        second.say(WorkerHello(16, frames=frozenset([Leave.TYPE])))
        await aMoment()
        # A process is drained once.
        self.assertEqual(second.heard(Leave), [])
        self.assertTrue(self.service._wire._pausing.paused)
        self.assertEqual(self.service._wire._dispatcher.roster.drained, (os.getpid(),))

    async def test_predecessorDead(self) -> None:
        """
        If the other one is dead by then, it serves alone.
        """
        await self.takeOver(None)
        await self.join()
        self.assertIsNone(self.service._wire._receiver)

    async def test_stop(self) -> None:
        """
        If it is told to stop, the other one hears so.
        """
        other = await self.takeOver()
        await self.service.stopService()
        other.join()
        self.assertEqual(other.heard[2:], [Stopping()])
        await aMoment()

    async def test_control(self) -> None:
        """
        Operators get answers at the same path.
        """
        await self.takeOver()
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(f"{self.path}.ctl")
        client.setblocking(False)
        client.send(encodeRequest(Workers()) + encodeRequest(Status()))
        received = b""

        def answers() -> bool:
            nonlocal received
            try:
                received += client.recv(65536)
            except BlockingIOError:
                pass
            return received.count(b"\n") == 2

        await eventually(answers)


class FailTests(InheritingTestCase):
    """
    It does not take over.
    """

    def fails(self, service: Any, *steps: str) -> str:
        """
        The last step of the start fails, and the other one's paths stay.

        @return: what standard error says.
        """
        output = io.StringIO()
        self.patch(sys, "__stderr__", output)
        *first, last = steps
        for each in first:
            getattr(service, each)()
        exit = self.assertRaises(StartFailure, getattr(service, last))
        self.assertEqual(exit.code, 1)
        for path in (self.path, f"{self.path}.ctl"):
            self.assertTrue(os.path.exists(path))
        return output.getvalue()

    async def test_late(self) -> None:
        """
        If the other one refuses at the end, the process ends with a line.
        """
        other, port = self.live("too late")
        service = self.make("--replace", port=port)
        text = self.fails(service, "privilegedStartService", "startService")
        self.assertEqual(
            text,
            f"portlisten: cannot take over from the listener at {self.path} (pid"
            f" {os.getpid()}): too late; it goes on\n",
        )
        other.join()

    async def test_portInUse(self) -> None:
        """
        If a port cannot be bound, the other one never hears that this one is ready.
        """
        other, port = self.live()
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        number = taken.getsockname()[1]
        service = self.make(
            "--replace", "--listen", f"tcp:{number}:interface=127.0.0.1", port=port
        )
        text = self.fails(service, "privilegedStartService")
        self.assertIn("Address already in use", text)
        other.join()
        self.assertEqual(other.heard, [])

    async def test_cannotServe(self) -> None:
        """
        If it cannot serve after it has taken over, the connection ends, and so the
        other one goes on.
        """
        other, port = self.live()
        service = self.make("--replace", port=port)

        def fail(*_: object) -> None:
            raise OSError(24, "Too many open files")

        self.patch(service._wire, "start", fail)
        text = self.fails(service, "privilegedStartService", "startService")
        self.assertIn("Too many open files", text)
        other.join()
        self.assertTrue(other.transfer.hasEnded())
