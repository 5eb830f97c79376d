"""
The log of what happens to processes, and their output in it.
"""

from __future__ import annotations

from twisted.logger import Logger

#: The log of this room.
log = Logger(namespace="children")


class LineLogger:
    """
    Logs each line of a process.  In text, the label of the process stands where other
    lines have the part of the program that they come from.

    @param label: the label of the process.
    @param group: the name of the group, if the process is a worker.
    @param slot: its slot in the group.
    @ivar pid: the number of the process, once it is known.
    """

    def __init__(
        self, label: str, group: str | None = None, slot: int | None = None
    ) -> None:
        self._label = label
        self._group = group
        self._slot = slot
        self.pid: int | None = None

    def __call__(self, line: str) -> None:
        """
        Log a line.
        """
        # Braces in a field are not formatted.
        log.info(
            "{line}",
            event="output",
            line=line,
            log_system=self._label,
            worker=self._label if self._group else None,
            group=self._group,
            slot=self._slot,
            pid=self.pid,
        )
