"""
Tests for L{portlisten._config.ports}.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.ports import MAXIMUM_REUSEPORT, PortKind, PortSettings


class PortSettingsTests(SynchronousTestCase):
    """
    Tests for L{PortSettings}.
    """

    def assertBad(self, reason: str, kind: PortKind, **fields: Any) -> None:
        """
        Expect that settings are refused, and why.
        """
        error = self.assertRaises(ValueError, PortSettings, kind, "it", **fields)
        self.assertEqual(str(error), reason)

    def test_defaults(self) -> None:
        """
        By default a port has no name, is not shared, and has one socket.
        """
        settings = PortSettings(PortKind.TCP, "tcp:80", number=80)
        self.assertEqual(
            (settings.name, settings.shared, settings.reuseport), ("", False, None)
        )
        self.assertEqual((settings.host, settings.path), ("", None))

    def test_values(self) -> None:
        """
        Settings are values: they are equal if their parts are, and do not change.
        """
        settings = PortSettings(PortKind.NUMBER, "80", number=80)
        self.assertEqual(settings, PortSettings(PortKind.NUMBER, "80", number=80))
        self.assertNotEqual(settings, replace(settings, shared=True))
        self.assertEqual(len({settings, replace(settings)}), 1)
        self.assertRaises(FrozenInstanceError, setattr, settings, "number", 81)

    def test_str(self) -> None:
        """
        Errors call a port by its description, and a number by itself.
        """
        for kind, description, told in (
            (PortKind.NUMBER, "80:reuseport=2", "port 80"),
            (PortKind.TCP, "tcp:80", "tcp:80"),
        ):
            settings = PortSettings(kind, description, name="http", number=80)
            self.assertEqual(str(settings), told)

    def test_name(self) -> None:
        """
        A name has to be one that workers can ask for.
        """
        error = self.assertRaises(
            ValueError, PortSettings, PortKind.TCP, "tcp:80", name="a b"
        )
        self.assertIn("'a b' is no name for a port", str(error))

    def test_udp(self) -> None:
        """
        UDP can only be shared.
        """
        self.assertBad("'it' has no connections to hand off: use --share", PortKind.UDP)
        PortSettings(PortKind.UDP, "udp:53", shared=True)

    def test_reuseport(self) -> None:
        """
        TCP ports that are shared may have several sockets, up to a limit.
        """
        for kind in (PortKind.NUMBER, PortKind.TCP):
            for count in (1, MAXIMUM_REUSEPORT):
                PortSettings(kind, "it", shared=True, reuseport=count)
            for count in (-1, 0, MAXIMUM_REUSEPORT + 1):
                self.assertBad(
                    "'it': reuseport is how many sockets to bind, from 1 to 64",
                    kind,
                    shared=True,
                    reuseport=count,
                )
            self.assertBad("'it': reuseport is for --share", kind, reuseport=2)

    def test_reuseportElsewhere(self) -> None:
        """
        Other ports have one socket.
        """
        for kind, fields in (
            (PortKind.UDP, {}),
            (PortKind.UNIX, {"path": "/run/x"}),
            (PortKind.INHERITED, {"descriptor": 3}),
        ):
            self.assertBad(
                "'it': reuseport is for TCP ports only",
                kind,
                shared=True,
                reuseport=2,
                **fields,
            )

    def test_path(self) -> None:
        """
        A Unix socket has a path, and no other port has one.
        """
        reason = "'it': only a Unix socket has a path"
        self.assertBad(reason, PortKind.TCP, path="/run/x")
        reason = "'it': a Unix socket needs a path"
        self.assertBad(reason, PortKind.UNIX)
        PortSettings(PortKind.UNIX, "unix:/run/x", path="/run/x")

    def test_descriptor(self) -> None:
        """
        An inherited socket has a descriptor, and no other port has one.
        """
        reason = "'it': only an inherited socket has a descriptor"
        self.assertBad(reason, PortKind.TCP, descriptor=0)
        reason = "'it': an inherited socket needs a descriptor"
        self.assertBad(reason, PortKind.INHERITED)
        PortSettings(PortKind.INHERITED, "systemd:index=0", descriptor=3)
