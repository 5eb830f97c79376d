"""
Tests for L{portlisten._ports.recording}.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import SSL4ServerEndpoint, serverFromString
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from portlisten._ports.recording import RecordingReactor, recorded


class RecordedTests(SynchronousTestCase):
    """
    Tests for L{recorded}.
    """

    def recorded(self, description: str) -> object:
        """
        Ask what a description would bind.
        """
        return recorded(serverFromString(RecordingReactor(), description))

    def test_tcp(self) -> None:
        """
        Of TCP it tells the interface, the port and the backlog.
        """
        self.assertEqual(self.recorded("tcp:80:backlog=7"), ("", 80, 7))
        self.assertEqual(
            self.recorded(r"tcp6:0:interface=\:\:1:backlog=7"), ("::1", 0, 7)
        )

    def test_unix(self) -> None:
        """
        For a path, it returns the path, the backlog, the mode, and whether to lock it.
        """
        self.assertEqual(
            self.recorded("unix:/run/x:mode=640:backlog=7:lockfile=0"),
            ("/run/x", 7, 0o640, False),
        )

    def test_ssl(self) -> None:
        """
        Of TLS it tells the context factory.
        """
        context = object()
        endpoint = SSL4ServerEndpoint(RecordingReactor(), 443, context)
        self.assertIs(recorded(endpoint), context)

    def test_failure(self) -> None:
        """
        It raises what an endpoint fails with.
        """

        class Failing:
            def listen(self, factory: Factory) -> Deferred[None]:
                return fail(ZeroDivisionError("it"))

        error = self.assertRaises(ZeroDivisionError, recorded, Failing())
        self.assertEqual(str(error), "it")
