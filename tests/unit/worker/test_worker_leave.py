"""
Tests for workers that the listener asks to drain, and for what they report meanwhile.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer

from portlisten import _kernel
from portlisten._policy.link import REPORT_SECONDS
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Drain,
    Drained,
    Leave,
    Refuse,
    Serving,
    Withdraw,
    WorkerHello,
)
from portlisten._worker.shared_ports import DatagramPorts
from portlisten._worker.worker import Worker
from portlisten.interfaces import IDrainable
from tests.support.channels import aMoment, eventually, texts
from tests.support.sharing import HELLO, SharingTestCase
from tests.support.workers import (
    GRACE,
    RETRY,
    Conversation,
    Listener,
    hear,
)

#: The HELLO of a listener that knows SERVING.
KNOWING = replace(HELLO, frames=frozenset([Serving.TYPE]))

#: What may happen in a random history.
STEPS = ["offer", "offer", "accept", "accept", "end", "leave", "bye", "die"]


@implementer(IDrainable)
class Drainable(Conversation):
    """
    Counts how often it is asked to end.
    """

    drained = 0

    def drain(self) -> None:
        self.drained += 1


class LeaveTestCase(SharingTestCase):
    """
    A worker whose listener knows SERVING, and asks the worker to drain.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.factory.build = Drainable
        self.greeting = KNOWING

    def listen(self) -> Listener:
        listener = super().listen()
        listener.greeting = (self.greeting,)
        return listener

    async def leave(self, listener: Listener) -> None:
        """
        Ask the worker to drain, and confirm that it has no more offers.
        """
        listener.channel.say(Leave())
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await aMoment()

    async def accepted(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        return await super().accepted(sock)

    async def sayBye(self, listener: Listener) -> None:
        """
        Say BYE, and close the channel.
        """
        listener.channel.say(Bye("serve again"))
        listener.channel.close()
        await aMoment()

    async def undrain(self, listener: Listener) -> None:
        """
        Take the worker back, without a pause.
        """
        before = len(listener.channels)
        await self.sayBye(listener)
        self.clock.advance(0)
        await eventually(lambda: listener.accept() or len(listener.channels) > before)
        await eventually(lambda: listener.channel.heard(WorkerHello))
        await aMoment()

    async def reports(self, listener: Listener) -> list[int]:
        """
        Return what the worker has reported on its channel.
        """
        self.clock.advance(REPORT_SECONDS)
        await aMoment()
        return [frame.count for frame in listener.channel.heard(Serving)]

    def stop(self) -> Deferred[None]:
        """
        Stop the worker.
        """
        self.started = False
        return self.worker.stop()


class LeaveTests(LeaveTestCase):
    """
    LEAVE: the worker drains, and keeps its channel and its server.
    """

    async def test_announced(self) -> None:
        """
        The worker says that it knows LEAVE.
        """
        listener = await self.join()
        (hello,) = listener.channel.heard(WorkerHello)
        self.assertIn(Leave.TYPE, hello.frames)

    async def test_drains(self) -> None:
        """
        It asks for no more offers, asks all protocols to end, and stays.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        await self.leave(listener)
        self.assertEqual(conversation.drained, 1)
        self.assertFalse(conversation.lost)
        self.clock.advance(10 * GRACE)
        await aMoment()
        self.assertFalse(listener.channel.hasEnded())
        self.assertEqual(self.factory.calls, ["start"])
        conversation.transport.loseConnection()
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertFalse(listener.channel.hasEnded())
        self.assertEqual(self.factory.calls, ["start"])
        self.assertIn("asks this worker to drain", "".join(texts(self.logged, "info")))

    async def test_inFlight(self) -> None:
        """
        A connection that is claimed, and comes only after LEAVE, drains as well.  One
        that is offered after DRAIN is refused.
        """
        listener = await self.join()
        _, accepted = self.client()
        listener.handOff(1, accepted)
        listener.channel.say(Leave())
        await eventually(lambda: listener.channel.heard(Drain))
        _, accepted = self.client()
        listener.handOff(2, accepted)
        await eventually(
            lambda: any(2 in frame.ids for frame in listener.channel.heard(Refuse))
        )
        claimed = [id for each in listener.channel.heard(Claim) for id in each.ids]
        self.assertEqual(len(self.factory.conversations), len(claimed))
        for conversation in self.factory.conversations:
            self.assertEqual(conversation.drained, 1)

    async def test_sharedPorts(self) -> None:
        """
        The worker closes shared sockets before it says DRAIN, and takes no new ones.
        What it had accepted drains.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        _, conversation = await self.accepted(sock)
        listener.channel.say(Leave())
        await eventually(lambda: listener.channel.heard(Drain))
        self.assertEqual(self.holders(sock), 1)
        self.assertEqual(conversation.drained, 1)
        self.share(listener, sock)
        await self.settle()
        self.assertEqual(self.holders(sock), 1)
        listener.channel.say(Withdraw(_kernel.cookie(sock)))
        client = self.connect(sock)
        await self.settle()
        self.assertEqual(len(self.factory.conversations), 1)
        other, _ = sock.accept()
        other.close()
        self.assertEqual(await hear(client), b"")

    async def test_twice(self) -> None:
        """
        A second LEAVE changes nothing.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        await self.leave(listener)
        listener.channel.say(Leave())
        await aMoment()
        self.assertEqual(len(listener.channel.heard(Drain)), 1)
        self.assertEqual(conversation.drained, 1)

    async def test_report(self) -> None:
        """
        The report of the worker says that it drains.
        """
        listener = await self.join()
        await self.leave(listener)
        self.worker.report()
        self.assertIn(
            f"0 connections in service; draining, as asked by the listener at"
            f" {self.path}",
            texts(self.logged, "info"),
        )

    async def test_fails(self) -> None:
        """
        A protocol that fails to drain does not keep the worker from draining.
        """
        listener = await self.join()

        def fail(conversation: Drainable) -> None:
            raise ZeroDivisionError

        self.patch(Drainable, "drain", fail)
        await self.serve(listener)
        await self.leave(listener)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ReturnTests(LeaveTestCase):
    """
    What ends a drain.
    """

    async def test_bye(self) -> None:
        """
        After BYE the worker connects at once, and serves new connections as usual.
        Those that were asked to end are not asked again.
        """
        listener = await self.join()
        _, old = await self.serve(listener)
        await self.leave(listener)
        await self.undrain(listener)
        self.assertEqual(len(listener.channels), 2)
        _, new = await self.serve(listener)
        self.assertEqual((old.drained, new.drained), (1, 0))
        self.assertEqual(listener.channel.heard(Drain), [])
        self.assertEqual(texts(self.logged, "warn"), [])
        await self.leave(listener)
        self.assertEqual((old.drained, new.drained), (1, 1))

    async def test_sharedAgain(self) -> None:
        """
        It accepts on shared sockets again.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        await self.leave(listener)
        await self.undrain(listener)
        self.share(listener, sock)
        _, conversation = await self.accepted(sock)
        self.assertEqual(conversation.drained, 0)

    async def test_byeWithoutLeave(self) -> None:
        """
        Without LEAVE before, the worker waits after BYE, as ever.
        """
        listener = await self.join()
        await self.sayBye(listener)
        self.clock.advance(RETRY / 2)
        await aMoment()
        self.assertFalse(listener.accept())
        self.clock.advance(RETRY / 2)
        await eventually(listener.accept)

    async def test_died(self) -> None:
        """
        If the listener dies meanwhile, the worker waits, and then serves the next one
        as usual.
        """
        listener = await self.join()
        _, old = await self.serve(listener)
        await self.leave(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        self.assertIn("this worker drains no longer", texts(self.logged, "info"))
        listener = self.listen()
        await aMoment()
        self.assertFalse(listener.accept())
        self.clock.advance(RETRY)
        await eventually(listener.accept)
        _, new = await self.serve(listener)
        self.assertEqual((old.drained, new.drained), (1, 0))

    async def test_stopped(self) -> None:
        """
        A worker that has nothing in service stops at once.
        """
        listener = await self.join()
        await self.leave(listener)
        stopped = self.stop()
        await eventually(lambda: stopped.called)
        self.assertEqual(len(listener.channel.heard(Drain)), 1)
        self.assertEqual(listener.channel.heard(Bye), [Bye("the worker stops")])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_stoppedBeforeDrained(self) -> None:
        """
        If the listener has not answered DRAIN, a stop waits for the answer.
        """
        listener = await self.join()
        listener.channel.say(Leave())
        await eventually(lambda: listener.channel.heard(Drain))
        stopped = self.stop()
        await aMoment()
        self.assertFalse(stopped.called)
        listener.channel.say(Drained())
        await eventually(lambda: stopped.called)
        self.assertEqual(len(listener.channel.heard(Drain)), 1)

    async def test_stoppedInService(self) -> None:
        """
        A stop waits for what is in service.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        await self.leave(listener)
        stopped = self.stop()
        await aMoment()
        self.assertFalse(stopped.called)
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)
        self.assertEqual(conversation.drained, 1)

    async def test_leaveWhileStopping(self) -> None:
        """
        LEAVE is nothing new to a worker that stops.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        stopped = self.stop()
        await self.leave(listener)
        self.assertEqual(conversation.drained, 1)
        await self.sayBye(listener)
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)
        self.clock.advance(RETRY)
        await aMoment()
        self.assertFalse(listener.accept())


class ServingTests(LeaveTestCase):
    """
    What the worker reports in SERVING.
    """

    async def test_none(self) -> None:
        """
        The first report comes at once.  Connections that the channel names change
        nothing.
        """
        listener = await self.join()
        await eventually(lambda: listener.channel.heard(Serving))
        _, conversation = await self.serve(listener)
        self.assertEqual(await self.reports(listener), [0])
        conversation.transport.loseConnection()
        await eventually(lambda: listener.channel.heard(Closed))
        self.assertEqual(await self.reports(listener), [0])

    async def test_shared(self) -> None:
        """
        Connections from shared sockets count, and changes are gathered.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        for _ in range(3):
            await self.accepted(sock)
        self.assertEqual([each.count for each in listener.channel.heard(Serving)], [0])
        self.assertEqual(await self.reports(listener), [0, 3])
        for conversation in self.factory.conversations[:2]:
            conversation.transport.loseConnection()
        await eventually(lambda: len(self.worker.serving) == 1)
        self.assertEqual(await self.reports(listener), [0, 3, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_earlierChannel(self) -> None:
        """
        Connections of an earlier channel count from the first report on.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        await self.leave(listener)
        await self.undrain(listener)
        await self.serve(listener)
        self.assertEqual(await self.reports(listener), [1])
        conversation.transport.loseConnection()
        await eventually(lambda: len(self.worker.serving) == 1)
        self.assertEqual(await self.reports(listener), [1, 0])

    async def test_whileLeaving(self) -> None:
        """
        A worker that drains or stops still reports.
        """
        sock = self.port()
        listener = await self.joinAndShare(sock)
        for _ in range(2):
            await self.accepted(sock)
        await self.leave(listener)
        self.factory.conversations[0].transport.loseConnection()
        await eventually(lambda: len(self.worker.serving) == 1)
        reports = await self.reports(listener)
        self.assertEqual(reports[-1], 1)

    async def test_postponed(self) -> None:
        """
        A connection that waits to be adopted is the worker's already.
        """
        path = os.path.join(os.path.dirname(self.path), "unix")
        sock = self.port(path)
        listener = await self.joinAndShare(sock)
        await self.settle()

        def fail() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.reactor.adopting = fail
        self.connect(sock)
        await self.settle()
        self.assertEqual(self.worker.serving, set())
        self.assertEqual(await self.reports(listener), [0, 1])
        self.reactor.adopting = lambda: None
        self.clock.advance(RETRY)
        await eventually(lambda: self.worker.serving)
        self.assertEqual(await self.reports(listener), [0, 1])

    async def test_unknown(self) -> None:
        """
        A listener that does not know SERVING gets none.
        """
        self.greeting = HELLO
        sock = self.port()
        listener = await self.joinAndShare(sock)
        await self.accepted(sock)
        self.assertEqual(await self.reports(listener), [])

    async def test_datagrams(self) -> None:
        """
        A worker for datagrams has no connections, and drains.
        """

        def makePorts(reactor: Any, adopter: Any, retry: float) -> DatagramPorts:
            return DatagramPorts(reactor, adopter, retry, DatagramProtocol, 8192)

        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, makePorts=makePorts
        )
        listener = await self.join()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self.share(listener, sock)
            await self.settle()
            self.assertEqual(self.holders(sock), 2)
            await self.leave(listener)
            self.assertEqual(self.holders(sock), 1)
        self.assertEqual(await self.reports(listener), [0])


