"""
The items at the end of a HELLO, by which each end says more about itself.

An item is a type, the length of its value, and the value.  A reader skips the types
that it does not know, so either end may be older than the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from portlisten._model import workerLabel
from portlisten._wire.frames import ANNOUNCED, ListenerHello, WorkerHello
from portlisten.errors import MalformedFrame

_HEADER = struct.Struct("!HH")
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")

# Items of a worker
_LIMIT = 1
_LABEL = 3
_FIRST = 4

# Items of a listener
_HONOURS = 1
_CLAIM_TIMEOUT = 3

#: An item of both.
_FRAMES = 2

# The bits of HONOURS
_HONOURS_LIMIT = 1
_HONOURS_FIRST = 2


def encodeForListener(hello: ListenerHello) -> bytes:
    """
    Encode the items of a listener's HELLO.
    """
    items = []
    honours = _HONOURS_LIMIT * hello.honoursLimit + _HONOURS_FIRST * hello.honoursFirst
    if honours:
        items.append((_HONOURS, _U32.pack(honours)))
    if hello.frames:
        items.append((_FRAMES, _encodeFrames(hello.frames)))
    if hello.claimTimeout is not None:
        items.append((_CLAIM_TIMEOUT, _U32.pack(hello.claimTimeout)))
    return _encode(items)


def encodeForWorker(hello: WorkerHello) -> bytes:
    """
    Encode the items of a worker's HELLO.
    """
    items = []
    if hello.limit is not None:
        items.append((_LIMIT, _U32.pack(hello.limit)))
    if hello.frames:
        items.append((_FRAMES, _encodeFrames(hello.frames)))
    if hello.label:
        items.append((_LABEL, hello.label.encode("ascii")))
    if hello.first is not None:
        items.append((_FIRST, _U16.pack(hello.first)))
    return _encode(items)


def decodeFromListener(data: bytes) -> dict[str, Any]:
    """
    Decode the items of a listener's HELLO.

    @return: fields of L{ListenerHello}.
    @raise MalformedFrame: if the items are not valid.
    """
    fields = _decode(data, _FROM_LISTENER)
    honours = fields.pop("honours", 0)
    fields["honoursLimit"] = bool(honours & _HONOURS_LIMIT)
    fields["honoursFirst"] = bool(honours & _HONOURS_FIRST)
    return fields


def decodeFromWorker(data: bytes) -> dict[str, Any]:
    """
    Decode the items of a worker's HELLO.

    @return: fields of L{WorkerHello}.
    @raise MalformedFrame: if the items are not valid.
    """
    return _decode(data, _FROM_WORKER)


def _encode(items: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(_HEADER.pack(kind, len(value)) + value for kind, value in items)


def _decode(
    data: bytes, known: dict[int, tuple[str, Callable[[bytes], Any]]]
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    seen = set()
    start = 0
    while start < len(data):
        if len(data) - start < _HEADER.size:
            raise MalformedFrame("HELLO ends within an item")
        kind, length = _HEADER.unpack_from(data, start)
        start += _HEADER.size
        value = data[start : start + length]
        start += length
        if len(value) < length:
            raise MalformedFrame("HELLO ends within an item")
        if kind in seen:
            raise MalformedFrame(f"HELLO has item {kind} twice")
        seen.add(kind)
        if kind in known:
            name, read = known[kind]
            try:
                fields[name] = read(value)
            except (struct.error, ValueError):
                raise MalformedFrame(
                    f"HELLO has {value[:64].hex() or 'nothing'} for item {kind}"
                ) from None
    return fields


def _encodeFrames(frames: Iterable[int]) -> bytes:
    return _U32.pack(sum(1 << ANNOUNCED.index(kind) for kind in set(frames)))


def _decodeFrames(value: bytes) -> frozenset[int]:
    bits = _number(_U32)(value)
    return frozenset(kind for place, kind in enumerate(ANNOUNCED) if bits >> place & 1)


def _number(layout: struct.Struct, least: int = 0) -> Callable[[bytes], int]:
    def read(value: bytes) -> int:
        number: int = layout.unpack(value)[0]
        if number < least:
            raise ValueError
        return number

    return read


def _label(value: bytes) -> str:
    return workerLabel(value.decode("ascii"))


_FROM_LISTENER: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    _HONOURS: ("honours", _number(_U32)),
    _FRAMES: ("frames", _decodeFrames),
    _CLAIM_TIMEOUT: ("claimTimeout", _number(_U32)),
}

_FROM_WORKER: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    _LIMIT: ("limit", _number(_U32, 1)),
    _FRAMES: ("frames", _decodeFrames),
    _LABEL: ("label", _label),
    _FIRST: ("first", _number(_U16, 1)),
}
