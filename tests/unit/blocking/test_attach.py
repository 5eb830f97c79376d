"""
Tests for L{portlisten.blocking.attach}.
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.request
import wsgiref.simple_server
import xmlrpc.server
from typing import Any

from portlisten._model import InternetAddress, Port
from portlisten._wire.frames import Claim, Closed, ListenerHello
from portlisten.blocking import ListeningSocket, attach
from portlisten.errors import EndpointError
from tests.support.channels import PATIENCE
from tests.support.listening_sockets import HELLO, Listener, SocketTestCase
from tests.support.tls import certify

TCP = ListenerHello(
    64,
    (Port(0, InternetAddress("TCP", "127.0.0.1", 8123), "www"),),
    honoursLimit=True,
    honoursFirst=True,
)


class Handler(http.server.BaseHTTPRequestHandler):
    """
    Answers.
    """

    def do_GET(self) -> None:
        """
        Answer a request.
        """
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *arguments: Any) -> None:
        """
        Say nothing.
        """


class AttachTests(SocketTestCase):
    """
    Tests for L{attach}.
    """

    def attach(
        self, server: Any, options: str = "", hello: ListenerHello = TCP
    ) -> tuple[ListeningSocket, Listener]:
        """
        Attach a server.
        """
        joined: list[Listener] = []
        joining = threading.Thread(target=lambda: joined.append(self.join(hello)))
        joining.start()
        listening = attach(server, f"portlisten:{self.path}{options}", timeout=None)
        joining.join()
        self.addCleanup(server.server_close)
        return listening, joined[0]

    def serve(self, server: Any) -> None:
        """
        Let a server serve until the test ends.
        """
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        self.addCleanup(server.shutdown)

    def ask(self, listener: Listener, id: int) -> bytes:
        """
        Be a client.
        """
        client = self.offer(listener, id)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return self.hear(client)

    def test_serves(self) -> None:
        """
        The server serves what is offered.
        """
        address = ("127.0.0.1", 0)
        server = http.server.HTTPServer(address, Handler, bind_and_activate=False)
        listening, listener = self.attach(server)
        self.assertIs(server.socket, listening)
        self.assertEqual(server.server_address, ("127.0.0.1", 8123))
        self.assertEqual(server.server_port, 8123)
        self.assertEqual(server.server_name, socket.getfqdn("127.0.0.1"))
        self.serve(server)
        for id in range(1, 6):
            self.assertTrue(self.ask(listener, id).endswith(b"answer"))
            listener.hears(Claim((id,)), Closed((id,)))

    def test_limits(self) -> None:
        """
        A server that serves one at a time gets one; others get as many as come.  The
        description goes before that.
        """
        kinds: list[tuple[Any, str, tuple[int | None, int | None]]] = [
            (http.server.HTTPServer, "", (1, 2000)),
            (http.server.ThreadingHTTPServer, "", (None, 2000)),
            (http.server.ThreadingHTTPServer, ":limit=3:first=no", (3, None)),
            (socketserver.TCPServer, "", (1, None)),
            (socketserver.ThreadingTCPServer, "", (None, None)),
            (socketserver.ForkingTCPServer, "", (None, None)),
            (socketserver.UnixStreamServer, "", (1, None)),
        ]
        for kind, options, expected in kinds:
            address: Any = ("127.0.0.1", 0)
            server = kind(address, Handler, bind_and_activate=False)
            _, listener = self.attach(server, options, HELLO)
            self.assertEqual((self.hello.limit, self.hello.first), expected, kind)
            server.server_close()
            listener.close()
            self.log.lines.clear()

    def test_ownSocket(self) -> None:
        """
        The socket that the server had is closed, also if it was bound.
        """
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        own, address = server.socket, server.server_address
        self.attach(server)
        self.assertEqual(own.fileno(), -1)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address[:2])  # type: ignore[arg-type]

    def test_wsgi(self) -> None:
        """
        A server of L{wsgiref} tells applications the listener's port.
        """

        def app(environ: Any, begin: Any) -> list[bytes]:
            begin("200 OK", [])
            return [environ["SERVER_PORT"].encode()]

        class Quiet(wsgiref.simple_server.WSGIRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

        for bound in (True, False):
            server = wsgiref.simple_server.WSGIServer(
                ("127.0.0.1", 0), Quiet, bind_and_activate=bound
            )
            server.set_app(app)
            _, listener = self.attach(server)
            self.serve(server)
            self.assertTrue(self.ask(listener, 1).endswith(b"8123"))
            self.log.lines.clear()

    def test_xmlrpc(self) -> None:
        """
        A server of L{xmlrpc} is one of L{socketserver}.
        """
        server = xmlrpc.server.SimpleXMLRPCServer(
            ("127.0.0.1", 0), logRequests=False, bind_and_activate=False
        )
        _, listener = self.attach(server)
        self.serve(server)
        self.assertIn(b"501 Unsupported method", self.ask(listener, 1))

    def test_offersAreTaken(self) -> None:
        """
        If an offer is gone when the server accepts, the server goes on.
        """
        server = http.server.HTTPServer(
            ("127.0.0.1", 0), Handler, bind_and_activate=False
        )
        listening, listener = self.attach(server)
        self.assertIsNone(listening.gettimeout())
        with self.assertRaises(BlockingIOError):
            server.get_request()
        self.serve(server)
        self.assertTrue(self.ask(listener, 1).endswith(b"answer"))

    def test_wrong(self) -> None:
        """
        What is no stream server is refused, and so is a description that cannot work.
        The server keeps its socket.
        """
        udp = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self.addCleanup(udp.server_close)
        wrong: Any = [udp, socket]
        for each in wrong:
            with self.assertRaisesRegex(TypeError, "no stream server"):
                attach(each, f"portlisten:{self.path}")
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.addCleanup(server.server_close)
        with self.assertRaises(EndpointError):
            attach(server, "portlisten:")
        self.serve(server)
        url = f"http://127.0.0.1:{server.server_port}/"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            self.assertEqual(response.read(), b"answer")

    def test_ownTLS(self) -> None:
        """
        A server that has TLS of its own is refused: its clients would be served without
        TLS.  The server keeps its socket.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        wrapped = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        wrapped.socket = context.wrap_socket(wrapped.socket, server_side=True)
        servers: list[Any] = [wrapped]
        if sys.version_info >= (3, 14):
            certificate, key = certify("localhost")
            servers.append(
                http.server.HTTPSServer(
                    ("127.0.0.1", 0),
                    Handler,
                    bind_and_activate=False,
                    certfile=certificate,
                    keyfile=key,
                )
            )
        for each in servers:
            self.addCleanup(each.server_close)
            with self.assertRaisesRegex(TypeError, "has TLS of its own"):
                attach(each, f"portlisten:{self.path}")
            self.assertGreaterEqual(each.socket.fileno(), 0)

    def test_withoutTwisted(self) -> None:
        """
        The module imports nothing of Twisted.
        """
        code = (
            "import sys, portlisten.blocking;"
            "print([m for m in sys.modules if m.split('.')[0] in ('twisted', 'zope')])"
        )
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        self.assertEqual(output, "[]\n")
