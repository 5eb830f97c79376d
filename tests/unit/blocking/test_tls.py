"""
Tests for TLS on the connections of blocking workers.
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
import time
import warnings
from typing import Any

from portlisten._blocking import connections as _connections
from portlisten._blocking import listening_socket as _listening_socket
from portlisten._wire.frames import Closed
from portlisten.blocking import ListeningSocket
from tests.support.channels import PATIENCE
from tests.support.descriptors import descriptors
from tests.support.listening_sockets import Listener, SocketTestCase, eventually
from tests.support.tls import certify, needsTLS


class Client(threading.Thread):
    """
    A client that speaks TLS, and hears an answer.

    @param pauses: whether to wait for L{goOn} between the question and the answer.

    @ivar heard: the answer, or what went wrong.
    """

    def __init__(
        self, sock: socket.socket, certificate: str, pauses: bool = False
    ) -> None:
        super().__init__()
        self._sock = sock
        self._context = ssl.create_default_context(cafile=certificate)
        self._asked = threading.Event()
        self._mayHear = threading.Event()
        self.heard: Any = None
        if not pauses:
            self._mayHear.set()
        self.start()

    def waitUntilPaused(self) -> None:
        """
        Wait until the question is sent.  Then the thread has no lock of OpenSSL's,
        which a fork would leave locked in the child.
        """
        assert self._asked.wait(PATIENCE)

    def goOn(self) -> None:
        """
        Hear the answer.
        """
        self._mayHear.set()

    def run(self) -> None:
        try:
            self._sock.settimeout(PATIENCE)
            with self._context.wrap_socket(
                self._sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as sock:
                sock.sendall(b"question")
                self._asked.set()
                self._mayHear.wait(PATIENCE)
                self.heard = sock.recv(100)
        except OSError as error:
            self.heard = error

    def end(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.heard


class TLSTestCase(SocketTestCase):
    """
    The base.
    """

    if needsTLS:
        skip = needsTLS

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(folder := os.path.dirname(self.mktemp()), exist_ok=True)
        self.key, self.certificate = certify(os.path.join(folder, "it"))

    def context(self) -> ssl.SSLContext:
        """
        Make a context for servers.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self, listener: Listener, id: int) -> Client:
        """
        Offer the connection of a client that speaks TLS.
        """
        return Client(self.offer(listener, id), self.certificate)

    def answer(self, sock: Any) -> None:
        """
        Answer a client.
        """
        self.assertEqual(sock.recv(100), b"question")
        sock.sendall(b"answer")


