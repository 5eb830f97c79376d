"""
Ports whose sockets are in the service manager's descriptor store:
L{portlisten._process.descriptor_store}.
"""

from __future__ import annotations

from dataclasses import replace

from portlisten._ports.binding import BoundPort
from portlisten._process import descriptor_store


def stored(port: BoundPort) -> BoundPort:
    """
    Put the sockets of a port into the descriptor store, if there is one.  Sockets that
    another process keeps stay out of it.

    @param port: its sockets belong to the result from now on.
    @return: the port.  If it is stored, its path stays when it is closed.
    """
    if port.inherited or not descriptor_store.keep(port.sockets):
        return port
    return replace(port, inherited=True, stored=True)


def unstored(port: BoundPort) -> BoundPort:
    """
    Undo L{stored}.

    @param port: its sockets belong to the result from now on.
    """
    if not port.stored:
        return port
    descriptor_store.drop(port.sockets)
    return replace(port, inherited=False, stored=False)
