"""
Tests for L{portlisten._listener.datagram} and L{portlisten._worker.datagram}: each
side with real sockets, the other side played by hand.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import stat
import warnings
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.datagram import DatagramWire
from portlisten._listener.interfaces import IWire
from portlisten._model import Port
from portlisten._worker import datagram as _receiver
from portlisten._worker.datagram import BATCH_SIZE, DatagramWorker
from portlisten._worker.interfaces import IWorker
from portlisten.errors import PathError
from tests.support import workers
from tests.support.channels import aMoment, eventually, texts

PORT = Port(0, workers.HELLO.ports[0].address)

PATIENCE = 60.0
GRACE = 10.0
RETRY = 0.1


class Receiver:
    """
    A worker of 2002.
    """

    def __init__(self, path: str) -> None:
        if os.path.exists(path):
            os.unlink(path)
        self.socket = _kernel.datagramSocket()
        self.socket.bind(path)

    def take(self) -> list[int]:
        """
        Take what has come.

        @return: the cookies of the connections, which are closed.
        """
        cookies: list[int] = []
        while True:
            try:
                data, [descriptor] = _kernel.receive(self.socket)
            except BlockingIOError:
                return cookies
            assert data
            with socket.socket(fileno=descriptor) as sock:
                cookies.append(_kernel.cookie(sock))

    def close(self) -> None:
        """
        Die.
        """
        self.socket.close()


class WireTestCase(workers.ClockedTestCase):
    """
    The listener's side.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.timedOut = 0
        self.rooms = 0
        self.make()

    def make(self, queue: int = 1024, connections: int = 1000) -> None:
        """
        Make a wire, in the place of the last one.
        """
        settings = ListenerSettings(
            path=self.path,
            wire="datagram",
            queue=queue,
            patience=PATIENCE,
            retry=RETRY,
        )
        self.wire = DatagramWire(self.reactor, settings, self.countTimeOut)
        self.wire.capacityChanged = self.countCapacityChanges
        self.wire.bind([PORT], {})
        self.wire.start(connections, 1)
        self.addCleanup(self.end, self.wire)

    async def end(self, wire: DatagramWire) -> None:
        """
        Stop a wire, if the test has not, and see that it leaves nothing.
        """
        if wire._socket.fileno() != -1:
            stopped = wire.stop(0)
            await eventually(lambda: stopped.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def countTimeOut(self) -> None:
        self.timedOut += 1

    def countCapacityChanges(self) -> None:
        self.rooms += 1

    def receive(self) -> Receiver:
        """
        Be a worker.
        """
        receiver = Receiver(self.path)
        self.addCleanup(receiver.close)
        return receiver

    def accept(self, count: int = 1) -> tuple[list[socket.socket], list[int]]:
        """
        Let connections come in.

        @return: the clients, and the connections' cookies.
        """
        pairs = [self.client() for _ in range(count)]
        cookies = [_kernel.cookie(accepted) for _, accepted in pairs]
        batch = [AcceptedConnection(sock, it.getsockname()) for it, sock in pairs]
        self.wire.accepted(PORT, batch)
        return [client for client, _ in pairs], cookies

    def reported(self) -> str:
        """
        What the wire says of itself.
        """
        self.wire.report()
        return texts(self.logged, "info")[-1]


class SendTests(WireTestCase):
    """
    How connections are sent.
    """

    def test_interface(self) -> None:
        """
        It is an L{IWire}.
        """
        verifyObject(IWire, self.wire)
        self.assertIn(self.path, str(self.wire))
        self.wire.release()

    def test_sent(self) -> None:
        """
        Each goes out at once, in order, and the listener's descriptor is closed.
        """
        receiver = self.receive()
        before = len(os.listdir("/proc/self/fd"))
        clients, cookies = self.accept(3)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 3)  # the clients'
        self.assertEqual(receiver.take(), cookies)
        for client in clients:
            self.assertEqual(client.recv(1), b"")
        self.assertIn("accepted 3, sent 3, timedOut 0, stopped 0", self.reported())
        self.assertEqual(self.rooms, 1)

    async def test_notShutDown(self) -> None:
        """
        The connection goes on as long as another process has it.
        """
        receiver = self.receive()
        [client], _ = self.accept()
        _, [descriptor] = _kernel.receive(receiver.socket)
        with socket.socket(fileno=descriptor) as sock:
            sock.setblocking(True)
            sock.sendall(b"served")
        self.assertEqual(client.recv(10), b"served")

    def test_absent(self) -> None:
        """
        While no worker is at the path, connections wait, with one complaint.  Then they
        go out in the order of their arrival.
        """
        _, cookies = self.accept(2)
        self.clock.advance(RETRY)
        cookies += self.accept(1)[1]
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                f"waiting for a worker at {self.path}, trying every 0.1 s: No such file"
                " or directory"
            ],
        )
        self.assertIn("3 connections waiting", self.reported())
        receiver = self.receive()
        self.assertEqual(receiver.take(), [])
        self.clock.advance(RETRY)
        self.assertEqual(receiver.take(), cookies)
        self.assertIn(f"a worker is at {self.path}", texts(self.logged, "info"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dead(self) -> None:
        """
        So it is if a worker has left its path behind.
        """
        self.receive().close()
        self.accept()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("Connection refused", complaint)

    def test_otherKind(self) -> None:
        """
        A socket of another kind is no worker, and the complaint says so.
        """
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(self.path)
            self.accept()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("a socket of another kind is there", complaint)

    def test_notAllowed(self) -> None:
        """
        If the listener may not send to the path, the complaint says what decides.
        """

        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.receive()
        self.patch(_kernel, "sendTo", refuse)
        self.accept()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("the worker's --mode and --group say who may send", complaint)

    def test_takenOver(self) -> None:
        """
        The worker that has the path gets what comes from then on.
        """
        first = self.receive()
        _, before = self.accept()
        second = self.receive()
        _, after = self.accept()
        self.assertEqual((first.take(), second.take()), (before, after))

    def test_patience(self) -> None:
        """
        What has waited for too long is closed, the rest waits on.
        """
        [impatient], _ = self.accept()
        self.clock.advance(PATIENCE / 2)
        _, cookies = self.accept()
        self.clock.advance(PATIENCE / 2)
        self.assertEqual(impatient.recv(1), b"")
        self.assertEqual(self.timedOut, 1)
        self.assertEqual(
            texts(self.logged, "warn")[1:],
            [
                f"the connection of 127.0.0.1:{impatient.getsockname()[1]} is closed:"
                " no worker took it within its patience"
            ],
        )
        receiver = self.receive()
        self.clock.advance(RETRY)
        self.assertEqual(receiver.take(), cookies)
        self.assertIn("sent 1, timedOut 1", self.reported())

    def test_room(self) -> None:
        """
        So many may be accepted as may wait.
        """
        self.make(queue=3)
        self.assertEqual(self.wire.capacity(""), 3)
        self.accept(2)
        self.assertEqual(self.wire.capacity("http"), 1)
        self.accept(2)
        self.assertEqual(self.wire.capacity(""), 0)

    def test_oneAtATime(self) -> None:
        """
        Where none is to wait, one is accepted, as in 2002; and no more than there
        are descriptors for, however many might wait.
        """
        self.make(queue=0)
        self.assertEqual(self.wire.capacity(""), 1)
        self.make(connections=7)
        self.assertEqual(self.wire.capacity(""), 7)

    def test_path(self) -> None:
        """
        A path that no worker could bind is refused at once.
        """
        with open(self.path, "w"):
            pass
        self.assertRaises(PathError, self.wire.bind, [PORT], {})


class FullTests(WireTestCase):
    """
    A worker that does not keep up.
    """

    async def test_room(self) -> None:
        """
        If the worker's queue is full, the next connections go out as soon as it has
        space, without a complaint and without further tries meanwhile.
        """
        receiver = self.receive()
        tries = []
        send = _kernel.sendTo

        def sendTo(*arguments: Any) -> None:
            tries.append(arguments)
            send(*arguments)

        self.patch(_kernel, "sendTo", sendTo)
        _, cookies = self.accept(200)
        await aMoment()
        sent = len(tries)
        self.assertLess(sent, 200)
        await aMoment()
        self.assertEqual(len(tries), sent)
        taken: list[int] = []

        def all() -> bool:
            taken.extend(receiver.take())
            return len(taken) == 200

        await eventually(all)
        self.assertEqual(taken, cookies)
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_complaint(self) -> None:
        """
        If that takes long, it complains once.
        """
        self.receive()
        self.accept(200)
        self.clock.advance(RETRY)
        self.clock.advance(RETRY)
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                f"waiting for a worker at {self.path}, trying every 0.1 s: the worker"
                " there takes no more for now"
            ],
        )

    async def test_death(self) -> None:
        """
        If a worker dies with its queue full, this is noticed, and the connections that
        it had not received wait for the next worker.
        """
        first = self.receive()
        self.accept(200)
        first.close()
        await aMoment()
        self.clock.advance(RETRY)
        await aMoment()
        self.assertIn("Connection refused", texts(self.logged, "warn")[-1])
        waiting = int(self.reported().partition(" ")[0])
        self.assertGreater(waiting, 100)
        second = self.receive()
        self.clock.advance(RETRY)
        taken: list[int] = []

        def rest() -> bool:
            taken.extend(second.take())
            return len(taken) == waiting

        await eventually(rest)

    async def test_vanished(self) -> None:
        """
        If the worker leaves before the wait for its queue, the next try comes later.
        """
        receiver = self.receive()

        def full(*_: Any) -> None:
            receiver.close()
            raise BlockingIOError(errno.EAGAIN, "full")

        self.patch(_kernel, "sendTo", full)
        self.accept()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    async def test_lost(self) -> None:
        """
        If the reactor finds an error with the waiting socket, the wait ends, and the
        next try shows the error.
        """
        self.receive()
        self.accept(200)
        room = self.wire._waiter
        assert room is not None
        room.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(room.fileno(), -1)
        self.assertEqual(room.logPrefix(), "portlisten")


