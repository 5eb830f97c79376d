"""
Tests for L{portlisten._channel.paths}.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import skipUnless

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten._channel import paths
from portlisten._channel.paths import BoundPath
from portlisten._kernel import MAXIMUM_PATH
from portlisten.errors import PathError
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors

asRoot = skipUnless(os.geteuid() == 0, "only root may give files to any group")


def deny(*args: object) -> None:
    """
    A system call that is not permitted.
    """
    raise PermissionError(1, "Operation not permitted")


def permissions(path: str) -> int:
    """
    The permissions of a path.
    """
    return stat.S_IMODE(os.lstat(path).st_mode)


def lockIsHeld(path: str) -> bool:
    """
    Say whether somebody holds the lock of a path.
    """
    with open(path + ".lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Hooked(socket.socket):
    """
    A socket that lets a test look on.
    """

    def bind(self, address: Any) -> None:
        """
        Bind, and call L{bound}.
        """
        super().bind(address)
        self.bound()

    def listen(self, *args: int) -> None:
        """
        Call L{willListen}, and listen.
        """
        self.willListen()
        super().listen(*args)

    def bound(self) -> None:
        """
        The name exists.
        """

    def willListen(self) -> None:
        """
        No process can connect before this.
        """


class PathTestCase(SynchronousTestCase):
    """
    A test with a path that nobody uses.
    """

    def setUp(self) -> None:
        """
        Choose the path, and watch over descriptors.
        """
        watchDescriptors(self)
        self.path = self.mktemp()

    def bind(
        self,
        mode: int = 0o600,
        group: int | None = None,
        backlog: int = 5,
        path: str | None = None,
    ) -> BoundPath:
        """
        Bind the path, until the test is over.
        """
        bound = paths.bind(path or self.path, mode, group, backlog)
        self.addCleanup(bound.socket.close)
        self.addCleanup(bound.remove)
        return bound

    def assertRefused(self, reason: str, **arguments: Any) -> None:
        """
        Expect that the path cannot be bound and why, and that this leaves
        nothing behind and takes nothing away.
        """
        folder = os.path.dirname(self.path)
        before = [(each.name, each.inode()) for each in os.scandir(folder)]
        error = self.assertRaises(PathError, self.bind, **arguments)
        self.assertIn(reason, str(error))
        after = [(each.name, each.inode()) for each in os.scandir(folder)]
        self.assertEqual(after, before)

    def occupy(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """
        Bind a socket to the path that does not listen, and is not ours.
        """
        sock = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        return sock

    def connect(self) -> socket.socket:
        """
        Connect to the path, as a worker.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.addCleanup(sock.close)
        sock.connect(self.path)
        return sock

    def hook(self, **hooks: Callable[..., None]) -> None:
        """
        Call these of sockets to come, by the names of L{Hooked}'s methods.
        """
        self.patch(socket, "socket", type("Socket", (Hooked,), hooks))


