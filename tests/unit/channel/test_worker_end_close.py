"""
Tests for L{portlisten._channel.worker_end}: how a channel ends.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._wire.codec import encode
from portlisten._wire.frames import (
    DRAINING,
    Bye,
    Claim,
    Drain,
    Drained,
    Offer,
    Refuse,
    Revoked,
    WorkerHello,
)
from tests.support.channel_ends import (
    WorkerChannelTestCase,
    findDead,
    overTwistedToo,
    stuff,
    unstuff,
)
from tests.support.channels import (
    aMoment,
    eventually,
)
from tests.support.frames import LEAVES


@overTwistedToo
class RevokedTests(WorkerChannelTestCase):
    """
    A listener that takes its offers back.
    """

    def revoke(self) -> None:
        """
        Revoke as a listener does: tell the worker, shut its way, and close.
        """
        self.listener.say(Bye("you hang"), Revoked())
        self.listener.socket.shutdown(socket.SHUT_RD)
        self.listener.close()

    async def test_claimInFlightFails(self) -> None:
        """
        Connections whose claim is unwritten when the channel is shut are not touched.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.revoke()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])
        self.assertEqual(self.adopter.lostFor, ["the listener says: you hang"])

    async def test_claimInFlightArrives(self) -> None:
        """
        A claim that reached the kernel after REVOKED came, and before the way
        was shut, holds: the connection is served.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.listener.say(Revoked())
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        await unstuff(self.listener)
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])
        await self.gone()

    async def test_unclaimed(self) -> None:
        """
        What was waiting to be claimed is closed, and never claimed; so are
        descriptors whose offers did not come, and those that come too late.
        """
        pairs = self.connections(4)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        self.listener.say(encode(Revoked())[:1], descriptors=[pairs[2][1].fileno()])
        self.listener.say(encode(Revoked())[1:])
        await aMoment()
        self.listener.say(b"\3", descriptors=[pairs[3][1].fileno()])
        await aMoment()
        await unstuff(self.listener)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])

    async def test_idle(self) -> None:
        """
        A worker with nothing in flight closes the channel, and goes on serving
        what it has claimed.
        """
        await self.register()
        [(client, _)] = await self.adopt(1)
        self.listener.say(Bye("you hang"), Revoked())
        await eventually(self.listener.hasEnded)
        await self.gone()
        os.write(self.adopter.descriptors[1], b"still here")
        self.assertEqual(client.recv(100), b"still here")

    async def test_unread(self) -> None:
        """
        Word of it counts where it was left unread when a write failed.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.revoke()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])


