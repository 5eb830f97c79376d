"""
Tests for how L{portlisten._listener.service}, L{portlisten._listener.stream} and
L{portlisten._listener.own_sockets} hand over: a listener in the real reactor, and a
successor that is spoken by hand.
"""

from __future__ import annotations

import os
import signal
import socket

from portlisten import _kernel
from portlisten._control.messages import (
    Deny,
    Drain,
    Pause,
    Replace,
    Workers,
    encodeRequest,
)
from portlisten._handover.messages import (
    Commit,
    Ready,
    Running,
    Stopping,
)
from portlisten._listener.retirement import ALL_IS_HANDED_OVER, LET_GO
from portlisten._process import signals
from portlisten._wire.frames import (
    Bye,
    Claim,
    ListenerHello,
    Offer,
)
from tests.support.channels import aMoment, eventually, texts
from tests.support.handing_over import Successor
from tests.support.listeners import ListenerTestCase


class HandingOverTestCase(ListenerTestCase):
    """
    A listener that is replaced.
    """

    async def setUp(self) -> None:
        """
        Note whether the process is told to end.
        """
        self.told: list[str] = []
        # Until the service has stopped.
        self.patch(signals, "stop", lambda reactor, reason: self.told.append(reason))
        await super().setUp()

    def successor(self) -> Successor:
        """
        Connect a successor.
        """
        made = Successor(f"{self.path}.ctl")
        self.addCleanup(made.close)
        return made

    async def end(self) -> None:
        """
        See L{ListenerTestCase.end}.  If a successor has taken over, the paths are not
        removed.
        """
        await self.service.stopService()
        if self.service._succession.isOver:
            for path in (self.path, f"{self.path}.ctl"):
                self.assertTrue(os.path.exists(path))
                os.unlink(path)
        await super().end()


class OfferedTests(HandingOverTestCase):
    """
    The successor gets the sockets.
    """

    async def test_sockets(self) -> None:
        """
        These are all sockets that listen, and the same ones.
        """
        self.start("--listen", "tcp:0:interface=127.0.0.1")
        _, hello = await self.join()
        successor = self.successor()
        manifest = await successor.ask()
        self.assertEqual(manifest["pid"], os.getpid())
        self.assertEqual(
            successor.roles, ["port", "port", "channel", "control", "transfer"]
        )
        names = [each.getsockname() for each in successor.sockets]
        self.assertEqual(names[2:], [self.path, f"{self.path}.ctl"])
        client = self.client(hello)
        self.assertEqual(client.getpeername(), names[0])

    async def test_noControl(self) -> None:
        """
        Another client of the control socket is answered meanwhile, and a second
        successor is refused.
        """
        self.start()
        first, second = self.successor(), self.successor()
        await first.ask()
        second.say(encodeRequest(Replace(("1",))))
        self.assertIn(b"another listener is about to", await second.hear())
        third = self.successor()
        third.say(encodeRequest(Workers()))
        self.assertIn(b'"workers"', await third.hear())

    async def test_stops(self) -> None:
        """
        If the listener is told to stop, the successor hears so.
        """
        self.start()
        successor = self.successor()
        await successor.ask()
        await self.service.stopService()
        self.assertIn(b"this listener was told to stop", await successor.hear())


class CommittedTests(HandingOverTestCase):
    """
    Nobody accepts.
    """

    async def test_suspended(self) -> None:
        """
        Clients, workers and operators wait, and are served if the successor dies.
        """
        self.start()
        worker, hello = await self.join()
        successor = self.successor()
        self.assertEqual(await successor.commit(), Commit(False, ()))
        self.client(hello)
        other = self.connect()
        operator = self.successor()
        operator.say(encodeRequest(Workers()))
        await aMoment()
        self.assertEqual((worker.heard(Offer), other.read()), ([], []))
        self.assertIsNone(operator.line())
        successor.close()
        await eventually(lambda: worker.heard(Offer))
        await eventually(lambda: other.heard(ListenerHello))
        self.assertIn(b'"workers"', await operator.hear())
        self.assertEqual(self.told, [])

    async def test_inherited(self) -> None:
        """
        The successor hears whether the listener is paused, and which workers are
        drained, and what is denied if it knows of that.
        """
        self.start()
        await self.join()
        operator = self.successor()
        operator.say(encodeRequest(Deny(("192.0.2.7",))))
        await operator.hear()
        operator.say(encodeRequest(Deny(("2001:db8::/32",), ("600",))))
        self.assertIn(b'"count": 2', await operator.hear())
        operator.say(encodeRequest(Pause()))
        await operator.hear()
        operator.say(encodeRequest(Drain((str(os.getpid()),))))
        self.assertIn(str(os.getpid()).encode(), await operator.hear())
        older = self.successor()
        self.assertEqual(await older.commit(), Commit(True, (os.getpid(),)))
        older.close()
        await eventually(lambda: self.service._succession._handover is None)
        newer = self.successor()
        newer.versions = ("1", "2")
        commit = await newer.commit()
        first, (network, seconds) = commit.denied
        self.assertEqual((first, network), (("192.0.2.7", None), "2001:db8::/32"))
        assert seconds is not None
        self.assertGreater(seconds, 500)


