"""
Tests for how a supervisor replaces its listener when an operator asks for it:
L{portlisten._supervisor.reload} and L{portlisten._supervisor.service}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    ProgressAnswer,
    Replace,
    Restart,
    Upgrade,
    Watch,
)
from portlisten._control.status import StepState
from portlisten._supervisor.worker import NotReady
from tests.unit.supervisor.test_reload import ReloadTestCase
from tests.unit.supervisor.test_service import CLIENT
from tests.unit.supervisor.test_service import ServiceTests as _ServiceTests


class ReplacingListener:
    """
    A listener that notes how it is replaced.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []
        self.done: Deferred[None] = Deferred()

    def replace(self, settings: Any, ports: Any) -> Deferred[None]:
        """
        See L{SupervisedListener.replace}.
        """
        self.calls.append((settings, list(ports)))
        return self.done


class UpgradeTests(ReloadTestCase):
    """
    Tests for L{Reloads.upgrade}.
    """

    def setUp(self) -> None:
        """
        Start a group and a listener.
        """
        super().setUp()
        self.replaced = ReplacingListener()
        self.running.listener = self.replaced  # type: ignore[assignment]

    def test_upgrade(self) -> None:
        """
        The listener is replaced by one with the same settings and ports, and nothing
        else changes.
        """
        before = self.running.settings, list(self.running.ports)
        id = self.reloads.upgrade().id
        self.assertEqual(self.replaced.calls, [before])
        (step,) = self.progress(id).steps
        self.assertEqual((step.new, step.state), ("listener", StepState.STARTING))
        self.replaced.done.callback(None)
        progress = self.progress(id)
        self.assertEqual((progress.done, progress.error), (True, ""))
        self.assertEqual(progress.steps[0].state, StepState.DONE)
        self.assertEqual((self.running.settings, self.running.ports), before)

    def test_fails(self) -> None:
        """
        If the new one does not take over, the operator hears why.
        """
        id = self.reloads.upgrade().id
        self.replaced.done.errback(NotReady("listener", "it exited with 1", ("line",)))
        progress = self.progress(id)
        self.assertEqual(
            (progress.done, progress.error),
            (
                True,
                "the new listener does not get ready: it exited with 1; the old one"
                " goes on, and nothing has changed",
            ),
        )
        self.assertEqual(progress.log, ("line",))
        self.assertEqual(progress.steps[0].state, StepState.FAILED)

    def test_busy(self) -> None:
        """
        One operation at a time.
        """
        self.reloads.upgrade()
        self.assertRaises(ControlError, self.reloads.upgrade)
        self.replaced.done.callback(None)
        self.replaced.done = succeed(None)
        self.assertTrue(self.progress(self.reloads.upgrade().id).done)


class ServiceTests(_ServiceTests):
    """
    The requests of operators.
    """

    def ask(self, request: Any, client: Any = CLIENT) -> Any:
        """
        Ask the service.
        """
        return self.sockets.handlers[type(request)](request, client)

    def replacing(self, result: Deferred[None]) -> None:
        """
        Let the listener be replaced with this result.
        """
        vars(self.listener)["replace"] = lambda *_: result

    def test_upgrade(self) -> None:
        """
        The answer comes at once, and the progress may be watched.
        """
        done: Deferred[None] = Deferred()
        self.replacing(done)
        answer = self.ask(Upgrade())
        self.assertIsInstance(answer, ProgressAnswer)
        self.assertIs(answer.progress.done, False)
        done.callback(None)
        watched = self.ask(Watch((answer.progress.id,)))
        self.assertIs(watched.progress.done, True)

    def test_upgradeFails(self) -> None:
        """
        So it is if that fails.
        """
        self.replacing(fail(NotReady("listener", "why")))
        answer = self.ask(Upgrade())
        watched = self.ask(Watch((answer.progress.id,)))
        self.assertIn("why", watched.progress.error)

    def test_stranger(self) -> None:
        """
        Only root, and the user of the supervisor, may ask for it.
        """
        stranger = _kernel.Credentials(1, CLIENT.uid + 4711, 0)
        self.assertRaises(ControlError, self.ask, Upgrade(), stranger)
        self.assertRaises(ControlError, self.ask, Restart(("x",)), stranger)

    def test_replace(self) -> None:
        """
        A listener that is started with --replace hears what to do instead.
        """
        error = self.assertRaises(ControlError, self.ask, Replace(("1",)))
        self.assertEqual(
            str(error),
            "a supervisor runs this listener: 'portlisten upgrade /etc/web.toml'"
            " replaces it",
        )


del _ServiceTests