class CheckTests(PathTestCase):
    """
    Tests for L{paths.check}.
    """

    def assertBad(self, path: str, reason: str) -> None:
        """
        Expect that a path is refused, and why.
        """
        error = self.assertRaises(PathError, paths.check, path)
        self.assertIn(reason, str(error))

    def test_free(self) -> None:
        """
        A path where nothing is is good, in any folder that is there.
        """
        paths.check(self.path)
        paths.check(os.path.abspath(self.path))
        paths.check("no-folder-at-all")

    def test_socket(self) -> None:
        """
        A path with a socket is good, whether a process listens or not.
        """
        bound = self.bind()
        paths.check(self.path)
        bound.socket.close()
        paths.check(self.path)

    def test_longest(self) -> None:
        """
        A path of as many bytes as the kernel takes is good.
        """
        paths.check("x" * MAXIMUM_PATH)

    def test_tooLong(self) -> None:
        """
        A path of one more byte is not; what counts is bytes, not characters.
        """
        for path in ("x" * 108, "é" * 54):
            self.assertBad(path, "108 bytes long and the kernel takes 107")

    def test_noFolder(self) -> None:
        """
        The folder must be there, and be a folder.
        """
        path = f"{self.path}/socket"
        missing = f"the folder {self.path!r} of {path!r} does not exist"
        self.assertBad(path, missing)
        with open(self.path, "w"):
            pass
        self.assertBad(path, missing)

    def test_empty(self) -> None:
        """
        A path must not be empty.
        """
        self.assertBad("", "the path is empty: give one")

    def test_file(self) -> None:
        """
        A plain file is no socket.
        """
        with open(self.path, "w"):
            pass
        self.assertBad(self.path, "exists and is no socket")

    def test_folder(self) -> None:
        """
        A folder is no socket.
        """
        os.mkdir(self.path)
        self.assertBad(self.path, "exists and is no socket")

    def test_symlink(self) -> None:
        """
        A symbolic link is no socket, whether it leads to one or nowhere.
        """
        os.symlink("target", self.path)
        self.assertBad(self.path, "exists and is no socket")
        target = os.path.join(os.path.dirname(self.path), "target")
        self.bind(path=target)
        self.assertBad(self.path, "exists and is no socket")

    def test_cannotLook(self) -> None:
        """
        A path that may not be looked at is not good.
        """
        self.patch(os, "lstat", deny)
        self.assertBad(self.path, f"cannot look at {self.path}: Operation not")


class BindTests(PathTestCase):
    """
    Tests for L{paths.bind} where nothing is in the way.
    """

    def test_listens(self) -> None:
        """
        Workers can connect.
        """
        bound = self.bind()
        worker = self.connect()
        accepted, _ = bound.socket.accept()
        with accepted:
            accepted.sendall(b"x")
            self.assertEqual(worker.recv(1), b"x")

    def test_nonBlocking(self) -> None:
        """
        The socket does not block.
        """
        self.assertRaises(BlockingIOError, self.bind().socket.accept)

    def test_notInherited(self) -> None:
        """
        Programs that the process runs do not inherit the socket.
        """
        self.assertFalse(self.bind().socket.get_inheritable())

    def test_backlog(self) -> None:
        """
        As many workers as the backlog says, and one, may wait to be accepted.
        """
        self.bind(backlog=2)
        for _ in range(3):
            self.connect()
        self.assertRaises(BlockingIOError, self.connect)

    def test_longest(self) -> None:
        """
        A path of as many bytes as the kernel takes can be bound.
        """
        path = "x" * MAXIMUM_PATH
        self.bind(path=path)
        self.assertTrue(stat.S_ISSOCK(os.lstat(path).st_mode))

    def test_noLockFile(self) -> None:
        """
        Nothing but the socket is left.
        """
        self.bind()
        folder, name = os.path.split(self.path)
        self.assertEqual(os.listdir(folder), [name])

    def test_locked(self) -> None:
        """
        The lock is held from before the name exists until it is listened on,
        so that nobody takes it for stale in between.
        """
        held = []
        self.hook(
            bound=lambda sock: held.append(lockIsHeld(self.path)),
            willListen=lambda sock: held.append(lockIsHeld(self.path)),
        )
        self.bind()
        self.assertEqual(held, [True, True])

    def test_lockIsOurs(self) -> None:
        """
        No other user may take the lock, and so keep a listener waiting.
        """
        modes = []
        self.hook(bound=lambda sock: modes.append(permissions(self.path + ".lock")))
        before = os.umask(0)
        try:
            self.bind()
        finally:
            os.umask(before)
        self.assertEqual(modes, [0o600])

    def test_waitsForLock(self) -> None:
        """
        While another listener holds the lock, nothing happens; the second one
        then finds that the first lives.
        """
        results: list[object] = []

        def second() -> None:
            try:
                results.append(paths.bind(self.path, 0o600, None, 5))
            except PathError as error:
                results.append(str(error))

        thread = threading.Thread(target=second)

        def bound(sock: object) -> None:
            if not thread.ident:
                thread.start()
                thread.join(0.1)
                self.assertEqual(results, [])

        self.hook(bound=bound)
        self.bind()
        thread.join(30)
        self.assertEqual(
            results,
            [
                f"a listener lives at {self.path} already: stop it, take over from it"
                " with 'twistd portlisten --replace' or 'portlisten upgrade', or choose"
                " another path"
            ],
        )

    def test_lockRemovedMeanwhile(self) -> None:
        """
        A lock whose file its last holder has removed, or that another has made
        anew, is none: it is taken again.
        """
        lock = self.path + ".lock"
        flock, tries = fcntl.flock, []

        def interfere(descriptor: int, operation: int) -> None:
            flock(descriptor, operation)
            tries.append(descriptor)
            if len(tries) < 3:
                os.unlink(lock)
            if len(tries) == 2:
                with open(lock, "w"):
                    pass

        self.patch(fcntl, "flock", interfere)
        self.bind()
        self.assertEqual(len(tries), 3)
        self.assertFalse(os.path.exists(lock))


