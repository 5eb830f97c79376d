"""
What a reload does with ports and with the listener.

The supervisor binds the new ports first.  A port that is removed takes no new clients,
and the clients that wait are served.  Then the listener is replaced.  If that fails,
the removed ports take clients again, and the new ones are closed.
"""

from __future__ import annotations

import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._config.compare import FilePort, Plan, filePorts
from portlisten._config.file import RunSettings
from portlisten._control.status import StepState
from portlisten._model import Kind, UnixAddress
from portlisten._monitor.host import BoundPlace, MonitorHost, bindPlace
from portlisten._monitor.place import parsePlace
from portlisten._ports.binding import BoundPort, bind, changed
from portlisten._ports.parsing import parse
from portlisten._ports.socket_options import setAnew
from portlisten._ports.stored import stored, unstored
from portlisten._supervisor.group import Group
from portlisten._supervisor.listener import SupervisedListener
from portlisten._supervisor.logs import log
from portlisten._supervisor.operations import Failed, Operation, RunningStep
from portlisten._supervisor.replacement import Replacements
from portlisten._supervisor.shut_down import shutDown
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import NotReady
from portlisten.errors import BadDescription, CannotBind

#: How often the backlog of a port that is removed is looked at, in seconds.
CHECK_SECONDS = 0.05


@dataclass
class Running:
    """
    What runs.

    @ivar settings: the settings in use.  Those of the groups are in the groups.
    @ivar ports: the bound ports, which the supervisor owns.
    @ivar channel: the path that workers connect to; it stays the supervisor's.
    @ivar groups: the groups of workers.
    @ivar listener: the listener.
    @ivar monitor: runs the monitor.
    """

    settings: RunSettings
    ports: list[BoundPort]
    channel: Any
    groups: list[Group]
    listener: SupervisedListener
    monitor: MonitorHost


