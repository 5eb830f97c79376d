"""
A dispatcher whose listener is replaced.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from twisted.internet.defer import Deferred

from portlisten._listener.retirement import ALL_IS_HANDED_OVER, LET_GO
from portlisten._model import Kind
from portlisten._wire.frames import Claim
from portlisten._wire.listener_session import Joined
from tests.support.dispatchers import (
    DispatcherTestCase,
    RecordingChannel,
    portOf,
)

GRACE = 30.0

BYE = ("bye", LET_GO)
DONE = ("bye", ALL_IS_HANDED_OVER)


class RetirementTestCase(DispatcherTestCase):
    """
    A dispatcher whose listener is replaced.

    @ivar backlogs: the names of the ports that only this listener has, and where
        clients wait.
    @ivar inherits: whether more may come from the listener before this one.
    """

    queue = 8

    def setUp(self) -> None:
        """
        Make the channel of the next listener.
        """
        super().setUp()
        self.successor = RecordingChannel("the next listener", 0)
        self.backlogs: set[str] = set()
        self.inherits = False

    def retire(self, *names: str) -> Deferred[None]:
        """
        Let the next listener take over, which has ports of these names, or of all.
        """
        done = self.dispatcher.retire(
            GRACE, names or ("", "web", "mail"), self.waits, lambda: self.inherits
        )
        self.dispatcher.succeededBy(self.successor)
        self.dispatcher.connected(self.successor)
        return done

    def waits(self) -> Collection[str]:
        """
        Say where clients wait.
        """
        return self.backlogs

    def succeed(self, *kinds: Kind) -> None:
        """
        Let the next listener join.
        """
        ports = [portOf(name, at) for at, name in enumerate(["", "web", "mail"])]
        ports += [replace(portOf("x", 9), kind=kind) for kind in kinds]
        event = Joined(8, tuple(ports), label="next-listener")
        self.dispatcher.received(self.successor, iter([event]))

    def claim(self, channel: RecordingChannel, *ids: int) -> None:
        """
        Let a worker claim offers.
        """
        self.dispatcher.received(channel, iter([Claim(ids)]))

    def leave(self, channel: RecordingChannel) -> None:
        """
        A worker that was let go closes its channel.
        """
        self.assertEqual(channel.calls[-1], BYE)
        self.dispatcher.channelClosed(channel)