class ModeTests(PathTestCase):
    """
    Tests for the permissions that L{paths.bind} gives to the path.
    """

    def setUp(self) -> None:
        """
        Note the permissions at the first moment.
        """
        super().setUp()
        self.first: list[int] = []
        self.hook(bound=lambda sock: self.first.append(permissions(self.path)))

    def underUmask(self, umask: int, *args: Any) -> BoundPath:
        """
        Bind in a process whose umask is this, and expect that it stays so.
        """
        before = os.umask(umask)
        try:
            return self.bind(*args)
        finally:
            self.assertEqual(os.umask(before), umask)

    def test_fromTheFirstMoment(self) -> None:
        """
        The permissions are as asked for as soon as the name exists, whatever
        the umask.
        """
        for umask in (0, 0o022, 0o777):
            for mode in (0o600, 0o660, 0o666, 0o777, 0):
                bound = self.underUmask(umask, mode)
                self.assertEqual(self.first.pop(), mode)
                self.assertEqual(permissions(self.path), mode)
                bound.remove()

    def test_umaskAfterFailure(self) -> None:
        """
        The umask stays as it was when the path cannot be bound.
        """
        self.patch(paths, "_removeStaleSocket", lambda *_: None)
        self.occupy()
        before = os.umask(0o123)
        try:
            self.assertRefused("cannot bind")
        finally:
            self.assertEqual(os.umask(before), 0o123)

    def test_group(self) -> None:
        """
        With a group, too, the permissions are as asked for in the end.
        """
        self.underUmask(0o777, 0o660, os.getegid())
        self.assertEqual(permissions(self.path), 0o660)
        self.assertEqual(os.lstat(self.path).st_gid, os.getegid())

    @asRoot
    def test_otherGroup(self) -> None:
        """
        The path is given to the group, and keeps its owner.
        """
        self.bind(0o660, 54321)
        status = os.lstat(self.path)
        self.assertEqual((status.st_uid, status.st_gid), (os.geteuid(), 54321))
        self.assertEqual(permissions(self.path), 0o660)

    @asRoot
    def test_processGroup(self) -> None:
        """
        While the path still belongs to the group of the process, that group
        has no permissions, and nobody can connect before all is right.
        """
        seen = []

        def note(sock: object) -> None:
            seen.append((os.lstat(self.path).st_gid, permissions(self.path)))

        self.hook(bound=note, willListen=note)
        self.bind(0o660, 54321)
        self.assertEqual(seen, [(os.getegid(), 0o600), (54321, 0o660)])

    def test_groupDenied(self) -> None:
        """
        When the path cannot be given to the group, it is not there at all.
        """
        self.patch(os, "chown", deny)
        self.assertRefused(
            f"cannot set up {self.path}: Operation not permitted; --group takes root",
            group=54321,
        )


