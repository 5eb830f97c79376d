"""
The types of values that only the file of C{portlisten run} has.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from portlisten._config.values import Count, File, Mode, ValueType, inFile
from portlisten._config.wrong import collected

#: What a command may have in braces.
PLACEHOLDERS = ("path", "label", "name")

#: The most workers in a file.  The listener serves 256 channels at a time, and a
#: restart needs one more.
MAXIMUM_WORKERS = 255

#: The least limit of memory: a smaller number was meant in another unit.
MINIMUM_MEMORY = 1024**2

#: C{${name}} belongs to a shell.  C{{{name}}} stands for C{{name}}.
_BRACES = re.compile(r"\{\{(\w+)\}\}|(?<!\$)\{([A-Za-z_]\w*)\}", re.ASCII)

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)", re.ASCII)
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", re.ASCII)
_NAMED = re.compile("([^:=]*)=(.*)", re.DOTALL)

#: Variables that a file cannot set, and why.
_REFUSED = {
    "PORTLISTEN_LABEL": "portlisten gives each worker its label: leave it out",
    "NOTIFY_SOCKET": "a worker must not speak to systemd for portlisten: leave it out",
}
_LISTEN = "LISTEN_"
_LISTEN_REASON = (
    "names with LISTEN_ tell a program of sockets from systemd, and the worker has"
    " none: leave it out"
)


def fill(word: str, values: dict[str, str]) -> str:
    """
    Replace what stands in braces.

    @param word: a word of a command, which was checked.
    @param values: the values of all L{PLACEHOLDERS}.
    """
    return _BRACES.sub(
        lambda match: f"{{{match[1]}}}" if match[1] else values[match[2]], word
    )


def _checkText(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{inFile(value)} is no text: write text in quotes")
    if "\0" in value:
        raise ValueError(f"{value!r} has a zero byte, and a program cannot get that")
    return value


@dataclass(frozen=True)
class Command(ValueType):
    """
    A program and its arguments.  The value is a tuple of words.
    """

    metavar: str = "[WORD, …]"

    def take(self, value: object) -> tuple[str, ...]:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, str):
            words = ", ".join(f'"{each}"' for each in value.split())
            raise ValueError(f"a command is a list of words: write [{words}]")
        if not isinstance(value, list):
            raise ValueError(
                f'{inFile(value)} is no list of words, such as ["twistd", "-n", "web"]'
            )
        self.check(value)
        return tuple(value)

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not value or not value[0]:
            raise ValueError("the command is empty: the first word is the program")
        with collected() as problems:
            for word in value:
                with problems.of(""):
                    self._checkWord(word)

    def _checkWord(self, word: object) -> None:
        for match in _BRACES.finditer(_checkText(word)):
            name = match[2]
            if name is None or name in PLACEHOLDERS:
                continue
            known = [f"{{{each}}}" for each in PLACEHOLDERS]
            near = difflib.get_close_matches(f"{{{name}}}", known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"{word!r} has {{{name}}}{hint}: portlisten replaces"
                f" {', '.join(known[:-1])} and {known[-1]}; for the text {{{name}}},"
                f" write {{{{{name}}}}}"
            )


class Cores(Count):
    """
    A number of processes, or C{cores} for one on each usable core.
    """

    def __init__(self) -> None:
        super().__init__(1, MAXIMUM_WORKERS, "N|cores")

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        if text == "cores":
            return min(len(os.sched_getaffinity(0)), MAXIMUM_WORKERS)
        try:
            return int(super().parse(text))
        except ValueError as error:
            raise ValueError(f"{error}, and not cores") from None


@dataclass(frozen=True)
class Size(ValueType):
    """
    A size of memory, in bytes.
    """

    metavar: str = "SIZE"

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no size: give a number of bytes, or one with K, M, G or"
                " T, such as 512M"
            )
        value = int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))
        self.check(value)
        return value

    def take(self, value: object) -> int:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            self.check(value)
            return value
        return int(super().take(value))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, int) or not MINIMUM_MEMORY <= value < 2**63:
            raise ValueError(
                f"{value!r} bytes cannot be the memory of a worker: give at least 1M,"
                " such as 512M"
            )

    def write(self, value: int) -> str:
        """
        See L{ValueType.write}.
        """
        for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
            if value % 1024**power == 0:
                return f"{value // 1024**power}{unit}"
        return str(value)


#: The units of an age, in seconds.
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Age(ValueType):
    """
    A long duration, in seconds.
    """

    metavar: str = "AGE"

    def parse(self, text: str) -> float:
        """
        See L{ValueType.parse}.
        """
        match = _AGE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no age: give a number of seconds, or one with s, m, h or"
                " d, such as 12h"
            )
        value = float(match[1]) * _UNITS[match[2] or "s"]
        self.check(value)
        return value

    def take(self, value: object) -> float:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.check(value)
            return float(value)
        return float(super().take(value))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, int | float) or not 1 <= value <= 10**10:
            raise ValueError(
                f"{inFile(value)} seconds cannot be an age: give at least 1 second,"
                " such as 12h"
            )

    def write(self, value: float) -> str:
        """
        See L{ValueType.write}.
        """
        for unit, seconds in _UNITS.items():
            if math.fmod(value, seconds) == 0:
                return f"{value / seconds:g}{unit}"
        return f"{value:g}s"


@dataclass(frozen=True)
class AbsolutePath(File):
    """
    A path from the root folder.
    """

    metavar: str = "FILE"
    example: str = "/run/portlisten/web.sock"

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not _checkText(value).startswith("/"):
            raise ValueError(
                f"{value!r} is not absolute, and processes run in several folders:"
                f" write it from the root, such as {self.example}"
            )


@dataclass(frozen=True)
class AbsolutePathOrNone(AbsolutePath):
    """
    A path from the root folder, or C{none}, for which the value is empty.
    """

    metavar: str = "FILE|none"

    def parse(self, text: str) -> str:
        """
        See L{ValueType.parse}.
        """
        return "" if text == "none" else str(super().parse(text))


@dataclass(frozen=True)
class Umask(Mode):
    """
    The permissions that new files lack, in octal.
    """

    metavar: str = "UMASK"

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        try:
            return super().parse(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an octal umask such as 0027") from None

    def take(self, value: object) -> int:
        """
        See L{ValueType.take}.
        """
        if not isinstance(value, str):
            raise ValueError('write the octal number in quotes, such as "0027"')
        return self.parse(value)


@dataclass(frozen=True)
class Environment(ValueType):
    """
    Variables of the environment.  The value maps names to texts.
    """

    metavar: str = "{NAME = TEXT, …}"

    def take(self, value: object) -> dict[str, str]:
        """
        See L{ValueType.take}.
        """
        if not isinstance(value, dict):
            raise ValueError(
                f"{inFile(value)} is no table of variables, such as"
                ' {LANG = "C.UTF-8", DEBUG = "1"}'
            )
        self.check(value)
        return dict(value)

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        with collected() as problems:
            for name, text in value.items():
                with problems.of(name):
                    self._checkVariable(name, text)

    def _checkVariable(self, name: str, text: object) -> None:
        if not name or "=" in name or "\0" in name:
            raise ValueError(
                "a variable has a name without '=' and without a zero byte"
            )
        if name.startswith(_LISTEN):
            raise ValueError(_LISTEN_REASON)
        if name in _REFUSED:
            raise ValueError(_REFUSED[name])
        _checkText(text)


@dataclass(frozen=True)
class Endpoint(ValueType):
    """
    The description of an endpoint.  The value is text.
    """

    metavar: str = "DESCRIPTION"

    def take(self, value: object) -> str:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise ValueError(
                f"{inFile(value)} is no port: give a number or a description in"
                ' quotes, such as 80 or "tcp:80:interface=127.0.0.1"'
            )
        return str(super().take(value))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        super().check(value)
        if not value.isprintable():
            raise ValueError(f"{value!r} has characters that no port has")


@dataclass(frozen=True)
class Description(Endpoint):
    """
    The description of a port, without a name.  The value is text.
    """

    metavar: str = "PORT"

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        super().check(value)
        named = _NAMED.fullmatch(value)
        if named is not None:
            raise ValueError(
                f"{value!r} has a name, which stands in [ports.NAME] already: write"
                f" {named[2]!r}"
            )
