"""
Tests for L{portlisten._commands.check} and L{portlisten._commands.obstacles}.  The
integration tests have files with all kinds of mistakes.
"""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import resource
import sys
from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import check, obstacles, portlisten
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.settings import ListenerSettings
from tests.support.descriptors import watchDescriptors
from tests.support.run_files import PATH, runFile

OWN = os.geteuid()
OTHER = next(each for each in pwd.getpwall() if each.pw_uid not in (0, OWN))

WEB = WorkersSettings(
    name="web",
    command=("/bin/sh", "{path}", "{label} x"),
    count=3,
    maxMemory=512 * 1024**2,
    maxAge=43200.0,
    openFiles=4096,
    umask=0o27,
    environment={"B": "secret", "A": ""},
)
SETTINGS = RunSettings(
    listener=ListenerSettings(
        path="/tmp/s", listen=("http=80",), share=("dns=udp:53",), group=0
    ),
    workers=(WEB,),
)


class DescribeTests(SynchronousTestCase):
    """
    Tests for L{check.describe} and L{check.doubts}.
    """

    def test_all(self) -> None:
        """
        It says what runs where, and no values of variables.
        """
        me = pwd.getpwuid(OWN).pw_name
        self.assertEqual(
            list(check.describe(SETTINGS)),
            [
                f"listener  user {me}",
                "path      /tmp/s, mode 0660, group root",
                "control   /tmp/s.ctl",
                "ports",
                "  http  80: connections are handed to workers",
                "  dns  udp:53: workers accept themselves",
                "workers",
                f"  web  3, user {me}",
                "    command  /bin/sh /tmp/s 'web-1 x'",
                "    folder   /",
                "    stop     drain for up to 30 s, then SIGTERM, and SIGKILL after 15"
                " s",
                "    limits   memory 512M, age 12h, 4096 open files, umask 0027",
                "    environment  A, B",
            ],
        )

    def test_little(self) -> None:
        """
        What a file leaves out is left out.
        """
        listener = ListenerSettings(path="/tmp/s", control="")
        lines = list(check.describe(RunSettings(listener=listener)))
        self.assertEqual(lines[1:3], ["path      /tmp/s, mode 0660", "control   none"])
        self.assertEqual(lines[-1], "workers   none")
        group = WorkersSettings(name="web", command=("x",), user=OTHER.pw_uid, group=0)
        lines = list(
            check.describe(RunSettings(listener=listener, user=1, workers=(group,)))
        )
        self.assertIn(f"  web  1, user {OTHER.pw_name}, group root", lines)
        self.assertFalse(any("limits" in each or "environ" in each for each in lines))

    def test_doubts(self) -> None:
        """
        What may be a mistake is said.
        """
        self.assertEqual(list(check.doubts(SETTINGS)), [])
        uid = OTHER.pw_uid
        group = WorkersSettings(name="web", command=("x",), user=uid)
        keys = [
            each.key
            for each in check.doubts(replace(SETTINGS, user=uid, workers=(group,)))
        ]
        self.assertEqual(keys, ["workers.web.command", "workers.web.user"])
        (doubt,) = check.doubts(replace(SETTINGS, workers=()))
        self.assertEqual(doubt.key, "workers")


