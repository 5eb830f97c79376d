"""
The listener that lives at a path, as the one that is to replace it sees it.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Collection, Sequence

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.place import SUFFIX, controlPath
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Takeover, Transfer
from portlisten._listener import successor
from portlisten._ports.binding import BoundPort
from portlisten._process import signals
from portlisten.errors import CannotTakeOver

#: How many descriptors must be free, or this process could not serve.
LEAST_DESCRIPTORS = 32


log = Logger()


def connect(path: str, control: str | None, users: Collection[int]) -> Takeover | None:
    """
    Connect to the listener that lives at a path.

    @param path: the path that workers connect to.
    @param control: the path of the control socket, as the operator gave it.
    @param users: the users that it may have been started by.
    @return: L{None} if no listener lives there, or it stops.
    @raise CannotTakeOver: if it cannot be asked.
    """
    # One that is busy may take a while to say HELLO, and answers its control socket.
    if not successor.isServed(path) or successor.isStopping(path, silent=False):
        return None
    where = controlPath(path, control)
    if not where:
        raise CannotTakeOver(
            f"cannot take over from the listener at {path} without its control socket:"
            f" its path, {path}{SUFFIX} as a rule, is too long, or --control is empty"
        )
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        link.connect(where)
        uid = _kernel.credentials(link).uid
    except OSError as error:
        link.close()
        raise CannotTakeOver(_explain(path, where, error)) from None
    if uid not in users:
        link.close()
        raise CannotTakeOver(
            f"cannot take over from the listener at {path}: a process of uid {uid} is"
            f" at its control socket, {where}"
        )
    return Takeover(link, f"the listener at {path}", signals.stopRequested)


def _explain(path: str, control: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            f"cannot take over from the listener at {path}: it has no control socket at"
            f" {control}, since it is of a release that cannot be replaced while it"
            " serves, or was started with another --control; stop it, and start this"
            " one without --replace"
        )
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EAGAIN:
        reason = "it does not answer: see whether it is stopped"
    return f"cannot take over from the listener at {path}: {control}: {reason}"


def takeOver(
    takeover: Takeover, ports: Sequence[BoundPort]
) -> tuple[Commit, Transfer] | None:
    """
    Take over.  Whatever comes of it, the L{Takeover} has nothing open then.

    @param ports: the ports of this process.
    @return: what the other listener says, and what goes on, which is the caller's.
        L{None} if it is dead.
    @raise CannotTakeOver: if that is impossible.
    """
    try:
        commit = _commit(takeover, ports)
        if commit is not None:
            return commit, takeover.run()
    except BaseException:
        takeover.close()
        raise
    log.warn(
        "{where} has ended meanwhile, so this one serves at once",
        event="handover-unneeded",
        where=takeover.where,
    )
    takeover.close()
    return None


def _commit(takeover: Takeover, ports: Sequence[BoundPort]) -> Commit | None:
    """
    @return: L{None} if the other listener is dead.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = limit - _kernel.openDescriptors()
    if free < LEAST_DESCRIPTORS:
        raise takeover.failure(
            f"only {free} descriptors are left for this process (ulimit -n)"
        )
    cookies = [_kernel.cookie(each) for port in ports for each in port.sockets]
    return takeover.commit(cookies, [port.name for port in ports])
