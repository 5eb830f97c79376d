"""
Tests for L{portlisten._policy.assignment}.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.assignment import (
    Assignment,
    Decision,
    ShareSocket,
    WithdrawSocket,
)
from tests.support.settings import SETTINGS

HANDED_OFF = Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http")
COMMON = Port(1, InternetAddress("TCP", "192.0.2.1", 81), "web", Kind.LISTENER)
UDP = Port(2, InternetAddress("UDP", "192.0.2.1", 53), "dns", Kind.DATAGRAMS)
GROUP = Port(3, InternetAddress("TCP", "192.0.2.1", 82), "group", Kind.GROUP)


class CommonTests(SynchronousTestCase):
    """
    Tests for ports with one socket.
    """

    def setUp(self) -> None:
        """
        Share two.
        """
        self.assignment = Assignment(
            [COMMON, UDP], {COMMON.number: ["a"], UDP.number: ["b"]}
        )

    def test_everybody(self) -> None:
        """
        Each worker gets the shared sockets of the ports that it wants.
        """
        for channel in "xy":
            self.assertEqual(
                self.assignment.addWorker(channel, [HANDED_OFF, COMMON, UDP]),
                [ShareSocket(channel, 1, "a"), ShareSocket(channel, 2, "b")],
            )
        self.assertEqual(
            self.assignment.addWorker("z", [UDP]), [ShareSocket("z", 2, "b")]
        )
        self.assertEqual(self.assignment.addWorker("o", [HANDED_OFF]), [])

    def test_socketsOf(self) -> None:
        """
        The sockets that a worker has are known.
        """
        self.assignment.addWorker("x", [COMMON, UDP])
        self.assignment.addWorker("y", [UDP])
        self.assertEqual(self.assignment.socketsOf("x"), ["a", "b"])
        self.assertEqual(self.assignment.socketsOf("y"), ["b"])
        self.assertEqual(self.assignment.socketsOf("z"), [])
        self.assignment.removeWorker("x")
        self.assertEqual(self.assignment.socketsOf("x"), [])

    def test_left(self) -> None:
        """
        To remove a worker leads to no decision, even if it was never added.
        """
        self.assignment.addWorker("x", [COMMON])
        for channel in "xxy":
            self.assertEqual(self.assignment.removeWorker(channel), [])


class GroupTests(SynchronousTestCase):
    """
    Tests for ports with several sockets.
    """

    def share(self, sockets: str) -> None:
        """
        Share a port with these.
        """
        self.assignment = Assignment([GROUP], {GROUP.number: sockets})

    def test_socketsOf(self) -> None:
        """
        The sockets that a worker has are known.
        """
        self.share("ab")
        self.join("x")
        self.assertEqual(sorted(self.assignment.socketsOf("x")), ["a", "b"])
        self.join("y")
        self.assertEqual(len(self.assignment.socketsOf("x")), 1)
        self.assignment.removeWorker("x")
        self.assertEqual(self.assignment.socketsOf("x"), [])

    def join(self, channel: str) -> list[Decision]:
        """
        A worker joins.
        """
        return self.assignment.addWorker(channel, [GROUP])

    def test_first(self) -> None:
        """
        The first worker gets all, since no queue may be left alone.
        """
        self.share("abc")
        self.assertEqual(self.join("x"), [ShareSocket("x", 3, each) for each in "abc"])

    def test_lendFirst(self) -> None:
        """
        The next gets its share of them, and only then have they to be given up.
        """
        self.share("abcd")
        self.join("x")
        self.assertEqual(
            self.join("y"),
            [
                ShareSocket("y", 3, "d"),
                WithdrawSocket("x", "d"),
                ShareSocket("y", 3, "c"),
                WithdrawSocket("x", "c"),
            ],
        )

    def test_heir(self) -> None:
        """
        The sockets of a worker that leaves go to the workers with the fewest.
        """
        self.share("abcd")
        for channel in "xyz":
            self.join(channel)
        # y has d and c, and each of the others has one.
        self.assertEqual(
            self.assignment.removeWorker("y"),
            [ShareSocket("x", 3, "c"), ShareSocket("z", 3, "d")],
        )
        self.assertEqual(self.assignment.removeWorker("y"), [])

    def test_last(self) -> None:
        """
        After the last worker left, the sockets wait for the next worker, which gets
        all.
        """
        self.share("ab")
        self.join("x")
        self.assertEqual(self.assignment.removeWorker("x"), [])
        self.assertEqual(
            self.join("y"), [ShareSocket("y", 3, "a"), ShareSocket("y", 3, "b")]
        )

    def test_moreWorkers(self) -> None:
        """
        If the workers are more than the sockets, some workers share a socket.
        """
        self.share("ab")
        self.join("x")
        self.join("y")
        (lend,) = self.join("z")
        self.assertEqual(type(lend), ShareSocket)
        self.assertEqual(len(self.join("w")), 1)

    def test_apart(self) -> None:
        """
        Two ports have nothing to do with each other.
        """
        other = Port(4, GROUP.address, "other", Kind.GROUP)
        self.assignment = Assignment(
            [GROUP, other], {GROUP.number: "ab", other.number: "cd"}
        )
        self.join("x")
        self.assertEqual(
            self.assignment.addWorker("y", [other]),
            [ShareSocket("y", 4, "c"), ShareSocket("y", 4, "d")],
        )

    @SETTINGS
    @given(
        st.integers(1, 7),
        st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40),
    )
    def test_always(self, count: int, history: list[tuple[bool, int]]) -> None:
        """
        While workers come and go, each socket has a worker, and each worker has a
        socket.  The shares are even.  No worker gets a socket that it has or loses one
        that it has not.  No socket is without a worker in between.
        """
        sockets = range(count)
        assignment = Assignment([GROUP], {GROUP.number: sockets})
        has: dict[int, set[int]] = {}
        for joins, channel in history:
            if joins and channel not in has:
                has[channel] = set()
                held = [socket for socket in sockets if self.holders(socket, has)]
                decisions = assignment.addWorker(channel, [GROUP])
            else:
                has.pop(channel, None)
                held = [socket for socket in sockets if self.holders(socket, has)]
                decisions = assignment.removeWorker(channel)
            for decision in decisions:
                mine = has[decision.channel]
                if isinstance(decision, ShareSocket):
                    self.assertNotIn(decision.socket, mine)
                    self.assertEqual(decision.port, GROUP.number)
                    mine.add(decision.socket)
                else:
                    mine.remove(decision.socket)
                for socket in held:
                    self.assertTrue(self.holders(socket, has))
            if has:
                self.assertEven(map(len, has.values()))
                self.assertEven(self.holders(socket, has) for socket in sockets)

    @staticmethod
    def holders(socket: int, has: dict[int, set[int]]) -> int:
        """
        How many workers have a socket.
        """
        return sum(socket in sockets for sockets in has.values())

    def assertEven(self, counts: Iterable[int]) -> None:
        """
        Expect no zero, and no difference of two.
        """
        listed = list(counts)
        self.assertGreater(min(listed), 0)
        self.assertLess(max(listed) - min(listed), 2)