class WireStopTests(WireTestCase):
    """
    How the listener's side stops.
    """

    def test_idle(self) -> None:
        """
        At once, if nothing waits.
        """
        self.assertTrue(self.wire.stop(GRACE).called)

    def test_nobody(self) -> None:
        """
        If no worker comes within the grace, waiting connections are closed and logged.
        """
        clients, _ = self.accept(2)
        stopped = self.wire.stop(GRACE)
        self.clock.advance(GRACE - RETRY)
        self.assertFalse(stopped.called)
        self.clock.advance(2 * RETRY)
        self.assertTrue(stopped.called)
        for client in clients:
            self.assertEqual(client.recv(1), b"")
        self.assertIn("timedOut 0, stopped 2", self.reported())
        self.assertEqual(len(texts(self.logged, "warn")), 3)

    async def test_full(self) -> None:
        """
        A worker that does not keep up may take what waits, within the grace.
        """
        receiver = self.receive()
        _, cookies = self.accept(100)
        stopped = self.wire.stop(GRACE)
        taken: list[int] = []

        def all() -> bool:
            taken.extend(receiver.take())
            return stopped.called

        await eventually(all)
        taken.extend(receiver.take())
        self.assertEqual(taken, cookies)

    async def test_graceOver(self) -> None:
        """
        But no longer.
        """
        self.receive()
        self.accept(100)
        stopped = self.wire.stop(GRACE)
        for _ in range(int(GRACE / RETRY) - 1):
            self.clock.advance(RETRY)
        self.assertFalse(stopped.called)
        self.clock.advance(RETRY)
        self.clock.advance(RETRY)
        self.assertTrue(stopped.called)


