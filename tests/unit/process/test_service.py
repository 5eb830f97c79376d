"""
Tests for L{portlisten._process.service}.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten._process import exits, signals
from portlisten._process.exits import Command
from portlisten._process.service import CommandService
from portlisten.errors import CannotBind, PathError, StartFailure, ToldToStop


class ToolService(CommandService):
    """
    Notes its calls.

    @ivar errors: what each of its methods raises.
    """

    def __init__(self) -> None:
        super().__init__(None, Command("tool", {"nodaemon": 1}))
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.errors:
            raise self.errors[call]

    def bind(self) -> None:
        self._note("bind")

    def serve(self) -> None:
        self._note("serve")

    def report(self) -> None:
        self._note("report")

    def finish(self) -> Deferred[None]:
        self._note("finish")
        return succeed(None)

    def release(self) -> None:
        self._note("release")


class CommandServiceTests(SynchronousTestCase):
    """
    Tests for L{CommandService}.
    """

    def setUp(self) -> None:
        """
        Make a service, and keep its effects on the process.
        """
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        self.output = io.StringIO()
        self.patch(sys, "__stderr__", self.output)
        self.patch(os, "getresuid", lambda: (1, 1, 1))
        self.service = ToolService()

    def test_interface(self) -> None:
        """
        It is a service.
        """
        verifyObject(IService, self.service)

    def test_order(self) -> None:
        """
        It binds, serves and finishes in this order, each once.
        """
        self.service.privilegedStartService()
        self.assertEqual(self.service.calls, ["bind"])
        self.service.startService()
        self.assertTrue(self.service.running)
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.service.calls, ["bind", "serve", "finish"])
        self.assertFalse(self.service.running)

    def test_withoutPrivilegedPart(self) -> None:
        """
        If the privileged part was not called, the service binds all the same.
        """
        self.service.startService()
        self.assertEqual(self.service.calls, ["bind", "serve"])

    def test_cannotBind(self) -> None:
        """
        If the service cannot bind, it fails with one line.  If it is told to stop, that
        is no failure.
        """
        for error, code in [
            (CannotBind("no room"), 1),
            (PathError("no room"), 1),
            (OSError("no room"), 1),
            (ToldToStop("no room"), 0),
        ]:
            self.output.truncate(0)
            self.output.seek(0)
            self.service.errors["bind"] = error
            failure = self.assertRaises(StartFailure, self.service.startService)
            self.assertEqual(failure.code, code)
            self.assertEqual(self.output.getvalue(), "tool: no room\n")
            self.assertFalse(self.service.running)

    def test_bug(self) -> None:
        """
        Any other error is a bug, and is passed on.
        """
        self.service.errors["bind"] = ZeroDivisionError()
        self.assertRaises(ZeroDivisionError, self.service.privilegedStartService)
        self.assertEqual(self.output.getvalue(), "")

    def test_cannotServe(self) -> None:
        """
        If the service cannot serve, it fails with one line, and the bound sockets are
        released.
        """
        self.service.errors["serve"] = OSError("no room")
        failure = self.assertRaises(StartFailure, self.service.startService)
        self.assertEqual(str(failure), "cannot start: no room")
        self.assertEqual(self.service.calls, ["bind", "serve", "release"])
        self.assertFalse(self.service.running)

    def test_neverStarted(self) -> None:
        """
        To stop the service before it serves releases the bound sockets.
        """
        self.service.privilegedStartService()
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.service.calls, ["bind", "release"])

    def test_root(self) -> None:
        """
        It warns of root, with the command's name.
        """
        warned: list[str] = []
        self.patch(exits, "warnOfRoot", warned.append)
        self.service.startService()
        self.assertEqual(warned, ["tool"])

    def test_report(self) -> None:
        """
        A signal makes it report, once it serves.
        """
        reports: list[Any] = []
        self.patch(
            signals, "onReportSignal", lambda reactor, report: reports.append(report)
        )
        self.service.privilegedStartService()
        self.assertEqual(reports, [])
        self.service.startService()
        self.assertEqual(reports, [self.service.report])

    def test_reportBeforeServing(self) -> None:
        """
        The signal is handled before the service says that it serves: a report that is
        requested at that moment is made.
        """
        self.patch(
            signals, "onReportSignal", lambda reactor, report: self.service._note("set")
        )
        self.service.startService()
        self.assertEqual(self.service.calls, ["bind", "set", "serve"])
