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
MAXIMUM_LIMIT = 2**32 - 1
MAXIMUM_FIRST = 65535


@dataclass(frozen=True)
class ListenerHello:
    """
    The listener's first frame.

    @ivar window: how many unclaimed offers the listener sends at the most.
    @ivar ports: the ports that the listener listens on.
    @ivar stopping: whether the listener is stopping, and goes on only for as long as
        connections wait.
    @ivar honoursLimit: whether the listener keeps to a worker's limit.
    @ivar honoursFirst: whether the listener keeps silent connections for a worker whose
        clients speak first.
    @ivar frames: the types of the frames that came later and that the listener knows.
    @ivar claimTimeout: how long a worker may take to claim an offer, in milliseconds.
        L{None} if the listener does not say.
    """

    TYPE: ClassVar[int] = 1
    window: int
    ports: tuple[Port, ...] = ()
    stopping: bool = False
    honoursLimit: bool = False
    honoursFirst: bool = False
    frames: frozenset[int] = frozenset()
    claimTimeout: int | None = None

    def wanted(self, hello: WorkerHello) -> tuple[Port, ...]:
        """
        Select the ports whose connections or sockets a worker gets.

        @param hello: the worker's.
        @raise UnknownName: if the worker asks for a name that no port has.
        @raise WrongKind: if the worker can take the kind of no port of a name that it
            asks for.  If it asks for no names: if it can take the kind of no port, or
            if it takes connections and cannot take the kind of some TCP or Unix port.
        """
        known = dict.fromkeys(port.name for port in self.ports if port.name)
        for name in hello.names:
            if name not in known:
                raise UnknownName(
                    f"no port is called {name!r} here"
                    + (f", only {', '.join(known)}" if known else "; none has a name")
                )
            self._checkKinds(hello, [port for port in self.ports if port.name == name])
        if not hello.names:
            self._checkKinds(hello, self.ports)
            if Kind.CONNECTIONS in hello.takes:
                for port in self.ports:
                    if port.kind not in (Kind.DATAGRAMS, Kind.UNKNOWN):
                        self._checkKinds(hello, [port])
        return tuple(
            port
            for port in self.ports
            if port.kind in hello.takes
            and (not hello.names or port.name in hello.names)
        )

    @staticmethod
    def _checkKinds(hello: WorkerHello, ports: Sequence[Port]) -> None:
        """
        Check that a worker can take the kind of at least one of several ports.

        @raise WrongKind: if it cannot.
        """
        if ports and not any(port.kind in hello.takes for port in ports):
            port = ports[0]
            raise WrongKind(f"{port.label} {_whyNotTaken(port.kind, hello.takes)}")


@dataclass(frozen=True)
class WorkerHello:
    """
    The worker's first frame.  The listener sends no offer before it has read this.

    @ivar window: how many unclaimed offers the worker wants at the most.
    @ivar names: the names of the ports that the worker wants; if empty, all ports.
    @ivar takes: the kinds that the worker can take.
    @ivar limit: the most connections that the worker has, offered or claimed and not
        closed.  L{None} for no limit.
    @ivar frames: the types of the frames that came later and that the worker knows.
    @ivar label: what the operator calls the worker; may be empty.
    @ivar first: if the worker's clients speak first, how long the listener keeps a
        connection whose client is silent, in milliseconds.  L{None} if it keeps none.
    """

    TYPE: ClassVar[int] = 2
    window: int
    names: tuple[str, ...] = ()
    takes: frozenset[Kind] = frozenset([Kind.CONNECTIONS])
    limit: int | None = None
    frames: frozenset[int] = frozenset()
    label: str = ""
    first: int | None = None


#: The most slots of L{Loads}.
MAXIMUM_SLOTS = 1024

#: The longest time that an L{Offer} can tell of, in hundredths of a second.
LONGEST_WAIT = 0xFFFF


# There is one for each connection, and a frozen one would take twice as long to make.
@dataclass(slots=True, unsafe_hash=True)
class Offer:
    """
    A connection for the worker.  Its descriptor comes with these bytes or with earlier
    ones.  The cookie tells which descriptor belongs to which offer.

    @ivar id: the offer's number on this channel, which the listener chose.
    @ivar port: the number of the L{Port} that accepted the connection.
    @ivar cookie: C{SO_COOKIE} of the socket, the same in every process.
    @ivar waited: how long the connection has waited, in hundredths of a second.  Only
        the next listener is told: it gives the connection the rest of its patience.
    """

    TYPE: ClassVar[int] = 3
    id: int
    port: int
    cookie: int
    waited: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """
    A socket of a shared port.  The worker uses it, as the listener and other workers
    do.  Its descriptor comes as an L{Offer}'s does.

    @ivar port: the number of the L{Port} that the socket belongs to.
    @ivar cookie: C{SO_COOKIE} of the socket.
    """

    TYPE: ClassVar[int] = 4
    port: int
    cookie: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """
    The worker must stop using a socket that came as a L{Listener}: another worker uses
    it from now on.

    @ivar cookie: C{SO_COOKIE} of the socket.
    """

    TYPE: ClassVar[int] = 13
    cookie: int


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The worker takes these offers.  It touches none of their connections before this
    frame is in the kernel.
    """

    TYPE: ClassVar[int] = 5
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    The worker refuses these offers, and never touches their connections.

    @ivar reason: one of L{REFUSALS}.
    """

    TYPE: ClassVar[int] = 6
    reason: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """
    These connections, which the worker had claimed, are closed.
    """

    TYPE: ClassVar[int] = 7
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientGone:
    """
    Like L{Closed}, for connections that the worker could not adopt, since their clients
    had left.
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
    The offers that the worker has not claimed belong to others now.
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


@dataclass(frozen=True)
class Leave:
    """
    The worker must drain, and end the connections that it keeps for further requests.
    It keeps the channel, and its server goes on.
    """

    TYPE: ClassVar[int] = 14


@dataclass(frozen=True)
class Serving:
    """
    How many connections live in the worker that no id of this channel names.  The
    worker accepted them itself, or has them from an earlier channel.
    """

    TYPE: ClassVar[int] = 15
    count: int


@dataclass(frozen=True, slots=True)
class Given:
    """
    Other processes may touch these connections from now on.  They were claimed, and
    these processes may live longer than the worker does.

    A worker that announces this frame keeps its other claimed connections to itself.
    They stay untouched until it sends this frame.
    """

    TYPE: ClassVar[int] = 16
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loads:
    """
    Memory in which the workers that share ports tell each other how many connections
    they have.  Two descriptors of it come as a L{Listener}'s does.  The layout is in
    L{portlisten._policy.fairness}.

    @ivar slot: the worker's place in it.
    @ivar ports: one more than the largest number of a port in it.
    @ivar loads: the inode of the memory that workers write.
    @ivar members: the inode of the memory that the listener writes.
    """

    TYPE: ClassVar[int] = 17
    slot: int
    ports: int
    loads: int
    members: int


#: The types of frames that a peer must have announced.
ANNOUNCED = range(14, 46)

Frame: TypeAlias = (
    "ListenerHello | WorkerHello | Offer | Listener | Withdraw | Claim | Refuse"
    " | Closed | ClientGone | Drain | Drained | Revoked | Bye"
    " | Leave | Serving | Given | Loads"
)

MISSING_DESCRIPTOR = 1
DRAINING = 2

REFUSALS = {
    MISSING_DESCRIPTOR: "no descriptor of a stream connection came with it",
    DRAINING: "the worker is draining",
}


def _whyNotTaken(kind: Kind, takes: Collection[Kind]) -> str:
    """
    Say why a worker cannot take a port of this kind.
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
