"""
Tests for L{portlisten._supervisor.service}, without processes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._config.file import RunSettings
from portlisten._config.settings import ListenerSettings
from portlisten._config.wrong_file import WrongFile
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Request, Status, StatusAnswer
from portlisten._control.status import ProcessState, ProcessStatus
from portlisten._model import Kind
from portlisten._ports.binding import boundElsewhere
from portlisten._process import exits, signals
from portlisten._supervisor import service
from portlisten._supervisor.service import LISTENER_SECONDS, SupervisorService
from tests.support.statuses import LISTENER

CLIENT = _kernel.Credentials(1, os.getuid(), os.getgid())


class FakeSockets:
    """
    Sockets that nobody can connect to.
    """

    def __init__(self) -> None:
        self.handlers: dict[type[Request], Callable[..., Any]] = {}
        self.calls: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX)

    def waitForPredecessor(self) -> float:
        """
        See L{ISockets}.
        """
        return 0.0

    def bindPorts(self, end: float) -> list[Any]:
        """
        See L{ISockets}.
        """
        return []

    def bindChannel(self) -> Any:
        """
        See L{ISockets}.
        """
        return self

    def bindControl(self) -> None:
        """
        See L{ISockets}.
        """

    def startControl(self, reactor: Any, handlers: Any) -> Any:
        """
        See L{ISockets}.
        """
        self.handlers = handlers
        return self

    def close(self) -> None:
        """
        Note that the control socket is closed.
        """
        self.calls.append("close")

    def remove(self) -> bool:
        """
        Note that the channel's path is removed.
        """
        self.calls.append("remove")
        return True

    def release(self) -> None:
        """
        Note it.
        """
        self.calls.append("release")


class FakeListener:
    """
    A listener that answers as the test wants.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Any,
        view: Any,
        ports: Any,
        channel: Any,
        givenUp: Callable[[str], None],
    ) -> None:
        self.view = view
        self.givenUp = givenUp
        self.answer: Answer | ControlError | None = None
        self.restarts = 3
        self.asked: list[Deferred[Answer]] = []

    def start(self) -> None:
        """
        Be ready.
        """
        self.view.begin(self.ask)

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Give the answer, or none.
        """
        if isinstance(self.answer, ControlError):
            return fail(self.answer)
        if self.answer is not None:
            return succeed(self.answer)
        self.asked.append(Deferred())
        return self.asked[-1]

    def stop(self) -> Deferred[None]:
        """
        End at once.
        """
        return succeed(None)

    def describe(self) -> ProcessStatus:
        """
        See L{portlisten._children.restarted.RestartedProcess.describe}.
        """
        return ProcessStatus("listener", 7, ProcessState.READY, 1.0, 1.0, 1, 0, 0.0, "")


class FakeGroup:
    """
    A group of workers that take their time to end.
    """

    givenUp = False

    def __init__(self) -> None:
        self.stopped: Deferred[None] = Deferred()

    def stop(self) -> Deferred[None]:
        """
        End when L{stopped} fires.
        """
        return self.stopped


class ServiceTests(SynchronousTestCase):
    """
    Tests for L{SupervisorService}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.sockets = FakeSockets()
        self.patch(service, "SupervisedListener", FakeListener)
        self.patch(signals, "onReportSignal", lambda *_: None)
        self.patch(signals, "onReloadSignal", lambda *_: None)
        settings = RunSettings(listener=ListenerSettings(path="/run/s"))
        self.wanted: RunSettings | WrongFile = settings
        self.service = SupervisorService(
            self.clock,
            exits.Command("run", {"nodaemon": True}, warnsOfRoot=False),
            "/etc/web.toml",
            settings,
            self.sockets,  # type: ignore[arg-type]
            self.load,
        )
        self.addCleanup(self.sockets.socket.close)
        self.service.privilegedStartService()
        self.addCleanup(self.service.release)
        self.service.startService()
        self.listener: FakeListener = self.service._listener  # type: ignore[assignment]

    def load(self, path: str) -> RunSettings:
        """
        Read the file, as the test wants it.
        """
        if isinstance(self.wanted, WrongFile):
            raise self.wanted
        return self.wanted

    def status(self) -> Deferred[StatusAnswer]:
        """
        Ask for the status.
        """
        return self.sockets.handlers[Status](Status(), CLIENT)  # type: ignore[no-any-return]

    def test_descriptors(self) -> None:
        """
        Workers that connect before a listener runs can send it no descriptors, if the
        kernel can refuse them.
        """
        with socket.socket(socket.AF_UNIX) as other:
            can = _kernel.refuseDescriptors(other)
        self.assertIs(_kernel.refusesDescriptors(self.sockets.socket), can)

    def test_status(self) -> None:
        """
        The status has what the listener says, and what the supervisor knows.
        """
        said = LISTENER
        self.listener.answer = StatusAnswer(said, None, ("its own problem",))
        answer = self.successResultOf(self.status())
        self.assertEqual(answer.listener, said)
        assert answer.supervisor is not None
        self.assertEqual(answer.supervisor.file, "/etc/web.toml")
        self.assertEqual(answer.supervisor.restarts, 3)
        self.assertNotIn("its own problem", answer.problems)

    def test_silent(self) -> None:
        """
        A listener that does not answer keeps nobody waiting, and its answer may still
        come.
        """
        asked = self.status()
        self.clock.advance(LISTENER_SECONDS / 2)
        self.assertNoResult(asked)
        self.clock.advance(LISTENER_SECONDS / 2)
        answer = self.successResultOf(asked)
        self.assertIsNone(answer.listener)
        self.assertEqual(answer.problems, ("the listener (pid 7) does not answer",))
        for each in self.listener.asked:
            each.callback(StatusAnswer(LISTENER))

    def test_broken(self) -> None:
        """
        So it is if the listener cannot be asked.
        """
        self.listener.answer = ControlError("the link broke")
        answer = self.successResultOf(self.status())
        self.assertEqual(answer.problems, ("the listener (pid 7) does not answer",))

    def test_stop(self) -> None:
        """
        At the end, the paths are removed before their sockets are closed, once.
        """
        stopped = self.service.stopService()
        self.successResultOf(stopped)
        self.assertEqual(self.sockets.calls, ["remove", "close", "release"])
        self.assertEqual(self.sockets.socket.fileno(), -1)
        self.clock.advance(100)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopRefuses(self) -> None:
        """
        When the listener has ended, clients are refused, though workers still run.  A
        shared port stays open for them until they have ended.
        """
        ports = []
        for kind in (Kind.CONNECTIONS, Kind.LISTENER):
            sock = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(sock.close)
            ports.append(boundElsewhere([sock], "", kind))
        own, shared = (replace(each, inherited=False) for each in ports)
        self.service._ports = [own, shared]
        group = FakeGroup()
        self.service._groups = [group]  # type: ignore[list-item]
        stopped = self.service.stopService()
        self.assertNoResult(stopped)
        listens = _kernel.listens(own.socket), _kernel.listens(shared.socket)
        self.assertEqual(listens, (False, True))
        with shared.socket.dup() as other:
            group.stopped.callback(None)
            self.successResultOf(stopped)
            self.assertFalse(_kernel.listens(other))

    def test_givenUp(self) -> None:
        """
        If the listener is given up, the supervisor stops, and exits with 1.
        """
        stops: list[Any] = []
        codes: list[int] = []
        self.patch(signals, "stop", lambda *arguments: stops.append(arguments))
        self.patch(exits, "endWith", codes.append)
        self.listener.view.end()
        self.listener.givenUp("the listener has failed 8 times in a row")
        self.assertEqual(stops, [(self.clock, "the listener is given up")])
        self.assertEqual(codes, [])
        self.successResultOf(self.service.stopService())
        self.assertEqual(codes, [1])