class WorkerTestCase(workers.ClockedTestCase):
    """
    The worker's side, and a listener of 2002.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.factory = workers.Conversations()
        self.workers: list[DatagramWorker] = []
        self.sender = _kernel.datagramSocket()
        self.addCleanup(self.sender.close)
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Stop all workers, and see that they leave nothing.
        """
        for conversation in self.factory.conversations:
            if conversation.transport is not None:
                conversation.transport.abortConnection()
        await aMoment()
        for worker in self.workers:
            stopped = worker.stop()
            while not stopped.called:
                self.clock.advance(1)
                await deferLater(reactor, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(os.path.exists(self.path))

    def work(self, **options: Any) -> DatagramWorker:
        """
        Start a worker.
        """
        worker = DatagramWorker(self.reactor, self.path, self.factory, **options)
        worker.bind()
        self.workers.append(worker)
        self.assertTrue(worker.start().called)
        return worker

    def send(self, *descriptors: int, data: bytes = b"x") -> None:
        """
        Send a datagram to the socket at the path.
        """
        rights = array.array("i", descriptors)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        self.sender.sendmsg([data], control if descriptors else [], 0, self.path)

    def handOff(self, count: int = 1) -> list[socket.socket]:
        """
        Send connections, one in a datagram.

        @return: the clients.
        """
        clients = []
        for _ in range(count):
            client, accepted = self.client()
            with accepted:
                self.send(accepted.fileno())
            clients.append(client)
        return clients

    async def served(self, count: int) -> Sequence[Any]:
        """
        Wait for so many protocols.
        """
        await eventually(lambda: len(self.factory.conversations) == count)
        return self.factory.conversations


class ReceiveTests(WorkerTestCase):
    """
    What comes, and what becomes of it.
    """

    def test_interface(self) -> None:
        """
        It is an L{IWorker}, and the reactor reads from it.
        """
        worker = self.work()
        verifyObject(IWorker, worker)
        verifyObject(IReadDescriptor, worker)
        self.assertEqual(worker.logPrefix(), "portlisten")

    async def test_served(self) -> None:
        """
        A connection is served by the factory, which was started.
        """
        self.work()
        self.assertEqual(self.factory.calls, ["start"])
        [client] = self.handOff()
        client.sendall(b"ping")
        [conversation] = await self.served(1)
        await eventually(lambda: conversation.received == b"ping")
        conversation.transport.write(b"pong")
        self.assertEqual(await workers.hear(client), b"pong")
        self.assertEqual(
            texts(self.logged, "info"), [f"receiving at {self.path} (mode 0660)"]
        )

    async def test_many(self) -> None:
        """
        Several are taken in a turn of the loop, though not without end.
        """
        worker = self.work()
        self.reactor.removeReader(worker)
        self.patch(_receiver, "BATCH_SIZE", 3)
        self.handOff(5)
        worker.doRead()
        self.assertEqual(len(self.factory.conversations), 3)
        worker.doRead()
        self.assertEqual(len(self.factory.conversations), 5)
        self.assertGreater(BATCH_SIZE, 10)

    async def test_none(self) -> None:
        """
        A datagram with no descriptor, or with nothing at all, is passed over.
        """
        self.work()
        self.send()
        self.send(data=b"")
        self.handOff()
        await self.served(1)
        self.assertEqual(
            texts(self.logged, "warn"), ["a datagram without a descriptor came"] * 2
        )

    async def test_several(self) -> None:
        """
        Several connections in one datagram are all served.
        """
        self.work()
        pairs = [self.client() for _ in range(3)]
        self.send(*(accepted.fileno() for _, accepted in pairs))
        for _, accepted in pairs:
            accepted.close()
        await self.served(3)

    async def test_wrongKind(self) -> None:
        """
        If a descriptor is no connection, it is closed, with a complaint.  Connections
        in the same datagram are served.
        """
        self.work()
        left, right = os.pipe()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening = socket.create_server(("127.0.0.1", 0))
        _, accepted = self.client()
        self.send(left, udp.fileno(), accepted.fileno(), listening.fileno())
        for descriptor in (left, right):
            os.close(descriptor)
        for sock in (udp, accepted, listening):
            sock.close()
        await self.served(1)
        complaints = texts(self.logged, "warn")
        self.assertEqual(len(complaints), 3)
        for complaint in complaints:
            self.assertIn("a descriptor came that cannot be used", complaint)

    async def test_goneClient(self) -> None:
        """
        A client that has left is no trouble.
        """
        self.work()
        client, accepted = self.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with accepted:
            self.send(accepted.fileno())
        with warnings.catch_warnings():
            # Twisted leaves its duplicate to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            self.handOff()
            await self.served(1)
        self.assertEqual(texts(self.logged, "error"), [])

    async def test_exhausted(self) -> None:
        """
        While the process has no free descriptors, datagrams stay queued.
        """
        self.work()
        pairs = [self.client() for _ in range(4)]
        with workers.exhausted() as take:
            for _, accepted in pairs:
                self.send(accepted.fileno())
            await aMoment()
            take()
            for _ in range(3):
                self.clock.advance(RETRY)
                take()
                await aMoment()
            self.assertLess(len(self.factory.conversations), 4)
        for _, accepted in pairs:
            accepted.close()

        def all() -> bool:
            self.clock.advance(RETRY)
            return len(self.factory.conversations) == 4

        await eventually(all)

    async def test_receiveFails(self) -> None:
        """
        Any other failure to receive is logged.
        """
        worker = self.work()

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        with workers.monkeyPatched(_kernel, "receive", fail):
            worker.doRead()
        self.assertEqual(
            texts(self.logged, "error"),
            ["nothing was received: Cannot allocate memory"],
        )

    async def test_unpollable(self) -> None:
        """
        A socket that the reactor cannot poll is given up, with a line that says
        what to do.
        """
        worker = self.work()
        worker.connectionLost(Failure(ConnectionLost()))
        [line] = texts(self.logged, "critical")
        self.assertIn("restart the worker", line)
        self.assertEqual(worker.fileno(), -1)


class PathTests(WorkerTestCase):
    """
    Whose the path is.
    """

    def test_mode(self) -> None:
        """
        It has the mode that is asked for.
        """
        self.work(mode=0o606, group=os.getgid())
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o606)

    def test_living(self) -> None:
        """
        If a live worker is at the path, it is left alone.
        """
        self.work()
        second = DatagramWorker(self.reactor, self.path, self.factory)
        error = self.assertRaises(PathError, second.bind)
        self.assertIn("a worker lives at", str(error))
        self.assertIn("--replace", str(error))

    async def test_stale(self) -> None:
        """
        What a dead one has left is replaced.
        """
        Receiver(self.path).close()
        self.work()
        self.handOff()
        await self.served(1)

    def test_listener(self) -> None:
        """
        The path of a listener, which is of another kind, is left alone.
        """
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(self.path)
            stream.listen()
            for replace in (False, True):
                worker = DatagramWorker(
                    self.reactor, self.path, self.factory, replace=replace
                )
                error = self.assertRaises(PathError, worker.bind)
                self.assertIn("a socket of another kind is bound to", str(error))
        os.unlink(self.path)

    async def test_replace(self) -> None:
        """
        With the option to replace, a worker takes the path over.  The other worker
        serves its connections, and leaves the path alone when it stops.
        """
        first = self.work()
        self.reactor.removeReader(first)
        self.handOff()
        second = self.work(replace=True)
        self.handOff()
        await self.served(1)
        stopped = first.stop()
        await self.served(2)
        self.assertFalse(stopped.called)
        self.handOff()
        await self.served(3)
        self.assertEqual(os.listdir(os.path.dirname(self.path)).count("path"), 1)
        self.assertNotEqual(second.fileno(), -1)

    async def test_replaceNobody(self) -> None:
        """
        The option to replace does no harm if no worker is at the path.
        """
        self.work(replace=True)
        self.handOff()
        await self.served(1)
        self.assertEqual(
            [
                name
                for name in os.listdir(os.path.dirname(self.path))
                if name.startswith("path")
            ],
            ["path"],
        )


