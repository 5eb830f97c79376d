"""
Tests for L{portlisten._asyncio.first_bytes} and L{portlisten._asyncio.recognition}:
servers whose clients speak first, over TCP and TLS.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import types
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._asyncio.first_bytes import feed
from portlisten._asyncio.recognition import clientsSpeakFirst, firstSeconds
from portlisten._wire.frames import Bye, Closed, Drained
from tests.support.asyncio_loops import (
    LoopTestCase,
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)
from tests.support.tls import certify, needsTLS


class Buffered(asyncio.BufferedProtocol):
    """
    Answers with what it got, through a small buffer.
    """

    def __init__(self, made: list[Any]) -> None:
        self.received = b""
        self._buffer = bytearray(3)
        made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> Any:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self.received += self._buffer[:count]
        if self.received.endswith(b"\n"):
            self.transport.write(self.received.upper())
            self.transport.close()


@onUvloopToo
class FirstBytesTests(LoopTestCase):
    """
    When the server's protocol is made.
    """

    async def connect(
        self, factory: Any = None, options: str = ":first=60"
    ) -> tuple[Any, Any]:
        """
        Hand a connection off.

        @return: the client's end, and the listener.
        """
        _, listener = await self.serve(factory, options)
        client, accepted = self.pair()
        listener.offer(1, accepted)
        await eventually(
            lambda: [each for each in self.connections if each.transport is not None]
        )
        return client, listener

    @property
    def connections(self) -> Any:
        """
        The connections that have not ended.
        """
        return self.server._worker.adopter.connections

    def test_silent(self) -> None:
        """
        The protocol is made when the client speaks, and gets the bytes in the same
        turn.
        """

        async def test() -> None:
            client, _ = await self.connect()
            await aMoment()
            self.assertEqual(self.talks, [])
            client.sendall(b"hello")
            await eventually(lambda: self.talks)
            self.assertEqual(self.talks[0].events, ["made", b"hello"])
            client.sendall(b"\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_time(self) -> None:
        """
        The protocol is made when the time is over.
        """

        async def test() -> None:
            client, _ = await self.connect(options=":first=0.02")
            await eventually(lambda: self.talks)
            self.assertEqual(self.talks[0].events, ["made"])
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_eof(self) -> None:
        """
        The protocol is made when the client ends its side.
        """

        async def test() -> None:
            client, _ = await self.connect()
            client.shutdown(socket.SHUT_WR)
            await eventually(lambda: self.talks)
            self.assertEqual(self.talks[0].events[:2], ["made", "eof"])

        self.complete(test())

    def test_lost(self) -> None:
        """
        If the client leaves without a word, no protocol is made.
        """

        async def test() -> None:
            client, listener = await self.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            await eventually(lambda: listener.heard(Closed))
            self.assertEqual(self.talks, [])
            self.assertEqual(self.bugs, [])

        self.complete(test())

    def test_closing(self) -> None:
        """
        A connection that waits for its client when the server is closed is served.
        """

        async def test() -> None:
            client, listener = await self.connect()
            self.server.close()
            listener.say(Drained())
            await aMoment()
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await self.server.wait_closed()
            self.assertEqual(len(listener.heard(Bye)), 1)

        self.complete(test())

    def test_buffered(self) -> None:
        """
        A protocol with a buffer of its own gets all bytes.
        """

        async def test() -> None:
            made: list[Any] = []
            client, _ = await self.connect(lambda: Buffered(made))
            client.sendall(b"hello")
            await eventually(lambda: made and made[0].received == b"hello")
            client.sendall(b", all of you\n")
            self.assertEqual(await hear(client), b"HELLO, ALL OF YOU\n")

        self.complete(test())

    def test_factoryFails(self) -> None:
        """
        If the factory fails, the connection is closed.
        """

        async def test() -> None:
            def factory() -> Any:
                raise ZeroDivisionError

            client, listener = await self.connect(factory)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"")
            await eventually(lambda: listener.heard(Closed))
            self.assertIsInstance(self.bugs[0]["exception"], ZeroDivisionError)

        self.complete(test())

    def test_closesAtOnce(self) -> None:
        """
        A protocol that closes the connection in C{connection_made} gets no bytes.
        """

        async def test() -> None:
            made = self.talks

            class Shy(self.Talk):  # type: ignore[name-defined, misc]
                def connection_made(self, transport: Any) -> None:
                    super().connection_made(transport)
                    transport.close()

            client, _ = await self.connect(Shy)
            client.sendall(b"hello\n")
            await hear(client)
            self.assertEqual(made[0].events, ["made", "lost"])

        self.complete(test())


@onUvloopToo
class TLSTests(LoopTestCase):
    """
    Connections with TLS.
    """

    skip = needsTLS or None

    async def serveTLS(self, options: str = "") -> Any:
        """
        Make a server with TLS.

        @return: the listener.
        """
        key, certificate = certify("localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        _, listener = await self.serve(None, options, ssl=context)
        self.trust = ssl.create_default_context(cafile=certificate)
        return listener

    async def shake(self, client: socket.socket) -> Any:
        """
        Do the client's part of the handshake.

        @return: the reader and the writer.
        """
        client.setblocking(False)
        return await asyncio.open_connection(
            sock=client, ssl=self.trust, server_hostname="localhost"
        )

    def test_service(self) -> None:
        """
        The protocol is made when the first byte within TLS is there, and the end is
        told once.
        """

        async def test() -> None:
            listener = await self.serveTLS()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            reader, writer = await self.shake(client)
            await aMoment()
            self.assertEqual(self.talks, [])
            writer.write(b"hello\n")
            self.assertEqual(await reader.read(), b"HELLO\n")
            self.assertEqual(self.talks[0].events[:2], ["made", b"hello\n"])
            writer.close()
            await eventually(lambda: listener.heard(Closed))
            await aMoment()
            self.assertEqual(listener.heard(Closed), [Closed((1,))])

        self.complete(test())

    def test_failedHandshake(self) -> None:
        """
        A handshake that fails is an end, too.
        """

        async def test() -> None:
            listener = await self.serveTLS()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            client.sendall(b"this is no TLS\n")
            await hear(client)
            await eventually(lambda: listener.heard(Closed))
            self.assertEqual(self.talks, [])
            self.assertEqual(self.bugs, [])

        self.complete(test())

    def test_closing(self) -> None:
        """
        A handshake that is under way when the server is closed is finished.
        """

        async def test() -> None:
            listener = await self.serveTLS()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await aMoment()
            self.server.close()
            listener.say(Drained())
            reader, writer = await self.shake(client)
            writer.write(b"hello\n")
            self.assertEqual(await reader.read(), b"HELLO\n")
            writer.close()
            await self.server.wait_closed()

        self.complete(test())


class RecognitionTests(SynchronousTestCase):
    """
    Tests for the default of the option C{first}.
    """

    def factory(self, module: str) -> Any:
        """
        Make a factory that a module defines.
        """

        def create() -> None:
            pass

        create.__module__ = module
        return create

    def test_servers(self) -> None:
        """
        The factories of HTTP servers are recognized, and others are not.
        """
        for module in ("uvicorn.server", "aiohttp.web_server", "hypercorn.asyncio.run"):
            factory = self.factory(module)
            self.assertTrue(clientsSpeakFirst(factory), module)
            self.assertTrue(clientsSpeakFirst(functools.partial(factory, 1)), module)
            self.assertTrue(clientsSpeakFirst(functools.wraps(factory)(lambda: None)))
            instance = type("Server", (), {"__module__": module})()
            self.assertTrue(clientsSpeakFirst(instance), module)
            method = types.MethodType(lambda self: None, instance)
            self.assertTrue(clientsSpeakFirst(method), module)
        self.assertFalse(clientsSpeakFirst(self.factory("uvicorns")))
        self.assertFalse(clientsSpeakFirst(print))

    def test_seconds(self) -> None:
        """
        What the operator says counts first.
        """
        server = self.factory("uvicorn.server")
        self.assertEqual(firstSeconds(server, False, None), 2.0)
        self.assertEqual(firstSeconds(print, True, None), 2.0)
        self.assertEqual(firstSeconds(print, False, None), 0.0)
        self.assertEqual(firstSeconds(server, True, 0.0), 0.0)
        self.assertEqual(firstSeconds(print, False, 3.0), 3.0)


class FeedTests(SynchronousTestCase):
    """
    Tests for L{feed}.
    """

    def test_noRoom(self) -> None:
        """
        A protocol without room is an error.
        """
        protocol = Buffered([])
        protocol._buffer = bytearray()
        self.assertRaises(RuntimeError, feed, protocol, b"x")
