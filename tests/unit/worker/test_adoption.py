"""
Tests for L{portlisten._worker.adoption}: what a server sees of an adopted connection,
and what the listener hears of its end.  Those of connections that cannot be
served are with the worker's.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from portlisten._reactor.persistent import Persistent
from portlisten._wire.frames import Closed, Drain, Drained
from portlisten._worker import adoption
from portlisten.interfaces import IDrainable
from tests.support import workers
from tests.support.channels import eventually


@implementer(IDrainable)
class Drainable(workers.Conversation):
    """
    Keeps how often it was drained, and says goodbye.
    """

    drained = 0

    def drain(self) -> None:
        self.drained += 1
        self.transport.write(b"goodbye")
        self.transport.loseConnection()


class AdoptionTestCase(workers.WorkerTestCase):
    """
    A worker with a listener made by hand.
    """

    async def closed(self, listener: workers.Listener, id: int) -> None:
        """
        Wait until the listener hears that a connection has ended, which it is
        told once.
        """
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(listener.channel.heard(Closed), [Closed((id,))])
        self.assertEqual(self.worker.serving, set())


@workers.directlyToo
class TransportTests(AdoptionTestCase):
    """
    The transport is as a port's would be.
    """

    async def test_protocol(self) -> None:
        """
        Its protocol is the factory's, and nothing that stands between.
        """
        listener = await self.join()
        seen: list[Any] = []
        self.factory.made = lambda made: seen.append(made.transport.protocol)
        _, conversation = await self.serve(listener)
        self.assertIs(conversation.transport.protocol, conversation)
        self.assertEqual(seen, [conversation])

    async def test_logPrefix(self) -> None:
        """
        The log says which protocol it is that serves, by its own prefix if it has one.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        self.assertRegex(conversation.transport.logPrefix(), "^Conversation,[0-9]+,")
        self.factory.build = workers.HalfConversation
        _, conversation = await self.serve(listener, id=2)
        self.assertRegex(
            conversation.transport.logPrefix(), "^half a conversation,[0-9]+,"
        )

    async def test_replacedProtocol(self) -> None:
        """
        Another protocol may take the connection over, and hears of its end; so
        does the listener.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener, id=3)
        other = workers.Conversation(self.factory)
        conversation.transport.protocol = other
        client.sendall(b"upgraded")
        await eventually(lambda: other.received == b"upgraded")
        client.close()
        await eventually(lambda: other.lost)
        self.assertFalse(conversation.lost)
        await self.closed(listener, 3)

    async def test_abortedWhenMade(self) -> None:
        """
        A protocol that aborts the connection as soon as it is made hears of the
        end, and so does the listener.
        """
        self.factory.made = lambda made: made.transport.abortConnection()
        listener = await self.join()
        _, conversation = await self.serve(listener, id=4)
        await eventually(lambda: conversation.lost)
        await self.closed(listener, 4)

    async def test_soreLoser(self) -> None:
        """
        The listener hears of the end if the protocol fails at it.
        """

        class Sore(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                raise ZeroDivisionError

        self.factory.build = lambda factory: Sore()
        listener = await self.join()
        client, _ = await self.serve(listener, id=5)
        client.close()
        await self.closed(listener, 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_nothingLeft(self) -> None:
        """
        Nothing of this is left on a transport that is over.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        transport = conversation.transport
        self.assertIn("connectionLost", vars(transport))
        client.close()
        await eventually(lambda: conversation.lost)
        self.assertNotIn("connectionLost", vars(transport))


