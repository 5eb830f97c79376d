"""
What a listener has from the process before it: the listener that it replaces, or the
process whose sockets the service manager kept.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from twisted.logger import Logger

from portlisten._channel import paths
from portlisten._config.ports import PortSettings
from portlisten._config.settings import ListenerSettings
from portlisten._control.place import controlPath
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Takeover, Transfer
from portlisten._listener import predecessor
from portlisten._ports.binding import BoundPort, addressOf, takeFitting
from portlisten._ports.kept import KeptSockets
from portlisten._ports.stored import stored
from portlisten._process import descriptor_store
from portlisten._process.pid_file import PidFile
from portlisten.errors import PathError

log = Logger()


class Heritage:
    """
    The sockets that are bound already, and the paths that may be another process's.

    @param ports: the ports that the listener wants.
    @param user: the user that the listener becomes; L{None} if it becomes no other.
    @param pidFile: the pid file, if the process may take over from another one.

    @ivar kept: the sockets that nothing has taken yet.
    @ivar isGuest: whether the paths are another process's: the predecessor's before
        L{settle}, or the successor's after L{disown}.
    @ivar dropped: whether sockets were closed that the service manager had kept.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        ports: Sequence[PortSettings] = (),
        user: int | None = None,
        pidFile: PidFile | None = None,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._user = user
        self._pidFile = pidFile
        self._takeover: Takeover | None = None
        self._paths: list[paths.BoundPath] = []
        self.kept = KeptSockets()
        self.isGuest = False
        self.dropped = False
        self._received = False

    def enter(self) -> bool:
        """
        Get the sockets.

        @return: whether the path that workers connect to is among them: no other
            listener has it then, or this one takes over from it.
        @raise CannotTakeOver: if the listener that lives there cannot be replaced.
        """
        path = self._settings.path
        self.receive()
        if self.kept.hasPath(path):
            return True
        return self._settings.replace and self._beginTakeover(path)

    def receive(self) -> None:
        """
        Get the sockets that the descriptor store has kept for this process.  Those that
        it needs no more leave the store and are closed, before others are bound: they
        may be in the way.  May be called again.
        """
        if self._received:
            return
        self._received = True
        kept = KeptSockets(descriptor_store.received())
        wanted = [sock for each in self._ports for sock in takeFitting(each, kept)]
        found = [kept.takePath(each) for each in self._ownPaths()]
        wanted += [sock for sock in found if sock is not None]
        for each in kept.left:
            log.info(
                "the socket {address} is closed: it was kept while this listener was"
                " restarted, and no port needs it",
                event="port-closed",
                address=str(addressOf(each)),
            )
            # The service manager closes its own later, and a worker may have one.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.dropped = bool(kept.left)
        descriptor_store.drop(kept.left)
        kept.close()
        self.kept = KeptSockets(wanted)

    def _ownPaths(self) -> Sequence[str]:
        """
        The paths of the channels and of the control socket.
        """
        settings = self._settings
        if settings.wire != "stream":
            return ()
        control = controlPath(settings.path, settings.control)
        return (settings.path, control) if control else (settings.path,)

    def _beginTakeover(self, path: str) -> bool:
        takeover = predecessor.connect(
            path, self._settings.control, {0, os.geteuid(), self._user or 0}
        )
        if takeover is None or not takeover.ask():
            log.info(
                "no listener lives at {path}, so there is none to take over from",
                event="handover-unneeded",
                path=path,
            )
            return False
        self._takeover = takeover
        self.isGuest = True
        self.kept.close()
        self.kept = KeptSockets(
            sock
            for role in ("port", "channel", "control")
            for sock in takeover.take(role)
        )
        return True

    # While the listener binds

    def ownPort(self, port: BoundPort) -> BoundPort:
        """
        Let a port leave its path to another process that has it, and put its sockets
        into the descriptor store, if there is one.
        """
        return stored(replace(port, cleanUp=partial(self._cleanUp, port)))

    def _cleanUp(self, port: BoundPort) -> None:
        if self.isGuest:
            port.giveBack()
        else:
            port.cleanUp()

    def takePath(
        self, path: str, mode: int, backlog: int, user: int = -1, group: int = -1
    ) -> paths.BoundPath | None:
        """
        Take a path that another process has bound.

        @return: the path, which is the caller's; L{None} if no socket of it came.
        @raise PathError: if that is impossible.
        """
        sock = self.kept.takePath(path)
        if sock is None:
            return None
        try:
            bound = paths.BoundPath(path, sock, owned=not self.isGuest)
            bound.setMode(mode, user, group)
            # From now on, SO_PEERCRED shows this process to those that connect.
            sock.listen(backlog)
        except OSError as error:
            sock.close()
            raise PathError(f"cannot take {path} over: {error.strerror}") from error
        return bound

    def keepPath(self, bound: paths.BoundPath) -> bool:
        """
        Note a path of this listener's.  If there is a descriptor store, its socket goes
        there, and the path stays when this process ends: those that connect wait for
        the next one.

        @return: whether the socket is stored.
        """
        isStored = descriptor_store.keep([bound.socket])
        if isStored:
            bound.owned = False
        else:
            self._paths.append(bound)
        return isStored

    def openPidFile(self) -> None:
        """
        Open the pid file, if the process may have another one's.

        @raise OSError: if that is impossible.
        """
        if self._pidFile is not None:
            self._pidFile.open(self._takeover is not None)

    # When it serves

    def takeOver(self, ports: Sequence[BoundPort]) -> tuple[Commit, Transfer] | None:
        """
        See L{portlisten._listener.interfaces.ISockets}.
        """
        takeover, self._takeover = self._takeover, None
        if takeover is None:
            return None
        # What no port has taken stays with the other listener, which drains it.
        self.kept.close()
        return predecessor.takeOver(takeover, ports)

    def settle(self) -> None:
        """
        This listener serves: the paths belong to it from now on.
        """
        self.isGuest = False
        if self._pidFile is not None:
            self._pidFile.write()
        self._setOwned(True)

    def disown(self) -> None:
        """
        The next listener serves: the paths belong to it from now on.
        """
        self.isGuest = True
        self._setOwned(False)

    def _setOwned(self, owned: bool) -> None:
        for each in self._paths:
            each.owned = owned

    def close(self) -> None:
        """
        Close what was not taken.  May be called again.
        """
        takeover, self._takeover = self._takeover, None
        if takeover is not None:
            takeover.close()
        self.kept.close()
        if self._pidFile is not None:
            self._pidFile.close()
