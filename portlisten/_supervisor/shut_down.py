"""
Sockets that were shut down, and that are to be: shutdown(2).

Each process that holds a listening socket can shut it down, with effect for all
holders.  A hostile listener or worker can do so.  The supervisor does so at its end.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress

from portlisten import _kernel
from portlisten._ports.binding import BoundPort
from portlisten._supervisor.logs import log


def restore(
    ports: Sequence[BoundPort], channel: socket.socket, backlog: int
) -> str | None:
    """
    Let ports that were shut down listen again.  All sockets stay the caller's.

    @param channel: the listening socket of the channel's path.
    @param backlog: the length of the queues of the ports.
    @return: what cannot listen again, in one sentence; L{None} if everything listens.
    """
    if _kernel.isShutDown(channel):
        return _lost("the path of the channel", "it must be bound anew")
    for port, sock in _listening(ports):
        if not _kernel.isShutDown(sock):
            continue
        address = sock.getsockname()
        try:
            if sock.family == socket.AF_UNIX:
                raise OSError(0, "such a socket must be bound anew")
            sock.listen(backlog)
        except OSError as error:
            return _lost(f"the port {port.label}", str(error.strerror))
        if _kernel.isShutDown(sock) or sock.getsockname() != address:
            return _lost(f"the port {port.label}", "it would be another port")
        log.error(
            "the port {port} was shut down by the listener or a worker: what waited"
            " there was reset; it listens again",
            event="port-shut-down",
            port=port.label,
        )
    return None


def shutDown(ports: Sequence[BoundPort]) -> None:
    """
    Shut the ports down.  A process that has escaped from the supervisor may still hold
    their sockets: it can accept no connection afterwards, and the ports can be bound
    anew.  Ports that another process keeps stay as they are.
    """
    for port, sock in _listening(ports):
        if not port.inherited:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _listening(
    ports: Sequence[BoundPort],
) -> Iterator[tuple[BoundPort, socket.socket]]:
    for port in ports:
        for sock in port.sockets:
            if sock.type == socket.SOCK_STREAM:
                yield port, sock


def _lost(what: str, why: str) -> str:
    return (
        f"{what} was shut down by the listener or a worker, and cannot listen again:"
        f" {why}; start the supervisor again"
    )
