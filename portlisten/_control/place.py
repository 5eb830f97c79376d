"""
Where the control socket of a listener is, or of its supervisor, and which users may
connect to it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portlisten._channel import paths
from portlisten._kernel import MAXIMUM_PATH
from portlisten.errors import PathError

if TYPE_CHECKING:
    from twisted.logger import Logger

#: What is added to the channel's path.
SUFFIX = ".ctl"

#: The permissions: only root, and the owner of the path, may connect.
MODE = 0o600

#: How many clients may wait to be accepted.
BACKLOG = 128


def controlPath(channel: str, given: str | None = None) -> str | None:
    """
    Find the path of a listener's control socket.

    @param channel: the path of the channel.
    @param given: the path that the operator gave; empty for no control socket; L{None}
        for the usual one.
    @return: the path.  Empty if the operator wants no control socket.  L{None} if the
        usual path is too long for a socket.
    """
    if given is not None:
        return given
    usual = channel + SUFFIX
    return usual if len(os.fsencode(usual)) <= MAXIMUM_PATH else None


def bindControl(channel: str, path: str, owner: int | None = None) -> paths.BoundPath:
    """
    Bind the control socket, and listen.

    @param channel: the path of the channel.
    @param path: the path of the control socket.
    @param owner: the user that the path is given to, so that this user can connect;
        L{None} to keep the path.  If that is impossible, a line of the log says so.
    @return: the socket and its name.  The caller owns both.
    @raise PathError: if that fails.
    """
    if os.path.realpath(path) == os.path.realpath(channel):
        raise PathError(
            f"--control: {path} is PATH, where workers connect: give another path"
        )
    try:
        bound = paths.bind(path, MODE, None, BACKLOG)
    except PathError as error:
        raise PathError(f"--control: {error}") from error
    if owner is not None:
        try:
            paths.giveToUser(path, MODE, owner)
        except (PathError, OSError) as error:
            reason = str(error.strerror if isinstance(error, OSError) else error)
            _log().warn(
                "uid {owner} cannot use the control socket, and only root can:"
                " {reason}",
                event="control-limited",
                owner=owner,
                reason=reason,
            )
    return bound


def _log() -> Logger:
    # Clients use this module as well, and need no Twisted.
    from twisted.logger import Logger

    return Logger(__name__)
