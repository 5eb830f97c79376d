"""
Tests for L{portlisten._listener.roster}: how the dispatcher drains workers.
"""

from __future__ import annotations

import socket

from portlisten import _kernel
from portlisten._control.messages import Drain, Undrain, Workers
from portlisten._control.status import State, WorkerState
from portlisten._listener.sharing import CHECK_SECONDS as SHARING_CHECK_SECONDS
from portlisten._listener.sharing import Sharing
from portlisten._model import InternetAddress, Kind, Port
from portlisten._wire.frames import Claim, Closed, Serving
from portlisten._wire.listener_session import Draining, Joined, News
from tests.support.channels import texts
from tests.support.dispatchers import (
    DispatcherTestCase,
    RecordingChannel,
    portOf,
)

ROOT = _kernel.Credentials(77, 0, 0)

SHARED = Port(5, InternetAddress("TCP", "192.0.2.1", 80), "shared", Kind.LISTENER)
GROUP = Port(6, InternetAddress("TCP", "192.0.2.1", 81), "group", Kind.GROUP)


class RosterTestCase(DispatcherTestCase):
    """
    A dispatcher whose workers have labels.
    """

    queue = 8

    def enter(
        self,
        label: str = "web-1",
        pid: int = 12,
        leaves: bool = True,
        ports: tuple[Port, ...] = (),
        user: int = 1000,
    ) -> RecordingChannel:
        """
        Make a worker join.
        """
        channel = RecordingChannel(f"worker of {pid}", user)
        channel.pid = pid
        self.dispatcher.connected(channel)
        ports = ports or (portOf(),)
        self.hear(channel, Joined(4, ports, label=label, leaves=leaves))
        return channel

    def hear(self, channel: RecordingChannel, *events: News) -> None:
        """
        Let a worker say something.
        """
        self.dispatcher.received(channel, iter(events))

    def workers(self) -> list[WorkerState]:
        """
        List all workers.
        """
        return list(self.dispatcher.roster.workers(Workers(), ROOT).workers)

    def drain(self, *words: str) -> list[WorkerState]:
        """
        Drain workers.
        """
        return list(self.dispatcher.roster.drain(Drain(words), ROOT).workers)

    def undrain(self, *words: str) -> list[WorkerState]:
        """
        Let workers serve again.
        """
        return list(self.dispatcher.roster.undrain(Undrain(words), ROOT).workers)

    def states(self) -> list[State]:
        """
        Return the states of all workers.
        """
        return [each.state for each in self.workers()]

    def claim(self, channel: RecordingChannel) -> None:
        """
        Let a worker claim its last offer.
        """
        self.hear(channel, Claim((channel.ids[-1],)))

    def count(self, channel: RecordingChannel, call: str) -> int:
        """
        Count calls of a channel.
        """
        return [name for name, *_ in channel.calls].count(call)


class ListTests(RosterTestCase):
    """
    Tests for the list of workers.
    """

    def test_list(self) -> None:
        """
        Each worker that has joined is listed, with what it has and what it reports.
        """
        one = self.enter()
        self.accept(2)
        self.claim(one)
        self.hear(one, Serving(3))
        self.enter("", 0, leaves=False)
        self.dispatcher.connected(RecordingChannel("not joined yet"))
        self.assertEqual(
            self.workers(),
            [
                WorkerState("worker of 12", "web-1", 12, 1000, 2, 3, State.SERVING),
                WorkerState("worker of 0", "", 0, 1000, 0, None, State.SERVING),
            ],
        )

    def test_left(self) -> None:
        """
        A worker that left, or died, or was turned away, is not listed.
        """
        one, two, three = self.enter(), self.enter(), self.enter()
        self.dispatcher.left(one, "it says: bye")
        self.assertEqual(len(self.workers()), 2)
        self.dispatcher.died(two)
        self.assertEqual(len(self.workers()), 1)
        self.dispatcher.channelClosed(three)
        self.assertEqual(self.workers(), [])
        self.hear(one, Serving(1))
        self.assertEqual(self.workers(), [])

    def test_ownDrain(self) -> None:
        """
        A worker that stops by itself drains, and that is seen.
        """
        one = self.enter()
        self.enter("old", leaves=False)
        self.hear(one, Draining())
        self.assertEqual(self.states(), [State.DRAINED, State.SERVING])

    def test_hostileNumber(self) -> None:
        """
        What a worker reports is a number, and no more.
        """
        one = self.enter()
        self.drain("web-1")
        self.hear(one, Serving(2**32 - 1), Draining(), Serving(7))
        (state,) = self.workers()
        self.assertEqual((state.serving, state.state), (7, State.DRAINING))


