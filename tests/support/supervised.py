"""
A supervisor that holds sockets, and starts listeners on them, for tests.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor

from portlisten._channel import paths
from portlisten._config.settings import ListenerSettings
from portlisten._ports.binding import BoundPort, bind
from portlisten._ports.parsing import parse
from portlisten._supervisor.listener_link import ListenerLink
from tests.support.spawned import Process, Start

#: The command that a supervisor runs.
COMMAND = (sys.executable, "-m", "portlisten", "supervised-listener")


class Supervisor:
    """
    Binds ports and the path C{socket} in a folder, and keeps them until L{close}.

    @ivar port: the number of the first port.
    @ivar broken: why links broke.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listen: Sequence[str] = ("tcp:0:interface=127.0.0.1",),
        share: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.path = str(folder / "socket")
        self.settings = ListenerSettings(
            path=self.path, listen=tuple(listen), share=tuple(share), **settings
        )
        self.ports: list[BoundPort] = []
        for text in listen:
            self.ports += bind(parse(text, 1024))
        for text in share:
            self.ports += bind(parse(text, 1024, shared=True))
        self.channel = paths.bind(self.path, 0o666, None, 1024)
        self.broken: list[str] = []

    @property
    def port(self) -> int:
        return int(self.ports[0].socket.getsockname()[1])

    def start(
        self, start: Start, program: Sequence[str] = COMMAND
    ) -> tuple[Process, ListenerLink]:
        """
        Start a listener, and send it the start message.
        """
        ours, theirs = socket.socketpair()
        # The second is a stray one.
        process = start(*program, inherited=[theirs.fileno(), ours.fileno()])
        theirs.close()
        link = ListenerLink(reactor, ours, self.broken.append)
        link.sendStart(self.settings, self.ports, self.channel.socket)
        return process, link

    def close(self) -> None:
        """
        Close all sockets, and remove the path.
        """
        self.channel.remove()
        self.channel.socket.close()
        for port in self.ports:
            port.close()
