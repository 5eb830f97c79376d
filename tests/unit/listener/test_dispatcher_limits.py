"""
Tests for L{portlisten._listener.dispatcher}: ports that have limits.
"""

from __future__ import annotations

from ipaddress import ip_network

from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.dispatcher import FAREWELL_SECONDS
from portlisten._listener.limits import Limiter
from portlisten._listener.proxied_clients import TIMEOUT_SECONDS
from portlisten._policy.ledger import Ledger
from portlisten._policy.source_limits import Beyond, Limits
from portlisten._wire.frames import Claim, Closed
from tests.support.channels import tcpPair
from tests.support.dispatchers import DispatcherTestCase, portOf


class LimitedTestCase(DispatcherTestCase):
    """
    A dispatcher whose port 0 has limits.
    """

    queue = 100
    names: tuple[str, ...] = ("",)
    limits = Limits(maxPerSource=1)

    def makeLimiter(self) -> Limiter:
        """
        See L{DispatcherTestCase.makeLimiter}.
        """
        self.made = Limiter(self.clock, [portOf("", 0)], {0: self.limits})
        self.ledger = Ledger(
            self.queue, 100, 60.0, names=self.names, tables=self.made.tables
        )
        return self.made


class RefusingTests(LimitedTestCase):
    """
    Tests for clients that are refused.
    """

    def test_refused(self) -> None:
        """
        A client beyond the limit is reset.  When the first one has ended, the next one
        comes in.
        """
        worker = self.join()
        first, second = self.accept(2)
        self.assertEqual(worker.ids, [1])
        self.assertTrue(self.isOpen(first))
        self.assertRaises(ConnectionResetError, second.recv, 1)
        self.dispatcher.received(worker, [Claim((1,)), Closed((1,))])
        self.accept(1)
        self.assertEqual(worker.ids, [1, 2])

    def test_busy(self) -> None:
        """
        After a refusal, the listener accepts although the worker is busy.
        """
        self.join()
        self.accept(1)
        self.assertTrue(self.dispatcher.busy(""))
        self.accept(1)
        self.assertFalse(self.dispatcher.busy(""))

    def test_denied(self) -> None:
        """
        A client that an operator denies is reset.
        """
        worker = self.join()
        self.made.deny(ip_network("127.0.0.0/8"), None)
        [client] = self.accept(1)
        self.assertRaises(ConnectionResetError, client.recv, 1)
        self.assertEqual(worker.ids, [])
        self.made.allow(ip_network("127.0.0.0/8"))
        self.accept(1)
        self.assertEqual(worker.ids, [1])


class WaitingTests(LimitedTestCase):
    """
    Tests for clients that wait beyond a limit.
    """

    limits = Limits(maxPerSource=1, beyond=Beyond.WAIT)

    def test_released(self) -> None:
        """
        When one has ended, the next one is offered.
        """
        worker = self.join()
        self.accept(3)
        self.assertEqual(worker.ids, [1])
        self.dispatcher.received(worker, [Claim((1,)), Closed((1,))])
        self.assertEqual(worker.ids, [1, 2])

    def test_stop(self) -> None:
        """
        A listener that ends offers all that wait.
        """
        worker = self.join()
        self.accept(3)
        self.dispatcher.stop(10.0)
        self.assertEqual(worker.ids, [1, 2, 3])

    def test_late(self) -> None:
        """
        It offers also those that limits keep out while it ends.
        """
        worker = self.join()
        self.accept(1)
        self.dispatcher.stop(10.0)
        self.accept(2)
        self.assertEqual(worker.ids, [1])
        self.check()
        self.assertEqual(worker.ids, [1, 2, 3])


class ProxiedTests(LimitedTestCase):
    """
    Tests for clients that come by a proxy.
    """

    names = ("", "mail")
    limits = Limits(maxPerSource=1, proxies=(ip_network("127.0.0.0/8"),))

    def test_sources(self) -> None:
        """
        They count for the sources that the proxy names.
        """
        worker = self.join()
        clients = self.accept(3)
        self.assertEqual((worker.ids, self.made.held), ([], 3))
        capacity = self.dispatcher.capacity("")
        for client, host in zip(clients, ("1", "1", "2"), strict=True):
            client.send(f"PROXY TCP4 192.0.2.{host} 192.0.2.9 1 2\r\n".encode())
        for reader in list(self.clock.readers):
            reader.doRead()
        self.assertEqual((worker.ids, self.made.held), ([1, 2], 0))
        self.assertEqual(self.dispatcher.capacity(""), capacity + 1)
        self.assertRaises(ConnectionResetError, clients[1].recv, 1)

    def test_again(self) -> None:
        """
        What waited at the listener before comes in whatever the limits say, and has
        waited since then.
        """
        worker = self.join(window=1)
        self.made.deny(ip_network("192.0.2.1/32"), None)
        for _ in range(2):
            client, accepted = tcpPair()
            self.addCleanup(client.close)
            self.clients.append(client)
            connection = AcceptedConnection(accepted, client.getsockname())
            self.dispatcher.accepted(portOf("", 0), [connection], 5.0)
            client.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n")
            for reader in list(self.clock.readers):
                reader.doRead()
        self.assertEqual((worker.ids, self.ledger.waiting), ([1], 1))
        queue = self.ledger.queues(self.dispatcher.now())[""]
        self.assertGreaterEqual(queue.oldest, 5.0)
        self.assertEqual(self.made.refusals(), {"": {}})

    def test_otherPort(self) -> None:
        """
        What is held takes no places of other ports.
        """
        capacity = self.dispatcher.capacity("mail")
        self.accept(10)
        self.assertEqual(self.dispatcher.capacity("mail"), capacity)
        self.assertEqual(self.made.held, 10)
        self.accept(80)
        self.assertEqual(self.dispatcher.capacity("mail"), 10)

    def test_stop(self) -> None:
        """
        A listener that ends waits for the headers.
        """
        [client] = self.accept(1)
        stopped = self.dispatcher.stop(TIMEOUT_SECONDS + 10.0)
        self.clock.pump([FAREWELL_SECONDS])
        self.assertNoResult(stopped)
        self.clock.pump([0.1] * 60)
        self.successResultOf(stopped)
        self.assertRaises(ConnectionResetError, client.recv, 1)
