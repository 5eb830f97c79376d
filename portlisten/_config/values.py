"""
The types of options' values: how values are written, and which are allowed.
"""

from __future__ import annotations

import grp
import math
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from portlisten._model import portName, workerLabel

#: How long the listener keeps a connection whose client should speak first, in seconds.
FIRST_SECONDS = 2.0

#: The greatest number of a user or group.  The kernel's next one means none.
MAXIMUM_ID = 2**32 - 2


def inFile(value: object) -> str:
    """
    Write a value in readable form, as in TOML.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return repr(value) if isinstance(value, str | int | float) else str(value)


@dataclass(frozen=True)
class ValueType:
    """
    A type of values.

    @ivar metavar: the word for a value in a synopsis.
    """

    metavar: str

    def parse(self, text: str) -> Any:
        """
        Turn text into a value.

        @raise ValueError: if the text is no such value.  The error says why, and
            leaves the option's name to the caller.
        """
        self.check(text)
        return text

    def take(self, value: object) -> Any:
        """
        Turn a value of TOML into a value.  It may be text, as on a command line.

        @raise ValueError: if it cannot be one.  The error says why, and leaves the
            option's name to the caller.
        """
        if not isinstance(value, str):
            raise ValueError(f"{inFile(value)} is no text: write text in quotes")
        return self.parse(value)

    def check(self, value: Any) -> None:
        """
        Check that a value is allowed.

        @raise ValueError: if it is not.
        """
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")

    def write(self, value: Any) -> str:
        """
        Turn a value into text.
        """
        return str(value)


@dataclass(frozen=True)
class File(ValueType):
    """
    The name of a file.
    """

    metavar: str = "FILE"


@dataclass(frozen=True)
class FileOrNone(File):
    """
    The name of a file, or C{none}, for which the value is empty.
    """

    metavar: str = "FILE|none"

    def parse(self, text: str) -> str:
        """
        See L{ValueType.parse}.
        """
        return "" if text == "none" else text

    def write(self, value: Any) -> str:
        """
        See L{ValueType.write}.
        """
        return value or "none"


@dataclass(frozen=True)
class Name(ValueType):
    """
    The name of a port.
    """

    metavar: str = "NAME"

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        super().check(value)
        portName(value)


@dataclass(frozen=True)
class Label(ValueType):
    """
    The label of a worker.
    """

    metavar: str = "LABEL"

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        super().check(value)
        workerLabel(value)


@dataclass(frozen=True)
class Number(ValueType):
    """
    A number in a range.

    @ivar convert: L{int} for whole numbers, or L{float}.
    @ivar minimum: the least allowed number.
    @ivar maximum: the greatest allowed number.
    """

    metavar: str
    convert: Callable[[str], Any]
    minimum: float
    maximum: float = math.inf

    def parse(self, text: str) -> Any:
        """
        See L{ValueType.parse}.
        """
        try:
            value = self.convert(text)
        except ValueError:
            value = None
        if not self._allows(value):
            self._refuse(text)
        return value

    def take(self, value: object) -> Any:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, str):
            return self.parse(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{inFile(value)} is no number")
        self.check(value)
        if self.convert is int:
            return value
        try:
            return float(value)
        except OverflowError:
            raise ValueError("the number is too large") from None

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not self._allows(value):
            self._refuse(value)

    def write(self, value: Any) -> str:
        """
        See L{ValueType.write}.
        """
        return str(value) if isinstance(value, int) else f"{value:g}"

    def _allows(self, value: Any) -> bool:
        kinds = int if self.convert is int else (int, float)
        return (
            isinstance(value, kinds)
            and self.minimum <= value <= self.maximum
            and value != math.inf
        )

    def _refuse(self, written: object) -> NoReturn:
        kind = "whole number" if self.convert is int else "number"
        if math.isinf(self.maximum):
            limit = f"of at least {self.write(self.minimum)}"
        else:
            limit = f"from {self.write(self.minimum)} to {self.write(self.maximum)}"
        raise ValueError(f"{written!r} is not a {kind} {limit}")


def seconds(minimum: float) -> Number:
    """
    Make the type of a duration in seconds.
    """
    return Number("SECONDS", float, minimum)


#: How many seconds the units of a duration have.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Duration(ValueType):
    """
    A duration, such as 90, 90s, 10m, 2h or 1d.  The value is the seconds, a number
    above 0.
    """

    metavar: str = "TIME"

    def parse(self, text: str) -> float:
        """
        See L{ValueType.parse}.
        """
        unit = text[-1:]
        number = text[:-1] if unit in UNITS else text
        try:
            # float() knows more, such as 1_0, 1e3 and inf.
            value = float(number) if set(number) <= set("0123456789.") else 0.0
        except ValueError:
            value = 0.0
        seconds = value * UNITS.get(unit, 1)
        if not 0 < seconds < math.inf:
            raise ValueError(f"{text!r} is no time such as 90s, 10m, 2h or 1d")
        return seconds

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{value!r} is no number of seconds above 0")

    def write(self, value: Any) -> str:
        """
        See L{ValueType.write}.
        """
        return f"{value:g}s"


class Count(Number):
    """
    A whole number in a range.
    """

    def __init__(
        self, minimum: int, maximum: float = math.inf, metavar: str = "N"
    ) -> None:
        super().__init__(metavar, int, minimum, maximum)


def count(minimum: int, maximum: float = math.inf) -> Number:
    """
    Make the type of a whole number.
    """
    return Count(minimum, maximum)


#: The wire has milliseconds, in 16 bits.
_FIRST = Number("SECONDS", float, 0.001, 65.535)


@dataclass(frozen=True)
class First(ValueType):
    """
    How long to wait for a client to speak first, in seconds.  Zero if clients need not
    speak first.
    """

    metavar: str = "yes|no|SECONDS"

    def parse(self, text: str) -> float:
        """
        See L{ValueType.parse}.
        """
        words = {"yes": FIRST_SECONDS, "no": 0.0}
        if text in words:
            return words[text]
        try:
            return float(_FIRST.parse(text))
        except ValueError as error:
            raise ValueError(f"{error}, and neither yes nor no") from None

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if value != 0:
            _FIRST.check(value)


@dataclass(frozen=True)
class Mode(ValueType):
    """
    The permissions of a file, in octal.
    """

    metavar: str = "MODE"

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        try:
            mode = int(text, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            raise ValueError(f"{text!r} is not an octal mode such as 0660")
        return mode

    def take(self, value: object) -> int:
        """
        See L{ValueType.take}.  A number is refused: 440 would be 0670.
        """
        if not isinstance(value, str):
            raise ValueError('write the octal number in quotes, such as "0660"')
        return self.parse(value)

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, int) or not 0 <= value <= 0o777:
            raise ValueError(f"{value!r} is not a mode such as 0o660")

    def write(self, value: Any) -> str:
        """
        See L{ValueType.write}.
        """
        return f"{value:04o}"


@dataclass(frozen=True)
class _Entry(ValueType):
    """
    An entry of the user or group database, by name or number.  The value is the
    number.

    @ivar known: whether a number must be in the database.  If it is only compared with
        what the kernel tells, or given to the kernel, it need not: in a container, the
        users of other containers have no names.
    """

    known: bool = True

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        try:
            number = int(text) if text.isascii() and text.isdecimal() else None
            if number is None or self.known:
                return self._find(text, number)
        except (KeyError, OverflowError):
            kind = self.metavar.lower()
            raise ValueError(f"the {kind} {text!r} does not exist") from None
        if number > MAXIMUM_ID:
            raise ValueError(
                f"{text} is no {self.metavar.lower()}: the greatest number is"
                f" {MAXIMUM_ID}"
            )
        return number

    def take(self, value: object) -> int:
        """
        See L{ValueType.take}.
        """
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(
                f"{inFile(value)} is no {self.metavar.lower()}: give a name in quotes,"
                " or a number"
            )
        return self.parse(str(value))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{value!r} is no number of a {self.metavar.lower()}")

    def _find(self, name: str, number: int | None) -> int:
        """
        Look an entry up.

        @param number: its number; L{None} to look for the name.
        @raise KeyError: if there is none.
        @raise OverflowError: if the number is too great.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class User(_Entry):
    """
    A user, by name or number.
    """

    metavar: str = "USER"

    def _find(self, name: str, number: int | None) -> int:
        if number is not None:
            return pwd.getpwuid(number).pw_uid
        return pwd.getpwnam(name).pw_uid


@dataclass(frozen=True)
class Group(_Entry):
    """
    A group, by name or number.
    """

    metavar: str = "GROUP"

    def _find(self, name: str, number: int | None) -> int:
        if number is not None:
            return grp.getgrgid(number).gr_gid
        return grp.getgrnam(name).gr_gid


class Choice(ValueType):
    """
    One of a few words.
    """

    def __init__(self, *values: str) -> None:
        super().__init__("|".join(values))

    @property
    def values(self) -> list[str]:
        """
        The words.
        """
        return self.metavar.split("|")

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if value not in self.values:
            raise ValueError(f"{value!r} is none of {', '.join(self.values)}")


class Flag(Choice):
    """
    Yes or no.  On a command line, the option has no value.
    """

    def __init__(self) -> None:
        super().__init__("yes", "no")

    def parse(self, text: str) -> bool:
        """
        See L{ValueType.parse}.
        """
        super().check(text)
        return text == "yes"

    def take(self, value: object) -> bool:
        """
        See L{ValueType.take}.
        """
        return value if isinstance(value, bool) else bool(super().take(value))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither True nor False")

    def write(self, value: Any) -> str:
        """
        See L{ValueType.write}.
        """
        return "yes" if value else "no"
