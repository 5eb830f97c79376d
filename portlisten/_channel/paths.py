"""
The channel's path: made tight, replaced when stale, never stolen.
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

#: How long a start waits for another one at the same path, in seconds, and after how
#: many it says so.
LOCK_TIMEOUT = 5.0
LOCK_NOTICE = 1.0

#: The pause between two tries to take the lock, in milliseconds.
LOCK_RETRY = 20

_ADVICE = "let PATH's folder belong to root, or to the listener's user"


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
    folder = os.path.dirname(path) or "."
    if not path or not os.path.isdir(folder):
        raise PathError(f"there is no folder {folder!r} for {path!r}: make it first")
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

    @ivar socket: the bound socket, non-blocking.  Whoever takes it closes it;
        L{remove} does not.
    """

    def __init__(self, path: str, sock: socket.socket) -> None:
        self.socket = sock
        self._path = path
        status = os.lstat(path)
        self._identity = (status.st_dev, status.st_ino)

    def moveTo(self, path: str) -> None:
        """
        Give it another name, in the place of whatever has that now: at no moment
        does the name lead nowhere.

        @raise OSError: if that is impossible.
        """
        os.rename(self._path, path)
        self._path = path

    def remove(self) -> bool:
        """
        Remove the name, if it is still this socket's and not a successor's;
        which is sure only while the socket is open, and its inode with it.
        After privileges were dropped this may not be allowed, which harms
        nobody: the next listener replaces a stale name.

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
    Bind, and perhaps listen.  From the first moment that the name exists, nobody
    can connect or send who could not later.

    @param mode: the permissions of the path.
    @param group: the group that it belongs to, or L{None} for the process's.
    @param backlog: that of a stream socket, or L{None} for one that takes
        datagrams.
    @param replace: whether to take the name from somebody who lives there.
    @raise PathError: if that is impossible, or somebody lives there.  Nothing is
        left behind then.
    """
    check(path)
    kind = socket.SOCK_DGRAM if backlog is None else socket.SOCK_STREAM
    with _locked(path):
        _makeRoom(path, kind, replace)
        name = path
        if replace:
            name = f"{path}.{os.getpid()}"
            check(name)
            _makeRoom(name, kind)
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        tight = mode if group is None else mode & ~0o077
        umask = os.umask(0o777 & ~tight)
        try:
            sock.bind(name)
        except OSError as error:
            sock.close()
            raise PathError(f"cannot bind {path}: {error.strerror}") from error
        finally:
            os.umask(umask)
        try:
            bound = BoundPath(name, sock)
        except OSError as error:
            sock.close()
            raise PathError(
                f"cannot look at {path}: {error.strerror}; somebody else removed it:"
                f" {_ADVICE}"
            ) from error
        try:
            if group is not None:
                _give(name, tight, mode, group)
            if backlog is not None:
                sock.listen(backlog)
            if replace:
                bound.moveTo(path)
        except PathError:
            bound.remove()
            sock.close()
            raise
        except OSError as error:
            bound.remove()
            sock.close()
            advice = "" if group is None else "; --group takes root, or a member of it"
            raise PathError(
                f"cannot set up {path}: {error.strerror}{advice}"
            ) from error
        return bound


def _give(name: str, made: int, mode: int, group: int) -> None:
    """
    Give the path of a socket that was just bound to a group, and then change its
    permissions.  A user that may write to its folder can put something else there
    at any time, such as a symbolic link: that is left as it is.

    @param made: the permissions that the socket was bound with.
    @raise PathError: if it is not that socket any more.
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
                f"{name} changed while it was set up, because somebody else can write"
                f" to its folder, or the folder has a default ACL: {_ADVICE}"
            )
        # This leads to what was looked at, whatever the name leads to by now.
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
    Keep others that are about to bind the same path out.  The lock is
    the kernel's, on an empty file that is gone again afterwards: a process that
    dies holds none, and no pid is compared with anything.
    """
    name = path + ".lock"
    descriptor = _waitForLock(name)
    try:
        yield
    finally:
        try:
            os.unlink(name)
        except OSError:
            pass  # whoever may write to the folder may have done so
        os.close(descriptor)


def _waitForLock(name: str) -> int:
    """
    Take the lock, and wait for it if another process has it.

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
        if waited > LOCK_TIMEOUT:
            raise PathError(
                f"another process has held {name} locked for {LOCK_TIMEOUT:g} s:"
                f" 'fuser {name}' shows which; end it, or choose another path"
            )
        if waited > LOCK_NOTICE and not noticed:
            noticed = True
            log.info("waiting for another process, which has locked {name}", name=name)
        select.poll().poll(LOCK_RETRY)


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


def _makeRoom(path: str, kind: socket.SocketKind, replace: bool = False) -> None:
    """
    Remove the name of a socket that nobody is bound to.

    @param replace: whether somebody of the same kind may be.
    @raise PathError: if somebody is, or it cannot be told.
    """
    who = "listener" if kind == socket.SOCK_STREAM else "worker"
    probe = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        check(path)  # whatever is removed is a socket
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
    Connect to the listener at a path, and see that some other user did not put it
    there.

    @param users: whose it may be, as who it was when it started to listen; if
        empty: root's, this process's user's, or that of the owner of the path's
        folder, who could always put one there.
    @return: the non-blocking socket, which is the caller's.
    @raise OSError: if that fails, or it is not the right one's.
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
                f"the listener there is of uid {who.uid}, which --listener-user (in a"
                " description, listenerUser) has to name",
            )
    except OSError:
        sock.close()
        raise
    return sock


def explain(error: OSError) -> str:
    """
    Say why L{connect} failed, and what to do.
    """
    if error.errno == errno.EACCES:
        return f"{error.strerror}; the path's mode and group say who may be a worker"
    if error.errno == errno.EPROTOTYPE:
        return "a socket of another kind is there"
    return str(error.strerror)
