"""
Tests for L{portlisten._worker.stream_ports}, by a worker and a listener made by hand.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from typing import Any, cast
from unittest import mock

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.python import reflect
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._channel.interfaces import IWorkerChannel
from portlisten._model import Kind
from portlisten._ports.accepting import BATCH_SIZE
from portlisten._wire.frames import (
    Bye,
    Drain,
    Drained,
    Withdraw,
    WorkerHello,
)
from portlisten._worker import stream_ports
from tests.support.channels import eventually, texts
from tests.support.descriptors import watchDescriptors
from tests.support.sharing import HELLO, SharingTestCase
from tests.support.workers import (
    RETRY,
    exhausted,
    hear,
)


class AcceptTests(SharingTestCase):
    """
    Accepting.
    """

    async def test_announced(self) -> None:
        """
        The listener is told what a worker for streams takes.
        """
        listener = await self.join()
        (hello,) = listener.channel.heard(WorkerHello)
        self.assertEqual(
            hello.takes, frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP])
        )
        self.assertEqual(self.worker.ports, HELLO.ports[:3])

    async def test_accepts(self) -> None:
        """
        Connections from a shared socket are served like those that are handed off.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        client, conversation = await self.conversed(sock)
        self.assertRegex(conversation.transport.logPrefix(), "^Conversation,[0-9]+,")
        conversation.transport.loseConnection()
        self.assertEqual(await hear(client), b"")
        await eventually(lambda: conversation.lost)
        self.assertEqual(self.worker.serving, set())

    async def test_factory(self) -> None:
        """
        The factory is started and stopped once, however many sockets there are, and
        the log says who listens.
        """
        listener = await self.join()
        for _ in range(2):
            self.share(listener, self.port())
        await self.settle()
        self.assertEqual(self.factory.calls, ["start"])
        logged = "\n".join(texts(self.logged, "info"))
        self.assertEqual(logged.count("Conversations starting on"), 2)
        for port in self.worker._sharedPorts._ports.values():
            self.assertEqual(port.logPrefix(), reflect.qual(type(self.factory)))

    async def test_unwanted(self) -> None:
        """
        The factory may not want a connection, or fail at it.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        self.factory.build = lambda factory: None
        client, _ = await self.accepted(sock)
        self.assertEqual(await hear(client), b"")

        def fail(factory: Any) -> Any:
            raise ZeroDivisionError

        self.factory.build = fail
        client = self.connect(sock)
        self.assertEqual(await hear(client), b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.worker.serving, set())

    async def test_again(self) -> None:
        """
        A socket that is lent again is used once.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        await self.settle()
        self.assertEqual(self.holders(sock), 2)
        self.share(listener, sock)
        await self.settle()
        self.assertEqual(self.holders(sock), 2)
        await self.accepted(sock)


