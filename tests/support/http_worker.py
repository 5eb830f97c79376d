"""
A server of the module C{http.server} that is a worker:
C{python -m tests.support.http_worker DESCRIPTION [KIND [CERTIFICATE KEY]]}, where KIND
is one of L{SERVERS}.

C{/} says hello, C{/sleep/SECONDS} does so later, and C{/who} tells the client's address
and the process.  C{/fork}, C{/multiprocessing} and C{/run} make processes that live for
some seconds more, before they say hello.  At SIGTERM it finishes what it serves; with
C{signal=default} in the environment's C{OPTIONS}, it has no handler.
If DESCRIPTION is the number of a port, the server binds that port itself.
"""

from __future__ import annotations

import http.server
import logging
import multiprocessing
import os
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import portlisten.blocking

#: How long the processes live that requests make, in seconds.
LATER = 3.0

#: What requests made.
kept: list[Any] = []


class ForkingHTTPServer(socketserver.ForkingMixIn, http.server.HTTPServer):
    """
    A process for each connection.
    """


class ThreadingHTTPServer(http.server.ThreadingHTTPServer):
    """
    A thread for each connection.  C{server_close} waits for all of them.
    """

    daemon_threads = False


SERVERS: dict[str, type[http.server.HTTPServer]] = {
    "one": http.server.HTTPServer,
    "threads": ThreadingHTTPServer,
    "forks": ForkingHTTPServer,
}


def fork() -> None:
    """
    Fork, as a library may do.
    """
    if os.fork() == 0:
        time.sleep(LATER)
        os._exit(0)


def worker() -> Any:
    """
    Start a process of L{multiprocessing} by a fork.
    """
    process = multiprocessing.get_context("fork").Process(
        target=time.sleep, args=(LATER,), daemon=False
    )
    process.start()
    return process


MAKES: dict[str, Callable[[], Any]] = {
    "fork": fork,
    "multiprocessing": worker,
    "run": lambda: subprocess.Popen(["sleep", str(LATER)]),
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
        made = MAKES.get(parts[1], lambda: None)()
        text = f"hello {parts[-1]}\n"
        if parts[1] == "who":
            text = f"{self.client_address[0]} {os.getpid()}\n"
        body = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        kept.append(made)

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
    server = SERVERS[kind](("127.0.0.1", 0), Handler, bind_and_activate=False)
    if description.isdigit():
        server.server_address = ("127.0.0.1", int(description))
        server.request_queue_size = 128
        server.server_bind()
        server.server_activate()
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
    else:
        portlisten.blocking.attach(server, description, ssl=context)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    if os.environ.get("OPTIONS") != "signal=default":
        signal.signal(signal.SIGTERM, stop)
    print("serves", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main(*sys.argv[1:])
