"""
The values of options, from their text.
"""

from __future__ import annotations

import grp
import math
import pwd
from collections.abc import Callable
from typing import Any

from twisted.python.usage import UsageError


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
