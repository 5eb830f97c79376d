"""
Tests for L{portlisten._anyloop.channel}: what the worker's end of a channel does in
good and bad order.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from typing import Any

from portlisten import _kernel
from portlisten._anyloop import channel as _channel
from portlisten._anyloop import worker as _worker
from portlisten._reactor import deadline
from portlisten._wire.frames import (
    DRAINING,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    Drain,
    Drained,
    Offer,
    Refuse,
    Revoked,
)
from tests.support.asyncio_loops import (
    HELLO,
    Listener,
    LoopTestCase,
    aMoment,
    eventually,
    hear,
    onUvloopToo,
)


class ChannelTestCase(LoopTestCase):
    """
    The base.
    """

    @property
    def channel(self) -> Any:
        """
        The worker's end of the channel.
        """
        return self.server._worker._channel

    def stuff(self) -> None:
        """
        Fill the buffer from the worker to the listener.
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                self.channel._socket.send(b"\0" * 65536)

    async def unstuff(self, listener: Listener) -> None:
        """
        Read what L{stuff} wrote, up to the first byte that it did not write.
        """

        def arrived() -> bool:
            try:
                ahead = listener.socket.recv(65536, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            zeros = len(ahead) - len(ahead.lstrip(b"\0"))
            if zeros:
                listener.socket.recv(zeros)
            return zeros < len(ahead)

        await eventually(arrived)

    def findDead(self) -> None:
        """
        Let a write fail before the loop reads the listener's last bytes.
        """
        self.channel._session.closed(99)
        self.channel.pump()


@onUvloopToo
class ClaimTests(ChannelTestCase):
    """
    When a connection is touched.
    """

    def test_sameTurn(self) -> None:
        """
        If the kernel takes the claim, the connection is adopted in the turn in which
        its offer was read.
        """

        async def test() -> None:
            _, listener = await self.serve()
            _, accepted = self.pair()
            listener.offer(1, accepted)
            self.channel._read()
            self.assertEqual(len(self.server._worker.adopter.connections), 1)
            await eventually(lambda: self.talks)

        self.complete(test())

    def test_oneAfterTheOther(self) -> None:
        """
        A connection is claimed only when the one before it has its protocol, if they
        come one by one.
        """

        async def test() -> None:
            _, listener = await self.serve()
            for id in range(3):
                _, accepted = self.pair()
                listener.offer(id, accepted)
            connections = self.server._worker.adopter.connections

            def isInOrder() -> bool:
                self.assertLessEqual(len(connections), len(self.talks) + 1)
                return len(self.talks) == 3

            while not isInOrder():
                await asyncio.sleep(0)

        self.complete(test())

    def test_unwritten(self) -> None:
        """
        A connection is not touched before the whole claim is in the kernel.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.read()
            self.stuff()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await aMoment()
            self.assertEqual(self.talks, [])
            self.assertEqual(len(self.server._worker.adopter.connections), 0)
            await self.unstuff(listener)
            await eventually(lambda: self.talks)
            self.assertEqual(listener.heard(Claim), [Claim((1,))])
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_partly(self) -> None:
        """
        A connection is not touched while a part of the claim is not in the kernel.
        """

        async def test() -> None:
            _, listener = await self.serve()
            real = self.channel._socket

            class Narrow:
                left = 3

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def send(self, data: bytes) -> int:
                    if not self.left:
                        raise BlockingIOError(errno.EAGAIN, "as the test wants")
                    sent = int(real.send(data[: self.left]))
                    self.left -= sent
                    return sent

            self.channel._socket = narrow = Narrow()
            _, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: not narrow.left)
            await aMoment()
            self.assertEqual(len(self.server._worker.adopter.connections), 0)
            narrow.left = 99
            await eventually(lambda: self.talks)
            self.assertEqual(listener.heard(Claim), [Claim((1,))])

        self.complete(test())

    def test_memory(self) -> None:
        """
        If the kernel has no memory for the claim, it is written a little later.
        """

        async def test() -> None:
            _, listener = await self.serve()
            self.patch(_channel, "KERNEL_RETRY_SECONDS", 0.01)
            real = self.channel._socket

            class Short:
                tries = 0

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def send(self, data: bytes) -> int:
                    self.tries += 1
                    if self.tries == 1:
                        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
                    return int(real.send(data))

            self.channel._socket = short = Short()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            self.assertGreaterEqual(short.tries, 2)

        self.complete(test())


@onUvloopToo
class EndTests(ChannelTestCase):
    """
    How a channel ends.
    """

    def test_failedWriteAfterRevoke(self) -> None:
        """
        If a write fails and REVOKED is unread, the unclaimed offers are left alone.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.read()
            self.stuff()
            client, accepted = self.pair()
            listener.offer(1, accepted, close=False)
            await aMoment()
            listener.say(Revoked())
            listener.close()
            self.findDead()
            await eventually(lambda: self.channel is None)
            accepted.sendall(b"by another worker")
            accepted.close()
            self.assertEqual(await hear(client), b"by another worker")
            self.assertEqual(self.talks, [])

        self.complete(test())

    def test_failedWriteAfterDeath(self) -> None:
        """
        If a write fails since the listener is dead, its offers are served, also those
        that are unread.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.read()
            self.stuff()
            one, accepted = self.pair()
            listener.offer(1, accepted)
            await aMoment()
            other, accepted = self.pair()
            listener.offer(2, accepted)
            listener.close()
            self.findDead()
            self.assertIsNotNone(self.channel)
            for client in (one, other):
                client.sendall(b"hello\n")
                self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_failedWriteOfTheLiving(self) -> None:
        """
        If a write fails and the listener lives, the offers are left alone, and the
        listener is told that the worker lives.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.read()
            client, accepted = self.pair()
            real = self.channel._socket

            class Failing:
                failed = False

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def send(self, data: bytes) -> int:
                    if not self.failed:
                        self.failed = True
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    return int(real.send(data))

            self.channel._socket = Failing()
            listener.offer(1, accepted, close=False)
            await eventually(lambda: listener.heard(Bye))
            self.assertEqual(listener.heard(Claim), [])
            accepted.sendall(b"by another worker")
            accepted.close()
            self.assertEqual(await hear(client), b"by another worker")

        self.complete(test())

    def test_unreadBytes(self) -> None:
        """
        The end of the channel is seen if the listener died with bytes unread.
        """

        async def test() -> None:
            _, listener = await self.serve()
            _, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            listener.close()
            await eventually(lambda: self.channel is None)

        self.complete(test())

    def test_revoked(self) -> None:
        """
        After REVOKED, the worker closes the channel, and serves what it has claimed.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            listener.say(Revoked())
            await eventually(listener.hasEnded)
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())

    def test_byeBehindAFullBuffer(self) -> None:
        """
        BYE is written when the listener reads again.
        """

        async def test() -> None:
            server, listener = await self.serve()
            listener.read()
            self.stuff()
            server.close()
            listener.say(Drained())
            await aMoment()
            await self.unstuff(listener)
            await eventually(lambda: listener.heard(Bye))
            self.assertEqual(len(listener.heard(Drain)), 1)
            await server.wait_closed()

        self.complete(test())

    def test_deafListener(self) -> None:
        """
        A listener that does not read keeps no server from closing.
        """

        async def test() -> None:
            self.patch(_worker, "DISCONNECT_SECONDS", 0.05)
            server, listener = await self.serve(options=":grace=0")
            listener.read()
            self.stuff()
            server.close()
            await server.wait_closed()
            self.assertFalse(server._worker._channel is None)

        self.complete(test())

    def test_deafListenerReads(self) -> None:
        """
        If a listener reads again after the server was closed, the channel ends in good
        order, even if a connection has ended in between.
        """

        async def test() -> None:
            self.patch(_worker, "DISCONNECT_SECONDS", 0.05)
            server, listener = await self.serve(options=":grace=0")
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            listener.read()
            self.stuff()
            server.close()
            await server.wait_closed()
            client.sendall(b"hello\n")
            self.assertEqual(await hear(client), b"HELLO\n")
            await aMoment()
            await self.unstuff(listener)
            await eventually(lambda: listener.heard(Bye))
            await eventually(listener.hasEnded)

        self.complete(test())


@onUvloopToo
class ReceivingTests(ChannelTestCase):
    """
    What a worker makes of what comes.
    """

    def test_missingDescriptor(self) -> None:
        """
        An offer whose descriptor got lost is refused.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.say(Offer(5, 0, 12345))
            await eventually(lambda: listener.heard(Refuse))
            self.assertEqual(listener.heard(Refuse), [Refuse(MISSING_DESCRIPTOR, (5,))])

        self.complete(test())

    def test_wrongDescriptor(self) -> None:
        """
        A descriptor of another kind is closed, and its offer is refused.
        """

        async def test() -> None:
            _, listener = await self.serve()
            one, other = os.pipe()
            listener.say(Offer(5, 0, 1), descriptors=[other])
            os.close(other)
            await eventually(lambda: listener.heard(Refuse))
            self.assertEqual(os.read(one, 1), b"")
            os.close(one)
            self.assertIn("cannot be used", self.log.lines[-1])

        self.complete(test())

    def test_whileDraining(self) -> None:
        """
        An offer that comes while the worker drains is refused, and its connection is
        closed here alone.
        """

        async def test() -> None:
            server, listener = await self.serve()
            server.close()
            client, accepted = self.pair()
            listener.offer(5, accepted, close=False)
            await eventually(lambda: listener.heard(Refuse))
            self.assertEqual(listener.heard(Refuse), [Refuse(DRAINING, (5,))])
            accepted.sendall(b"by another worker")
            accepted.close()
            self.assertEqual(await hear(client), b"by another worker")

        self.complete(test())

    def test_badFrame(self) -> None:
        """
        A listener that breaks the protocol is told so, and is tried again later.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.say(b"\xff\0\0\0")
            await eventually(lambda: listener.heard(Bye))
            await eventually(listener.hasEnded)
            self.assertEqual(self.bugs, [])

        self.complete(test())

    def test_many(self) -> None:
        """
        More offers than one turn reads are all served.
        """

        async def test() -> None:
            _, listener = await self.serve()
            clients = []
            for id in range(40):
                client, accepted = self.pair()
                listener.offer(id, accepted)
                client.sendall(b"hello\n")
                clients.append(client)
            for client in clients:
                self.assertEqual(await hear(client), b"HELLO\n")

        self.complete(test())


class _Fails:
    """
    Stands for a function that fails a few times.
    """

    def __init__(self, function: Any, times: int) -> None:
        self._function = function
        self.left = times

    def __call__(self, *arguments: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return self._function(*arguments)


@onUvloopToo
class NoMemoryTests(ChannelTestCase):
    """
    The kernel lacks memory for a while.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(_channel, "KERNEL_RETRY_SECONDS", 0.01)

    def test_reading(self) -> None:
        """
        If reading fails, and then to watch the socket again, both are tried again.
        """

        async def test() -> None:
            _, listener = await self.serve()
            _, accepted = self.pair()
            receive = _Fails(_kernel.receive, 2)
            watch = _Fails(self.channel._poller.watch, 0)
            pauses: list[None] = []

            def watchOrFail(*arguments: Any) -> None:
                watch(*arguments)
                if receive.left == 1 and not pauses:
                    # It watches no more, until it reads again.
                    pauses.append(None)
                    watch.left = 3

            self.patch(_kernel, "receive", receive)
            self.patch(self.channel._poller, "watch", watchOrFail)
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            self.assertEqual((receive.left, watch.left), (0, 0))

        self.complete(test())
        self.assertEqual(self.bugs, [])

    def test_writing(self) -> None:
        """
        If a write is not over, and then to watch the socket fails, that is tried again.
        """

        async def test() -> None:
            _, listener = await self.serve()
            listener.read()
            watch = _Fails(self.channel._poller.watch, 0)
            self.patch(self.channel._poller, "watch", watch)
            self.stuff()
            watch.left = 3
            _, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: watch.left == 0)
            await self.unstuff(listener)
            await eventually(lambda: self.talks)

        self.complete(test())
        self.assertEqual(self.bugs, [])


