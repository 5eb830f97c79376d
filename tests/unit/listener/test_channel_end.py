"""
Tests for L{portlisten._listener.channel}: how a channel ends.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from portlisten import _kernel
from portlisten._wire.codec import encode
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Drain,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    WorkerHello,
)
from portlisten.errors import ProtocolError
from tests.support.channel_ends import (
    ListenerChannelTestCase,
    Short,
    findDead,
    overTwistedToo,
    stuff,
    unstuff,
)
from tests.support.channels import (
    aMoment,
    eventually,
    texts,
)


class FailureTests(ListenerChannelTestCase):
    """
    A channel that fails, at whose other end the worker lives.
    """

    async def setUp(self) -> None:
        await super().setUp()
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        await eventually(lambda: self.worker.heard(Offer))

    def failOnce(self) -> None:
        """
        Have the transport's next read fail for good.
        """
        receive = _kernel.receiveBytes

        def fail(*args: Any, **kw: Any) -> Any:
            self.patch(_kernel, "receiveBytes", receive)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.patch(_kernel, "receiveBytes", fail)

    async def gone(self) -> None:
        """
        Wait until the channel is gone.
        """
        await eventually(lambda: ("channelClosed",) in self.told)

    LEFT = [("left", "the channel to it failed"), ("channelClosed",)]

    async def test_told(self) -> None:
        """
        The worker is told that its unclaimed offers are revoked.  Its claimed
        connections stay its own.
        """
        self.failOnce()
        self.worker.say(Claim((1,)))
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.LEFT])
        self.assertEqual(
            self.worker.read()[-2:], [Revoked(), Bye("the channel failed")]
        )

    async def test_unclaimed(self) -> None:
        """
        If the worker had claimed nothing, others get its offers.
        """
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, self.LEFT)
        self.assertIn(Revoked(), self.worker.read())

    async def test_noRoom(self) -> None:
        """
        If REVOKED cannot be sent, the offers count as claimed, since the worker takes
        the end of the channel for the death of the listener.
        """
        stuff(self.channel)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.LEFT])

    async def test_answered(self) -> None:
        """
        Offers that the worker had refused are not counted as claimed.
        """
        self.worker.say(Refuse(1, (1,)))
        await eventually(lambda: self.told)
        stuff(self.channel)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told[1:], self.LEFT)

    async def test_deaf(self) -> None:
        """
        If the worker closed its reading side, it took the listener for dead already,
        and claimed what it wanted.
        """
        self.worker.socket.shutdown(socket.SHUT_RD)
        self.failOnce()
        self.worker.say(encode(Drain())[:1])
        await self.gone()
        self.assertEqual(self.told, self.LEFT)

    async def test_dead(self) -> None:
        """
        If the other end is closed, the worker is dead, however that was found.
        """
        self.failOnce()
        self.worker.say(Claim((1,)))
        self.worker.close()
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), ("died",), ("channelClosed",)])

    async def test_readFails(self) -> None:
        """
        If the rest of the channel cannot be read at first, it is tried again.
        """
        receive = _kernel.receiveBytes
        numbers = [errno.EINVAL, errno.ENOMEM, errno.ENOMEM]

        def fail(*args: Any, **kw: Any) -> Any:
            if numbers:
                number = numbers.pop(0)
                raise OSError(number, os.strerror(number))
            return receive(*args, **kw)

        self.patch(_kernel, "receiveBytes", fail)
        self.worker.say(Claim((1,)))
        await self.gone()
        self.assertEqual(self.told, [("claimed", (1,)), *self.LEFT])


@overTwistedToo
class DeathTests(ListenerChannelTestCase):
    """
    A worker that is gone without a word.
    """

    async def test_died(self) -> None:
        """
        A channel at its end is a death.
        """
        await self.join()
        self.worker.close()
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.told, [("died",), ("channelClosed",)])

    async def test_drainedBeforeJudged(self) -> None:
        """
        Frames that the worker had written count, even if the transport never read them:
        a claimed connection is not handed off again.
        """
        await self.join()
        self.worker.say(Claim((1,)), Closed((1,)))
        self.worker.say(Claim((2, 3)))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("claimed", (1,)),
                ("closed", (1,)),
                ("claimed", (2, 3)),
                ("died",),
                ("channelClosed",),
            ],
        )

    async def test_lastWordBye(self) -> None:
        """
        If the unread rest has a BYE, the worker left, and did not die.
        """
        await self.join()
        self.worker.say(Bye("gone"))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.told, [("left", "it says: gone"), ("channelClosed",)])


class OfferToTheDeadTests(ListenerChannelTestCase):
    """
    A worker that dies while more connections wait for it.
    """

    async def test_roomByTheLastClaims(self) -> None:
        """
        A claim found at the end frees capacity for another offer.  If that offer goes
        to the dead worker, it does no harm: later claims count, and the worker has
        died.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.dispatcher.react = lambda event: (
            self.offer(4, accepted) if event == ("claimed", (1,)) else None
        )
        self.worker.say(Claim((1,)), Claim((2,)))
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(
            self.told,
            [("claimed", (1,)), ("claimed", (2,)), ("died",), ("channelClosed",)],
        )


