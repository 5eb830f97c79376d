"""
How the service of a command starts and stops.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from portlisten._log.writer import startAll
from portlisten._process import exits, logs, signals, systemd_notify
from portlisten.errors import CannotBind, CannotTakeOver, PathError, ToldToStop


class CommandService(Service):
    """
    Binds, then lets C{twistd} drop privileges if it is told to, and then serves.  If
    that fails, the process ends with one line.

    @param command: the command of this service.
    """

    def __init__(self, reactor: Any, command: exits.Command) -> None:
        self._reactor = reactor
        self._command = command
        self._ready = False

    # Subclasses implement these

    def bind(self) -> None:
        """
        Bind the sockets of the command.

        @raise CannotBind: if that is impossible.  Nothing stays bound then.
        @raise PathError: likewise, because of the path.
        @raise OSError: likewise.
        @raise ToldToStop: if the process must end instead.
        """
        raise NotImplementedError

    def serve(self) -> None:
        """
        Begin to serve.

        @raise OSError: if that is impossible.
        """
        raise NotImplementedError

    def report(self) -> None:
        """
        Log the state of the service.
        """
        raise NotImplementedError

    def finish(self) -> Deferred[None]:
        """
        Stop serving, in good order.

        @return: fires when this is done.
        """
        raise NotImplementedError

    def release(self) -> None:
        """
        If the service does not serve, close what is bound.
        """

    # Twisted calls these

    def setServiceParent(self, parent: Any) -> None:
        """
        See L{IService}.  C{twistd} calls this before it begins to log.

        @raise SystemExit: if the log file cannot be opened.
        """
        command = self._command
        try:
            logs.install(self._reactor, command.twistd, command.logFormat, parent)
        except OSError as error:
            raise SystemExit(
                f"{command.name}: the log cannot be written to {error.filename}:"
                f" {error.strerror}"
            ) from None
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """
        See L{bind}.

        @raise StartFailure: if it fails.  Nothing is left behind then.
        """
        super().privilegedStartService()
        # By now, C{twistd} has become a daemon if it was to, and the log begins: the
        # process may wait for long before its reactor runs.
        startAll()
        exits.checkUser(self._command)
        try:
            self.bind()
        except ToldToStop as error:
            exits.failToStart(self._command, str(error), 0)
        except (CannotBind, CannotTakeOver, PathError, OSError) as error:
            exits.failToStart(self._command, str(error))
        self._ready = True

    def startService(self) -> None:
        """
        See L{serve}.

        @raise StartFailure: if it fails.  Nothing is left behind then.
        """
        if not self._ready:
            # `twist` starts services without their privileged part.
            self.privilegedStartService()
        super().startService()
        if self._command.warnsOfRoot:
            exits.warnOfRoot(self._command.name)
        # Before the service says that it is ready.
        signals.onReportSignal(self._reactor, self.report)
        with ExitStack() as undo:
            undo.callback(self._undoStart)
            try:
                self.serve()
            except ToldToStop as error:
                exits.failToStart(self._command, str(error), 0)
            except CannotTakeOver as error:
                exits.failToStart(self._command, str(error))
            except OSError as error:
                exits.failToStart(self._command, f"cannot start: {error}")
            undo.pop_all()

    def _undoStart(self) -> None:
        super().stopService()
        self.release()

    def stopService(self) -> Deferred[None]:
        """
        See L{finish}.
        """
        running = self.running
        super().stopService()
        if not running:
            self.release()
            return succeed(None)
        systemd_notify.manager().stopping()
        return self.finish()