class SwapTests(PathTestCase):
    """
    Tests for L{paths.bind} in a folder that another user can write to.
    """

    @contextmanager
    def swapped(self, thing: Callable[[str], object]) -> Iterator[None]:
        """
        Put something else at the path as soon as it is bound, as somebody can who may
        write to its folder.
        """

        def bound(sock: object) -> None:
            os.unlink(self.path)
            thing(self.path)

        patched = self.patch(
            socket, "socket", type("Socket", (Hooked,), {"bound": bound})
        )
        yield
        patched.restore()

    def test_symlinkSpared(self) -> None:
        """
        Neither group nor permissions are changed of what a symbolic link leads to.
        """
        target = self.mktemp()
        with open(target, "w"):
            pass
        os.chmod(target, 0o600)
        before = os.lstat(target)
        with self.swapped(partial(os.symlink, os.path.abspath(target))):
            error = self.assertRaises(PathError, self.bind, 0o666, os.getegid() + 1)
        self.assertIn(f"{self.path} changed while it was set up", str(error))
        self.assertIn("let PATH's folder belong to root", str(error))
        after = os.lstat(target)
        self.assertEqual((after.st_mode, after.st_gid), (before.st_mode, before.st_gid))

    def test_otherSocketSpared(self) -> None:
        """
        Nor of another socket that has more permissions, or more than one name.
        """
        for mode, take in ((0o640, os.rename), (0o600, os.link)):
            other = self.mktemp()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(other)
            os.chmod(other, mode)
            descriptor = os.open(other, os.O_PATH)
            self.addCleanup(os.close, descriptor)
            with self.swapped(partial(take, other)):
                error = self.assertRaises(PathError, self.bind, 0o666, os.getegid())
            self.assertIn("changed while it was set up", str(error))
            self.assertEqual(stat.S_IMODE(os.fstat(descriptor).st_mode), mode)

    def test_removedMeanwhile(self) -> None:
        """
        A name that somebody removed at once is told in one line.
        """
        self.hook(bound=lambda sock: os.unlink(self.path))
        error = self.assertRaises(PathError, self.bind)
        self.assertIn("another user removed it", str(error))

    def test_withoutProc(self) -> None:
        """
        Without /proc the group cannot be given, and the path is not there at all.
        """
        chown = os.chown

        def missing(path: str, *args: int) -> None:
            if path.startswith("/proc/"):
                raise FileNotFoundError(2, "No such file or directory")
            chown(path, *args)

        self.patch(os, "chown", missing)
        self.assertRefused("without /proc: mount it", group=os.getegid())
        bound = self.bind(0o600)
        error = self.assertRaises(PathError, paths.giveToUser, self.path, 0o600, 1)
        self.assertIn("away without /proc: mount it, in a chroot as well", str(error))
        self.assertNotIn("--group", str(error))
        self.assertTrue(bound.remove())


class UserTests(PathTestCase):
    """
    Tests for L{paths.giveToUser}.
    """

    @asRoot
    def test_given(self) -> None:
        """
        The owner changes, and nothing else.
        """
        self.bind(0o600)
        before = os.lstat(self.path)
        paths.giveToUser(self.path, 0o600, 54321)
        after = os.lstat(self.path)
        self.assertEqual((after.st_uid, after.st_gid), (54321, before.st_gid))
        self.assertEqual((after.st_mode, after.st_ino), (before.st_mode, before.st_ino))

    def test_spared(self) -> None:
        """
        The owner of another file is not changed that a user has put there.
        """
        chowned: list[object] = []
        self.patch(os, "chown", lambda *each: chowned.append(each))
        target, other = self.mktemp(), self.mktemp()
        with open(target, "w"):
            pass
        for sock, mode in ((other, 0o640), (f"{other}2", 0o600)):
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(sock)
            os.chmod(sock, mode)
        for put in (
            partial(os.link, target),
            partial(os.symlink, os.path.abspath(target)),
            partial(os.symlink, os.path.abspath(f"{other}2")),
            partial(os.rename, other),
            partial(os.link, f"{other}2"),
        ):
            put(self.path)
            self.assertRaises(
                (PathError, OSError), paths.giveToUser, self.path, 0o600, 1
            )
            os.unlink(self.path)
        self.assertEqual(chowned, [])
        os.rename(f"{other}2", self.path)
        paths.giveToUser(self.path, 0o600, 1)
        self.assertEqual(len(chowned), 1)

    def test_missing(self) -> None:
        """
        If the name is gone, /proc is not blamed.
        """
        error = self.assertRaises(
            FileNotFoundError, paths.giveToUser, self.path, 0o600, 1
        )
        self.assertEqual(error.filename, self.path)


