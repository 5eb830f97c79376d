"""
Which listener an argument of an operator's command means.
"""

from __future__ import annotations

import os
import sys

from portlisten.errors import CannotRun

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def channelOf(argument: str) -> tuple[str, str | None]:
    """
    Find the listener that an argument means.

    @param argument: the file of C{portlisten run}, or the path of a channel.
    @return: the path of the channel, and the path of the control socket as in
        L{portlisten._control.place.controlPath}.
    @raise CannotRun: if the file cannot be read.
    """
    if not os.path.isfile(argument):
        return argument, None
    try:
        with open(argument, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise CannotRun(f"{argument}: {error}") from None
    path, control = values.get("path"), values.get("control")
    if not isinstance(path, str):
        raise CannotRun(f"{argument}: path is missing: the path of the channel")
    if not isinstance(control, str | None):
        raise CannotRun(f"{argument}: control is no text")
    return path, "" if control == "none" else control
