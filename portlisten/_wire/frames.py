"""
The frames of the C{stream} wire, as values, and the reasons for which a worker cannot
be served or refuses an offer.

L{portlisten._wire.codec} turns them into bytes.  C{docs/protocol.md} describes them for
authors of workers in other languages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from portlisten._model import Kind, Port
from portlisten.errors import UnknownName, WrongKind

MAXIMUM_PAYLOAD = 16384
MAXIMUM_IDS = MAXIMUM_PAYLOAD // 4
MAXIMUM_WINDOW = 128
MAXIMUM_REASON = 255


@dataclass(frozen=True)
class ListenerHello:
    """
    The listener's first frame.

    @ivar window: how many unclaimed offers the listener will send at the most.
    @ivar ports: what it listens on.
    @ivar stopping: whether it was told to stop, and goes on only for as long as
        connections wait.
    """

    TYPE: ClassVar[int] = 1
    window: int
    ports: tuple[Port, ...] = ()
    stopping: bool = False

    def wanted(self, hello: WorkerHello) -> tuple[Port, ...]:
        """
        The ports that a worker gets something of.

        @raise UnknownName: if there is no port of a name that it asks for.
        @raise WrongKind: if it takes nothing that there is of a name that it asks
            for; or, where it asks for none, nothing that there is at all, or not
            what there is of a port whose connections it would serve.
        """
        known = dict.fromkeys(port.name for port in self.ports if port.name)
        for name in hello.names:
            if name not in known:
                raise UnknownName(
                    f"no port is called {name!r} here"
                    + (f", only {', '.join(known)}" if known else "; none has a name")
                )
            self._see(hello, [port for port in self.ports if port.name == name])
        if not hello.names:
            self._see(hello, self.ports)
            if Kind.CONNECTIONS in hello.takes:
                for port in self.ports:
                    if port.kind not in (Kind.DATAGRAMS, Kind.UNKNOWN):
                        self._see(hello, [port])
        return tuple(
            port
            for port in self.ports
            if port.kind in hello.takes
            and (not hello.names or port.name in hello.names)
        )

    @staticmethod
    def _see(hello: WorkerHello, ports: Sequence[Port]) -> None:
        """
        See that a worker can take something of one of several ports.
        """
        if ports and not any(port.kind in hello.takes for port in ports):
            port = ports[0]
            raise WrongKind(f"{port.label} {_why(port.kind, hello.takes)}")


@dataclass(frozen=True)
class WorkerHello:
    """
    The worker's first frame; no offer is sent before it.

    @ivar window: how many unclaimed offers the worker wants at the most.
    @ivar names: what the ports are called that it wants; if empty, it wants all.
    @ivar takes: what it can take of a port.
    """

    TYPE: ClassVar[int] = 2
    window: int
    names: tuple[str, ...] = ()
    takes: frozenset[Kind] = frozenset([Kind.CONNECTIONS])


@dataclass(frozen=True, slots=True)
class Offer:
    """
    A connection for the worker.  Its descriptor came with these bytes or with
    earlier ones, and is told from others by its cookie.

    @ivar id: the listener's name for it on this channel.
    @ivar port: the number of the L{Port} that it was accepted on.
    @ivar cookie: C{SO_COOKIE} of the socket, the same in every process.
    """

    TYPE: ClassVar[int] = 3
    id: int
    port: int
    cookie: int


@dataclass(frozen=True, slots=True)
class Listener:
    """
    A socket of a port that is shared, for the worker to use beside the listener
    and others.  Its descriptor came as that of an L{Offer} does.

    @ivar port: the number of the L{Port} that it belongs to.
    @ivar cookie: C{SO_COOKIE} of the socket.
    """

    TYPE: ClassVar[int] = 4
    port: int
    cookie: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """
    The worker is to use this socket no more, which came as a L{Listener}:
    another one does.
    """

    TYPE: ClassVar[int] = 13
    cookie: int


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The worker's word that it takes these offers.  It touches none of them
    before this frame is in the kernel.
    """

    TYPE: ClassVar[int] = 5
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    The worker's word that it will never touch these offers.

    @ivar reason: one of L{REFUSALS}.
    """

    TYPE: ClassVar[int] = 6
    reason: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """
    The worker has done with these connections, which it had claimed.
    """

    TYPE: ClassVar[int] = 7
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientGone:
    """
    Like L{Closed}, for connections that could not be adopted because their
    clients had left.
    """

    TYPE: ClassVar[int] = 12
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Drain:
    """
    The worker wants no more offers.
    """

    TYPE: ClassVar[int] = 8


@dataclass(frozen=True)
class Drained:
    """
    The listener's answer to L{Drain}: no offer follows.
    """

    TYPE: ClassVar[int] = 9


@dataclass(frozen=True)
class Revoked:
    """
    Whatever the worker has not claimed belongs to somebody else now.
    """

    TYPE: ClassVar[int] = 10


@dataclass(frozen=True)
class Bye:
    """
    The last frame of an orderly end.

    @ivar reason: for the log of the other side.
    """

    TYPE: ClassVar[int] = 11
    reason: str


Frame: TypeAlias = (
    "ListenerHello | WorkerHello | Offer | Listener | Withdraw | Claim | Refuse"
    " | Closed | ClientGone | Drain | Drained | Revoked | Bye"
)

MISSING_DESCRIPTOR = 1
DRAINING = 2

REFUSALS = {
    MISSING_DESCRIPTOR: "no descriptor of a stream connection came with it",
    DRAINING: "the worker is draining",
}


def _why(kind: Kind, takes: Collection[Kind]) -> str:
    """
    Say why a worker cannot have what there is of a port.
    """
    if kind is Kind.DATAGRAMS:
        return (
            "is a UDP port, which no stream server can serve: in code,"
            " portlisten.endpoints.PortlistenUDPEndpoint does"
        )
    if kind is Kind.UNKNOWN:
        return "is of a kind that this worker is too old to know"
    if Kind.CONNECTIONS in takes:
        return (
            "is shared: its listening socket goes to each worker, and this worker"
            " is too old to take one"
        )
    if Kind.LISTENER not in takes:
        return "is no UDP port"
    if kind is Kind.GROUP:
        return (
            "has reuseport, so its sockets come and go while the worker runs, which"
            " a program that knows nothing of portlisten cannot follow"
        )
    return (
        "hands off connections, which takes a worker that knows of portlisten: start"
        " the listener with --share"
    )
