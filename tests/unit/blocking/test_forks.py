"""
Tests for what becomes of a blocking worker when its process forks.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from portlisten._blocking.forks import Forks
from portlisten._wire.frames import Closed
from tests.support.channels import PATIENCE
from tests.support.listening_sockets import SocketTestCase, eventually
from tests.unit.blocking.test_tls import Client, TLSTestCase


class Child:
    """
    A fork of this process.

    @param work: what it does.  It says what this returns, and ends.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Since 3.12, for a process with threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            try:
                os.write(writing, str(work()).encode())
            except BaseException as error:
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writing)

    def says(self) -> str:
        """
        Wait until it ends.

        @return: what it said.
        """
        said = b""
        while data := os.read(self._reading, 4096):
            said += data
        os.close(self._reading)
        os.waitpid(self._pid, 0)
        return said.decode()


class ForkTests(SocketTestCase):
    """
    Forks of a process that has a listening socket.
    """

    def test_acceptInChild(self) -> None:
        """
        The child cannot accept, and is told what to do.  Its socket is readable, so
        that a server that selects calls C{accept}.
        """
        listening, listener = self.listen()

        def work() -> str:
            poll = select.poll()
            poll.register(listening, select.POLLIN)
            ready = bool(poll.poll(0))
            try:
                listening.accept()
            except RuntimeError as error:
                return f"{ready} {error}"
            return "accepted"

        said = Child(work).says()
        self.assertTrue(said.startswith("True the ListeningSocket of"), said)
        self.assertIn("make it in the process that calls accept()", said)
        self.isFree(listening, listener, 1)

    def test_parentGoesOn(self) -> None:
        """
        The parent goes on undisturbed, whatever the child does with the socket.
        """
        listening, listener = self.listen(limit=None)
        self.assertFalse(self.isReadable(listening))
        for number, work in enumerate(
            [
                lambda: None,
                listening.close,
                lambda: listening.shutdown(socket.SHUT_RDWR),
            ]
        ):
            Child(work).says()
            for id in (2 * number + 1, 2 * number + 2):
                client = self.offer(listener, id)
                self.assertTrue(self.isReadable(listening, PATIENCE))
                sock = self.take(listening)
                sock.sendall(b"served")
                sock.close()
                self.assertEqual(self.hear(client), b"served")
            self.assertFalse(self.isReadable(listening))
        listener.hears(Closed((6,)))

    def test_channel(self) -> None:
        """
        The child does not hold the channel, nor connections that were not accepted: the
        end of the parent is seen at once.
        """
        listening, listener = self.listen(limit=None)
        self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        go, end = os.pipe()
        self.addCleanup(os.close, go)
        channel: Any = listening._receiver._worker._channel  # type: ignore[union-attr]
        number = channel._socket.fileno()

        def work() -> str:
            os.close(end)
            os.read(go, 1)
            try:
                os.fstat(number)
            except OSError as error:
                return str(error.errno)
            return "open"

        child = Child(work)
        receiver: Any = listening._receiver
        with receiver._loop.lock:
            channel.abandon()
            receiver._worker.lost(channel, None)
        eventually(listener.hasEnded)
        os.close(end)
        self.assertEqual(child.says(), str(errno.EBADF))

    def test_inService(self) -> None:
        """
        A connection that the child inherited goes on there when the parent closes it.
        The parent reports the end.
        """
        listening, listener = self.listen()
        client = self.offer(listener, 1)
        sock = self.take(listening)
        go, end = os.pipe()
        self.addCleanup(os.close, go)

        def work() -> None:
            os.close(end)
            os.read(go, 1)
            sock.sendall(b"from the child")
            sock.close()

        child = Child(work)
        sock.close()
        listener.hears(Closed((1,)))
        os.close(end)
        child.says()
        self.assertEqual(self.hear(client), b"from the child")
        self.isFree(listening, listener, 2)

    def test_duringRequest(self) -> None:
        """
        A fork during a request does not cut the client off when the child ends or
        closes its copy.
        """
        listening, listener = self.listen()
        client = self.offer(listener, 1)
        sock = self.take(listening)
        Child(sock.close).says()
        Child(lambda: None).says()
        self.assertEqual(listener.heard(Closed), [])
        sock.sendall(b"answer")
        sock.close()
        self.assertEqual(self.hear(client), b"answer")
        listener.hears(Closed((1,)))

    def test_whileLocked(self) -> None:
        """
        A fork waits until no thread is at work.
        """
        listening, listener = self.listen()
        receiver: Any = listening._receiver
        receiver._loop.lock.acquire()
        said: list[str] = []
        thread = threading.Thread(
            target=lambda: said.append(Child(lambda: "forked").says())
        )
        thread.start()
        time.sleep(0.05)
        self.assertEqual(said, [])
        receiver._loop.lock.release()
        thread.join(PATIENCE)
        self.assertEqual(said, ["forked"])
        self.isFree(listening, listener, 1)

    def test_manyThreads(self) -> None:
        """
        Several threads may fork at the same time.
        """
        listening, listener = self.listen()
        said: list[str] = []

        def work() -> str:
            try:
                listening.accept()
            except RuntimeError:
                return "refused"
            return "accepted"

        def fork() -> None:
            for _ in range(5):
                said.append(Child(work).says())

        threads = [threading.Thread(target=fork) for _ in range(6)]
        with warnings.catch_warnings():
            # The filters are the process's: each thread restores what it found.
            warnings.simplefilter("ignore", DeprecationWarning)
            for each in threads:
                each.start()
            for each in threads:
                each.join(PATIENCE)
                self.assertFalse(each.is_alive())
        self.assertEqual(said, ["refused"] * 30)
        self.isFree(listening, listener, 1)

    def test_afterClose(self) -> None:
        """
        A fork after the socket was closed leaves the descriptor alone that has its
        number now.
        """
        listening, _ = self.listen()
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        number = listening.fileno()
        listening.close()
        os.dup2(reading, number)
        self.addCleanup(os.close, number)
        where = os.readlink(f"/proc/self/fd/{number}")
        said = Child(lambda: os.readlink(f"/proc/self/fd/{number}")).says()
        self.assertEqual(said, where)