class DirectTests(SharingTestCase):
    """
    A port that accepts many connections in one call.
    """

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

    async def failing(self, outcome: Any) -> socket.socket:
        """
        Share a socket, and let accepting fail once.
        """
        sock = await self.open()
        await self.accepted(sock)
        accept = _kernel.acceptSockets

        def fail(*arguments: Any) -> Any:
            self.patch(_kernel, "acceptSockets", accept)
            if isinstance(outcome, BaseException):
                raise outcome
            return [], outcome

        self.patch(_kernel, "acceptSockets", fail)
        return sock

    async def test_service(self) -> None:
        """
        Connections are served as usual, and their ends are noticed.
        """
        sock = await self.open()
        client, _ = await self.conversed(sock)
        clients = [self.connect(sock) for _ in range(30)]
        await eventually(lambda: len(self.factory.conversations) == 31)
        for each in self.factory.conversations:
            each.transport.loseConnection()
        for each in [client, *clients]:
            self.assertEqual(await hear(each), b"")
        await eventually(lambda: not self.worker.serving)

    async def test_refused(self) -> None:
        """
        The factory may not want a connection.
        """
        sock = await self.open()
        self.factory.build = lambda factory: None
        self.assertEqual(await hear(self.connect(sock)), b"")
        self.assertEqual(self.worker.serving, set())

    async def test_scope(self) -> None:
        """
        A client whose address Twisted writes in another way is adopted.
        """
        sock = await self.open()
        self.patch(stream_ports, "isPlain", lambda peer: False)
        await self.accepted(sock)
        self.assertEqual(len(self.worker.serving), 1)

    async def test_limit(self) -> None:
        """
        No more are accepted than the worker wants.
        """
        sock = await self.open()
        self.worker._adopter.limit = 1
        await self.accepted(sock)
        self.connect(sock)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), 1)

    async def paused(self, outcome: Any) -> None:
        """
        Expect that the port pauses, and goes on later.
        """
        sock = await self.failing(outcome)
        self.connect(sock)
        await eventually(lambda: texts(self.logged, "error"))
        self.assertIn("accepting pauses", texts(self.logged, "error")[-1])
        self.assertEqual(len(self.factory.conversations), 1)
        self.clock.advance(RETRY)
        await eventually(lambda: len(self.factory.conversations) == 2)

    async def test_noMemory(self) -> None:
        """
        Without memory, the port pauses.
        """
        await self.paused(MemoryError())

    async def test_noDescriptors(self) -> None:
        """
        So it does without descriptors.
        """
        await self.paused(errno.EMFILE)

    async def test_otherError(self) -> None:
        """
        Twisted's port finds out what else is wrong.
        """
        sock = await self.failing(errno.EINVAL)
        await self.accepted(sock)

    async def test_protocolFails(self) -> None:
        """
        A connection whose transport cannot be made is closed, and the port goes on.
        """
        sock = await self.open()
        serve = stream_ports.LocallyAccepted.serve
        self.patch(
            stream_ports.LocallyAccepted,
            "serve",
            mock.Mock(side_effect=ZeroDivisionError),
        )
        self.assertEqual(await hear(self.connect(sock)), b"")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(stream_ports.LocallyAccepted, "serve", serve)
        await self.accepted(sock)


class GiveBackTests(SharingTestCase):
    """
    Using a socket no more, which is others' as well.
    """

    async def test_withdrawn(self) -> None:
        """
        A socket that was withdrawn is closed, and not shut down: clients wait in its
        queue for whoever has it.  What was accepted goes on.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        client, conversation = await self.accepted(sock)
        listener.channel.say(Withdraw(_kernel.cookie(sock)))
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        self.assertFalse(_kernel.isShutDown(sock))
        waiting = self.connect(sock)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), 1)
        accepted, address = sock.accept()
        accepted.close()
        self.assertEqual(address, waiting.getsockname())
        client.send(b"still there")
        await eventually(lambda: conversation.received == b"still there")

    async def test_withdrawnUnknown(self) -> None:
        """
        If the worker does not use it, nothing happens.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        listener.channel.say(Withdraw(4711))
        await self.accepted(sock)

    async def test_stop(self) -> None:
        """
        A worker that stops gives all back before it says so, and serves what it has
        accepted.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        client, conversation = await self.accepted(sock)
        stopped = self.worker.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        self.assertFalse(_kernel.isShutDown(sock))
        listener.channel.say(Drained())
        client.send(b"still there")
        await eventually(lambda: conversation.received == b"still there")
        self.assertFalse(stopped.called)
        client.close()
        await eventually(lambda: stopped.called)
        self.assertTrue(listener.channel.heard(Bye))

    async def test_lentToTheStopping(self) -> None:
        """
        A socket that was on its way to a worker that stops is closed.
        """
        sock = self.port()
        listener = await self.join()
        _, conversation = await self.serve(listener)
        self.worker.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        self.share(listener, sock)
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        conversation.transport.abortConnection()

    async def test_listenerGone(self) -> None:
        """
        When the listener goes, so that another can bind the port, its socket is
        closed; what was accepted goes on.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        client, conversation = await self.accepted(sock)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        client.send(b"still there")
        await eventually(lambda: conversation.received == b"still there")

    async def test_listenerBack(self) -> None:
        """
        The next listener lends its own.
        """
        listener = await self.joinAndShare(self.port())
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        listener = self.listen()
        self.clock.advance(RETRY)
        await eventually(listener.accept)
        sock = self.port()
        self.share(listener, sock)
        await self.accepted(sock)


