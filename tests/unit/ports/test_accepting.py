"""
Tests for L{portlisten._ports.accepting}.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._kernel import sockets
from portlisten._ports import accepting as _accept
from portlisten._ports.accepting import Accepted
from tests.support.acceptors import (
    RETRY,
    AcceptorTestCase,
    ListeningTestCase,
)
from tests.support.descriptors import watchDescriptors


class ListeningTests(ListeningTestCase):
    """
    Tests for what is accepted, and when.
    """

    def test_interface(self) -> None:
        """
        A reactor can read from it.
        """
        verifyObject(IReadDescriptor, self.listener)
        self.assertEqual(self.listener.fileno(), self.socket.fileno())
        self.assertEqual(self.listener.logPrefix(), "portlisten")

    def test_accepts(self) -> None:
        """
        It takes all that wait at once, with their clients' addresses.
        """
        addresses = self.connectFrom(3)
        self.listener.doRead()
        self.assertEqual(self.batches, [addresses])
        self.assertReading(self.listener, True)

    def test_untouched(self) -> None:
        """
        What a client has sent is there to be read, and nothing was written.
        """
        (client,) = self.connect()
        client.sendall(b"hello")
        self.listener.doRead()
        self.assertIs(_kernel.untouched(self.sockets[0]), True)
        self.assertEqual(self.sockets[0].recv(100), b"hello")

    def test_notInherited(self) -> None:
        """
        Programs that the process runs inherit no connection.
        """
        self.connect()
        self.listener.doRead()
        self.assertFalse(os.get_inheritable(self.sockets[0].fileno()))

    def test_nothing(self) -> None:
        """
        It says nothing of no connections.
        """
        self.listener.doRead()
        self.assertEqual(self.batches, [])
        self.assertReading(self.listener, True)

    def test_room(self) -> None:
        """
        The acceptor takes as many connections as fit, and then stops polling; the rest
        waits until more fit.
        """
        self.capacity = 2
        addresses = self.connectFrom(3)
        self.listener.doRead()
        self.assertReading(self.listener, False)
        self.capacity = 1
        self.listener.resume()
        self.assertReading(self.listener, True)
        self.listener.doRead()
        self.assertEqual(self.batches, [addresses[:2], addresses[2:]])

    def test_noRoom(self) -> None:
        """
        Without room it takes nothing, and no longer looks.
        """
        self.capacity = 0
        self.connect()
        self.listener.doRead()
        self.assertEqual(self.batches, [])
        self.assertReading(self.listener, False)

    def test_stillNoRoom(self) -> None:
        """
        The acceptor does not poll before connections fit, even if it is resumed: the
        backlog would wake it without end.
        """
        self.capacity = 0
        self.connect()
        self.listener.doRead()
        self.listener.resume()
        self.assertReading(self.listener, False)
        self.capacity = 1
        self.listener.resume()
        self.assertReading(self.listener, True)

    def test_roomLeft(self) -> None:
        """
        As long as one more connection fits, it looks.
        """
        self.capacity = 2
        self.connect()
        self.listener.doRead()
        self.assertEqual(self.capacity, 1)
        self.assertReading(self.listener, True)

    def test_batch(self) -> None:
        """
        It takes no more than a batch in one turn, and leaves others to the
        next, so that the reactor can see to something else.
        """
        self.patch(_accept, "BATCH_SIZE", 2)
        addresses = self.connectFrom(3)
        self.listener.doRead()
        self.assertEqual(self.batches, [addresses[:2]])
        self.assertReading(self.listener, True)
        self.listener.doRead()
        self.assertEqual(self.batches, [addresses[:2], addresses[2:]])

    def test_suspended(self) -> None:
        """
        While the acceptor is suspended, it does not poll; it goes on when it is
        resumed.
        """
        self.listener.suspend()
        self.listener.suspend()
        self.assertReading(self.listener, False)
        self.listener.resume()
        self.listener.resume()
        self.assertReading(self.listener, True)

    def test_stopTakesBacklog(self) -> None:
        """
        The clients that wait when it stops are taken, and it closes.
        """
        addresses = self.connectFrom(3)
        self.listener.stop()
        self.assertEqual(self.batches, [addresses])
        self.assertReading(self.listener, False)
        self.assertEqual(self.socket.fileno(), -1)

    def test_stopWithoutRoom(self) -> None:
        """
        When it stops, the acceptor takes only the connections that fit; other holders
        of the socket get the rest.
        """
        self.capacity = 1
        addresses = self.connectFrom(2)
        self.listener.stop()
        self.assertEqual(self.batches, [addresses[:1]])
        accepted, address = self.other.accept()
        accepted.close()
        self.assertEqual(address, addresses[1])

    def test_stopWaitsForRoom(self) -> None:
        """
        If no other holder is to get them, connections that waited at the first stop are
        taken when they fit, and the socket is closed after the last.
        """
        self.capacity = 1
        addresses = self.connectFrom(3)
        for number in range(3):
            self.assertNotEqual(self.socket.fileno(), -1)
            self.capacity = 1
            self.listener.stop(leave=False)
            self.assertEqual(self.batches[number:], [addresses[number : number + 1]])
            self.connectFrom(1)
        self.assertEqual(self.socket.fileno(), -1)

    def test_stopWithoutDescriptors(self) -> None:
        """
        Those that cannot be accepted for want of descriptors are taken when they can.
        """
        addresses = self.connectFrom(1)
        accept = sockets.accept

        def fail(sock: socket.socket, family: int) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(sockets, "accept", fail)
        self.listener.stop(leave=False)
        self.assertNotEqual(self.socket.fileno(), -1)
        self.patch(sockets, "accept", accept)
        self.listener.stop(leave=False)
        self.assertEqual(self.batches, [addresses])
        self.assertEqual(self.socket.fileno(), -1)

    def test_stopUncounted(self) -> None:
        """
        If the kernel does not say how many wait, it closes when none does.
        """
        self.patch(_kernel, "queued", lambda sock: None)
        addresses = self.connectFrom(2)
        for number in range(2):
            self.assertNotEqual(self.socket.fileno(), -1)
            self.capacity = 1
            self.listener.stop(leave=False)
            self.assertEqual(self.batches[number:], [addresses[number : number + 1]])
        self.assertEqual(self.socket.fileno(), -1)

    def test_closeTakesNothing(self) -> None:
        """
        Closing leaves the backlog to the socket's other holders.
        """
        (address,) = self.connectFrom(1)
        self.listener.close()
        self.assertEqual(self.batches, [])
        accepted, found = self.other.accept()
        accepted.close()
        self.assertEqual(found, address)

    def test_notShutDown(self) -> None:
        """
        The socket's other holders go on accepting after it has stopped.
        """
        self.listener.stop()
        (address,) = self.connectFrom(1)
        accepted, found = self.other.accept()
        accepted.close()
        self.assertEqual(found, address)

    def test_stopShutsDown(self) -> None:
        """
        If it is told to shut the socket down, it first takes all that wait.  Then
        clients are refused, though another process holds the socket.
        """
        self.capacity = 1
        addresses = self.connectFrom(2)
        self.listener.stop(leave=False, shutDown=True)
        self.assertTrue(_kernel.listens(self.other))
        self.capacity = 1
        self.listener.stop(leave=False, shutDown=True)
        self.listener.stop(leave=False, shutDown=True)
        self.assertEqual(self.batches, [[each] for each in addresses])
        self.assertEqual(self.socket.fileno(), -1)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(self.other.getsockname(), 5).close()

    def test_stopTwice(self) -> None:
        """
        It stops once, and stays stopped.
        """
        self.listener.stop()
        self.listener.stop()
        self.listener.resume()
        self.assertReading(self.listener, False)

    def test_shutDownByOther(self) -> None:
        """
        When another holder has shut the socket down, nothing can be accepted
        any more; that is told once, and the reactor is not kept busy.
        """
        self.other.shutdown(socket.SHUT_RDWR)
        with capturedLogs() as events:
            self.listener.doRead()
            self.listener.stop()
        (event,) = events
        self.assertEqual(event["log_level"], LogLevel.critical)
        self.assertEqual(
            (event["port"], event["why"]), ("tcp:here", "Invalid argument")
        )
        self.assertReading(self.listener, False)
        self.assertEqual(self.socket.fileno(), -1)

    def test_connectionLost(self) -> None:
        """
        So it is when the reactor finds the socket unusable.
        """
        with capturedLogs() as events:
            self.listener.connectionLost(Failure(ConnectionLost("hung up")))
        (event,) = events
        self.assertEqual(event["log_level"], LogLevel.critical)
        self.assertIn("hung up", event["why"])
        self.assertReading(self.listener, False)
        self.assertEqual(self.socket.fileno(), -1)


class ParkTests(ListeningTestCase):
    """
    Leaving clients in the backlog, and knowing of them.
    """

    def test_park(self) -> None:
        """
        A parked acceptor accepts nothing until it stops, even if it is resumed.
        """
        self.listener.park()
        self.connect(2)
        self.listener.resume()
        self.assertReading(self.listener, False)
        self.assertEqual(self.batches, [])
        self.listener.stop()
        self.assertEqual([len(batch) for batch in self.batches], [2])
        self.assertEqual(self.socket.fileno(), -1)

    def test_parkedInPause(self) -> None:
        """
        A pause that ends does not have it accept.
        """
        sock, acceptor = self.scripted(errno.EMFILE, self.connection())
        acceptor.doRead()
        acceptor.park()
        self.reactor.advance(RETRY)
        self.assertNotIn(acceptor, list(self.reactor.getReaders()))
        self.assertEqual(len(sock.results), 1)

    def test_waits(self) -> None:
        """
        It says whether a client waits.
        """
        self.listener.park()
        self.assertIs(self.listener.waits, False)
        self.connect()
        self.assertIs(self.listener.waits, True)
        self.listener.stop()
        self.assertIs(self.listener.waits, False)

    def test_bug(self) -> None:
        """
        If it fails to hand a batch on, that is logged, and the next one comes.
        """

        def fail(batch: list[Accepted]) -> None:
            for sock, _ in batch:
                sock.close()
            raise ZeroDivisionError

        accepted = self.listener._accepted
        self.listener._accepted = fail
        self.connect()
        self.listener.doRead()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertReading(self.listener, True)
        self.listener._accepted = accepted
        self.connect()
        self.listener.doRead()
        self.assertEqual(len(self.batches), 1)

    def test_bugAndResume(self) -> None:
        """
        After that, it can be suspended and resumed as before.
        """

        def fail(batch: list[Accepted]) -> None:
            for sock, _ in batch:
                sock.close()
            raise ZeroDivisionError

        self.listener._accepted = fail
        self.connect()
        self.listener.doRead()
        self.flushLoggedErrors(ZeroDivisionError)
        self.listener.suspend()
        self.assertReading(self.listener, False)
        self.listener.resume()
        self.assertReading(self.listener, True)


class ErrorTests(AcceptorTestCase):
    """
    Tests with a socket that fails.
    """

    def test_exhausted(self) -> None:
        """
        When the process or the machine is out of something, it pauses for a
        while, and goes on.
        """
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            _, acceptor = self.scripted(number, self.connection())
            self.batches.clear()
            acceptor.doRead()
            self.assertReading(acceptor, False)
            self.reactor.advance(RETRY * 0.99)
            self.assertReading(acceptor, False)
            self.reactor.advance(RETRY * 0.01)
            self.assertReading(acceptor, True)
            self.assertEqual(self.batches, [])
            acceptor.doRead()
            self.assertEqual(self.batches, [["somebody"]])
            acceptor.close()

    def test_nobodyIsClosed(self) -> None:
        """
        Connections that were accepted before are kept.
        """
        connection = self.connection()
        descriptor = connection.fileno()
        _, acceptor = self.scripted(connection, errno.EMFILE)
        acceptor.doRead()
        self.assertEqual([sock.fileno() for sock in self.sockets], [descriptor])
        os.fstat(descriptor)

    def test_pauseIsTold(self) -> None:
        """
        The log says where it pauses, why, and for how long.
        """
        _, acceptor = self.scripted(errno.EMFILE)
        with capturedLogs() as events:
            acceptor.doRead()
        (event,) = events
        self.assertEqual(event["log_level"], LogLevel.error)
        self.assertEqual(
            (event["port"], event["retry"], event["error"]),
            ("tcp:here", RETRY, "Too many open files"),
        )

    def test_pauseIsToldOnce(self) -> None:
        """
        It says so once, until something was accepted again.
        """
        _, acceptor = self.scripted(
            errno.EMFILE,
            errno.EMFILE,
            self.connection(),
            errno.EAGAIN,
            errno.EMFILE,
        )
        with capturedLogs() as events:
            acceptor.doRead()
            self.reactor.advance(RETRY)
            acceptor.doRead()
            self.assertEqual(len(events), 1)
            self.reactor.advance(RETRY)
            acceptor.doRead()
            acceptor.doRead()
        self.assertEqual(len(events), 2)

    def test_resumeInPause(self) -> None:
        """
        Room that is found during a pause does not end it.
        """
        _, acceptor = self.scripted(errno.EMFILE)
        acceptor.doRead()
        acceptor.resume()
        self.assertReading(acceptor, False)
        self.reactor.advance(RETRY)
        self.assertReading(acceptor, True)

    def test_closeInPause(self) -> None:
        """
        A pause ends for good when it closes.
        """
        sock, acceptor = self.scripted(errno.EMFILE)
        acceptor.doRead()
        acceptor.close()
        self.assertTrue(sock.closed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stopInPause(self) -> None:
        """
        Stopping during a pause takes what can be taken by then.
        """
        sock, acceptor = self.scripted(errno.EMFILE, self.connection())
        acceptor.doRead()
        acceptor.stop()
        self.assertEqual(self.batches, [["somebody"]])
        self.assertTrue(sock.closed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unusable(self) -> None:
        """
        A descriptor that no longer is a listening socket is given up, after
        the connections that it gave.
        """
        for number in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
            self.batches.clear()
            sock, acceptor = self.scripted(self.connection(), number)
            acceptor.doRead()
            self.assertEqual(self.batches, [["somebody"]])
            self.assertTrue(sock.closed)
            self.assertReading(acceptor, False)
            acceptor.resume()
            self.assertReading(acceptor, False)

    def test_connectionsError(self) -> None:
        """
        The error of a connection that was lost in the backlog is not the
        port's: the next connection is taken.
        """
        for number in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN):
            self.batches.clear()
            _, acceptor = self.scripted(number, self.connection())
            acceptor.doRead()
            self.assertEqual(self.batches, [["somebody"]])
            self.assertReading(acceptor, True)
            acceptor.close()

    def test_asksNoMore(self) -> None:
        """
        Once nothing more waits, it asks no more in that turn.
        """
        _, acceptor = self.scripted(errno.EAGAIN, self.connection())
        acceptor.doRead()
        self.assertEqual(self.batches, [])
        acceptor.doRead()
        self.assertEqual(self.batches, [["somebody"]])

    def test_errorsOnly(self) -> None:
        """
        A socket that does nothing but fail does not hold up the reactor.
        """
        sock, acceptor = self.scripted(*[errno.EPERM] * (_accept.BATCH_SIZE + 1))
        self.capacity = 10 * _accept.BATCH_SIZE
        acceptor.doRead()
        self.assertEqual(len(sock.results), 1)
        self.assertReading(acceptor, True)


# Has descriptors for two connections, until its first pause.
SHORT_OF_DESCRIPTORS = """
import os, resource, socket, sys
from twisted.internet import reactor
from twisted.logger import globalLogPublisher
from portlisten._ports.accepting import Acceptor