class RetiringTests(HandingOverTestCase):
    """
    The successor serves.
    """

    async def test_workers(self) -> None:
        """
        Workers are asked to join again, and when all have gone, the process ends.
        """
        self.start()
        worker, _ = await self.join()
        transfer = await self.successor().takeOver()
        await eventually(lambda: worker.heard(Bye))
        self.assertEqual(worker.heard(Bye), [Bye(LET_GO)])
        self.assertEqual(transfer.heard(Bye), [])
        worker.close()
        await eventually(lambda: transfer.heard(Bye))
        self.assertEqual(transfer.heard(Bye), [Bye(ALL_IS_HANDED_OVER)])
        await eventually(lambda: self.told)
        self.assertEqual(self.told, ["the next listener has taken over"])

    async def test_waiting(self) -> None:
        """
        What waits goes to the successor, with the time that it has waited.
        """
        self.start()
        worker, hello = await self.greeted()
        client = self.client(hello)
        await eventually(lambda: self.service._wire._dispatcher._ledger.waiting)
        transfer = await self.successor().takeOver()
        await eventually(lambda: transfer.heard(Offer))
        (offer,) = transfer.heard(Offer)
        self.assertLess(offer.waited, 6000)
        worker.close()
        await aMoment()
        self.assertEqual(self.told, [])
        transfer.say(Claim((offer.id,)))
        await eventually(lambda: self.told)
        with socket.socket(fileno=transfer.descriptors.pop()) as own:
            own.send(b"hello")
            self.assertEqual(client.recv(10), b"hello")

    async def test_notAccepted(self) -> None:
        """
        Nothing that comes is accepted: it is the successor's.
        """
        self.start()
        _, hello = await self.greeted()
        successor = self.successor()
        await successor.takeOver()
        client = self.client(hello)
        new = self.connect()
        await aMoment()
        self.assertEqual(new.read(), [])
        accepted, address = successor.sockets[0].accept()
        accepted.close()
        self.assertEqual(address, client.getsockname())

    async def test_dies(self) -> None:
        """
        If the successor dies, the listener serves again, and can be replaced again.
        """
        self.start()
        _, hello = await self.greeted()
        client = self.client(hello)
        await eventually(lambda: self.service._wire._dispatcher._ledger.waiting)
        successor = self.successor()
        transfer = await successor.takeOver()
        await eventually(lambda: transfer.heard(Offer))
        successor.close()
        worker, hello = await self.join()
        self.assertFalse(hello.stopping)
        await eventually(lambda: worker.heard(Offer))
        self.assertEqual(self.told, [])
        client.close()
        (offer,) = worker.heard(Offer)
        worker.say(Claim((offer.id,)))
        transfer = await self.successor().takeOver()
        await eventually(lambda: worker.heard(Bye))
        self.assertEqual(worker.heard(Bye), [Bye(LET_GO)])

    async def test_successorStops(self) -> None:
        """
        If the successor is told to stop, so is the listener.
        """
        self.start()
        await self.greeted()
        successor = self.successor()
        await successor.takeOver()
        successor.say(Stopping())
        await eventually(lambda: self.told)
        self.assertEqual(self.told, ["the next listener was told to stop"])

    async def test_stopWaits(self) -> None:
        """
        If the listener is told to stop meanwhile, it hands over all, and then stops.
        """
        self.start("--grace", "20")
        worker, _ = await self.join()
        transfer = await self.successor().takeOver()
        await eventually(lambda: worker.heard(Bye))
        stopped = self.service.stopService()
        await aMoment()
        self.assertFalse(stopped.called)
        worker.close()
        await stopped
        self.assertEqual(transfer.heard(Bye), [Bye(ALL_IS_HANDED_OVER)])
        self.assertEqual(self.told, [])

    async def test_unwantedPort(self) -> None:
        """
        A Unix port that the successor lacks keeps its path until the listener ends, and
        then loses it to nobody.
        """
        port = f"{self.path}.port"
        self.start("--listen", f"unix:{port}")
        await self.greeted()
        successor = self.successor()
        await successor.ask()
        cookie = _kernel.cookie(successor.sockets[0])
        successor.say(Ready((cookie,), ("",)), Running(4711))
        await eventually(
            lambda: any("has taken over" in each for each in texts(self.logged, "info"))
        )
        self.assertTrue(os.path.exists(port))
        os.kill(os.getpid(), signal.SIGUSR1)
        await aMoment()
        successor.close()
        await self.service.stopService()
        self.assertFalse(os.path.exists(port))
