"""
Tests for L{portlisten._process.users}.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from unittest import mock, skipIf

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._process import users
from portlisten.errors import CannotRun
from tests.support.users import unusedUID

NOBODY = pwd.getpwnam("nobody")
DAEMON = pwd.getpwnam("daemon")

needsRoot = skipIf(os.getuid() != 0, "becoming another user needs root")

#: Prints the process's users, groups and capabilities.
SHOW = """
import os
from portlisten import _kernel
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), _kernel.hasCapabilities())
"""


def child(program: str, *wrapper: str) -> str:
    """
    Run a program in a process of its own.

    @param wrapper: the words of a command that runs it.
    @return: what it prints.
    """
    command = [*wrapper, sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def becoming(uid: int | None, gid: int | None, *wrapper: str, before: str = "") -> str:
    """
    Become a user in a process of its own.

    @param wrapper: the words of a command that runs it.
    @param before: what the process runs before.
    @return: its users, groups and whether it has capabilities; or the error.
    """
    return child(
        f"""
from portlisten import _kernel
from portlisten._process import users
from portlisten.errors import CannotRun
{before}
try:
    users.become({uid!r}, {gid!r})
except CannotRun as error:
    print(error)
else:
{"".join(f"    {line}" for line in SHOW.splitlines(keepends=True))}
""",
        *wrapper,
    )


def shown(uid: int, gid: int, groups: list[int], capabilities: bool = False) -> str:
    """
    What L{SHOW} prints.
    """
    return f"{(uid,) * 3} {(gid,) * 3} {sorted(groups)} {capabilities}"


class ObstacleTests(SynchronousTestCase):
    """
    Tests for L{users.obstacle} and L{users.become} in this process, which stays as it
    is.
    """

    def be(self, uid: int, may: bool = True) -> None:
        """
        Pretend to be this user.
        """
        self.patch(os, "getuid", lambda: uid)
        self.patch(os, "getresuid", lambda: (uid,) * 3)
        self.patch(_kernel, "mayChangeUsers", lambda: may)

    def assertRefused(self, reason: str, uid: int | None, gid: int | None) -> None:
        """
        Expect that the process cannot become this, and why.
        """
        error = self.assertRaises(CannotRun, users.become, uid, gid)
        self.assertIn(reason, str(error))
        self.assertEqual(error.code, 1)

    def test_notRoot(self) -> None:
        """
        A process that is not root cannot change.
        """
        self.be(1000)
        self.assertRefused("becoming user 0 needs root: ", 0, None)
        self.assertRefused("becoming group 12345 needs root: ", None, 12345)
        self.assertRefused("becoming user 1000 needs root: ", 1000, 12345)

    def test_withoutCapabilities(self) -> None:
        """
        Root without the capabilities cannot either.
        """
        self.be(0, may=False)
        self.assertRefused("needs CAP_SETUID and CAP_SETGID", NOBODY.pw_uid, None)
        self.assertRefused("needs CAP_SETUID and CAP_SETGID", None, 12345)

    def test_unknown(self) -> None:
        """
        A number that no user has is refused.
        """
        self.be(0)
        uid = unusedUID()
        self.assertRefused(f"no user has the number {uid}, ", uid, None)
        self.assertRefused("make one, as with 'adduser --system'", uid, 1)

    def test_none(self) -> None:
        """
        Nothing is in the way of a user that exists, for root or for that user itself.
        """
        self.be(0)
        self.assertIsNone(users.obstacle("it", NOBODY.pw_uid, True))
        self.be(NOBODY.pw_uid, may=False)
        self.assertIsNone(users.obstacle("it", NOBODY.pw_uid, False))

    def test_nothing(self) -> None:
        """
        To become nobody in particular, or what the process is already, needs nothing.
        """
        uid, gid = os.getuid(), os.getgid()
        self.patch(_kernel, "mayChangeUsers", lambda: False)
        users.become(None, None)
        users.become(uid, None)
        users.become(None, gid)
        users.become(uid, gid)


class IdentityTests(SynchronousTestCase):
    """
    Tests for L{users.identityOf} and L{users.nameOf}.
    """

    def test_user(self) -> None:
        """
        A user has all of its groups.
        """
        found = users.identityOf(DAEMON.pw_uid, None)
        groups = tuple(os.getgrouplist(DAEMON.pw_name, DAEMON.pw_gid))
        self.assertEqual((found.uid, found.gid), (DAEMON.pw_uid, DAEMON.pw_gid))
        self.assertEqual(found.groups, groups)
        self.assertEqual(users.nameOf(DAEMON.pw_uid), "daemon")

    def test_unknown(self) -> None:
        """
        A number that no user has gets the group that is given, or the same number, and
        no other groups.
        """
        uid = unusedUID()
        for given, gid in ((None, uid), (7, 7)):
            found = users.identityOf(uid, given)
            self.assertEqual((found.uid, found.gid, found.groups), (uid, gid, ()))
        self.assertEqual(users.nameOf(uid), str(uid))

    def test_anyNumber(self) -> None:
        """
        Any number has a name: another process may have sent it.
        """
        for uid in (987654, -5, 2**40, 2**70):
            self.assertEqual(users.nameOf(uid), str(uid))

    def test_groupOfOthers(self) -> None:
        """
        If the group of that number is another's, a group must be given.
        """
        self.patch(pwd, "getpwuid", mock.Mock(side_effect=KeyError))
        gid = grp.getgrnam("mail").gr_gid
        error = self.assertRaises(CannotRun, users.identityOf, gid, None)
        self.assertIn("the group of that number is mail: say which", str(error))
        self.assertEqual(users.identityOf(gid, 7).gid, 7)


@needsRoot
class BecomeTests(SynchronousTestCase):
    """
    Tests for L{users.become}, in processes of their own.
    """

    def test_user(self) -> None:
        """
        The process becomes the user, with all of the user's groups and with none of
        root's, and has no capability.
        """
        name, gid = DAEMON.pw_name, DAEMON.pw_gid
        groups = os.getgrouplist(name, gid)
        self.assertEqual(
            becoming(DAEMON.pw_uid, None), shown(DAEMON.pw_uid, gid, groups)
        )

    def test_supplementary(self) -> None:
        """
        The groups that name the user as a member are among the groups.
        """
        before = f"""
