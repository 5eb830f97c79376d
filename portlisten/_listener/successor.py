"""
Taking the place of a listener that stops.

If a listener is told to stop while connections wait, it goes on for its grace.  Its
HELLO says so.  A listener that is started meanwhile waits until the first one has
ended.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable

from portlisten import _kernel
from portlisten._wire.codec import FROM_LISTENER, Decoder
from portlisten._wire.frames import ListenerHello
from portlisten.errors import ProtocolError

#: How long a listener may take to say HELLO, in seconds.
HELLO_SECONDS = 1.0

#: How often a listener is looked at, in seconds.
LOOK_SECONDS = 0.1


def _connect(path: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(HELLO_SECONDS)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        return None
    return sock


def _close(sock: socket.socket) -> None:
    """
    Close a socket, with whatever is queued in it: see L{_kernel.receiveBytes}.
    """
    sock.setblocking(False)
    data, came = b"-", False
    try:
        sock.shutdown(socket.SHUT_RD)
        while data and not came:
            data, came = _kernel.receiveBytes(sock)
        if came:
            _kernel.closeElsewhere(sock)
    except OSError:
        pass
    if not came:
        sock.close()


def stops(path: str) -> bool:
    """
    Whether the listener at a path was told to stop.
    """
    sock = _connect(path)
    if sock is None:
        return False
    decoder = Decoder(FROM_LISTENER)
    end = time.monotonic() + HELLO_SECONDS
    try:
        while time.monotonic() < end:
            data, came = _kernel.receiveBytes(sock)
            if not data or came:
                return False
            for frame in decoder.feed(data):
                return isinstance(frame, ListenerHello) and frame.stopping
    except (OSError, ProtocolError):
        pass
    finally:
        _close(sock)
    return False


def waitForEnd(path: str, interrupted: Callable[[], bool]) -> bool:
    """
    Wait until the listener at a path has ended.

    @param interrupted: says whether to give up.
    @return: whether it has ended.
    """
    process = _listenerAt(path)
    try:
        while not interrupted():
            if process is None:
                sock = _connect(path)
                if sock is None:
                    return True
                _close(sock)
            elif _kernel.hasEnded(process) or not os.path.lexists(path):
                # The process of a listener may have other things to do.
                return True
            select.poll().poll(LOOK_SECONDS * 1000)
        return False
    finally:
        if process is not None:
            os.close(process)


def _listenerAt(path: str) -> int | None:
    """
    Find the process that listens at a path.

    @return: a pidfd, which is the caller's, or L{None} if it cannot be had.
    """
    sock = _connect(path)
    if sock is None:
        return None
    try:
        return _kernel.peerProcess(sock, _kernel.credentials(sock).pid)
    except OSError:
        return None  # as connecting to it will show
    finally:
        _close(sock)