@overTwistedToo
class ListenerGoneTests(WorkerChannelTestCase):
    """
    A listener that dies, and says nothing.
    """

    async def test_unclaimedIsServed(self) -> None:
        """
        What it had offered is this worker's, whether the claim could be written
        or not, and in the order in which it came.
        """
        pairs = self.connections(2)
        await self.register()
        stuff(self.channel)
        for id, (_, accepted) in enumerate(pairs, 1):
            self.offer((id, accepted))
            await aMoment()
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(self.adopter.lostFor, [None])

    async def test_unreadIsServed(self) -> None:
        """
        So is what it had offered and the transport never read; and it is not
        passed on to programs that the worker runs.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        self.listener.close()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertFalse(os.get_inheritable(self.adopter.descriptors[1]))

    async def test_byeIsNoRevocation(self) -> None:
        """
        A listener that says BYE and closes leaves its offers to the worker.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        self.listener.say(Bye("the listener stops"))
        self.listener.close()
        findDead(self.channel)
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(
            self.adopter.lostFor, ["the listener says: the listener stops"]
        )

    async def test_looseIsClosed(self) -> None:
        """
        A descriptor whose offer never came is closed.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(b"\3", descriptors=[accepted.fileno()])
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])

    async def test_channelFails(self) -> None:
        """
        If its channel fails and the listener lives, a worker says so: the listener
        takes the end of the channel for the death of the worker otherwise, and has
        others serve what the worker serves.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        await eventually(lambda: self.adopter.adopted)

        def fail(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(_kernel, "send", fail)
        if isinstance(self.channel.transport, ChannelTransport):
            self.channel.closed(1)
            await self.gone()
            await eventually(self.listener.hasEnded)
            self.assertEqual(
                self.listener.frames[-2:], [Claim((1,)), Bye("the channel failed")]
            )

    async def test_afterTheEnd(self) -> None:
        """
        There is nobody to talk to any more, and a descriptor that turns up all
        the same is closed.
        """
        await self.register()
        self.listener.close()
        await self.gone()
        self.channel.closed(1)
        self.channel.clientGone(2)
        self.channel.drain()
        self.channel.bye("too late")
        self.channel.fileDescriptorReceived(os.dup(0))
        self.channel.dataReceived(encode(Drained()))
        self.assertEqual(self.adopter.events[1:], [("lost", None)])


class ListenerFailureTests(WorkerChannelTestCase):
    """
    A channel that fails, at whose other end the listener lives.
    """

    async def offerUnclaimed(self) -> socket.socket:
        """
        Have the worker be offered a connection that it cannot claim.

        @return: the client.
        """
        [(client, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        accepted.close()
        await aMoment()
        return client

    def failOnce(self) -> None:
        """
        Have the transport's next read fail for good.
        """
        receive = _kernel.receive

        def fail(*args: Any) -> Any:
            self.patch(_kernel, "receive", receive)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.patch(_kernel, "receive", fail)

    async def test_unclaimed(self) -> None:
        """
        Unclaimed connections are closed: the listener may give them to others.
        """
        client = await self.offerUnclaimed()
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])
        self.assertEqual(client.recv(1), b"")

    async def test_claimed(self) -> None:
        """
        Claimed connections stay in service.
        """
        await self.register()
        [(client, _)] = await self.adopt(1)
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        await self.gone()
        os.write(self.adopter.descriptors[1], b"still here")
        self.assertEqual(client.recv(100), b"still here")

    async def test_dead(self) -> None:
        """
        If the other end is closed, the listener is dead, however that was found, and
        what it had offered is this worker's.
        """
        client = await self.offerUnclaimed()
        self.failOnce()
        self.listener.say(encode(Drained())[:1])
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1])
        os.write(self.adopter.descriptors[1], b"served")
        self.assertEqual(client.recv(100), b"served")


@overTwistedToo
class ListenerMisconductTests(WorkerChannelTestCase):
    """
    A listener that breaks the protocol.
    """

    async def cutOff(self, reason: str) -> None:
        """
        Check that it is left, with a BYE that says why, and the adopter told.
        """
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(self.listener.frames[-1], Bye(reason))
        self.assertEqual(self.adopter.lostFor, [reason])

    async def test_malformed(self) -> None:
        """
        What makes no sense ends the channel, and what is not claimed by then
        goes back.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(
            Offer(1, 0, _kernel.cookie(accepted)),
            b"\xee\0\0\0",
            descriptors=[accepted.fileno()],
        )
        await self.cutOff("a frame of the unknown type 238")
        self.assertEqual(
            self.listener.frames,
            [
                WorkerHello(4, frames=LEAVES),
                Refuse(DRAINING, (1,)),
                Drain(),
                Bye("a frame of the unknown type 238"),
            ],
        )
        self.assertEqual(self.adopter.adopted, [])

    async def test_once(self) -> None:
        """
        However much is wrong, it is said once.
        """
        await self.register()
        stuff(self.channel)
        for _ in range(2):
            self.listener.say(b"\xee\0\0\0")
            await aMoment()
        await unstuff(self.listener)
        await self.cutOff("a frame of the unknown type 238")

    async def test_bug(self) -> None:
        """
        A bug of ours in handling a frame is logged as such, and ends this
        channel.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "drained":
                raise ZeroDivisionError

        self.adopter.react = fail
        await self.register()
        self.listener.say(Drained(), Drained())
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    async def test_bugInTheSession(self) -> None:
        """
        So is a bug that the adopter has no part in.
        """

        def fail(*args: object) -> None:
            raise ZeroDivisionError

        await self.register()
        self.patch(self.channel._session._claims, "offered", fail)
        self.listener.say(Offer(1, 0, 1))
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
