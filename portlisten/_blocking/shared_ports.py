"""
The ports of a blocking worker on the sockets that a listener shares: a connection is
accepted when the program asks for one.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any

from portlisten._anyloop import shared_ports


class SharedPorts(shared_ports.SharedPorts):
    """
    Ports that accept one connection at a time, when asked.

    @ivar ready: whether a connection waits in a backlog, unless another worker takes
        it.  Meanwhile the ports watch no more.
    """

    balances = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ready = False

    def close(self, cookie: int) -> None:
        """
        See L{portlisten._anyloop.shared_ports.SharedPorts.close}.
        """
        super().close(cookie)
        self.ready = self.ready and _someWait(self._usable)

    @property
    def _usable(self) -> list[shared_ports.Port]:
        return [port for port in self._ports.values() if port.usable]

    def take(self) -> bool:
        """
        Accept a connection, if one waits, and give it to the adopter.

        @return: whether one was accepted.
        """
        if not self.ready:
            return False
        usable = self._usable
        taken = any(self._room() > 0 and self._accept(port, 1) for port in usable)
        self.ready = taken and self._room() > 0 and _someWait(usable)
        self.adjust()
        return taken

    def _shouldWatch(self) -> bool:
        return not self.ready and super()._shouldWatch()

    def _ready(self, port: shared_ports.Port) -> None:
        self.ready = True
        self.adjust()


def _someWait(ports: Sequence[shared_ports.Port]) -> bool:
    """
    Whether a connection waits in a backlog.
    """
    poll = select.poll()
    for port in ports:
        poll.register(port.socket, select.POLLIN)
    return bool(poll.poll(0))
