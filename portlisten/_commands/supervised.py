"""
What the processes have in common that a supervisor, or a listener, starts: descriptor 3
is connected to the parent.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from portlisten._control.convert import ControlError
from portlisten._process import forking

#: The descriptor that is connected to the parent.
LINK = 3


def takeLink(parent: str, command: str) -> socket.socket:
    """
    Take the descriptor that is connected to the parent, and close those after it, which
    somebody may have passed on by mistake.

    @param parent: the parent, for errors, such as "a supervisor".
    @param command: the command that starts this process, for errors.
    @return: the link, which the caller owns.
    @raise ControlError: if it is not connected to the parent.
    """
    with suppress(OSError):  # without /proc, they stay open
        forking.closeFrom(LINK + 1)
    try:
        link = socket.socket(fileno=LINK)
        link.getpeername()
    except OSError as error:
        raise ControlError(
            f"descriptor {LINK} is not connected to {parent} ({error.strerror}):"
            f" '{command}' starts this command"
        ) from None
    if (link.family, link.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ControlError(f"descriptor {LINK} is no Unix stream socket")
    link.set_inheritable(False)
    return link
