"""
A worker in asyncio, without Twisted: C{python -m tests.support.asyncio_worker --help}.

It answers a line with the same line and its process id, as the storm's workers do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable
from typing import Any

import portlisten.asyncio

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": portlisten.asyncio.asyncioLoop,
    "uvloop": portlisten.asyncio.uvloopLoop,
}


class Answer(asyncio.Protocol):
    """
    Answers a line.

    @param note: called with the client's address.
    """

    def __init__(self, note: Callable[[Any], None]) -> None:
        self._note = note
        self._line = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._note(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        self._line += data
        if self._line.endswith(b"\n"):
            self._transport.write(b"%s %d\n" % (self._line[:-1], os.getpid()))
            self._transport.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    Answer a line, with streams.
    """
    line = await reader.readline()
    writer.write(b"%s %d\n" % (line[:-1], os.getpid()))
    await writer.drain()
    writer.close()


async def serve(start: Callable[[asyncio.AbstractEventLoop], Any]) -> None:
    """
    Serve until SIGTERM, and until all connections have ended.

    @param start: starts the server in a loop.
    """
    loop = asyncio.get_running_loop()
    server = await start(loop)
    loop.add_signal_handler(signal.SIGTERM, server.close)
    await server.wait_closed()


def work(description: str, kind: str, note: Callable[[Any], None]) -> None:
    """
    Be a worker, until killed or told to stop.

    @param kind: of L{LOOPS}.
    @param note: called with the address of each client that is adopted.
    """
    loop = LOOPS[kind]()
    loop.run_until_complete(
        serve(lambda loop: loop.create_server(lambda: Answer(note), description))
    )
    loop.close()


def main() -> None:
    """
    Be the worker of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.support.asyncio_worker")
    parser.add_argument("description")
    parser.add_argument("--loop", choices=list(LOOPS), default="asyncio")
    parser.add_argument("--streams", action="store_true", help="use start_server")
    parser.add_argument("--tls", nargs=2, metavar=("KEY", "CERTIFICATE"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options: dict[str, Any] = {}
    if arguments.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.tls[1], arguments.tls[0])
        options["ssl"] = context

    def start(loop: asyncio.AbstractEventLoop) -> Any:
        if arguments.streams:
            return portlisten.asyncio.start_server(
                answer, arguments.description, **options
            )
        return loop.create_server(
            lambda: Answer(lambda address: None), arguments.description, **options
        )

    loop = LOOPS[arguments.loop]()
    loop.run_until_complete(serve(start))
    loop.close()
    twisted = [each for each in sys.modules if each.split(".")[0] == "twisted"]
    print("Twisted was imported" if twisted else "stopped without Twisted")


if __name__ == "__main__":
    main()
