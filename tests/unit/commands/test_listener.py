"""
Tests for L{portlisten._commands.listener}: the options, and the making of the service.
"""

from __future__ import annotations

import grp
import io
import os
import pwd
import signal
import sys

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._commands.listener import Options, makeService, parsePorts
from portlisten._config.ports import PortSettings
from portlisten._listener.access import Access, accessFor
from portlisten._listener.service import ListenerService
from portlisten._ports import parsing
from tests.support.commands import assertOneLine, commandRefusal
from tests.support.listeners import ListenerTestCase, parse


class OptionsTests(SynchronousTestCase):
    """
    The command line of C{twistd portlisten}.
    """

    def refusal(self, *arguments: str) -> str:
        """
        Say why a command line is refused, which has to be one line.
        """
        return commandRefusal(self, "portlisten", parse, *arguments)

    def test_defaults(self) -> None:
        """
        PORT and PATH are enough.
        """
        self.assertEqual(
            dict(parse("80", "path")),
            {
                "listen": ["80"],
                "share": [],
                "metrics": None,
                "path": "path",
                "wire": "stream",
                "mode": 0o660,
                "group": None,
                "backlog": None,
                "queue": 1024,
                "patience": 60.0,
                "on-timeout": "close",
                "balance": "least",
                "claim-timeout": 5.0,
                "throttle": 10.0,
                "replace": False,
                "window": 32,
                "retry": 0.1,
                "grace": 10.0,
                "allow-user": [],
                "allow-group": [],
                "control": None,
                "log-format": "text",
            },
        )

    def test_given(self) -> None:
        """
        Each option can be given.
        """
        group = grp.getgrgid(os.getgid()).gr_name
        user = pwd.getpwuid(os.getuid()).pw_name
        given = parse(
            *("--mode", "0600", "--group", group, "--backlog", "7", "--queue", "0"),
            *("--patience", "2.5", "--on-timeout", "exit", "--balance", "round-robin"),
            *("--claim-timeout", "0.5", "--throttle", "0", "--window", "128"),
            *("--retry", "0.2", "--grace", "0", "--allow-user", user),
            *("--allow-group", group, "--listen", "81", "--listen", "82"),
            *(
                "--share",
                "83",
                "--share",
                "udp:53",
                "--control",
                "c",
                "--metrics",
                "82",
            ),
            *("--log-format=json", "80", "path"),
        )
        self.assertEqual(
            dict(given),
            {
                "listen": ["80", "81", "82"],
                "share": ["83", "udp:53"],
                "control": "c",
                "metrics": "82",
                "path": "path",
                "wire": "stream",
                "mode": 0o600,
                "group": os.getgid(),
                "backlog": 7,
                "queue": 0,
                "patience": 2.5,
                "on-timeout": "exit",
                "balance": "round-robin",
                "claim-timeout": 0.5,
                "throttle": 0.0,
                "replace": False,
                "window": 128,
                "retry": 0.2,
                "grace": 0.0,
                "allow-user": [os.getuid()],
                "allow-group": [os.getgid()],
                "log-format": "json",
            },
        )

    def test_independent(self) -> None:
        """
        What one command line lists, another does not.
        """
        parse("--listen", "81", "80", "path")
        self.assertEqual(parse("80", "path")["listen"], ["80"])

    def test_argumentCount(self) -> None:
        """
        There are two arguments, no more and no fewer.
        """
        for arguments in [(), ("80",), ("80", "path", "more")]:
            self.assertIn(
                f"expected PORT and PATH, got {len(arguments)} arguments",
                self.refusal(*arguments),
            )

    def test_portByOption(self) -> None:
        """
        PORT may be left out where an option gives one, and PATH may not.
        """
        options = parse("--listen", "http=80", "--listen", "https=443", "path")
        self.assertEqual(options["listen"], ["http=80", "https=443"])
        self.assertEqual(options["path"], "path")
        for arguments in [(), ("80", "path", "more")]:
            self.assertIn(
                f"expected [PORT] and PATH, got {len(arguments)} arguments",
                self.refusal("--listen", "81", *arguments),
            )

    def test_unknownOption(self) -> None:
        """
        An option that does not exist is refused.
        """
        self.assertIn("option --nonsense not", self.refusal("--nonsense", "80", "path"))

    def test_mode(self) -> None:
        """
        A mode is an octal number of nine bits.
        """
        for text in ["rw-rw----", "0888", "01777", "-1", ""]:
            self.assertIn(
                f"--mode: {text!r} is not an octal mode such as 0660",
                self.refusal("--mode", text, "80", "path"),
            )

    def test_numbers(self) -> None:
        """
        A number has to be one, and within its limits.
        """
        for option, texts_, kind in [
            ("backlog", ["0", "x", "1.5", "2147483648"], "a whole number from 1 to"),
            ("queue", ["-1", "x", "0.5"], "a whole number of at least 0"),
            ("patience", ["0", "x", "nan", "inf"], "a number of at least 0.001"),
            ("claim-timeout", ["0", "x", "nan"], "a number of at least 0.001"),
            ("throttle", ["-0.1", "x", "inf"], "a number of at least 0"),
            ("window", ["0", "129", "x"], "a whole number from 1 to 128"),
            ("retry", ["0", "x"], "a number of at least 0.001"),
            ("grace", ["-1", "x", "inf"], "a number of at least 0"),
        ]:
            for text in texts_:
                self.assertIn(
                    f"--{option}: {text!r} is not {kind}",
                    self.refusal(f"--{option}={text}", "80", "path"),
                )

    def test_choices(self) -> None:
        """
        One of a few words has to be one of them.
        """
        for option in ["on-timeout", "balance"]:
            self.assertIn(
                f"--{option}: 'explode' is none of ",
                self.refusal(f"--{option}=explode", "80", "path"),
            )

    def test_nobody(self) -> None:
        """
        A user or group that does not exist is refused.
        """
        for option in ["group", "allow-group"]:
            self.assertIn(
                f"--{option}: the group 'no such' does not exist",
                self.refusal(f"--{option}=no such", "80", "path"),
            )
        self.assertIn(
            "--allow-user: the user 'no such' does not exist",
            self.refusal("--allow-user=no such", "80", "path"),
        )

    def test_limits(self) -> None:
        """
        With the wire of 2002, only some limits are possible.
        """
        for name in ("max=5", "max-per-source=5", "fair=yes", "rate=5/s:beyond=wait"):
            port = f"http=80:{name}"
            options = parse("--wire=datagram", f"--listen={port}", "path")
            exit = self.assertRaises(SystemExit, makeService, options)
            self.assertIn("with the wire datagram, ", str(exit.code))
            self.assertIn(f"'80:{name}': ", str(exit.code))
            assertOneLine(self, "portlisten", str(exit.code))
        parsePorts(
            parse("--wire=datagram", "80:rate-per-source=5/s", "path").settings(), 5
        )

    def test_help(self) -> None:
        """
        The help explains the arguments, names each option with its default, and
        gives examples.
        """
        text = " ".join(str(Options()).split())
        for line in [
            "[options] [PORT] PATH",
            "PORT is a number (every interface, IPv4 and IPv6)",
            "PORT may be left out if --listen or --share gives one.",
            "http=80 https=tcp:443:interface=192.0.2.1",
            "Listen on this [NAME=]PORT as well",
            "twistd -n portlisten 10000 ./socket",
            "[default: 0660]",
            "[default: what the host",
            "[default: 1024]",
            "[default: 60.0]",
            "[default: close]",
            "[default: least]",
            "[default: 32]",
        ]:
            self.assertIn(line, text)
        options = parse("80", "path")
        for name in set(options) - {"path"}:
            self.assertIn(f"--{name}" if name == "replace" else f"--{name}=", text)

    def test_helpSpaces(self) -> None:
        """
        One space stands between the words that say what an option does.
        """
        options = str(Options()).partition("Options:\n")[2].partition("\n\n")[0]
        told = [line[24:].rstrip() for line in options.splitlines()]
        self.assertIn("Display this help and exit.", told)
        self.assertNotIn("  ", " ".join(told))

    def test_helpIsPrinted(self) -> None:
        """
        C{--help} prints it, and is a success.
        """
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, parse, "--help")
        self.assertEqual(exit.code, 0)
        self.assertEqual(output.getvalue().strip(), str(Options()).strip())

    def test_access(self) -> None:
        """
        Without options, every user is permitted; with one, root and the listener's own
        user are permitted too.
        """
        self.assertEqual(accessFor(parse("80", "path").settings()), Access([], []))
        root = grp.getgrgid(0).gr_name
        self.assertEqual(
            accessFor(parse("--allow-group", root, "80", "path").settings()),
            Access([0, os.geteuid()], [0]),
        )
        self.assertEqual(
            accessFor(parse("--allow-user", "root", "80", "path").settings()),
            Access([0, os.geteuid(), 0], []),
        )


