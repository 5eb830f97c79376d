"""
Tests for L{portlisten._listener.status}: what a dispatcher's parts tell.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, replace

import portlisten
from portlisten._control.messages import Drain, StatusAnswer
from portlisten._control.status import (
    ClaimTimes,
    DenialStatus,
    DeniedStatus,
    ListenerStatus,
    PortStatus,
    QueueStatus,
    SourceStatus,
    State,
    WorkerStatus,
)
from portlisten._listener.limits import Limiter
from portlisten._listener.sharing import Sharing
from portlisten._listener.status import Reporter
from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.claim_times import BOUNDS
from portlisten._policy.counters import ENDS
from portlisten._policy.networks import networkOf
from portlisten._wire.frames import Claim, Closed, Serving
from portlisten._wire.listener_session import Draining, Joined
from tests.support.dispatchers import RecordingChannel
from tests.unit.listener.test_roster import ROOT, RosterTestCase

WEB = Port(0, InternetAddress("TCP", "192.0.2.1", 80), "web")
SHARED = Port(1, InternetAddress("TCP", "127.0.0.1", 81), "dns", Kind.LISTENER)
UDP = Port(2, InternetAddress("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS)


class ReporterTests(RosterTestCase):
    """
    A listener with a port, and with shared ports.
    """

    def sharing(self) -> Sharing:
        """
        Make what shares the sockets.
        """
        self.shared = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.shared.close)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(udp.close)
        ports = [WEB, SHARED, UDP]
        sockets = {1: [self.shared], 2: [udp]}
        made = Sharing(self.clock, ports, sockets, 5, 1.0, 5)
        self.addCleanup(made.stop)
        return made

    def setUp(self) -> None:
        super().setUp()
        self.limiter = Limiter(self.clock, (), {})
        self.reporter = Reporter(
            self.clock,
            "/run/web.sock",
            [WEB, SHARED, UDP],
            self.ledger,
            self.dispatcher._sharing,
            self.dispatcher,
            self.limiter,
        )

    def answer(self) -> StatusAnswer:
        """
        Ask the listener.
        """
        return self.reporter.status(False, lambda number: 7 + number)

    def status(self) -> ListenerStatus:
        """
        Ask the listener, and check that the numbers fit each other.
        """
        listener = self.answer().listener
        assert listener is not None
        ended = sum(listener.counters[name] for name in ENDS)
        self.assertEqual(
            listener.counters["accepted"], sum(listener.held.values()) + ended
        )
        for place in ("offered", "claimed"):
            self.assertEqual(
                listener.held[place],
                sum(getattr(worker, place) for worker in listener.workers),
            )
        self.assertEqual(
            listener.held["waiting"], sum(queue.waiting for queue in listener.queues)
        )
        return listener

    def web(self, label: str = "web-1", number: int = 1) -> RecordingChannel:
        """
        Make a worker join that serves "web".
        """
        channel = RecordingChannel(f"worker {number}")
        channel.number, channel.pid = number, 12
        self.dispatcher.connected(channel)
        joined = Joined(2, (WEB,), label=label, leaves=True, limit=5)
        self.hear(channel, joined)
        return channel

    def worker(self) -> WorkerStatus:
        """
        Return the only worker.
        """
        (worker,) = self.status().workers
        return worker

    def test_itself(self) -> None:
        """
        The listener describes itself.
        """
        self.clock.advance(2.5)
        status = self.status()
        self.assertEqual(
            (status.version, status.pid, status.uid, status.path, status.uptime),
            (
                portlisten.__version__,
                os.getpid(),
                os.geteuid(),
                "/run/web.sock",
                2.5,
            ),
        )
        self.assertFalse(status.stopping)
        stopping = self.reporter.status(True, lambda number: 0).listener
        assert stopping is not None
        self.assertTrue(stopping.stopping)
        self.assertEqual(status.counters, asdict(self.ledger.counters))

    def test_limits(self) -> None:
        """
        The sources with the most connections are described, how many connections were
        kept out, and what is denied, or the newest of that.
        """
        status = self.status()
        self.assertEqual(status.sources, ())
        self.assertEqual(status.denied, DeniedStatus())
        self.assertEqual(status.queues[0].limited, {})
        for number in range(101):
            self.limiter.deny(networkOf(f"192.0.2.{number}"), None)
        self.limiter.deny(networkOf("2001:db8::/32"), 60.0)
        busy = SourceStatus("192.0.2.7", 20, 3, 400)
        self.patch(self.limiter, "busiest", lambda: [busy])
        limited = {"max-per-source": 400, "rate": 0}
        self.patch(self.limiter, "refusals", lambda: {"web": limited, "other": {}})
        self.clock.advance(20.0)
        status = self.status()
        self.assertEqual(status.sources, (SourceStatus("192.0.2.7", 20, 3, 400),))
        found = {each.name: each.limited for each in status.queues}
        self.assertEqual(found, {"": {}, "web": limited, "mail": {}})
        self.assertEqual(status.denied.count, 102)
        self.assertEqual(len(status.denied.networks), 100)
        self.assertEqual(
            status.denied.networks[:2],
            (DenialStatus("2001:db8::/32", 40.0), DenialStatus("192.0.2.100")),
        )

    def test_ports(self) -> None:
        """
        Ports are described, with their workers, and what waits in the kernel.
        """
        http = PortStatus("web", "tcp:192.0.2.1:80", False, 0, 7)
        shared = PortStatus("dns", "tcp:127.0.0.1:81", True, 0, 0)
        udp = PortStatus("dns", "udp:127.0.0.1:53", True, 0, None)
        self.assertEqual(self.status().ports, (http, shared, udp))
        self.web()
        channel = self.enter("dns-1", ports=(SHARED, UDP))
        with socket.create_connection(self.shared.getsockname()):
            self.assertEqual(
                self.status().ports,
                (
                    PortStatus("web", "tcp:192.0.2.1:80", False, 1, 7),
                    PortStatus("dns", "tcp:127.0.0.1:81", True, 1, 1),
                    PortStatus("dns", "udp:127.0.0.1:53", True, 1, None),
                ),
            )
            self.clock.pump([0.5] * 60)
            self.assertTrue(self.status().ports[1].unserved)
        self.dispatcher.left(channel, "it says: bye")
        self.assertEqual(
            self.status().ports[1:2],
            (PortStatus("dns", "tcp:127.0.0.1:81", True, 0, 1),),
        )

    def test_queues(self) -> None:
        """
        What waits is told by the names of the ports.
        """
        self.accept(2, name="web")
        self.clock.advance(0.1)
        self.accept(1, name="web")
        self.clock.advance(0.1)
        self.web().number = 1
        self.assertEqual(
            tuple(
                replace(each, counters={}, claimTimes=ClaimTimes())
                for each in self.status().queues
            ),
            (
                QueueStatus("", 0, 0, 0.0, 8, 0),
                QueueStatus("web", 1, 0, 0.1, 8, 1),
                QueueStatus("mail", 0, 0, 0.0, 8, 0),
            ),
        )

    def test_counters(self) -> None:
        """
        What became of the connections is told by the names of the ports, and for all
        together.
        """
        channel = self.web()
        self.accept(2, name="web")
        self.accept(1, name="mail")
        self.clock.advance(0.2)
        self.hear(channel, Claim((1,)))
        status = self.status()
        none, web, mail = status.queues
        self.assertEqual(
            [each.counters["accepted"] for each in (none, web, mail)], [0, 2, 1]
        )
        self.assertEqual((web.counters["offered"], web.counters["claimed"]), (2, 1))
        for name in web.counters:
            total = sum(each.counters[name] for each in status.queues)
            self.assertEqual(total, status.counters[name], name)
        self.assertEqual(status.counters.keys() - web.counters.keys(), {"revoked"})
        self.assertEqual(web.claimTimes.counts[BOUNDS.index(0.25)], 1)
        self.assertEqual(sum(web.claimTimes.counts), 1)
        self.assertAlmostEqual(web.claimTimes.total, 0.2)
        self.assertEqual(mail.claimTimes, ClaimTimes((0,) * (len(BOUNDS) + 1), 0.0))
        self.assertEqual(status.claimTimes, web.claimTimes)

    def test_worker(self) -> None:
        """
        A worker is described, with what it has.
        """
        channel = self.web(number=4)
        self.accept(2, name="web")
        self.hear(channel, Claim((1,)), Serving(3))
        self.clock.pump([0.1] * 5)
        self.assertEqual(
            self.worker(),
            WorkerStatus(
                name="worker 4",
                label="web-1",
                pid=12,
                uid=1000,
                connections=2,
                serving=3,
                state=State.SERVING,
                number=4,
                joined=0.5,
                ports=("web",),
                window=2,
                limit=5,
                offered=1,
                claimed=1,
                unanswered=0.5,
            ),
        )

    def test_draining(self) -> None:
        """
        The time since a worker began to drain is told, whoever began that, until it
        serves again.
        """
        channel = self.web()
        self.assertEqual(self.worker().draining, 0)
        self.dispatcher.roster.drain(Drain(("web-1",)), ROOT)
        self.clock.advance(1.5)
        self.hear(channel, Draining())
        self.dispatcher.roster.drain(Drain(("web-1",)), ROOT)
        self.assertEqual(self.worker().draining, 1.5)
        other = self.web("web-2", 2)
        self.hear(other, Draining())
        self.clock.advance(0.5)
        self.assertEqual([each.draining for each in self.status().workers], [2.0, 0.5])

    def test_mustWait(self) -> None:
        """
        A worker that must wait, since others died at once, is told apart.
        """
        for number in (1, 2):
            self.die(self.web(number=number))
        self.web(number=3)
        self.assertTrue(self.worker().waits)
        (problem, *_) = [each for each in self.answer().problems if "worker 3" in each]
        self.assertIn("must wait for its first offer", problem)
        self.clock.pump([0.5] * 10)
        self.assertFalse(self.worker().waits)

    def test_undrained(self) -> None:
        """
        A worker that only shares serves again without another channel.
        """
        self.enter("dns-1", ports=(SHARED,), leaves=False)
        self.drain("dns-1")
        self.clock.advance(1.0)
        self.assertEqual(self.worker().draining, 1.0)
        self.undrain("dns-1")
        self.assertEqual(self.worker().draining, 0)

    def test_places(self) -> None:
        """
        Each connection is in one place, whatever becomes of it.
        """
        one, two = self.web(), self.web("web-2", 2)
        self.accept(6, name="web")
        self.status()
        self.hear(one, Claim((1, 2)))
        self.status()
        self.hear(one, Closed((1,)))
        self.status()
        self.hear(two, Claim((1,)))
        self.dispatcher.left(one, "it says: bye")
        self.status()
        self.die(two)
        status = self.status()
        self.assertEqual(status.counters["finished"], 1)
        self.assertEqual(
            status.held, {"waiting": 4, "offered": 0, "claimed": 0, "departed": 1}
        )
        self.clock.pump([0.1] * 15)
        status = self.status()
        self.assertEqual(status.counters["leftWithWorker"], 1)

    def test_problems(self) -> None:
        """
        What is wrong is told.
        """
        self.accept(1, name="web")
        self.clock.pump([0.1] * 10)
        self.assertIn(
            "nobody serves web: 1 connection waits, the oldest for 1 s, and 7 more wait"
            " in the kernel",
            self.answer().problems,
        )
