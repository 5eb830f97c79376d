"""
Clients that stay: C{python -m benchmarks.clients PORT FIRST COUNT [KIND]} makes COUNT
connections.  Then it prints C{held}, and keeps the connections until its standard input
ends.

KIND is C{answered}, which is the default: each client reads the answer before the next
one connects.  With C{tls}, each makes a TLS handshake before that.  With C{silent}, no
client waits for anything.

Such clients are processes of their own, because a process has a limit of descriptors.
"""

from __future__ import annotations

import socket
import ssl
import sys

from benchmarks.serve import STRING


def connect(
    port: int, number: int, kind: str, context: ssl.SSLContext
) -> socket.socket:
    """
    Connect, and read the answer.

    @param number: selects the client's address.
    @raise OSError: if no answer comes.
    """
    client = socket.socket()
    client.settimeout(20)
    client.bind((f"127.2.{number // 25000}.{1 + number // 100 % 250}", 0))
    client.connect(("127.0.0.1", port))
    if kind == "tls":
        client = context.wrap_socket(client)
    if kind != "silent" and client.recv(len(STRING)) != STRING:
        raise ConnectionError("no answer")
    return client


def main() -> None:
    """
    Hold the connections of the command line, under the parent's limits.
    """
    port, first, count = map(int, sys.argv[1:4])
    kind = (sys.argv[4:] or ["answered"])[0]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        held = [connect(port, first + number, kind, context) for number in range(count)]
    except OSError as error:
        raise SystemExit(f"not all were answered: {error}") from None
    print("held", flush=True)
    sys.stdin.read()
    for client in held:
        client.close()


if __name__ == "__main__":
    main()
