"""
What a command of ours and C{twistd} expect of each other: options that fail in
one line, a start that fails in one line, privileges that are really gone, and
exit codes.
"""

from __future__ import annotations

import atexit
import grp
import itertools
import math
import os
import pwd
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger
from twisted.python.usage import Options, UsageError

from portlisten import __version__, _kernel
from portlisten._reactor.monotonic import own
from portlisten._reactor.quiet import quiet
from portlisten.errors import StartFailure
from twisted import copyright

log = Logger(namespace="portlisten")


def printVersion() -> NoReturn:
    """
    Print which portlisten and which Twisted this is, and end the process.

    @raise SystemExit: always.
    """
    print(f"portlisten {__version__}, with Twisted {copyright.version}")
    raise SystemExit(0)


class CommandOptions(Options):
    """
    Options of a command, whose mistakes end the process with one line.

    @cvar command: its name.
    @cvar program: what comes before it on a command line.
    @cvar epilogue: what its help ends with, as it is.
    """

    command = ""
    program = "twistd "
    epilogue = ""

    def parseOptions(self, options: Any = None) -> None:
        """
        See L{Options.parseOptions}.

        @raise SystemExit: for what L{Options} raises L{UsageError} for.
        """
        if sys.platform != "linux":
            raise SystemExit(f"{self.command}: needs Linux, and this is {sys.platform}")
        try:
            super().parseOptions(options)
            self.checkPrivileges()
        except UsageError as error:
            self.refuse(self._twistds(str(error)) or str(error))

    def opt_version(self) -> NoReturn:
        """
        Print portlisten's version and Twisted's, and exit.
        """
        printVersion()

    def getUsage(self, width: int | None = None) -> str:
        """
        See L{Options.getUsage}.
        """
        # Docstrings of methods have line breaks and indentation.
        for name, doc in self.docs.items():
            self.docs[name] = doc and " ".join(doc.split())
        return str(super().getUsage(width)) + self.epilogue

    def _twistds(self, reason: str) -> str | None:
        """
        Say what is wrong with an option that is not of this command, if it is one of
        C{twistd}'s.
        """
        unknown = re.fullmatch("option (--?([A-Za-z_-]+)) not recognized", reason)
        known = [
            *(name.rstrip("=") for name in getattr(self._parent, "longOpt", ())),
            *getattr(self._parent, "shortOpt", "").replace(":", ""),
        ]
        if unknown is None or unknown[2] not in known:
            return None
        return f"{unknown[1]} is an option of twistd's: it comes before {self.command}"

    def checkOrder(self, arguments: Sequence[str]) -> None:
        """
        See that what came after the first argument is no option: options end there.

        @raise UsageError: if one is.
        """
        for before, argument in itertools.pairwise(arguments):
            name = argument.lstrip("-").partition("=")[0]
            if argument.startswith("-") and name in self.synonyms:
                raise UsageError(
                    f"options come before the arguments: {argument} stands after"
                    f" {before}"
                )

    def checkPath(self, path: str) -> None:
        """
        See that a path does not look like an option.

        @raise UsageError: if it does.
        """
        if path.startswith("-"):
            raise UsageError(
                f"PATH would be {path!r}: options come before the arguments, and a path"
                f" that begins with '-' is written ./{path}"
            )

    def checkAlone(self, other: str, *names: str) -> None:
        """
        See that options have their defaults, since they mean nothing beside
        another one.

        @param other: that one, as it is given.
        @raise UsageError: if one was given.
        """
        defaults = type(self)()
        for name in names:
            if self[name] != defaults[name]:
                raise UsageError(f"--{name} means nothing with --{other}")

    def refuse(self, reason: str) -> NoReturn:
        """
        End the process with one line.

        @raise SystemExit: always.
        """
        raise SystemExit(
            f"{self.command}: {reason} (see '{self.program}{self.command} --help')"
        )

    def checkPrivileges(self) -> None:
        """
        Look at what C{twistd} was told of users and groups.

        @raise UsageError: if it would fail at it, or keep privileges that
            everybody would think dropped.
        """
        if self._parent is None:
            return
        self._checkChroot(self._parent)
        uid, gid = self._parent.get("uid"), self._parent.get("gid")
        if self._parent.get("euid"):
            raise UsageError(
                "--euid would keep root as the saved uid, to be taken back by"
                " anything in the process: leave it out"
            )
        if uid is None:
            if gid is not None:
                raise UsageError(
                    "--gid without --uid would keep all of root's privileges: add"
                    " --uid, as in 'twistd --uid nobody --gid nogroup'"
                )
            return
        if os.getuid() != 0 and uid != os.getuid():
            raise UsageError("--uid needs root: start as root, or leave it out")
        if uid != os.getuid() and not _kernel.mayChangeUsers():
            raise UsageError(
                "--uid needs CAP_SETUID and CAP_SETGID, which this process lacks though"
                " it is root: grant them, or start it as that user"
            )
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise UsageError(
                f"--uid: there is no user with the number {uid}, and so no groups"
                " to give to the process: make one, as with 'adduser --system'"
            ) from None

    @staticmethod
    def _checkChroot(parent: Mapping[str, Any]) -> None:
        chroot, pidFile = parent.get("chroot"), parent.get("pidfile")
        if not chroot:
            return
        if not os.path.isabs(parent.get("rundir") or ""):
            raise UsageError(
                "--chroot would leave the process in the folder that it is in now,"
                " outside: add --rundir / or another folder of the chroot's"
            )
        if pidFile:
            folder = os.path.dirname(os.path.abspath(pidFile))
            if not os.path.isdir(chroot + folder):
                raise UsageError(
                    f"--chroot: there is no folder {folder} in {chroot} for the pid"
                    " file: add --pidfile= for none, or name another one"
                )

    @property
    def _parent(self) -> Mapping[str, Any] | None:
        # twistd's own options; there are none in a .tac file.
        return getattr(self, "parent", None)

    @property
    def twistd(self) -> Mapping[str, Any]:
        """
        The options of C{twistd} itself.
        """
        return self._parent or {}

    @property
    def logsElsewhere(self) -> bool:
        """
        Whether the log goes somewhere else than to the terminal.
        """
        parent = self._parent or {}
        return not parent.get("nodaemon") or any(
            parent.get(name) not in (None, "", "-", False)
            for name in ("logfile", "syslog", "logger")
        )