class UNIXTests(SharingTestCase):
    """
    Shared sockets with a path.
    """

    async def test_path(self) -> None:
        """
        The path stays, with the mode that it has; while it is used, and after.
        """
        path = os.path.join(os.path.dirname(self.path), "www")
        sock = self.port(path)
        self.addCleanup(os.unlink, path)
        os.chmod(path, 0o600)
        listener = await self.joinAndShare(sock)
        client, conversation = await self.accepted(sock)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        client.send(b"hello")
        await eventually(lambda: conversation.received == b"hello")
        listener.channel.say(Withdraw(_kernel.cookie(sock)))
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.connect(sock)

    async def test_blocking(self) -> None:
        """
        Such a socket that somebody else made blocking does not stop the process.
        """
        path = os.path.join(os.path.dirname(self.path), "www")
        sock = self.port(path)
        self.addCleanup(os.unlink, path)
        await self.joinAndShare(sock)
        await self.settle()
        os.set_blocking(sock.fileno(), True)
        for _ in range(2):
            await self.accepted(sock)

    async def test_loseConnection(self) -> None:
        """
        The end of a connection is its client's, too.
        """
        path = os.path.join(os.path.dirname(self.path), "www")
        sock = self.port(path)
        self.addCleanup(os.unlink, path)
        await self.joinAndShare(sock)
        client, conversation = await self.accepted(sock)
        conversation.transport.loseConnection()
        self.assertEqual(await hear(client), b"")


