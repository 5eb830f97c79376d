"""
Lending the sockets of shared ports to workers: carries out what
L{portlisten._shares} decides.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from twisted.logger import Logger

from portlisten import _linux
from portlisten._frames import Kind, Port
from portlisten._shares import Decision, Lend, Shares
from portlisten.interfaces import IChannel


class Sharing:
    """
    The sockets of the listener's shared ports.

    @param sockets: those of each port.  They stay the caller's, who keeps them
        open for as long as there are workers.
    @param backlog: the length of their queues.
    """

    log = Logger()

    def __init__(
        self, sockets: Mapping[Port, Sequence[socket.socket]], backlog: int
    ) -> None:
        self._sockets = sockets
        self._backlog = backlog
        self._book = Shares(sockets)

    def joined(self, channel: IChannel, ports: Iterable[Port]) -> None:
        """
        Lend a worker what is shared of these ports.
        """
        self._run(self._book.joined(channel, ports))

    def left(self, channel: IChannel) -> None:
        """
        A worker accepts nothing more.  May be called again.
        """
        self._run(self._book.left(channel))
        self._mend()

    def _run(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Lend):
                decision.channel.lend(decision.port, decision.socket)
            else:
                decision.channel.withdraw(decision.socket)

    def _mend(self) -> None:
        """
        Listen again where a worker shut a socket down, which many servers do with
        their own when they stop.
        """
        for port, sockets in self._sockets.items():
            if port.kind is Kind.DATAGRAMS:
                continue
            for sock in sockets:
                if not _linux.listening(sock):
                    self._listenAgain(port, sock)

    def _listenAgain(self, port: Port, sock: socket.socket) -> None:
        try:
            sock.listen(self._backlog)
        except OSError as error:
            self.log.critical(
                "a worker shut {port} down, for everybody, and it cannot be mended:"
                " {error}; restart the listener",
                port=port.label,
                error=error.strerror,
            )
        else:
            self.log.error(
                "a worker shut {port} down, for everybody: what waited there was"
                " reset; it listens again",
                port=port.label,
            )