class WalkTests(LeaveTestCase):
    """
    Random histories.
    """

    async def test_walk(self) -> None:
        """
        However a worker is drained, taken back and left alone: each connection is
        served once, the last report is true, and no descriptor stays open.
        """
        for seed in range(8):
            await self._walk(random.Random(seed))

    async def _walk(self, chance: random.Random) -> None:
        listener = await self.join()
        sock = self.port()
        self.share(listener, sock)
        served: list[Any] = []
        mine: set[Any] = set()
        away = False
        id = 0
        for _ in range(30):
            step = chance.choice(STEPS)
            if step == "offer" and not away:
                id += 1
                _, conversation = await self.serve(listener, id)
                served.append(conversation)
                mine.add(conversation)
            elif step == "accept" and not away:
                _, conversation = await self.accepted(sock)
                served.append(conversation)
            elif step == "end" and served:
                ending = served.pop(chance.randrange(len(served)))
                mine.discard(ending)
                ending.transport.loseConnection()
                await eventually(lambda ending=ending: ending.lost)
            elif step == "leave" and not away:
                away = True
                await self.leave(listener)
                self.assertEqual([each.drained for each in served], [1] * len(served))
            elif step == "bye" and away:
                await self.undrain(listener)
                self.share(listener, sock)
                mine, away = set(), False
            elif step == "die" and chance.random() < 0.5:
                listener.close()
                listener = self.listen()
                await aMoment()
                self.clock.advance(RETRY)
                await eventually(listener.accept)
                self.share(listener, sock)
                await aMoment()
                mine, away = set(), False
            self.assertEqual(len(self.worker.serving), len(served))
            reports = await self.reports(listener)
            self.assertEqual(reports[-1], len(served) - len(mine))
            self.assertEqual(self.holders(sock), 1 if away else 2)
        stopped = self.stop()
        await eventually(lambda: away or listener.channel.heard(Drain))
        if not away:
            listener.channel.say(Drained())
        for each in served:
            each.transport.loseConnection()
        await eventually(lambda: stopped.called)
        listener.close()
        self.worker = Worker(self.reactor, self.path, self.factory, RETRY, GRACE)