class PortChanges:
    """
    Changes the ports and the listener.

    @param reactor: an L{IReactorTime}.
    @param replacements: notes how far it has come.
    @param view: what the listener says.
    @param running: what runs.  It is changed.
    """

    def __init__(
        self,
        reactor: Any,
        replacements: Replacements,
        view: View,
        running: Running,
    ) -> None:
        self._reactor = reactor
        self._replacements = replacements
        self._view = view
        self._running = running

    async def carryOut(
        self,
        operation: Operation,
        plan: Plan,
        wanted: RunSettings,
        withdrawn: list[BoundPort],
    ) -> None:
        """
        Bind the new ports, start the listener anew if it needs that, and set options.

        @param withdrawn: gets shared ports that are to be closed when the workers that
            may have them have ended.
        @raise Failed: if that fails.  Nothing has changed then, unless the monitor is
            what does not get ready: then it is stopped.
        """
        running = self._running
        backlog = wanted.listener.backlog or _kernel.longestBacklog()
        place = None
        with ExitStack() as undo:
            made = self._bind(plan, backlog, undo)
            if plan.metrics and wanted.listener.metrics is not None:
                place = self._bindMonitor(wanted.listener.metrics)
                undo.callback(place.close)
            removed = [
                port for each in plan.removed for port in _find(running.ports, each)
            ]
            changes = {each.running: each.wanted for each in plan.kept}
            before = [each for each in running.ports if each not in removed]
            ports = [_changed(each, changes, backlog) for each in before]
            # In the order of the file, which a start would have.
            order = filePorts(wanted.listener)
            ports = sorted(
                [*ports, *made], key=lambda each: order.index(_asInFile(each))
            )
            listener = replace(running.settings.listener, **_withoutPlace(wanted))
            settings = replace(running.settings, listener=listener)
            if plan.listener:
                await self._drainPorts(operation, removed, undo)
                await self._replaceListener(operation, settings, ports)
            undo.pop_all()
        running.settings = settings
        running.ports[:] = ports
        withdrawn += [each for each in removed if each.kind is not Kind.CONNECTIONS]
        close(each for each in removed if each.kind is Kind.CONNECTIONS)
        self._setOptions(plan, backlog)
        if plan.metrics:
            await self._changeMonitor(operation, place)

    async def upgrade(self, operation: Operation) -> None:
        """
        Replace the listener by one with the same settings and ports.

        @raise Failed: if the new one does not take over.
        """
        running = self._running
        await self._replaceListener(operation, running.settings, running.ports)

    async def _replaceListener(
        self, operation: Operation, settings: RunSettings, ports: Sequence[BoundPort]
    ) -> None:
        step = self._replacements.addStep(operation, new="listener")
        self._replacements.enter(step, StepState.STARTING)
        try:
            await self._running.listener.replace(settings, ports)
        except NotReady as error:
            self._replacements.enter(step, StepState.FAILED, error.reason)
            raise Failed(
                f"the new listener does not get ready: {error.reason}; the old one goes"
                " on, and nothing has changed",
                error.log,
            ) from None
        self._replacements.enter(step, StepState.DONE)

    async def _changeMonitor(
        self, operation: Operation, place: BoundPlace | None
    ) -> None:
        """
        Start, stop or exchange the monitor.

        @param place: where it serves; L{None} for nowhere.
        @raise Failed: if the new one does not get ready.  It is stopped then.
        """
        running, enter = self._running, self._replacements.enter
        if place is None:
            step = self._replacements.addStep(operation, old="monitor")
            enter(step, StepState.STOPPING)
        else:
            step = self._replacements.addStep(operation, new="monitor")
            enter(step, StepState.STARTING)
        lines = await running.monitor.change(place)
        if lines:
            reason, *tail = lines
            enter(step, StepState.FAILED, reason)
            # The next reload starts it again.
            listener = replace(running.settings.listener, metrics=None)
            running.settings = replace(running.settings, listener=listener)
            raise Failed(
                f"metrics: the monitor does not get ready: {reason}; it is stopped",
                tuple(tail),
            )
        enter(step, StepState.DONE)

    def _bindMonitor(self, metrics: str) -> BoundPlace:
        """
        Bind what a new monitor listens on.

        @raise Failed: if that cannot be bound.
        """
        try:
            return bindPlace(parsePlace(metrics))
        except (BadDescription, CannotBind) as error:
            raise Failed(
                f"metrics: {error}; what the reload removes is bound until its end: if"
                " that is in the way, remove it first, and reload twice; nothing has"
                " changed"
            ) from None

    def _bind(self, plan: Plan, backlog: int, undo: ExitStack) -> list[BoundPort]:
        """
        Bind the new ports.

        @param undo: closes them.
        @raise Failed: if one cannot be bound.
        """
        made: list[BoundPort] = []
        for each in plan.added:
            try:
                bound = bind(parse(str(each), backlog, each.shared))
            except (BadDescription, CannotBind) as error:
                hint = (
                    "; what the reload removes is bound until its end: if that is in"
                    " the way, remove it first, and reload twice"
                    if plan.removed or plan.metrics
                    else ""
                )
                raise Failed(
                    f"{each.key}: {error}{hint}; nothing has changed"
                ) from None
            for port in bound:
                # Before the listener hears that another process keeps it.
                kept = stored(port)
                undo.callback(_discard, kept)
                made.append(kept)
        return made

    async def _drainPorts(
        self, operation: Operation, ports: Sequence[BoundPort], undo: ExitStack
    ) -> None:
        """
        Let no new client connect to ports, and wait until those that wait are served.

        @param undo: lets clients connect again.
        """
        grace = self._running.settings.listener.grace
        drains = []
        for port in ports:
            if port.kind is not Kind.DATAGRAMS:
                for sock in port.sockets:
                    self._refuseClients(sock, undo)
            step = self._replacements.addStep(operation, old=f"port {port.label}")
            self._replacements.enter(step, StepState.DRAINING)
            drains.append(self._drainPort(step, port, grace))
        await together(drains)

    def _refuseClients(self, sock: socket.socket, undo: ExitStack) -> None:
        """
        Let no new clients connect to a socket.

        @param undo: lets them connect again.
        """
        if _kernel.refuseClients(sock):
            undo.callback(_kernel.admitClients, sock)
            return
        # While a client waits, the kernel takes no other one.
        backlog = self._running.settings.listener.backlog or _kernel.longestBacklog()
        sock.listen(0)
        undo.callback(sock.listen, backlog)

    async def _drainPort(
        self, step: RunningStep, port: BoundPort, grace: float
    ) -> None:
        end = self._reactor.seconds() + grace
        while self._reactor.seconds() < end:
            self._replacements.checkStopping()
            step.left = _waiting(port)
            if not step.left and not await self._queued(port):
                break
            await deferLater(self._reactor, CHECK_SECONDS)
        left = _waiting(port)
        if left:
            log.warn(
                "{count} clients of port {port} are not served within {grace:g} s, and"
                " turned away",
                event="clients-turned-away",
                count=left,
                port=port.label,
                grace=grace,
            )
        self._replacements.enter(step, StepState.DONE)

    async def _queued(self, port: BoundPort) -> int:
        """
        Ask the listener how many connections of a port it has not handed off.
        """
        listener = await self._view.refresh()
        names = [each.name for each in filePorts(self._running.settings.listener)]
        if (
            listener is None
            or port.kind is not Kind.CONNECTIONS
            or names.count(port.name) > 1
        ):
            return 0
        return sum(each.waiting for each in listener.queues if each.name == port.name)

    def _setOptions(self, plan: Plan, backlog: int) -> None:
        """
        Change options of sockets that stay bound.
        """
        running = self._running
        for each in plan.kept:
            if each.running.text == each.wanted.text:
                continue
            options = parse(str(each.wanted), backlog, each.wanted.shared).options
            for port in _find(running.ports, each.wanted):
                if isinstance(port.address, UnixAddress):
                    continue
                for sock in port.sockets:
                    try:
                        setAnew(sock, options)
                    except OSError as error:
                        log.error(
                            "the options of port {port} cannot be set: {error}",
                            event="port-option-failed",
                            port=port.label,
                            error=error.strerror,
                        )
        if plan.backlog:
            sockets = [
                sock
                for port in running.ports
                if (port.stored or not port.inherited)
                and port.kind is not Kind.DATAGRAMS
                for sock in port.sockets
            ]
            # The caller of listen(2) is the same as before, also for SO_PEERCRED.
            for sock in [*sockets, running.channel.socket]:
                sock.listen(backlog)


