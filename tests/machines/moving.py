"""
Steps that move the address between two balancers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.machines.balancer import Keepalived
from tests.machines.lan import SECOND_CLIENT, Lan
from tests.machines.load import Seen
from tests.machines.machine import until
from tests.machines.step import Step

#: How many clients of each kind are in service at the move: those that wait for a late
#: answer, those in the middle of a long one, and those that keep their connection.
IN_SERVICE = 8

#: How long the late and the long answers take.
SECONDS = 6

#: How long clients wait, in seconds.
PATIENCE = 10

#: How many others come all the time, with a new connection for each request.
NEW = 8

#: After how long the address is elsewhere at the latest, in seconds.  A script fails
#: twice, a second apart; or three advertisements are missed, and the skew of RFC 5798
#: (6.1) is over.
LONGEST = 6


@dataclass
class Moved:
    """
    What happened.

    @ivar at: when its cause began, in monotonic seconds.
    @ivar done: when the cause was complete.
    @ivar seconds: until the other one had the address.
    @ivar late: what the clients saw that waited for a late answer.
    @ivar long: what those saw that were in the middle of a long one.
    @ivar kept: what those saw that keep their connections.
    @ivar coming: what those saw that came all the time, with a connection for each
        request.
    """

    at: float
    done: float
    seconds: float
    late: Seen
    long: Seen
    kept: Seen
    coming: Seen

    def check(self) -> Moved:
        """
        Check that what is lost is what was in service, and that others only wait.
        """
        assert self.seconds < LONGEST, self.seconds
        after = self.done + self.seconds + 2
        for each in self.coming, self.kept:
            each.during(0, self.at - 0.5).check()
            each.during(after).check()
        # A connection that was kept is lost once, and the client makes a new one.
        lost = [each for each in self.kept.during(self.at - 0.5).lost if each.kept]
        assert len(lost) <= IN_SERVICE, lost
        assert self.coming.during(self.at).longest < LONGEST + 3
        return self

    def lost(self, seen: Seen) -> str:
        """
        Say what was lost, and after how long these clients knew.
        """
        ends = [max(0.0, each.ended - self.done) for each in seen.lost]
        when = f" after {min(ends):.1f} to {max(ends):.1f} s" if ends else ""
        return f"{seen.failures()}{when}"

    def __str__(self) -> str:
        later = self.coming.during(self.done)
        longest = self.coming.during(self.at).longest
        return (
            f"moved in {self.seconds:.1f} s; of {IN_SERVICE} that waited for an answer:"
            f" {self.lost(self.late)}; of {IN_SERVICE} in the middle of one:"
            f" {self.lost(self.long)}; of {IN_SERVICE} kept connections:"
            f" {self.lost(self.kept)}; of {len(later.asked)} new connections:"
            f" {self.lost(later)}, the slowest took {longest:.1f} s"
        )


def move(
    lan: Lan, old: Keepalived, new: Keepalived, how: Callable[[], object]
) -> Moved:
    """
    Let the address move, while clients wait and come.
    """
    assert old.has()
    assert not new.has()
    # The clients' kernel may not know yet where the address is.
    until(lan.answers, "clients get answers")
    patience = f"patience={PATIENCE}"

    def once(path: str) -> str:
        return lan.url(f"/{path}/{SECONDS}")

    # Those that come again and again use most ports of an address within a minute.  A
    # balancer would remember such a port (TIME-WAIT), and send no reset for it.
    own = (patience, f"from={SECOND_CLIENT}")
    with (
        lan.asking(NEW, patience) as coming,
        lan.asking(IN_SERVICE, "keep", *own) as kept,
        lan.asking(IN_SERVICE, "once", *own, url=once("slow")) as late,
        lan.asking(IN_SERVICE, "once", *own, url=once("pieces")) as long,
    ):
        time.sleep(1.5)
        at = time.monotonic()
        how()
        done = time.monotonic()
        until(new.has, "the other one has the address", 15)
        seconds = time.monotonic() - done
        time.sleep(4)
    return Moved(
        at, done, seconds, late.seen, long.seen, kept.seen, coming.seen
    ).check()


def begin(lan: Lan, *changes: tuple[str, str]) -> None:
    """
    Let both balancers run, and the first one have the address.

    @param changes: what differs in keepalived's file, in the place of what.
    """
    for each in lan.balancers:
        each.end()
    for each in lan.balancers:
        each.begin()
        each.keepalived.start(*changes)
        until(lan.balancer.keepalived.has, "the first has the address")
    for machine in lan.machines:
        lan.balancers[1].sees(machine.name, "UP")


def moveBetween(lan: Lan, how: Callable[[], object]) -> Moved:
    """
    Let the address move from the first balancer to the second one.
    """
    begin(lan)
    first, second = (each.keepalived for each in lan.balancers)
    return move(lan, first, second, how)


def planned(lan: Lan) -> str:
    """
    keepalived is stopped on the first one.
    """
    moved = moveBetween(lan, lan.balancer.keepalived.stop)
    lan.balancer.keepalived.start()
    return str(moved)


def plannedBack(lan: Lan) -> str:
    """
    After that, it is stopped on the second one.
    """
    first, second = (each.keepalived for each in lan.balancers)
    time.sleep(4)
    assert second.has(), "it must stay: nopreempt"
    return str(move(lan, second, first, second.stop).check())


def haproxyKilled(lan: Lan) -> str:
    """
    HAProxy is killed on the balancer that has the address.
    """
    return str(moveBetween(lan, lan.balancer.stop))


def linkDown(lan: Lan) -> str:
    """
    The balancer that has the address loses its network; then it has it again.
    """
    first, second = lan.balancers
    moved = moveBetween(lan, lambda: first.link(up=False))
    first.link(up=True)
    time.sleep(5)
    assert second.keepalived.has(), "it must stay: nopreempt"
    assert not first.keepalived.has()
    return f"{moved}; when the link is up again, the address stays"


def preempting(lan: Lan) -> str:
    """
    Without C{nopreempt}, the address moves a second time when the link is up again.
    """
    begin(lan, ("    nopreempt\n", ""))
    first, second = lan.balancers
    first.link(up=False)
    until(second.keepalived.has, "the second has the address", 15)
    first.link(up=True)
    until(lambda: not second.keepalived.has(), "the address moves back", 15)
    return "when the link is up again, the address moves back"


def powerOff(lan: Lan) -> str:
    """
    All processes of that balancer are killed, and its link is down.
    """

    def how() -> None:
        lan.balancer.link(up=False)
        lan.balancer.kill()

    return str(moveBetween(lan, how))


def keepalivedKilled(lan: Lan) -> str:
    """
    keepalived alone is killed: its address stays there, and both have it.
    """
    first, second = (each.keepalived for each in lan.balancers)
    moved = moveBetween(lan, first.kill)
    assert first.has()
    first.start()
    until(lambda: not first.has(), "the first one gives the address up", 15)
    time.sleep(4)
    assert second.has()
    return f"{moved}; both have it until keepalived is started again"


STEPS = [
    Step("move", "keepalived is stopped", planned),
    Step("move", "later, it is stopped on the other one", plannedBack),
    Step("move", "HAProxy is killed", haproxyKilled),
    Step("move", "the balancer's link is down, later up", linkDown),
    Step("move", "the same without nopreempt (naive)", preempting),
    Step("move", "all its processes killed, link down", powerOff),
    Step("move", "keepalived alone is killed", keepalivedKilled),
]