class DrainTests(RosterTestCase):
    """
    Tests for draining.
    """

    def test_course(self) -> None:
        """
        A worker gets no more offers and hears LEAVE.  It is drained when it has
        confirmed that, and nothing is left.
        """
        one = self.enter()
        self.accept(2)
        (state,) = self.drain("web-1")
        self.assertEqual(state.state, State.DRAINING)
        self.assertEqual(one.calls, [("leave",)])
        self.accept()
        self.assertEqual(len(one.offers), 2)
        self.hear(one, Claim((1, 2)))
        self.hear(one, Draining())
        self.assertEqual(one.calls, [("leave",), ("drained",)])
        self.hear(one, Closed((1,)))
        self.assertEqual(self.states(), [State.DRAINING])
        self.hear(one, Closed((2,)))
        self.assertEqual(self.states(), [State.DRAINED])
        self.assertEqual(len(one.offers), 2)

    def test_unconfirmed(self) -> None:
        """
        While the worker has not confirmed that it drains, it is not drained.
        """
        one = self.enter()
        self.drain("web-1")
        self.hear(one, Serving(0))
        self.assertEqual(self.states(), [State.DRAINING])
        self.hear(one, Draining())
        self.assertEqual(self.states(), [State.DRAINED])

    def test_serving(self) -> None:
        """
        Connections that the worker reports count.
        """
        one = self.enter()
        self.hear(one, Serving(2))
        self.drain("web-1")
        self.hear(one, Draining())
        self.assertEqual(self.states(), [State.DRAINING])
        self.hear(one, Serving(0))
        self.assertEqual(self.states(), [State.DRAINED])

    def test_log(self) -> None:
        """
        The log says who asked, and when the worker is drained, once each.
        """
        one = self.enter()
        self.accept()
        self.claim(one)
        self.drain("web-1")
        self.drain("web-1")
        self.hear(one, Draining())
        self.hear(one, Closed((1,)))
        self.hear(one, Serving(0))
        lines = [line for line in texts(self.logged, "info") if "drain" in line]
        self.assertEqual(
            lines,
            [
                "worker of 12 is told to drain, as pid 77 of uid 0 asks",
                "worker of 12 drains",
                "worker of 12 is drained; it had 1 connections when that began",
            ],
        )

    def test_again(self) -> None:
        """
        To drain a worker again changes nothing.
        """
        one = self.enter()
        first = self.drain("web-1")
        self.assertEqual(self.drain("12", "web-1"), first)
        self.assertEqual(one.calls, [("leave",)])

    def test_others(self) -> None:
        """
        Other workers go on, and get what the drained one would have got.
        """
        one, two = self.enter(), self.enter("web-2", 13)
        self.drain("web-1")
        self.accept(2)
        self.assertEqual((len(one.offers), len(two.offers)), (0, 2))
        self.assertEqual(self.states(), [State.DRAINING, State.SERVING])
        self.assertEqual(two.calls, [])

    def test_nobody(self) -> None:
        """
        A word that names no worker drains nobody.
        """
        one = self.enter()
        self.assertEqual(self.drain("web", "1", "worker of 12", "1000"), [])
        self.assertEqual(one.calls, [])

    def test_several(self) -> None:
        """
        All workers with a label are drained, whoever their users are.
        """
        channels = [self.enter(), self.enter(pid=13, user=1001), self.enter(pid=14)]
        self.assertEqual([each.pid for each in self.drain("web-1", "14")], [12, 13, 14])
        self.assertEqual([each.calls for each in channels], [[("leave",)]] * 3)

    def test_joinsAgain(self) -> None:
        """
        A worker that leaves, and joins again, is found by its label.
        """
        one = self.enter()
        self.drain("web-1")
        self.dispatcher.left(one, "the channel failed")
        self.assertEqual(self.drain("web-1"), [])
        two = self.enter()
        self.assertEqual(self.states(), [State.SERVING])
        self.hear(two, Serving(1))
        self.drain("web-1")
        self.assertEqual(two.calls, [("leave",)])

    def test_older(self) -> None:
        """
        Nobody knows what is left of a worker that does not know LEAVE.
        """
        one = self.enter(leaves=False)
        self.accept()
        (state,) = self.drain("web-1")
        self.assertEqual((state.state, state.connections), (State.UNKNOWN, 1))
        self.accept()
        self.assertEqual(len(one.offers), 1)
        self.claim(one)
        self.hear(one, Closed((1,)))
        self.assertEqual(self.states(), [State.UNKNOWN])

    def test_newcomer(self) -> None:
        """
        A worker that waits for its first offer is drained too: it never gets one.
        """
        for _ in range(3):
            channel = self.enter()
            self.accept()
            self.die(channel)
        one = self.enter()
        self.assertIn("must wait", texts(self.logged, "warn")[-1])
        (state,) = self.drain("web-1")
        self.assertEqual((state.state, state.connections), (State.DRAINING, 0))
        self.hear(one, Draining())
        self.assertEqual(self.states(), [State.DRAINED])
        self.clock.pump([1.0] * 30)
        self.assertEqual(one.offers, [])
        self.undrain("web-1")
        self.assertEqual(one.calls[-1], ("bye", "undrained: join again"))
        self.assertEqual(self.workers(), [])


