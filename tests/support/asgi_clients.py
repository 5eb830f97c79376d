"""
Clients of HTTP that count what goes wrong.

C{python -m tests.support.asgi_clients PORT} sends requests until SIGINT comes.  Then it
prints its figures in JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
import time
from collections import Counter

#: How long an answer may take, in seconds.
PATIENCE = 20.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """
    Sends one request after the other.

    @param options: those of the command.
    """

    def __init__(self, options: argparse.Namespace, total: Total) -> None:
        self._options = options
        self._total = total
        self._tls = _anyServer() if options.tls else None
        self._streams: Streams | None = None

    async def run(self) -> None:
        """
        Send requests until it is told to stop.
        """
        while self._total.wants():
            try:
                await asyncio.wait_for(self._request(), PATIENCE)
            except Exception as error:
                self._close()
                self._total.failed(error)
        self._close()

    async def _request(self) -> None:
        if self._streams is None:
            self._streams = await self._connect()
            await asyncio.sleep(self._options.silence)
        else:
            await asyncio.sleep(self._options.pause)
        reader, writer = self._streams
        close = "" if self._options.keep else "Connection: close\r\n"
        writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{close}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 " in head.splitlines()[0], head
        [length] = [
            int(line.partition(":")[2])
            for line in head.splitlines()
            if line.startswith("content-length:")
        ]
        await reader.readexactly(length)
        if not self._options.keep or "\r\nconnection: close\r\n" in head:
            self._close()

    async def _connect(self) -> Streams:
        return await asyncio.open_connection(
            "127.0.0.1", self._options.port, ssl=self._tls
        )

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _anyServer() -> ssl.SSLContext:
    """
    TLS with any server.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Total:
    """
    The figures of all clients.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.requests = 0
        self.errors: Counter[str] = Counter()

    def wants(self) -> bool:
        """
        Whether one more request is to be sent.  It counts.
        """
        self.requests += not self.stopped
        return not self.stopped

    def failed(self, error: Exception) -> None:
        """
        A request had no answer.
        """
        self.errors[type(error).__name__] += 1

    def stop(self) -> None:
        """
        Let no client send a further request.
        """
        self.stopped = True


async def run(options: argparse.Namespace) -> Total:
    """
    Run the clients.
    """
    total = Total()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, total.stop)
    await asyncio.gather(
        *(Client(options, total).run() for _ in range(options.clients))
    )
    return total


def main() -> None:
    """
    Run the command.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=25)
    parser.add_argument("--silence", type=float, default=0, help="before the first")
    parser.add_argument("--pause", type=float, default=0, help="before a further one")
    parser.add_argument("--keep", action="store_true", help="keep connections")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    total = asyncio.run(run(options))
    seconds = round(time.monotonic() - began, 1)
    figures = {"requests": total.requests, "errors": total.errors, "seconds": seconds}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
