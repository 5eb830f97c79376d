"""
Tests for L{portlisten._asyncio.server}: servers that serve connections of a listener
which writes its frames by hand.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from functools import partial
from typing import Any

from portlisten._wire.frames import (
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Refuse,
    Revoked,
)
from tests.support.asyncio_loops import (
    LoopTestCase,
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)


@onUvloopToo
class ServiceTests(LoopTestCase):
    """
    How connections are served.
    """

    def test_service(self) -> None:
        """
        An offer is claimed and served, and its end is told once.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(7, accepted)
            await eventually(lambda: listener.heard(Claim))
            self.assertEqual(listener.heard(Claim), [Claim((7,))])
            await eventually(lambda: self.talks)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await eventually(lambda: listener.heard(Closed))
            await aMoment()
            self.assertEqual(listener.heard(Closed), [Closed((7,))])
            self.assertEqual(self.talks[0].events, ["made", b"hello\n", "lost"])
            await self.leave(listener)

        self.complete(test())

    async def leave(self, listener: Any) -> None:
        """
        Close the server in good order.
        """
        self.server.close()
        await eventually(lambda: listener.heard(Drain))
        listener.say(Drained())
        await self.server.wait_closed()
        await eventually(lambda: listener.heard(Bye))

    def test_peer(self) -> None:
        """
        The transport knows the client's address, and the socket has TCP_NODELAY.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(7, accepted)
            await eventually(lambda: self.talks)
            transport = self.talks[0].transport
            self.assertEqual(transport.get_extra_info("peername"), client.getsockname())
            sock = transport.get_extra_info("socket")
            option = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            self.assertTrue(option)
            transport.abort()
            await self.leave(listener)

        self.complete(test())

    def test_gone(self) -> None:
        """
        If the client had left, no protocol is made, and the listener is told.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            linger = b"\1\0\0\0\0\0\0\0"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()
            listener.offer(7, accepted)
            await eventually(lambda: listener.heard(ClientGone))
            self.assertEqual(listener.heard(ClientGone), [ClientGone((7,))])
            self.assertEqual(self.talks, [])
            self.assertEqual(listener.heard(Closed), [])
            await self.leave(listener)

        self.complete(test())

    def test_factoryFails(self) -> None:
        """
        If the factory fails, the connection is closed, and the next one is served.
        """

        async def test() -> None:
            failures = [ZeroDivisionError()]

            def factory() -> Any:
                if failures:
                    raise failures.pop()
                return self.Talk()

            _, listener = await self.serve(factory)
            client, accepted = self.pair()
            listener.offer(1, accepted)
            self.assertEqual(await hear(client), b"")
            await eventually(lambda: listener.heard(Closed))
            [bug] = self.bugs
            self.assertIsInstance(bug["exception"], ZeroDivisionError)
            client, accepted = self.pair()
            listener.offer(2, accepted)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await self.leave(listener)

        self.complete(test())

    def test_heldCopy(self) -> None:
        """
        If the listener still has its copy, the client sees the end all the same, or the
        listener is told at once.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted, close=False)
            client.sendall(b"hello\n")
            await eventually(lambda: listener.heard(Closed))
            accepted.close()
            self.assertEqual(await hear(client), b"HELLO\n")
            await self.leave(listener)

        self.complete(test())

    def test_streams(self) -> None:
        """
        C{start_server} serves with streams.
        """

        async def test() -> None:
            import portlisten.asyncio

            self.path = self.bind()

            async def answer(reader: Any, writer: Any) -> None:
                writer.write((await reader.readline()).upper())
                await writer.drain()
                writer.close()

            self.server = await portlisten.asyncio.start_server(
                answer, "portlisten:channel"
            )
            listener = await self.accept(self.path)
            await listener.greet()
            client, accepted = self.pair()
            listener.offer(7, accepted)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await self.leave(listener)

        self.complete(test())


@onUvloopToo
class CloseTests(LoopTestCase):
    """
    How a server is closed.
    """

    def test_drains(self) -> None:
        """
        A server that is closed refuses what it has not claimed, serves on what it has,
        and says BYE after the last.
        """

        async def test() -> None:
            server, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            self.assertTrue(server.is_serving())
            server.close()
            self.assertFalse(server.is_serving())
            await eventually(lambda: listener.heard(Drain))
            _, late = self.pair()
            listener.offer(2, late)
            listener.say(Drained())
            await eventually(lambda: listener.heard(Refuse))
            self.assertEqual(listener.heard(Refuse)[0].ids, (2,))
            closed = self.loop.create_task(server.wait_closed())
            await aMoment()
            self.assertFalse(closed.done())
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await closed
            await eventually(lambda: listener.heard(Bye))
            await eventually(listener.hasEnded)

        self.complete(test())

    def test_grace(self) -> None:
        """
        C{wait_closed} does not wait for longer than the grace.
        """

        async def test() -> None:
            server, listener = await self.serve(options=":grace=0.05")
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            async with server:
                server.close()
                await eventually(lambda: listener.heard(Drain))
                listener.say(Drained())
                await server.wait_closed()
            await eventually(lambda: listener.heard(Bye))
            self.assertIn("still in service", self.log.lines[-1])
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_whileJoining(self) -> None:
        """
        A server that is closed before the listener answers says BYE.
        """

        async def test() -> None:
            self.path = self.bind()
            server = await self.loop.create_server(self.Talk, "portlisten:channel")
            listener = await self.accept(self.path)
            server.close()
            await server.wait_closed()
            self.assertEqual(len(listener.heard(Bye)), 1)

        self.complete(test())

    def test_withoutListener(self) -> None:
        """
        A server can be closed while it waits for a listener, or before it was started.
        """

        async def test() -> None:
            create = self.loop.create_server
            server = await create(self.Talk, "portlisten:channel")
            self.assertTrue(server.is_serving())
            server.close()
            await server.wait_closed()
            server = await create(self.Talk, "portlisten:channel", start_serving=False)
            self.assertFalse(server.is_serving())
            server.close()
            await server.wait_closed()
            with self.assertRaisesRegex(RuntimeError, "closed"):
                await server.start_serving()

        self.complete(test())

    def test_serveForever(self) -> None:
        """
        If C{serve_forever} is cancelled, the server is closed first.
        """

        async def test() -> None:
            server, listener = await self.serve(start_serving=True)
            serving = self.loop.create_task(server.serve_forever())
            await aMoment()
            with self.assertRaisesRegex(RuntimeError, "already"):
                await server.serve_forever()
            serving.cancel()
            await eventually(lambda: listener.heard(Drain))
            self.assertFalse(serving.done())
            listener.say(Drained())
            with self.assertRaises(asyncio.CancelledError):
                await serving
            self.assertEqual(len(listener.heard(Bye)), 1)

        self.complete(test())

    def test_clients(self) -> None:
        """
        C{close_clients} and C{abort_clients} end the connections.
        """

        async def test() -> None:
            server, listener = await self.serve()
            for id, end in enumerate((server.close_clients, server.abort_clients)):
                client, accepted = self.pair()
                listener.offer(id, accepted)
                await eventually(partial(self.made, id))
                await aMoment()
                end()
                self.assertEqual(await hear(client), b"")
                await eventually(partial(self.told, listener, id))

        self.complete(test())

    def made(self, id: int) -> bool:
        return len(self.talks) > id

    def told(self, listener: Any, id: int) -> bool:
        return len(listener.heard(Closed)) > id

    def test_accessors(self) -> None:
        """
        A server has no sockets, and knows its loop.
        """

        async def test() -> None:
            server, _ = await self.serve()
            self.assertEqual(tuple(server.sockets), ())
            self.assertIs(server.get_loop(), self.loop)

        self.complete(test())


@onUvloopToo
class LoopCloseTests(LoopTestCase):
    """
    What becomes of a server whose loop is closed.
    """

    def test_closed(self) -> None:
        """
        All descriptors are closed, and the listener sees the worker dead.
        """

        async def test() -> Any:
            _, listener = await self.serve()
            _, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            self.talks[0].transport.close()
            await aMoment()
            return listener

        listener = self.complete(test())
        self.loop.close()
        self.assertTrue(listener.hasEnded())
        self.assertEqual(listener.heard(Bye), [])

    def test_untouched(self) -> None:
        """
        A connection in service does not end for other processes that have it.
        """

        async def test() -> Any:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted, close=False)
            await eventually(lambda: self.talks)
            await aMoment()
            return client, accepted

        client, accepted = self.complete(test())
        self.loop.close()
        self.talks.clear()
        gc.collect()
        accepted.sendall(b"by another worker")
        accepted.close()
        client.setblocking(True)
        self.assertEqual(client.recv(99), b"by another worker")
        self.flushWarnings()


@onUvloopToo
class RejoinTests(LoopTestCase):
    """
    How a worker finds its listener, and the next one.
    """

    def test_nextListener(self) -> None:
        """
        If the listener dies, connections go on, and the worker joins the next one.
        """

        async def test() -> None:
            _, listener = await self.serve(options=":retry=0.01")
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            listener.close()
            successor = await self.accept(self.path)
            await successor.greet()
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            other, accepted = self.pair()
            successor.offer(1, accepted)
            other.sendall(b"more\n")
            self.assertEqual(await hear(other), b"MORE\n")
            self.assertTrue(any("lost the listener" in each for each in self.log.lines))

        self.complete(test())

    def test_offersOfTheDead(self) -> None:
        """
        If the listener dies, the worker serves what it had been offered.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            listener.close()
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_offersOfTheRevoked(self) -> None:
        """
        If the listener has revoked the worker, its unclaimed offers are left alone.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            # So that the worker cannot claim before it has read all.
            listener.say(Revoked(), descriptors=[accepted.fileno()])
            listener.socket.shutdown(socket.SHUT_RDWR)
            await aMoment()
            accepted.sendall(b"by another worker")
            accepted.close()
            self.assertEqual(await hear(client), b"by another worker")
            self.assertEqual(self.talks, [])

        self.complete(test())

    def test_reasons(self) -> None:
        """
        A reason why there is no listener is logged once.
        """

        async def test() -> None:
            create = self.loop.create_server
            server = await create(self.Talk, "portlisten:channel:retry=0.005")
            await asyncio.sleep(0.05)
            self.assertEqual(len(self.log.lines), 1)
            self.assertIn("waiting for a listener at channel", self.log.lines[0])
            server.close()
            await server.wait_closed()

        self.complete(test())

    def test_wrongName(self) -> None:
        """
        If the listener has no such port, the worker says so, and waits longer.
        """

        async def test() -> None:
            self.path = self.bind()
            await self.loop.create_server(
                self.Talk, "portlisten:channel:name=mail:retry=0.01"
            )
            listener = await self.accept(self.path)
            await listener.greet()
            await eventually(lambda: listener.heard(Bye))
            await eventually(lambda: self.log.lines)
            self.assertIn("cannot serve this worker", self.log.lines[-1])
            self.assertIn("every 5 s", self.log.lines[-1])

        self.complete(test())

    def test_wrongUser(self) -> None:
        """
        A listener of a user that is not allowed is not joined.
        """

        async def test() -> None:
            self.path = self.bind()
            await self.loop.create_server(
                self.Talk, "portlisten:channel:listenerUser=daemon"
            )
            self.assertIn("must name it", self.log.lines[-1])

        self.complete(test())
