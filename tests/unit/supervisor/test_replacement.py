"""
Tests for L{portlisten._supervisor.replacement} and L{portlisten._supervisor.limits}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.convert import ControlError
from portlisten._control.status import Progress, State
from portlisten._supervisor.limits import Limits
from portlisten._supervisor.operations import REMEMBERED
from tests.support.supervisor_scene import Scene


class ReplacementTests(SynchronousTestCase):
    """
    Tests for L{portlisten._supervisor.replacement.Replacements}.
    """

    def scene(self, count: int = 2, **settings: Any) -> Scene:
        """
        A group whose workers are ready.
        """
        scene = Scene(count=count, **settings)
        scene.startReady()
        return scene

    def restart(self, scene: Scene) -> str:
        """
        Begin a restart.
        """
        return scene.replacements.restart(scene.groups).id

    def steps(self, progress: Progress) -> list[tuple[str, str, str]]:
        """
        The steps in short.
        """
        return [(each.old, each.new, each.state.value) for each in progress.steps]

    def test_order(self) -> None:
        """
        The new one comes first; when it is ready, the old one is drained; when it is
        drained, it is stopped; and when it has ended, the next one is replaced.
        """
        scene = self.scene()
        id = self.restart(scene)
        self.assertEqual(scene.replacements.running, "restart of web")
        self.assertEqual(
            self.steps(scene.replacements.progress(id)),
            [("web-1", "web-3", "starting"), ("web-2", "", "waiting")],
        )
        self.assertEqual(scene.drained, [])
        scene.join("web-3")
        scene.change("web-1", connections=5, state=State.DRAINING)
        scene.pass_(2)
        self.assertEqual(set(scene.drained), {"web-1"})
        (first, _) = scene.replacements.progress(id).steps
        self.assertEqual((first.state.value, first.left), ("draining", 5))
        self.assertIsNone(scene.process("web-1").stopSeconds)
        scene.change("web-1", connections=0, state=State.DRAINED)
        scene.pass_(0.3)
        self.assertEqual(scene.process("web-1").stopSeconds, 15)
        self.assertEqual(len(scene.processes), 3)
        scene.leave("web-1")
        scene.process("web-1").end(0)
        self.assertEqual(
            self.steps(scene.replacements.progress(id)),
            [("web-1", "web-3", "done"), ("web-2", "web-1", "starting")],
        )
        scene.join("web-1")
        scene.change("web-2", state=State.DRAINED)
        scene.pass_(2)
        scene.process("web-2").end(0)
        progress = scene.replacements.progress(id)
        self.assertTrue(progress.done)
        self.assertEqual(progress.error, "")
        self.assertEqual(scene.states(), [("web-1", "ready"), ("web-3", "ready")])
        self.assertEqual(scene.replacements.running, "")
        self.assertEqual(scene.group.describe().restarts, 0)

    def test_notReady(self) -> None:
        """
        A new one that does not get ready stops the restart.  It is ended, and the old
        ones are left alone.
        """
        scene = self.scene(ready=5)
        id = self.restart(scene)
        scene.pass_(5.5)
        self.assertEqual(scene.process("web-3").stopSeconds, 15)
        scene.process("web-3").end(0, "line 1", "line 2")
        progress = scene.replacements.progress(id)
        self.assertTrue(progress.done)
        self.assertEqual(
            progress.error,
            "web-3 is not ready: it did not join the listener within 5 s",
        )
        self.assertEqual(progress.log, ("line 1", "line 2"))
        self.assertEqual(scene.states(), [("web-1", "ready"), ("web-2", "ready")])
        self.assertEqual(scene.drained, [])
        scene.pass_(100)
        self.assertEqual(len(scene.processes), 3)

    def test_dies(self) -> None:
        """
        Likewise if the new one ends, or cannot be started.
        """
        scene = self.scene()
        id = self.restart(scene)
        scene.process("web-3").end(1, "Traceback")
        progress = scene.replacements.progress(id)
        self.assertIn("web-3 is not ready: it exited with 1", progress.error)
        self.assertEqual(progress.log, ("Traceback",))
        scene.failure = "no such program"
        id = self.restart(scene)
        progress = scene.replacements.progress(id)
        self.assertIn("web-3 is not ready: no such program", progress.error)
        self.assertEqual(scene.states(), [("web-1", "ready"), ("web-2", "ready")])

    def test_grace(self) -> None:
        """
        The grace bounds the drain.
        """
        scene = self.scene(count=1, grace=4)
        self.restart(scene)
        scene.join("web-2")
        scene.change("web-1", connections=5, state=State.DRAINING)
        scene.pass_(1.5)
        scene.pass_(3.5)
        self.assertIsNone(scene.process("web-1").stopSeconds)
        scene.pass_(0.7)
        self.assertEqual(scene.process("web-1").stopSeconds, 15)

    def test_left(self) -> None:
        """
        A worker that has left its listener is not waited for.
        """
        scene = self.scene(count=1)
        self.restart(scene)
        scene.join("web-2")
        scene.pass_(1)
        scene.leave("web-1")
        scene.pass_(1)
        self.assertIsNone(scene.process("web-1").stopSeconds)
        scene.pass_(1.5)
        self.assertEqual(scene.process("web-1").stopSeconds, 15)

    def test_endsWhileDrained(self) -> None:
        """
        A worker that ends while it is drained is not started again.
        """
        scene = self.scene(count=1)
        id = self.restart(scene)
        scene.join("web-2")
        scene.change("web-1", connections=5, state=State.DRAINING)
        scene.pass_(2)
        scene.process("web-1").end(1)
        scene.pass_(1)
        self.assertTrue(scene.replacements.progress(id).done)
        self.assertEqual(scene.states(), [("web-2", "ready")])
        scene.pass_(100)
        self.assertEqual(len(scene.processes), 2)

    def test_listenerGone(self) -> None:
        """
        While the listener does not answer, a drain waits, up to the grace.
        """
        scene = self.scene(count=1, grace=4)
        self.restart(scene)
        scene.join("web-2")
        scene.change("web-1", connections=5, state=State.DRAINING)
        scene.pass_(1.5)
        scene.answers = False
        scene.pass_(2)
        self.assertIsNone(scene.process("web-1").stopSeconds)
        scene.pass_(3)
        self.assertEqual(scene.process("web-1").stopSeconds, 15)

    def test_unknown(self) -> None:
        """
        A program that cannot say what is left gets the whole grace, and that is said.
        """
        scene = self.scene(count=1, grace=4)
        id = self.restart(scene)
        scene.join("web-2")
        scene.change("web-1", state=State.UNKNOWN)
        scene.pass_(3)
        (step,) = scene.replacements.progress(id).steps
        self.assertEqual(step.detail, "it cannot say what is left, so this takes 4 s")
        self.assertIsNone(step.left)
        scene.pass_(3)
        self.assertEqual(scene.process("web-1").stopSeconds, 15)

    def test_givenUp(self) -> None:
        """
        A worker that was given up is replaced as well.
        """
        scene = self.scene(count=1, failures=1)
        scene.process("web-1").end(1)
        self.assertTrue(scene.group.givenUp)
        id = self.restart(scene)
        scene.join("web-2")
        scene.pass_(2)
        self.assertTrue(scene.replacements.progress(id).done)
        self.assertEqual(scene.states(), [("web-2", "ready")])
        self.assertFalse(scene.group.givenUp)

    def test_twice(self) -> None:
        """
        One restart runs at a time.
        """
        scene = self.scene(count=1)
        self.restart(scene)
        error = self.assertRaises(ControlError, self.restart, scene)
        self.assertEqual(
            str(error), "a restart of web is not done yet: wait until it is"
        )

    def test_afterReplacement(self) -> None:
        """
        A restart waits for the replacement of a worker that is beyond a limit.  It
        replaces all workers that were started before it and still run.
        """
        scene = self.scene(count=2)
        worker = scene.group.workers[0]
        scene.replacements.replace(scene.group, worker, "it is too old")
        id = self.restart(scene)
        old = [each.old for each in scene.replacements.progress(id).steps]
        self.assertEqual(old, ["web-1", "web-2", "web-3"])
        scene.join("web-3")
        scene.change("web-1", state=State.DRAINED)
        scene.pass_(2)
        self.assertEqual(scene.replacements.running, "replacement of web-1")
        scene.process("web-1").end(0)
        self.assertEqual(
            self.steps(scene.replacements.progress(id)),
            [
                ("web-1", "", "done"),
                ("web-2", "web-1", "starting"),
                ("web-3", "", "waiting"),
            ],
        )

    def test_remembered(self) -> None:
        """
        An operation that is not done is never forgotten, however many wait behind it.
        """
        scene = self.scene(count=1)
        id = self.restart(scene)
        worker = scene.group.workers[0]
        for _ in range(3 * REMEMBERED):
            scene.replacements.replace(scene.group, worker, "it is too old")
        self.assertFalse(scene.replacements.progress(id).done)
        scene.join("web-2")
        scene.change("web-1", state=State.DRAINED)
        scene.pass_(2)
        scene.process("web-1").end(0)
        self.assertEqual(scene.replacements.running, "")
        self.assertTrue(scene.replacements.progress(id).done)
        self.restart(scene)
        self.assertRaises(ControlError, scene.replacements.progress, id)

    def test_waits(self) -> None:
        """
        A worker that waits to be started again is replaced, and not started any more.
        """
        scene = self.scene(count=1)
        for pause in (0.25, 0.5, 1, 2):
            scene.process("web-1").end(1)
            self.assertEqual(scene.states(), [("web-1", "waiting")])
            if pause < 2:
                scene.pass_(pause + 0.1)
        self.restart(scene)
        scene.join("web-2")
        scene.pass_(1.5)
        self.assertEqual(scene.states(), [("web-2", "ready")])
        scene.pass_(10)
        self.assertEqual(len(scene.processes), 5)

    def test_unknownOperation(self) -> None:
        """
        Operations are remembered, and others are not known.
        """
        scene = self.scene(count=1)
        self.assertRaises(ControlError, scene.replacements.progress, "7")

    def test_stop(self) -> None:
        """
        If the supervisor stops meanwhile, nothing more is started.
        """
        scene = self.scene(count=2)
        id = self.restart(scene)
        scene.replacements.stop()
        stopped = scene.group.stop()
        for each in scene.processes:
            each.end(0)
        self.successResultOf(stopped)
        scene.pass_(5)
        progress = scene.replacements.progress(id)
        self.assertTrue(progress.done)
        self.assertEqual(
            progress.error, "the supervisor stops before the restart of web is done"
        )
        self.assertEqual(len(scene.processes), 3)


class LimitsTests(SynchronousTestCase):
    """
    Tests for L{Limits}.
    """

    def start(self, **settings: Any) -> Scene:
        """
        A group with limits, whose workers are ready.
        """
        scene = Scene(**settings)
        scene.startReady()
        limits = Limits(
            scene.clock,
            scene.groups,
            scene.replacements.replace,
            lambda low, high: high,
        )
        limits.start()
        self.addCleanup(limits.stop)
        return scene

    def test_memory(self) -> None:
        """
        A worker that has too much memory is replaced, and one that has as much as is
        allowed is not.
        """
        scene = self.start(maxMemory=2000000)
        scene.processes[0].size = 2000000
        scene.pass_(12)
        self.assertEqual(len(scene.processes), 1)
        scene.processes[0].size = 2000001
        scene.pass_(5)
        self.assertEqual([each.label for each in scene.processes], ["web-1", "web-2"])
        scene.join("web-2")
        scene.change("web-1", state=State.DRAINED)
        scene.pass_(2)
        scene.process("web-1").end(0)
        scene.pass_(20)
        self.assertEqual(scene.states(), [("web-2", "ready")])
        self.assertEqual(len(scene.processes), 2)

    def test_age(self) -> None:
        """
        So is one that is too old.  The age is jittered.
        """
        scene = self.start(maxAge=100)
        scene.pass_(108)
        self.assertEqual(len(scene.processes), 1)
        scene.pass_(8)
        self.assertEqual(len(scene.processes), 2)

    def test_oneByOne(self) -> None:
        """
        Workers are replaced one after the other.
        """
        scene = self.start(count=3, maxMemory=2**20)
        scene.pass_(30)
        self.assertEqual(len(scene.processes), 4)

    def test_fails(self) -> None:
        """
        If the new one does not get ready, the next try is later.
        """
        scene = self.start(maxMemory=2**20)
        scene.pass_(6)
        scene.process("web-2").end(1)
        scene.pass_(50)
        self.assertEqual(len(scene.processes), 2)
        scene.pass_(20)
        self.assertEqual(len(scene.processes), 3)

    def test_none(self) -> None:
        """
        Without limits, nothing is looked at.
        """
        scene = self.start()
        self.assertNotIn("_check", str(scene.clock.getDelayedCalls()))