class DescriptorTests(SharingTestCase):
    """
    A process that runs out of descriptors.
    """

    async def test_noRoom(self) -> None:
        """
        A socket that the process has no descriptor for waits until it has one.
        """
        sock = self.port()
        listener = await self.join()
        self.patch(
            self.worker._sharedPorts,
            "_open",
            self.failing(self.worker._sharedPorts._open),
        )
        self.share(listener, sock)
        await eventually(lambda: texts(self.logged, "error"))
        self.assertEqual(
            texts(self.logged, "error"),
            [
                "a shared socket cannot be used yet: Too many open files; trying again"
                f" in {RETRY:g} s"
            ],
        )
        self.clock.advance(RETRY)
        await self.accepted(sock)

    async def test_reserve(self) -> None:
        """
        With the spare descriptor, nothing fails.
        """
        sock = self.port()
        listener = await self.join()
        cookie = _kernel.cookie(sock)
        descriptor = os.dup(sock.fileno())
        with exhausted():
            channel = cast(IWorkerChannel, listener.channel)
            self.worker.socketShared(channel, 0, cookie, descriptor)
        self.assertEqual(texts(self.logged, "error"), [])
        self.assertEqual(self.holders(sock), 2)

    def failing(self, function: Any) -> Any:
        """
        Make something fail twice for want of descriptors.
        """
        left = [OSError(24, "Too many open files")] * 2

        def fail(*arguments: Any) -> Any:
            if left:
                raise left.pop()
            return function(*arguments)

        return fail

    async def test_givenBackMeanwhile(self) -> None:
        """
        It is closed if it is withdrawn before that, or the worker stops.
        """
        listener = await self.join()
        withdrawn, given = self.port(), self.port()
        for sock in (withdrawn, given):
            patch = self.failing(self.worker._sharedPorts._open)
            self.patch(self.worker._sharedPorts, "_open", patch)
            self.share(listener, sock)
            await eventually(lambda s=sock: self.holders(s) == 2)
        await eventually(lambda: len(texts(self.logged, "error")) == 2)
        listener.channel.say(Withdraw(_kernel.cookie(withdrawn)))
        await eventually(lambda: self.holders(withdrawn) == 1)
        self.assertEqual(self.holders(given), 2)
        self.worker.stop()
        self.assertEqual(self.holders(given), 1)

    async def test_pause(self) -> None:
        """
        A port pauses before there are none left, since a Twisted port without them
        accepts connections in order to close them; and goes on when there are some.
        """
        sock = self.port()
        listener = await self.join()
        clients = [self.connect(sock) for _ in range(30)]
        with open(os.devnull) as file:
            limit = file.fileno() + 20
        self.patch(resource, "getrlimit", lambda which: (limit, limit))
        self.patch(stream_ports, "RESERVED_DESCRIPTORS", 10)
        self.share(listener, sock)
        for _ in range(100):
            await deferLater(reactor, 0)
        served = len(self.factory.conversations)
        self.assertLess(served, 30)
        for conversation in self.factory.conversations:
            self.assertLess(conversation.transport.fileno(), limit)
        self.assertIn("accepting pauses", "".join(texts(self.logged, "error")))
        self.clock.advance(RETRY)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), served)
        for _ in range(50):
            for conversation in self.factory.conversations:
                conversation.transport.loseConnection()
            await deferLater(reactor, 0.01)
            self.clock.advance(RETRY)
        self.assertEqual(len(self.factory.conversations), 30)
        for client in clients:
            self.assertEqual(await hear(client), b"", "accepted, and closed in order")

    async def test_exhausted(self) -> None:
        """
        If the process is out of descriptors all the same, clients stay in the backlog.
        None of them is closed, and all are served once descriptors are free.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        await self.settle()
        [port] = self.worker._sharedPorts._ports.values()
        clients = [self.connect(sock) for _ in range(5)]
        with exhausted() as take:
            for _ in range(3):
                port.doRead()
                take()
        self.assertEqual(self.factory.conversations, [])
        for client in clients:
            client.setblocking(False)
            self.assertRaises(BlockingIOError, client.recv, 1)
        self.assertEqual(
            texts(self.logged, "error"),
            [
                "accepting pauses: Too many open files; clients wait in the backlog, or"
                " are served by others"
            ],
        )
        await self.settle()
        self.assertEqual(self.factory.conversations, [])
        self.clock.advance(RETRY)
        await eventually(lambda: len(self.factory.conversations) == 5)

    async def test_stillExhausted(self) -> None:
        """
        As long as no descriptor is free, the pause goes on.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        await self.settle()
        [port] = self.worker._sharedPorts._ports.values()
        self.connect(sock)
        with exhausted():
            port.doRead()
            self.clock.advance(RETRY)
            self.clock.advance(RETRY)
        await self.settle()
        self.assertEqual(self.factory.conversations, [])
        self.clock.advance(RETRY)
        await eventually(lambda: self.factory.conversations)

    async def test_pauseAndStop(self) -> None:
        """
        A port that pauses may be given back.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        await self.settle()
        self.worker._sharedPorts._descriptorLimit = 0  # type: ignore[attr-defined]
        await self.accepted(sock)
        self.assertIn("accepting pauses", "".join(texts(self.logged, "error")))
        listener.channel.say(Withdraw(_kernel.cookie(sock)))
        await self.settle()
        self.assertEqual(self.holders(sock), 1)


class PatientSocketTests(SynchronousTestCase):
    """
    Tests for L{stream_ports._AcceptGuard}.
    """

    def setUp(self) -> None:
        """
        Listen.
        """
        watchDescriptors(self)
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.addCleanup(sock.close)
        self.socket = sock
        self.told: list[int | None] = []
        self.room = 1
        self.patient: Any = stream_ports._AcceptGuard(
            sock, lambda error: self.told.append(error.errno), lambda: self.room
        )

    def test_alike(self) -> None:
        """
        Its connections are as those of the socket.
        """
        for take in (self.socket.accept, self.patient.accept):
            with socket.create_connection(self.socket.getsockname()) as client:
                sock, address = take()
                with sock:
                    self.assertEqual(address, client.getsockname())
                    self.assertEqual(
                        (sock.family, sock.type, sock.proto),
                        (self.socket.family, self.socket.type, self.socket.proto),
                    )
                    self.assertFalse(os.get_inheritable(sock.fileno()))

    def test_unlimited(self) -> None:
        """
        A worker without a limit is not asked how many more it wants.
        """
        patient: Any = stream_ports._AcceptGuard(self.socket, print, None)
        with socket.create_connection(self.socket.getsockname()):
            patient.accept()[0].close()

    def fail(self, number: int) -> OSError:
        """
        Make accept(2) fail.

        @return: what comes of it.
        """

        def accept() -> None:
            raise OSError(number, os.strerror(number))

        self.patch(self.patient, "_accept", accept)
        error = self.assertRaises(OSError, self.patient.accept)
        assert isinstance(error, OSError)
        return error

    def test_accepts(self) -> None:
        """
        It accepts as the socket does, and is like it in all else.
        """
        self.assertEqual(self.patient.fileno(), self.socket.fileno())
        self.assertRaises(BlockingIOError, self.patient.accept)
        with socket.create_connection(self.patient.getsockname()) as client:
            accepted, address = self.patient.accept()
            accepted.close()
            self.assertEqual(address, client.getsockname())
        self.assertEqual(self.told, [])

    def test_full(self) -> None:
        """
        If the worker wants no more connections, it is as if nobody waited.
        """
        self.room = 0
        with socket.create_connection(self.patient.getsockname()):
            self.assertRaises(BlockingIOError, self.patient.accept)
            self.room = 1
            accepted, _ = self.patient.accept()
            accepted.close()
        self.assertEqual(self.told, [])

    def test_exhausted(self) -> None:
        """
        If something ran out, it is as if nobody waited, and it tells what.
        """
        numbers = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
        for number in numbers:
            self.assertEqual(self.fail(number).errno, errno.EAGAIN)
        self.assertEqual(self.told, numbers)

    def test_others(self) -> None:
        """
        All other errors are the port's to handle.
        """
        for number in (errno.EAGAIN, errno.ECONNABORTED, errno.EINVAL):
            self.assertEqual(self.fail(number).errno, number)
        self.assertEqual(self.told, [])


class TogetherTests(SharingTestCase):
    """
    Several ports of one process.
    """

    async def test_pauseTogether(self) -> None:
        """
        All pause when one finds the process nearly out of descriptors, those to come
        as well.
        """
        first, second, third = self.port(), self.port(), self.port()
        listener = await self.joinAndShare(first)
        self.share(listener, second)
        await self.settle()
        self.worker._sharedPorts._descriptorLimit = 0  # type: ignore[attr-defined]
        await self.accepted(first)
        self.share(listener, third)
        for sock in (second, third):
            self.connect(sock)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), 1)
        self.assertEqual(len(texts(self.logged, "error")), 1)
        self.clock.advance(RETRY)
        await eventually(lambda: len(self.factory.conversations) == 3)

    async def test_shares(self) -> None:
        """
        If a worker has more ports, each takes fewer connections at a time.
        """
        listener = await self.joinAndShare(self.port())
        await self.settle()
        one = self.worker._sharedPorts.acceptsPerTurn  # type: ignore[attr-defined]
        for _ in range(3):
            self.share(listener, self.port())
        await self.settle()
        self.assertEqual(
            self.worker._sharedPorts.acceptsPerTurn,  # type: ignore[attr-defined]
            one // 4,
        )

    async def test_blocking(self) -> None:
        """
        A socket that somebody else made blocking does not stop the process.
        """
        sock = self.port()
        await self.joinAndShare(sock)
        await self.settle()
        os.set_blocking(sock.fileno(), True)
        for _ in range(2):
            await self.accepted(sock)

    async def test_listenerStops(self) -> None:
        """
        When the listener goes, what waits at its ports is taken first: there may be
        nobody else.
        """
        path = os.path.join(os.path.dirname(self.path), "www")
        self.addCleanup(os.unlink, path)
        ports = [self.port(), self.port(path)]
        listener = await self.joinAndShare(ports[0])
        self.share(listener, ports[1])
        await self.settle()
        for port in self.worker._sharedPorts._ports.values():
            port.stopReading()  # as if the process were busy
        clients = [self.connect(sock) for sock in ports for _ in range(20)]
        listener.channel.say(Bye("the listener stops"))
        listener.close()
        await eventually(lambda: len(self.factory.conversations) == 40)
        await self.settle()
        for sock in ports:
            self.assertEqual(self.holders(sock), 1)
        self.assertEqual(len(clients), 40)

    async def test_longQueue(self) -> None:
        """
        All of it, however many they are.
        """
        path = os.path.join(os.path.dirname(self.path), "www")
        sock = self.port(path)
        self.addCleanup(os.unlink, path)
        sock.listen(BATCH_SIZE + 50)
        await self.joinAndShare(sock)
        await self.settle()
        for port in self.worker._sharedPorts._ports.values():
            port.stopReading()  # as if the process were busy
        for _ in range(BATCH_SIZE + 20):
            self.connect(sock)
        self.worker._sharedPorts.finish()
        self.assertEqual(len(self.factory.conversations), BATCH_SIZE + 20)
        self.assertEqual(self.holders(sock), 1)
