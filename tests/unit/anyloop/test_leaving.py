"""
Tests for how a worker in asyncio drains when its listener asks for it, what it reports,
and L{portlisten._asyncio.draining}.
"""

from __future__ import annotations

import asyncio
from typing import Any

from zope.interface import implementer

from portlisten._anyloop import worker as _worker
from portlisten._wire.frames import (
    Bye,
    Drain,
    Drained,
    Leave,
    ListenerHello,
    Serving,
    WorkerHello,
)
from portlisten.interfaces import IDrainable
from tests.support.asyncio_loops import (
    HELLO,
    LoopTestCase,
    Talk,
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)
from tests.support.channels import PATIENCE


@implementer(IDrainable)
class Drainable(Talk):
    """
    Closes the connection when it is told to drain.
    """

    def drain(self) -> None:
        self.events.append("drain")
        self.transport.write(b"bye")
        self.transport.close()


class LeavingTestCase(LoopTestCase):
    """
    The base.
    """

    def setUp(self) -> None:
        super().setUp()
        self.Drainable = type("Drainable", (Drainable,), {"made": self.talks})

    async def talk(self, listener: Any, id: int) -> Any:
        """
        Hand a connection off.

        @return: the client's end.
        """
        client, accepted = self.pair()
        before = len(self.talks)
        listener.offer(id, accepted)
        await eventually(lambda: len(self.talks) > before)
        await aMoment()
        return client


@onUvloopToo
class LeaveTests(LeavingTestCase):
    """
    Tests for LEAVE.
    """

    def test_leave(self) -> None:
        """
        The worker drains, ends the connections that can be ended, keeps the channel,
        and its server goes on.
        """

        async def test() -> None:
            server, listener = await self.serve(self.Drainable)
            client = await self.talk(listener, 1)
            listener.say(Leave())
            await eventually(lambda: listener.heard(Drain))
            self.assertEqual(await hear(client), b"bye")
            listener.say(Drained())
            await aMoment()
            self.assertEqual(listener.heard(Bye), [])
            self.assertTrue(server.is_serving())

        self.complete(test())

    def test_rejoin(self) -> None:
        """
        After the listener's BYE, the worker joins at once, and does not drain.
        """

        async def test() -> None:
            _, listener = await self.serve(self.Drainable, ":retry=60")
            kept = await self.talk(listener, 1)
            listener.say(Leave())
            await eventually(lambda: listener.heard(Drain))
            self.assertEqual(await hear(kept), b"bye")
            listener.say(Drained(), Bye("join again"))
            listener.socket.shutdown(1)
            again = await self.accept(self.path)
            await again.greet()
            client = await self.talk(again, 1)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.assertNotIn("drain", self.talks[-1].events)

        self.complete(test())

    def test_died(self) -> None:
        """
        If the listener dies meanwhile, the worker drains no longer, and waits as usual
        before it joins the next one.
        """

        async def test() -> None:
            _, listener = await self.serve(self.Drainable, ":retry=0.01")
            listener.say(Leave())
            await eventually(lambda: listener.heard(Drain))
            listener.close()
            successor = await self.accept(self.path)
            await successor.greet()
            self.assertIn("this worker drains no longer", self.log.lines)
            client = await self.talk(successor, 1)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.assertNotIn("drain", self.talks[-1].events)

        self.complete(test())

    def test_whileStopping(self) -> None:
        """
        LEAVE is nothing new to a worker that stops, and after BYE it does not join
        again.
        """

        async def test() -> None:
            server, listener = await self.serve(options=":retry=0.01")
            client = await self.talk(listener, 1)
            server.close()
            listener.say(Leave(), Drained())
            await eventually(lambda: listener.heard(Drain))
            await aMoment()
            self.assertEqual(len(listener.heard(Drain)), 1)
            listener.say(Bye("join again"))
            listener.close()
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await server.wait_closed()
            self.assertFalse(any("asks this" in each for each in self.log.lines))
            with self.assertRaises(BlockingIOError):
                self.path.accept()

        self.complete(test())

    def test_firstBytes(self) -> None:
        """
        A connection that waits for its client is asked to drain once it is served.
        """

        async def test() -> None:
            _, listener = await self.serve(self.Drainable, ":first=yes")
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await aMoment()
            listener.say(Leave())
            await eventually(lambda: listener.heard(Drain))
            self.assertEqual(self.talks, [])
            client.sendall(b"hello")
            self.assertEqual(await hear(client), b"HELLObye")
            self.assertEqual(self.talks[0].events[:3], ["made", b"hello", "drain"])

        self.complete(test())

    def test_stop(self) -> None:
        """
        A server that is closed asks its protocols to drain, each once, also if it was
        told to leave before.
        """

        async def test() -> None:
            class Patient(self.Drainable):  # type: ignore[name-defined, misc]
                def drain(self) -> None:
                    self.events.append("drain")

            server, listener = await self.serve(Patient)
            client = await self.talk(listener, 1)
            listener.say(Leave())
            await eventually(lambda: listener.heard(Drain))
            server.close()
            listener.say(Drained())
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await server.wait_closed()
            self.assertEqual(self.talks[0].events.count("drain"), 1)

        self.complete(test())

    def test_fails(self) -> None:
        """
        A protocol that fails to drain is logged, and the others are asked.
        """

        async def test() -> None:
            failing = [True]

            class Failing(self.Drainable):  # type: ignore[name-defined, misc]
                def drain(self) -> None:
                    if failing and failing.pop():
                        raise ZeroDivisionError
                    super().drain()

            server, listener = await self.serve(Failing, ":grace=0.05")
            clients = [await self.talk(listener, id) for id in range(2)]
            server.close()
            listener.say(Drained())
            await server.wait_closed()
            self.assertTrue(any("failed to drain" in each for each in self.log.lines))
            drained = [each for each in self.talks if "drain" in each.events]
            self.assertEqual(len(drained), 1)
            for each in clients:
                each.close()

        self.complete(test())


