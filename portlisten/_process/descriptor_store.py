"""
The service manager's descriptor store: sockets that stay open while this process is
restarted, or killed.  See C{FDSTORE=1} in sd_notify(3), and C{FileDescriptorStoreMax=}
in systemd.service(5).

Only listening sockets, and those of UDP ports, go there.  A connection that waits does
not: the store may still have it when a worker has touched it, and the next process
would serve it again.

systemd says how many descriptors it stores by the variable C{FDSTORE}, since 254.  For
an older one, the unit sets the variable itself.
"""

from __future__ import annotations

import array
import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._process.listen_fds import FIRST_DESCRIPTOR

log = Logger()

#: The beginning of the name of each socket in the store.
PREFIX = "portlisten-"

# The names of the sockets that the store has.
_stored: set[str] = set()


def capacity() -> int:
    """
    How many descriptors the store takes; 0 if this process has none.
    """
    count = os.environ.get("FDSTORE", "")
    if not os.environ.get("NOTIFY_SOCKET") or not re.fullmatch("[0-9]{1,9}", count):
        return 0
    return int(count)


def received() -> list[socket.socket]:
    """
    Take the sockets that the store gave back at the start of this process.  Call this
    once.

    @return: the sockets, which are the caller's.
    """
    passed = _kernel.initialEnvironment()
    names = passed.get("LISTEN_FDNAMES", "").split(":")
    if passed.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = []
    for descriptor, name in enumerate(names, FIRST_DESCRIPTOR):
        if name.startswith(PREFIX):
            with suppress(OSError):  # no socket, or closed by now
                sock = socket.socket(fileno=descriptor)
                sock.set_inheritable(False)
                found.append(sock)
                _stored.add(name)
    return found


def keep(sockets: Iterable[socket.socket]) -> bool:
    """
    Put sockets into the store.  What is there already stays.  They stay the caller's.

    @return: whether the store has all of them now.
    """
    named = {_nameOf(each): each for each in sockets}
    most = capacity()
    if not most:
        return False
    if len(_stored | named.keys()) > most:
        log.error(
            "the service manager keeps {most} sockets, and more are bound: raise"
            " FileDescriptorStoreMax=, or a restart refuses clients",
            event="descriptor-store-failed",
            most=most,
        )
        return False
    for name, sock in named.items():
        # FDPOLL=0: an error of a UDP socket would take it out of the store.
        if not _send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", sock):
            return False
        _stored.add(name)
    return True


def drop(sockets: Iterable[socket.socket]) -> None:
    """
    Take sockets out of the store.  They stay the caller's.
    """
    for sock in sockets:
        name = _nameOf(sock)
        if name in _stored and _send(f"FDSTOREREMOVE=1\nFDNAME={name}"):
            _stored.remove(name)


def _nameOf(sock: socket.socket) -> str:
    """
    Name a socket.  Each process gives it the same name.
    """
    return f"{PREFIX}{_kernel.cookie(sock):x}"


def _send(message: str, sock: socket.socket | None = None) -> bool:
    """
    Send a message to the service manager.

    @param sock: goes with the message; it stays the caller's.
    @return: whether it was sent.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    ancillary = []
    if sock is not None:
        rights = array.array("i", [sock.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendmsg([message.encode()], ancillary, 0, address)
    except OSError as error:
        log.error(
            "the service manager cannot be told of a socket: {error}; a restart may"
            " refuse clients",
            event="descriptor-store-failed",
            error=error.strerror,
        )
        return False
    return True
