"""
Watches the queues of shared sockets, and logs if nobody accepts from one: this carries
out what L{portlisten._policy.unserved} decides.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.interfaces import IChannel
from portlisten._model import Kind, Port
from portlisten._policy.complaints import Complaint
from portlisten._policy.unserved import PATIENCE_SECONDS, Queue, Verdict
from portlisten._reactor.log_limit import logLimit

#: How many workers a line of the log names.
_MAXIMUM_NAMES = 4


class Queues:
    """
    The queues of all shared sockets.  UDP sockets have none.

    @param reactor: an L{IReactorTime}.
    @param sockets: the sockets of each shared port, by its number.  They stay the
        caller's.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ports: Sequence[Port],
        sockets: Mapping[int, Sequence[socket.socket]],
    ) -> None:
        self._now: Callable[[], float] = reactor.seconds
        self._logLimited = logLimit(reactor)
        self._complaint = Complaint()
        self._queues = [
            (port, sock, Queue())
            for port in ports
            if port.kind is not Kind.DATAGRAMS
            for sock in sockets[port.number]
        ]
        self._holders: dict[socket.socket, set[IChannel]] = {}

    def look(self, holders: Callable[[socket.socket], Iterable[IChannel]]) -> None:
        """
        Look at each queue.

        @param holders: returns the workers that have a socket.
        """
        now = self._now()
        for port, sock, queue in self._queues:
            workers = set(holders(sock))
            before = self._holders.get(sock, set())
            self._holders[sock] = workers
            if not workers & before:
                queue.abandoned()
            if not workers:
                continue
            if workers - before:
                queue.workerAdded(now)
            verdict = queue.look(now, _kernel.queueLength(sock))
            if verdict is Verdict.IDENTIFY:
                verdict = queue.identified(now, self._identify(sock))
            self._log(verdict, port, queue, workers)

    def unserved(self, sock: socket.socket) -> bool:
        """
        Say whether clients wait on a shared socket, and nobody accepts.
        """
        return any(queue.unserved for _, each, queue in self._queues if each is sock)

    def _identify(self, sock: socket.socket) -> frozenset[int]:
        try:
            return _kernel.clientsWaiting(sock)
        except OSError as error:
            reason = str(error.strerror)
        if self._complaint.isNew(reason):
            self.log.info(
                "the kernel does not say which clients wait on shared ports ({reason}):"
                " if a program does not serve its port, that is not logged",
                event="kernel-lacks",
                reason=reason,
            )
        return frozenset()

    def _log(
        self, verdict: Verdict, port: Port, queue: Queue, workers: set[IChannel]
    ) -> None:
        if verdict is Verdict.UNSERVED:
            self._logLimited(
                self.log.warn,
                "{count} on {port}, and nobody was accepted there for {seconds:g} s,"
                " though {workers} can accept: the server hangs, is overloaded or has"
                " not started; or it does not use this socket: a program must serve"
                " each socket that it gets, and be the process that LISTEN_PID names,"
                " so nothing like runuser, su, sudo, npm or sh -c 'a; b' may start it"
                " as a child",
                event="port-unserved",
                count=_waiting(queue.length),
                port=port.label,
                seconds=PATIENCE_SECONDS,
                workers=_names(workers),
            )
        elif verdict is Verdict.SLOW:
            self._logLimited(
                self.log.warn,
                "{count} on {port}, {waited} of them for {seconds:g} s or longer,"
                " though {workers} can accept: the server is overloaded",
                event="port-slow",
                count=_waiting(queue.length),
                port=port.label,
                waited=queue.waited,
                seconds=PATIENCE_SECONDS,
                workers=_names(workers),
            )
        elif verdict is Verdict.SERVED:
            self._logLimited(
                self.log.info,
                "clients of {port} are served again",
                event="port-served",
                port=port.label,
            )


def _waiting(count: int) -> str:
    return "1 client waits" if count == 1 else f"{count} clients wait"


def _names(workers: Iterable[IChannel]) -> str:
    names = sorted(each.label for each in workers)
    if len(names) > _MAXIMUM_NAMES:
        names[_MAXIMUM_NAMES:] = [f"{len(names) - _MAXIMUM_NAMES} more"]
    return ", ".join(names)
