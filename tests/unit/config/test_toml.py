"""
Tests for L{portlisten._config.toml} and L{portlisten._config.tables}.
"""

from __future__ import annotations

import pwd

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.caller import Caller
from portlisten._config.options import optionsOf
from portlisten._config.settings import ListenerSettings
from portlisten._config.toml import fileOptions, parse, parseChannel
from portlisten._config.wrong_file import WrongFile

NOBODY = pwd.getpwnam("nobody")
ROOT = Caller(0, 0)
USER = Caller(NOBODY.pw_uid, NOBODY.pw_gid)

GOOD = """
path = "/run/web.sock"
[ports.http]
listen = 80
[workers.web]
command = ["twistd", "{path}"]
"""


class ParseTests(SynchronousTestCase):
    """
    Tests for L{parse}.
    """

    def problems(self, text: str | bytes, caller: Caller = USER) -> list[str]:
        """
        Parse a file that is wrong.
        """
        error: WrongFile = self.assertRaises(WrongFile, parse, text, caller)
        return error.lines

    def test_least(self) -> None:
        """
        A short file is enough for a user, and what it leaves out has defaults.
        """
        settings = parse(GOOD, USER)
        self.assertEqual(
            settings.listener,
            ListenerSettings(path="/run/web.sock", listen=("http=80",)),
        )
        self.assertIsNone(settings.user)
        (group,) = settings.workers
        self.assertEqual((group.name, group.count, group.user), ("web", 1, None))
        self.assertEqual(dict(group.environment), {})

    def test_whole(self) -> None:
        """
        Values may be written as in TOML, and as on a command line.
        """
        text = """
            path = "/run/web.sock"
            user = "nobody"
            group = 0
            mode = "0600"
            allow-user = ["nobody", 0]
            allow-group = "daemon"
            control = "none"
            backlog = 7
            queue = "8"
            patience = 3
            on-timeout = "exit"
            balance = "round-robin"
            claim-timeout = 1.5
            [ports]
            dns.share = ["udp:53", 53]
            http.listen = [80, "tcp:81:interface=127.0.0.1"]
            tls = {listen = 443}
            [workers.web]
            command = ["a", "{path}"]
            user = 1
            group = "daemon"
            count = 3
            grace = "7"
            stop = 0
            ready = 9
            failures = 0
            max-memory = "512M"
            max-age = "12h"
            folder = "/srv"
            umask = "0027"
            open-files = 4096
            environment = {A = "b"}
            [workers.none]
            command = ["b"]
            user = 1
        """
        settings = parse(text, ROOT)
        listener = settings.listener
        self.assertEqual(
            listener,
            ListenerSettings(
                path="/run/web.sock",
                listen=("http=80", "http=tcp:81:interface=127.0.0.1", "tls=443"),
                share=("dns=udp:53", "dns=53"),
                group=0,
                mode=0o600,
                allowUsers=(NOBODY.pw_uid, 0),
                allowGroups=(1,),
                control="",
                backlog=7,
                queue=8,
                patience=3.0,
                onTimeout="exit",
                balance="round-robin",
                claimTimeout=1.5,
            ),
        )
        self.assertEqual(settings.user, NOBODY.pw_uid)
        web, none = settings.workers
        self.assertEqual(
            (web.name, web.command, web.user, web.group, web.count, web.grace),
            ("web", ("a", "{path}"), 1, 1, 3, 7.0),
        )
        self.assertEqual(
            (web.stop, web.ready, web.failures, web.maxMemory, web.maxAge, web.folder),
            (0.0, 9.0, 0, 512 * 1024**2, 43200.0, "/srv"),
        )
        self.assertEqual(
            (web.umask, web.openFiles, dict(web.environment)), (0o27, 4096, {"A": "b"})
        )
        self.assertEqual((none.name, none.count), ("none", 1))

    def test_options(self) -> None:
        """
        Each option of the listener is a key, apart from those for the wire and ports.
        """
        names = {each.name for each in optionsOf(ListenerSettings)}
        self.assertEqual(
            {each.name for each in fileOptions()},
            (names | {"path", "user"}) - {"wire", "listen", "share", "replace"},
        )

    def test_elsewhere(self) -> None:
        """
        The listener's other options are no keys.
        """
        for line, hint in [
            ('wire = "datagram"', "no such key"),
            ("listen = 80", "in a table [ports.NAME]"),
        ]:
            (problem,) = self.problems(line + GOOD)
            self.assertIn(hint, problem)

    def test_bytes(self) -> None:
        """
        The text may be bytes, with a mark of its order.
        """
        self.assertEqual(
            parse(b"\xef\xbb\xbf" + GOOD.encode(), USER), parse(GOOD, USER)
        )

    def test_caller(self) -> None:
        """
        A user that is not root may name only itself, and root names no root.
        """
        own = f'{GOOD}user = "nobody"\ngroup = {NOBODY.pw_gid}\n'
        self.assertEqual(parse(own, USER).workers[0].user, NOBODY.pw_uid)
        (first, second) = self.problems(GOOD + 'user = "daemon"\ngroup = "daemon"\n')
        self.assertIn("workers.web.user: only root can start processes", first)
        self.assertIn("workers.web.group: only root can give", second)
        (problem,) = self.problems('user = "daemon"' + GOOD)
        self.assertIn("user: only root can start", problem)
        for user in ('"root"', "0", '"0"'):
            (problem,) = self.problems(f"user = {user}{GOOD}")
            self.assertIn("user: the listener needs no privilege", problem)

    def test_checkPort(self) -> None:
        """
        Each port is checked, with what is known of its kind, whatever else is wrong.
        """
        seen = []

        def check(text: str, shared: bool) -> None:
            seen.append((text, shared))
            raise ValueError("wrong")

        text = GOOD + "x = 3\n[ports.a]\nshare = [true, 1, 2]\nx = 3\n"
        error = self.assertRaises(WrongFile, parse, text, USER, check)
        self.assertEqual(seen, [("80", False), ("1", True), ("2", True)])
        self.assertEqual(error.lines.count("ports.a.share: wrong"), 2)
        self.assertIn("ports.http.listen: wrong", error.lines)

    def test_known(self) -> None:
        """
        The error tells what is right.
        """
        text = GOOD + 'x = 3\n[workers.b]\ncommand = ["b"]\n'
        error = self.assertRaises(WrongFile, parse, text, USER)
        self.assertEqual(error.path, "/run/web.sock")
        self.assertEqual([each.name for each in error.workers], ["b"])
        error = self.assertRaises(WrongFile, parse, "path = 3", USER)
        self.assertEqual((error.path, error.workers), (None, ()))

    def test_random(self) -> None:
        """
        Any number of ports may be chosen by the kernel.
        """
        text = (
            GOOD + '[ports.a]\nlisten = [0, 0, "tcp:0"]\n[ports.b]\nshare = "tcp:0"\n'
        )
        self.assertEqual(len(parse(text, USER).listener.listen), 4)
        (problem,) = self.problems(GOOD + "[ports.a]\nlisten = [1, 1]\n")
        self.assertIn("ports.a.listen: '1' is in ports.a.listen as well", problem)

    def test_name(self) -> None:
        """
        A group has a name in the key, and not in the table.
        """
        (problem,) = self.problems(GOOD + 'name = "x"\n')
        self.assertEqual(
            problem, "workers.web.name: no such key: the name stands in [workers.web]"
        )
        long = "x" * 59
        self.assertEqual(
            parse(GOOD.replace("web]", f"{long}]"), USER).workers[0].name, long
        )
        (problem,) = self.problems(GOOD.replace("web]", f"{long}x]"))
        self.assertIn("is no name for workers", problem)

    def test_noTables(self) -> None:
        """
        A key in the place of a table is a mistake.
        """
        found = self.problems('path = "/s"\nports = 1\nworkers = 2')
        self.assertEqual(
            [each.partition(":")[0] for each in found], ["ports", "workers"]
        )
        found = self.problems(GOOD + "[workers]\ncount = 3\n")
        self.assertEqual(len(found), 1)

    def test_endOfFile(self) -> None:
        """
        A file may end too early.
        """
        (problem,) = self.problems('x = ["a"')
        self.assertIn("this is no TOML: Unclosed array", problem)


class ParseChannelTests(SynchronousTestCase):
    """
    Tests for L{parseChannel}.
    """

    def test_found(self) -> None:
        """
        Only two keys matter.
        """
        for text, expected in [
            (GOOD, ("/run/web.sock", None)),
            ('path = "/s"\ncontrol = "/c"\nports = 3', ("/s", "/c")),
            ('path = "/s"\ncontrol = "none"\nx = 1', ("/s", "")),
        ]:
            self.assertEqual(parseChannel(text), expected)

    def test_wrong(self) -> None:
        """
        If these are wrong, both are named.
        """
        error = self.assertRaises(WrongFile, parseChannel, 'control = "x"')
        self.assertEqual([each.key for each in error.problems], ["path", "control"])
        self.assertRaises(WrongFile, parseChannel, "x = y")


class FileTests(SynchronousTestCase):
    """
    Tests for L{WrongFile}.
    """

    def test_lines(self) -> None:
        """
        Each line has the name of the file.
        """
        error = self.assertRaises(WrongFile, parse, "patience = 0\n" + GOOD, USER)
        named = WrongFile(error.problems, "a\nb")
        self.assertEqual(
            str(named), "a?b: patience: 0 is not a number of at least 0.001"
        )
