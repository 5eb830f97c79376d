"""
Tests for L{portlisten._children.launch}.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._children import launch as _launch
from portlisten._children.launch import Launch, environmentFor
from portlisten._process import forking
from portlisten.errors import CannotRun
from tests.support.children import children, inChild
from tests.support.descriptors import watchDescriptors
from tests.support.launches import (
    ENVIRONMENT,
    SH,
    answer,
    needsRoot,
    openFolder,
    script,
    shell,
)
from tests.support.users import unusedUID

NOBODY = pwd.getpwnam("nobody")
DAEMON = pwd.getpwnam("daemon")


class LaunchTestCase(SynchronousTestCase):
    """
    A test that leaves no descriptor and no process.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self._others = children()
        self.addCleanup(self.assertNoChild)

    def assertNoChild(self) -> None:
        """
        Check that no process is left, not even one that has ended.
        """
        self.assertEqual(children() - self._others, set())

    def reason(self, launch: Launch) -> str:
        """
        Check that a process cannot be started, and that nothing of it is left.

        @return: the reason.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        error = self.assertRaises(CannotRun, answer, launch)
        self.assertNoChild()
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, []), before)
        return str(error)


class StartTests(LaunchTestCase):
    """
    Tests for what a program finds.
    """

    def test_command(self) -> None:
        """
        The program gets its arguments and the whole environment, and its exit code is
        its own.
        """
        launch = Launch(
            "web-1",
            ("sh", "-c", 'echo "$0 $1 $OWN $HOME."; exit 3', "a", "b {c}"),
            {**ENVIRONMENT, "OWN": "own"},
        )
        self.assertEqual(answer(launch), ("a b {c} own .\n", 3))

    def test_output(self) -> None:
        """
        Standard output and standard error are the same, and nothing is to be read.
        """
        text, _ = answer(shell("echo out; echo error >&2; readlink /proc/self/fd/0"))
        self.assertEqual(text, "out\nerror\n/dev/null\n")

    def test_session(self) -> None:
        """
        It begins a session and a process group.
        """
        text, _ = answer(shell("echo $$; cat /proc/$$/stat"))
        number, stat = text.splitlines()
        fields = stat.rpartition(")")[2].split()
        self.assertEqual(fields[2:4], [number, number])

    def test_surroundings(self) -> None:
        """
        It has the folder, the umask and the limit that it should have, and by default
        those of this process.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        text = "pwd; umask; ulimit -Sn; ulimit -Hn"
        folder = openFolder(self)
        given = shell(text, folder=str(folder), umask=0o027, openFiles=99)
        expected = [str(folder), "0027", "99", "99"]
        self.assertEqual(answer(given)[0].split(), expected)
        umask = os.umask(0)
        os.umask(umask)
        shown = ["unlimited" if each < 0 else str(each) for each in (soft, hard)]
        expected = ["/", f"{umask:04o}", *shown]
        self.assertEqual(answer(shell(text))[0].split(), expected)

    def test_descriptors(self) -> None:
        """
        It has the descriptors from 3 on, and no other, even if another could be
        inherited.  They stay the caller's.
        """
        folder = openFolder(self)
        numbers = []
        for name in ("one", "two", "other"):
            (folder / name).write_text(f"{name}\n")
            number = os.open(folder / name, os.O_RDONLY)
            self.addCleanup(os.close, number)
            numbers.append(number)
        os.set_inheritable(numbers[2], True)
        text = "cat <&3; cat <&4; ls /proc/self/fd"
        found, _ = answer(shell(text, descriptors=numbers[:2]))
        # 5 is that of the listing.
        self.assertEqual(found.split(), ["one", "two", *"012345"])
        for each in numbers:
            os.fstat(each)

    def test_numbersOfOthers(self) -> None:
        """
        The descriptors may have each other's numbers, and that of the output, and the
        limit may be lower than what this process has open.
        """
        folder = openFolder(self)
        for name in ("one", "two"):
            (folder / name).write_text(f"{name}\n")

        def run() -> object:
            for number, name in ((4, "one"), (3, "two")):
                os.dup2(os.open(folder / name, os.O_RDONLY), number, inheritable=False)
            reader, writer = os.pipe()
            os.dup2(writer, 5, inheritable=False)
            for _ in range(30):
                os.dup(writer)
            launch = shell("cat <&3; cat <&4", descriptors=(4, 3), openFiles=12)
            os.waitpid(_launch.start(launch, 5), 0)
            return os.read(reader, 100)

        # The numbers are this process's own, so it is done in another one.
        self.assertEqual(inChild(run), "b'one\\ntwo\\n'")

    def test_signals(self) -> None:
        """
        No signal is blocked in the program, and the signals that Python ignores are
        not.
        """
        before = signal.signal(signal.SIGUSR2, lambda *_: None)
        try:
            text, _ = answer(
                Launch("a", ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"), {})
            )
        finally:
            signal.signal(signal.SIGUSR2, before)
        lines = text.split()
        self.assertEqual(int(lines[1], 16), 0)
        self.assertEqual(int(lines[3], 16) & 1 << signal.SIGPIPE - 1, 0)

    def test_signalsOfSupervisor(self) -> None:
        """
        The program can be stopped, and hears of its children, even if the supervisor
        was started with those signals blocked or ignored.  Others stay as they are.
        """
        blocked = [signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1]
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            text, _ = answer(
                Launch("a", ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"), {})
            )
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        lines = text.split()
        self.assertEqual(int(lines[1], 16), 1 << signal.SIGUSR1 - 1)
        self.assertEqual(int(lines[3], 16) & 1 << signal.SIGTERM - 1, 0)

    def test_parentSignal(self) -> None:
        """
        The kernel is told which signal the program gets with the end of its parent.
        """
        program = (
            "import ctypes; n = ctypes.c_int();"
            "ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
        )
        launch = Launch("a", (sys.executable, "-c", program), {})
        self.assertEqual(answer(launch), ("15\n", 0))

    def test_parentGone(self) -> None:
        """
        If the parent ends before the kernel knows of the signal, the program does not
        start.
        """
        reader, writer = os.pipe()
        parent = os.fork()
        if not parent:
            real = _kernel.endWithParent

            def late(number: int) -> None:
                before = os.getppid()
                os.kill(before, signal.SIGKILL)
                while os.getppid() == before:
                    time.sleep(0.001)
                real(number)

            try:
                with mock.patch.object(_kernel, "endWithParent", late):
                    _launch.start(shell("echo up"), writer)
            finally:
                os._exit(0)
        os.close(writer)
        self.assertEqual(os.waitpid(parent, 0), (parent, signal.SIGKILL))
        with open(reader) as file:
            self.assertEqual(file.read(), "")


@needsRoot
class UserTests(LaunchTestCase):
    """
    Tests for programs of other users.
    """

    def ids(self, **options: Any) -> list[str]:
        """
        The users and groups of a program: from proc(5).
        """
        text, _ = answer(
            shell("grep -E '^(Uid|Gid|Groups):' /proc/$$/status", **options)
        )
        return [" ".join(line.split()[1:]) for line in text.splitlines()]

    def test_user(self) -> None:
        """
        It has the user's groups, and its parent's end is still told to it.
        """
        uid, gid = DAEMON.pw_uid, DAEMON.pw_gid
        groups = sorted(os.getgrouplist(DAEMON.pw_name, gid))
        expected = [" ".join([str(uid)] * 4), " ".join([str(gid)] * 4)]
        self.assertEqual(
            self.ids(uid=uid), [*expected, " ".join(str(each) for each in groups)]
        )

    def test_group(self) -> None:
        """
        A group replaces the user's own, or is the only one if no user is given.
        """
        gid = grp.getgrnam("mail").gr_gid
        groups = sorted(os.getgrouplist(DAEMON.pw_name, gid))
        _, own, all = self.ids(uid=DAEMON.pw_uid, gid=gid)
        self.assertEqual(own, " ".join([str(gid)] * 4))
        self.assertEqual(all, " ".join(str(each) for each in groups))
        user, own, all = self.ids(gid=gid)
        self.assertEqual((user, all), ("0 0 0 0", str(gid)))

    def test_number(self) -> None:
        """
        A number that no user has gets no groups but its own.
        """
        uid = unusedUID()
        four = " ".join([str(uid)] * 4)
        self.assertEqual(self.ids(uid=uid), [four, four, ""])
        self.assertEqual(self.ids(uid=uid, gid=8), [four, "8 8 8 8", ""])

    def test_notFoundAnyMore(self) -> None:
        """
        A user that was found once, and is not any more, does not get the group of the
        same number: it may be another's.
        """
        launch = shell("id", uid=NOBODY.pw_uid)
        self.assertEqual(answer(launch)[1], 0)
        self.patch(pwd, "getpwuid", {}.__getitem__)
        self.patch(grp, "getgrgid", {}.__getitem__)
        self.assertIn("cannot be looked up any more", self.reason(launch))

    def test_parentSignal(self) -> None:
        """
        The change of the user comes before the signal, which it would clear.
        """
        python = "/usr/bin/python3"
        program = (
            "import ctypes; n = ctypes.c_int();"
            "ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
        )
        if not os.access(python, os.X_OK):
            raise self.skipTest(f"{python} is not installed")
        launch = Launch("a", (python, "-c", program), {}, uid=NOBODY.pw_uid)
        self.assertEqual(answer(launch), ("15\n", 0))

    def test_limit(self) -> None:
        """
        The limit is set with privilege, before it is gone.
        """

        def limit(kind: int, limits: tuple[int, int]) -> None:
            raise CannotRun(f"set to {limits} by {os.getuid()}")

        self.patch(resource, "setrlimit", limit)
        found = self.reason(shell("", uid=NOBODY.pw_uid, openFiles=1024))
        self.assertEqual(found, "set to (1024, 1024) by 0")

    def test_closedProgram(self) -> None:
        """
        If the program, its interpreter or the folder is closed to the user, that is
        said.
        """
        folder = openFolder(self)
        closed = folder / "closed"
        closed.mkdir(0o700)
        program = script(closed / "program", "#!/bin/sh\n")
        why = f"is in {closed}, which is closed to it"
        start = f"user nobody cannot run {program}: this user may not execute it: "
        for command, path in ((program, "/bin"), ("program", str(closed))):
            launch = Launch("a", [command], {"PATH": path}, uid=NOBODY.pw_uid)
            reason = self.reason(launch)
            self.assertTrue(reason.startswith(start), reason)
            self.assertIn(why, reason)
        indirect = script(folder / "indirect", f"#!{program}\n")
        reason = self.reason(Launch("a", [indirect], {}, uid=NOBODY.pw_uid))
        self.assertIn("this user may not execute its interpreter: ", reason)
        self.assertIn(why, reason)
        reason = self.reason(shell("", folder=str(closed), uid=NOBODY.pw_uid))
        self.assertEqual(
            reason,
            f"user nobody may not enter the folder {closed}: open it to this user, or"
            " name another folder",
        )

    def test_ownProgram(self) -> None:
        """
        The program is looked for as the user: one that is closed to it is passed over.
        """
        folder = openFolder(self)
        for name, mode in (("closed", 0o700), ("open", 0o755)):
            (folder / name).mkdir()
            script(folder / name / "program", f"#!/bin/sh\necho {name}\n")
            (folder / name).chmod(mode)
        path = f"{folder}/closed:{folder}/open:/bin"
        launch = Launch("a", ["program"], {"PATH": path}, uid=NOBODY.pw_uid)
        self.assertEqual(answer(launch), ("open\n", 0))

    def test_withoutKill(self) -> None:
        """
        Without the capability to end it, no process of another user is started.
        """
        with mock.patch.object(_kernel, "maySignalUsers", return_value=False):
            reason = self.reason(shell("", uid=NOBODY.pw_uid))
            self.assertEqual(answer(shell("exit 4", uid=os.getuid())), ("", 4))
        self.assertIn("needs CAP_KILL, which this process lacks", reason)

    def test_refused(self) -> None:
        """
        If the kernel refuses the user, that is said.
        """
        error = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        with mock.patch.object(os, "setresuid", side_effect=error):
            reason = self.reason(shell("", uid=NOBODY.pw_uid))
        self.assertEqual(
            reason,
            f"becoming user {NOBODY.pw_uid} is refused by the kernel: Operation not"
            " permitted",
        )


class FailureTests(LaunchTestCase):
    """
    Tests for processes that cannot be started.
    """

    def test_program(self) -> None:
        """
        The reason says what is wrong with the program.
        """
        folder = openFolder(self)
        plain = script(folder / "plain", "#!/bin/sh\n", 0o644)
        lost = script(folder / "lost", "#!/no/such\n")
        noise = script(folder / "noise", "noise")
        for command, reason in (
            ("/no/such", "the program '/no/such' does not exist"),
            (
                "no-such",
                "the program 'no-such' is in no folder of its PATH, /usr/bin:/bin: name"
                " its whole path",
            ),
            (plain, f"{plain} is not executable: make it so, as with 'chmod +x'"),
            (lost, "the interpreter that its first line names is missing"),
            (noise, os.strerror(errno.ENOEXEC)),
        ):
            found = self.reason(Launch("a", [command], ENVIRONMENT))
            self.assertTrue(found.endswith(reason), found)
        self.assertIn("no words", self.reason(Launch("a", [], {})))
        found = self.reason(Launch("a", [SH, "a\0b"], {}))
        self.assertIn("cannot be passed on: embedded null byte", found)

    def test_relative(self) -> None:
        """
        A relative path begins at the folder of the process.
        """
        folder = openFolder(self)
        script(folder / "program", "#!/bin/sh\necho up\n")
        launch = Launch("a", ["./program"], ENVIRONMENT, folder=str(folder))
        self.assertEqual(answer(launch), ("up\n", 0))

    def test_folder(self) -> None:
        """
        The reason says what is wrong with the folder.
        """
        folder = openFolder(self)
        (folder / "file").write_text("")
        for name, reason in (
            ("none", "the folder {} does not exist: make it"),
            ("file", "{} is not a folder"),
        ):
            path = str(folder / name)
            found = self.reason(shell("", folder=path))
            self.assertEqual(found, reason.format(path))
        long = f"/{'x' * 300}"
        found = self.reason(shell("", folder=long))
        self.assertEqual(found, f"the folder {long}: File name too long")

    def test_limit(self) -> None:
        """
        A limit above the kernel's own is refused, with the numbers.
        """
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        _, own = resource.getrlimit(resource.RLIMIT_NOFILE)
        found = self.reason(shell("", openFiles=most + 1))
        self.assertIn(f"cannot be {most + 1}: this process has {own}, and", found)
        self.assertIn(f"fs.nr_open, is {most})", found)

    def test_notRoot(self) -> None:
        """
        Without root, no other user can be had.
        """
        self.patch(os, "getuid", lambda: 1000)
        self.patch(os, "getresuid", lambda: (1000,) * 3)
        found = self.reason(shell("", uid=NOBODY.pw_uid))
        self.assertEqual(
            found,
            f"becoming user {NOBODY.pw_uid} needs root: start as root, or leave it out",
        )

    def test_exhausted(self) -> None:
        """
        If no pipe, no process or no descriptor is left, that is said.
        """
        error = OSError(errno.EAGAIN, "no more")
        with mock.patch.object(os, "fork", side_effect=error):
            found = self.reason(shell(""))
        self.assertEqual(found, "no process can be started: no more")
        reader, writer = os.pipe()
        with mock.patch.object(os, "pipe", side_effect=error):
            failure = self.assertRaises(CannotRun, _launch.start, shell(""), writer)
        self.assertEqual(str(failure), "no pipe can be made: no more")
        os.close(reader)
        os.close(writer)
        found = self.reason(shell("", descriptors=[999]))
        self.assertEqual(found, "the process cannot be set up: Bad file descriptor")

    def test_unexpected(self) -> None:
        """
        Whatever happens in the child, it does not go on as its parent.
        """
        for error in (RuntimeError("odd"), KeyboardInterrupt("odd"), SystemExit("odd")):
            with mock.patch.object(forking, "closeFrom", side_effect=error):
                self.assertEqual(self.reason(shell("")), "odd")

    def test_hangs(self) -> None:
        """
        A child that does not get as far as the program is killed after a while.
        """
        self.patch(_launch, "BEGIN_SECONDS", 0.2)
        with mock.patch.object(
            _kernel, "endWithParent", side_effect=lambda _: time.sleep(99)
        ):
            found = self.reason(shell(""))
        self.assertIn("did not begin its program within 0.2 s", found)

    def test_hangsOn(self) -> None:
        """
        If a child that was killed does not end at once, a later start waits for it.
        """
        self.patch(_launch, "REAP_SECONDS", 0.01)
        pid = _launch.start(shell("sleep 99"), 2)
        with mock.patch.object(os, "kill"), mock.patch.object(os, "killpg"):
            _launch.abort(pid)
        self.assertEqual(children() - self._others, {pid})
        os.killpg(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.assertEqual(answer(shell("echo up")), ("up\n", 0))


class EnvironmentTests(SynchronousTestCase):
    """
    Tests for L{environmentFor}.
    """

    def test_inherited(self) -> None:
        """
        What is for the supervisor alone is left out, and the label is added.
        """
        folder = os.path.dirname(sys.executable)
        inherited = {
            "LANG": "C.UTF-8",
            "LISTEN_ADDRESS": "kept",
            "PATH": "/bin",
            **dict.fromkeys(
                [
                    "NOTIFY_SOCKET",
                    "WATCHDOG_USEC",
                    "WATCHDOG_PID",
                    "LISTEN_FDS",
                    "LISTEN_PID",
                    "LISTEN_FDNAMES",
                    "LISTEN_PIDFDID",
                    "PORTLISTEN_LABEL",
                    "SUDO_USER",
                    "SUDO_COMMAND",
                ],
                "not for it",
            ),
        }
        self.assertEqual(
            environmentFor(inherited, None, "web-1", {"OWN": "own"}),
            {
                "LANG": "C.UTF-8",
                "LISTEN_ADDRESS": "kept",
                "PATH": f"{folder}:/bin",
                "PYTHONUNBUFFERED": "1",
                "PORTLISTEN_LABEL": "web-1",
                "OWN": "own",
            },
        )

    def test_path(self) -> None:
        """
        The folder of this Python is not repeated, and a PATH is made if none is
        inherited.
        """
        folder = os.path.dirname(sys.executable)
        for path in (f"{folder}:/bin", folder):
            found = environmentFor({"PATH": path}, None, "a", {})
            self.assertEqual(found["PATH"], path)
        found = environmentFor({}, None, "a", {})
        self.assertEqual(found["PATH"], f"{folder}:{os.defpath}")
        self.assertEqual(shutil.which("sh", path=found["PATH"]), "/bin/sh")

    def test_own(self) -> None:
        """
        The file's own variables replace all others, and what is inherited replaces a
        default.
        """
        extra = {"PATH": "/own", "PYTHONUNBUFFERED": "", "NOTIFY_SOCKET": "own"}
        found = environmentFor({}, None, "a", extra)
        self.assertEqual({**found, **extra}, found)
        found = environmentFor({"PYTHONUNBUFFERED": "x"}, None, "a", {})
        self.assertEqual(found["PYTHONUNBUFFERED"], "x")

    def test_user(self) -> None:
        """
        The variables of a user are that user's.  If no user has the number, none is
        set.
        """
        inherited = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "sh"}
        found = environmentFor(inherited, DAEMON.pw_uid, "a", {})
        self.assertEqual((found["USER"], found["HOME"]), ("daemon", DAEMON.pw_dir))
        found = environmentFor(inherited, unusedUID(), "a", {})
        self.assertEqual(set(found) & set(inherited), set())
        found = environmentFor(inherited, None, "a", {})
        self.assertEqual(found["HOME"], "/root")
