"""
Workers that block: programs that call C{accept()}, in one thread or in many.

For a server of the modules L{socketserver} and C{http.server}, one line is enough::

    server = HTTPServer(("", 80), Handler, bind_and_activate=False)
    portlisten.blocking.attach(server, "portlisten:/run/portlisten/web.sock:name=http")
    server.serve_forever()

Others take an open socket, such as waitress::

    description = "portlisten:/run/portlisten/web.sock"
    listening = ListeningSocket(description, limit=90, first=True)
    waitress.serve(app, sockets=[listening])

Nothing here imports Twisted.
"""

from __future__ import annotations

import socket
import socketserver
import ssl as _ssl

from portlisten._blocking.listening_socket import ListeningSocket
from portlisten.errors import EndpointError

__all__ = ["ListeningSocket", "attach", "EndpointError"]


def attach(
    server: socketserver.BaseServer,
    description: str,
    *,
    ssl: _ssl.SSLContext | None = None,
    timeout: float | None = 2.0,
) -> ListeningSocket:
    """
    Let a server of L{socketserver} serve the connections of a listener.  Call this in
    the process that calls C{serve_forever}.

    A server that handles one request at a time is offered one connection at a time.  A
    server with a thread or a process for each connection is offered as many as come.
    The description's C{limit} goes before that.

    @param server: a stream server, best made with C{bind_and_activate=False}.  Its own
        socket is closed.
    @param description: as for L{ListeningSocket}.
    @param ssl: as for L{ListeningSocket}.
    @param timeout: as for L{ListeningSocket}.
    @return: the server's socket now.  C{server_close()} closes it.
    @raise EndpointError: as for L{ListeningSocket}.
    @raise TypeError: if the server is no stream server, or has TLS and C{ssl} is not
        given.
    """
    if not isinstance(server, socketserver.TCPServer) or isinstance(
        server, socketserver.UDPServer
    ):
        raise TypeError(f"{type(server).__name__} is no stream server of socketserver")
    hasTLS = isinstance(server.socket, _ssl.SSLSocket) or _isHTTP(server, "HTTPSServer")
    if hasTLS and ssl is None:
        raise TypeError(
            f"the {type(server).__name__} has TLS of its own, which would not be used:"
            " give attach() the SSLContext, ssl=context"
        )
    many = socketserver.ThreadingMixIn, socketserver.ForkingMixIn
    limit = None if isinstance(server, many) else 1
    listening = ListeningSocket(
        description, limit=limit, first=_isHTTP(server), ssl=ssl, timeout=timeout
    )
    listening.neverWaits()
    server.socket.close()
    server.socket = listening
    server.server_address = listening.getsockname()
    if _isHTTP(server) and listening.family != socket.AF_UNIX:
        host, port = server.server_address[:2]
        server.server_name = socket.getfqdn(str(host))  # type: ignore[attr-defined]
        server.server_port = port  # type: ignore[attr-defined]
        if hasattr(server, "setup_environ"):  # of wsgiref.simple_server
            server.setup_environ()
    return listening


def _isHTTP(server: socketserver.BaseServer, name: str = "HTTPServer") -> bool:
    """
    Whether a server is of a class of C{http.server}.

    @param name: the class's.  Python 3.14 has added C{HTTPSServer}.
    """
    return any(
        (base.__module__, base.__qualname__) == ("http.server", name)
        for base in type(server).__mro__
    )
