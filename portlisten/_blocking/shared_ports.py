"""
The ports of a blocking worker on the sockets that a listener shares: a connection is
accepted when the program asks for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from portlisten._anyloop import shared_ports


class SharedPorts(shared_ports.SharedPorts):
    """
    Ports that accept one connection at a time, when asked.

    @ivar offersChanged: called when L{take} should be called.
    @ivar ready: whether a connection may wait in a backlog.  The ports watch no more
        until L{take} finds none.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.offersChanged: Callable[[], None] = lambda: None
        self.ready = False

    def take(self) -> bool:
        """
        Accept a connection, if one waits, and give it to the adopter.

        @return: whether one was accepted.
        """
        if not self.ready:
            return False
        for port in list(self._ports.values()):
            if port.usable and self._room() > 0 and self._accept(port, 1):
                return True
        self.ready = False
        self.adjust()
        return False

    def _shouldWatch(self) -> bool:
        return not self.ready and super()._shouldWatch()

    def _ready(self, port: shared_ports.Port) -> None:
        self.ready = True
        self.adjust()
        self.offersChanged()