class ListeningSocketTests(TLSTestCase):
    """
    C{ssl=} of L{ListeningSocket}.
    """

    def test_serves(self) -> None:
        """
        The handshake takes place when the program first reads.  The end is reported at
        once.
        """
        # If the ends were looked for, that would be too late.
        for module in (_connections, _listening_socket):
            self.patch(module, "LATEST_SECONDS", 3 * PATIENCE)
        listening, listener = self.listen(ssl=self.context())
        self.assertEqual(self.hello.first, 2000)
        for id in range(1, 10):
            client = self.client(listener, id)
            sock = self.take(listening)
            self.assertIsInstance(sock, ssl.SSLSocket)
            self.answer(sock)
            sock.close()
            listener.hears(Closed((id,)))
            self.assertEqual(client.end(), b"answer")
        self.assertEqual(_connections._detached, {})

    def test_aborted(self) -> None:
        """
        Clients that speak no TLS, say nothing, or reset, leave nothing in service.
        """
        listening, listener = self.listen(ssl=self.context())
        said = [b"GET / HTTP/1.0\r\n\r\n", b"", b"\x16\x03\x01", b"reset"]
        for id in range(1, 41):
            client = self.offer(listener, id)
            client.sendall(said[id % 4])
            if id % 4 == 3:
                linger = b"\x01\0\0\0\0\0\0\0"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if id % 4:
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
            self.assertTrue(self.isReadable(listening, PATIENCE))
            if id % 4 == 3:
                self.reset(listening, listener, id)
                continue
            sock, _ = listening.accept()
            with self.assertRaises(OSError):
                if not sock.recv(100):
                    raise ConnectionError("ended")
            sock.close()
            client.close()
        self.assertEqual(_connections._detached, {})

    def reset(self, listening: ListeningSocket, listener: Listener, id: int) -> None:
        """
        Let C{accept} pass over a client that has reset.
        """
        listening.settimeout(0.02)
        try:
            with self.assertRaises(TimeoutError):
                listening.accept()
        finally:
            listening.settimeout(None)

    def test_abortedOften(self) -> None:
        """
        After many handshakes that failed, a worker with a limit of one takes the next
        connection.
        """
        listening, listener = self.listen(ssl=self.context())
        for id in range(1, 101):
            client = self.offer(listener, id)
            client.sendall(b"no TLS at all")
            sock, _ = listening.accept()
            with self.assertRaises(ssl.SSLError):
                sock.recv(100)
            if id % 2:
                sock.close()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del sock  # half of them are closed by nobody
            client.close()
        gc.collect()
        eventually(lambda: sum(len(x.ids) for x in listener.heard(Closed)) == 100)
        client_ = self.client(listener, 101)
        sock = self.take(listening)
        self.answer(sock)
        sock.close()
        self.assertEqual(client_.end(), b"answer")

    def test_wrongContext(self) -> None:
        """
        A context that cannot serve is told at once.
        """
        before = descriptors()
        with self.assertRaises(ssl.SSLError):
            ListeningSocket(f"portlisten:{self.path}", ssl=ssl.create_default_context())
        own = self.context()
        own.sslsocket_class = type("Own", (ssl.SSLSocket,), {})
        with self.assertRaises(TypeError):
            ListeningSocket(f"portlisten:{self.path}", ssl=own)
        self.assertEqual(descriptors(), before)

    def test_wrapped(self) -> None:
        """
        The listening socket itself cannot be wrapped.  No descriptor is closed twice,
        and none stays open.
        """
        before = descriptors()
        listening = ListeningSocket(f"portlisten:{self.path}", timeout=0)
        listener = self.join()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            with self.assertRaisesRegex(TypeError, "ssl=context"):
                self.context().wrap_socket(listening, server_side=True)
            gc.collect()
        listener.socket.close()
        listening.close()
        del listening
        pipe = os.pipe()
        gc.collect()
        for each in pipe:
            os.close(each)
        self.noThread()
        gc.collect()
        self.assertEqual(descriptors().keys() - before.keys(), set())


class ProgramsOwnTests(TLSTestCase):
    """
    A program puts TLS on a connection itself.
    """

    def test_end(self) -> None:
        """
        The end of a connection is noticed within a tenth of its age.
        """
        listening, listener = self.listen()
        looks = self.looks(listening)
        context = self.context()
        for id, age in enumerate((0.0, 0.3), 1):
            start = time.monotonic()
            client = self.client(listener, id)
            plain, _ = listening.accept()
            sock = context.wrap_socket(plain, server_side=True)
            time.sleep(age)
            self.answer(sock)
            self.assertFalse(listener.heard(Closed)[id - 1 :])
            sock.close()
            listener.hears(Closed((id,)))
            tenth = 0.1 * (time.monotonic() - start)
            self.assertTrue(looks)
            self.assertLessEqual(max(looks), max(tenth, _connections.SOONEST_SECONDS))
            looks.clear()
            self.assertEqual(client.end(), b"answer")
        self.assertEqual(_connections._detached, {})

    def test_unwrapped(self) -> None:
        """
        A program may take TLS off again.
        """
        listening, listener = self.listen()
        client = self.offer(listener, 1)
        client.settimeout(PATIENCE)
        outside = ssl.create_default_context(cafile=self.certificate)
        done: list[Any] = []

        def talk() -> None:
            sock = outside.wrap_socket(client, server_hostname="localhost")
            plain = sock.unwrap()
            done.append(plain.recv(100))
            plain.close()

        thread = threading.Thread(target=talk)
        thread.start()
        accepted, _ = listening.accept()
        sock = self.context().wrap_socket(accepted, server_side=True)
        plain = sock.unwrap()
        plain.sendall(b"plain")
        thread.join(PATIENCE)
        self.assertEqual(done, [b"plain"])
        self.assertEqual(listener.heard(Closed), [])
        plain.close()
        listener.hears(Closed((1,)))
