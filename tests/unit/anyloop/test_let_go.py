"""
Tests for a worker in asyncio that a listener lets go, since the next one has taken
over.
"""

from __future__ import annotations

from portlisten._listener.retirement import LET_GO
from portlisten._wire.frames import Bye, Drain
from tests.support.asyncio_loops import (
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)
from tests.unit.anyloop.test_leaving import LeavingTestCase


@onUvloopToo
class LetGoTests(LeavingTestCase):
    """
    BYE asks to join again.
    """

    def test_atOnce(self) -> None:
        """
        The worker joins the next listener at once, and goes on with what it serves.
        """

        async def test() -> None:
            _, listener = await self.serve(self.Drainable, ":retry=60")
            kept = await self.talk(listener, 1)
            listener.say(Bye(LET_GO))
            listener.socket.shutdown(1)
            again = await self.accept(self.path)
            await again.greet()
            self.assertEqual(again.heard(Drain), [])
            kept.sendall(b"hello\n")
            self.assertEqual(await hear(kept), b"HELLO\n")
            client = await self.talk(again, 1)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.assertNotIn("this worker drains no longer", self.log.lines)

        self.complete(test())

    def test_otherReason(self) -> None:
        """
        After another reason, the worker waits.
        """

        async def test() -> None:
            _, listener = await self.serve(self.Drainable, ":retry=60")
            listener.say(Bye("enough"))
            listener.socket.shutdown(1)
            await eventually(lambda: any("enough" in each for each in self.log.lines))
            await aMoment()
            self.path.setblocking(False)
            self.assertRaises(BlockingIOError, self.path.accept)

        self.complete(test())
