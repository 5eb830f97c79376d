"""
Many clients with plain sockets, in threads: what a client sees is the kernel's
word, with nothing in between.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.integration.support import PATIENCE


def read(client: socket.socket) -> bytes:
    """
    Read to the end, or to a reset, which takes nothing away that has arrived.
    """
    heard = []
    try:
        while data := client.recv(65536):
            heard.append(data)
    except ConnectionResetError:
        pass
    return b"".join(heard)


def connect(port: int) -> socket.socket:
    """
    Connect.
    """
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def listen(port: int) -> bytes:
    """
    Be a client that waits for the answer.
    """
    with connect(port) as client:
        return read(client)


def sendFirst(port: int) -> bytes:
    """
    Be a client that says something before.
    """
    with connect(port) as client:
        client.sendall(b"hello there\n")
        return read(client)


def leave(port: int) -> bytes:
    """
    Be a client that does not wait for anything.
    """
    connect(port).close()
    return b""


def crowd(
    client: Callable[[int], bytes], port: int, count: int, atOnce: int = 16
) -> Counter[bytes]:
    """
    Be many clients.

    @return: the answers.
    """
    with ThreadPoolExecutor(atOnce) as pool:
        return Counter(pool.map(client, [port] * count))
