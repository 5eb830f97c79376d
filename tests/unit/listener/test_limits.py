"""
Tests for L{portlisten._listener.limits}, with real connections.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import ip_network
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.status import SourceStatus
from portlisten._listener import limits as limiting
from portlisten._listener.connection import AcceptedConnection, acceptConnections
from portlisten._listener.limits import (
    CHECK_SECONDS,
    LOG_SECONDS,
    TRIPPED_SECONDS,
    Admitted,
    Limiter,
)
from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.entries import Entry
from portlisten._policy.source_limits import Beyond, Limits, Rate
from portlisten._policy.tallies import Tally
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors


class LimiterTestCase(SynchronousTestCase):
    """
    A port with limits.

    @cvar family: the family of the port's address.
    """

    family = socket.AF_INET

    def setUp(self) -> None:
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        # How long the kernel takes depends on the machine.
        self.patch(limiting, "PAUSE_FACTOR", 0)
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.listening = socket.socket(self.family)
        self.addCleanup(self.listening.close)
        self.listening.bind(("::" if self.family == socket.AF_INET6 else "", 0))
        self.listening.listen(100)
        self.listening.setblocking(False)
        self.number = self.listening.getsockname()[1]
        address = InternetAddress("TCP", "0.0.0.0", self.number)
        self.port = Port(3, address, "web")

    def start(self, limits: Limits, counts: bool = True) -> Limiter:
        """
        Make the limiter.
        """
        self.limiter = Limiter(
            self.clock, [self.port], {self.port.number: limits}, counts
        )
        self.limiter.begin()
        self.addCleanup(self.limiter.stop)
        return self.limiter

    def connect(self, *hosts: str) -> list[socket.socket]:
        """
        Let clients connect from these addresses.
        """
        clients = []
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            client = socket.socket(family)
            self.addCleanup(client.close)
            client.settimeout(5)
            client.bind((host, 0))
            target = "::1" if ":" in host else "127.0.0.1"
            client.connect((target, self.number))
            clients.append(client)
        return clients

    def accept(self) -> list[AcceptedConnection]:
        """
        Accept all that wait.
        """
        found, _ = acceptConnections(self.listening, int(self.family), 100)
        for each in found:
            self.addCleanup(each.closeCopy)
        return found

    def judge(
        self, found: Sequence[AcceptedConnection], again: bool = False
    ) -> Admitted:
        """
        See who comes in.
        """
        taken, addresses = self.limiter.arrived(self.port, found)
        return self.limiter.judge(self.port, taken, addresses, again)

    def come(self, *hosts: str) -> tuple[list[socket.socket], Admitted]:
        """
        Let clients connect from these addresses, and see who comes in.
        """
        clients = self.connect(*hosts)
        return clients, self.judge(self.accept())

    def outcome(self, client: socket.socket) -> str:
        """
        What a client sees.
        """
        client.setblocking(False)
        try:
            return "closed" if client.recv(1) == b"" else "answered"
        except BlockingIOError:
            return "open"
        except ConnectionResetError:
            return "reset"

    def depart(self, admitted: Admitted) -> None:
        """
        Let workers report the ends.
        """
        for connection, source in zip(
            admitted.connections, admitted.sources, strict=True
        ):
            connection.closeCopy()
            source.depart()


class JudgingTests(LimiterTestCase):
    """
    Tests for whom the port lets in.
    """

    def test_beyond(self) -> None:
        """
        Beyond the limit of a source, a client is reset, or closed.  Other sources come
        in.
        """
        for beyond, seen in ((Beyond.RESET, "reset"), (Beyond.CLOSE, "closed")):
            self.start(Limits(maxPerSource=2, beyond=beyond))
            clients, admitted = self.come(*["127.0.0.2"] * 4, "127.0.0.3")
            self.assertEqual(
                [self.outcome(each) for each in clients],
                ["open", "open", seen, seen, "open"],
            )
            self.assertEqual(len(admitted.connections), 3)
            self.assertEqual(self.limiter.refusals(), {"web": {"max-per-source": 2}})
            self.depart(admitted)
            clients, admitted = self.come("127.0.0.2")
            self.assertEqual(self.outcome(clients[0]), "open")
            self.depart(admitted)

    def test_wait(self) -> None:
        """
        Or it waits.
        """
        self.start(Limits(maxPerSource=1, beyond=Beyond.WAIT))
        clients, admitted = self.come("127.0.0.2", "127.0.0.2", "127.0.0.3")
        self.assertEqual([self.outcome(each) for each in clients], ["open"] * 3)
        self.assertEqual(admitted.parked, {admitted.connections[1]})
        self.assertEqual(self.limiter.refusals(), {"web": {}})

    def test_lists(self) -> None:
        """
        Clients come in whom the lists let in.
        """
        self.start(
            Limits(
                allow=(ip_network("127.0.0.0/28"),),
                deny=(ip_network("127.0.0.3/32"),),
                beyond=Beyond.WAIT,
            )
        )
        clients, _ = self.come("127.0.0.2", "127.0.0.3", "127.0.0.77")
        self.assertEqual(
            [self.outcome(each) for each in clients], ["open", "reset", "reset"]
        )
        self.assertEqual(
            self.limiter.refusals(), {"web": {"denied": 1, "not-allowed": 1}}
        )

    def test_prefix(self) -> None:
        """
        A source may be a network.
        """
        self.start(Limits(maxPerSource=1, prefix=24))
        clients, admitted = self.come("127.0.7.1", "127.0.7.2", "127.0.8.1")
        self.assertEqual(
            [self.outcome(each) for each in clients], ["open", "reset", "open"]
        )
        names = [each.source for each in self.limiter.busiest()]
        self.assertEqual(names, ["127.0.7.0/24", "127.0.8.0/24"])
        self.depart(admitted)

    def test_trips(self) -> None:
        """
        For a while after a refusal, the listener does not rest.
        """
        limiter = self.start(Limits(maxPerSource=1))
        self.come("127.0.0.2")
        self.assertFalse(limiter.trips("web"))
        self.come("127.0.0.2")
        self.assertTrue(limiter.trips("web"))
        self.clock.advance(TRIPPED_SECONDS)
        self.assertFalse(limiter.trips("web"))

    def test_uncounted(self) -> None:
        """
        If no worker reports ends, rates hold all the same, and nothing is counted.
        """
        self.start(Limits(ratePerSource=Rate(1.0, 2)), counts=False)
        clients, admitted = self.come(*["127.0.0.2"] * 3)
        self.assertEqual(
            [self.outcome(each) for each in clients], ["open", "open", "reset"]
        )
        self.assertEqual([each.alive for each in admitted.sources], [0, 0])
        self.assertEqual(self.limiter.fair, set())

    def test_denied(self) -> None:
        """
        An operator denies clients, also on a port without limits, and allows them.
        """
        limiter = Limiter(self.clock, [self.port], {})
        self.addCleanup(limiter.stop)
        network = ip_network("127.0.0.2/31")
        self.assertFalse(limiter.denies)
        limiter.deny(network, 60.0)
        self.assertTrue(limiter.denies)
        self.assertFalse(limiter.concerns(self.port.number))
        clients = self.connect("127.0.0.1", "127.0.0.3")
        taken = limiter.undenied(self.port, self.accept())
        self.assertEqual(len(taken), 1)
        self.assertEqual([self.outcome(each) for each in clients], ["open", "reset"])
        self.assertEqual(limiter.refusals(), {"web": {"denied": 1}})
        self.assertEqual(limiter.deniedBy(ip_network("127.0.0.3/32")), (network, False))
        self.assertTrue(limiter.allow(network))
        self.assertIsNone(limiter.deniedBy(network))

    def test_deniedBySettings(self) -> None:
        """
        It says what the settings deny.
        """
        network = ip_network("127.0.0.0/8")
        limiter = self.start(Limits(deny=(network,)))
        self.assertEqual(limiter.deniedBy(ip_network("127.0.0.3/32")), (network, True))
        self.assertIsNone(limiter.deniedBy(ip_network("::1/128")))

    def test_shared(self) -> None:
        """
        Only ports whose connections are handed off have limits.
        """
        port = Port(1, self.port.address, "web", Kind.LISTENER)
        limiter = Limiter(self.clock, [port, self.port], {3: Limits(maxPerSource=1)})
        self.assertFalse(limiter.concerns(1))
        self.assertEqual(len(limiter.tables), 1)

    def test_sameName(self) -> None:
        """
        The connections of all ports of a name share a queue, so each has a source if
        the sources take turns.
        """
        other = Port(1, self.port.address, "web")
        third = Port(2, self.port.address, "mail")
        limiter = Limiter(
            self.clock, [other, third, self.port], {3: Limits(maxPerSource=1)}
        )
        found = [limiter.concerns(number) for number in (1, 2, 3)]
        self.assertEqual(found, [True, False, True])


class BothFamiliesTests(LimiterTestCase):
    """
    Tests for a port of IPv6 that takes clients of IPv4 as well.
    """

    family = socket.AF_INET6

    def test_sources(self) -> None:
        """
        A client of IPv4 is one of IPv4.
        """
        self.start(Limits(maxPerSource=1, allow=(ip_network("127.0.0.0/8"),)))
        clients, _ = self.come("127.0.0.2", "127.0.0.2", "::1")
        self.assertEqual(
            [self.outcome(each) for each in clients], ["open", "reset", "reset"]
        )
        self.assertEqual(self.limiter.busiest(), [SourceStatus("127.0.0.2", 1, 0, 1)])

    def test_prefix(self) -> None:
        """
        A source of IPv6 is a network.
        """
        self.start(Limits(maxPerSource=1))
        _, admitted = self.come("::1", "::1")
        self.assertEqual(self.limiter.busiest(), [SourceStatus("::/64", 1, 0, 1)])
        self.depart(admitted)
        self.start(Limits(maxPerSource=1, prefix6=128))
        _, admitted = self.come("::1")
        self.assertEqual([each.alive for each in admitted.sources], [1])
        self.assertEqual(self.limiter.busiest(), [SourceStatus("::1", 1, 0, 0)])


class KernelTests(LimiterTestCase):
    """
    Tests for connections whose ends no worker reports.
    """

    limits = Limits(maxPerSource=2)

    def leave(self, admitted: Admitted) -> list[socket.socket]:
        """
        Let a worker keep connections, and leave.

        @return: its descriptors.
        """
        kept = []
        left = []
        for connection, source in zip(
            admitted.connections, admitted.sources, strict=True
        ):
            entry = Entry(1, 3, "web", connection, True, 0.0, Tally())
            entry.source = source
            left.append(entry)
            sock = socket.socket(fileno=os.dup(connection.fileno()))
            self.addCleanup(sock.close)
            kept.append(sock)
            connection.closeCopy()
        self.limiter.left(left)
        self.assertEqual(left, [])
        return kept

    def test_left(self) -> None:
        """
        They count until the kernel says that they have ended.
        """
        self.start(self.limits)
        _, admitted = self.come("127.0.0.2", "127.0.0.2")
        first, second = self.leave(admitted)
        source = admitted.sources[0]
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(source.alive, 2)
        first.close()
        self.clock.pump([CHECK_SECONDS] * 2)
        self.assertEqual(source.alive, 1)
        second.close()
        self.clock.pump([CHECK_SECONDS] * 2)
        self.assertEqual((source.alive, self.clock.getDelayedCalls()), (0, []))

    def test_atOnce(self) -> None:
        """
        If the next client would be refused, the kernel is asked at once, but not too
        often.  Two of its answers count.
        """
        self.start(self.limits)
        _, admitted = self.come("127.0.0.2", "127.0.0.2")
        first, second = self.leave(admitted)
        first.close()
        for seen in ("reset", "open", "reset"):
            clients, _ = self.come("127.0.0.2")
            self.assertEqual(self.outcome(clients[0]), seen)
            self.clock.rightNow += self.limiter._ports[3].pause
        second.close()

    def test_begin(self) -> None:
        """
        What lives when the listener starts counts.
        """
        clients = self.connect("127.0.0.2", "127.0.0.2", "127.0.0.3")
        held = self.accept()
        self.start(self.limits)
        self.assertEqual(
            self.limiter.busiest(),
            [SourceStatus("127.0.0.2", 2, 0, 0), SourceStatus("127.0.0.3", 1, 0, 0)],
        )
        for each in held:
            each.closeCopy()
        self.clock.pump([CHECK_SECONDS] * 2)
        self.assertEqual(self.limiter.busiest(), [])
        self.assertEqual(len(clients), 3)

    def test_others(self) -> None:
        """
        Connections of other ports with the same number do not count.
        """
        self.connect("127.0.0.2")
        held = self.accept()
        for host, count in (
            ("0.0.0.0", 1),
            ("127.0.0.1", 1),
            ("127.0.0.2", 0),
            ("::", 0),
            ("::1", 0),
        ):
            self.port = Port(3, InternetAddress("TCP", host, self.number), "web")
            self.start(self.limits)
            self.assertEqual(self.limiter.tables[0].alive, count, host)
        self.assertEqual(len(held), 1)

    def test_halves(self) -> None:
        """
        A port on all addresses of IPv4 and of IPv6 is one, if its limits are.
        """
        other = Port(4, InternetAddress("TCP", "::", self.number), "web")
        limits = {3: self.limits, 4: self.limits}
        limiter = Limiter(self.clock, [self.port, other], limits)
        self.assertEqual(len(limiter.tables), 1)
        self.assertTrue(limiter.concerns(3) and limiter.concerns(4))
        for number, name in ((self.number + 1, "web"), (self.number, "mail")):
            another = Port(4, InternetAddress("TCP", "::", number), name)
            limiter = Limiter(self.clock, [self.port, another], limits)
            self.assertEqual(len(limiter.tables), 2)
        limits[4] = Limits(maxPerSource=3)
        limiter = Limiter(self.clock, [self.port, other], limits)
        self.assertEqual(len(limiter.tables), 2)

    def test_again(self) -> None:
        """
        What waited at the listener before counts once, and comes in whatever the limit
        says.
        """
        self.connect(*["127.0.0.2"] * 3)
        held = self.accept()
        self.start(self.limits)
        admitted = self.judge(held, again=True)
        self.assertEqual(admitted.connections, held)
        self.assertEqual(
            [each.source for each in self.limiter.busiest()], ["127.0.0.2"]
        )
        self.assertEqual(admitted.sources[0].alive, 3)
        self.assertEqual(admitted.sources[0].kept, 0)

    def test_exhausted(self) -> None:
        """
        If the kernel cannot say for lack of descriptors, they count on.
        """

        def fail(port: int) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.start(self.limits)
        _, admitted = self.come("127.0.0.2", "127.0.0.2")
        kept = self.leave(admitted)
        with mock.patch.object(_kernel, "liveConnections", fail):
            self.start(self.limits).stop()
            self.clock.pump([CHECK_SECONDS] * 3)
        self.assertEqual(admitted.sources[0].alive, 2)
        self.assertEqual(
            {event["event"] for event in self.logged}, {"connections-unknown"}
        )
        for each in kept:
            each.close()
        self.clock.pump([CHECK_SECONDS] * 2)
        self.assertEqual(admitted.sources[0].alive, 0)

    def test_silentKernel(self) -> None:
        """
        If the kernel does not say, nothing is refused for ever.
        """

        def fail(port: int) -> None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

        self.patch(_kernel, "liveConnections", fail)
        self.start(self.limits)
        _, admitted = self.come("127.0.0.2", "127.0.0.2")
        self.leave(admitted)
        self.clock.pump([CHECK_SECONDS] * 2)
        self.assertEqual(admitted.sources[0].alive, 0)
        self.assertEqual(
            {event["event"] for event in self.logged}, {"connections-unknown"}
        )


class LogTests(LimiterTestCase):
    """
    Tests for what is logged.
    """

    def test_summed(self) -> None:
        """
        The first refusal is logged at once, and others are summed up.
        """
        self.start(Limits(maxPerSource=1, deny=(ip_network("127.0.0.9/32"),)))
        label = self.port.label
        self.come("127.0.0.2", "127.0.0.2")
        self.come(*["127.0.0.2"] * 3, "127.0.0.9")
        first = f"clients of {label} were refused: max-per-source 1; 1 of 1 came from"
        self.assertEqual(texts(self.logged, "warn"), [f"{first} 127.0.0.2"])
        self.clock.advance(LOG_SECONDS)
        second = (
            f"clients of {label} were refused: max-per-source 3, denied 1; 3 of 4 came"
            " from 127.0.0.2"
        )
        self.assertEqual(texts(self.logged, "warn")[1:], [second])
        self.clock.advance(LOG_SECONDS)
        self.assertEqual(len(self.logged), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """
        At the end, the rest is logged.
        """
        self.start(Limits(maxPerSource=1))
        self.come("127.0.0.2", "127.0.0.2")
        self.come("127.0.0.2")
        self.limiter.stop()
        self.assertEqual(len(self.logged), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """
        So are connections that could not wait.
        """
        limiter = self.start(Limits(maxPerSource=9))
        table = limiter.tables[0]
        table.refuse(table.find(bytes([127, 0, 0, 2]), 0.0), "queue-full")
        limiter.refused()
        limiter.refused()
        self.assertTrue(limiter.trips("web"))
        [text] = texts(self.logged, "warn")
        self.assertIn("queue-full 1", text)
