"""
Tests for L{portlisten._listener.roster}: the workers that another listener's operator
has drained.
"""

from __future__ import annotations

from portlisten._control.status import State
from portlisten._wire.listener_session import Draining
from tests.support.dispatchers import portOf
from tests.unit.listener.test_roster import GROUP, RosterTestCase


class DrainedTests(RosterTestCase):
    """
    What the next listener hears.
    """

    def test_drained(self) -> None:
        """
        These are the workers that the operator drains, whether they have drained or
        not, and not those that drain by themselves.
        """
        self.enter("web-1", 12)
        second = self.enter("web-2", 13)
        third = self.enter("web-3", 14)
        self.assertEqual(self.dispatcher.roster.drained, ())
        self.drain("web-1", "web-2")
        self.hear(second, Draining())
        self.hear(third, Draining())
        self.assertEqual(self.dispatcher.roster.drained, (12, 13))
        self.undrain("web-2")
        self.assertEqual(self.dispatcher.roster.drained, (12,))

    def test_containers(self) -> None:
        """
        If the kernel does not tell a worker's process, its label says which it is.
        """
        self.enter("web-1", 0)
        self.enter("web-2", 0)
        self.enter("web-3", 12)
        self.enter("", 0)
        self.drain("web-1", "web-3")
        roster = self.dispatcher.roster
        self.assertEqual((roster.drained, roster.drainedLabels), ((12,), ("web-1",)))

    def test_ports(self) -> None:
        """
        The names of a worker's ports are known as long as it has joined.
        """
        channel = self.enter(ports=(portOf("web"), portOf("mail", 1), GROUP))
        roster = self.dispatcher.roster
        self.assertEqual(roster.ports(channel), {"web", "mail", "group"})
        self.die(channel)
        self.assertEqual(roster.ports(channel), frozenset())


class InheritTests(RosterTestCase):
    """
    What a listener hears from the one before.
    """

    def test_inherited(self) -> None:
        """
        A worker that was drained there is drained when it joins, and gets no offers.
        """
        self.dispatcher.roster.inherit([12, 15])
        self.accept()
        drained, other = self.enter("web-1", 12), self.enter("web-2", 13)
        self.assertEqual(self.count(drained, "leave"), 1)
        self.assertEqual(self.count(other, "leave"), 0)
        self.assertEqual(self.states(), [State.DRAINING, State.SERVING])
        self.assertEqual(self.dispatcher.roster.drained, (12,))
        self.accept(2)
        self.assertEqual((len(drained.offers), len(other.offers)), (0, 3))

    def test_containers(self) -> None:
        """
        If the kernel does not tell the workers' processes, the one with the label is
        drained, whichever joins first.  What an earlier release says of such a process
        means no worker.
        """
        self.dispatcher.roster.inherit([0], ["web-2"])
        other, drained = self.enter("web-1", 0), self.enter("web-2", 0)
        known = self.enter("web-2", 12)
        leaving = [self.count(each, "leave") for each in (other, drained, known)]
        self.assertEqual(leaving, [0, 1, 0])

    def test_once(self) -> None:
        """
        After that, another worker of that process serves, as one that was undrained.
        """
        self.dispatcher.roster.inherit([12])
        first = self.enter("web-1", 12)
        self.undrain("web-1")
        self.dispatcher.channelClosed(first)
        self.assertEqual(self.count(self.enter("web-1", 12), "leave"), 0)

    def test_undrain(self) -> None:
        """
        The operator may let it serve again.
        """
        self.dispatcher.roster.inherit([12])
        channel = self.enter("web-1", 12)
        self.hear(channel, Draining())
        self.undrain("web-1")
        self.assertEqual(self.count(channel, "bye"), 1)
        self.assertEqual(self.dispatcher.roster.drained, ())

    def test_mustWait(self) -> None:
        """
        A worker that must wait for its first offer is drained at once, and once only.
        """
        self.dispatcher.roster.inherit([12])
        self.throttle.failed(7)
        channel = self.enter("web-1", 12, user=7)
        self.assertEqual(self.count(channel, "leave"), 1)
        self.clock.advance(3)
        self.assertEqual(self.count(channel, "leave"), 1)
