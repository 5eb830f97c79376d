"""
Tests for L{portlisten._worker.worker}: how a worker stops.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from portlisten._channel.transport import ChannelTransport
from portlisten._policy.link import DISCONNECT_SECONDS
from portlisten._wire.frames import (
    MAXIMUM_WINDOW,
    Bye,
    Claim,
    Closed,
    Drain,
    Drained,
    WorkerHello,
)
from portlisten._worker.stream_ports import StreamPorts
from tests.support.channels import aMoment, eventually, texts
from tests.support.frames import SHARES
from tests.support.workers import (
    GRACE,
    RETRY,
    Listener,
    WorkerTestCase,
)


class StopTests(WorkerTestCase):
    """
    How the worker stops.
    """

    def stop(self) -> Deferred[None]:
        """
        Stop the worker.
        """
        return self.worker.stop()

    async def drain(self, listener: Listener) -> None:
        """
        Answer the worker's DRAIN.
        """
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())

    async def test_startAndStopOfTheFactory(self) -> None:
        """
        The factory is started once, before there is a listener, and stopped once,
        after the connections have ended, however many there were.
        """
        self.start()
        self.assertEqual(self.factory.calls, ["start"])
        listener = self.listen()
        self.clock.advance(RETRY)
        await aMoment()
        self.clock.advance(RETRY)
        await eventually(listener.accept)
        for id in (1, 2):
            await self.serve(listener, id)
        stopped = self.stop()
        await self.drain(listener)
        for conversation in self.factory.conversations:
            self.assertEqual(self.factory.calls, ["start"])
            conversation.transport.loseConnection()
            await eventually(lambda gone=conversation: gone.lost)
        await eventually(lambda: stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_idle(self) -> None:
        """
        With nothing in service it asks for no more offers, waits for the answer,
        and says BYE.
        """
        listener = await self.join()
        stopped = self.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        self.assertEqual(listener.channel.heard(Bye), [])
        self.assertFalse(stopped.called)
        listener.channel.say(Drained())
        await eventually(listener.channel.hasEnded)
        await eventually(lambda: stopped.called)
        self.assertEqual(
            listener.channel.frames,
            [
                WorkerHello(MAXIMUM_WINDOW, (), StreamPorts.takes, frames=SHARES),
                Drain(),
                Bye("the worker stops"),
            ],
        )
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_inService(self) -> None:
        """
        It waits for what is in service, and says BYE only then.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.clock.advance(GRACE - 0.1)
        self.assertFalse(stopped.called)
        self.assertEqual(listener.channel.heard(Bye), [])
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)
        self.assertEqual(
            [type(frame) for frame in listener.channel.read()],
            [WorkerHello, Claim, Drain, Closed, Bye],
        )

    async def test_offersMeanwhile(self) -> None:
        """
        Connections that are offered while it stops are refused.
        """
        listener = await self.join()
        stopped = self.stop()
        _, accepted = self.client()
        listener.handOff(1, accepted)
        await self.drain(listener)
        await eventually(lambda: stopped.called)
        self.assertEqual(listener.channel.heard(Claim), [])
        self.assertEqual(self.factory.conversations, [])

    async def test_graceRunsOut(self) -> None:
        """
        After the grace it stops with connections in service, and says so.
        """
        listener = await self.join()
        await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.clock.advance(GRACE)
        await aMoment()
        self.clock.advance(DISCONNECT_SECONDS)
        self.assertTrue(stopped.called)
        self.assertEqual(
            texts(self.logged, "warn"),
            ["1 connections are still in service after 10 s"],
        )
        self.assertEqual(listener.channel.heard(Bye), [Bye("the worker stops")])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_graceRunsOutAlone(self) -> None:
        """
        It does so if the listener is gone.
        """
        listener = await self.join()
        await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        stopped = self.stop()
        self.clock.advance(GRACE - 0.1)
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        self.assertTrue(stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    def channels(self) -> list[ChannelTransport]:
        """
        The worker's ends of channels that the reactor knows of.
        """
        return [
            reader
            for reader in reactor.getReaders()
            if isinstance(reader, ChannelTransport)
        ]

    def stuff(self) -> ChannelTransport:
        """
        Fill the worker's way to the listener.

        @return: the worker's end of it.
        """
        [channel] = self.channels()
        try:
            while True:
                channel.getHandle().send(b"\0" * 65536)
        except BlockingIOError:
            return channel

    async def test_endOfServiceInTheEnd(self) -> None:
        """
        Where the last connection ends after the grace, while BYE is on its way,
        nothing is said or done twice.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        stopped = self.stop()
        await self.drain(listener)
        await aMoment()
        self.stuff()
        self.clock.advance(GRACE)
        conversation.transport.loseConnection()
        await eventually(lambda: not self.worker.serving)
        self.assertFalse(stopped.called)
        listener.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(len(texts(self.logged, "warn")), 1)
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_listenerDeaf(self) -> None:
        """
        A listener that does not answer delays it by the grace, and no longer;
        and one that does not even read, by the time that a farewell may take.
        """
        listener = await self.join()
        channel = self.stuff()
        stopped = self.stop()
        await aMoment()
        self.clock.advance(GRACE)
        await aMoment()
        self.assertFalse(stopped.called)
        self.clock.advance(DISCONNECT_SECONDS - 0.1)
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        self.assertTrue(stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        listener.close()
        await eventually(lambda: not channel.connected)

    async def test_listenerGoneMeanwhile(self) -> None:
        """
        It does not wait for the answer of a listener that is gone, nor for
        another one.
        """
        listener = await self.join()
        stopped = self.stop()
        listener.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_drainedBefore(self) -> None:
        """
        If an earlier listener said unasked that no offers follow, the worker still
        waits for the answer of the present one.
        """
        earlier = await self.join()
        earlier.channel.say(Drained())
        await aMoment()
        earlier.close()
        await eventually(lambda: texts(self.logged, "warn"))
        listener = self.listen()
        self.clock.advance(RETRY)
        await eventually(listener.accept)
        await eventually(lambda: len(texts(self.logged, "info")) == 2)
        stopped = self.stop()
        await eventually(lambda: listener.channel.heard(Drain))
        await aMoment()
        self.assertEqual(listener.channel.heard(Bye), [])
        self.assertFalse(stopped.called)
        listener.channel.say(Drained())
        await eventually(lambda: stopped.called)

    async def test_whileWaiting(self) -> None:
        """
        Between two tries to connect it stops at once.
        """
        self.start()
        await aMoment()
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_beforeTheListenerKnows(self) -> None:
        """
        With a listener that has not even accepted the channel, it does not wait
        for the grace, and leaves nothing behind.
        """
        self.listen()
        self.start()
        stopped = self.stop()
        await eventually(lambda: stopped.called)
        self.assertEqual(self.channels(), [])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_inServiceBeforeTheListenerKnows(self) -> None:
        """
        If connections of an earlier listener are in service then, they have the
        grace.
        """
        listener = await self.join()
        client, conversation = await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        silent = self.listen()
        silent.greeting = ()
        self.clock.advance(RETRY)
        await eventually(silent.accept)
        stopped = self.stop()
        await eventually(silent.channel.hasEnded)
        self.clock.advance(GRACE - 0.1)
        await aMoment()
        self.assertFalse(stopped.called)
        self.assertFalse(conversation.lost)
        client.close()
        await eventually(lambda: stopped.called)

    async def test_neverStarted(self) -> None:
        """
        A worker that was never started has nothing to stop.
        """
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, [])

    async def test_servingWithoutListener(self) -> None:
        """
        Without a listener it waits for what is in service, and for that alone.
        """
        listener = await self.join()
        _, conversation = await self.serve(listener)
        listener.close()
        await eventually(lambda: texts(self.logged, "warn"))
        stopped = self.stop()
        self.assertFalse(stopped.called)
        conversation.transport.loseConnection()
        await eventually(lambda: stopped.called)

    async def test_twice(self) -> None:
        """
        To stop it again, while it stops or later, changes nothing.
        """
        listener = await self.join()
        first, second = self.stop(), self.stop()
        await self.drain(listener)
        await eventually(lambda: first.called and second.called)
        self.assertTrue(self.stop().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(listener.channel.heard(Drain), [Drain()])
