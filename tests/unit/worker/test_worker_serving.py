"""
Tests for L{portlisten._worker.worker}: connections adopted into a real reactor, from
a listener that writes its frames by hand.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import warnings
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory

from portlisten._wire.frames import (
    ClientGone,
    Closed,
    Drain,
    Drained,
)
from tests.support.channels import aMoment, eventually, tcpPair, texts
from tests.support.workers import (
    RETRY,
    Conversation,
    HalfConversation,
    Listener,
    WorkerTestCase,
    directlyToo,
    exhausted,
    hear,
)


@directlyToo
class ServiceTests(WorkerTestCase):
    """
    How connections are served.
    """

    async def check(self, client: socket.socket, accepted: socket.socket) -> Any:
        """
        Hand off a connection, and see that both sides can talk over it.

        @return: the protocol's transport.
        """
        self.addCleanup(client.close)
        listener = await self.join()
        listener.handOff(1, accepted)
        await eventually(lambda: self.factory.conversations)
        [conversation] = self.factory.conversations
        client.sendall(b"ping")
        await eventually(lambda: conversation.received == b"ping")
        conversation.transport.write(b"pong")
        self.assertEqual(await hear(client), b"pong")
        self.assertEqual(len(self.factory.addresses), 1)
        return conversation.transport

    async def test_ipv4(self) -> None:
        """
        A connection over IPv4 is served as such, and shows the client's own
        address.
        """
        client, accepted = tcpPair()
        address = IPv4Address("TCP", *client.getsockname())
        transport = await self.check(client, accepted)
        self.assertEqual(transport.getPeer(), address)
        self.assertEqual(self.factory.addresses, [address])
        self.assertEqual(transport.getHost().port, client.getpeername()[1])

    async def test_ipv6(self) -> None:
        """
        So is one over IPv6.
        """
        client, accepted = tcpPair(socket.AF_INET6)
        address = IPv6Address("TCP", *client.getsockname())
        transport = await self.check(client, accepted)
        self.assertEqual(transport.getPeer(), address)
        self.assertEqual(self.factory.addresses, [address])

    async def test_unix(self) -> None:
        """
        So is one over a Unix socket.
        """
        client, accepted = socket.socketpair()
        accepted.setblocking(False)
        transport = await self.check(client, accepted)
        self.assertIsInstance(transport.getPeer(), UNIXAddress)

    async def test_transport(self) -> None:
        """
        The protocol has the transport itself, and closes the connection through
        it as ever.  The listener is told, and the worker forgets it.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener, id=5)
        self.assertEqual(len(self.worker.serving), 1)
        conversation.transport.write(b"that is all")
        conversation.transport.loseConnection()
        await eventually(lambda: conversation.lost)
        self.assertEqual(await hear(client), b"that is all")
        self.assertEqual(await hear(client), b"")
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(Closed), [Closed((5,))])
        self.assertEqual(len(self.worker.serving), 0)

    async def test_clientCloses(self) -> None:
        """
        A client's end of the connection is the end of it where the protocol
        does not ask for more.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        client.shutdown(socket.SHUT_WR)
        await eventually(lambda: conversation.lost)
        await eventually(lambda: listener.channel.heard(Closed))

    async def test_halfClose(self) -> None:
        """
        A protocol that can go on without being told more, or without telling
        more, may.
        """
        self.factory.build = HalfConversation
        listener = await self.join()
        client, conversation = await self.serve(listener)
        client.shutdown(socket.SHUT_WR)
        await eventually(lambda: conversation.readLost)
        self.assertFalse(conversation.lost)
        conversation.transport.write(b"one thing more")
        conversation.transport.loseWriteConnection()
        await eventually(lambda: conversation.writeLost)
        self.assertEqual(await hear(client), b"one thing more")
        self.assertEqual(await hear(client), b"")

    async def test_logPrefix(self) -> None:
        """
        What is logged while a protocol runs carries its name, or the prefix that
        it chose.
        """
        listener = await self.join()
        await self.serve(listener, id=1)
        self.factory.build = HalfConversation
        await self.serve(listener, id=2)
        self.assertEqual(
            {served.logPrefix() for served in self.worker.serving},
            {"Conversation", "half a conversation"},
        )

    async def test_lastsLonger(self) -> None:
        """
        A connection in service outlives the channel that it came by.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        client.sendall(b"still there?")
        await eventually(lambda: conversation.received)
        conversation.transport.loseConnection()
        await eventually(lambda: not self.worker.serving)


