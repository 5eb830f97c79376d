"""
The log of what happens to processes, and their output in it.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

#: The log of this room.
log = Logger(namespace="children")


def lineLogger(label: str) -> Callable[[str], None]:
    """
    Make a function that logs a line of a process.  The label of the process stands
    where other lines have the part of the program that they come from, so C{twistd}'s
    own options say where the line goes.

    @param label: the label of the process.
    """

    def logLine(line: str) -> None:
        # Braces in a field are not formatted.
        log.info("{line}", line=line, log_system=label)

    return logLine
