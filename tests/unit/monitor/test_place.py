"""
Tests for L{portlisten._monitor.place}.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import twisted.test
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.ports import PortSettings
from portlisten._monitor.place import parsePlace
from portlisten._ports.parsing import NotPassed
from portlisten.errors import BadDescription


class PlaceTests(SynchronousTestCase):
    """
    Tests for L{parsePlace}.
    """

    def test_bound(self) -> None:
        """
        The parent binds plain ports.  A number alone is a port of this machine only.
        """
        for number in ("9100", "0", "65535"):
            made = parsePlace(number)
            assert isinstance(made, PortSettings)
            self.assertEqual(made, parsePlace(f"tcp:{number}:interface=127.0.0.1"))
            self.assertNotEqual(made, parsePlace(f"tcp:{number}"))
        for description in (
            "tcp:9100:interface=192.0.2.1",
            "tcp6:9100",
            "unix:/run/portlisten/monitor:mode=660",
        ):
            self.assertIsInstance(parsePlace(description), PortSettings)

    def test_limits(self) -> None:
        """
        The monitor hands nothing to workers, and has no limits.
        """
        error = self.assertRaises(BadDescription, parsePlace, "9100:max=5")
        self.assertEqual(
            str(error),
            "'9100:max=5': max is for ports whose connections are handed to workers:"
            " leave it out",
        )

    def test_notPassed(self) -> None:
        """
        A socket of systemd's must have been passed.
        """
        description = "systemd:domain=INET:name=monitor"
        error = self.assertRaises(NotPassed, parsePlace, description)
        self.assertIn("is not among the sockets that systemd passed", str(error))

    def test_text(self) -> None:
        """
        The monitor itself listens on other endpoints.
        """
        key = Path(twisted.test.__file__).with_name("server.pem")
        for description in (
            f"ssl:9100:privateKey={key}:interface=192.0.2.1",
            "haproxy:tcp:9100",
        ):
            self.assertEqual(parsePlace(description), description)

    def test_wrong(self) -> None:
        """
        Anything else is an error that says what would be right.
        """
        for description, reason in (
            ("monitor=9100", "'monitor=9100' has a name, and this port has none: give"),
            ("=tcp:1", "has a name, and this port has none: give 'tcp:1'"),
            ("udp:9100", "'udp:9100' is a port of UDP: give one of TCP"),
            ("udp6:9100", "is a port of UDP"),
            ("tcp:x", "'x' is no number"),
            ("65536", "'65536' is no port"),
            ("", "'' is no port"),
            ("ssl:1:privateKey=/nowhere/key", "/nowhere/key"),
            ("nonsense:1", "nonsense"),
        ):
            error = self.assertRaises(BadDescription, parsePlace, description)
            self.assertIn(reason, str(error))
            self.assertNotIn("\n", str(error))

    def test_needed(self) -> None:
        """
        If a package is not installed, the error says how to install it.  A description
        that is wrong is said first.
        """
        found = importlib.util.find_spec

        def find(name: str) -> object:
            return None if name == "prometheus_client" else found(name)

        self.patch(importlib.util, "find_spec", find)
        error = self.assertRaises(BadDescription, parsePlace, "9100")
        self.assertEqual(
            str(error),
            "this needs the package prometheus_client, which is not installed:"
            " 'pip install portlisten[metrics]'",
        )
        error = self.assertRaises(BadDescription, parsePlace, "udp:1")
        self.assertIn("UDP", str(error))
