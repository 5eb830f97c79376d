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
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._kernel.sockets import Credentials
from portlisten._wire.frames import (
    MAXIMUM_WINDOW,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    WorkerHello,
)
from portlisten._worker.interfaces import IAdopter
from portlisten._worker.shared_ports import StreamPorts
from portlisten._worker.worker import FAREWELL, UNFIT, Worker
from tests.support.channels import Peer, aMoment, eventually, tcpPair, texts
from tests.support.workers import (
    GRACE,
    HELLO,
    NAMED,
    RETRY,
    ClockedReactor,
    Conversation,
    HalfConversation,
    Listener,
    WorkerTestCase,
    exhausted,
    hear,
    monkeyPatched,
)

#: The uid of somebody else.
STRANGER = 54321


class InterfaceTests(SynchronousTestCase):
    """
    Who provides what.
    """

    def test_adopter(self) -> None:
        """
        A L{Worker} is an L{IAdopter}.
        """
        verifyClass(IAdopter, Worker)
        verifyObject(IAdopter, Worker(ClockedReactor(), "path", Factory()))


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
        One that closed in order is served what it sent.
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
        The listener is told of the end where the protocol fails at it.
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
        Have descriptors again, and let the time pass until that is found.
        """
        self.reactor.adopting = lambda: None
        self.clock.advance(RETRY)

    async def postpone(self, *ids: int) -> Listener:
        """
        Have the worker postpone the adoption of some connections.
        """
        listener = await self.join()
        for id in ids:
            tries = self.tries
            listener.handOff(id, self.client()[1])
            await eventually(lambda tries=tries: self.tries > tries)
        return listener

    async def test_postponed(self) -> None:
        """
        The connection waits, and is served when there are descriptors again.
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
        When that was over, there is a complaint of the next time.
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
        Where the client has gone meanwhile, there is nothing to wait for.
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


