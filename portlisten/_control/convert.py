"""
Values as objects that L{json} can write, and back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from portlisten._model import printable

_T = TypeVar("_T")

#: Larger numbers mean nothing, and Python cannot divide or write some of them.
_LARGEST = 2**63


class ControlError(Exception):
    """
    A message cannot be understood, or a request cannot be answered.  The text is one
    line.
    """


class Refusal(ControlError):
    """
    The other end answers that a request cannot be answered.

    @param text: why, as the other end says it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def parseObject(line: bytes, what: str) -> dict[str, Any]:
    """
    Read a JSON object.

    @param what: the kind of message, for errors.
    @raise ControlError: if it is none, or one of its fields comes twice.
    """
    try:
        message = json.loads(line, object_pairs_hook=_withoutRepetition)
    except (ValueError, RecursionError):
        raise ControlError(f"the {what} is no JSON") from None
    if not isinstance(message, dict):
        raise ControlError(f"the {what} is no JSON object")
    return message


def _withoutRepetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ControlError("a field comes twice")
    return made


def toJSON(value: Any) -> dict[str, Any]:
    """
    Make an object of a dataclass.
    """

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            name: each.value if isinstance(each, Enum) else each for name, each in pairs
        }

    return asdict(value, dict_factory=made)


def prepare() -> None:
    """
    Load what L{fromJSON} needs, while descriptors are free.
    """
    _converter()


def fromJSON(message: Mapping[str, Any], kind: type[_T]) -> _T:
    """
    Make a dataclass of an object.  Fields that are not known are ignored.

    @raise ControlError: if a field is missing or has a wrong type.
    """
    try:
        made = _converter().structure(message, kind)
    except Exception:
        # The library's errors have many types, and so have those of wrong values.
        raise ControlError(f"the answer is no {kind.__name__}") from None
    assert isinstance(made, kind)
    return made


@cache
def _converter() -> Any:
    # The listener only writes, and needs none of this.
    from cattrs import Converter

    def text(value: Any, _: object) -> str:
        if not isinstance(value, str):
            raise TypeError
        return printable(value)

    def whole(value: Any, _: object) -> int:
        if type(value) is not int or abs(value) > _LARGEST:
            raise TypeError
        return value

    def number(value: Any, _: object) -> float:
        if type(value) not in (int, float):
            raise TypeError
        if not math.isfinite(value):
            raise ValueError
        return float(value)

    def flag(value: Any, _: object) -> bool:
        if type(value) is not bool:
            raise TypeError
        return value

    converter = Converter(detailed_validation=False)
    for kind, hook in ((str, text), (int, whole), (float, number), (bool, flag)):
        converter.register_structure_hook(kind, hook)
    return converter