class UndrainTests(RosterTestCase):
    """
    Tests for letting workers serve again.
    """

    def test_bye(self) -> None:
        """
        The worker hears BYE, and keeps what it serves.
        """
        for leaves in (True, False):
            one = self.enter(leaves=leaves)
            [client] = self.accept()
            own = self.adopt(one)
            self.drain("web-1")
            self.assertEqual(self.undrain("web-1"), [])
            self.assertEqual(one.calls[-1], ("bye", "undrained: join again"))
            self.assertEqual(self.workers(), [])
            self.dispatcher.channelClosed(one)
            self.clock.pump([0.1] * 30)
            self.assertTrue(self.isOpen(client))
            self.assertEqual(self.ledger.counters.redispatched, 0)
            own.close()

    def test_unanswered(self) -> None:
        """
        While an offer is not answered, the worker goes on draining: it would take the
        offer for its own at BYE, and the listener could not know that.
        """
        one = self.enter()
        self.accept()
        self.drain("web-1")
        (state,) = self.undrain("web-1")
        self.assertEqual(state.state, State.DRAINING)
        self.assertEqual(self.count(one, "bye"), 0)
        self.claim(one)
        self.assertEqual(self.undrain("web-1"), [])
        self.assertEqual(self.count(one, "bye"), 1)

    def test_serves(self) -> None:
        """
        A worker that nobody drained is left alone, also if it drains by itself.
        """
        one, two = self.enter(), self.enter("web-2", 13)
        self.hear(two, Draining())
        states = [each.state for each in self.undrain("web-1", "web-2")]
        self.assertEqual(states, [State.SERVING, State.DRAINED])
        self.assertEqual(self.count(one, "bye") + self.count(two, "bye"), 0)

    def test_log(self) -> None:
        """
        The log says who asked.
        """
        self.enter()
        self.drain("web-1")
        self.undrain("web-1")
        self.assertIn(
            "worker of 12 is undrained, as pid 77 of uid 0 asks",
            texts(self.logged, "info"),
        )


