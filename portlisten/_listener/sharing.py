"""
Share the sockets of shared ports with workers: this carries out the decisions of
L{portlisten._policy.assignment}, and checks the sockets.

All workers have the same shared socket: what one worker does to it affects all.  Some
servers shut down their sockets when they stop, or make them blocking.  So this module
checks the sockets from time to time, and repairs them if possible.

While a worker does not read a socket that was sent to it, the socket is in flight.  The
kernel limits how many descriptors a user has in flight.  So if a worker does not read
its shared sockets in time, it is revoked.  And only a few sockets may be unread at a
time.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.status import PortStatus
from portlisten._listener.interfaces import IChannel
from portlisten._listener.loads import MEMORIES, Loads
from portlisten._listener.orphans import Orphans
from portlisten._listener.unserved import Queues
from portlisten._model import Kind, Port
from portlisten._policy.assignment import Assignment, Decision, ShareSocket
from portlisten._reactor.log_limit import logLimit

#: How often the sockets and the workers that hold them are checked, in seconds.
CHECK_SECONDS = 0.5


@dataclass
class _Unread:
    """
    The sockets that a worker was sent and has not read.

    @ivar sockets: the sockets.
    @ivar later: the sockets to share again when the worker has read the others, with
        the numbers of their ports.
    @ivar limited: whether the worker must read within the timeout.
    @ivar waited: for how long the worker has not read, at least, in seconds.  It
        begins below 0, since the first check may come at once.
    @ivar memories: how many descriptors of memory the worker was sent.
    """

    sockets: list[socket.socket] = field(default_factory=list)
    later: dict[socket.socket, int] = field(default_factory=dict)
    limited: bool = False
    waited: float = -CHECK_SECONDS
    memories: int = 0


class Sharing:
    """
    The sockets of the listener's shared ports.

    @param ports: the listener's ports.  Some need not be shared.
    @param sockets: the sockets of each shared port, by its number.  They stay the
        caller's.  The caller keeps them open while the listener has workers.
    @param backlog: the length of their queues.
    @param timeout: how long a worker may take to read its shared sockets, in seconds.
    @param budget: how many descriptors may be on their way to workers.
    @param balanced: the numbers of the ports whose workers leave clients to those that
        have fewer connections.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        ports: Sequence[Port],
        sockets: Mapping[int, Sequence[socket.socket]],
        backlog: int,
        timeout: float,
        budget: int,
        balanced: Collection[int] = (),
    ) -> None:
        self._reactor = reactor
        self._ports = [port for port in ports if port.number in sockets]
        self._sockets = sockets
        self._backlog = backlog
        self._timeout = timeout
        self._budget = budget
        self._assignment = Assignment(self._ports, sockets)
        self._queues = Queues(reactor, self._ports, sockets)
        self._orphans = Orphans(reactor)
        self._loads = Loads(reactor, balanced)
        self._groupSockets = {
            sock
            for port in self._ports
            if port.kind is Kind.GROUP
            for sock in sockets[port.number]
        }
        # With whether the worker is offered connections as well.
        self._workers: dict[IChannel, bool] = {}
        self._unread: dict[IChannel, _Unread] = {}
        self._unrepairable: set[socket.socket] = set()
        self._logLimited = logLimit(reactor)
        self._timer: IDelayedCall | None = None

    def __str__(self) -> str:
        """
        Say for the log how many sockets are shared, and with how many workers.
        """
        count = sum(map(len, self._sockets.values()))
        return f", {count} sockets shared with {len(self._workers)}" if count else ""

    def describe(self, port: Port) -> PortStatus:
        """
        Describe a shared port.
        """
        sockets = self._sockets[port.number]
        holders = {
            channel for sock in sockets for channel in self._assignment.holders(sock)
        }
        waiting = None
        if port.kind is not Kind.DATAGRAMS:
            waiting = sum(map(_kernel.queueLength, sockets))
        return PortStatus(
            port.name,
            str(port.address),
            True,
            len(holders),
            waiting,
            bool(waiting and holders) and any(map(self._queues.unserved, sockets)),
        )

    def addWorker(
        self, channel: IChannel, ports: Iterable[Port], balances: bool = False
    ) -> bool:
        """
        Share the sockets of these ports with a worker, as far as they are shared ports.

        @param balances: whether the worker can leave clients to others.
        @return: whether this was possible.
        """
        wanted = list(ports)
        shared = [port for port in wanted if port.number in self._sockets]
        if not shared:
            return True
        count = sum(len(self._sockets[port.number]) for port in shared)
        count += MEMORIES * balances
        onTheirWay = sum(
            len(each.sockets) + each.memories for each in self._unread.values()
        )
        if onTheirWay and onTheirWay + count > self._budget:
            return False
        self._workers[channel] = len(shared) < len(wanted)
        self._orphans.joined(channel, shared)
        self._unread[channel] = unread = _Unread(limited=True)
        if balances and self._loads.join(channel, shared):
            unread.memories = MEMORIES
        self._run(self._assignment.addWorker(channel, shared))
        self._schedule()
        return True

    def removeWorker(self, channel: IChannel) -> None:
        """
        Note that a worker accepts nothing more.  May be called again.
        """
        if channel in self._workers:
            del self._workers[channel]
            self._orphans.left(channel)
            self._loads.leave(channel)
            self._unread.pop(channel, None)
            self._run(self._assignment.removeWorker(channel))
            self._repair()
        if not self._workers:
            self._stopChecking()

    def drainWorker(self, channel: IChannel) -> None:
        """
        Withdraw all sockets of a worker.  May be called again.
        """
        sockets = self._assignment.socketsOf(channel)
        self.removeWorker(channel)
        for sock in sockets:
            channel.withdraw(sock)

    def undrainWorker(self, channel: IChannel, ports: Iterable[Port]) -> None:
        """
        After L{drainWorker}: share sockets again with a worker that only uses shared
        sockets.  They are sent when the worker has read that they were withdrawn.  A
        program under C{portlisten exec} never reads that, and never stopped using them.
        """
        shared = [port for port in ports if port.number in self._sockets]
        self._workers[channel] = False
        self._orphans.joined(channel, shared)
        later = self._unread[channel] = _Unread()
        for decision in self._assignment.addWorker(channel, shared):
            if isinstance(decision, ShareSocket) and decision.channel is channel:
                later.later[decision.socket] = decision.port
            else:
                self._run([decision])
        self._schedule()

    def workerReads(self, channel: IChannel) -> None:
        """
        Note that a worker has claimed an offer, and so reads its channel.
        """
        unread = self._unread.get(channel)
        if unread is not None:
            unread.waited = -CHECK_SECONDS

    def stop(self) -> None:
        """
        Let go of what this holds: all channels have ended.
        """
        self._stopChecking()
        self._loads.close()

    def _stopChecking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, ShareSocket):
                self._share(decision.channel, decision.port, decision.socket)
            else:
                self._withdraw(decision.channel, decision.socket)

    def _share(self, channel: IChannel, port: int, sock: socket.socket) -> None:
        if channel not in self._workers:
            return  # the worker left while earlier sockets were sent
        unread = self._sent(channel, sock)
        # A program under `portlisten exec` reads its sockets when it joins, and then
        # reads no more, perhaps for long.  It takes no connections and no groups.
        mayWait = not self._workers[channel] and sock not in self._groupSockets
        if mayWait and sock in unread.sockets and channel.unread():
            unread.later[sock] = port
        else:
            unread.sockets.append(sock)
            channel.shareSocket(port, sock)

    def _withdraw(self, channel: IChannel, sock: socket.socket) -> None:
        if channel in self._workers:
            self._sent(channel, sock).later.pop(sock, None)
            channel.withdraw(sock)

    def _sent(self, channel: IChannel, sock: socket.socket) -> _Unread:
        """
        Note that a worker is about to be sent a frame about a socket.
        """
        unread = self._unread.setdefault(channel, _Unread())
        if self._workers[channel] or sock in self._groupSockets:
            unread.limited = True
        return unread

    def _schedule(self) -> None:
        if self._timer is None and self._workers:
            self._timer = self._reactor.callLater(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._timer = None
        for channel, unread in list(self._unread.items()):
            if self._unread.get(channel) is not unread:
                continue  # it left while another was checked
            if not channel.unread():
                del self._unread[channel]
                for sock, port in unread.later.items():
                    self._share(channel, port, sock)
                continue
            # Do not count time in which this process did not run.
            unread.waited += CHECK_SECONDS
            if unread.limited and unread.waited > self._timeout:
                channel.revoke(
                    f"it did not read its shared sockets within {self._timeout:g} s"
                )
        self._repair()
        self._queues.look(self._assignment.holders)
        self._orphans.check()
        self._loads.check()
        self._schedule()

    def _repair(self) -> None:
        for port in self._ports:
            for sock in self._sockets[port.number]:
                sock.setblocking(False)
                if sock not in self._unrepairable and _kernel.isShutDown(sock):
                    self._restore(port, sock)

    def _restore(self, port: Port, sock: socket.socket) -> None:
        """
        A socket was shut down: make it listen again.  Then share it again with the
        workers that had it, since they have closed theirs.
        """
        why = "there is no way to listen on such a socket again"
        address = sock.getsockname()
        try:
            if sock.family != socket.AF_UNIX and port.kind is not Kind.DATAGRAMS:
                sock.listen(self._backlog)
                why = "it would be another port"
        except OSError as error:
            why = str(error.strerror)
        if _kernel.isShutDown(sock) or sock.getsockname() != address:
            self._unrepairable.add(sock)
            self._logLimited(
                self.log.critical,
                "a worker shut {port} down, for all workers, and that cannot be"
                " repaired: {why}; restart the listener",
                event="port-lost",
                port=port.label,
                why=why,
            )
            for channel in self._assignment.holders(sock):
                self._withdraw(channel, sock)
            return
        self._logLimited(
            self.log.error,
            "a worker shut {port} down, for all workers: what waited there was reset;"
            " it listens again",
            event="port-shut-down",
            port=port.label,
        )
        for channel in self._assignment.holders(sock):
            self._share(channel, port.number, sock)
