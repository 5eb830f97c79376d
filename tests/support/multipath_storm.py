"""
The storm of signals, with clients that speak Multipath TCP and end their side at once:
C{python -m tests.support.multipath_storm CONNECTIONS}.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time

from portlisten._kernel import IPPROTO_MPTCP
from tests import storm


async def connected(sock: socket.socket, port: int) -> None:
    """
    Connect.  C{sock_connect} of asyncio asks the resolver, which does not know the
    protocol.
    """
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    try:
        sock.connect(("127.0.0.1", port))
    except BlockingIOError:
        loop.add_writer(sock, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(sock)
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


async def client(number: int, port: int, silence: float = 0.0) -> storm.Result:
    """
    See L{storm.client}.
    """
    host = f"127.0.{number // 200 % 200}.{2 + number % 200}"
    name = (host, 0)
    received = b""
    began = time.monotonic()
    kind = "reset"
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    try:
        sock.setblocking(False)
        sock.bind(name)
        await connected(sock, port)
        name = sock.getsockname()
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"%d\n" % number)
        writer.write_eof()
        try:
            received = await asyncio.wait_for(reader.read(), storm.PATIENCE)
        finally:
            writer.close()
    except asyncio.TimeoutError:
        kind = "late"
    except OSError:
        pass
    finally:
        sock.close()
    answers = re.findall(rb"%d \d+\n" % number, received)
    if len(answers) == 1 and answers[0] == received:
        kind = "answered"
    elif len(answers) > 1:
        kind = "twice"
    return storm.Result(kind, *name, began, time.monotonic())


def main(connections: int) -> None:
    """
    Run the storm, and print its figures.
    """
    storm.client = client
    figures = storm.storm(connections, 3, 0.015, 64, options=":mptcp=yes")
    for name, value in figures.items():
        print(f"{name}: {value}")
    sys.exit(1 if storm.broken(figures) else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