@onUvloopToo
class HelloTests(ChannelTestCase):
    """
    How long the listener may take to answer.
    """

    async def connect(self, seconds: float = 0.05) -> Listener:
        """
        Make a server whose listener has not answered.

        @param seconds: how long the listener may take.
        """
        self.patch(_channel, "HELLO_SECONDS", seconds)
        self.path = self.bind()
        self.server = await self.loop.create_server(self.Talk, "portlisten:channel")
        return await self.accept(self.path)

    def test_silent(self) -> None:
        """
        If a listener does not answer, the worker waits on, and says so once.
        """

        async def test() -> None:
            with self.assertLogs("portlisten", "WARNING") as logs:
                listener = await self.connect()
                await eventually(lambda: logs.records)
                await asyncio.sleep(0.3)
            self.assertEqual(
                [each.getMessage() for each in logs.records],
                ["waiting for the listener at channel: no HELLO has come yet"],
            )
            self.assertFalse(listener.hasEnded())
            listener.say(HELLO)
            await eventually(lambda: self.server._worker.ports)
            self.assertEqual(listener.heard(Bye), [])

        self.complete(test())

    def test_silentReplaced(self) -> None:
        """
        If another listener has the path by then, the worker leaves the silent one.
        """

        async def test() -> None:
            listener = await self.connect(0.2)
            old = os.stat("channel")
            os.rename("channel", "old")
            self.bind()
            self.assertNotEqual(os.stat("channel").st_ino, old.st_ino)
            await eventually(lambda: listener.heard(Bye))
            self.assertIn("no HELLO within", listener.heard(Bye)[0].reason)
            await eventually(listener.hasEnded)

        self.complete(test())

    def test_stopped(self) -> None:
        """
        Time in which the process does not run does not count.
        """

        async def test() -> None:
            self.patch(deadline, "LATE_SECONDS", 0.05)
            listener = await self.connect(0.2)
            time.sleep(0.4)
            await asyncio.sleep(0.01)
            listener.say(HELLO)
            await eventually(lambda: self.server._worker.ports)
            self.assertEqual(listener.heard(Bye), [])

        self.complete(test())


class CloseOnExecTests(ChannelTestCase):
    """
    What other programs inherit.
    """

    def test_none(self) -> None:
        """
        No descriptor of the worker is inherited.
        """

        async def test() -> None:
            _, listener = await self.serve()
            client, accepted = self.pair()
            listener.offer(1, accepted)
            await eventually(lambda: self.talks)
            cookie = _kernel.cookie(accepted) if accepted.fileno() >= 0 else 0
            self.assertEqual(cookie, 0)
            inheritable = [
                int(each)
                for each in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{each}")
                and "socket" in os.readlink(f"/proc/self/fd/{each}")
                and os.get_inheritable(int(each))
            ]
            self.assertEqual(inheritable, [])
            client.close()

        self.complete(test())
