"""
The channel's path: bound with the right permissions, replaced if it is stale, and
never taken from a process that lives there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._kernel import MAXIMUM_PATH
from portlisten.errors import PathError

log = Logger()

#: How long a start waits for another one at the same path, in seconds.
LOCK_TIMEOUT_SECONDS = 5.0

#: After how many seconds of waiting that is logged.
LOCK_NOTICE_SECONDS = 1.0

#: The pause between two tries to take the lock, in milliseconds.
LOCK_RETRY_MILLISECONDS = 20

_FOLDER_ADVICE = "let PATH's folder belong to root, or to the listener's user"


def check(path: str) -> None:
    """
    Check a path that a channel is, or will be, bound to.

    @raise PathError: if it is too long, its folder is missing, or something
        that is no socket is there.
    """
    length = len(os.fsencode(path))
    if length > MAXIMUM_PATH:
        raise PathError(
            f"the path is {length} bytes long and the kernel takes {MAXIMUM_PATH}:"
            f" choose a shorter one than {path}"
        )
    if not path:
        raise PathError("the path is empty: give one")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise PathError(
            f"the folder {folder!r} of {path!r} does not exist: make it first"
        )
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise PathError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise PathError(
            f"{path} exists and is no socket: choose another path, or remove it"
        )


class BoundPath:
    """
    A bound Unix socket and the name that leads to it.

    @ivar socket: the bound socket, non-blocking.  The user of this object closes it;
        L{remove} does not.
    """

    def __init__(self, path: str, sock: socket.socket) -> None:
        self.socket = sock
        self._path = path
        status = os.lstat(path)
        self._identity = (status.st_dev, status.st_ino)

    def moveTo(self, path: str) -> None:
        """
        Give it another name.  If the name exists, it is replaced, and leads to a
        socket at every moment.

        @raise OSError: if that is impossible.
        """
        os.rename(self._path, path)
        self._path = path

    def remove(self) -> bool:
        """
        Remove the name, if it is still this socket's and not a successor's.  Call it
        while the socket is open: a successor's may get the same inode afterwards.
        After privileges were dropped, this may not be allowed.  That does no harm: the
        next listener replaces a stale name.

        @return: whether it was removed.
        """
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) != self._identity:
                return False
            os.unlink(self._path)
        except OSError:
            return False
        return True


def bind(
    path: str,
    mode: int,
    group: int | None,
    backlog: int | None = None,
    replace: bool = False,
) -> BoundPath:
    """
    Bind, and perhaps listen.  From the first moment that the name exists, only users
    can connect or send that may do so later.

    @param mode: the permissions of the path.
    @param group: the group of the path, or L{None} for the process's.
    @param backlog: that of a stream socket, or L{None} for a datagram socket.
    @param replace: whether to take the name from a process that lives there.
    @return: the socket and its name, both the caller's.
    @raise PathError: if that is impossible, or a process lives there.  Nothing is
        left behind then.
    """
    check(path)
    kind = socket.SOCK_DGRAM if backlog is None else socket.SOCK_STREAM
    with _locked(path):
        _removeStaleSocket(path, kind, replace)
        name = path
        if replace:
            name = f"{path}.{os.getpid()}"
            check(name)
            _removeStaleSocket(name, kind)
        tight = mode if group is None else mode & ~0o077
        bound = _bindTo(name, path, kind, tight)
        try:
            if group is not None:
                _giveToGroup(name, tight, mode, group)
            if backlog is not None:
                bound.socket.listen(backlog)
            if replace:
                bound.moveTo(path)
        except PathError:
            bound.remove()
            bound.socket.close()
            raise
        except OSError as error:
            bound.remove()
            bound.socket.close()
            advice = "" if group is None else "; --group takes root, or a member of it"
            raise PathError(
                f"cannot set up {path}: {error.strerror}{advice}"
            ) from error
        return bound


def _bindTo(name: str, path: str, kind: socket.SocketKind, mode: int) -> BoundPath:
    """
    Bind a new socket to a name.

    @param path: the name that it will have in the end.
    @param mode: the permissions of the name.
    @raise PathError: if that is impossible.
    """
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(name)
    except OSError as error:
        sock.close()
        raise PathError(f"cannot bind {path}: {error.strerror}") from error
    finally:
        os.umask(umask)
    try:
        return BoundPath(name, sock)
    except OSError as error:
        sock.close()
        raise PathError(
            f"cannot look at {path}: {error.strerror}; another user removed it:"
            f" {_FOLDER_ADVICE}"
        ) from error


def _giveToGroup(name: str, made: int, mode: int, group: int) -> None:
    """
    Give the path of a socket that was just bound to a group, and then change its
    permissions.  A user that may write to its folder can put something else there
    at any time, such as a symbolic link.  That is left as it is.

    @param made: the permissions that the socket was bound with.
    @raise PathError: if the name leads to something else by now.
    @raise OSError: if that is impossible.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        ours = (
            stat.S_ISSOCK(status.st_mode)
            and status.st_uid == os.geteuid()
            and status.st_nlink == 1
            and not stat.S_IMODE(status.st_mode) & ~made
        )
        if not ours:
            raise PathError(
                f"{name} changed while it was set up, because another user can write"
                f" to its folder, or the folder has a default ACL: {_FOLDER_ADVICE}"
            )
        # This leads to what was checked, even if the name leads elsewhere by now.
        same = f"/proc/self/fd/{descriptor}"
        try:
            os.chown(same, -1, group)
            if stat.S_IMODE(status.st_mode) != mode:
                os.chmod(same, mode)
        except FileNotFoundError:
            raise PathError(
                f"cannot give {name} to a group without /proc: mount it, in a chroot"
                " as well, or leave --group out"
            ) from None
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """
    Keep other processes from binding the same path at the same time.  The lock is the
    kernel's, on an empty file that is removed afterwards.  A process that dies loses
    the lock, and no pid is compared with anything.
    """
    name = path + ".lock"
    descriptor = _waitForLock(name)
    try:
        yield
    finally:
        try:
            os.unlink(name)
        except OSError:
            pass  # another user of the folder may have removed it
        os.close(descriptor)


