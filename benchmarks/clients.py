"""
Clients that stay: C{python -m benchmarks.clients PORT FIRST COUNT} makes COUNT
connections, and reads the answer on each.  Then it prints C{held}, and keeps the
connections until its standard input ends.

Such clients are processes of their own, because a process has a limit of descriptors.
"""

from __future__ import annotations

import socket
import sys

from benchmarks.serve import STRING


def connect(port: int, number: int) -> socket.socket:
    """
    Connect, and read the answer.

    @param number: selects the client's address.
    @raise OSError: if no answer comes.
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
    Hold the connections of the command line, under the parent's limits.
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
