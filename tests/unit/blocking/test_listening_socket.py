"""
Tests for L{portlisten._blocking.listening_socket}: C{accept()}, and what else programs
do with a listening socket.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import selectors
import signal
import socket
import threading
import time
import warnings
from typing import Any

from portlisten._blocking import receiver as _receiver
from portlisten._model import Address, InternetAddress, Port, UnixAddress
from portlisten._wire.frames import (
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    ListenerHello,
    Refuse,
    Serving,
)
from portlisten.blocking import ListeningSocket
from portlisten.errors import EndpointError
from tests.support.channels import PATIENCE
from tests.support.descriptors import descriptors
from tests.support.listening_sockets import (
    SocketTestCase,
    eventually,
)


class Waiting(threading.Thread):
    """
    A thread that accepts once.

    @ivar result: what C{accept} returned or raised.
    """

    def __init__(self, listening: ListeningSocket) -> None:
        super().__init__()
        self._listening = listening
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._listening.accept()
        except Exception as error:
            self.result = error

    def end(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.result


class AcceptTests(SocketTestCase):
    """
    Tests for L{ListeningSocket.accept}.
    """

    def test_takesWhatIsOffered(self) -> None:
        """
        An offer is claimed when C{accept} is called, and not before.  The socket is
        blocking.  Its end is reported when it is closed.
        """
        listening, listener = self.listen()
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.assertEqual(listener.heard(Claim), [])
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual(address, client.getsockname())
        listener.hears(Claim((1,)))
        self.assertIsNone(sock.gettimeout())
        self.assertTrue(os.get_blocking(sock.fileno()))
        client.sendall(b"question")
        self.assertEqual(sock.recv(100), b"question")
        self.assertEqual(listener.heard(Closed), [])
        sock.close()
        listener.hears(Closed((1,)))
        self.assertEqual(self.hear(client), b"")

    def test_waits(self) -> None:
        """
        It waits as long as it takes.
        """
        listening, listener = self.listen()
        waiting = Waiting(listening)
        time.sleep(0.05)
        self.assertTrue(waiting.is_alive())
        self.offer(listener, 1)
        sock, _ = waiting.end()
        sock.close()

    def test_timeout(self) -> None:
        """
        It waits as long as the socket's time-out says.
        """
        listening, listener = self.listen()
        listening.settimeout(0.05)
        start = time.monotonic()
        with self.assertRaises(TimeoutError):
            listening.accept()
        self.assertGreaterEqual(time.monotonic() - start, 0.05)
        self.offer(listener, 1)
        listening.settimeout(PATIENCE)
        self.assertIsNone(self.take(listening).gettimeout())

    def test_nonBlocking(self) -> None:
        """
        With a time-out of 0, it fails at once if nothing is offered.
        """
        listening, listener = self.listen()
        listening.setblocking(False)
        with self.assertRaises(BlockingIOError):
            listening.accept()
        self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)
        with self.assertRaises(BlockingIOError):
            listening.accept()

    def test_defaultTimeout(self) -> None:
        """
        The connection has the default time-out, as that of any C{accept()}.
        """
        listening, listener = self.listen()
        self.addCleanup(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(7)
        self.offer(listener, 1)
        self.assertEqual(self.take(listening).gettimeout(), 7)

    def test_threads(self) -> None:
        """
        Several threads accept.  Each connection goes to one of them.
        """
        listening, listener = self.listen(limit=None)
        waiting = [Waiting(listening) for _ in range(8)]
        clients = [self.offer(listener, id) for id in range(1, 9)]
        socks = [each.end()[0] for each in waiting]
        self.assertEqual(
            {each.getpeername() for each in socks},
            {each.getsockname() for each in clients},
        )
        for each in socks:
            each.close()
        eventually(lambda: sum(len(x.ids) for x in listener.heard(Closed)) == 8)

    def test_closed(self) -> None:
        """
        After C{close}, it fails.
        """
        listening, listener = self.listen()
        listening.close()
        with self.assertRaises(OSError) as caught:
            listening.accept()
        self.assertEqual(caught.exception.errno, errno.EBADF)
        listener.hears(Drain())

    def test_closedInAnotherThread(self) -> None:
        """
        If another thread closes the socket or shuts it down, threads that wait in
        C{accept} fail.
        """
        for close in (
            lambda each: each.close(),
            lambda each: each.shutdown(socket.SHUT_RDWR),
        ):
            listening, listener = self.listen()
            waiting = [Waiting(listening) for _ in range(3)]
            time.sleep(0.05)
            close(listening)
            for each in waiting:
                self.assertIn(each.end().errno, (errno.EBADF, errno.EINVAL))
            listening.close()
            listener.close()
            self.log.lines.clear()

    def test_shutDown(self) -> None:
        """
        After C{shutdown}, it fails, and the socket is readable, so that servers call
        it.
        """
        listening, listener = self.listen()
        listening.shutdown(socket.SHUT_RDWR)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        with self.assertRaises(OSError) as caught:
            listening.accept()
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        listener.close()
        time.sleep(0.02)
        self.assertTrue(self.isReadable(listening))

    def test_offersWhenClosed(self) -> None:
        """
        The offers of a socket that is closed go to others.
        """
        listening, listener = self.listen(limit=None)
        for id in range(1, 4):
            self.offer(listener, id)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        listening.close()

        def refused() -> list[int]:
            return [id for each in listener.heard(Refuse) for id in each.ids]

        # An offer that is read after the end is refused after DRAIN.
        eventually(lambda: len(refused()) == 3)
        self.assertEqual(refused(), [1, 2, 3])
        self.assertTrue(listener.heard(Drain))
        self.assertEqual(listener.heard(Claim), [])

    def test_connectionsOutlive(self) -> None:
        """
        Connections in service go on when the socket is closed, and may be closed in
        another thread.
        """
        listening, listener = self.listen(limit=2)
        clients = [self.offer(listener, id) for id in (1, 2)]
        socks = [self.take(listening) for _ in clients]
        listening.close()
        socks[0].sendall(b"answer")
        thread = threading.Thread(target=socks[0].close)
        thread.start()
        thread.join()
        self.assertEqual(self.hear(clients[0]), b"answer")
        listener.hears(Closed((1,)))
        listener.close()
        socks[1].sendall(b"answer")
        socks[1].close()
        self.assertEqual(self.hear(clients[1]), b"answer")

    def test_clientLeft(self) -> None:
        """
        A client that has left is passed over, and reported.
        """
        listening, listener = self.listen(limit=None)
        client = self.offer(listener, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()
        second = self.offer(listener, 2)
        self.assertEqual(self.take(listening).getpeername(), second.getsockname())
        listener.hears(ClientGone((1,)))
        listening.setblocking(False)
        with self.assertRaises(BlockingIOError):
            listening.accept()

    def test_readiness(self) -> None:
        """
        The socket is readable exactly while there is something to return.
        """
        listening, listener = self.listen(limit=None)
        listening.setblocking(False)
        self.assertFalse(self.isReadable(listening))
        count = 0
        for round in range(20):
            for _ in range(round % 4 + 1):
                count += 1
                self.offer(listener, count)
            for _ in range(round % 4 + 1):
                self.assertTrue(self.isReadable(listening, PATIENCE))
                self.take(listening).close()
            self.assertFalse(self.isReadable(listening))

    def test_selectors(self) -> None:
        """
        It can be used with L{selectors}.
        """
        listening, listener = self.listen()
        with selectors.DefaultSelector() as selector:
            selector.register(listening, selectors.EVENT_READ)
            self.assertEqual(selector.select(0), [])
            self.offer(listener, 1)
            ((key, _),) = selector.select(PATIENCE)
            self.assertIs(key.fileobj, listening)

    def test_edgeTriggered(self) -> None:
        """
        An edge comes for an offer to a socket that had none.
        """
        listening, listener = self.listen(limit=None)
        listening.setblocking(False)
        epoll = select.epoll()
        self.addCleanup(epoll.close)
        epoll.register(listening, select.EPOLLIN | select.EPOLLET)
        for id in range(1, 4):
            self.offer(listener, id)
            self.assertEqual(len(epoll.poll(PATIENCE)), 1)
            self.take(listening)

    def test_taken(self) -> None:
        """
        If the listener takes its offers back, the socket is readable only until the
        program asks.
        """
        listening, listener = self.listen()
        listening.setblocking(False)
        self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        listener.say(Bye("gone"))
        listener.close()
        self.says("lost the listener")
        # The listener is dead, so its offer is this worker's.
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.take(listening)
        self.assertFalse(self.isReadable(listening))

    def test_descriptors(self) -> None:
        """
        Connections leave no descriptor behind, nor do listening sockets.
        """
        before = descriptors()
        listening = ListeningSocket(f"portlisten:{self.path}", timeout=0)
        listener = self.join()
        for id in range(1, 20):
            client = self.offer(listener, id)
            sock, _ = listening.accept()
            sock.close()
            client.close()
        del sock
        listening.close()
        listener.hears(Drain())
        listener.close()
        self.noThread()
        gc.collect()
        self.assertEqual(descriptors(), before)

    def test_garbage(self) -> None:
        """
        A socket that nobody closed takes no more connections when it is collected, and
        says so as any socket does.
        """
        listening = ListeningSocket(f"portlisten:{self.path}", timeout=0)
        listener = self.join()
        number = listening.fileno()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del listening
            self.assertTrue(any("unclosed" in str(each.message) for each in caught))
            caught.clear()  # a warning holds what it is about
        listener.hears(Drain())
        self.assertNotIn(number, descriptors())


class SignalTests(SocketTestCase):
    """
    Signal handlers that run while C{accept} has the lock.
    """

    def within(self, then: Any) -> ListeningSocket:
        """
        Have a signal handler run in the locked part of C{accept}.
        """
        listening, self.listener = self.listen()
        receiver: Any = listening._receiver
        asked = receiver._worker.asked

        def interrupted() -> Any:
            self.assertTrue(receiver._loop.lock._is_owned())
            receiver._worker.asked = asked
            signal.raise_signal(signal.SIGUSR1)
            return asked()

        receiver._worker.asked = interrupted
        before = signal.signal(signal.SIGUSR1, lambda *_: then(listening))
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        self.offer(self.listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        return listening

    def test_close(self) -> None:
        """
        A handler may close the socket.  The connection that C{accept} was about to
        take is served.
        """
        listening = self.within(lambda each: each.close())
        sock = self.take(listening)
        self.listener.hears(Claim((1,)), Drain())
        sock.close()
        self.listener.hears(Closed((1,)))

    def test_exit(self) -> None:
        """
        If a handler raises an exception, the lock is free, and nothing is lost.
        """

        def leave(listening: ListeningSocket) -> None:
            raise SystemExit(3)

        listening = self.within(leave)
        with self.assertRaises(SystemExit):
            listening.accept()
        self.take(listening).close()
        self.listener.hears(Claim((1,)), Closed((1,)))

    def test_exitWithTheSocket(self) -> None:
        """
        If a handler raises an exception when C{accept} has made the connection's
        socket, the connection ends, and its end is reported.
        """
        listening, listener = self.listen()
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        receiver: Any = listening._receiver
        take = receiver.take

        def interrupted() -> Any:
            receiver.take = take
            take()
            raise SystemExit(3)

        receiver.take = interrupted
        with self.assertRaises(SystemExit):
            listening.accept()
        gc.collect()
        listener.hears(Claim((1,)), Closed((1,)))
        self.assertEqual(self.hear(client), b"")
        self.isFree(listening, listener, 2)


class SocketTests(SocketTestCase):
    """
    What else programs ask of a listening socket.
    """

    def test_looks(self) -> None:
        """
        It looks like a listening socket.
        """
        listening, _ = self.listen()
        self.assertIsInstance(listening, socket.socket)
        self.assertEqual(listening.type, socket.SOCK_STREAM)
        self.assertEqual(
            listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1
        )
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", 0))
        listening.listen(5)
        self.assertIn(self.path, repr(listening))
        self.assertFalse(listening.get_inheritable())

    def test_addresses(self) -> None:
        """
        Its family and address are those of the listener's first port.
        """
        cases: list[tuple[Address, int, Any]] = [
            (
                InternetAddress("TCP", "192.0.2.1", 80),
                socket.AF_INET,
                ("192.0.2.1", 80),
            ),
            (InternetAddress("TCP", "::1", 80), socket.AF_INET6, ("::1", 80, 0, 0)),
            (UnixAddress(b"/run/www"), socket.AF_UNIX, "/run/www"),
        ]
        for address, family, name in cases:
            hello = ListenerHello(64, (Port(0, address, "www"),), honoursLimit=True)
            joining = threading.Thread(target=self.join, args=(hello,))
            joining.start()
            with ListeningSocket(f"portlisten:{self.path}", timeout=None) as listening:
                joining.join()
                self.assertEqual(listening.family, family)
                self.assertEqual(listening.getsockname(), name)

    def test_noListener(self) -> None:
        """
        Without a listener, it waits for as long as it was told, and its address has no
        number.
        """
        self.bound.close()
        start = time.monotonic()
        with ListeningSocket(f"portlisten:{self.path}", timeout=0.1) as listening:
            self.assertGreaterEqual(time.monotonic() - start, 0.1)
            self.assertEqual(listening.getsockname(), ("0.0.0.0", 0))
            self.assertEqual(listening.family, socket.AF_INET)
        self.says("waiting for a listener")

    def test_wrong(self) -> None:
        """
        Descriptions that can never work are told at once.
        """
        before = descriptors()
        os.mkdir("folder")
        for description, why in {
            "tcp:80": "portlisten",
            f"portlisten:{self.path}:certKey=x": "ssl=",
            f"portlisten:{self.path}:wire=datagram": "wire",
            f"portlisten:{self.path}:limit=0": "limit",
            f"portlisten:{self.path}:colour=red": "colour",
            "portlisten:folder": "folder",
            f"portlisten:{self.path}:label=a b": "label",
        }.items():
            with self.assertRaises(EndpointError) as caught:
                ListeningSocket(description)
            self.assertIn(why, str(caught.exception))
        self.assertEqual(descriptors(), before)

    def test_noDescriptors(self) -> None:
        """
        If the process has no free descriptor, or can have no thread, what was opened is
        closed.
        """
        before = descriptors()

        def fail(*_: Any) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        module: Any = _receiver
        for owner, name in (
            (module.os, "dup"),
            (module.socket, "socketpair"),
            (module.Loop, "start"),
            (module.Worker, "start"),
        ):
            patch = self.patch(owner, name, fail)
            with self.assertRaises(OSError):
                ListeningSocket(f"portlisten:{self.path}", timeout=0)
            patch.restore()
            gc.collect()
            self.assertEqual(descriptors(), before, name)

    def test_options(self) -> None:
        """
        The listener is told the limit, the label, and whether clients speak first.
        """
        cases: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
            ("", {}, (1, "", None)),
            ("", {"limit": 7, "first": True}, (7, "", 2000)),
            (":limit=3:first=no:label=x", {"limit": 7, "first": True}, (3, "x", None)),
            ("", {"limit": None}, (None, "", None)),
        ]
        for options, arguments, expected in cases:
            listening, listener = self.listen(options, **arguments)
            hello = self.hello
            self.assertEqual((hello.limit, hello.label, hello.first), expected)
            listening.close()
            listener.close()
            self.log.lines.clear()

    def test_duplicate(self) -> None:
        """
        It cannot be duplicated or detached, and leaves nothing open after that.
        """
        listening, listener = self.listen()
        with self.assertRaises(TypeError):
            listening.dup()
        number = listening.fileno()
        with self.assertRaises(TypeError):
            listening.detach()
        os.close(number)
        listener.hears(Drain())


class ConnectionTests(SocketTestCase):
    """
    What programs do with connections.
    """

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.forget)
        self.listening, self.listener = self.listen()
        self.client = self.offer(self.listener, 1)
        self.sock = self.take(self.listening)

    def forget(self) -> None:
        del self.listening, self.sock

    def test_makefile(self) -> None:
        """
        The connection ends when the socket and its files are closed.
        """
        file = self.sock.makefile("rwb")
        self.sock.close()
        file.write(b"answer")
        file.flush()
        self.assertEqual(self.listener.heard(Closed), [])
        file.close()
        self.listener.hears(Closed((1,)))
        self.assertEqual(self.hear(self.client), b"answer")

    def test_dup(self) -> None:
        """
        A duplicate is a socket as any other, and serves the connection on.
        """
        self.sock.settimeout(3)
        with self.sock.dup() as duplicate:
            self.assertIs(type(duplicate), socket.socket)
            self.assertEqual(duplicate.gettimeout(), 3)
            self.assertFalse(duplicate.get_inheritable())
            self.sock.close()
            self.listener.hears(Closed((1,)))
            duplicate.sendall(b"answer")
        self.assertEqual(self.hear(self.client), b"answer")

    def test_detach(self) -> None:
        """
        The end of a descriptor that was detached is noticed.
        """
        descriptor = self.sock.detach()
        time.sleep(0.1)
        self.assertEqual(self.listener.heard(Closed), [])
        os.close(descriptor)
        self.listener.hears(Closed((1,)))

    def test_reused(self) -> None:
        """
        If another socket gets the number of the descriptor, the end is noticed, and the
        other socket stays as it is, also with a default time-out.
        """
        self.addCleanup(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(7)
        descriptor = self.sock.detach()
        other, end = socket.socketpair()
        self.addCleanup(other.close)
        self.addCleanup(end.close)
        os.set_blocking(other.fileno(), True)
        os.dup2(other.fileno(), descriptor)
        self.listener.hears(Closed((1,)))
        time.sleep(0.02)
        self.assertTrue(os.get_blocking(descriptor))
        os.close(descriptor)

    def test_garbage(self) -> None:
        """
        A connection that nobody closed ends when it is collected.
        """
        self.sock.close()
        client = self.offer(self.listener, 2)
        sock: Any = self.listening.accept()
        del sock
        gc.collect()
        self.listener.hears(Closed((2,)))
        self.assertEqual(self.hear(client), b"")

    def test_closedUnderTheLock(self) -> None:
        """
        A connection may be collected while its own thread has the lock.
        """
        receiver: Any = self.listening._receiver
        with receiver._loop.lock:
            self.sock.close()
            self.assertEqual(self.listener.heard(Closed), [])
        self.listener.hears(Closed((1,)))

    def test_serving(self) -> None:
        """
        After the listener was restarted, it is told of connections of before.
        """
        self.bound.close()
        self.bound = self.bind()
        self.listener.close()
        self.says("lost the listener")
        second = self.join()
        second.hears(Serving(1))
        self.sock.sendall(b"answer")
        self.sock.close()
        second.hears(Serving(0))
        self.assertEqual(self.hear(self.client), b"answer")