@workers.directlyToo
class DrainTests(AdoptionTestCase):
    """
    Tests for connections when the worker stops.
    """

    async def test_drained(self) -> None:
        """
        Each that is in service is told, once, and may still speak.
        """
        self.factory.build = Drainable
        listener = await self.join()
        clients = [(await self.serve(listener, id))[0] for id in (1, 2)]
        self.stopped = self.worker.stop()
        self.worker.stop()
        for client in clients:
            self.assertEqual(await workers.hear(client), b"goodbye")
        await eventually(lambda: not self.worker.serving)
        self.assertEqual([each.drained for each in self.factory.conversations], [1, 1])

    async def test_sore(self) -> None:
        """
        One that fails at it, or is told in the middle of its end, harms no other:
        the rest is told, and the worker stops in good order.
        """

        class Sore(Drainable):
            def drain(self) -> None:
                raise ZeroDivisionError

        self.factory.build = Sore
        listener = await self.join()
        sore, _ = await self.serve(listener, 1)
        self.factory.build = Drainable
        well, _ = await self.serve(listener, 2)
        self.worker.stop()
        self.assertEqual(await workers.hear(well), b"goodbye")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await eventually(lambda: listener.channel.heard(Drain))
        sore.close()

    async def test_stoppedFromTheEnd(self) -> None:
        """
        A protocol may stop its server when its connection ends.
        """
        stops: list[Any] = []

        class Last(workers.Conversation):
            def connectionLost(conversation, reason: Any = None) -> None:
                super().connectionLost(reason)
                stops.append(self.worker.stop())

        self.factory.build = Last
        listener = await self.join()
        client, _ = await self.serve(listener)
        client.close()
        await eventually(lambda: stops)
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await eventually(lambda: stops[0].called)

    async def test_stoppedFromTheBeginning(self) -> None:
        """
        Or when it begins; it is told once all the same.
        """
        self.factory.build = Drainable
        self.factory.made = lambda made: self.worker.stop()
        listener = await self.join()
        client, conversation = await self.serve(listener)
        self.assertEqual(await workers.hear(client), b"goodbye")
        self.assertEqual(conversation.drained, 1)

    async def test_adoptedLater(self) -> None:
        """
        One that was claimed before the worker began to stop is adopted, and then
        told.
        """
        self.factory.build = Drainable
        listener = await self.join()
        client, accepted = self.client()
        listener.handOff(1, accepted)

        def stopOnceClaimed(*_: Any) -> None:
            self.stopping = self.worker.stop()

        # It is adopted once its claim is in the kernel.
        self.reactor.adopting = stopOnceClaimed
        self.assertEqual(await workers.hear(client), b"goodbye")
        [conversation] = self.factory.conversations
        await eventually(lambda: conversation.lost)
        self.assertEqual(conversation.drained, 1)

    async def test_wrapped(self) -> None:
        """
        A protocol is found in what is wrapped around it.
        """
        protocol = Drainable(self.factory)
        around = WrappingFactory(self.factory)
        self.factory.build = lambda factory: ProtocolWrapper(around, protocol)
        listener = await self.join()
        client, _ = await self.serve(listener)
        self.worker.stop()
        self.assertEqual(await workers.hear(client), b"goodbye")

    async def test_replaced(self) -> None:
        """
        The protocol that has the connection by then is the one that is told.
        """
        self.factory.build = Drainable
        listener = await self.join()
        client, conversation = await self.serve(listener)
        other = Drainable(self.factory)
        other.transport = conversation.transport
        conversation.transport.protocol = other
        self.worker.stop()
        self.assertEqual(await workers.hear(client), b"goodbye")
        self.assertEqual((conversation.drained, other.drained), (0, 1))

    async def test_notDrainable(self) -> None:
        """
        Others go on as they were.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        self.worker.stop()
        client.sendall(b"still there?")
        await eventually(lambda: conversation.received == b"still there?")


class DirectTests(AdoptionTestCase):
    """
    Transports that are made without C{adoptStreamConnection}.
    """

    direct = True

    async def test_repr(self) -> None:
        """
        They are called like others, and can be when they have ended, too.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        transport = conversation.transport
        port, own = client.getsockname()[1], client.getpeername()[1]
        self.assertEqual(repr(transport), f"<Conversation #{port} on {own}>")
        client.close()
        await eventually(lambda: conversation.lost)
        self.assertEqual(repr(transport), f"<connection #{port} that has ended>")

    async def test_descriptor(self) -> None:
        """
        The descriptor that came is theirs: there is no copy.
        """

        def fail() -> None:
            raise AssertionError("it was copied")

        listener = await self.join()
        await self.serve(listener)
        self.patch(socket, "fromfd", fail)
        _, conversation = await self.serve(listener, id=2)
        self.assertEqual(type(conversation.transport), adoption.TCPServer)

    async def test_notWatchable(self) -> None:
        """
        If the reactor cannot watch the connection for now, it is served as soon as it
        can be watched, and neither made twice nor lost.
        """
        real: Any = reactor
        failures = [errno.ENOSPC, errno.ENOMEM]

        def addReader(reader: Any) -> None:
            if failures:
                number = failures.pop()
                raise OSError(number, os.strerror(number))
            real.addReader(reader)

        failing = workers.DirectReactor(self.reactor)
        self.patch(failing, "addReader", addReader)
        persistent = Persistent(failing, self.clock)
        self.patch(adoption, "posixReactor", lambda reactor: persistent)
        self.makeWorker()
        listener = await self.join()
        client, conversation = await self.serve(listener)
        client.sendall(b"ping")
        self.assertEqual(failures, [errno.ENOSPC])
        for _ in range(2):
            self.clock.advance(persistent.retry)
        await eventually(lambda: conversation.received == b"ping")
        self.assertEqual(len(self.factory.conversations), 1)
        client.close()
        await self.closed(listener, 1)

    def test_plain(self) -> None:
        """
        Only a TCP client without a scope is plain.
        """
        for address, plain in [
            (("192.0.2.1", 80), True),
            (("2001:db8::1", 80, 0, 0), True),
            (("fe80::1", 80, 0, 2), False),
            ("", False),
            (b"\0name", False),
            ((2, 1024), False),
        ]:
            self.assertIs(adoption.isPlain(address), plain)
