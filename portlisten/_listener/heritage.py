"""
What a listener has from the process before it: the listener that it replaces, or the
process whose sockets the service manager kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from twisted.logger import Logger

from portlisten._channel import paths
from portlisten._config.settings import ListenerSettings
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Takeover, Transfer
from portlisten._listener import predecessor
from portlisten._ports.binding import BoundPort
from portlisten._ports.kept import KeptSockets
from portlisten._process import descriptor_store
from portlisten._process.pid_file import PidFile
from portlisten.errors import PathError

log = Logger()


class Heritage:
    """
    The sockets that are bound already, and the paths that may be another process's.

    @param user: the user that the listener becomes; L{None} if it becomes no other.
    @param pidFile: the pid file, if the process may take over from another one.

    @ivar kept: the sockets that nothing has taken yet.
    @ivar isGuest: whether the paths are another process's: the predecessor's before
        L{settle}, or the successor's after L{disown}.
    @ivar stores: whether the service manager keeps the sockets for the next process.
        Then the paths stay as well.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        user: int | None = None,
        pidFile: PidFile | None = None,
    ) -> None:
        self._settings = settings
        self._user = user
        self._pidFile = pidFile
        self._takeover: Takeover | None = None
        self._paths: list[paths.BoundPath] = []
        self.kept = KeptSockets()
        self.isGuest = False
        self.stores = descriptor_store.isThere()

    def enter(self) -> bool:
        """
        Get the sockets.

        @return: whether the path that workers connect to is among them: no other
            listener has it then, or this one takes over from it.
        @raise CannotTakeOver: if the listener that lives there cannot be replaced.
        """
        path = self._settings.path
        self.kept = KeptSockets(descriptor_store.received())
        if self.kept.hasPath(path):
            return True
        return self._settings.replace and self._beginTakeover(path)

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
        own = replace(port, cleanUp=partial(self._cleanUp, port))
        if not self.stores or port.inherited:
            return own
        descriptor_store.keep(port.sockets)
        return replace(own, inherited=True, stored=True)

    def _cleanUp(self, port: BoundPort) -> None:
        if self.isGuest:
            port.giveBack()
        elif not self.stores:
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

    def keepPath(self, bound: paths.BoundPath) -> None:
        """
        Note a path of this listener's.  If there is a descriptor store, its socket goes
        there, and the path stays when this process ends: those that connect wait for
        the next one.
        """
        self._paths.append(bound)
        if self.stores:
            descriptor_store.keep([bound.socket])
            bound.owned = False

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
        try:
            return predecessor.takeOver(takeover, ports)
        except BaseException:
            takeover.close()
            raise

    def dropLeft(self) -> None:
        """
        Close the sockets that nothing has taken, since they are not wanted any more.
        """
        descriptor_store.drop(self.kept.left)
        self.kept.close()

    def settle(self) -> None:
        """
        This listener serves: the paths belong to it from now on.
        """
        self.isGuest = False
        if self._pidFile is not None:
            self._pidFile.write()
        self._setOwned(not self.stores)

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