@overTwistedToo
class MisconductTests(ListenerChannelTestCase):
    """
    A worker that breaks the protocol.
    """

    async def cutOff(self, reason: str) -> None:
        """
        Wait until the worker is cut off, and check that the worker, the dispatcher and
        the log got the reason.
        """
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.worker.frames[-2:], [Revoked(), Bye(reason)])
        self.assertEqual(self.told[-2:], [("left", reason), ("channelClosed",)])
        self.assertEqual(self.told.count(("revoking",)), 1)
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: {reason}"],
        )

    async def test_unknownFrame(self) -> None:
        """
        An unknown frame cuts the worker off.  The frames before it count.
        """
        await self.join()
        self.worker.say(Claim((1,)), b"\xee\0\0\0", Claim((2,)))
        await self.cutOff("a frame of the unknown type 238")
        self.assertEqual(self.told[0], ("claimed", (1,)))

    async def test_framesOfTheListener(self) -> None:
        """
        A worker that sends OFFER is cut off.
        """
        await self.join()
        self.worker.say(Offer(1, 0, 1))
        await self.cutOff("a frame of the unknown type 3")

    async def test_wrongId(self) -> None:
        """
        What the dispatcher takes for a breach of the protocol cuts it off.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "claimed":
                raise ProtocolError("no such offer")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Claim((66,)))
        await self.cutOff("no such offer")

    async def test_misconductOnce(self) -> None:
        """
        However much is wrong, it is said once.
        """
        await self.join()
        self.worker.say(Closed((1,)), b"\xee\0\0\0")
        self.worker.say(b"\xef\0\0\0")
        await self.cutOff("a frame of the unknown type 238")

    async def test_goodAfterBad(self) -> None:
        """
        A wrong frame does not undo the frames after it.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Closed((66,)), Claim((1,)))
        await self.cutOff("no such connection")
        self.assertIn(("claimed", (1,)), self.told)

    async def test_nothingTwice(self) -> None:
        """
        What had come together with a bad frame is not read again along with
        what came later.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                self.worker.say(Claim((2,)))
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(Claim((1,)), Closed((66,)))
        await self.cutOff("no such connection")
        self.assertEqual(
            [event for event in self.told if event[0] == "claimed"],
            [("claimed", (1,)), ("claimed", (2,))],
        )

    async def test_lastWords(self) -> None:
        """
        A worker whose last words make no sense has died.
        """
        await self.join()
        self.worker.say(Claim((1,)), b"\xee\0\0\0")
        self.worker.close()
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [("claimed", (1,)), ("revoking",), ("died",), ("channelClosed",)],
        )

    async def test_tooMuch(self) -> None:
        """
        Who goes on and on with what makes no sense is not listened to for ever.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(*[Closed((66,))] * 1000, Claim((1,)))
        await self.cutOff("no such connection")
        self.assertLess(self.told.count(("closed", (66,))), 100)
        self.assertNotIn(("claimed", (1,)), self.told)

    async def test_tooMuchOfEachKind(self) -> None:
        """
        It does not matter who finds it senseless, the session or the dispatcher.
        """

        def refuse(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")

        self.dispatcher.react = refuse
        await self.join()
        self.worker.say(*[Closed((66,))] * 10, *[Drain()] * 10, Claim((1,)))
        await self.cutOff("no such connection")
        self.assertNotIn(("claimed", (1,)), self.told)

    async def test_roomUnknown(self) -> None:
        """
        If the kernel does not say how much fits into the channel, the worker is told
        BYE, and may try again.
        """

        def fail(*args: object) -> int:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        self.patch(_kernel, "offersThatFit", fail)
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(4))
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames[-1], Bye("an internal error"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(self.dispatcher.events, [("connected",), ("channelClosed",)])

    async def test_secondDrain(self) -> None:
        """
        DRAIN may be said once.
        """
        await self.join()
        self.worker.say(Drain(), Drain())
        await self.cutOff("a second DRAIN")
        self.assertEqual(self.told.count(("draining",)), 1)

    async def test_bug(self) -> None:
        """
        A bug of ours in handling a frame is logged as such, and ends this
        channel alone.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ZeroDivisionError

        self.dispatcher.react = fail
        await self.join()
        self.worker.say(Closed((1,)))
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn(
            f"a bug in portlisten ends the channel of {self.channel.label}",
            texts(self.logged, "critical"),
        )

    async def test_bugInTheSession(self) -> None:
        """
        So is a bug that the dispatcher has no part in.
        """

        def fail(*args: object) -> bool:
            raise ZeroDivisionError

        await self.join()
        self.channel._session._mayHaveRead = fail
        self.worker.say(Claim((1,)))
        await self.cutOff("an internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_socketSent(self) -> None:
        """
        A worker that sends a socket is cut off, and the socket closed.
        """
        await self.join()
        with socket.socket() as sock:
            self.worker.say(Closed((1,)), descriptors=[sock.fileno()])
        await self.cutOff("it sent a descriptor")

    async def test_manySent(self) -> None:
        """
        Descriptors of any kind are closed, and are one complaint.
        """
        ends = os.pipe()
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[*ends, 0])
        for end in ends:
            os.close(end)
        await self.cutOff("it sent a descriptor")

    async def test_lingeringSocketSent(self) -> None:
        """
        To close a socket that the worker set up to linger takes no time.
        """
        [(_, accepted)] = self.connections(1)
        try:
            while True:
                accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass
        linger = struct.pack("ii", 1, 30)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[accepted.fileno()])
        accepted.close()  # leaves the last one to the channel
        start = time.monotonic()
        await self.cutOff("it sent a descriptor")
        self.assertLess(time.monotonic() - start, 25)

    async def test_lastDescriptor(self) -> None:
        """
        Unread descriptors are closed as well if the worker dies.
        """
        await self.join()
        with socket.socket() as sock:
            self.worker.say(Claim((1,)), descriptors=[sock.fileno()])
        self.worker.close()
        findDead(self.channel)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertIn(("claimed", (1,)), self.told)


@overTwistedToo
class RevocationTests(ListenerChannelTestCase):
    """
    How offers are taken back.
    """

    async def test_toldWhy(self) -> None:
        """
        The worker is told once that its unclaimed offers are revoked, and why, even if
        it is revoked several times.
        """
        await self.join()
        self.channel.revoke("it hangs")
        self.channel.revoke("it hangs still")
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.channel.revoke("it hung")
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        self.assertEqual(
            self.told, [("revoking",), ("left", "it hangs"), ("channelClosed",)]
        )

    async def test_claimBefore(self) -> None:
        """
        A claim that was in the kernel when the worker's way was shut counts.
        """
        await self.join()
        self.worker.say(Claim((1,)))
        self.channel.revoke("it hangs")
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("revoking",),
                ("claimed", (1,)),
                ("left", "it hangs"),
                ("channelClosed",),
            ],
        )

    async def test_byeBefore(self) -> None:
        """
        A BYE that was in the kernel by then is its parting, and the only one.
        """
        await self.join()
        self.worker.say(Claim((1,)), Bye("gone"))
        self.channel.revoke("it hangs")
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("revoking",),
                ("claimed", (1,)),
                ("left", "it says: gone"),
                ("channelClosed",),
            ],
        )

    async def test_claimAfter(self) -> None:
        """
        From the moment that the dispatcher learns that the worker left, a claim fails
        in the kernel.
        """
        failures: list[str] = []

        def claim(event: tuple[Any, ...]) -> None:
            if event[0] == "left":
                try:
                    self.worker.say(Claim((1,)))
                except BrokenPipeError:
                    failures.append("EPIPE")

        self.dispatcher.react = claim
        await self.join()
        self.channel.revoke("it hangs")
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(failures, ["EPIPE"])
        self.assertNotIn(("claimed", (1,)), self.told)

    async def test_noRoomForTheWord(self) -> None:
        """
        While REVOKED cannot be written, no offer is taken back: a worker that saw the
        end without REVOKED would serve what it holds.  Claims meanwhile count.
        """
        await self.join()
        stuff(self.channel)
        self.channel.revoke("it hangs")
        self.worker.say(Claim((1,)))
        await eventually(lambda: len(self.told) > 1)
        self.clock.advance(3600)
        await aMoment()
        self.assertEqual(self.told, [("revoking",), ("claimed", (1,))])
        await unstuff(self.worker)
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.told[2:], [("left", "it hangs"), ("channelClosed",)])

    async def test_noMemoryForTheWord(self) -> None:
        """
        The word is said a little later if the kernel is short of something: only a
        worker that closed the way to it is deaf.
        """
        await self.join()
        short = Short(self.channel._socket)
        self.channel._duplicate = short
        self.channel.revoke("it hangs")
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames, [self.hello, Revoked(), Bye("it hangs")])
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(short.tries, 1)
        self.assertEqual(
            self.told, [("revoking",), ("left", "it hangs"), ("channelClosed",)]
        )

    async def test_behindTheOffers(self) -> None:
        """
        Unsent frames go first, so that REVOKED comes after each offer that the worker
        will ever see.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        self.channel.revoke("it hangs")
        self.channel.drained()
        await eventually(self.worker.hasEnded)
        self.assertEqual(
            [type(frame) for frame in self.worker.frames],
            [ListenerHello, Offer, Revoked, Bye],
        )
        self.assertEqual(len(self.worker.descriptors), 1)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told, [("revoking",), ("left", "it hangs"), ("channelClosed",)]
        )

    async def test_alreadyDead(self) -> None:
        """
        If the worker turns out to be dead, it has died, and its claims count.
        """
        await self.join()
        self.worker.say(Claim((1,)))
        self.worker.close()
        self.channel.revoke("it hangs")
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [("revoking",), ("claimed", (1,)), ("died",), ("channelClosed",)],
        )

    async def test_deathBehindTheWord(self) -> None:
        """
        If the worker leaves after REVOKED was sent and before its channel is shut down,
        it may have read REVOKED and live.  Its claimed connections are its own.
        """

        def react(event: tuple[Any, ...]) -> None:
            if event[0] == "closed":
                raise ProtocolError("no such connection")
            if event[0] == "claimed":
                self.worker.close()

        self.dispatcher.react = react
        await self.join()
        self.worker.say(Closed((66,)), Claim((1,)))
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("closed", (66,)),
                ("revoking",),
                ("claimed", (1,)),
                ("left", "no such connection"),
                ("channelClosed",),
            ],
        )

    async def test_deathMeanwhile(self) -> None:
        """
        If the worker leaves before REVOKED was sent, it has died.
        """
        await self.join()
        stuff(self.channel)
        self.channel.revoke("it hangs")
        self.worker.close()
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.told, [("revoking",), ("died",), ("channelClosed",)])

    async def test_unsentStaysUnsent(self) -> None:
        """
        If a worker leaves, unsent offers are never sent: their connections are about to
        be offered to another worker.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        stuff(self.channel)
        self.offer(1, accepted)
        self.worker.say(Bye("enough"))
        await eventually(lambda: self.told)
        while not self.worker.ended:
            try:
                data, descriptors = _kernel.receive(self.worker.socket)
            except BlockingIOError:
                await deferLater(reactor, 0.002)
            except ConnectionResetError:
                break
            else:
                self.assertEqual((data.strip(b"\0"), descriptors), (b"", []))
                self.worker.ended = not data


@overTwistedToo
class FarewellTests(ListenerChannelTestCase):
    """
    How the listener leaves.
    """

    async def test_bye(self) -> None:
        """
        Earlier offers still go out, and then the channel is closed.  The dispatcher,
        which asked for this, gets no report of it.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.offer(1, accepted)
        self.channel.bye("the listener stops")
        self.channel.bye("again")
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(
            [type(frame) for frame in self.worker.frames], [ListenerHello, Offer, Bye]
        )
        self.assertEqual(len(self.worker.descriptors), 1)
        self.assertEqual(self.worker.frames[-1], Bye("the listener stops"))
        self.assertEqual(self.told, [("channelClosed",)])

    async def test_deaf(self) -> None:
        """
        Nothing that the worker says after it is listened to.
        """
        await self.join()
        stuff(self.channel)
        self.channel.bye("the listener stops")
        self.worker.say(Claim((1,)))
        await aMoment()
        await unstuff(self.worker)
        await eventually(lambda: ("channelClosed",) in self.told)
        self.assertEqual(self.told, [("channelClosed",)])

    async def test_beforeHello(self) -> None:
        """
        A worker that has not said HELLO yet gets BYE as well.
        """
        self.channel.bye("the listener stops")
        await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.frames[-1], Bye("the listener stops"))

    async def test_afterTheEnd(self) -> None:
        """
        BYE to a worker that has left does nothing.
        """
        await self.join()
        self.worker.close()
        await eventually(lambda: ("channelClosed",) in self.told)
        self.channel.bye("too late")
        self.channel.revoke("too late")
        self.channel.dataReceived(encode(Claim((1,))))
        self.assertEqual(self.told, [("died",), ("channelClosed",)])
