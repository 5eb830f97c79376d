"""
The user and the group of this process, and how it becomes others.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from portlisten import _kernel
from portlisten.errors import CannotRun

#: The variables that L{environment} may set.  Those that it leaves out are to be
#: removed: they would tell of the user that the process was before.
VARIABLES = ("HOME", "LOGNAME", "SHELL", "USER")

# is_nologin_shell in systemd's src/basic/user-util.c
_PLACEHOLDERS = ("nologin", "false", "true")


@dataclass(frozen=True)
class Identity:
    """
    A user, a group and groups that a process can become.

    @ivar uid: the user, or L{None} to keep the user.
    @ivar gid: the group.
    @ivar groups: all groups of the process afterwards.
    @ivar what: the change in words, such as "becoming user 33".
    """

    uid: int | None
    gid: int
    groups: tuple[int, ...]
    what: str

    def assume(self) -> None:
        """
        Become this for good.  This looks nothing up, so a forked child may call it.

        After a failure, the process may have other groups than before: end it.

        @raise CannotRun: if that is impossible, or if the process could take back what
            it was.
        """
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            if self.uid is not None:
                os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise CannotRun(
                f"{self.what} is refused by the kernel: {error.strerror}"
            ) from None
        if self.uid and _returns():
            raise CannotRun(
                f"{self.what} would not be for good: the process keeps capabilities, as"
                " its securebits say; start it without them"
            )


def obstacle(what: str, uid: int | None, changes: bool) -> str | None:
    """
    Say why this process cannot become a user.

    @param what: the beginning of the sentence: what asks for the user.
    @param uid: the user, or L{None} if only a group is asked for.
    @param changes: whether the user or a group changes, which needs privilege.
    @return: one sentence, or L{None} if nothing is in the way.
    """
    if changes:
        found = lacksPrivilege(what)
        if found is not None:
            return found
    try:
        if uid is not None:
            pwd.getpwuid(uid)
    except KeyError:
        return (
            f"{what}: no user has the number {uid}, so the process would get no"
            " groups: make one, as with 'adduser --system'"
        )
    return None


def lacksPrivilege(what: str) -> str | None:
    """
    Say why this process cannot become any other user.

    @param what: the beginning of the sentence: what asks for the user.
    @return: one sentence, or L{None} if nothing is in the way.
    """
    if os.getuid() != 0:
        return f"{what} needs root: start as root, or leave it out"
    if not _kernel.mayChangeUsers():
        return (
            f"{what} needs CAP_SETUID and CAP_SETGID, which this process lacks though"
            " it is root: grant them, or start it as that user"
        )
    return None


def isAlready(uid: int | None, gid: int | None) -> bool:
    """
    Whether this process is a user and has a group for good.

    @param uid: the user, or L{None} for any.
    @param gid: the group, or L{None} for any.
    """
    same = uid is None or os.getresuid() == (uid,) * 3
    return same and (gid is None or os.getresgid() == (gid,) * 3)


def identityOf(uid: int | None, gid: int | None) -> Identity:
    """
    Look up what a process must become.

    A number that no user has, as in a container, has no groups but the given one.  If
    none is given, its group has the same number, as with C{DynamicUser=} in
    systemd.exec(5).

    @param uid: the user, or L{None} to keep the user.
    @param gid: the group, or L{None} for the user's own.  Not both are L{None}.
    @raise CannotRun: if no user has this number, no group is given, and the group of
        the same number is another's.
    """
    if uid is None:
        assert gid is not None
        return Identity(None, gid, (gid,), f"becoming group {gid}")
    what = f"becoming user {uid}"
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(uid, _groupOfUnknown(uid) if gid is None else gid, (), what)
    gid = entry.pw_gid if gid is None else gid
    return Identity(uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), what)


def _groupOfUnknown(uid: int) -> int:
    try:
        name = grp.getgrgid(uid).gr_name
    except KeyError:
        return uid
    raise CannotRun(
        f"no user has the number {uid}, and the group of that number is {name}: say"
        " which group it should have"
    )


def nameOf(uid: int) -> str:
    """
    Find the name of a user, or its number if it has none.

    @param uid: the number; any, since another process may have sent it.
    """
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError, ValueError):
        return str(uid)


def become(uid: int | None, gid: int | None) -> None:
    """
    Become a user for good, with the groups of that user.  If only a group is given,
    keep the user, and have no other group.  If the process is that user and has that
    group already, do nothing.

    After a failure, the process may have other groups than before: end it.

    @param uid: the user, or L{None} to keep the user.
    @param gid: the group, or L{None} for the user's own.
    @raise CannotRun: if that is impossible, or if the process could take back what it
        was.
    """
    if isAlready(uid, gid):
        return
    what = f"becoming group {gid}" if uid is None else f"becoming user {uid}"
    found = obstacle(what, uid, changes=True)
    if found is not None:
        raise CannotRun(found)
    identityOf(uid, gid).assume()


def _returns() -> bool:
    """
    Whether this process, which is not root any more, can take privileges back.
    """
    try:
        os.setuid(0)
    except OSError:
        return _kernel.hasCapabilities()
    return True


def environmentOf(uid: int | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """
    Make the environment of a program that a user runs: the inherited one, with the
    variables of that user in the place of those that tell of another.

    @param uid: the user, or L{None} to change nothing.
    @raise CannotRun: if no user has this number.
    """
    if uid is None:
        return dict(inherited)
    kept = {name: value for name, value in inherited.items() if name not in VARIABLES}
    return kept | environment(uid)


def environment(uid: int) -> dict[str, str]:
    """
    Make the variables that a program of a user finds: as for C{User=} in
    systemd.exec(5).  As there, HOME is left out if it is the root folder, and SHELL if
    the user has no login shell.  See L{VARIABLES}.

    @raise CannotRun: if no user has this number.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise CannotRun(
            f"no user has the number {uid}: make one, as with 'adduser --system'"
        ) from None
    made = {"LOGNAME": entry.pw_name, "USER": entry.pw_name}
    if entry.pw_dir.strip("/"):
        made["HOME"] = entry.pw_dir
    if os.path.basename(entry.pw_shell) not in ("", *_PLACEHOLDERS):
        made["SHELL"] = entry.pw_shell
    return made
