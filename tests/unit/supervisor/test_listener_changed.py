"""
Tests for L{portlisten._supervisor.listener}: other settings while no process serves,
and a pause that lasts.
"""

from __future__ import annotations

from portlisten._config.file import RunSettings
from portlisten._config.settings import ListenerSettings
from portlisten._control.messages import (
    Pause,
    PauseAnswer,
    Resume,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.start import encodeLoaded, encodeReady
from portlisten._supervisor.worker import NotReady
from tests.support.channels import eventually
from tests.unit.supervisor.test_listener import ListenerTestCase

OTHER = RunSettings(listener=ListenerSettings(path="/run/s", grace=9.0))


class ChangedTests(ListenerTestCase):
    """
    L{SupervisedListener.replace}, while no process serves.
    """

    async def test_fails(self) -> None:
        """
        If a process with the new settings fails, one with the old ones is started.
        """
        (await self.start()).end()
        done = self.listener.replace(OTHER, self.ports)
        await eventually(lambda: b'"grace": 9.0' in self.made[-1].received())
        self.made[-1].tail = ("why",)
        self.made[-1].end("exited with 1")
        error = self.failureResultOf(done, NotReady).value
        self.assertEqual((error.reason, error.log), ("it exited with 1", ("why",)))
        self.assertEqual(len(self.made), 3)
        await eventually(lambda: b'"grace": 3.0' in self.made[-1].received())

    async def test_cannotStart(self) -> None:
        """
        So it is if it cannot be started.
        """
        (await self.start()).end()
        fake = type(self.made[0])
        patch = self.patch(fake, "failure", "no such program")
        done = self.listener.replace(OTHER, self.ports)
        error = self.failureResultOf(done, NotReady).value
        self.assertEqual(error.reason, "no such program")
        patch.restore()
        self.clock.advance(30)
        await eventually(lambda: b'"grace": 3.0' in self.made[-1].received())


class PauseTests(ListenerTestCase):
    """
    Tests for L{SupervisedListener.setPaused}.
    """

    async def test_paused(self) -> None:
        """
        A listener is told, and so is the one that replaces it.
        """
        old = await self.start()
        self.listener.setPaused(True)
        self.listener.setPaused(True)
        pause = encodeRequest(Pause())
        await eventually(lambda: old.received().endswith(pause))
        self.assertEqual(old.received().count(pause), 1)
        old.link.send(encodeAnswer(PauseAnswer(True)))
        done = self.listener.replace(OTHER, self.ports)
        new = self.made[-1]
        new.link.send(encodeLoaded())
        await eventually(lambda: b'"grace": 9.0' in new.received())
        new.link.send(encodeReady(7))
        await eventually(lambda: new.received().endswith(pause))
        self.successResultOf(done)
        self.listener.setPaused(False)
        new.link.send(encodeAnswer(PauseAnswer(True)))
        resume = encodeRequest(Resume())
        await eventually(lambda: new.received().endswith(resume))
        old.end("exited with 0")

    async def test_beforeItIsReady(self) -> None:
        """
        A listener that is not ready is told when it is.
        """
        self.listener.start()
        self.listener.setPaused(True)
        await eventually(lambda: b"links" in self.made[-1].received())
        self.made[-1].link.send(encodeReady(7))
        pause = encodeRequest(Pause())
        await eventually(lambda: self.made[-1].received().endswith(pause))
