"""
Clients that stay: C{python -m benchmarks.clients PORT FIRST COUNT} connects so many
times, hears the answer each time, says C{held}, and keeps them until its input ends.

They are processes of their own, since each may have only so many descriptors.
"""

from __future__ import annotations

import socket
import sys

from benchmarks.serve import STRING


def connect(port: int, number: int) -> socket.socket:
    """
    Connect, and hear the answer.

    @param number: says which address to come from.
    @raise OSError: if there is none.
    """
    client = socket.socket()
    client.settimeout(20)
    client.bind((f"127.2.{number // 25000}.{1 + number // 100 % 250}", 0))
    client.connect(("127.0.0.1", port))
    if client.recv(len(STRING)) != STRING:
        raise ConnectionError("no answer")
    return client


def main() -> None:
    """
    Hold what the command line says, under the limits of who starts this.
    """
    port, first, count = map(int, sys.argv[1:])
    try:
        held = [connect(port, first + number) for number in range(count)]
    except OSError as error:
        raise SystemExit(f"not all were answered: {error}") from None
    print("held", flush=True)
    sys.stdin.read()
    for client in held:
        client.close()


if __name__ == "__main__":
    main()
