"""
Joins a listener without an event loop, for the sockets that it shares.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from portlisten import _kernel
from portlisten._model import Kind, Port
from portlisten._wire.frames import (
    FROM_LISTENER,
    Bye,
    Decoder,
    Listener,
    ListenerHello,
    WorkerHello,
    encode,
)
from portlisten.errors import ProtocolError, WrongSocket

_TAKES = frozenset([Kind.LISTENER, Kind.DATAGRAMS])


def receive(sock: socket.socket, names: Sequence[str]) -> list[tuple[Port, int]] | None:
    """
    Join a listener, and wait for what it shares.

    @param sock: connected to it.  Leaves it open.  Its time-out is how long it may
        keep silent.
    @param names: what the ports are called; if empty, all that it shares.
    @return: each port with a descriptor of its socket, which are the caller's; or
        L{None} if the listener went without a word.
    @raise TimeoutError: if it keeps silent for too long.
    @raise ProtocolError: if it has not what is asked for, or says farewell.
    """
    hello = WorkerHello(1, tuple(names), _TAKES)
    decoder = Decoder(FROM_LISTENER)
    loose: dict[int, int] = {}
    ports: tuple[Port, ...] | None = None
    sockets: dict[int, int] = {}
    try:
        sock.sendall(encode(hello))
        while ports is None or len(sockets) < len(ports):
            data, descriptors = _kernel.receive(sock)
            for descriptor in descriptors:
                try:
                    _, cookie = _kernel.identify(descriptor, _TAKES)
                except (WrongSocket, OSError):
                    os.close(descriptor)
                else:
                    loose[cookie] = descriptor
            if not data:
                return None
            for frame in decoder.feed(data):
                if isinstance(frame, ListenerHello):
                    ports = frame.wanted(hello)
                elif isinstance(frame, Listener):
                    if frame.cookie not in loose:
                        raise ProtocolError("a shared socket got lost on its way")
                    if frame.port not in (port.number for port in ports or ()):
                        raise ProtocolError("a socket of a port that was not wanted")
                    sockets[frame.port] = loose.pop(frame.cookie)
                elif isinstance(frame, Bye):
                    raise ProtocolError(f"the listener says: {frame.reason}")
        received = [(port, sockets.pop(port.number)) for port in ports]
    except TimeoutError:
        raise
    except OSError:
        return None
    finally:
        for descriptor in [*loose.values(), *sockets.values()]:
            os.close(descriptor)
    return received