class ConnectingTests(WorkerTestCase):
    """
    How the worker finds its listener.
    """

    async def tryAgain(self) -> None:
        """
        Let the time between two tries pass, and the next try.
        """
        self.clock.advance(RETRY)
        await aMoment()

    async def test_joined(self) -> None:
        """
        It says HELLO, and logs what the listener listens on.
        """
        listener = await self.join()
        await eventually(lambda: listener.channel.heard(WorkerHello))
        self.assertEqual(
            texts(self.logged, "info"),
            [f"joined the listener at {self.path}, which listens on tcp:192.0.2.1:80"],
        )

    async def test_listenerComesLater(self) -> None:
        """
        Without a listener it waits, complains once, and joins when there is one.
        """
        self.start()
        await aMoment()
        for _ in range(3):
            await self.tryAgain()
        [complaint] = texts(self.logged, "warn")
        self.assertIn(
            f"waiting for a listener at {self.path}, trying every 0.5 s", complaint
        )
        listener = self.listen()
        self.clock.advance(RETRY)
        await eventually(listener.accept)

    async def test_distinctComplaints(self) -> None:
        """
        A complaint that differs from the one before is made.
        """
        self.start()
        await aMoment()
        await self.tryAgain()
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(self.path)
            await self.tryAgain()
            await self.tryAgain()
        os.unlink(self.path)
        complaints = texts(self.logged, "warn")
        self.assertEqual(len(complaints), 2)
        self.assertIn("No such file", complaints[0])
        self.assertIn("refused", complaints[1])

    async def test_busyListener(self) -> None:
        """
        One that is too busy to accept is tried again.
        """
        listener = Listener(self.path, backlog=0)
        self.addCleanup(listener.close)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.path)
            self.start()
            [complaint] = texts(self.logged, "warn")
            self.assertIn("temporarily unavailable", complaint)
        await eventually(listener.accept)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_noAccess(self) -> None:
        """
        Who may not connect is told what decides about that.
        """

        def fail(sock: socket.socket, path: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        self.patch(socket.socket, "connect", fail)
        self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn(
            "Permission denied; the path's mode and group say who may be a worker",
            complaint,
        )

    async def test_noDescriptors(self) -> None:
        """
        A process that is out of descriptors goes on trying.
        """
        listener = self.listen()

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeyPatched(socket.socket, "dup", fail):
            self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("Too many open files", complaint)
        await eventually(listener.accept)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_noSocket(self) -> None:
        """
        So does one that cannot even make a socket.
        """
        listener = self.listen()
        with exhausted():
            self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("Too many open files", complaint)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_again(self) -> None:
        """
        A listener that is gone is waited for, as often as that happens, with one
        complaint of the loss and one of the absence.
        """
        listener = await self.join()
        await self.serve(listener)
        for _ in range(2):
            listener.close()
            await eventually(lambda: texts(self.logged, "warn"))
            await self.tryAgain()
            await self.tryAgain()
            lost, waiting = texts(self.logged, "warn")
            self.assertEqual(
                lost,
                f"lost the listener at {self.path}, with 1 connections in service:"
                " the listener is gone",
            )
            self.assertIn("waiting for a listener", waiting)
            listener = self.listen()
            del self.logged[:]
            self.clock.advance(RETRY)
            await eventually(listener.accept)
            await eventually(lambda: texts(self.logged, "info"))
        client, conversation = await self.serve(listener)
        client.sendall(b"ping")
        await eventually(lambda: conversation.received == b"ping")


class UnfitTests(WorkerTestCase):
    """
    Listeners that are of no use.
    """

    async def meet(self, *greeting: Frame | bytes, names: Sequence[str] = ()) -> Peer:
        """
        Start a worker where somebody lives who greets it with this.
        """
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, names=names
        )
        self.listener = self.listen()
        self.start()
        return await self.again(*greeting)

    async def again(self, *greeting: Frame | bytes) -> Peer:
        """
        Greet the next channel with this.
        """
        self.listener.greeting = greeting
        await eventually(self.listener.accept)
        return self.listener.channel

    async def complaints(self, count: int) -> list[str]:
        """
        Wait for complaints.
        """
        await eventually(lambda: len(texts(self.logged, "warn")) >= count)
        return texts(self.logged, "warn")

    async def test_unknownName(self) -> None:
        """
        A listener without the port that is asked for is left, with a BYE that
        says why; and asked again a little later, with no further complaint, since
        it may be started anew with that port.
        """
        channel = await self.meet(NAMED, names=("http", "smtp"))
        [complaint] = await self.complaints(1)
        self.assertEqual(
            complaint,
            f"waiting for a listener at {self.path}, trying every 5 s: the listener"
            " cannot serve this worker: no port is called 'smtp' here, only http,"
            " https",
        )
        await eventually(channel.hasEnded)
        self.assertIn("no port is called 'smtp'", channel.frames[-1].reason)
        self.assertEqual(channel.frames[0].names, ("http", "smtp"))
        self.clock.advance(UNFIT - 0.1)
        await aMoment()
        self.assertEqual(len(self.listener.channels), 1)
        self.clock.advance(0.1)
        await self.again(NAMED)
        await aMoment()
        self.assertEqual(len(await self.complaints(1)), 1)

    async def test_knownNames(self) -> None:
        """
        Of one that has them, only those ports count.
        """
        channel = await self.meet(NAMED, names=("https",))
        await eventually(lambda: texts(self.logged, "info"))
        self.assertEqual(
            texts(self.logged, "info"),
            [
                f"joined the listener at {self.path}, which listens on"
                " https=tcp:192.0.2.1:443"
            ],
        )
        self.assertEqual(self.worker.ports, NAMED.ports[1:])
        await eventually(lambda: channel.heard(WorkerHello))
        self.assertEqual(channel.heard(WorkerHello)[0].names, ("https",))

    async def test_sameName(self) -> None:
        """
        A name that is given twice is asked for once.
        """
        channel = await self.meet(NAMED, names=("https", "https"))
        await eventually(lambda: channel.heard(WorkerHello))
        self.assertEqual(channel.heard(WorkerHello)[0].names, ("https",))

    async def test_turnedAway(self) -> None:
        """
        Who is turned away says why, once, and does not ask again at once.
        """
        channel = await self.meet(Bye("members only"))
        channel.close()
        [complaint] = await self.complaints(1)
        self.assertIn("trying every 5 s", complaint)
        self.assertIn("the listener says: members only", complaint)

    async def test_vanished(self) -> None:
        """
        One that was gone before it said anything was only restarted, and is
        asked again at once.
        """
        channel = await self.meet()
        for _ in range(3):
            channel.close()
            await self.complaints(1)
            await aMoment()
            self.clock.advance(RETRY)
            channel = await self.again()
        [complaint] = await self.complaints(1)
        self.assertIn(
            "trying every 0.5 s: it closed the channel without a reason", complaint
        )
        channel.say(HELLO)
        await eventually(lambda: texts(self.logged, "info"))

    async def test_nonsense(self) -> None:
        """
        What is no listener is of no use either.
        """
        await self.meet(b"220 mail.example.com ESMTP")
        [complaint] = await self.complaints(1)
        self.assertIn(
            "cannot serve this worker: a frame of the unknown type 50", complaint
        )

    async def test_otherKindOfSocket(self) -> None:
        """
        A socket that is no stream is waited out.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        self.start()
        [complaint] = await self.complaints(1)
        self.assertIn("a socket of another kind is there", complaint)


class ListenerUserTests(WorkerTestCase):
    """
    Whose listener a worker has to do with.
    """

    def meet(self, uid: int, *allowed: int) -> list[str]:
        """
        Start a worker where a listener of some user lives.

        @return: what the worker complains of.
        """
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, allowed
        )
        self.patch(_kernel, "credentials", lambda sock: Credentials(1, uid, uid))
        self.listen()
        self.start()
        return texts(self.logged, "warn")

    async def test_root(self) -> None:
        """
        Root's will do.
        """
        self.assertEqual(self.meet(0), [])

    async def test_own(self) -> None:
        """
        So will one of the worker's own user.
        """
        self.assertEqual(self.meet(os.geteuid()), [])

    async def test_folderOwner(self) -> None:
        """
        So will one of the user who owns the folder of the path.
        """
        os.chown(os.path.dirname(self.path), STRANGER, -1)
        self.assertEqual(self.meet(STRANGER), [])

    if os.geteuid() != 0:
        test_folderOwner.skip = "only root can give a folder away"  # type: ignore

    async def test_stranger(self) -> None:
        """
        Anybody else's will not, and the complaint says what to do.
        """
        [complaint] = self.meet(STRANGER)
        self.assertIn(
            f"the listener there is of uid {STRANGER}, which --listener-user (in a"
            " description, listenerUser) has to name",
            complaint,
        )
        self.clock.advance(RETRY)
        self.assertEqual(len(texts(self.logged, "warn")), 1)

    async def test_named(self) -> None:
        """
        One that is named will do, whoever it is.
        """
        self.assertEqual(self.meet(STRANGER, 1, STRANGER), [])

    async def test_notNamed(self) -> None:
        """
        Where somebody is named, nobody else's will, not even root's.
        """
        self.assertEqual(len(self.meet(0, STRANGER)), 1)


class StopTests(WorkerTestCase):
    """
    How the worker stops.
    """

    def stop(self) -> Deferred[None]:
        """
        Stop the worker.
        """
        return self.worker.stop()

    async def drain(self, listener: Listener) -> None:
        """
        Answer the worker's DRAIN.
        """
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())

    async def test_startAndStopOfTheFactory(self) -> None:
        """
        The factory is started once, before there is a listener, and stopped once,
        after the connections have ended, however many there were.
        """
        self.start()
        self.assertEqual(self.factory.calls, ["start"])
        listener = self.listen()
        self.clock.advance(RETRY)
        await aMoment()
        self.clock.advance(RETRY)
        await eventually(listener.accept)
        for id in (1, 2):
            await self.serve(listener, id)
        stopped = self.stop()
        await self.drain(listener)
        for conversation in self.factory.conversations:
            self.assertEqual(self.factory.calls, ["start"])
            conversation.transport.loseConnection()
            await eventually(lambda gone=conversation: gone.lost)
        await eventually(lambda: stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_idle(self) -> None:
        """
        With nothing in service it asks for no more offers, waits for the answer,
        and says BYE.
        """
        listener = await self.join()
        stopped = self.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        self.assertEqual(listener.channel.heard(Bye), [])
        self.assertFalse(stopped.called)
        listener.channel.say(Drained())
        await eventually(listener.channel.hasEnded)
        await eventually(lambda: stopped.called)
        self.assertEqual(
            listener.channel.frames,
            [
                WorkerHello(MAXIMUM_WINDOW, (), StreamPorts.takes),
                Drain(),
                Bye("the worker stops"),
            ],
        )
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_inService(self) -> None:
        """
        It waits for what is in service, and says BYE only then.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.clock.advance(GRACE - 0.1)
        self.assertFalse(stopped.called)
        self.assertEqual(listener.channel.heard(Bye), [])
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)
        self.assertEqual(
            [type(frame) for frame in listener.channel.read()],
            [WorkerHello, Claim, Drain, Closed, Bye],
        )

    async def test_offersMeanwhile(self) -> None:
        """
        What is offered while it stops goes back.
        """
        listener = await self.join()
        stopped = self.stop()
        _, accepted = self.client()
        listener.handOff(1, accepted)
        await self.drain(listener)
        await eventually(lambda: stopped.called)
        self.assertEqual(listener.channel.heard(Claim), [])
        self.assertEqual(self.factory.conversations, [])

    async def test_graceRunsOut(self) -> None:
        """
        After the grace it stops with connections in service, and says so.
        """
        listener = await self.join()
        await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.clock.advance(GRACE)
        await aMoment()
        self.clock.advance(FAREWELL)
        self.assertTrue(stopped.called)
        self.assertEqual(
            texts(self.logged, "warn"),
            ["1 connections are still in service after 10 s"],
        )
        self.assertEqual(listener.channel.heard(Bye), [Bye("the worker stops")])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_graceRunsOutAlone(self) -> None:
        """
        So it does where the listener is gone.
        """
        listener = await self.join()
        await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        stopped = self.stop()
        self.clock.advance(GRACE - 0.1)
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        self.assertTrue(stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    def channels(self) -> list[ChannelTransport]:
        """
        The worker's ends of channels that the reactor knows of.
        """
        return [
            reader
            for reader in reactor.getReaders()
            if isinstance(reader, ChannelTransport)
        ]

    def stuff(self) -> ChannelTransport:
        """
        Fill the worker's way to the listener.

        @return: the worker's end of it.
        """
        [channel] = self.channels()
        try:
            while True:
                channel.getHandle().send(b"\0" * 65536)
        except BlockingIOError:
            return channel

    async def test_endOfServiceInTheEnd(self) -> None:
        """
        Where the last connection ends after the grace, while BYE is on its way,
        nothing is said or done twice.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.stuff()
        self.clock.advance(GRACE)
        conversation.transport.loseConnection()
        await eventually(lambda: not self.worker.serving)
        self.assertFalse(stopped.called)
        listener.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(len(texts(self.logged, "warn")), 1)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_listenerDeaf(self) -> None:
        """
        A listener that does not answer delays it by the grace, and no longer;
        and one that does not even read, by the time that a farewell may take.
        """
        listener = await self.join()
        channel = self.stuff()
        stopped = self.stop()
        await aMoment()
        self.clock.advance(GRACE)
        await aMoment()
        self.assertFalse(stopped.called)
        self.clock.advance(FAREWELL - 0.1)
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        self.assertTrue(stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        listener.close()
        await eventually(lambda: not channel.connected)

    async def test_listenerGoneMeanwhile(self) -> None:
        """
        It does not wait for the answer of a listener that is gone, nor for
        another one.
        """
        listener = await self.join()
        stopped = self.stop()
        listener.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_whileWaiting(self) -> None:
        """
        Between two tries to connect it stops at once.
        """
        self.start()
        await aMoment()
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_beforeTheListenerKnows(self) -> None:
        """
        With a listener that has not even accepted the channel, it does not wait
        for the grace, and leaves nothing behind.
        """
        self.listen()
        self.start()
        stopped = self.stop()
        await eventually(lambda: stopped.called)
        self.assertEqual(self.channels(), [])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_inServiceBeforeTheListenerKnows(self) -> None:
        """
        If connections of an earlier listener are in service then, they have the
        grace.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        silent = self.listen()
        silent.greeting = ()
        self.clock.advance(RETRY)
        await eventually(silent.accept)
        stopped = self.stop()
        await eventually(silent.channel.hasEnded)
        self.clock.advance(GRACE - 0.1)
        await aMoment()
        self.assertFalse(stopped.called)
        self.assertFalse(conversation.lost)
        client.close()
        await eventually(lambda: stopped.called)

    async def test_neverStarted(self) -> None:
        """
        One that never was started has nothing to stop.
        """
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, [])

    async def test_servingWithoutListener(self) -> None:
        """
        Without a listener it waits for what is in service, and for that alone.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        stopped = self.stop()
        self.assertFalse(stopped.called)
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)

    async def test_twice(self) -> None:
        """
        To stop it again, while it stops or later, changes nothing.
        """
        listener = await self.join()
        first, second = self.stop(), self.stop()
        await self.drain(listener)
        await eventually(lambda: first.called and second.called)
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(listener.channel.heard(Drain), [Drain()])