class WorkerStopTests(WorkerTestCase):
    """
    How the worker's side stops.
    """

    async def test_lastOnes(self) -> None:
        """
        What has reached it is served, and nothing can be sent to it any more.
        """
        worker = self.work()
        self.reactor.removeReader(worker)
        keep = os.dup(worker.fileno())
        clients = self.handOff(5)
        stopped = worker.stop()
        self.assertEqual(len(self.factory.conversations), 5)
        self.assertFalse(os.path.exists(self.path))
        # A sender that still has the socket's name, or is in the middle of sending.
        held = socket.socket(fileno=keep)
        self.addCleanup(held.close)
        for client in clients:
            client.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_noMore(self) -> None:
        """
        When a worker begins to take no more, sending to it fails at once, even for
        senders that had looked up its path before.
        """
        worker = self.work()
        self.sender.connect(self.path)
        close = worker._close
        worker._close = lambda: None  # type: ignore[method-assign]
        worker.stop()
        _, accepted = self.client()
        with accepted:
            rights = array.array("i", [accepted.fileno()])
            error = self.assertRaises(
                OSError,
                self.sender.sendmsg,
                [b"x"],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
            )
        self.assertEqual(error.errno, errno.EPIPE)
        worker._close = close  # type: ignore[method-assign]

    async def test_grace(self) -> None:
        """
        It waits for connections in service, but no longer than the grace.
        """
        worker = self.work(grace=3)
        self.handOff()
        await self.served(1)
        stopped = worker.stop()
        self.clock.advance(2.9)
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        self.assertTrue(stopped.called)
        self.assertEqual(
            texts(self.logged, "warn"), ["1 connections are still in service after 3 s"]
        )

    async def test_twice(self) -> None:
        """
        Each caller of the stop is notified when it is done.
        """
        worker = self.work()
        self.assertTrue(worker.stop().called)
        self.assertTrue(worker.stop().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    def test_neverStarted(self) -> None:
        """
        A worker that was only bound removes its path.
        """
        worker = DatagramWorker(self.reactor, self.path, self.factory)
        worker.bind()
        self.assertTrue(worker.stop().called)
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.factory.calls, ["start", "stop"])

    def test_factoryFails(self) -> None:
        """
        If the factory cannot start, nothing stays bound.
        """

        def fail() -> None:
            raise ZeroDivisionError

        self.factory.startFactory = fail  # type: ignore[method-assign]
        worker = DatagramWorker(self.reactor, self.path, self.factory)
        self.assertRaises(ZeroDivisionError, worker.bind)
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(worker.fileno(), -1)

    async def test_exhausted(self) -> None:
        """
        What cannot be received yet, for want of descriptors, is waited for.
        """
        worker = self.work()
        self.reactor.removeReader(worker)
        pairs = [self.client() for _ in range(4)]
        with workers.exhausted() as take:
            for _, accepted in pairs:
                self.send(accepted.fileno())
            stopped = worker.stop()
            take()
            self.clock.advance(RETRY)
            take()
            await aMoment()
            self.assertLess(len(self.factory.conversations), 4)
            self.assertFalse(stopped.called)
        for _, accepted in pairs:
            accepted.close()

        def all() -> bool:
            self.clock.advance(RETRY)
            return len(self.factory.conversations) == 4

        await eventually(all)
        for client, _ in pairs:
            client.close()
        await eventually(lambda: stopped.called)