@onUvloopToo
class ServingTests(LeavingTestCase):
    """
    Tests for SERVING.
    """

    def test_kept(self) -> None:
        """
        Connections of an earlier channel are reported, and those of this one are not.
        """

        async def test() -> None:
            self.patch(_worker, "REPORT_SECONDS", 0.005)
            _, listener = await self.serve(None, ":retry=0.01")
            await eventually(lambda: listener.heard(Serving))
            client = await self.talk(listener, 1)
            await aMoment()
            self.assertEqual(listener.heard(Serving), [Serving(0)])
            listener.close()
            successor = await self.accept(self.path)
            await successor.greet()
            await eventually(lambda: successor.heard(Serving))
            self.assertEqual(successor.heard(Serving), [Serving(1)])
            client.close()
            await eventually(lambda: successor.heard(Serving)[1:])
            self.assertEqual(successor.heard(Serving)[-1], Serving(0))

        self.complete(test())

    def test_older(self) -> None:
        """
        A listener that does not know the frame gets none.
        """

        async def test() -> None:
            self.path = self.bind()
            await self.loop.create_server(
                self.Talk, "portlisten:channel:limit=5:first=yes"
            )
            listener = await self.accept(self.path)
            await listener.greet(ListenerHello(8, HELLO.ports))
            await eventually(lambda: self.log.lines[1:])
            await aMoment()
            self.assertEqual(listener.heard(Serving), [])
            self.assertIn("ignores limit and first", self.log.lines[-1])

        self.complete(test())

    def test_hello(self) -> None:
        """
        The worker's HELLO has what the description says.
        """

        async def test() -> None:
            self.path = self.bind()
            await self.loop.create_server(
                self.Talk,
                "portlisten:channel:limit=5:first=yes:label=web-1:name=www,mail",
            )
            listener = await self.accept(self.path)
            hello = await listener.greet()
            self.assertIsInstance(hello, WorkerHello)
            self.assertEqual(hello.limit, 5)
            self.assertEqual(hello.first, 2000)
            self.assertEqual(hello.label, "web-1")
            self.assertEqual(hello.names, ("www", "mail"))
            self.assertIn(Leave.TYPE, hello.frames)

        self.complete(test())


@onUvloopToo
class StartTLSTests(LeavingTestCase):
    """
    Protocols behind layers.
    """

    def test_replaced(self) -> None:
        """
        The protocol that has the connection when it drains is asked, not the first.
        """

        async def test() -> None:
            server, listener = await self.serve()
            client = await self.talk(listener, 1)
            second = self.Drainable()
            second.connection_made(self.talks[0].transport)
            self.talks[0].transport.set_protocol(second)
            server.close()
            listener.say(Drained())
            self.assertEqual(await hear(client), b"bye")
            await asyncio.wait_for(server.wait_closed(), PATIENCE)

        self.complete(test())
