"""
Tests for connections that a proxy begins with a header, in a worker of Twisted's.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from portlisten._ports.proxies import TIMEOUT_SECONDS
from portlisten._wire.frames import Closed
from portlisten._worker import tls
from portlisten._worker.worker import Worker
from portlisten.endpoints import PortlistenServerEndpoint, parse
from portlisten.errors import EndpointError
from tests.support.channels import PATIENCE, aMoment, eventually, texts
from tests.support.sharing import SharingTestCase
from tests.support.tls import certify, needsTLS
from tests.support.workers import (
    GRACE,
    RETRY,
    Conversations,
    Listener,
    WorkerTestCase,
    directlyToo,
    hear,
)

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
LINE6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"

CLIENT = IPv4Address("TCP", "192.0.2.1", 56324)
CLIENT6 = IPv6Address("TCP", "2001:db8::1", 56324)


class ProxiedTestCase(WorkerTestCase):
    """
    A worker that believes headers of the loopback address.
    """

    proxies: tuple[str, ...] = ("127.0.0.1",)

    def makeWorker(self) -> None:
        self.makeWorkerFor(self.factory)

    def makeWorkerFor(self, factory: IProtocolFactory) -> None:
        """
        Make the worker of another factory.
        """
        self.worker = Worker(
            *(self.reactor, self.path, factory, RETRY, GRACE),
            direct=self.direct,
            proxies=[ip_network(each) for each in self.proxies],
        )

    def offer(self, listener: Listener, sent: Iterable[bytes] = ()) -> socket.socket:
        """
        Hand off a connection.

        @param sent: what the proxy has sent by then.
        """
        client, accepted = self.client()
        for each in sent:
            client.sendall(each)
        listener.handOff(1, accepted)
        return client

    async def refused(self, listener: Listener, client: socket.socket) -> None:
        """
        Wait until a connection is refused.
        """
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(Closed), [Closed((1,))])
        self.assertEqual(await hear(client), b"")
        self.assertEqual(self.factory.conversations, [])
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "a connection from the proxy 127.0.0.1 is closed: it does not begin"
                " with a PROXY header"
            ],
        )


@directlyToo
class HeaderTests(ProxiedTestCase):
    """
    The header of a proxy that is believed.
    """

    async def talks(self, header: bytes, expected: Any) -> None:
        """
        See that a connection with a header is served, and whose it is.
        """
        listener = await self.join()
        client = self.offer(listener, [header + b"hello"])
        await eventually(lambda: self.factory.conversations)
        (conversation,) = self.factory.conversations
        await eventually(lambda: conversation.received == b"hello")
        if expected is None:
            expected = IPv4Address("TCP", *client.getsockname())
        self.assertEqual(self.factory.addresses, [expected])
        self.assertEqual(conversation.transport.getPeer(), expected)
        self.assertEqual(conversation.transport.getHost().host, "127.0.0.1")
        conversation.transport.loseConnection()
        self.assertEqual(await hear(client), b"")
        await eventually(lambda: listener.channel.heard(Closed))

    async def test_client(self) -> None:
        """
        It says who the client is, and the server's protocol does not see it.
        """
        await self.talks(LINE, CLIENT)

    async def test_otherFamily(self) -> None:
        """
        The client may come by another family than the proxy.
        """
        await self.talks(LINE6, CLIENT6)

    async def test_own(self) -> None:
        """
        The proxy may speak for itself.
        """
        await self.talks(UNKNOWN, None)

    async def test_late(self) -> None:
        """
        It may come late, and in parts.  The connection counts meanwhile.
        """
        listener = await self.join()
        client = self.offer(listener)
        for each in (LINE[:7], LINE[7:-1]):
            await eventually(lambda: self.worker._adopter.busy)
            client.sendall(each)
            await aMoment()
            self.clock.advance(0.1)
            self.assertEqual(self.factory.conversations, [])
        client.sendall(LINE[-1:])
        await aMoment()
        self.clock.advance(0.1)
        self.assertEqual(self.factory.addresses, [CLIENT])
        self.assertEqual(self.worker._adopter.count, 1)

    async def test_never(self) -> None:
        """
        It is not awaited for ever.
        """
        listener = await self.join()
        client = self.offer(listener, [LINE[:-1]])
        await eventually(lambda: self.worker._adopter.busy)
        for _ in range(300):
            self.clock.advance(TIMEOUT_SECONDS / 90)
        await self.refused(listener, client)

    async def test_missing(self) -> None:
        """
        A proxy that is believed must say who its client is.
        """
        listener = await self.join()
        await self.refused(listener, self.offer(listener, [b"GET / HTTP/1.1\r\n"]))

    async def test_stopped(self) -> None:
        """
        A worker that stops waits for the header, and serves its client.
        """
        listener = await self.join()
        client = self.offer(listener)
        await eventually(lambda: self.worker._adopter.busy)
        stopped = self.worker.stop()
        client.sendall(LINE)
        await aMoment()
        self.clock.advance(0.1)
        self.assertEqual(self.factory.addresses, [CLIENT])
        self.assertFalse(stopped.called)


@directlyToo
class OtherTests(ProxiedTestCase):
    """
    Everybody else.
    """

    proxies = ("127.0.0.2", "2001:db8::/32")

    async def test_notBelieved(self) -> None:
        """
        A header from elsewhere is what any other bytes are.
        """
        listener = await self.join()
        client = self.offer(listener, [LINE])
        await eventually(lambda: self.factory.conversations)
        (conversation,) = self.factory.conversations
        await eventually(lambda: conversation.received == LINE)
        peer = IPv4Address("TCP", *client.getsockname())
        self.assertEqual(conversation.transport.getPeer(), peer)
        self.assertEqual(self.factory.addresses, [peer])


class SharedTests(SharingTestCase, ProxiedTestCase):
    """
    Connections that the worker accepts itself.
    """

    direct = True

    async def open(self) -> socket.socket:
        """
        Share a socket, as if the reactor were one of Twisted's.
        """
        listener = await self.join()
        ports: Any = self.worker._sharedPorts
        ports._direct = reactor
        sock = self.port()
        self.share(listener, sock)
        await eventually(lambda: ports._ports)
        return sock

    async def test_shared(self) -> None:
        """
        They are no other than those that are handed off.
        """
        sock = await self.open()
        client = self.connect(sock)
        client.sendall(LINE + b"hello")
        await eventually(lambda: self.factory.conversations)
        (conversation,) = self.factory.conversations
        await eventually(lambda: conversation.received == b"hello")
        self.assertEqual(conversation.transport.getPeer(), CLIENT)

    async def test_none(self) -> None:
        """
        So are those without a header.
        """
        sock = await self.open()
        client = self.connect(sock)
        client.sendall(b"hello")
        self.assertEqual(await hear(client), b"")
        self.assertEqual(self.factory.conversations, [])


@directlyToo
class TLSTests(ProxiedTestCase):
    """
    TLS begins behind the header.
    """

    skip = needsTLS or None

    async def test_client(self) -> None:
        """
        The server sees the client's address, and what TLS carries.
        """
        from twisted.protocols.tls import TLSMemoryBIOFactory

        key, certificate = certify(self.id().rsplit(".", 1)[-1])
        context = tls.contextFactory({"privateKey": key, "certKey": certificate})
        clear = Conversations()
        clock: Any = self.reactor
        self.makeWorkerFor(TLSMemoryBIOFactory(context, False, clear, clock))
        listener = await self.join()
        client = self.offer(listener, [LINE])

        def talk() -> None:
            client.settimeout(PATIENCE)
            trusting = ssl.create_default_context(cafile=certificate)
            with trusting.wrap_socket(client, server_hostname="localhost") as secure:
                secure.sendall(b"hello")

        await deferToThread(talk)
        (conversation,) = clear.conversations
        await eventually(lambda: conversation.received == b"hello")
        self.assertEqual(conversation.transport.getPeer(), CLIENT)
        self.assertEqual(clear.addresses, [CLIENT])


class EndpointTests(SynchronousTestCase):
    """
    Tests for the option C{proxyFrom}.
    """

    def test_parsed(self) -> None:
        """
        A description may have networks of both families.
        """
        endpoint: Any = parse(reactor, "path", proxyFrom="10.0.0.0/8,2001:db8::1")
        self.assertEqual(
            endpoint._proxies, [ip_network("10.0.0.0/8"), ip_network("2001:db8::1")]
        )

    def test_wrong(self) -> None:
        """
        Anything else is refused.
        """
        for text, why in [
            ("here", "here"),
            ("", "it has no network"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("10.0.0.1,10.0.0.1", "twice"),
        ]:
            error = self.assertRaises(
                EndpointError, parse, reactor, "path", proxyFrom=text
            )
            self.assertIn("proxyFrom: ", str(error))
            self.assertIn(why, str(error))
        self.assertRaises(
            ValueError,
            *(PortlistenServerEndpoint, reactor, "path"),
            proxyFrom=["here"],
        )

    def test_otherReactor(self) -> None:
        """
        A reactor that makes transports in a way of its own is refused.
        """

        class Other:
            def adoptStreamConnection(self) -> None:
                pass

        error = self.assertRaises(
            EndpointError, parse, Other(), "path", proxyFrom="10.0.0.1"
        )
        self.assertIn("proxyFrom needs one of Twisted's own reactors", str(error))
