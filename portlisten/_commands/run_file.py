"""
The file of C{portlisten run}: it is opened, checked and read.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from portlisten._config.caller import Caller
from portlisten._config.file import RunSettings
from portlisten._config.ports import PortSettings
from portlisten._config.toml import parse, parseChannel
from portlisten._config.wrong import Problem, key
from portlisten._config.wrong_file import WrongFile
from portlisten._control.convert import ControlError
from portlisten.errors import BadDescription, PathError, firstLine

#: The most bytes that the file may have.
MAXIMUM_SIZE = 1024 * 1024

#: The most symbolic links on the way to the file, as in path_resolution(7).
_MAXIMUM_LINKS = 40


def load(path: str, hasSockets: bool = True) -> RunSettings:
    """
    Read the file of C{portlisten run}.  If root reads it, only root may be able to
    write to it.

    @param path: the path of the file.
    @param hasSockets: whether this process has the sockets of systemd's that the file
        names.  If not, any such socket is taken for right.
    @raise WrongFile: if it cannot be read, others may write to it, or it has mistakes.
        The error names all of them.
    """
    caller = Caller(os.geteuid(), os.getegid())
    problems: list[Problem] = []
    try:
        text, status = _read(path)
        if caller.uid == 0:
            problems = list(_writers(path, status))
        settings = parse(
            text,
            caller,
            partial(_checkPort, hasSockets),
            partial(_checkMetrics, hasSockets),
        )
        problems += _pathsTwice(settings)
        if problems:
            raise WrongFile([], path=settings.listener.path, workers=settings.workers)
    except WrongFile as error:
        raise WrongFile(
            [*problems, *error.problems], path, error.path, error.workers
        ) from None
    return settings


def channelOf(argument: str) -> tuple[str, str | None]:
    """
    Find the channel that an argument FILE or PATH of a command means.  If it is a
    regular file, its C{path} and C{control} say that, and its other keys may be wrong.
    Otherwise, it is the path of the channel.

    @return: the path of the channel; and the path of the control socket, empty for
        none, L{None} for the usual one.
    @raise ControlError: if the file does not say it.  The text has a line for each
        mistake.
    """
    try:
        mode = os.stat(argument).st_mode
    except FileNotFoundError:
        if argument.endswith(".toml"):
            raise ControlError(f"the file {argument} does not exist") from None
        return argument, None
    except (OSError, ValueError):
        return argument, None  # the control socket's client says why
    if stat.S_ISDIR(mode):
        raise ControlError(
            f"{argument} is a folder: give the file of 'portlisten run', or the path"
            " of a channel"
        )
    if not stat.S_ISREG(mode):
        return argument, None
    try:
        return parseChannel(_read(argument)[0])
    except WrongFile as error:
        raise ControlError(str(WrongFile(error.problems, argument))) from None


def _read(path: str) -> tuple[bytes, os.stat_result]:
    """
    Read a regular file.

    @return: its content and its status.
    @raise WrongFile: if that is impossible.
    """
    try:
        # Without O_NONBLOCK, a pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _unreadable(error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise WrongFile([Problem("", "it is no regular file")])
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(MAXIMUM_SIZE + 1)
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        os.close(descriptor)
    if len(text) > MAXIMUM_SIZE:
        raise WrongFile(
            [Problem("", f"it is longer than {MAXIMUM_SIZE} bytes: give another file")]
        )
    return text, status


def _unreadable(error: Exception) -> WrongFile:
    reason = error.strerror if isinstance(error, OSError) else firstLine(error)
    return WrongFile([Problem("", f"cannot read it: {reason}")])


def _writers(path: str, status: os.stat_result) -> Iterator[Problem]:
    """
    Find which users other than root may change the file, or put another one in its
    place.

    @param path: the path of the file.
    @param status: its status.
    """
    yield from _othersMayWrite("the file", path, status)
    for folder in _folders(path):
        try:
            yield from _othersMayWrite("its folder", folder, os.stat(folder))
        except OSError as error:
            yield Problem("", f"cannot look at {folder}: {error.strerror}")


def _othersMayWrite(what: str, path: str, status: os.stat_result) -> Iterator[Problem]:
    quoted = shlex.quote(path)
    reason = "root runs the commands in it, so only root may be able to change it"
    if status.st_uid != 0:
        yield Problem(
            "",
            f"{what} belongs to user {status.st_uid}; {reason}: 'chown root {quoted}'",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        others = "every user" if status.st_mode & stat.S_IWOTH else "its group"
        yield Problem(
            "",
            f"{what} can be written to by {others}; {reason}: 'chmod go-w {quoted}'",
        )


def _folders(path: str) -> list[str]:
    """
    List the folder of a file, and each folder with a symbolic link on the way to it.
    """
    found: list[str] = []
    current = "/"
    parts = os.path.join(os.getcwd(), path).split("/")
    links = 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        entry = os.path.join(current, part)
        try:
            target = os.readlink(entry)
        except OSError:  # it is no link
            current = entry
            continue
        links += 1
        if links > _MAXIMUM_LINKS:
            break
        found.append(current)
        parts = [*target.split("/"), *parts]
        if target.startswith("/"):
            current = "/"
    return list(dict.fromkeys([*found, os.path.dirname(current)]))


def _checkPort(hasSockets: bool, text: str, shared: bool) -> None:
    # Twisted's endpoints load many modules, which other commands do without.
    from portlisten._ports.parsing import NotPassed
    from portlisten._ports.parsing import parse as parsePort

    try:
        parsePort(text, 1, shared)
    except NotPassed as error:
        if hasSockets:
            raise ValueError(str(error)) from None
    except BadDescription as error:
        text = re.sub("--(listen|share)", r"\1", str(error))
        raise ValueError(text) from None


def _checkMetrics(hasSockets: bool, text: str) -> None:
    from portlisten._monitor.place import parsePlace
    from portlisten._ports.parsing import NotPassed

    try:
        parsePlace(text)
    except NotPassed as error:
        if hasSockets:
            raise ValueError(str(error)) from None
    except BadDescription as error:
        raise ValueError(str(error)) from None


def _pathsTwice(settings: RunSettings) -> Iterator[Problem]:
    """
    Find ports that have the path of the channel or of the control socket.
    """
    from portlisten._listener.service import checkPathsDiffer
    from portlisten._monitor.place import parsePlace
    from portlisten._ports.parsing import NotPassed
    from portlisten._ports.parsing import parse as parsePort

    listener = settings.listener
    control = listener.control
    if control and os.path.realpath(control) == os.path.realpath(listener.path):
        yield Problem("control", f"{control} is path as well: give another one")

    def check(port: PortSettings, where: str) -> Iterator[Problem]:
        try:
            checkPathsDiffer(port.path, listener)
        except PathError as error:
            text = str(error).replace("PATH, where", "the channel's path, where")
            yield Problem(where, text)

    for kind, texts in (("listen", listener.listen), ("share", listener.share)):
        for text in texts:
            # Nobody knows the path of a socket that systemd passes to another process.
            with suppress(NotPassed):
                port = parsePort(text, 1, kind == "share")
                yield from check(port, f"{key('ports', port.name)}.{kind}")
    if listener.metrics is not None:
        with suppress(NotPassed):
            place = parsePlace(listener.metrics)
            if isinstance(place, PortSettings):
                yield from check(place, "metrics")
