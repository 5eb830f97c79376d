"""
What the stateful tests of the ledger know of its connections and workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from portlisten._policy.ledger import Ledger
from tests.support.machines import NAMES


@dataclass(eq=False)
class Connection:
    """
    A connection that the ledger has.

    @ivar heard: whether something is known to have come from its client.
    @ivar silent: whether it is kept because it is silent.
    @ivar watched: whether it is watched.
    """

    number: int
    accepted: float
    witness: bool
    since: float = 0.0
    claim: int = 0
    ended: float | None = None
    heard: bool = False
    silent: bool = False
    watched: bool = False

    @property
    def order(self) -> tuple[float, int]:
        """
        Its place in the order of arrival, here or at another listener.
        """
        return self.accepted, self.number

    @property
    def port(self) -> int:
        return self.number % 3

    @property
    def name(self) -> str:
        return NAMES[self.port]


@dataclass(eq=False)
class Side:
    """
    What the ledger should know of one channel.

    @ivar elsewhere: how many connections it says it has that came another way.
    @ivar takesOver: whether it is the next listener.
    """

    window: int
    usable: int
    names: tuple[str, ...]
    limit: int | None = None
    first: float | None = None
    offered: dict[int, Connection] = field(default_factory=dict)
    serving: dict[int, Connection] = field(default_factory=dict)
    copies: list[Connection] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)
    open: bool = True
    revoked: bool = False
    asleep: bool = False
    gives: bool = False
    given: set[int] = field(default_factory=set)
    resume: float = 0.0
    turn: int = 0
    elsewhere: int = 0
    takesOver: bool = False

    def wants(self, name: str) -> bool:
        return name in self.names

    def room(self, now: float) -> int:
        """
        How many it may be offered more.
        """
        if not self.open or self.resume > now:
            return 0
        limit = 1000 if self.limit is None else self.limit
        return max(0, min(self.usable - len(self.offered), limit - self.load))

    def mayHaveSilent(self) -> bool:
        """
        Whether it may be offered another silent one, if it has room.
        """
        return self.limit is None or len(self.silent) < self.limit // 2

    @property
    def outstanding(self) -> int:
        return len(self.offered) + len(self.serving)

    @property
    def load(self) -> int:
        return self.outstanding + self.elsewhere

    @property
    def untimed(self) -> bool:
        """
        Whether its copies are held without a limit of time.
        """
        return self.asleep or self.gives


def checkEnds(ledger: Ledger) -> None:
    """
    Check that each lost connection is listed for the log, once.
    """
    listed = Counter(end.counter for end in ledger.ends)
    kept = listed.pop("leftWithWorker", 0)
    counters = asdict(ledger.counters)
    lost = [*("lostInService", "unusable", "timedOut", "silentTooLong")]
    for name in [*lost, "goneBeforeAdoption", "stopped"]:
        assert listed[name] == counters[name], name
    assert kept <= counters["leftWithWorker"]
    orders = [end.entry.order for end in ledger.ends]
    assert len(set(orders)) == len(orders)


def checkSides(ledger: Ledger, sides: Iterable[Side], departed: Iterable[Side]) -> None:
    """
    Check that the ledger knows what each worker has.

    @param departed: the workers that have left.
    """
    for side in sides:
        assert ledger.outstanding(side) == side.outstanding
        assert ledger.copiesOf(side) == side.copies
    for side in departed:
        assert ledger.outstanding(side) == 0
        assert ledger.copiesOf(side) == side.copies