@directlyToo
class TroubleTests(WorkerTestCase):
    """
    Connections that cannot be served.
    """

    async def check(self) -> None:
        """
        Hand off two connections, and see that the first is closed and reported
        so, and that the second is served.
        """
        listener = await self.join()
        client, accepted = self.client()
        listener.handOff(1, accepted)
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(Closed), [Closed((1,))])
        self.assertEqual(await hear(client), b"")
        self.assertEqual(self.worker.serving, set())
        self.factory.build = Conversation
        self.factory.made = lambda conversation: None
        self.reactor.adopting = lambda: None
        client, conversation = await self.serve(listener, id=2)
        client.sendall(b"ping")
        await eventually(lambda: conversation.received == b"ping")

    async def test_clientGone(self) -> None:
        """
        A client that reset the connection before it was adopted is reported as
        such, and nothing to make a noise about.
        """
        listener = await self.join()
        client, accepted = self.client()
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        with warnings.catch_warnings():
            # Twisted leaves its duplicate to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            listener.handOff(1, accepted)
            await eventually(lambda: listener.channel.heard(ClientGone))
        self.assertEqual(listener.channel.heard(ClientGone), [ClientGone((1,))])
        self.assertEqual(listener.channel.heard(Closed), [])
        self.assertEqual(self.factory.addresses, [])
        self.assertEqual(texts(self.logged, "critical"), [])

    async def test_clientGoneAfterAll(self) -> None:
        """
        A client that closed in order is served what it sent.
        """
        listener = await self.join()
        client, accepted = self.client()
        client.sendall(b"post this")
        client.close()
        listener.handOff(1, accepted)
        await eventually(lambda: self.factory.conversations)
        await eventually(lambda: self.factory.conversations[0].lost)
        self.assertEqual(self.factory.conversations[0].received, b"post this")
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(ClientGone), [])

    async def test_noProtocol(self) -> None:
        """
        A factory may have no protocol for a client.
        """
        self.factory.build = lambda factory: None
        await self.check()

    async def test_buildProtocolRaises(self) -> None:
        """
        A factory that fails costs one connection, and is logged.
        """

        def fail(factory: Factory) -> None:
            raise ZeroDivisionError

        self.factory.build = fail
        await self.check()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_connectionMadeRaises(self) -> None:
        """
        A protocol that fails at the start has its connection ended, and is told
        of the end.
        """

        def fail(conversation: Conversation) -> None:
            raise ZeroDivisionError

        self.factory.made = fail
        listener = await self.join()
        client, conversation = await self.serve(listener)
        await eventually(lambda: conversation.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(Closed), [Closed((1,))])
        self.assertEqual(self.worker.serving, set())
        with self.assertRaises(ConnectionResetError):
            await hear(client)

    async def test_connectionLostRaises(self) -> None:
        """
        The listener is told of the end if the protocol fails at it.
        """

        class Sore(Conversation):
            def connectionLost(self, reason: Any = None) -> None:
                raise ZeroDivisionError

        self.factory.build = Sore
        listener = await self.join()
        client, _ = await self.serve(listener)
        client.close()
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(self.worker.serving, set())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_adoptionFails(self) -> None:
        """
        An error of the operating system that no waiting will mend is logged.
        """

        def fail() -> None:
            raise OSError(errno.EINVAL, "no")

        self.reactor.adopting = fail
        await self.check()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    async def test_adoptionRaises(self) -> None:
        """
        Any other error is logged as well.
        """

        def fail() -> None:
            raise ZeroDivisionError

        self.reactor.adopting = fail
        await self.check()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ExhaustionTests(WorkerTestCase):
    """
    A worker that is out of descriptors when it is to adopt a connection.
    """

    def exhausted(self) -> None:
        """
        Fail as if there were none left.
        """
        self.tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def setUp(self) -> None:
        await super().setUp()
        self.tries = 0
        self.reactor.adopting = self.exhausted
        self.addCleanup(self.recover)

    def recover(self) -> None:
        """
        Free descriptors, and let the time pass until the worker finds them.
        """
        self.reactor.adopting = lambda: None
        self.clock.advance(RETRY)

    async def postpone(self, *ids: int) -> Listener:
        """
        Make the worker postpone the adoption of some connections.
        """
        listener = await self.join()
        for id in ids:
            tries = self.tries
            listener.handOff(id, self.client()[1])
            await eventually(lambda tries=tries: self.tries > tries)
        return listener

    async def test_postponed(self) -> None:
        """
        The connection waits, and is served when descriptors are free again.
        """
        listener = await self.postpone(1)
        tries = self.tries
        self.clock.advance(RETRY)
        self.assertGreater(self.tries, tries)
        self.recover()
        self.assertEqual(len(self.factory.conversations), 1)
        self.assertEqual(len(self.worker.serving), 1)
        await aMoment()
        self.assertEqual(listener.channel.heard(Closed), [])

    async def test_lastDescriptor(self) -> None:
        """
        It takes no more free descriptors than the one that the connection comes
        with, time and again.
        """
        self.reactor.adopting = lambda: None
        listener = await self.join()
        pairs = [self.client() for _ in range(3)]
        with exhausted() as takeAgain:
            for id, (_, accepted) in enumerate(pairs, 1):
                listener.handOff(id, accepted)
                await eventually(lambda last=id: len(self.worker.serving) == last)
                takeAgain()
        self.assertEqual(texts(self.logged, "error"), [])

    async def test_complaint(self) -> None:
        """
        There is one complaint, however many connections wait and however often
        they are tried.
        """
        await self.postpone(1, 2)
        for _ in range(3):
            self.clock.advance(RETRY)
        self.assertEqual(
            texts(self.logged, "error"),
            ["adopting pauses: Too many open files"],
        )

    async def test_complaintForOne(self) -> None:
        """
        This holds for a single connection, too.
        """
        await self.postpone(1)
        for _ in range(3):
            self.clock.advance(RETRY)
        self.assertEqual(len(texts(self.logged, "error")), 1)

    async def test_complaintAnew(self) -> None:
        """
        After a success, the next failure is complained of again.
        """
        listener = await self.postpone(1)
        self.recover()
        self.reactor.adopting = self.exhausted
        tries = self.tries
        listener.handOff(2, self.client()[1])
        await eventually(lambda: self.tries > tries)
        self.assertEqual(len(texts(self.logged, "error")), 2)

    async def test_stop(self) -> None:
        """
        A worker that stops serves what it had postponed.
        """
        listener = await self.postpone(1)
        stopped = self.worker.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await aMoment()
        self.assertFalse(stopped.called)
        self.recover()
        [conversation] = self.factory.conversations
        self.assertFalse(stopped.called)
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)

    async def test_stopAndNothingToServe(self) -> None:
        """
        If the client has gone meanwhile, the stop does not wait.
        """
        listener = await self.postpone(1)
        stopped = self.worker.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await aMoment()

        def gone() -> None:
            raise OSError(errno.ENOTCONN, "gone")

        self.reactor.adopting = gone
        self.clock.advance(RETRY)
        await eventually(lambda: stopped.called)
