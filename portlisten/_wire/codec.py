"""
The frames of the C{stream} wire: bytes to frames, and frames to bytes.

Nothing here does any input or output.  L{encode} turns a frame into bytes.  L{Decoder}
is its inverse: it takes bytes in pieces of any size, and returns the whole frames in
them.  C{docs/protocol.md} describes the same layouts for authors of workers in other
languages.

Every frame is a header of four bytes (type, a zero, the length of the payload) and a
payload of at most L{MAXIMUM_PAYLOAD} bytes.  So it is known from the start how many
bytes a peer can make this process hold.  Numbers are unsigned and in network order.
Each direction has its own set of frames: an OFFER from a worker is as malformed as
noise.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

from portlisten._model import (
    NAME,
    Address,
    InternetAddress,
    Kind,
    Port,
    UnixAddress,
    portName,
    printable,
)
from portlisten._wire import items
from portlisten._wire.frames import (
    MAXIMUM_FIRST,
    MAXIMUM_LIMIT,
    MAXIMUM_PAYLOAD,
    MAXIMUM_REASON,
    MAXIMUM_SLOTS,
    MAXIMUM_WINDOW,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Given,
    Leave,
    Listener,
    ListenerHello,
    Loads,
    Offer,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
    WorkerHello,
)
from portlisten.errors import (
    MalformedFrame,
    OversizedFrame,
    ProtocolError,
    UnknownFrame,
    VersionMismatch,
)

VERSION = 1
MAGIC = b"portlstn"

#: The errors of a frame on the wrong side of HELLO.
SECOND_HELLO = "a second HELLO"
HELLO_MISSING = "no HELLO to begin with"
MAXIMUM_UNIX_ADDRESS = 108

#: A flag of a listener's HELLO.
_STOPPING = 1

_HEADER = struct.Struct("!BBH")
_HELLO = struct.Struct("!8sHHHH")
_PORT = struct.Struct("!HBB")
_OFFER = struct.Struct("!IHHQ")
_OFFER_FRAME = struct.Struct("!BBHIHHQ")
_LISTENER = struct.Struct("!HHQ")
_COOKIE = struct.Struct("!Q")
_SERVING = struct.Struct("!I")
_LOADS = struct.Struct("!HHIQQ")
_REFUSE = struct.Struct("!HH")
_INET = struct.Struct("!4sH")
_INET6 = struct.Struct("!16sHI")


def portNames(names: Iterable[str]) -> tuple[str, ...]:
    """
    Check the names of the ports that a worker wants, and drop duplicates.

    @raise ValueError: if one is no valid name, or all together do not fit a HELLO.
    """
    distinct = tuple(dict.fromkeys(map(portName, names)))
    encode(
        WorkerHello(
            1,
            distinct,
            limit=MAXIMUM_LIMIT,
            frames=frozenset([Leave.TYPE, Given.TYPE, Loads.TYPE]),
            label="x" * 63,
            first=MAXIMUM_FIRST,
        )
    )
    return distinct


def encode(frame: Frame) -> bytes:
    """
    Turn a frame into bytes.

    @raise ValueError: if its payload would be larger than L{MAXIMUM_PAYLOAD}.
    """
    payload = _encoders[type(frame)](frame)
    if len(payload) > MAXIMUM_PAYLOAD:
        raise ValueError(f"{type(frame).__name__} of {len(payload)} bytes")
    return _HEADER.pack(frame.TYPE, 0, len(payload)) + payload


def encodeOffer(id: int, port: int, cookie: int, waited: int = 0) -> bytes:
    """
    Do what L{encode} does with an L{Offer}, in less time.
    """
    return _OFFER_FRAME.pack(Offer.TYPE, 0, _OFFER.size, id, port, waited, cookie)


def _encodeAddress(address: Address) -> bytes:
    if isinstance(address, UnixAddress):
        return b"\x01" + address.name
    if address.isIPv6:
        packed = socket.inet_pton(socket.AF_INET6, address.host.partition("%")[0])
        return b"\x06" + _INET6.pack(packed, address.port, address.scope)
    packed = socket.inet_pton(socket.AF_INET, address.host)
    return b"\x04" + _INET.pack(packed, address.port)


def _decodeAddress(data: bytes, protocol: Literal["TCP", "UDP"]) -> Address:
    family, packed = data[:1], data[1:]
    if family == b"\x04" and len(packed) == _INET.size:
        host, port = _INET.unpack(packed)
        return InternetAddress(protocol, socket.inet_ntop(socket.AF_INET, host), port)
    if family == b"\x06" and len(packed) == _INET6.size:
        host, port, scope = _INET6.unpack(packed)
        text = socket.inet_ntop(socket.AF_INET6, host)
        return InternetAddress(protocol, text, port, scope)
    if family == b"\x01" and len(packed) <= MAXIMUM_UNIX_ADDRESS:
        return UnixAddress(packed)
    raise MalformedFrame("HELLO has an address of an unknown kind")


def _encodeListenerHello(frame: ListenerHello) -> bytes:
    flags = _STOPPING if frame.stopping else 0
    parts = [_HELLO.pack(MAGIC, VERSION, frame.window, len(frame.ports), flags)]
    for port in frame.ports:
        address = _encodeAddress(port.address)
        parts.append(_PORT.pack(port.number, port.kind, len(address)) + address)
    parts.append(_encodeNames(port.name for port in frame.ports))
    parts.append(items.encodeForListener(frame))
    return b"".join(parts)


def _encodeNames(names: Iterable[str]) -> bytes:
    return b"".join(bytes([len(name)]) + name.encode("ascii") for name in names)


def _decodeNames(data: bytes, count: int) -> tuple[tuple[str, ...], bytes]:
    """
    Read a number of names.  Names may be empty.

    @param count: how many names to read.
    @return: the names, and the rest.
    @raise MalformedFrame: if a name is not whole, or not valid.
    """
    names = []
    start = 0
    for _ in range(count):
        end = start + 1 + (data[start] if start < len(data) else 0)
        if len(data) < end:
            raise MalformedFrame("HELLO ends within a name")
        name = data[start + 1 : end].decode("latin-1")
        if name and not NAME.fullmatch(name):
            raise MalformedFrame(f"HELLO has {name!r} for a name")
        names.append(name)
        start = end
    return tuple(names), data[start:]


def _decodeHello(payload: bytes) -> tuple[int, int, int, bytes]:
    """
    Check the beginning of a HELLO, which is alike for both sides.

    @return: the window; the count of ports or names; a listener's flags, or the kinds
        that a worker takes; and the rest.
    @raise MalformedFrame: if it is not valid.
    @raise VersionMismatch: if the peer speaks another version.
    """
    if len(payload) < _HELLO.size or not payload.startswith(MAGIC):
        raise MalformedFrame("HELLO without portlisten's magic")
    _, version, window, count, kinds = _HELLO.unpack_from(payload)
    if version != VERSION:
        raise VersionMismatch(
            f"the peer speaks version {version} of the protocol, not {VERSION}"
        )
    if not 1 <= window <= MAXIMUM_WINDOW:
        raise MalformedFrame(f"HELLO has a window of {window}")
    return window, count, kinds, payload[_HELLO.size :]


def _decodeListenerHello(payload: bytes) -> ListenerHello:
    window, count, flags, rest = _decodeHello(payload)
    ports = []
    for _ in range(count):
        if len(rest) < _PORT.size:
            raise MalformedFrame("HELLO ends within a port")
        number, code, length = _PORT.unpack_from(rest)
        address = rest[_PORT.size : _PORT.size + length]
        if len(address) < length:
            raise MalformedFrame("HELLO ends within an address")
        try:
            kind = Kind(code)
        except ValueError:
            kind = Kind.UNKNOWN
        protocol: Literal["TCP", "UDP"] = "UDP" if kind is Kind.DATAGRAMS else "TCP"
        ports.append((number, _decodeAddress(address, protocol), kind))
        rest = rest[_PORT.size + length :]
    # The HELLO of a listener that knows no names ends here.
    names, rest = _decodeNames(rest, count) if rest else (("",) * count, rest)
    return ListenerHello(
        window,
        tuple(
            Port(number, address, name, kind)
            for (number, address, kind), name in zip(ports, names, strict=True)
        ),
        bool(flags & _STOPPING),
        **items.decodeFromListener(rest),
    )


def _encodeWorkerHello(frame: WorkerHello) -> bytes:
    names = _encodeNames(frame.names)
    kinds = sum(1 << kind for kind in frame.takes)
    start = _HELLO.pack(MAGIC, VERSION, frame.window, len(frame.names), kinds)
    return start + names + items.encodeForWorker(frame)


def _decodeWorkerHello(payload: bytes) -> WorkerHello:
    window, count, kinds, rest = _decodeHello(payload)
    names, rest = _decodeNames(rest, count)
    if not all(names):
        raise MalformedFrame("HELLO asks for a port with no name")
    if len(set(names)) < len(names):
        raise MalformedFrame("HELLO asks for a name twice")
    # A worker that knows no kinds sends a zero there.
    kinds = kinds or 1 << Kind.CONNECTIONS
    takes = frozenset(kind for kind in Kind if kinds >> kind & 1)
    return WorkerHello(window, names, takes, **items.decodeFromWorker(rest))


def _encodeOffer(frame: Offer) -> bytes:
    return _OFFER.pack(frame.id, frame.port, frame.waited, frame.cookie)


def _decodeOffer(payload: bytes) -> Offer:
    # Offers of the right length do not come here: see _offers.
    raise MalformedFrame(f"OFFER of {len(payload)} bytes")


def _encodeListener(frame: Listener) -> bytes:
    return _LISTENER.pack(frame.port, 0, frame.cookie)


def _decodeListener(payload: bytes) -> Listener:
    if len(payload) != _LISTENER.size:
        raise MalformedFrame(f"LISTENER of {len(payload)} bytes")
    port, _, cookie = _LISTENER.unpack(payload)
    return Listener(port, cookie)


def _encodeWithdraw(frame: Withdraw) -> bytes:
    return _COOKIE.pack(frame.cookie)


def _decodeWithdraw(payload: bytes) -> Withdraw:
    if len(payload) != _COOKIE.size:
        raise MalformedFrame(f"WITHDRAW of {len(payload)} bytes")
    return Withdraw(*_COOKIE.unpack(payload))


def _encodeServing(frame: Serving) -> bytes:
    return _SERVING.pack(frame.count)


def _decodeServing(payload: bytes) -> Serving:
    if len(payload) != _SERVING.size:
        raise MalformedFrame(f"SERVING of {len(payload)} bytes")
    return Serving(*_SERVING.unpack(payload))


def _encodeLoads(frame: Loads) -> bytes:
    return _LOADS.pack(frame.slot, 0, frame.ports, frame.loads, frame.members)


def _decodeLoads(payload: bytes) -> Loads:
    if len(payload) != _LOADS.size:
        raise MalformedFrame(f"LOADS of {len(payload)} bytes")
    slot, _, ports, loads, members = _LOADS.unpack(payload)
    if slot >= MAXIMUM_SLOTS or not 1 <= ports <= 65536:
        raise MalformedFrame(f"LOADS with slot {slot} and {ports} ports")
    return Loads(slot, ports, loads, members)


def _encodeIds(frame: Claim | Closed | ClientGone | Given) -> bytes:
    return struct.pack(f"!{len(frame.ids)}I", *frame.ids)


def _decodeIds(payload: bytes, name: str) -> tuple[int, ...]:
    count, odd = divmod(len(payload), 4)
    if odd or not count:
        raise MalformedFrame(f"{name} of {len(payload)} bytes")
    return struct.unpack(f"!{count}I", payload)


def _encodeRefuse(frame: Refuse) -> bytes:
    ids = struct.pack(f"!{len(frame.ids)}I", *frame.ids)
    return _REFUSE.pack(frame.reason, 0) + ids


def _decodeRefuse(payload: bytes) -> Refuse:
    ids = _decodeIds(payload[_REFUSE.size :], "REFUSE")
    reason, _ = _REFUSE.unpack_from(payload)
    return Refuse(reason, ids)


def _encodeBye(frame: Bye) -> bytes:
    return frame.reason.encode("utf-8", "replace")[:MAXIMUM_REASON]


def _decodeBye(payload: bytes) -> Bye:
    if len(payload) > MAXIMUM_REASON:
        raise MalformedFrame(f"BYE of {len(payload)} bytes")
    text = payload.decode("utf-8", "replace")
    return Bye(printable(text))


def _decodeEmpty(
    frame: type[Drain] | type[Drained] | type[Revoked] | type[Leave],
) -> Callable[[bytes], Frame]:
    def decode(payload: bytes) -> Frame:
        if payload:
            raise MalformedFrame(f"{frame.__name__.upper()} with a payload")
        return frame()

    return decode


def _encodeEmpty(frame: Frame) -> bytes:
    return b""


_encoders: dict[type[Frame], Callable[..., bytes]] = {
    ListenerHello: _encodeListenerHello,
    WorkerHello: _encodeWorkerHello,
    Offer: _encodeOffer,
    Listener: _encodeListener,
    Withdraw: _encodeWithdraw,
    Claim: _encodeIds,
    Refuse: _encodeRefuse,
    Closed: _encodeIds,
    ClientGone: _encodeIds,
    Drain: _encodeEmpty,
    Drained: _encodeEmpty,
    Revoked: _encodeEmpty,
    Bye: _encodeBye,
    Leave: _encodeEmpty,
    Serving: _encodeServing,
    Given: _encodeIds,
    Loads: _encodeLoads,
}

Vocabulary: TypeAlias = "dict[int, Callable[[bytes], Frame]]"

FROM_LISTENER: Vocabulary = {
    ListenerHello.TYPE: _decodeListenerHello,
    Offer.TYPE: _decodeOffer,
    Listener.TYPE: _decodeListener,
    Withdraw.TYPE: _decodeWithdraw,
    Drained.TYPE: _decodeEmpty(Drained),
    Revoked.TYPE: _decodeEmpty(Revoked),
    Bye.TYPE: _decodeBye,
    Leave.TYPE: _decodeEmpty(Leave),
    Loads.TYPE: _decodeLoads,
}

FROM_WORKER: Vocabulary = {
    WorkerHello.TYPE: _decodeWorkerHello,
    Claim.TYPE: lambda payload: Claim(_decodeIds(payload, "CLAIM")),
    Refuse.TYPE: _decodeRefuse,
    Closed.TYPE: lambda payload: Closed(_decodeIds(payload, "CLOSED")),
    ClientGone.TYPE: lambda payload: ClientGone(_decodeIds(payload, "GONE")),
    Drain.TYPE: _decodeEmpty(Drain),
    Bye.TYPE: _decodeBye,
    Serving.TYPE: _decodeServing,
    Given.TYPE: lambda payload: Given(_decodeIds(payload, "GIVEN")),
}


def _offers(buffer: bytes) -> list[Offer]:
    """
    Read the offers at the beginning of some bytes, in one step.  Each connection has an
    OFFER, and most offers come several at a time.
    """
    whole = len(buffer) - len(buffer) % _OFFER_FRAME.size
    offers = []
    for fields in _OFFER_FRAME.iter_unpack(buffer[:whole]):
        kind, _, length, id, port, waited, cookie = fields
        if kind != Offer.TYPE or length != _OFFER.size:
            break
        offers.append(Offer(id, port, cookie, waited))
    return offers


class Decoder:
    """
    Turns bytes into frames.  It keeps the beginning of a frame that is not whole yet:
    never more than a header and L{MAXIMUM_PAYLOAD} bytes.

    The first frame must be a HELLO, and no later frame may be one.  But a BYE may come
    at any time.

    @param vocabulary: L{FROM_LISTENER} or L{FROM_WORKER}.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._buffer = b""
        self._helloSeen = False
        self._failed = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """
        Take in bytes that came.

        @return: the frames that these bytes complete, in order.
        @raise ProtocolError: from the iterator, if a frame is malformed.  The iterator
            gives the frames before that one first: a claim counts, even if a malformed
            frame follows.  All later bytes are dropped.
        """
        self._buffer += data
        return self._take()

    def _take(self) -> Iterator[Frame]:
        buffer, start = self._buffer, 0
        header = _HEADER.unpack_from
        vocabulary = self._vocabulary.get
        try:
            # After a malformed frame, nobody can tell where the next frame begins.
            while not self._failed and len(buffer) - start >= _HEADER.size:
                kind, _, length = header(buffer, start)
                decode = vocabulary(kind)
                if decode is None:
                    raise UnknownFrame(f"a frame of the unknown type {kind}")
                if length > MAXIMUM_PAYLOAD:
                    raise OversizedFrame(f"a frame of {length} bytes")
                if kind != Bye.TYPE and (kind in _HELLOS) == self._helloSeen:
                    raise MalformedFrame(
                        SECOND_HELLO if self._helloSeen else HELLO_MISSING
                    )
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                if kind == Offer.TYPE and length == _OFFER.size:
                    for offer in _offers(buffer[start:]):
                        start += _OFFER_FRAME.size
                        yield offer
                    continue
                payload = buffer[start + _HEADER.size : end]
                start = end
                self._helloSeen = self._helloSeen or kind in _HELLOS
                yield decode(payload)
        except ProtocolError:
            self._failed = True
            raise
        finally:
            self._buffer = b"" if self._failed else buffer[start:]


_HELLOS = frozenset([ListenerHello.TYPE, WorkerHello.TYPE])
