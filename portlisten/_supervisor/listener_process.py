"""
One process of the listener, with the supervisor's connections to it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from portlisten import _kernel
from portlisten._children.launch import Launch, environmentFor
from portlisten._children.logs import LineLogger
from portlisten._children.process import Process
from portlisten._config.settings import ListenerSettings
from portlisten._ports.binding import BoundPort
from portlisten._supervisor.listener_link import ListenerLink
from portlisten.errors import CannotRun

#: The label of the listener, in the log.
LABEL = "listener"


class ListenerProcess:
    """
    A process of the listener.  It is started, and waits for L{sendStart}.

    @param reactor: an L{IReactorTime} and L{IReactorFDSet}.
    @param user: its user; L{None} for the supervisor's.
    @param accepts: called with this object when the listener accepts.
    @param ended: called with this object when the process has ended.
    @param broken: called with this object, and the reason, if the link broke.
    @param makeProcess: makes a process, as L{Process} does.
    @raise CannotRun: if it cannot be started.

    @ivar link: the link to it.
    @ivar process: the process.
    """

    def __init__(
        self,
        reactor: Any,
        user: int | None,
        accepts: Callable[[ListenerProcess], None],
        ended: Callable[[ListenerProcess], None],
        broken: Callable[[ListenerProcess, str], None],
        makeProcess: Callable[..., Process] = Process,
    ) -> None:
        self._sent: list[socket.socket] = []
        with ExitStack() as undo:
            try:
                # By this, the process gets a connection to each successor.
                self._successors, other = socket.socketpair()
                undo.callback(self._successors.close)
                self._sent.append(other)
                undo.callback(self._dropSent)
                ours, theirs = socket.socketpair()
                undo.callback(theirs.close)
                undo.callback(ours.close)
                self.link = ListenerLink(reactor, ours)
            except OSError as error:
                raise CannotRun(
                    f"no link to it can be made: {error.strerror}"
                ) from None
            undo.pop_all()
            undo.callback(theirs.close)
            undo.callback(self.close)
            self.link.onBroken = lambda reason: broken(self, reason)
            self.link.ready.addCallbacks(
                lambda _: self._isReady(accepts), lambda _: self._dropSent()
            )
            launch = Launch(
                LABEL,
                [sys.executable, "-m", "portlisten", "supervised-listener"],
                environmentFor(os.environ, user, LABEL, {}),
                uid=user,
                descriptors=(theirs.fileno(),),
            )
            self.process = makeProcess(
                reactor, launch, LineLogger(LABEL), lambda process: ended(self)
            )
            self.process.start()
            undo.pop_all()
        theirs.close()

    def sendStart(
        self,
        settings: ListenerSettings,
        ports: Sequence[BoundPort],
        channel: socket.socket,
        predecessor: ListenerProcess | None = None,
    ) -> None:
        """
        Let the listener start.

        @param ports: the ports, which stay the caller's.
        @param channel: the socket of the channel's path, which stays the caller's.
        @param predecessor: the listener that it takes over from.
        @raise OSError: if that one cannot be told.  Then nothing was sent.
        """
        if predecessor is not None:
            self._sent.append(predecessor.introduce())
        self.link.sendStart(settings, ports, channel, self._sent)

    def introduce(self) -> socket.socket:
        """
        Give the listener a connection to its successor.

        @return: the other end, which is the caller's.
        @raise OSError: if that is impossible.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._successors.setblocking(False)
                _kernel.send(self._successors, b"\n", [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return ours

    def _isReady(self, accepts: Callable[[ListenerProcess], None]) -> None:
        self._dropSent()
        accepts(self)

    def _dropSent(self) -> None:
        """
        The process has what it was sent, or never gets it.
        """
        sent, self._sent = self._sent, []
        for each in sent:
            each.close()

    def close(self) -> None:
        """
        Close the link and the other connections.  The process stops then.
        """
        self.link.close()
        self._successors.close()
        self._dropSent()
