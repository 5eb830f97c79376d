"""
Lines of the log in JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from typing import Any

#: The most bytes of a line.  A supervisor divides a longer line of its processes.
MAXIMUM_BYTES = 8000

#: How much of a text stays in a line that would be too long, in characters.
_CUT = 1000

#: Stands where a text was cut.
_ELLIPSIS = "…"

#: Fields that are only for the text.
_ONLY_TEXT = frozenset(["channel", "format", "line", "text", "silence"])

#: Fields whose names differ from place to place, and the name of their key.
_RENAMED = {"why": "reason", "error": "reason"}


def timeOf(seconds: float) -> str:
    """
    Write a time of UTC, to the millisecond.

    @param seconds: since 1970.
    """
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def encode(
    event: str,
    level: str,
    message: str,
    seconds: float,
    keys: Mapping[str, object] | None = None,
) -> str:
    """
    Write an event as a line of JSON, without its end.

    @param event: its name.
    @param message: its text.
    @param seconds: its time, in seconds since 1970.
    @param keys: its other keys.  Those that are L{None} or empty, and those that are
        only for the text, are left out.  A dataclass is written as an object, and a
        value that JSON does not have as text.
    """
    made: dict[str, Any] = {
        "time": timeOf(seconds),
        "event": event,
        "level": level,
        "message": message,
    }
    for key, value in (keys or {}).items():
        if key not in _ONLY_TEXT and value is not None and value != "":
            made.setdefault(_RENAMED.get(key, key), _value(value))
    return _write(made)


def merge(
    text: str, seconds: float, keys: Mapping[str, object], own: Mapping[str, object]
) -> str | None:
    """
    Add keys to a line of a process, if the line is an object of JSON.

    @param seconds: when the line came, in seconds since 1970.
    @param keys: the keys to add where the object lacks them.
    @param own: the keys that replace those of the object.
    @return: the new line; L{None} if the line is no object.
    """
    if not text.startswith("{"):
        return None
    try:
        made = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(made, dict):
        return None
    made.setdefault("time", timeOf(seconds))
    for key, value in keys.items():
        if value is not None:
            made.setdefault(key, value)
    made |= own
    try:
        return json.dumps(made, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _value(value: object) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _value(getattr(value, each.name)) for each in fields(value)}
    return str(value)


def _write(made: dict[str, Any]) -> str:
    line = json.dumps(made)
    if len(line) <= MAXIMUM_BYTES:
        return line
    # A traceback says the most at its end, and all else at its beginning.
    for key, value in made.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > _CUT:
            last = key == "traceback"
            made[key] = _ELLIPSIS + text[-_CUT:] if last else text[:_CUT] + _ELLIPSIS
    line = json.dumps(made)
    if len(line) <= MAXIMUM_BYTES:
        return line
    # Many long texts, or many characters beyond ASCII.
    kept = {key: made[key] for key in ("time", "event", "level")}
    return json.dumps({**kept, "message": made["message"][: _CUT // 2]})
