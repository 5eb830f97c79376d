"""
Tests for L{portlisten._listener.denying}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Allow,
    AllowAnswer,
    Allowed,
    DenialsAnswer,
    Deny,
    ListDenials,
)
from portlisten._control.status import DenialStatus
from portlisten._listener import denying
from portlisten._listener.denying import Denying
from portlisten._listener.limits import Limiter
from portlisten._policy.networks import Network, networkOf
from tests.support.channels import texts

CLIENT = _kernel.Credentials(12, 7, 8)


class DenyingTests(SynchronousTestCase):
    """
    Tests for L{Denying}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock, (), {})
        self.denying = Denying(self.limiter)

    def deny(self, *networks: str, seconds: str = "") -> DenialsAnswer:
        """
        Deny networks.
        """
        request = Deny(networks, (seconds,) if seconds else ())
        return self.denying.deny(request, CLIENT)

    def allow(self, *networks: str) -> AllowAnswer:
        """
        Allow networks.
        """
        return self.denying.allow(Allow(networks), CLIENT)

    def listed(self) -> DenialsAnswer:
        """
        List what is denied.
        """
        return self.denying.list(ListDenials(), CLIENT)

    def test_denies(self) -> None:
        """
        The answer and the log say what is denied, and for how long.
        """
        with capturedLogs() as logged:
            answer = self.deny("192.0.2.7", "2001:db8::/32", seconds="600")
            self.assertEqual(
                answer,
                DenialsAnswer(
                    2,
                    (
                        DenialStatus("192.0.2.7", 600.0),
                        DenialStatus("2001:db8::/32", 600.0),
                    ),
                ),
            )
            self.clock.advance(599.5)
            self.assertEqual(
                self.deny("203.0.113.0/24"),
                DenialsAnswer(3, (DenialStatus("203.0.113.0/24"),)),
            )
        self.assertEqual(
            texts(logged, "info"),
            [
                "192.0.2.7 is denied for 10 min, as pid 12 of uid 7 asks",
                "2001:db8::/32 is denied for 10 min, as pid 12 of uid 7 asks",
                "203.0.113.0/24 is denied until it is allowed, as pid 12 of uid 7 asks",
            ],
        )
        self.assertEqual(
            self.listed(),
            DenialsAnswer(
                3,
                (
                    DenialStatus("203.0.113.0/24"),
                    DenialStatus("2001:db8::/32", 0.5),
                    DenialStatus("192.0.2.7", 0.5),
                ),
            ),
        )
        self.clock.advance(0.5)
        self.assertEqual(self.listed().count, 1)

    def test_lists(self) -> None:
        """
        If there are too many for an answer, it has the newest, and the number of all.
        """
        self.patch(denying, "MAXIMUM_LISTED", 2)
        self.deny("192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.assertEqual(
            self.listed(),
            DenialsAnswer(3, (DenialStatus("192.0.2.3"), DenialStatus("192.0.2.2"))),
        )

    def test_allows(self) -> None:
        """
        What was denied is allowed, once; the log says who asked for it.
        """
        self.deny("192.0.2.7")
        with capturedLogs() as logged:
            for was in (True, False):
                self.assertEqual(
                    self.allow("192.0.2.7", "192.0.2.8"),
                    AllowAnswer(
                        (Allowed("192.0.2.7", was), Allowed("192.0.2.8", False))
                    ),
                )
        self.assertEqual(
            texts(logged, "info"),
            ["192.0.2.7 is denied no more, as pid 12 of uid 7 asks"],
        )

    def test_stillDenied(self) -> None:
        """
        The answer says if a larger network is denied.
        """
        self.deny("192.0.2.7", "192.0.2.0/24")
        self.assertEqual(
            self.allow("192.0.2.7"),
            AllowAnswer((Allowed("192.0.2.7", True, "192.0.2.0/24"),)),
        )

    def test_settings(self) -> None:
        """
        The answer says if the settings deny a network.
        """

        def deniedBy(network: Network) -> tuple[Network, bool]:
            return networkOf("192.0.2.0/24"), True

        self.patch(self.limiter, "deniedBy", deniedBy)
        self.assertEqual(
            self.allow("192.0.2.7"),
            AllowAnswer((Allowed("192.0.2.7", False, "192.0.2.0/24", True),)),
        )

    def test_wrong(self) -> None:
        """
        A request with a wrong network, or a wrong time, changes nothing.
        """
        for networks in (("192.0.2.7", "x"), ("192.0.2.7/24",)):
            self.assertRaises(ControlError, self.deny, *networks)
            self.assertRaises(ControlError, self.allow, *networks)
        for seconds in (("x",), ("0",), ("-1",), ("inf",), ("nan",), ("1", "2")):
            request = Deny(("192.0.2.7",), seconds)
            error = self.assertRaises(ControlError, self.denying.deny, request, CLIENT)
            self.assertEqual(
                str(error), "deny needs seconds: one number above 0, or none at all"
            )
        self.assertEqual(self.listed(), DenialsAnswer(0))