class LockTests(PathTestCase):
    """
    A lock file that somebody else made.
    """

    def setUp(self) -> None:
        """
        Wait for less long.
        """
        super().setUp()
        self.lock = self.path + ".lock"
        self.patch(paths, "LOCK_TIMEOUT_SECONDS", 0.3)
        self.patch(paths, "LOCK_NOTICE_SECONDS", 0.1)

    def assertRefusedSoon(self, reason: str) -> None:
        """
        Expect that the path cannot be bound, within seconds.
        """
        results: list[str] = []
        thread = threading.Thread(
            target=lambda: results.append(str(self.assertRaises(PathError, self.bind))),
            daemon=True,
        )
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual(len(results), 1, "it hangs")
        self.assertIn(reason, results[0])
        self.assertFalse(os.path.exists(self.path))

    def test_heldForEver(self) -> None:
        """
        One that stays locked is told after a while, and meanwhile that this is what
        the start waits for.
        """
        ticks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda: 0.05 * next(ticks))
        self.patch(paths, "time", clock)
        with open(self.lock, "w") as file, capturedLogs() as logged:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertRefusedSoon(f"another process has held {self.lock} locked")
        (line,) = [formatEvent(event) for event in logged]
        self.assertEqual(
            line, f"another process has locked {self.lock}: waiting for it"
        )

    def test_pipe(self) -> None:
        """
        A lock file that is a pipe is refused, and nothing hangs.
        """
        os.mkfifo(self.lock)
        self.assertRefusedSoon(f"{self.lock}, the lock file, is no regular file")
        self.assertTrue(os.path.exists(self.lock))

    def test_socket(self) -> None:
        """
        So is one that is a socket.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.lock)
            self.assertRefusedSoon(f"cannot make {self.lock}")

    def test_symlink(self) -> None:
        """
        A symbolic link, as Twisted makes them, is reported to be in the way.
        """
        os.symlink("1", self.lock)
        self.assertRefusedSoon(f"cannot make {self.lock}: Too many levels")
        self.assertRefusedSoon("it is in the way: remove it")

    def test_removedByOthers(self) -> None:
        """
        A lock file may be removed while it is held, which does no harm.
        """
        self.hook(bound=lambda sock: os.unlink(self.lock))
        self.bind()
        self.connect()


class OccupiedTests(PathTestCase):
    """
    Tests for L{paths.bind} where something is in the way.
    """

    def test_listener(self) -> None:
        """
        The path of a listener that lives is not stolen.
        """
        bound = self.bind()
        self.assertRefused("a listener lives at")
        self.connect()
        bound.socket.accept()[0].close()

    def test_busyListener(self) -> None:
        """
        It is not stolen either when its backlog is full.
        """
        self.bind(backlog=0)
        self.connect()
        self.assertRaises(BlockingIOError, self.connect)
        self.assertRefused("a listener lives at")

    def test_datagram(self) -> None:
        """
        The path of a datagram socket is not stolen.
        """
        self.occupy(socket.SOCK_DGRAM)
        self.assertRefused("a socket of another kind is bound to")

    def test_cannotTell(self) -> None:
        """
        If it cannot be told whether a process is there, nothing is taken.
        """
        self.bind()
        self.hook(connect=deny)
        self.assertRefused("cannot tell whether a listener lives at")

    def test_stale(self) -> None:
        """
        A path that its listener has left behind is replaced.
        """
        self.bind().socket.close()
        bound = self.bind(0o640)
        self.assertEqual(permissions(self.path), 0o640)
        self.connect()
        bound.socket.accept()[0].close()

    def test_staleDatagram(self) -> None:
        """
        So is one that a datagram socket has left behind.
        """
        self.occupy(socket.SOCK_DGRAM).close()
        self.bind()
        self.connect()

    def test_replacedWhileLooking(self) -> None:
        """
        What is removed as stale is a socket, even if it was replaced since it
        was first looked at.
        """

        def replace(sock: object, path: str) -> None:
            os.unlink(path)
            with open(path, "w") as file:
                file.write("precious")
            raise ConnectionRefusedError

        self.occupy().close()
        self.hook(connect=replace)
        error = self.assertRaises(PathError, self.bind)
        self.assertIn("exists and is no socket", str(error))
        with open(self.path) as file:
            self.assertEqual(file.read(), "precious")

    def test_file(self) -> None:
        """
        A plain file is left alone.
        """
        with open(self.path, "w"):
            pass
        self.assertRefused("exists and is no socket")

    def test_folder(self) -> None:
        """
        A folder is left alone.
        """
        os.mkdir(self.path)
        self.assertRefused("exists and is no socket")

    def test_symlink(self) -> None:
        """
        A symbolic link is left alone.
        """
        os.symlink("nowhere", self.path)
        self.assertRefused("exists and is no socket")

    def test_noFolder(self) -> None:
        """
        No folder is made.
        """
        self.assertRefused("does not exist: make it first", path=f"{self.path}/socket")

    def test_tooLong(self) -> None:
        """
        A path that the kernel would not take is refused.
        """
        self.assertRefused("108 bytes long", path="x" * 108)

    def test_boundMeanwhile(self) -> None:
        """
        Somebody who takes no lock may be quicker, and is left alone.
        """
        self.patch(paths, "_removeStaleSocket", lambda *_: self.occupy())
        error = self.assertRaises(PathError, self.bind)
        self.assertIn("Address already in use", str(error))
        self.assertTrue(os.path.exists(self.path))

    def test_lockIsFolder(self) -> None:
        """
        Without a lock nothing is bound.
        """
        os.mkdir(self.path + ".lock")
        self.assertRefused(f"cannot make {self.path}.lock: Is a directory")

    def test_lockIsSymlink(self) -> None:
        """
        The lock is not made wherever somebody has it lead.
        """
        os.symlink("elsewhere", self.path + ".lock")
        self.assertRefused(f"cannot make {self.path}.lock")
        self.assertFalse(
            os.path.exists(os.path.join(os.path.dirname(self.path), "elsewhere"))
        )

    def test_lockReleased(self) -> None:
        """
        A refusal leaves no lock behind.
        """
        bound = self.bind()
        self.assertRefused("a listener lives at")
        bound.remove()
        bound.socket.close()
        self.bind()


class RemoveTests(PathTestCase):
    """
    Tests for L{BoundPath.remove}.
    """

    def test_removes(self) -> None:
        """
        It removes the name, and leaves the socket open.
        """
        bound = self.bind()
        self.assertTrue(bound.remove())
        self.assertFalse(os.path.lexists(self.path))
        self.assertNotEqual(bound.socket.fileno(), -1)

    def test_gone(self) -> None:
        """
        A name that is gone needs no removing.
        """
        bound = self.bind()
        os.unlink(self.path)
        self.assertFalse(bound.remove())

    def test_successor(self) -> None:
        """
        A successor's socket is left alone.
        """
        bound = self.bind()
        os.unlink(self.path)
        self.bind()
        self.assertFalse(bound.remove())
        self.connect()

    def test_otherFile(self) -> None:
        """
        Whatever else has taken its place is left alone, even if its number is
        the same on another device.
        """
        bound = self.bind()
        identity = os.lstat(self.path)

        class Twin:
            st_dev = identity.st_dev + 1
            st_ino = identity.st_ino

        patched = self.patch(os, "lstat", lambda path: Twin)
        self.assertFalse(bound.remove())
        patched.restore()
        self.assertTrue(os.path.lexists(self.path))

    def test_denied(self) -> None:
        """
        A process that may not remove it any more leaves it.
        """
        bound = self.bind()
        patched = self.patch(os, "unlink", deny)
        self.assertFalse(bound.remove())
        patched.restore()
        self.assertTrue(os.path.lexists(self.path))
