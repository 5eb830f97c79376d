"""
Tests for L{portlisten._listener.succession}: which successors are refused.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.connection import Detached
from portlisten._control.convert import ControlError
from portlisten._control.messages import Replace
from portlisten._listener.succession import Succession
from portlisten._ports.binding import bind
from portlisten._ports.parsing import parse
from tests.support.descriptors import watchDescriptors

ASKER = _kernel.Credentials(1, 0, 0)


class AskedTests(SynchronousTestCase):
    """
    Tests for L{Succession.asked}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        nothing: Any = Mock()
        self.succession = Succession(
            reactor, nothing, nothing, 1.0, lambda: None, lambda: None
        )

    def refusal(self, *versions: str) -> str:
        """
        Ask, and be refused.
        """
        error = self.assertRaises(
            ControlError, self.succession.asked, Replace(versions), ASKER
        )
        return str(error)

    def test_answered(self) -> None:
        """
        A successor of a version that is known gets the connection.
        """
        answer = self.succession.asked(Replace(("9", "1")), ASKER)
        self.assertIsInstance(answer, Detached)

    def test_version(self) -> None:
        """
        One that speaks no known version hears so.
        """
        self.assertIn("other versions of the handover (2, 1)", self.refusal("8", "9"))

    def test_stops(self) -> None:
        """
        A listener that stops is not replaced.
        """
        self.assertFalse(self.succession.cancel())
        self.assertIn("this listener stops", self.refusal("1"))

    def test_stored(self) -> None:
        """
        Nor is one whose sockets the service manager keeps.
        """
        (port,) = bind(parse("tcp:0:interface=127.0.0.1", 5))
        self.addCleanup(port.close)
        self.succession.begin([replace(port, stored=True)], [])
        self.assertIn("restart its unit", self.refusal("1"))

    def test_second(self) -> None:
        """
        One at a time takes over.  When it has failed, the next one may.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sockets: Any = Mock()
            sockets.handed.side_effect = OSError(24, "no descriptors")
            self.succession._sockets = sockets
            answer = self.succession.asked(Replace(("1",)), ASKER)
            self.succession._handover = Mock()
            self.assertIn("another listener", self.refusal("1"))
            # The one that was about to begin cannot: its connection cannot be made.
            answer.then(ours.dup())
            self.assertIsInstance(
                self.succession.asked(Replace(("1",)), ASKER), Detached
            )
