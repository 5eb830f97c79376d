"""
How the service of a command starts and stops, whatever the command does.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from portlisten._process import exits, signals, systemd_notify
from portlisten.errors import CannotBind, PathError, ToldToStop


class CommandService(Service):
    """
    Binds with the privileges that the process starts with, and serves with those that
    it has later.  If it cannot, it ends the process with one line.

    @param command: whose service it is.
    """

    def __init__(self, reactor: Any, command: exits.Command) -> None:
        self._reactor = reactor
        self._command = command
        self._ready = False

    # What a command does

    def bind(self) -> None:
        """
        Bind what is needed.

        @raise CannotBind: if that is impossible.  Nothing stays bound then.
        @raise PathError: likewise, because of the path.
        @raise OSError: likewise.
        @raise ToldToStop: if the process is to end instead.
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
        Log how it does.
        """
        raise NotImplementedError

    def finish(self) -> Deferred[None]:
        """
        Stop serving, in good order.

        @return: fires when that is done.
        """
        raise NotImplementedError

    def release(self) -> None:
        """
        Close what is bound, if it does not serve.
        """

    # What Twisted calls

    def privilegedStartService(self) -> None:
        """
        See L{bind}.

        @raise StartFailure: if it fails.  Nothing is left behind then.
        """
        super().privilegedStartService()
        exits.checkUser(self._command)
        try:
            self.bind()
        except ToldToStop as error:
            exits.failToStart(self._command, str(error), 0)
        except (CannotBind, PathError, OSError) as error:
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
        exits.warnOfRoot(self._command.name)
        with ExitStack() as undo:
            undo.callback(self._undoStart)
            try:
                self.serve()
            except OSError as error:
                exits.failToStart(self._command, f"cannot start: {error}")
            undo.pop_all()
        signals.onReportSignal(self._reactor, self.report)

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
