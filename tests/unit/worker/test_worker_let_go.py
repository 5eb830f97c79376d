"""
Tests for workers that a listener lets go, since the next one has taken over.
"""

from __future__ import annotations

from portlisten._listener.retirement import LET_GO
from portlisten._wire.frames import Bye, Drain, Serving
from tests.support.channels import aMoment, eventually, texts
from tests.support.workers import RETRY, Listener
from tests.unit.worker.test_worker_leave import LeaveTestCase


class LetGoTests(LeaveTestCase):
    """
    BYE asks to join again.
    """

    def letGo(self, listener: Listener, reason: str = LET_GO) -> None:
        """
        Say BYE, and close the channel.
        """
        listener.channel.say(Bye(reason))
        listener.channel.close()

    async def comesAgain(self, listener: Listener) -> None:
        """
        The worker connects without a pause.
        """
        count = len(listener.channels)

        def accepted() -> bool:
            self.clock.advance(0)
            return listener.accept()

        await eventually(accepted)
        self.assertEqual(len(listener.channels), count + 1)
        await aMoment()

    async def test_atOnce(self) -> None:
        """
        The worker joins the next listener at once, goes on with what it serves, and
        says how much that is.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        self.letGo(listener)
        await self.comesAgain(listener)
        self.assertFalse(conversation.lost)
        self.assertEqual((conversation.drained, listener.channel.heard(Drain)), (0, []))
        self.assertEqual(texts(self.logged, "warn"), [])
        self.clock.advance(RETRY)
        await eventually(lambda: listener.channel.heard(Serving))
        self.assertEqual(listener.channel.heard(Serving)[-1], Serving(1))
        await self.serve(listener)

    async def test_idle(self) -> None:
        """
        So does a worker that serves nothing.
        """
        listener = await self.join()
        self.letGo(listener)
        await self.comesAgain(listener)

    async def test_otherReason(self) -> None:
        """
        After another reason, the worker waits.
        """
        listener = await self.join()
        self.letGo(listener, "enough")
        await aMoment()
        self.clock.advance(RETRY / 2)
        await aMoment()
        self.assertFalse(listener.accept())
        self.clock.advance(RETRY / 2)
        await eventually(listener.accept)

    async def test_nobody(self) -> None:
        """
        If no listener is there, the worker waits between its tries, as ever.
        """
        listener = await self.join()
        self.letGo(listener)
        listener.close()
        await aMoment()
        self.clock.advance(0)
        await aMoment()
        new = self.listen()
        await aMoment()
        self.assertFalse(new.accept())
        self.clock.advance(RETRY)
        await eventually(new.accept)

    async def test_stops(self) -> None:
        """
        A worker that stops does not join again.
        """
        listener = await self.join()
        await self.serve(listener)
        self.worker.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        self.letGo(listener)
        await aMoment()
        self.clock.advance(RETRY)
        await aMoment()
        self.assertFalse(listener.accept())
