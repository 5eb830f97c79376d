"""
A server of the module C{http.server} that is a worker:
C{python -m tests.support.http_worker DESCRIPTION [KIND [CERTIFICATE KEY]]}, where KIND
is one of L{SERVERS}.

C{/} says hello, C{/sleep/SECONDS} does so later, and C{/who} tells the client's address
and the process.  At SIGTERM it finishes what it serves.
"""

from __future__ import annotations

import http.server
import logging
import os
import signal
import socketserver
import ssl
import sys
import threading
import time
from typing import Any

import portlisten.blocking


class ForkingHTTPServer(socketserver.ForkingMixIn, http.server.HTTPServer):
    """
    A process for each connection.
    """


SERVERS: dict[str, type[http.server.HTTPServer]] = {
    "one": http.server.HTTPServer,
    "threads": http.server.ThreadingHTTPServer,
    "forks": ForkingHTTPServer,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """
    Answers.
    """

    def do_GET(self) -> None:
        """
        Answer a request.
        """
        parts = self.path.split("/")
        if parts[1] == "sleep":
            time.sleep(float(parts[2]))
        text = f"hello {parts[-1]}\n"
        if parts[1] == "who":
            text = f"{self.client_address[0]} {os.getpid()}\n"
        body = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """
        Say nothing.
        """


def main(description: str, kind: str = "one", *files: str) -> None:
    """
    Serve.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    server = SERVERS[kind](("", 0), Handler, bind_and_activate=False)
    portlisten.blocking.attach(server, description, ssl=context)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print("serves", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main(*sys.argv[1:])