class SharedTests(RosterTestCase):
    """
    Workers that use shared sockets.
    """

    def sharing(self) -> Sharing:
        """
        Share a port, and another one with two sockets.
        """
        one, *two = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
        for sock in (one, *two):
            self.addCleanup(sock.close)
        self.one, self.two = one, two
        sockets = {SHARED.number: [one], GROUP.number: two}
        return Sharing(self.clock, [SHARED, GROUP], sockets, 5, 5.0, 50)

    def test_withdrawn(self) -> None:
        """
        The worker's sockets are withdrawn before it hears LEAVE.
        """
        one = self.enter(ports=(SHARED, GROUP, portOf()))
        self.drain("web-1")
        self.assertEqual(
            one.calls[3:],
            [*(("withdraw", sock) for sock in (self.one, *self.two)), ("leave",)],
        )
        self.drain("web-1")
        self.assertEqual(self.count(one, "withdraw"), 3)

    def test_heir(self) -> None:
        """
        The sockets of a group go to the worker that is left.
        """
        one, two = self.enter(ports=(GROUP,)), self.enter("b", 13, ports=(GROUP,))
        self.drain("web-1")
        shared = {call[2] for call in two.calls if call[0] == "lend"}
        self.assertEqual(shared, set(self.two))
        self.assertEqual(one.calls[-1], ("leave",))

    def test_undrained(self) -> None:
        """
        A worker that knows LEAVE gets its sockets when it has joined again.
        """
        one = self.enter(ports=(SHARED,))
        self.drain("web-1")
        self.undrain("web-1")
        self.assertEqual(one.calls[-1][0], "bye")
        two = self.enter(ports=(SHARED,))
        self.assertEqual(two.calls, [("lend", 5, self.one)])

    def test_program(self) -> None:
        """
        A program that reads no frames, and so would not join again, hears no BYE.  Its
        socket is not sent again, since nobody would ever read that.
        """
        one = self.enter("", ports=(SHARED,), leaves=False)
        one.reads = False
        (state,) = self.drain("12")
        self.assertEqual(state.state, State.UNKNOWN)
        (state,) = self.undrain("12")
        self.assertEqual(state.state, State.SERVING)
        self.clock.pump([SHARING_CHECK_SECONDS] * 30)
        self.assertEqual(self.count(one, "lend"), 1)
        self.assertEqual(self.count(one, "bye") + self.count(one, "revoke"), 0)
        self.drain("12")
        self.assertEqual(self.count(one, "withdraw"), 2)

    def test_olderSharer(self) -> None:
        """
        An older worker that reads its frames gets its socket back.
        """
        one = self.enter("", ports=(SHARED,), leaves=False)
        one.reads = False
        self.drain("12")
        self.undrain("12")
        self.assertEqual(self.count(one, "lend"), 1)
        one.reads = True
        self.clock.pump([SHARING_CHECK_SECONDS] * 2)
        self.assertEqual(one.calls[-1], ("lend", 5, self.one))
        self.die(one)

    def test_newcomer(self) -> None:
        """
        If such a program waited for its first socket, it waits again, and gets it.
        """
        for _ in range(3):
            channel = self.enter(ports=(SHARED, portOf()))
            self.accept()
            self.die(channel)
        one = self.enter("", ports=(SHARED,), leaves=False)
        self.drain("12")
        self.clock.pump([1.0] * 12)
        self.assertEqual(self.count(one, "lend"), 0)
        self.undrain("12")
        self.clock.pump([1.0] * 12)
        self.assertEqual(one.calls, [("leave",), ("lend", 5, self.one)])
        self.die(one)