listening = socket.create_server(("127.0.0.1", 0))
listening.setblocking(False)
print(listening.getsockname()[1], flush=True)
count = int(sys.stdin.readline())
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
connections = []

def begin():
    free = [os.dup(0), os.dup(0)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    acceptor.resume()

def observe(event):
    if "retry" in event:
        print(event["error"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

def accepted(batch):
    print(len(batch))
    connections.extend(sock for sock, _ in batch)
    if len(connections) == count:
        for sock in connections:
            sock.sendall(b"x")
        acceptor.stop()
        reactor.stop()

globalLogPublisher.addObserver(observe)
acceptor = Acceptor(reactor, listening, "here", lambda: 100, accepted, 0.01)
reactor.callWhenRunning(begin)
reactor.callLater(30, os._exit, 3)
reactor.run()
"""


class DescriptorsTests(SynchronousTestCase):
    """
    Tests with a process that really runs out of descriptors.
    """

    def test_noClientIsClosed(self) -> None:
        """
        Every client is served in the end; clients wait while descriptors are missing.
        """
        watchDescriptors(self)
        with subprocess.Popen(
            [sys.executable, "-c", SHORT_OF_DESCRIPTORS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            self.addCleanup(child.kill)
            assert child.stdout is not None
            target = "127.0.0.1", int(child.stdout.readline())
            clients = [socket.create_connection(target, 30) for _ in range(5)]
            for client in clients:
                self.addCleanup(client.close)
            output, _ = child.communicate(f"{len(clients)}\n", timeout=60)
        self.assertEqual([client.recv(2) for client in clients], [b"x"] * 5)
        self.assertEqual(output, "Too many open files\n2\n3\n")
        self.assertEqual(child.returncode, 0)