class MakeServiceTests(ListenerTestCase):
    """
    From options to a service.
    """

    async def test_service(self) -> None:
        """
        It is a service, and nothing is bound yet.
        """
        service = self.make()
        verifyObject(IService, service)
        self.assertIsInstance(service, ListenerService)
        self.assertFalse(os.path.exists(self.path))

    async def test_reactor(self) -> None:
        """
        The reactor may be another one.
        """
        clock = MemoryReactorClock()
        makeService(parse("80", self.path), reactor=clock)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    async def test_badPort(self) -> None:
        """
        A port that cannot be understood ends the process with one line.
        """
        for port, reason in [
            ("65536", "'65536' is no port"),
            ("http", "'http' is no port"),
            ("nonsense:80", "'nonsense:80' is no endpoint description"),
            ("a b=80", "'a b' is no name for a port"),
        ]:
            exit = self.assertRaises(SystemExit, self.make, port=port)
            self.assertIn(f"portlisten: {reason}", str(exit.code))
            self.assertEqual(len(str(exit.code).splitlines()), 1)

    async def test_backlog(self) -> None:
        """
        The backlog is the one of the option, or the longest that the host allows.
        """
        backlogs: list[int] = []
        parse = parsing.parse

        def record(description: str, backlog: int) -> PortSettings:
            backlogs.append(backlog)
            return parse(description, backlog)

        self.patch(parsing, "parse", record)
        self.make("--backlog", "7")
        self.make()
        self.assertEqual(backlogs, [7, _kernel.longestBacklog()])

    async def test_term(self) -> None:
        """
        SIGTERM is to end the process in order.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.make()
        await deferLater(reactor, 0)
        self.assertTrue(callable(signal.getsignal(signal.SIGTERM)))
