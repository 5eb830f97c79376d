"""
Tests for connections that a proxy begins with a header, in a worker of a program that
calls C{accept()}.
"""

from __future__ import annotations

import ssl
import threading
import time

from portlisten._ports import proxies
from portlisten._wire.frames import Closed
from portlisten.blocking import ListeningSocket
from tests.support.channels import PATIENCE
from tests.support.listening_sockets import Listener, SocketTestCase
from tests.support.tls import certify, needsTLS

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
CLIENT = ("192.0.2.1", 56324)

BELIEVES = ":proxyFrom=127.0.0.0/8"


class HeaderTests(SocketTestCase):
    """
    Tests for the option C{proxyFrom}.
    """

    def test_client(self) -> None:
        """
        C{accept()} and the socket give the client's address, and the program does not
        read the header.
        """
        listening, listener = self.listen(BELIEVES)
        client = self.offer(listener, 1)
        client.sendall(LINE + b"hello")
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual((address, sock.getpeername()), (CLIENT, CLIENT))
        self.assertEqual(sock.recv(100), b"hello")
        sock.close()
        listener.hears(Closed((1,)))

    def test_notBelieved(self) -> None:
        """
        A header from elsewhere is what any other bytes are.
        """
        listening, listener = self.listen(":proxyFrom=127.0.0.2")
        client = self.offer(listener, 1)
        client.sendall(LINE)
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual(address, client.getsockname())
        self.assertEqual(sock.getpeername(), address)
        self.assertEqual(sock.recv(100), LINE)

    def next(self, listening: ListeningSocket, listener: Listener) -> None:
        """
        See that the first connection is refused, and that C{accept()} gives the second.
        """
        client = self.offer(listener, 2)
        client.sendall(LINE)
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual(address, CLIENT)
        listener.hears(Closed((1,)))
        self.says("a connection from the proxy 127.0.0.1 is closed")

    def test_missing(self) -> None:
        """
        A proxy that is believed must say who its client is.
        """
        listening, listener = self.listen(BELIEVES, limit=2)
        client = self.offer(listener, 1)
        client.sendall(b"GET / HTTP/1.1\r\n")
        self.next(listening, listener)
        self.assertEqual(self.hear(client), b"")

    def test_never(self) -> None:
        """
        The header is not awaited for ever.
        """
        self.patch(proxies, "TIMEOUT_SECONDS", 0.05)
        listening, listener = self.listen(BELIEVES, limit=2)
        client = self.offer(listener, 1)
        self.next(listening, listener)
        self.assertEqual(self.hear(client), b"")

    def test_late(self) -> None:
        """
        The header may come late.
        """
        listening, listener = self.listen(BELIEVES)
        client = self.offer(listener, 1)
        later = threading.Timer(0.05, client.sendall, (LINE,))
        later.start()
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        later.join()
        self.assertEqual(address, CLIENT)

    def test_neverWaits(self) -> None:
        """
        C{accept()} does not wait for the header, if it is not to wait: another
        connection is served meanwhile, and the socket gets readable when the header is
        there.
        """
        listening, listener = self.listen(BELIEVES, limit=3)
        listening.settimeout(0)
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        began = time.monotonic()
        self.assertRaises(BlockingIOError, listening.accept)
        self.assertLess(time.monotonic() - began, 1)
        other = self.offer(listener, 2)
        other.sendall(LINE)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        first, address = listening.accept()
        self.addCleanup(first.close)
        self.assertEqual(address, CLIENT)
        self.assertFalse(self.isReadable(listening))
        client.sendall(LINE + b"hello")
        self.assertTrue(self.isReadable(listening, PATIENCE))
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual(address, CLIENT)
        self.assertEqual(sock.recv(9), b"hello")

    def test_closed(self) -> None:
        """
        If the socket is closed while a header is awaited, the connection ends.
        """
        listening, listener = self.listen(BELIEVES, limit=3)
        listening.settimeout(0)
        client = self.offer(listener, 1)
        self.assertTrue(self.isReadable(listening, PATIENCE))
        self.assertRaises(BlockingIOError, listening.accept)
        listening.close()
        listener.hears(Closed((1,)))
        self.assertEqual(self.hear(client), b"")

    def test_tls(self) -> None:
        """
        TLS begins behind the header.
        """
        if needsTLS:
            self.skipTest(needsTLS)
        key, certificate = certify("blocking-proxied")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listening, listener = self.listen(BELIEVES, ssl=context)
        client = self.offer(listener, 1)
        client.sendall(LINE)

        def talk() -> None:
            client.settimeout(PATIENCE)
            trusting = ssl.create_default_context(cafile=certificate)
            with trusting.wrap_socket(client, server_hostname="localhost") as secure:
                secure.sendall(b"hello")
                secure.recv(1)

        talking = threading.Thread(target=talk)
        talking.start()
        sock, address = listening.accept()
        self.addCleanup(sock.close)
        self.assertEqual(address, CLIENT)
        self.assertEqual(sock.recv(100), b"hello")
        sock.close()
        talking.join()
