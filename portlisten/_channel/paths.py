"""
The path of a channel.

It is bound with the right permissions.  A stale socket at the path is replaced.  The
path is never taken from a living process, unless the caller asks for that.
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
from typing import TypeAlias

from portlisten import _kernel
from portlisten._kernel import MAXIMUM_PATH
from portlisten.errors import PathError

#: How long one process waits for another that binds the same path, in seconds.
LOCK_TIMEOUT_SECONDS = 5.0

#: After how many seconds the wait is logged.
LOCK_NOTICE_SECONDS = 1.0

#: The pause between two tries to take the lock, in milliseconds.
LOCK_RETRY_MILLISECONDS = 20

#: The device and the inode of a file.
Place: TypeAlias = "tuple[int, int]"

_FOLDER_ADVICE = "let PATH's folder belong to root, or to the listener's user"


def check(path: str) -> None:
    """
    Check the path of a channel.

    @raise PathError: if the path is empty or too long, its folder is missing, or the
        file at the path is no socket.
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
    A bound Unix socket and its name.

    @param owned: whether the name is this process's to remove.

    @ivar socket: the bound socket, non-blocking.  The user of this object closes it;
        L{remove} does not.
    @ivar place: the device and the inode of the name.
    @ivar owned: see above.
    """

    def __init__(self, path: str, sock: socket.socket, owned: bool = True) -> None:
        self.socket = sock
        self.owned = owned
        self._path = path
        status = os.lstat(path)
        self.place: Place = (status.st_dev, status.st_ino)

    def setMode(self, mode: int, user: int = -1, group: int = -1) -> None:
        """
        Change the permissions and the owner of the name, if they are others.  Another
        file that is there by now never changes.

        @param user: its new owner, or -1 to keep the owner.
        @param group: likewise, its group.
        @raise OSError: if that is impossible.
        """
        descriptor = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self.place:
                raise OSError(errno.ESTALE, f"another file is at {self._path} by now")
            same = f"/proc/self/fd/{descriptor}"
            if user not in (-1, status.st_uid) or group not in (-1, status.st_gid):
                os.chown(same, user, group)
            if stat.S_IMODE(status.st_mode) != mode:
                os.chmod(same, mode)
        finally:
            os.close(descriptor)

    def moveTo(self, path: str) -> None:
        """
        Give the socket another name.  If the name exists, it is replaced, and leads to
        a socket at every moment.

        @raise OSError: if that fails.
        """
        os.rename(self._path, path)
        self._path = path

    def remove(self) -> bool:
        """
        Remove the name, if it still belongs to this socket and not to a successor's.
        Call this while the socket is open: afterwards, a successor's socket may get the
        same inode.  After privileges were dropped, this may fail.  That does no harm:
        the next listener replaces a stale name.

        @return: whether the name was removed.
        """
        if not self.owned:
            return False
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) != self.place:
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
    Bind a socket to a path.  If it is a stream socket, listen.  The permissions are
    right from the first moment: no user can connect or send that may not do so later.

    @param mode: the permissions of the path.
    @param group: the group of the path, or L{None} for the process's.
    @param backlog: the backlog of a stream socket, or L{None} for a datagram socket.
    @param replace: whether to take the path over from a living process.
    @return: the socket and its name.  The caller owns both.
    @raise PathError: if that fails, or a living process has the path.  Then no file is
        left behind.
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
                _give(name, tight, mode, -1, group)
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

    @param path: the final name, for error messages.
    @param mode: the permissions of the name.
    @raise PathError: if that fails.
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


def giveToUser(name: str, mode: int, user: int) -> None:
    """
    Change the owner of a socket's name, just after it was bound.

    @param mode: the permissions that it was bound with, and keeps.
    @raise PathError: if the name leads to another file by now, or /proc is missing.
    @raise OSError: if the change fails.
    """
    _give(name, mode, mode, user, -1)


def _give(name: str, made: int, mode: int, user: int, group: int) -> None:
    """
    Change the owner, the group and the permissions of a socket's name, just after it
    was bound.

    A user that may write to the folder can put another file there at any time, such as
    a symbolic link.  This never changes such a file.

    @param made: the permissions that the socket was bound with.
    @param mode: the permissions that it gets.
    @param user: its new owner, or -1 to keep the owner.
    @param group: its new group, or -1 to keep the group.
    @raise PathError: if the name leads to another file by now, or /proc is missing.
    @raise OSError: if the change fails.
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
        # This path leads to the checked file, even if the name leads elsewhere by now.
        same = f"/proc/self/fd/{descriptor}"
        try:
            os.chown(same, user, group)
            if stat.S_IMODE(status.st_mode) != mode:
                os.chmod(same, mode)
        except FileNotFoundError:
            advice = "" if group == -1 else ", or leave --group out"
            raise PathError(
                f"cannot give {name} away without /proc: mount it, in a chroot as well"
                f"{advice}"
            ) from None
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """
    Keep other processes from binding the same path at the same time.  This uses
    flock(2) on an empty file, which is removed afterwards.  If a process dies, the
    kernel releases its lock, and so no pid needs to be compared.
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

    @return: the descriptor that holds the lock.  The caller owns it.
    @raise PathError: if the lock file cannot be used, or stays locked for longer than
        L{LOCK_TIMEOUT_SECONDS}.
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
            _logWaiting(name)
        select.poll().poll(LOCK_RETRY_MILLISECONDS)


def _logWaiting(name: str) -> None:
    # Workers without Twisted use this module as well, and bind no path.
    from twisted.logger import Logger

    Logger(__name__).info(
        "another process has locked {name}: waiting for it",
        event="path-locked",
        name=name,
    )


def _tryLock(name: str) -> int | None:
    """
    Take the lock, if no other process has it.

    @return: the descriptor that holds the lock, which the caller owns; or L{None}.
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
        # The last holder may have removed the file since it was opened here.
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
    Remove a socket's name if no process has the socket open any more.

    @param kind: the type of the socket.
    @param replace: whether a living process may have the socket, if it is of this kind.
        Its name stays.
    @raise PathError: if a living process has the socket, or that cannot be found out.
    """
    role = "listener" if kind == socket.SOCK_STREAM else "worker"
    probe = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        check(path)  # so that only a socket is removed
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
            f"cannot tell whether a {role} lives at {path}: {error.strerror}"
        ) from error
    finally:
        probe.close()
    if replace:
        return
    way = "--replace"
    if role == "listener":
        way = "'twistd portlisten --replace' or 'portlisten upgrade'"
    raise PathError(
        f"a {role} lives at {path} already: stop it, take over from it with {way}, or"
        " choose another path"
    )


def connect(path: str, users: Collection[int]) -> socket.socket:
    """
    Connect to the listener at a path, and check its user.

    @param users: the users that the listener may have had when it called listen(2).  If
        empty: root, this process's user, and the owner of the path's folder, since that
        user can always put a listener there.
    @return: the non-blocking socket, which the caller owns.
    @raise OSError: if that fails, or the listener has another user.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
        credentials = _kernel.credentials(sock)
        if not users:
            owner = os.stat(os.path.dirname(path) or ".").st_uid
            users = {0, os.geteuid(), owner}
        if credentials.uid not in users:
            raise PermissionError(
                None,
                f"the listener there has the uid {credentials.uid}: --listener-user (in"
                " a description, listenerUser) must name it",
            )
    except OSError:
        sock.close()
        raise
    return sock


def place(path: str) -> Place | None:
    """
    Find out which file is at a path.

    @return: L{None} if that cannot be found out, as if none is.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def maySpeakYet(path: str, was: Place | None) -> bool:
    """
    Say whether a listener may still answer that has not said HELLO in time.

    While a supervisor starts its listener anew, connections wait in the backlog of the
    path.  They do so as well while a listener is stopped or busy.  To connect again
    would only give up the place there.  But if another socket is bound to the path by
    now, the next listener never sees the old connection.

    @param was: what L{place} returned just before the connection was made.
    """
    return was is not None and place(path) == was


def explain(
    error: OSError, rule: str = "the path's mode and group say who may be a worker"
) -> str:
    """
    Say why connecting or sending to a path failed, and what to do.

    @param rule: what the permission depends on.
    """
    if error.errno == errno.EACCES:
        return f"{error.strerror}; {rule}"
    if error.errno == errno.EPROTOTYPE:
        return "a socket of another kind is there"
    return str(error.strerror)
