"""
Lending the sockets of shared ports to workers: carries out what
L{portlisten._shares} decides, and looks after the sockets.

A socket that is shared is in the hands of each worker: what one does to it, it does
to all.  Some servers shut their sockets down when they stop, or make them blocking.
So this looks at them from time to time, and mends what can be mended.

What is sent to a worker that does not read is in flight, and the kernel lets a user
have only so many descriptors in flight.  So one that does not read what it is lent
is given up, and not many may be waiting to be read at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from portlisten import _linux
from portlisten._frames import Kind, Port
from portlisten._shares import Decision, Lend, Shares
from portlisten.interfaces import IChannel

#: How often the sockets and their borrowers are looked at, in seconds.
LOOK = 0.5


class Sharing:
    """
    The sockets of the listener's shared ports.

    @param sockets: those of each port.  They stay the caller's, who keeps them
        open for as long as there are workers.
    @param backlog: the length of their queues.
    @param timeout: how long a worker may take to read what it is lent, in seconds.
    @param budget: how many sockets may be on their way to workers.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        sockets: Mapping[Port, Sequence[socket.socket]],
        backlog: int,
        timeout: float,
        budget: int,
    ) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._backlog = backlog
        self._timeout = timeout
        self._budget = budget
        self._book = Shares(sockets)
        self._borrowers: set[IChannel] = set()
        self._unread: dict[IChannel, tuple[int, float]] = {}
        self._lost: set[socket.socket] = set()
        self._timer: IDelayedCall | None = None

    def __str__(self) -> str:
        """
        Say for the log how much is shared, and with how many.
        """
        count = sum(map(len, self._sockets.values()))
        return f", {count} sockets shared with {len(self._borrowers)}" if count else ""

    def joined(self, channel: IChannel, ports: Iterable[Port]) -> bool:
        """
        Lend a worker what is shared of these ports.

        @return: whether that was possible.
        """
        shared = [port for port in ports if port in self._sockets]
        if not shared:
            return True
        count = sum(len(self._sockets[port]) for port in shared)
        onTheirWay = sum(count for count, _ in self._unread.values())
        if onTheirWay and onTheirWay + count > self._budget:
            return False
        self._borrowers.add(channel)
        self._unread[channel] = (count, self._reactor.seconds())
        self._run(self._book.joined(channel, shared))
        self._schedule()
        return True

    def left(self, channel: IChannel) -> None:
        """
        A worker accepts nothing more.  May be called again.
        """
        if channel in self._borrowers:
            self._borrowers.remove(channel)
            self._unread.pop(channel, None)
            self._run(self._book.left(channel))
            self._mend()
        if not self._borrowers:
            self.stop()

    def stop(self) -> None:
        """
        Look after the sockets no more.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Lend):
                decision.channel.lend(decision.port, decision.socket)
            else:
                decision.channel.withdraw(decision.socket)

    def _schedule(self) -> None:
        if self._timer is None and self._borrowers:
            self._timer = self._reactor.callLater(LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._mend()
        now = self._reactor.seconds()
        for channel, (_, since) in list(self._unread.items()):
            if not channel.unread():
                del self._unread[channel]
            elif now - since > self._timeout:
                channel.revoke(
                    f"it did not read what it was lent within {self._timeout:g} s"
                )
        self._schedule()

    def _mend(self) -> None:
        for port, sockets in self._sockets.items():
            for sock in sockets:
                sock.setblocking(False)
                if sock not in self._lost and _linux.shutDown(sock):
                    self._restore(port, sock)

    def _restore(self, port: Port, sock: socket.socket) -> None:
        """
        Have a socket listen again that was shut down, and be used again by those
        that have it, which have closed theirs.
        """
        why = "there is no way to listen on such a socket again"
        address = sock.getsockname()
        try:
            if sock.family != socket.AF_UNIX and port.kind is not Kind.DATAGRAMS:
                sock.listen(self._backlog)
                why = "it would be another port"
        except OSError as error:
            why = str(error.strerror)
        if _linux.shutDown(sock) or sock.getsockname() != address:
            self._lost.add(sock)
            self.log.critical(
                "a worker shut {port} down, for everybody, and that cannot be mended:"
                " {why}; restart the listener",
                port=port.label,
                why=why,
            )
            for channel in self._book.holders(sock):
                channel.withdraw(sock)
            return
        self.log.error(
            "a worker shut {port} down, for everybody: what waited there was reset;"
            " it listens again",
            port=port.label,
        )
        for channel in self._book.holders(sock):
            channel.lend(port.number, sock)
