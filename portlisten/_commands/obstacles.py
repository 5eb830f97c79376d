"""
What keeps the workers of a file from running on this machine.
"""

from __future__ import annotations

import grp
import os
import pwd
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.settings import ListenerSettings
from portlisten._config.wrong import Problem, key
from portlisten._process import programs, users
from portlisten.errors import CannotRun, PathError

#: What a worker needs to connect to a Unix socket.
_WRITE = 0o2


def find(path: str | None, groups: Iterable[WorkersSettings]) -> Iterator[Problem]:
    """
    Find what the machine lacks for a file.

    @param path: the path of the channel, or L{None} if it is wrong.
    @param groups: the groups of workers.
    """
    if path is not None:
        try:
            paths.check(path)
        except PathError as error:
            yield Problem("path", str(error))
    for group in groups:
        yield from _ofGroup(path, group)


def ofUsers(settings: RunSettings) -> Iterator[Problem]:
    """
    Find groups of workers that the listener, or the permissions of the channel's path,
    would not let in.
    """
    listener = settings.listener
    if listener.group is not None and not _mayGive(listener.group):
        yield Problem(
            "group",
            f"only root, and members of {groupName(listener.group)}, can give it the"
            " channel's path: name a group of yours, or leave it out",
        )
    for group in settings.workers:
        uid = os.geteuid() if group.user is None else group.user
        own, gids = _groupsOf(uid, group.group)
        where = f"{key('workers', group.name)}.user"
        owner = os.geteuid() if settings.user is None else settings.user
        if not _mayConnect(listener, uid, gids):
            yield Problem(
                where,
                f"{users.nameOf(uid)} may not connect to {listener.path}: let the path"
                f' belong to its group, as in group = "{groupName(own)}" above the'
                " first [table], or see mode",
            )
        elif not _isAllowed(listener, owner, uid, gids):
            yield Problem(
                where,
                f"allow-user and allow-group leave {users.nameOf(uid)} out: add it"
                " there",
            )


def _mayGive(gid: int) -> bool:
    return os.geteuid() == 0 or gid in (os.getegid(), *os.getgroups())


def _groupsOf(uid: int, gid: int | None) -> tuple[int, set[int]]:
    """
    Find the group of a user's processes, and all groups that they have.

    @param gid: the group, or L{None} for the user's own.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return os.getegid(), {os.getegid(), *os.getgroups()}
    own = entry.pw_gid if gid is None else gid
    return own, {own, *os.getgrouplist(entry.pw_name, own)}


def _mayConnect(listener: ListenerSettings, uid: int, gids: set[int]) -> bool:
    """
    Say whether a user may write to the channel's path.  This process makes it.
    """
    group = os.getegid() if listener.group is None else listener.group
    if uid == os.geteuid():
        shift = 6
    elif group in gids:
        shift = 3
    else:
        shift = 0
    return bool(listener.mode >> shift & _WRITE)


def _isAllowed(
    listener: ListenerSettings, owner: int, uid: int, gids: set[int]
) -> bool:
    if not listener.allowUsers and not listener.allowGroups:
        return True
    return uid in (*listener.allowUsers, owner) or bool(
        gids.intersection(listener.allowGroups)
    )


def _ofGroup(path: str | None, group: WorkersSettings) -> Iterator[Problem]:
    where = key("workers", group.name)
    found = _openFiles(group.openFiles)
    if found:
        yield Problem(f"{where}.open-files", found)
    if not os.path.isdir(group.folder):
        yield Problem(
            f"{where}.folder", f"the folder {group.folder} does not exist: make it"
        )
        return
    program = _program(group)
    if program is None:
        name = group.command[0]
        searched = "" if os.sep in name else f" in any folder of {_searched(group)}"
        yield Problem(
            f"{where}.command",
            f"the program {name!r} does not exist{searched}: give its whole path, or"
            " install it",
        )
        return
    folder = os.path.dirname(path or "")
    if not os.path.isdir(folder):
        folder = ""

    def look() -> str:
        return _obstacle(group.folder, program, folder)

    found = look() if os.geteuid() != 0 else _asUser(group, look)
    if found:
        yield Problem(f"{where}.command", found)


def _openFiles(wanted: int | None) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() == 0:
        hard = _kernel.mostOpenFiles() or resource.RLIM_INFINITY
    if wanted is None or hard == resource.RLIM_INFINITY or wanted <= hard:
        return ""
    return f"{wanted} is more than this host allows: give at most {hard}"


def _searched(group: WorkersSettings) -> str:
    return group.environment.get("PATH") or programs.searchPath(os.environ)


def _program(group: WorkersSettings) -> str | None:
    """
    Find the program of a group.

    @return: its path, or L{None} if it does not exist.
    """
    name = group.commandFor("", "")[0]
    if os.sep not in name:
        return shutil.which(name, os.F_OK, _searched(group))
    found = os.path.join(group.folder, name)
    return found if os.path.isfile(found) else None


def _obstacle(folder: str, program: str, channel: str) -> str:
    """
    Find what keeps this process from being a worker.

    @param channel: the folder of the channel's path; empty if that is not known.
    """
    if not os.access(folder, os.X_OK, effective_ids=True):
        return f"its folder {folder} is closed to this user: choose another one"
    found = programs.obstacle(program)
    if found:
        return f"{program}: {found}"
    if channel and not os.access(channel, os.X_OK, effective_ids=True):
        return f"the folder of path, {channel}, is closed to this user: open it"
    return ""


def _asUser(group: WorkersSettings, look: Callable[[], str]) -> str:
    """
    Call a function in a process that is the user of some workers.

    @return: what the function returns; or why it could not be called.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            try:
                users.become(group.user, group.group)
                answer = look()
            except CannotRun as error:
                answer = str(error)
            except Exception as error:
                answer = f"it cannot be checked: {error!r}"
            os.write(writer, answer.encode("utf-8", "backslashreplace"))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read().decode("utf-8", "replace")
    os.waitpid(child, 0)
    who = "" if group.user is None else f"as user {users.nameOf(group.user)}: "
    return answer and f"{who}{answer}"


def groupName(gid: int) -> str:
    """
    Give the name of a group, or the number if there is no name.
    """
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