import os
def getgrouplist(name, gid):
    assert name == {DAEMON.pw_name!r}, name
    return [gid, 4321]
os.getgrouplist = getgrouplist
"""
        gid = DAEMON.pw_gid
        self.assertEqual(
            becoming(DAEMON.pw_uid, None, before=before),
            shown(DAEMON.pw_uid, gid, [gid, 4321]),
        )

    def test_group(self) -> None:
        """
        A group that is given replaces the user's own.
        """
        gid = grp.getgrnam("mail").gr_gid
        groups = os.getgrouplist(DAEMON.pw_name, gid)
        self.assertEqual(
            becoming(DAEMON.pw_uid, gid), shown(DAEMON.pw_uid, gid, groups)
        )

    def test_groupAlone(self) -> None:
        """
        A group alone leaves the user as it is, and takes all other groups away.
        """
        gid = grp.getgrnam("mail").gr_gid
        self.assertEqual(becoming(None, gid), shown(0, gid, [gid], capabilities=True))

    def test_effectiveUser(self) -> None:
        """
        A process that is the user only for the time being becomes it for good.
        """
        before = f"import os; os.setresuid({NOBODY.pw_uid}, {NOBODY.pw_uid}, 0)"
        self.assertIn("needs root", becoming(NOBODY.pw_uid, None, before=before))
        before = f"import os; os.setresuid(0, 0, {NOBODY.pw_uid})"
        groups = os.getgrouplist(NOBODY.pw_name, NOBODY.pw_gid)
        self.assertEqual(
            becoming(NOBODY.pw_uid, None, before=before),
            shown(NOBODY.pw_uid, NOBODY.pw_gid, groups),
        )

    def test_realUser(self) -> None:
        """
        A process of the user gets no more than it has, and needs nothing for it.
        """
        before = f"import os; os.setgroups([]); os.setuid({NOBODY.pw_uid})"
        self.assertEqual(
            becoming(NOBODY.pw_uid, 0, before=before), shown(NOBODY.pw_uid, 0, [])
        )

    def test_keepsCapabilities(self) -> None:
        """
        A process that would keep capabilities does not go on: with the securebits
        C{SECBIT_NO_SETUID_FIXUP} and C{SECBIT_KEEP_CAPS} of capabilities(7).
        """
        for bits in (1 << 2, 1 << 4):
            # linux/include/uapi/linux/prctl.h: PR_SET_SECUREBITS
            before = f"import ctypes; assert not ctypes.CDLL(None).prctl(28, {bits})"
            self.assertIn(
                f"becoming user {NOBODY.pw_uid} would not be for good",
                becoming(NOBODY.pw_uid, None, before=before),
            )

    def test_refused(self) -> None:
        """
        In a user namespace that lacks the user, the kernel refuses.
        """
        if not self.namespaces():
            raise self.skipTest("no user namespaces here")
        self.assertIn(
            f"becoming user {NOBODY.pw_uid} is refused by the kernel: ",
            becoming(NOBODY.pw_uid, None, "unshare", "--user", "--map-root-user"),
        )

    def namespaces(self) -> bool:
        """
        Whether a process may make a user namespace.
        """
        command = ["unshare", "--user", "--map-root-user", "true"]
        return not subprocess.run(command, capture_output=True, check=False).returncode


class EnvironmentTests(SynchronousTestCase):
    """
    Tests for L{users.environment}.
    """

    def entry(self, home: str, shell: str) -> dict[str, str]:
        """
        Make the variables of a user with this entry.
        """
        made = pwd.struct_passwd(("www", "x", 1234, 1234, "", home, shell))
        self.patch(pwd, "getpwuid", {1234: made}.__getitem__)
        return users.environment(1234)

    def test_person(self) -> None:
        """
        A user with a home and a shell has all variables.
        """
        self.assertEqual(
            self.entry("/home/www", "/bin/bash"),
            {
                "HOME": "/home/www",
                "SHELL": "/bin/bash",
                "USER": "www",
                "LOGNAME": "www",
            },
        )
        self.assertEqual({*self.entry("/home/www", "/bin/sh")}, {*users.VARIABLES})

    def test_system(self) -> None:
        """
        A user that nobody logs in as has no shell, and perhaps no home.
        """
        names = {"USER": "www", "LOGNAME": "www"}
        for shell in ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", ""):
            for home in ("/", ""):
                self.assertEqual(self.entry(home, shell), names)
            self.assertEqual(self.entry("/srv", shell), {**names, "HOME": "/srv"})

    def test_unknown(self) -> None:
        """
        A number that no user has has no environment.
        """
        uid = unusedUID()
        error = self.assertRaises(CannotRun, users.environment, uid)
        self.assertIn(f"no user has the number {uid}: make one", str(error))
