"""
Starting a program as another user, in a session of its own.

The supervisor forks once, and the child becomes the program by one execve(2).  Nothing
that the child does before takes a lock that another thread of the supervisor may have:
users and groups are looked up before the fork, and the child logs nothing.

The child tells of a failure by a pipe, which closes when the program begins.  So the
supervisor knows at once which step failed.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import pwd
import resource
import select
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from portlisten import _kernel
from portlisten._process import forking, label, programs, users
from portlisten._process.listen_fds import FIRST_DESCRIPTOR
from portlisten.errors import CannotRun, firstLine

#: How long a child may take from the fork to the program, in seconds.  A folder of a
#: network that does not answer must not stop the supervisor.
BEGIN_SECONDS = 10.0

#: How long to wait for the end of a child that was killed, in seconds.
REAP_SECONDS = 1.0

#: The signal that a process gets when the supervisor ends.
PARENT_SIGNAL = signal.SIGTERM

#: Signals that a process must be able to get, even if the supervisor was started with
#: them blocked or ignored: the first stops it, and the second tells it of its children.
_OWN_SIGNALS = frozenset([signal.SIGTERM, signal.SIGCHLD])

#: Variables of the supervisor that its processes must not get: those of sd_notify(3),
#: sd_pid_notify_with_fds(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
_OWN_VARIABLES = frozenset(
    [
        "NOTIFY_SOCKET",
        "FDSTORE",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
    ]
)

# Children that were killed and have not ended yet.
_killed: list[int] = []

# The users whose entries were found.
_found: set[int] = set()


@dataclass(frozen=True)
class Launch:
    """
    A process to start.

    @ivar label: the label of the process.
    @ivar command: the program and its arguments.
    @ivar environment: all variables of the process.  See L{environmentFor}.
    @ivar uid: the user; L{None} for the supervisor's own.
    @ivar gid: the group; L{None} for the user's own.
    @ivar folder: the folder that the process runs in.
    @ivar umask: its umask; L{None} for the supervisor's.
    @ivar openFiles: its limit of open files; L{None} for the supervisor's.
    @ivar descriptors: these become 3, 4, … in the process.  They stay the caller's.
    """

    label: str
    command: Sequence[str]
    environment: Mapping[str, str]
    uid: int | None = None
    gid: int | None = None
    folder: str = "/"
    umask: int | None = None
    openFiles: int | None = None
    descriptors: Sequence[int] = ()


def environmentFor(
    inherited: Mapping[str, str],
    uid: int | None,
    name: str,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """
    Make the environment of a process: the supervisor's without what is only for the
    supervisor, the variables of the user, and some of its own.  C{PATH} is that of
    L{programs.searchPath}.

    @param inherited: the environment of the supervisor.
    @param uid: the user of the process; L{None} for the supervisor's own.  If no user
        has this number, C{HOME} and the like are not set.
    @param name: the label of the process.
    @param extra: variables that replace all others.
    """
    kept = {
        key: value
        for key, value in inherited.items()
        if key not in _OWN_VARIABLES and not key.startswith("SUDO_")
    }
    made = _ofUser(uid, kept)
    made["PATH"] = programs.searchPath(made)
    made.setdefault("PYTHONUNBUFFERED", "1")
    return {**made, label.VARIABLE: name, **extra}


def _ofUser(uid: int | None, inherited: Mapping[str, str]) -> dict[str, str]:
    if uid is None or _isKnown(uid):
        return users.environmentOf(uid, inherited)
    return {key: each for key, each in inherited.items() if key not in users.VARIABLES}


def _isKnown(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def start(launch: Launch, output: int) -> int:
    """
    Start a process, in a session of its own, and wait until its program has begun.
    Standard input is /dev/null.  If the supervisor ends, the process gets
    L{PARENT_SIGNAL}.  So call this in the main thread.

    @param output: a descriptor, which becomes standard output and standard error.  It
        stays the caller's.
    @return: the number of the process.  The caller must wait for the process.
    @raise CannotRun: if that is impossible.  No process is left then.
    """
    _reapKilled()
    child = _Child(launch, output)
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise CannotRun(f"no pipe can be made: {error.strerror}") from None
    try:
        pid = forking.fork(partial(child.run, writer))
    except OSError as error:
        os.close(reader)
        raise CannotRun(f"no process can be started: {error.strerror}") from None
    finally:
        os.close(writer)
    try:
        failure = _failure(reader, pid)
    except OSError as error:
        failure = f"it is not known whether the program began: {error.strerror}"
    except BaseException:  # such as KeyboardInterrupt
        abort(pid)
        raise
    finally:
        os.close(reader)
    if failure:
        abort(pid)
        raise CannotRun(failure)
    return pid


def _failure(reader: int, pid: int) -> str:
    """
    Wait until the program has begun, or until the child says why it does not begin.
    """
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    end = time.monotonic() + BEGIN_SECONDS
    said = b""
    while True:
        left = max(0.0, end - time.monotonic())
        if not poll.poll(left * 1000):
            return (
                f"process {pid} did not begin its program within {BEGIN_SECONDS:g} s:"
                " look at the disks and networks that its folder and its program are on"
            )
        piece = os.read(reader, 4096)
        if not piece:
            return said.decode("utf-8", "replace")
        said += piece


def abort(pid: int) -> None:
    """
    Kill a child with its process group, and wait for its end, though not for long.  If
    it takes longer, the next start waits for it.

    @param pid: the child.  Nobody has waited for it.
    """
    for end in (os.kill, os.killpg):
        try:
            end(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it has no group of its own yet, or cannot be killed
    _killed.append(pid)
    until = time.monotonic() + REAP_SECONDS
    while True:
        _reapKilled()
        if pid not in _killed or time.monotonic() > until:
            return
        time.sleep(0.001)


def _reapKilled() -> None:
    for pid in list(_killed):
        try:
            ended = os.waitpid(pid, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            ended = True
        if ended:
            _killed.remove(pid)


class _Child:
    """
    What is known before the fork, and what the child does after it.

    @raise CannotRun: if the process cannot become the user.
    """

    def __init__(self, launch: Launch, output: int) -> None:
        self._launch = launch
        self._output = output
        self._parent = os.getpid()
        self._identity: users.Identity | None = None
        if not users.isAlready(launch.uid, launch.gid):
            self._identity = self._become(launch.uid, launch.gid)
        uid = os.geteuid() if launch.uid is None else launch.uid
        self._user = f"user {users.nameOf(uid)}"
        if not launch.command:
            raise CannotRun("the command has no words: name the program")
        self._path = launch.environment.get("PATH", os.defpath)
        program = launch.command[0]
        if os.sep in program:
            program = os.path.join(launch.folder, program)
        # The user may not find it, and then this tells why.
        self._hidden = shutil.which(program, path=self._path)

    @staticmethod
    def _become(uid: int | None, gid: int | None) -> users.Identity:
        if uid is not None:
            if _isKnown(uid):
                _found.add(uid)
            elif uid in _found:
                # Without this, it would get the group of the same number.
                raise CannotRun(
                    f"user {uid} cannot be looked up any more: see whether the user was"
                    " removed, and whether the host's directory of users answers"
                )
        identity = users.identityOf(uid, gid)
        found = users.lacksPrivilege(identity.what)
        if found is None and identity.uid and not _kernel.maySignalUsers():
            found = (
                f"{identity.what} needs CAP_KILL, which this process lacks though it is"
                " root: without it, the process could not be ended"
            )
        if found is not None:
            raise CannotRun(found)
        return identity

    def run(self, status: int, blocked: forking.Mask) -> NoReturn:
        """
        Become the program.  Called in the child, and ends it.

        @param status: gets the reason in one sentence if that fails.
        """
        try:
            gc.disable()  # no object of the supervisor may do anything here
            try:
                forking.resetSignals(blocked - _OWN_SIGNALS)
                for number in _OWN_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                os.setsid()
                status = self._arrange(status)
                self._prepare()
                self._execute()
            except OSError as error:
                why = f"the process cannot be set up: {error.strerror}"
            except BaseException as error:  # a child must never go on as its parent
                why = firstLine(error)
            os.write(status, why.encode("utf-8", "replace"))
        finally:
            os._exit(127)

    def _arrange(self, status: int) -> int:
        """
        Put the descriptors where the program expects them, and close all others.  This
        comes before the limit, which holds for the numbers of new descriptors.

        @return: the new number of C{status}.
        """
        descriptors = self._launch.descriptors
        end = FIRST_DESCRIPTOR + len(descriptors)
        null = os.open(os.devnull, os.O_RDONLY)
        # Above the numbers that the program's descriptors get.
        high = [
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, end)
            for each in (status, null, self._output, self._output, *descriptors)
        ]
        for number, each in enumerate(high[1:]):
            os.dup2(each, number)
        forking.closeFrom(end, keep=high[:1])
        return high[0]

    def _prepare(self) -> None:
        launch = self._launch
        _kernel.runAsBefore()
        if launch.openFiles is not None:
            _limitOpenFiles(launch.openFiles)
        if launch.umask is not None:
            os.umask(launch.umask)
        if self._identity is not None:
            self._identity.assume()
        _kernel.dropAmbientCapabilities()
        self._enter(launch.folder)
        # After the change of the user, which would clear it.
        _kernel.endWithParent(PARENT_SIGNAL)
        if os.getppid() != self._parent:
            os._exit(127)  # it ended before the kernel knew of the signal

    def _enter(self, folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            why = {
                errno.ENOENT: f"the folder {folder} does not exist: make it",
                errno.ENOTDIR: f"{folder} is not a folder",
                errno.EACCES: f"{self._user} may not enter the folder {folder}: open it"
                " to this user, or name another folder",
            }.get(error.errno or 0, f"the folder {folder}: {error.strerror}")
            raise CannotRun(why) from None

    def _execute(self) -> NoReturn:
        launch = self._launch
        program = launch.command[0]
        found = shutil.which(program, path=self._path)
        if found is None:
            raise CannotRun(self._notFound(program))
        try:
            os.execve(found, list(launch.command), launch.environment)  # noqa: S606
        except OSError as error:
            raise CannotRun(self._cannot(found, error)) from None
        except ValueError as error:
            raise CannotRun(
                f"the command or its environment cannot be passed on: {error}"
            ) from None

    def _notFound(self, program: str) -> str:
        if self._hidden is not None:
            error = OSError(errno.EACCES, os.strerror(errno.EACCES))
            return self._cannot(self._hidden, error)
        if os.sep not in program:
            return (
                f"the program {program!r} is in no folder of its PATH, {self._path}:"
                " name its whole path"
            )
        if os.path.isfile(program):
            return f"{program} is not executable: make it so, as with 'chmod +x'"
        return f"the program {program!r} does not exist"

    def _cannot(self, path: str, error: OSError) -> str:
        return f"{self._user} cannot run {path}: {programs.explain(path, error)}"


def _limitOpenFiles(number: int) -> None:
    """
    Set the limit of open files.

    @raise CannotRun: if this process may not raise it so far.
    """
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
    except (ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        kernels = _kernel.mostOpenFiles() or "unknown"
        raise CannotRun(
            f"the limit of open files cannot be {number}: this process has {most}, and"
            f" may not raise it so far (the kernel's own limit, fs.nr_open, is"
            f" {kernels}); start the supervisor with a higher limit, as with"
            " LimitNOFILE= in systemd"
        ) from None
