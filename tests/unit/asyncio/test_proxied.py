"""
Tests for connections that a proxy begins with a header, in a worker of asyncio.
"""

from __future__ import annotations

import importlib.util
import ssl
from typing import Any

import portlisten.asyncio
from portlisten._ports import proxies
from portlisten._wire.frames import Closed
from portlisten.errors import EndpointError
from tests.support.asyncio_loops import LoopTestCase, eventually, hear
from tests.support.channels import PATIENCE
from tests.support.tls import certify, needsTLS

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
LINE6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"

BELIEVES = ":proxyFrom=127.0.0.0/8"


class HeaderTests(LoopTestCase):
    """
    Tests for the option C{proxyFrom}.
    """

    async def peer(self, header: bytes, options: str = BELIEVES) -> Any:
        """
        Let a connection with a header be served.

        @return: the address that the server's protocol sees.
        """
        _, listener = await self.serve(options=options)
        client, accepted = self.pair()
        client.sendall(header + b"hello\n")
        listener.offer(7, accepted)
        await eventually(lambda: self.talks and self.talks[0].received[-6:])
        transport = self.talks[0].transport
        name = transport.get_extra_info("peername")
        sock = transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            self.assertEqual(sock.getpeername(), name)
        self.received = self.talks[0].received
        self.assertEqual(await hear(client), self.received.upper())
        await eventually(lambda: listener.heard(Closed))
        return name, client.getsockname

    def test_client(self) -> None:
        """
        The transport gives the client's address, and the protocol does not see the
        header.
        """
        name, _ = self.complete(self.peer(LINE))
        self.assertEqual(name, ("192.0.2.1", 56324))
        self.assertEqual(self.received, b"hello\n")

    def test_otherFamily(self) -> None:
        """
        The client may come by another family than the proxy.
        """
        name, _ = self.complete(self.peer(LINE6))
        self.assertEqual(name, ("2001:db8::1", 56324, 0, 0))

    def test_notBelieved(self) -> None:
        """
        A header from elsewhere is what any other bytes are.
        """
        name, _ = self.complete(self.peer(LINE, ":proxyFrom=127.0.0.2"))
        self.assertEqual(name[0], "127.0.0.1")
        self.assertEqual(self.received, LINE + b"hello\n")

    def refused(self, sent: bytes) -> None:
        """
        See that a connection is closed.
        """

        async def test() -> None:
            _, listener = await self.serve(options=BELIEVES)
            client, accepted = self.pair()
            client.sendall(sent)
            listener.offer(7, accepted)
            await eventually(lambda: listener.heard(Closed))
            self.assertEqual(await hear(client), b"")

        self.complete(test())
        self.assertEqual(self.talks, [])
        self.assertTrue(
            any("from the proxy 127.0.0.1" in each for each in self.log.lines)
        )

    def test_missing(self) -> None:
        """
        A proxy that is believed must say who its client is.
        """
        self.refused(b"GET / HTTP/1.1\r\n")

    def test_never(self) -> None:
        """
        The header is not awaited for ever.
        """
        self.patch(proxies, "TIMEOUT_SECONDS", 0.05)
        self.refused(LINE[:-1])

    def test_late(self) -> None:
        """
        The header may come late.
        """

        async def test() -> None:
            _, listener = await self.serve(options=BELIEVES)
            client, accepted = self.pair()
            listener.offer(7, accepted)
            await eventually(lambda: self.server._worker.adopter.connections)
            client.sendall(LINE + b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_tls(self) -> None:
        """
        TLS begins behind the header.
        """
        if needsTLS:
            self.skipTest(needsTLS)
        key, certificate = certify("asyncio-proxied")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        names: list[Any] = []

        class Noting(self.Talk):  # type: ignore[name-defined, misc]
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                names.append(transport.get_extra_info("peername"))

        async def test() -> None:
            _, listener = await self.serve(Noting, options=BELIEVES, ssl=context)
            client, accepted = self.pair()
            client.sendall(LINE)
            listener.offer(7, accepted)

            def talk() -> bytes:
                client.settimeout(PATIENCE)
                trusting = ssl.create_default_context(cafile=certificate)
                with trusting.wrap_socket(
                    client, server_hostname="localhost"
                ) as secure:
                    secure.sendall(b"hello\n")
                    return secure.recv(100)

            answer = await self.loop.run_in_executor(None, talk)
            self.assertEqual(answer, b"HELLO\n")
            self.assertEqual(names, [("192.0.2.1", 56324)])

        self.complete(test())


class UvloopTests(LoopTestCase):
    """
    uvloop asks the kernel for the address.
    """

    makeLoop = staticmethod(portlisten.asyncio.uvloopLoop)

    if importlib.util.find_spec("uvloop") is None:
        skip = "uvloop is not installed: pip install uvloop"

    def test_refused(self) -> None:
        """
        So the option is refused, and the error says what to do.
        """
        work = self.loop.create_server(self.Talk, "portlisten:channel" + BELIEVES)
        error = self.assertRaises(EndpointError, work.send, None)
        self.assertIn("use portlisten.asyncio:asyncioLoop", str(error))