class JoiningOptions(CommandOptions):
    """
    Options of a command that joins a listener.
    """

    def __init__(self) -> None:
        super().__init__()
        self["listener-user"] = []

    def opt_listener_user(self, name: str) -> None:
        """
        A user that may have started the listener; may be given several times.
        [default: root, your own user, the owner of PATH's folder]
        """
        self["listener-user"].append(user(name, "listener-user"))


def number(
    name: str, convert: Callable[[str], Any], minimum: float, maximum: float = math.inf
) -> Callable[[str], Any]:
    """
    Make the coercion of a numeric option.
    """

    def coerce(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or value == math.inf:
            kind = "whole number" if convert is int else "number"
            limit = (
                f"of at least {minimum:g}"
                if math.isinf(maximum)
                else f"from {minimum:g} to {maximum:g}"
            )
            raise UsageError(f"--{name}: {text!r} is not a {kind} {limit}")
        return value

    return coerce


def octal(text: str, option: str = "mode") -> int:
    """
    Turn an octal mode into a number.

    @raise UsageError: if it is none.
    """
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise UsageError(f"--{option}: {text!r} is not an octal mode such as 0660")
    return mode


def group(text: str, option: str = "group") -> int:
    """
    Turn a group's name or number into its number.

    @raise UsageError: if there is no such group.
    """
    try:
        if text.isdecimal():
            return grp.getgrgid(int(text)).gr_gid
        return grp.getgrnam(text).gr_gid
    except (KeyError, OverflowError):
        raise UsageError(f"--{option}: there is no group {text!r}") from None


def user(text: str, option: str) -> int:
    """
    Turn a user's name or number into its number.

    @raise UsageError: if there is no such user.
    """
    try:
        if text.isdecimal():
            return pwd.getpwuid(int(text)).pw_uid
        return pwd.getpwnam(text).pw_uid
    except (KeyError, OverflowError):
        raise UsageError(f"--{option}: there is no user {text!r}") from None


def choice(name: str, *values: str) -> Callable[[str], str]:
    """
    Make the coercion of an option that has one of a few values.
    """

    def coerce(text: str) -> str:
        if text not in values:
            raise UsageError(f"--{name}: {text!r} is none of {', '.join(values)}")
        return text

    return coerce


#: The coercion of C{--wire}.
wire = choice("wire", "stream", "datagram")


def failToStart(options: CommandOptions, reason: str, code: int = 1) -> NoReturn:
    """
    Say why a service cannot start, once: on standard error, and in the log
    where that is elsewhere.

    @param code: to exit with.
    @raise StartFailure: always.
    """
    message = f"{options.command}: {reason}"
    if options.logsElsewhere:
        log.critical("{reason}", reason=message)
    print(message, file=sys.__stderr__, flush=True)
    _removePidFile(options.twistd)
    raise StartFailure(reason, code)


def _removePidFile(twistd: Any) -> None:
    """
    Remove C{twistd}'s pid file.  C{twistd} itself removes it after it has told the
    process that waits for the daemon, which may be too late for who looks then.
    """
    try:
        os.unlink(twistd["pidfile"])
    except (KeyError, TypeError, OSError):
        return
    twistd["pidfile"] = ""


def checkUser(options: CommandOptions) -> None:
    """
    See that the user that C{twistd} is about to become is known to the process, which
    may be in a chroot by now: C{twistd} looks up the user's groups there.

    @raise StartFailure: if not.
    """
    parent = options.twistd
    uid = parent.get("uid")
    try:
        if uid is not None:
            pwd.getpwuid(uid)
    except KeyError:
        failToStart(
            options,
            f"there is no user with the number {uid} in {parent.get('chroot')}: --uid"
            " needs an /etc/passwd in the chroot that has it",
        )


def warnOfRoot(command: str) -> None:
    """
    Log a warning if the process is root, or could become it.
    """
    if 0 in os.getresuid():
        log.warn(
            "this process runs as root and has no need to: start it with a uid of"
            " its own, as in 'twistd --uid nobody {command} …'",
            command=command,
        )


def ownProcess(reactor: Any, retry: float) -> None:
    """
    Make a process that is ours alone what a command's should be: its time is
    monotonic, SIGTERM stops it in good order, and no other signal that is meant to
    tell it something ends it.

    @param retry: how long to wait before what the reactor cannot register is tried
        again, in seconds.
    """
    own(reactor, retry)
    exitCleanlyOnTerm(reactor)
    mindSignals(reactor)


#: Whether SIGTERM has come.
_terms: list[int] = []


def toldToStop() -> bool:
    """
    Whether this process was told to stop.
    """
    return bool(_terms)


def exitCleanlyOnTerm(reactor: Any) -> None:
    """
    Have SIGTERM stop the reactor, and the process then exit with 0.  Twisted's
    handler would end it by the signal, once it has stopped.
    """

    def stop(number: int, frame: object) -> None:
        _terms.append(number)
        reactor.callFromThread(_stop, reactor)

    signal.signal(signal.SIGTERM, stop)
    # Twisted installs its own handlers when the reactor starts running.
    reactor.callLater(0, signal.signal, signal.SIGTERM, stop)
    if IReactorCore.providedBy(reactor):
        reactor.addSystemEventTrigger("after", "shutdown", _forgetTerm, reactor)


def _forgetTerm(reactor: Any) -> None:
    """
    Have the process end with 0 though it was Twisted's handler that SIGTERM met, in
    the first moment of the reactor's run.
    """
    # There is no public name for it.
    if getattr(reactor, "_exitSignal", None) == signal.SIGTERM:
        reactor._exitSignal = None


def _stop(reactor: Any) -> None:
    log.info("received SIGTERM, stopping")
    try:
        reactor.stop()
    except ReactorNotRunning:
        pass  # it is stopping already


class _NotYet:
    """
    Handles SIGUSR1 until L{onReportSignal}.  C{twistd} installs a handler of its own,
    which rotates the log file, unless there is one already; that is to say, if what
    there is counts as false.
    """

    def __bool__(self) -> bool:
        return False

    def __call__(self, number: int, frame: object) -> None:
        pass


def mindSignals(reactor: Any) -> None:
    """
    Have SIGHUP, SIGUSR1 and SIGUSR2 do no harm: without a handler, they end a process.
    """

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(_note, reactor, signal.Signals(number).name)

    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, handle)
    if not callable(signal.getsignal(signal.SIGUSR1)):
        signal.signal(signal.SIGUSR1, _NotYet())


def _note(reactor: Any, name: str) -> None:
    quiet(reactor)(
        log.info, "received {name}, which means nothing to this command", name=name
    )


def onReportSignal(reactor: Any, report: Callable[[], None]) -> None:
    """
    Have SIGUSR1 log a report.  C{twistd} rotates its log file at that signal,
    and goes on to.
    """
    earlier = signal.getsignal(signal.SIGUSR1)

    def handle(number: int, frame: Any) -> None:
        if callable(earlier):
            earlier(number, frame)
        reactor.callFromThread(report)

    signal.signal(signal.SIGUSR1, handle)


def exitWith(reactor: Any, code: int) -> None:
    """
    Stop the reactor, and exit with this code.  C{twistd} knows no way to ask
    for one from inside, so it is done when all else is.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    try:
        reactor.stop()
    except ReactorNotRunning:
        return  # it is stopping already
    atexit.register(leave)
