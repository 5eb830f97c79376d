"""
The successor's end of a handover, whose predecessor is spoken by hand: its bytes are in
the kernel before they are read.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    encodeAnswer,
)
from portlisten._handover import takeover as module
from portlisten._handover.messages import (
    Commit,
    Message,
    encode,
)
from portlisten._handover.takeover import Takeover
from portlisten.errors import CannotTakeOver
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import pair

COMMIT = Commit(False, (3,))

#: How an error begins.
CANNOT = "cannot take over from the listener at /x"


class TakeoverTestCase(SynchronousTestCase):
    """
    A L{Takeover}, and a predecessor that is spoken by hand.
    """

    def setUp(self) -> None:
        """
        Connect both.
        """
        watchDescriptors(self)
        link, self.peer = pair(self)
        self.told = False
        self.takeover = Takeover(link, "the listener at /x", lambda: self.told)
        self.addCleanup(self.takeover.close)

    def answer(
        self,
        *roles: str,
        sockets: Sequence[socket.socket] | None = None,
        pid: int = 4711,
    ) -> None:
        """
        Send a manifest.

        @param sockets: what goes with it, if not what it says.
        """
        if sockets is None:
            sockets = [pair(self)[0] for _ in roles]
        manifest = Manifest(1, pid, tuple(map(HandedSocket, roles)))
        data = encodeAnswer(manifest)
        socket.send_fds(self.peer, [data], [each.fileno() for each in sockets])

    def say(self, *messages: Message | bytes) -> None:
        """
        Let the predecessor write.
        """
        for each in messages:
            self.peer.send(each if isinstance(each, bytes) else encode(each))

    def asked(self) -> None:
        """
        Come so far that the sockets are there.
        """
        self.answer("transfer")
        self.assertIs(self.takeover.ask(), True)
        self.heard()

    def heard(self) -> list[bytes]:
        """
        What the predecessor has read.
        """
        try:
            return self.peer.recv(65536).splitlines()
        except BlockingIOError:
            return []

    def patience(self, seconds: float) -> None:
        """
        Change how long the predecessor may take.
        """
        self.patch(module, "ANSWER_SECONDS", seconds)

    def fails(self, step: Any, *arguments: Any) -> str:
        """
        A step fails.

        @return: why, without the usual beginning and end.
        """
        text = str(self.assertRaises(CannotTakeOver, step, *arguments))
        self.assertTrue(text.startswith(CANNOT), text)
        self.assertTrue(text.endswith("; it goes on"), text)
        return text.removeprefix(CANNOT).removesuffix("; it goes on")