class ObstaclesTests(SynchronousTestCase):
    """
    Tests for L{obstacles}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def find(self, **changes: Any) -> list[str]:
        """
        Find what is in the way of a group of this user's.
        """
        group = replace(WEB, **changes)
        return [str(each) for each in obstacles.find("/tmp/s", [group])]

    def test_none(self) -> None:
        """
        Nothing is in the way of a shell.
        """
        self.assertEqual(self.find(), [])
        listener = replace(SETTINGS.listener, group=None)
        settings = replace(SETTINGS, listener=listener)
        self.assertEqual(list(obstacles.ofUsers(settings)), [])

    def test_program(self) -> None:
        """
        A program is looked for beside this Python first, then in PATH, and a path from
        the group's folder.
        """
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        os.symlink("/bin/true", os.path.join(folder, "beside"))
        self.patch(sys, "executable", os.path.join(folder, "python"))
        self.patch(os, "environ", {"PATH": "/none"})
        self.assertEqual(self.find(command=("beside",)), [])
        (problem,) = self.find(command=("sh",))
        self.assertIn("'sh' does not exist in any folder of", problem)
        self.assertTrue(problem.partition(":/none:")[1])
        self.assertEqual(self.find(command=("sh",), environment={"PATH": "/bin"}), [])
        self.assertEqual(self.find(command=("bin/sh",)), [])
        self.assertEqual(self.find(command=("./sh",), folder="/bin"), [])
        (problem,) = self.find(command=("./sh",))
        self.assertIn("workers.web.command: the program './sh' does not", problem)

    def test_openFiles(self) -> None:
        """
        No more files are asked for than the host allows.
        """
        if OWN == 0:
            with open("/proc/sys/fs/nr_open") as file:
                most = int(file.read())
        else:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.assertEqual(self.find(openFiles=most), [])
        (problem,) = self.find(openFiles=most + 1)
        self.assertTrue(problem.endswith(f"give at most {most}"))

    def test_path(self) -> None:
        """
        The path is checked, and each group.
        """
        groups = [replace(WEB, folder="/none"), replace(WEB, name="b", command=("x",))]
        keys = [each.key for each in obstacles.find("/none/s", groups)]
        self.assertEqual(keys, ["path", "workers.web.folder", "workers.b.command"])
        keys = [each.key for each in obstacles.find(None, groups)]
        self.assertEqual(keys, ["workers.web.folder", "workers.b.command"])

    def users(self, uid: int, **changes: Any) -> list[str]:
        """
        Find whether a user is kept out.
        """
        listener = ListenerSettings(path="/tmp/s", **changes)
        groups = (replace(WEB, user=uid),)
        settings = RunSettings(listener=listener, user=OWN, workers=groups)
        return [str(each) for each in obstacles.ofUsers(settings)]

    def test_access(self) -> None:
        """
        The permissions of the path are those of its owner, of its group or of others.
        """
        uid, gid = OTHER.pw_uid, OTHER.pw_gid
        self.patch(obstacles, "_mayGive", lambda gid: True)
        self.assertEqual(self.users(OWN, mode=0o600), [])
        (problem,) = self.users(OWN, mode=0o460)
        self.assertEqual(self.users(uid, group=gid), [])
        self.assertEqual(self.users(uid, mode=0o602, group=0), [])
        (problem,) = self.users(uid, mode=0o606, group=gid)
        (problem,) = self.users(uid, mode=0o660, group=0)
        self.assertIn("may not connect to /tmp/s: let the path belong", problem)

    def test_allowed(self) -> None:
        """
        The listener's lists must have the users of the workers.
        """
        uid, gid = OTHER.pw_uid, OTHER.pw_gid
        self.patch(obstacles, "_mayGive", lambda gid: True)
        for changes in (
            {"allowUsers": (uid,)},
            {"allowGroups": (gid,)},
            {"allowUsers": (1, uid), "allowGroups": (0,)},
        ):
            self.assertEqual(self.users(uid, group=gid, **changes), [])
        for changes in ({"allowUsers": (54321,)}, {"allowGroups": (54321,)}):
            (problem,) = self.users(uid, group=gid, **changes)
            self.assertIn("leave", problem)
            self.assertEqual(self.users(OWN, group=gid, **changes), [])

    def test_group(self) -> None:
        """
        A user that is not root can give the path only to a group of its own.
        """
        self.patch(os, "geteuid", lambda: 54321)
        self.patch(os, "getegid", lambda: 7)
        self.patch(os, "getgroups", lambda: [8])
        for gid, count in ((7, 0), (8, 0), (9, 1)):
            found = [each for each in self.users(54321, group=gid) if "group:" in each]
            self.assertEqual(len(found), count)

    def test_failure(self) -> None:
        """
        A check that fails in the other process is no success.
        """

        def fail() -> str:
            raise OSError("broken")

        found = obstacles._asUser(WEB, fail)
        self.assertIn("cannot be checked: OSError('broken')", found)

    def test_groupName(self) -> None:
        """
        A group without a name has a number.
        """
        self.assertEqual(obstacles.groupName(54321), "54321")


class CommandTests(SynchronousTestCase):
    """
    Tests for the command line.
    """

    def run_(self, *words: str) -> tuple[object, str, str]:
        """
        Run the command.

        @return: its exit code, and what it writes.
        """
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            exit = self.assertRaises(SystemExit, portlisten.main, ["check", *words])
        return exit.code, output.getvalue(), errors.getvalue()

    def test_arguments(self) -> None:
        """
        It takes one file.
        """
        for words in ([], ["a", "b"]):
            code, _, _ = self.run_(*words)
            self.assertIn(f"expected FILE, got {len(words)} arguments", str(code))
        code, _, _ = self.run_("a", "--quiet")
        self.assertIn("--quiet stands after a", str(code))

    def test_help(self) -> None:
        """
        The help has a file that is good, apart from users that may not exist here.
        """
        code, output, _ = self.run_("--help")
        self.assertEqual(code, 0)
        self.assertIn("[workers.web]\n", output)
        self.assertIn(check.EXAMPLE, output)

    def test_runs(self) -> None:
        """
        A good file is shown, and a wrong one is not.
        """
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder, 0o755)
        file = os.path.join(folder, "x")
        with open(file, "w") as written:
            written.write(runFile())
        os.chmod(file, 0o644)
        code, output, errors = self.run_(file)
        self.assertEqual((code, errors), (0, ""))
        self.assertIn("/bin/sleep 60 /tmp/portlisten-none.sock", output)
        self.assertEqual(self.run_("--quiet", file), (0, "", ""))
        with open(file, "w") as written:
            written.write(runFile(top=f"{PATH}\nx = 3"))
        code, output, errors = self.run_(file)
        self.assertEqual((code, output), (1, ""))
        self.assertIn(f"{file}: x: no such key", errors)