class TLSForkTests(TLSTestCase):
    """
    Forks of a process whose connections speak TLS.
    """

    def test_inService(self) -> None:
        """
        A connection goes on in the child when the parent closes it, as a
        C{ForkingMixIn} does.
        """
        listening, listener = self.listen(ssl=self.context())
        client = Client(self.offer(listener, 1), self.certificate, pauses=True)
        sock = self.take(listening)
        assert isinstance(sock, ssl.SSLSocket)
        sock.do_handshake()
        client.waitUntilPaused()
        go, end = os.pipe()
        self.addCleanup(os.close, go)

        def work() -> None:
            os.close(end)
            os.read(go, 1)
            self.answer(sock)
            sock.close()

        child = Child(work)
        client.goOn()
        sock.close()
        listener.hears(Closed((1,)))
        os.close(end)
        child.says()
        self.assertEqual(client.end(), b"answer")


class RegisteredTests(SocketTestCase):
    """
    Tests for L{Forks}.
    """

    def test_order(self) -> None:
        """
        Each member is told before and after a fork.
        """
        told: list[str] = []

        class Member:
            def beforeFork(self) -> None:
                told.append("before")

            def afterForkInParent(self) -> None:
                told.append("parent")

            def afterForkInChild(self) -> None:
                told.append("child")

        forks = Forks()
        member = Member()
        forks.add(member)
        self.assertEqual(Child(lambda: ",".join(told)).says(), "before,child")
        self.assertEqual(told, ["before", "parent"])
        self.assertEqual(forks.count, 1)
        del member
        Child(lambda: None).says()
        self.assertEqual(told, ["before", "parent"])
