"""
Take the place of a listener that stops.

If a listener is told to stop while connections wait, it goes on for its grace.  Its
HELLO says that it is stopping.  If another listener is started meanwhile, the new one
waits until the first has ended.

A supervisor binds the path, and its listener serves it.  If the supervisor dies, its
listener stops, and may not know that yet.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._wire.codec import FROM_LISTENER, Decoder
from portlisten._wire.frames import ListenerHello
from portlisten.errors import ProtocolError

#: How long a listener may take to say HELLO, in seconds.
HELLO_SECONDS = 1.0

#: How often to check whether a listener has ended, in seconds.
CHECK_SECONDS = 0.1


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
    Close a socket, with all that is queued in it: see L{_kernel.receiveBytes}.
    """
    sock.setblocking(False)
    data, hasDescriptors = b"-", False
    try:
        sock.shutdown(socket.SHUT_RD)
        while data and not hasDescriptors:
            data, hasDescriptors = _kernel.receiveBytes(sock)
        if hasDescriptors:
            _kernel.closeElsewhere(sock)
    except OSError:
        pass
    if not hasDescriptors:
        sock.close()


def isStopping(path: str, silent: bool = True) -> bool:
    """
    Whether the listener at a path was told to stop, or has lost its supervisor.

    The process that called listen(2) may have ended for another reason: it was to take
    over from the listener, and failed.  Then the listener says after a while, too, that
    it does not stop.

    @param silent: whether it counts as stopping if that process has ended, and the
        listener says nothing.
    """
    end = time.monotonic() + HELLO_SECONDS
    while True:
        sock = _connect(path)
        if sock is None:
            return False
        try:
            ended = _kernel.processEnded(lambda sock=sock: _binder(sock))  # type: ignore[misc]
            stops = _hello(sock, end)
        except (OSError, ProtocolError):
            return False
        finally:
            _close(sock)
        late = time.monotonic() >= end
        if stops or not ended or late:
            return bool(stops) or (silent and ended and stops is None)
        select.poll().poll(CHECK_SECONDS * 1000)


def _hello(sock: socket.socket, end: float) -> bool | None:
    """
    Read whether a listener stops.

    @param end: until when to wait, as a time of C{time.monotonic}.
    @return: L{None} if it has not said HELLO by then.
    @raise OSError: if reading fails.
    @raise ProtocolError: if it says nonsense.
    """
    decoder = Decoder(FROM_LISTENER)
    while True:
        sock.settimeout(max(0.001, end - time.monotonic()))
        try:
            data, hasDescriptors = _kernel.receiveBytes(sock)
        except TimeoutError:
            return None
        if not data or hasDescriptors:
            return False
        for frame in decoder.feed(data):
            return isinstance(frame, ListenerHello) and frame.stopping


def isStale(path: str) -> bool:
    """
    Whether a socket was bound to a path, and no process has it open any more.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    finally:
        _close(sock)
    return False


def waitForEnd(path: str, interrupted: Callable[[], bool]) -> bool:
    """
    Wait until the listener at a path has ended.

    @param interrupted: says whether to stop waiting.
    @return: whether the listener has ended.
    """
    place = paths.place(path)
    process = _binderAt(path)
    try:
        while not interrupted():
            if process is not None and not _kernel.hasEnded(process):
                # If the path is removed, the process may still do other things.
                ended = not os.path.lexists(path)
            else:
                # A supervisor's listener may outlive it.
                ended = paths.place(path) != place or not isServed(path)
            if ended:
                return True
            select.poll().poll(CHECK_SECONDS * 1000)
        return False
    finally:
        if process is not None:
            os.close(process)


def isServed(path: str) -> bool:
    """
    Whether a process has the socket at a path open.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BlockingIOError:
        return True  # its backlog is full
    except OSError:
        return False
    finally:
        _close(sock)
    return True


def _binder(sock: socket.socket) -> int | None:
    """
    Get a pidfd of the process that called listen(2) on the path.

    @param sock: is connected to the path.
    @return: the pidfd, which is the caller's, or L{None} if none can be made.
    @raise ProcessLookupError: if the process has ended.
    """
    return _kernel.peerProcess(sock, _kernel.credentials(sock).pid)


def _binderAt(path: str) -> int | None:
    """
    Find the process that called listen(2) on a path.

    @return: a pidfd, which is the caller's, or L{None} if none can be made.
    """
    sock = _connect(path)
    if sock is None:
        return None
    try:
        return _binder(sock)
    except OSError:
        return None  # it has ended
    finally:
        _close(sock)
