"""
Tests for L{portlisten._config.ports}.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.port_options import LIMIT_OPTIONS, PORT_OPTIONS, PortOptions
from portlisten._config.ports import PortKind, PortSettings


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
            (settings.name, settings.shared, settings.options),
            ("", False, PortOptions()),
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
        TCP ports may have several sockets if they are shared.
        """
        options = PortOptions(reuseport=2)
        for kind in (PortKind.NUMBER, PortKind.TCP):
            PortSettings(kind, "it", shared=True, options=options)
            self.assertBad("'it': reuseport is for --share", kind, options=options)

    def test_balance(self) -> None:
        """
        TCP ports and Unix sockets may be balanced if they are shared, and have one
        socket.
        """
        for value in (False, True):
            options = PortOptions(balance=value)
            PortSettings(PortKind.UNIX, "it", path="/it", shared=True, options=options)
            PortSettings(
                PortKind.INHERITED, "it", descriptor=3, shared=True, options=options
            )
            for kind in (PortKind.NUMBER, PortKind.TCP):
                PortSettings(kind, "it", shared=True, options=options)
                self.assertBad("'it': balance is for --share", kind, options=options)
            self.assertBad(
                "'it': balance is for TCP and Unix ports only",
                PortKind.UDP,
                shared=True,
                options=options,
            )
        PortSettings(
            PortKind.TCP,
            "it",
            shared=True,
            options=PortOptions(balance=False, reuseport=2),
        )
        self.assertBad(
            "'it': with reuseport, the kernel distributes the clients: leave balance"
            " out",
            PortKind.TCP,
            shared=True,
            options=PortOptions(balance=True, reuseport=2),
        )

    def test_options(self) -> None:
        """
        TCP ports can have every option, shared or not.
        """
        options = PortOptions(
            nodelay=True,
            keepalive=30,
            defer=3,
            mptcp=True,
            freebind=True,
            device="eth0",
        )
        own = len(PORT_OPTIONS) - len(LIMIT_OPTIONS)
        self.assertEqual(len(options.given), own - 2)
        for kind in (PortKind.NUMBER, PortKind.TCP):
            for shared in (False, True):
                PortSettings(kind, "it", shared=shared, options=options)

    def test_optionsElsewhere(self) -> None:
        """
        Other ports cannot have most options, and the error says where they belong.
        """
        for options, datagrams, unit in (
            (PortOptions(reuseport=2), False, ""),
            (PortOptions(nodelay=False), False, "NoDelay="),
            (PortOptions(keepalive=True), False, "KeepAlive=, KeepAliveTimeSec="),
            (PortOptions(defer=3), False, "DeferAcceptSec="),
            (PortOptions(mptcp=True), False, "SocketProtocol=mptcp"),
            (PortOptions(freebind=True), True, "FreeBind="),
            (PortOptions(device="lo"), True, "BindToDevice="),
        ):
            [option] = options.given
            kinds = "TCP and UDP" if datagrams else "TCP"
            only = f"'it': {option.name} is for {kinds} ports only"
            fields: dict[str, Any] = {"shared": True, "options": options}
            if datagrams:
                PortSettings(PortKind.UDP, "it", **fields)
            else:
                self.assertBad(only, PortKind.UDP, **fields)
            self.assertBad(only, PortKind.UNIX, path="/run/x", **fields)
            if not unit:
                self.assertBad(only, PortKind.INHERITED, descriptor=3, **fields)
                continue
            error = self.assertRaises(
                ValueError,
                PortSettings,
                PortKind.INHERITED,
                "it",
                descriptor=3,
                **fields,
            )
            self.assertIn(f"'it': {option.name} is for ports that", str(error))
            self.assertIn(f"its socket unit has {unit}", str(error))

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
