"""
Makes a listener of its settings.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._listener.interfaces import ISockets, IWire
from portlisten._listener.service import ListenerService
from portlisten._process import exits, signals
from portlisten._reactor.monotonic import monotonicReactor

log = Logger()


def makeListener(
    reactor: Any,
    command: exits.Command,
    settings: ListenerSettings,
    sockets: ISockets,
    backlog: int,
) -> ListenerService:
    """
    Make the service of a listener, and set this process up for it.

    @param command: the command that runs.
    @param sockets: where its sockets come from.
    @param backlog: the length of the queue of shared ports that must listen again.
    """
    signals.ownProcess(reactor, settings.retry)
    # Other services may run in the process of a .tac file, or of a test.
    alone = bool(command.twistd) and IReactorCore.providedBy(reactor)
    if alone and not reactor.running:
        reactor.callWhenRunning(_kernel.runInBatches)

    def timedOut() -> None:
        if settings.onTimeout == "exit":
            log.critical("exiting, as --on-timeout=exit asks for", event="stopping")
            exits.exitWith(reactor, 1)

    wire: IWire
    monotonic = monotonicReactor(reactor)
    if settings.wire == "datagram":
        # Few listeners need it.
        from portlisten._listener.datagram import DatagramWire

        wire = DatagramWire(monotonic, settings, timedOut)
    else:
        from portlisten._listener.stream import StreamWire

        wire = StreamWire(monotonic, settings, backlog, timedOut, sockets)
    return ListenerService(monotonic, command, settings, sockets, wire, backlog)