def _asInFile(port: BoundPort) -> FilePort:
    return FilePort(port.name, port.description, port.kind is not Kind.CONNECTIONS)


def _find(ports: Iterable[BoundPort], wanted: FilePort) -> list[BoundPort]:
    return [each for each in ports if _asInFile(each) == wanted]


def _changed(
    port: BoundPort, changes: dict[FilePort, FilePort], backlog: int
) -> BoundPort:
    """
    Describe a port that stays bound as the file does now.

    @raise Failed: if it cannot be so.
    """
    wanted = changes.get(_asInFile(port))
    if wanted is None:
        return port
    try:
        return changed(port, parse(str(wanted), backlog, wanted.shared))
    except CannotBind as error:
        raise Failed(f"{wanted.key}: {error}; nothing has changed") from None


def _withoutPlace(wanted: RunSettings) -> dict[str, Any]:
    """
    List the settings of the listener that a reload may change, with their values.
    """
    listener = wanted.listener
    return {name: value for name, value in vars(listener).items() if name != "path"}


def _waiting(port: BoundPort) -> int:
    """
    Count the clients that wait in the backlogs of a port.
    """
    if port.kind is Kind.DATAGRAMS:
        return 0
    return sum(map(_kernel.queueLength, port.sockets))


def _discard(port: BoundPort) -> None:
    """
    Close a port that no listener has accepted on.
    """
    unstored(port).close()


def close(ports: Iterable[BoundPort]) -> None:
    """
    Close ports, also for other processes that still have them.
    """
    for each in ports:
        port = unstored(each)
        shutDown([port])
        port.close()
        log.info("port {port} is closed", event="port-closed", port=port.label)


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """
    Do several things at once, and wait until all are done.

    @raise Exception: what the first one raised that failed.
    """
    results = await DeferredList(
        [Deferred.fromCoroutine(each) for each in work], consumeErrors=True
    )
    for _, result in results:
        if isinstance(result, Failure):
            result.raiseException()