def _waitForLock(name: str) -> int:
    """
    Take the lock.  If another process has it, wait.

    @return: the descriptor that holds it.
    @raise PathError: if the lock file cannot be used, or stays locked.
    """
    start = time.monotonic()
    noticed = False
    while True:
        descriptor = _tryLock(name)
        if descriptor is not None:
            return descriptor
        waited = time.monotonic() - start
        if waited > LOCK_TIMEOUT_SECONDS:
            raise PathError(
                f"another process has held {name} locked for"
                f" {LOCK_TIMEOUT_SECONDS:g} s: 'fuser {name}' shows which; end it, or"
                " choose another path"
            )
        if waited > LOCK_NOTICE_SECONDS and not noticed:
            noticed = True
            log.info("another process has locked {name}: waiting for it", name=name)
        select.poll().poll(LOCK_RETRY_MILLISECONDS)


def _tryLock(name: str) -> int | None:
    """
    Take the lock, if no other process has it.

    @return: the descriptor that holds it, or L{None}.
    @raise PathError: if the lock file cannot be used.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o600)
    except OSError as error:
        advice = ""
        if os.path.lexists(name):
            advice = "; it is in the way: remove it, or choose another path"
        raise PathError(f"cannot make {name}: {error.strerror}{advice}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PathError(
                f"{name}, the lock file, is no regular file: remove it, or choose"
                " another path"
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed the name since it was opened.
        if os.path.samestat(status, os.lstat(name)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _removeStaleSocket(
    path: str, kind: socket.SocketKind, replace: bool = False
) -> None:
    """
    Remove the name of a socket that no process is bound to any more.

    @param replace: whether a process may be bound to it, if its socket is of the
        same kind.
    @raise PathError: if a process is bound to it, or that cannot be told.
    """
    who = "listener" if kind == socket.SOCK_STREAM else "worker"
    probe = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        check(path)  # so that nothing but a socket is removed
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # its backlog is full, so it has one
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            raise PathError(
                f"a socket of another kind is bound to {path}: choose another path"
            ) from error
        raise PathError(
            f"cannot tell whether a {who} lives at {path}: {error.strerror}"
        ) from error
    finally:
        probe.close()
    if replace:
        return
    advice = "" if who == "listener" else " take over from it with --replace,"
    raise PathError(
        f"a {who} lives at {path} already: stop it,{advice} or choose another path"
    )


def connect(path: str, users: Collection[int]) -> socket.socket:
    """
    Connect to the listener at a path, and check its user.

    @param users: the users that the listener may have had when it started to listen.
        If empty: root, this process's user, and the owner of the path's folder, who
        can always put a listener there.
    @return: the non-blocking socket, which is the caller's.
    @raise OSError: if that fails, or the listener's user is another one.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
        who = _kernel.credentials(sock)
        if not users:
            owner = os.stat(os.path.dirname(path) or ".").st_uid
            users = {0, os.geteuid(), owner}
        if who.uid not in users:
            raise PermissionError(
                None,
                f"the listener there has the uid {who.uid}: --listener-user (in a"
                " description, listenerUser) must name it",
            )
    except OSError:
        sock.close()
        raise
    return sock


def explain(
    error: OSError, rule: str = "the path's mode and group say who may be a worker"
) -> str:
    """
    Say why connecting or sending to a path failed, and what to do.

    @param rule: says on what the permission depends.
    """
    if error.errno == errno.EACCES:
        return f"{error.strerror}; {rule}"
    if error.errno == errno.EPROTOTYPE:
        return "a socket of another kind is there"
    return str(error.strerror)
