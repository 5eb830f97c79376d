"""
Tests for L{portlisten._control.pausing}.
"""

from __future__ import annotations

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.messages import Pause, PauseAnswer, Resume
from portlisten._control.pausing import Pausing
from tests.support.channels import texts

CLIENT = _kernel.Credentials(12, 7, 8)


class PausingTests(SynchronousTestCase):
    """
    Tests for L{Pausing}.
    """

    def test_pauses(self) -> None:
        """
        It is paused until it is resumed.  The log says who changed that, and nothing if
        nothing changed.
        """
        places = ["9100"]
        pausing = Pausing(lambda: places[0])
        self.assertFalse(pausing.paused)
        with capturedLogs() as logged:
            pausing.resume(Resume(), CLIENT)
            for _ in range(2):
                answer = pausing.pause(Pause(), CLIENT)
                self.assertEqual(answer, PauseAnswer(True, "9100"))
                self.assertTrue(pausing.paused)
            places[0] = ""
            for _ in range(2):
                answer = pausing.resume(Resume(), CLIENT)
                self.assertEqual(answer, PauseAnswer(False, ""))
                self.assertFalse(pausing.paused)
        self.assertEqual(
            texts(logged, "info"),
            [
                "the listener is paused: /healthz says 503, as pid 12 of uid 7 asks",
                "the listener is not paused any more, as pid 12 of uid 7 asks",
            ],
        )
