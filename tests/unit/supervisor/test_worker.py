"""
Tests for L{portlisten._supervisor.worker} and L{portlisten._supervisor.group}.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.support.supervisor_scene import Scene


class ReadyTests(SynchronousTestCase):
    """
    When a worker counts as ready.
    """

    def test_ready(self) -> None:
        """
        A worker is ready when it has joined under its label and lives a second later.
        """
        scene = Scene(count=2)
        scene.group.start()
        self.assertEqual(scene.states(), [("web-1", "starting"), ("web-2", "starting")])
        scene.join("web-1")
        scene.pass_(0.9)
        self.assertEqual(scene.group.ready, 0)
        scene.pass_(0.4)
        self.assertEqual(scene.states(), [("web-1", "ready"), ("web-2", "starting")])
        self.assertEqual(scene.group.ready, 1)
        self.assertFalse(scene.group.settled)

    def test_user(self) -> None:
        """
        Another user's process with the label does not count.
        """
        scene = Scene()
        scene.group.start()
        scene.join("web-1", uid=34)
        scene.pass_(3)
        self.assertEqual(scene.states(), [("web-1", "starting")])

    def test_earlier(self) -> None:
        """
        A process that had joined under the label before the worker was started does not
        count.
        """
        scene = Scene()
        scene.join("web-1")
        scene.pass_(0.2)
        scene.group.start()
        scene.pass_(3)
        self.assertEqual(scene.states(), [("web-1", "starting")])
        scene.join("web-1")
        scene.pass_(1.5)
        self.assertEqual(scene.states(), [("web-1", "ready")])

    def test_newListener(self) -> None:
        """
        The numbers of another listener begin anew.
        """
        scene = Scene()
        for _ in range(5):
            scene.join("other")
        scene.pass_(0.2)
        scene.group.start()
        scene.view.end()
        scene.workers = []
        scene._number = 0
        scene.view.begin(scene.ask)
        scene.join("web-1")
        scene.pass_(1.5)
        self.assertEqual(scene.states(), [("web-1", "ready")])

    def test_leaves(self) -> None:
        """
        A worker that leaves within the second is not ready.
        """
        scene = Scene()
        scene.group.start()
        scene.join("web-1")
        scene.pass_(0.8)
        scene.leave("web-1")
        scene.pass_(0.2)
        scene.join("web-1")
        scene.pass_(0.8)
        self.assertEqual(scene.states(), [("web-1", "starting")])
        scene.pass_(0.5)
        self.assertEqual(scene.states(), [("web-1", "ready")])

    def test_late(self) -> None:
        """
        A worker that does not join in time is stopped, and started again.
        """
        scene = Scene(ready=5, stop=3)
        scene.group.start()
        scene.pass_(4.9)
        self.assertIsNone(scene.processes[0].stopSeconds)
        scene.pass_(0.3)
        self.assertEqual(scene.processes[0].stopSeconds, 3)
        scene.processes[0].end(0)
        self.assertEqual(scene.states(), [("web-1", "waiting")])
        (status,) = scene.group.describe().processes
        self.assertEqual(status.lastEnd, "it did not join the listener within 5 s")
        self.assertEqual(status.failures, 1)
        scene.pass_(0.4)
        self.assertEqual(len(scene.processes), 2)

    def test_noListener(self) -> None:
        """
        While no listener is ready, a worker's time does not pass.
        """
        scene = Scene(listening=False, ready=5)
        scene.group.start()
        scene.pass_(10)
        self.assertIsNone(scene.processes[0].stopSeconds)
        scene.view.begin(scene.ask)
        scene.pass_(4.5)
        self.assertIsNone(scene.processes[0].stopSeconds)
        scene.pass_(1)
        self.assertIsNotNone(scene.processes[0].stopSeconds)


class RestartTests(SynchronousTestCase):
    """
    What becomes of a worker whose process ends.
    """

    def test_again(self) -> None:
        """
        It is started again in its slot, after growing pauses, and given up at last.
        The others go on.
        """
        scene = Scene(count=2, failures=3)
        scene.startReady()
        scene.process("web-1").end(1)
        self.assertEqual(scene.states(), [("web-1", "waiting"), ("web-2", "ready")])
        scene.pass_(0.3)
        self.assertEqual(len(scene.processes), 3)
        scene.process("web-1").end(1)
        scene.pass_(0.4)
        self.assertEqual(len(scene.processes), 3)
        scene.pass_(0.2)
        self.assertEqual(len(scene.processes), 4)
        scene.process("web-1").end(1)
        scene.pass_(100)
        self.assertEqual(len(scene.processes), 4)
        self.assertEqual(scene.states(), [("web-1", "given up"), ("web-2", "ready")])
        self.assertTrue(scene.group.givenUp)
        self.assertTrue(scene.group.settled)
        self.assertEqual(scene.group.describe().restarts, 2)

    def test_replaced(self) -> None:
        """
        The restarts of a worker still count when another one has its place.  The
        replacement is no restart.
        """
        scene = Scene(failures=2)
        scene.startReady()
        scene.process("web-1").end(1)
        scene.pass_(0.3)
        scene.process("web-1").end(1)
        self.assertEqual(scene.states(), [("web-1", "given up")])
        scene.replacements.restart(scene.groups)
        scene.join("web-2")
        scene.pass_(2)
        self.assertEqual(scene.states(), [("web-2", "ready")])
        self.assertEqual(scene.group.describe().restarts, 1)

    def test_cannotStart(self) -> None:
        """
        A program that cannot be started is tried again as well.
        """
        scene = Scene(failures=2)
        scene.failure = "no such program"
        scene.group.start()
        self.assertEqual(scene.states(), [("web-1", "waiting")])
        scene.pass_(0.3)
        self.assertEqual(scene.states(), [("web-1", "given up")])
        (status,) = scene.group.describe().processes
        self.assertEqual(status.lastEnd, "no such program")

    def test_clean(self) -> None:
        """
        A worker that was ready and exits with 0 is started again at once, as often as
        it likes.
        """
        scene = Scene(failures=1)
        scene.startReady()
        for _ in range(5):
            scene.leave("web-1")
            scene.process("web-1").end(0)
            scene.pass_(0.2)
            scene.join("web-1")
            scene.pass_(1.5)
            self.assertEqual(scene.states(), [("web-1", "ready")])
        self.assertEqual(scene.group.describe().restarts, 5)


class StopTests(SynchronousTestCase):
    """
    How workers are stopped.
    """

    def test_stop(self) -> None:
        """
        All are told at once, and the stop is done when all have ended.
        """
        scene = Scene(count=2, stop=7)
        scene.startReady()
        stopped = scene.group.stop()
        self.assertEqual([each.stopSeconds for each in scene.processes], [7, 7])
        scene.processes[0].end(0)
        self.assertNoResult(stopped)
        again = scene.group.stop()
        scene.processes[1].end(0)
        self.successResultOf(stopped)
        self.successResultOf(again)
        scene.pass_(100)
        self.assertEqual(len(scene.processes), 2)

    def test_waiting(self) -> None:
        """
        One that waits to be started again is not started.
        """
        scene = Scene()
        scene.startReady()
        scene.processes[0].end(1)
        self.successResultOf(scene.group.stop())
        scene.pass_(100)
        self.assertEqual(len(scene.processes), 1)
