"""
Tests for L{portlisten._listener.channel}: joining, offers, and what a worker says.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._kernel import processes
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.interfaces import IChannel
from portlisten._model import Kind
from portlisten._wire.frames import (
    DRAINING,
    FROM_LISTENER,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Decoder,
    Drain,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Withdraw,
    WorkerHello,
    encode,
)
from tests.support.channel_ends import (
    HeldConnection,
    ListenerChannelTestCase,
    overTwistedToo,
    transportOf,
)
from tests.support.channels import (
    RecordingDispatcher,
    aMoment,
    eventually,
    texts,
)
from tests.support.descriptors import descriptors


class InterfaceTests(SynchronousTestCase):
    """
    Who provides what.
    """

    def test_listenerChannel(self) -> None:
        """
        The listener's end is an L{IChannel} that can receive descriptors.
        """
        channel = ListenerChannel(Clock(), RecordingDispatcher(), ListenerHello(1), 1)
        for interface in (IChannel, IFileDescriptorReceiver):
            verifyClass(interface, ListenerChannel)
            verifyObject(interface, channel)


@overTwistedToo
class ListenerGreetingTests(ListenerChannelTestCase):
    """
    How a worker joins.
    """

    async def test_listenerSpeaksFirst(self) -> None:
        """
        The worker is told the window and the ports before it has said a word.
        """
        await eventually(self.worker.read)
        self.assertEqual(self.worker.frames, [self.hello])

    async def test_connectedFirst(self) -> None:
        """
        The dispatcher hears of the channel when it is there, not of a worker.
        """
        await aMoment()
        self.assertEqual(self.dispatcher.events, [("connected",)])

    async def test_label(self) -> None:
        """
        The label tells the worker's number, process and user.
        """
        self.assertEqual(
            str(self.channel), f"worker 7 (pid {os.getpid()}, uid {os.getuid()})"
        )
        self.assertEqual(self.channel.label, str(self.channel))
        self.assertEqual(self.channel.user, os.getuid())

    async def test_smallerWindow(self) -> None:
        """
        A worker may ask for a smaller window than the listener's.
        """
        await self.join(window=3)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 3))

    async def test_largerWindow(self) -> None:
        """
        It does not get a larger one.
        """
        await self.join(window=5)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 4))

    async def test_names(self) -> None:
        """
        The dispatcher hears of the ports that a worker asks for; of all, if it asks
        for none.
        """
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(4, ("https",)))
        await eventually(lambda: len(self.dispatcher.events) > 1)
        self.assertEqual(self.dispatcher.events[1], ("joined", 4, "https"))

    async def test_noNames(self) -> None:
        """
        A worker that asks for none gets all.
        """
        await self.join(window=4)
        self.assertEqual(self.dispatcher.events[1], ("joined", 4, "http", "https"))

    async def test_unknownName(self) -> None:
        """
        A worker that asks for a port that there is not is told what there is and
        cut off, whatever it asks for besides, and the dispatcher never hears of
        a worker.
        """
        self.worker.say(WorkerHello(4, ("http", "smtp")), Claim((1,)))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        reason = "no port is called 'smtp' here, only http, https"
        self.assertEqual(self.worker.read(), [self.hello, Bye(reason)])
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: {reason}"],
        )

    async def test_helloInPieces(self) -> None:
        """
        A HELLO may come byte by byte.
        """
        for byte in encode(WorkerHello(2)):
            self.worker.say(bytes([byte]))
            await deferLater(reactor, 0)
        await eventually(lambda: len(self.dispatcher.events) > 1)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 2))

    async def test_silence(self) -> None:
        """
        A worker that does not say HELLO in time is told so and cut off, and the
        dispatcher never hears of a worker.
        """
        await aMoment()
        self.clock.advance(4.9)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.clock.advance(0.1)
        await eventually(self.worker.hasEnded)
        self.assertEqual(
            self.worker.frames,
            [self.hello, Bye("no HELLO within 5 s")],
        )
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"{self.channel.label} is cut off: no HELLO within 5 s"],
        )

    async def test_inTime(self) -> None:
        """
        Once HELLO is said, silence is no fault.
        """
        await self.join()
        self.clock.advance(3600)
        await aMoment()
        self.assertEqual(self.told, [])
        self.assertFalse(self.worker.hasEnded())

    async def test_tooLate(self) -> None:
        """
        A HELLO that comes when the worker has been sent away lets it join no
        more, and there was nothing to revoke.
        """
        await eventually(self.worker.read)
        self.channel.revoke("too late")
        self.worker.say(WorkerHello(4), Claim((1,)))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.worker.read(), [self.hello, Bye("too late")])
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])

    async def test_byeInstead(self) -> None:
        """
        A worker may say BYE without having said HELLO, and has not parted then.
        """
        self.worker.say(Bye("wrong door"))
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertEqual(texts(self.logged, "warn"), [])

    async def test_noRoom(self) -> None:
        """
        The window is no larger than what the kernel takes for the worker
        without reading on its part.
        """
        handle = transportOf(self.channel).getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.assertEqual(_kernel.offersThatFit(handle), 2)
        await self.join(window=4)
        self.assertEqual(self.dispatcher.events[1][:2], ("joined", 2))

    async def test_goneBefore(self) -> None:
        """
        A worker that leaves before HELLO neither died nor parted.
        """
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])


class GuessTests(ListenerChannelTestCase):
    """
    A worker that answers what it was not sent.
    """

    async def offerUnsent(self) -> None:
        """
        Offer a connection, which does not get into the kernel.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.send = _kernel.send
        self.patch(_kernel, "send", self.full)
        self.offer(9, accepted)

    def full(self, *args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")

    async def test_answers(self) -> None:
        """
        It is found out before anything comes of it: the connection would be closed,
        and whatever gets the number of its descriptor next would be sent instead.
        """
        await self.offerUnsent()
        self.worker.say(Claim((9,)), Closed((9,)), Refuse(1, (9,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told[0], ("revoking",))
        heard = {event[0] for event in self.told}
        self.assertFalse(heard & {"claimed", "refused"})

    async def test_later(self) -> None:
        """
        Once it is sent, it may be answered.
        """
        await self.offerUnsent()
        self.patch(_kernel, "send", self.send)
        await eventually(lambda: self.worker.heard(Offer))
        self.worker.say(Claim((9,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told[0], ("claimed", (9,)))


class UnreadTests(ListenerChannelTestCase):
    """
    What the listener knows of what its worker has read.
    """

    async def offerTwo(self) -> None:
        """
        Have the worker join, and offer it two connections, in a message each.
        """
        await self.join()
        for id, (_, accepted) in enumerate(self.connections(2), 1):
            self.offer(id, accepted)

    async def cutOff(self) -> None:
        """
        Wait until the worker is cut off for its answer, of which nothing comes.
        """
        await eventually(lambda: ("disconnected",) in self.told)
        reason = "an answer to an offer that it has not read"
        self.assertEqual(
            self.told, [("revoking",), ("parted", reason), ("disconnected",)]
        )
        self.assertEqual(
            texts(self.logged, "warn"), [f"{self.channel.label} is cut off: {reason}"]
        )

    async def test_claimUnread(self) -> None:
        """
        A worker that claims what it has not read is cut off.
        """
        await self.offerTwo()
        self.worker.say(Claim((2,)))
        await self.cutOff()

    async def test_refuseUnread(self) -> None:
        """
        So is one that refuses that, among what it might have read.
        """
        await self.offerTwo()
        self.worker.say(Refuse(1, (1, 2)))
        await self.cutOff()

    async def test_readInPart(self) -> None:
        """
        Of a message that was read in part, everything may be answered: the kernel does
        not say how much of it was read.
        """
        await self.offerTwo()
        whole = len(encode(Offer(1, 0, 1)))
        for size in (whole, 1):
            _, descriptors = _kernel.receive(self.worker.socket, size)
            self.worker.descriptors += descriptors
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told, [("claimed", (2,))])

    async def test_read(self) -> None:
        """
        What was read may be answered, in any order.
        """
        await self.offerTwo()
        self.worker.read()
        self.worker.say(Claim((2,)), Refuse(1, (1,)))
        await eventually(lambda: len(self.told) > 1)
        self.assertEqual(self.told[0], ("claimed", (2,)))
        self.assertEqual(self.told[1][:2], ("refused", (1,)))

    async def test_ahead(self) -> None:
        """
        A worker may be a little ahead of what the kernel says.
        """
        await self.offerTwo()
        charge = self.channel._charge
        self.worker.read()
        charges = [1 << 20]
        self.patch(
            self.channel, "_charge", lambda: charges.pop() if charges else charge()
        )
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual((self.told, charges), ([("claimed", (2,))], []))

    async def test_inFlight(self) -> None:
        """
        It tells how many descriptors the worker has not read, and whether there is
        anything that it has not.
        """
        await self.join()
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))
        for id, (_, accepted) in enumerate(self.connections(3), 1):
            self.offer(id, accepted)
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (3, True))
        _, descriptors = _kernel.receive(self.worker.socket, 1)
        self.worker.descriptors += descriptors
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (3, True))
        whole = len(encode(Offer(1, 0, 1)))
        _kernel.receive(self.worker.socket, whole - 1)
        self.assertEqual(self.channel.inFlight(), 2)
        self.worker.read()
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))

    async def test_unsent(self) -> None:
        """
        What is not even sent is unread.
        """
        await self.join()
        self.channel.drained()
        self.assertTrue(self.channel.unread())
        await eventually(lambda: self.worker.heard(Drained))
        self.assertFalse(self.channel.unread())

    async def test_unknown(self) -> None:
        """
        If the kernel does not say what is unread, all counts as read.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        await self.offerTwo()
        self.patch(_kernel, "unread", fail)
        self.assertEqual((self.channel.inFlight(), self.channel.unread()), (0, False))
        self.worker.say(Claim((2,)))
        await eventually(lambda: self.told)
        self.assertEqual(self.told, [("claimed", (2,))])

    async def test_process(self) -> None:
        """
        It finds the worker's process, which is this one.
        """
        await self.join()
        process = self.channel.process()
        assert process is not None
        self.addCleanup(os.close, process)
        self.assertFalse(_kernel.hasEnded(process))
        with open(f"/proc/self/fdinfo/{process}") as file:
            self.assertIn(f"Pid:\t{os.getpid()}\n", file.read())

    async def test_dismiss(self) -> None:
        """
        What is unread is known until the channel is dismissed, though it has ended for
        the worker.
        """
        questions: list[tuple[bool, int]] = []

        def ask(event: tuple[Any, ...]) -> None:
            if event == ("disconnected",):
                questions.append((self.channel.unread(), self.channel.inFlight()))

        await self.offerTwo()
        dismiss = self.channel.dismiss
        self.patch(self.channel, "dismiss", lambda: None)
        self.dispatcher.react = ask
        transportOf(self.channel).abortConnection()
        await eventually(lambda: questions)
        self.assertEqual(questions, [(True, 2)])
        self.assertTrue(self.worker.hasEnded())
        dismiss()
        dismiss()
        self.assertEqual((self.channel.unread(), self.channel.inFlight()), (False, 0))


class PoisonedTests(ListenerChannelTestCase):
    """
    A worker that sends a descriptor, which perhaps nobody can close.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.closed: list[int] = []
        self.close = _kernel.closeElsewhere
        self.patch(_kernel, "closeElsewhere", self.spy)

    def spy(self, sock: socket.socket) -> None:
        """
        Close a socket in another process, and note how many descriptors there are of
        it.
        """
        links = list(descriptors().values())
        self.closed.append(links.count(os.readlink(f"/proc/self/fd/{sock.fileno()}")))
        self.close(sock)

    async def poison(self) -> None:
        """
        Have the worker send a descriptor, and wait for the end of the channel.
        """
        await self.join()
        self.worker.say(Closed((1,)), descriptors=[0])
        await eventually(lambda: ("disconnected",) in self.told)

    def reaped(self) -> bool:
        """
        Whether the processes that close are gone.
        """
        _kernel.reap()
        return not processes._children

    async def test_elsewhere(self) -> None:
        """
        What is queued in the channel is closed in a process of its own, which is the
        last to have it open.  What came with it was read, once.
        """
        await self.poison()
        self.assertEqual(self.closed, [1])
        self.assertEqual(self.told.count(("closed", (1,))), 1)
        self.assertIn(("parted", "it sent a descriptor"), self.told)
        await eventually(self.reaped)

    async def test_others(self) -> None:
        """
        Other channels are closed here.
        """
        await self.join()
        self.worker.say(Closed((1,)))
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(self.closed, [])

    async def test_noProcess(self) -> None:
        """
        If there is no process to be had, the channel's socket is kept, which is said.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        elsewhere = _kernel.closeElsewhere
        self.patch(_kernel, "closeElsewhere", fail)
        await self.poison()
        self.assertEqual(
            texts(self.logged, "error"),
            [
                f"{self.channel.label} left a descriptor that cannot be closed yet:"
                " Resource temporarily unavailable"
            ],
        )
        self.assertFalse(self.channel.dismiss())
        self.patch(_kernel, "closeElsewhere", elsewhere)
        self.assertTrue(self.channel.dismiss())
        await eventually(self.reaped)


@overTwistedToo
class OfferTests(ListenerChannelTestCase):
    """
    How connections are sent.
    """

    async def test_sent(self) -> None:
        """
        An offer arrives with a descriptor of the very connection, which the
        frame names by its cookie, and the caller's stays open.
        """
        [(client, accepted)] = self.connections(1)
        await self.join()
        self.offer(9, accepted)
        await eventually(lambda: self.worker.heard(Offer))
        [descriptor] = self.worker.descriptors
        [offer] = self.worker.heard(Offer)
        self.assertEqual((offer.id, offer.port), (9, 0))
        with socket.socket(fileno=os.dup(descriptor)) as sent:
            self.assertEqual(_kernel.cookie(sent), offer.cookie)
            sent.sendall(b"from the worker")
        self.assertEqual(client.recv(100), b"from the worker")
        accepted.sendall(b"from the listener")
        self.assertEqual(client.recv(100), b"from the listener")

    async def test_kept(self) -> None:
        """
        Offers that others follow are sent when they are flushed.
        """
        pairs = self.connections(3)
        await self.join()
        for id, (_, accepted) in enumerate(pairs, 1):
            self.channel.offer(id, 0, HeldConnection(accepted), more=True)
        await aMoment()
        self.assertEqual(self.worker.heard(Offer), [])
        self.channel.flush()
        await eventually(lambda: len(self.worker.heard(Offer)) == 3)
        self.assertEqual([offer.id for offer in self.worker.heard(Offer)], [1, 2, 3])
        self.assertEqual(len(self.worker.descriptors), 3)

    async def test_keptBeforeTheRest(self) -> None:
        """
        They are sent before anything else is, so that nothing comes out of order.
        """
        [(_, accepted), (_, other)] = self.connections(2)
        await self.join()
        self.channel.offer(7, 0, HeldConnection(accepted), more=True)
        self.channel.drained()
        self.channel.offer(8, 0, HeldConnection(other), more=True)
        self.channel.revoke("it hangs")
        await eventually(lambda: self.worker.heard(Revoked))
        self.assertEqual(
            [type(frame) for frame in self.worker.frames[1:]],
            [Offer, Drained, Offer, Revoked, Bye],
        )

    async def test_keptAtTheEnd(self) -> None:
        """
        What is kept when the worker goes is not sent: it may have been closed
        since.
        """
        [(_, accepted)] = self.connections(1)
        await self.join()
        self.channel.offer(7, 0, HeldConnection(accepted), more=True)
        self.worker.close()
        await eventually(lambda: ("disconnected",) in self.dispatcher.events)
        accepted.close()
        self.channel.flush()

    async def test_neverBeforeItsDescriptor(self) -> None:
        """
        Of many offers at once, read a byte at a time, each finds its descriptor
        there already.
        """
        pairs = self.connections(20)
        await self.join()
        for id, (_, accepted) in enumerate(pairs):
            self.offer(id, accepted)
        decoder = Decoder(FROM_LISTENER)
        list(decoder.feed(encode(self.hello)))
        cookies: set[int] = set()
        offers: list[Offer] = []

        def readByte() -> bool:
            try:
                data, descriptors = _kernel.receive(self.worker.socket, 1)
            except BlockingIOError:
                return False
            for descriptor in descriptors:
                with socket.socket(fileno=descriptor) as sock:
                    cookies.add(_kernel.cookie(sock))
            for frame in decoder.feed(data):
                if isinstance(frame, Offer):
                    self.assertIn(frame.cookie, cookies)
                    offers.append(frame)
            return True

        while len(offers) < 20:
            await eventually(readByte)
        self.assertEqual([offer.id for offer in offers], list(range(20)))

    async def test_drained(self) -> None:
        """
        The worker is told that no offer follows.
        """
        await self.join()
        self.channel.drained()
        await eventually(lambda: self.worker.heard(Drained))


@overTwistedToo
class WordOfTheWorkerTests(ListenerChannelTestCase):
    """
    What a worker says, and what the dispatcher hears.
    """

    async def say(self, *frames: Frame | bytes) -> None:
        """
        Join, say it, and wait until something of it is heard.
        """
        await self.join()
        self.worker.say(*frames)
        await eventually(lambda: self.told)

    async def test_claim(self) -> None:
        """
        CLAIM is told with its ids.
        """
        await self.say(Claim((1, 2)))
        self.assertEqual(self.told, [("claimed", (1, 2))])

    async def test_closed(self) -> None:
        """
        CLOSED is told with its ids.
        """
        await self.say(Closed((3, 1)))
        self.assertEqual(self.told, [("closed", (3, 1))])

    async def test_gone(self) -> None:
        """
        GONE is told with its ids.
        """
        await self.say(ClientGone((2,)))
        self.assertEqual(self.told, [("clientGone", (2,))])

    async def test_refuse(self) -> None:
        """
        REFUSE is told with its ids, and with the reason in words.
        """
        await self.say(Refuse(DRAINING, (2,)))
        self.assertEqual(self.told, [("refused", (2,), "the worker is draining")])

    async def test_refuseForReasonsUnknown(self) -> None:
        """
        A reason that has no words is told as its number.
        """
        await self.say(Refuse(77, (2,)))
        self.assertEqual(self.told, [("refused", (2,), "reason 77")])

    async def test_drain(self) -> None:
        """
        DRAIN is told.
        """
        await self.say(Drain())
        self.assertEqual(self.told, [("draining",)])

    async def test_bye(self) -> None:
        """
        A worker that says BYE has parted, and has not died.  The channel is
        closed, and nothing that follows counts.
        """
        await self.say(Claim((1,)), Bye("enough for today"), Claim((2,)))
        await eventually(self.worker.hasEnded)
        await eventually(lambda: ("disconnected",) in self.told)
        self.assertEqual(
            self.told,
            [
                ("claimed", (1,)),
                ("parted", "it says: enough for today"),
                ("disconnected",),
            ],
        )
        self.assertEqual(texts(self.logged, "warn"), [])


@overTwistedToo
class ShareSocketTests(ListenerChannelTestCase):
    """
    Sharing sockets, on the listener's side.
    """

    async def test_lend(self) -> None:
        """
        A socket goes out with its frame, and stays open here.
        """
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.shareSocket(7, sock)
            await eventually(lambda: self.worker.heard(Listener))
            (frame,) = self.worker.heard(Listener)
            self.assertEqual(frame, Listener(7, _kernel.cookie(sock)))
            (descriptor,) = self.worker.descriptors
            self.assertEqual(
                _kernel.identify(descriptor, [Kind.LISTENER]),
                (Kind.LISTENER, frame.cookie),
            )
            self.assertNotEqual(sock.fileno(), -1)

    async def test_forgotten(self) -> None:
        """
        What was shared and has been read is not kept in mind.
        """
        sent = getattr(self.channel.transport, "sent", None)
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            for count in range(1, 21):
                self.channel.withdraw(sock)
                await eventually(
                    lambda count=count: len(self.worker.heard(Withdraw)) == count
                )
                self.assertFalse(self.channel.unread())
        self.assertFalse(sent)

    async def test_withdraw(self) -> None:
        """
        It can be asked back.
        """
        await self.join()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.withdraw(sock)
            await eventually(lambda: self.worker.heard(Withdraw))
            self.assertEqual(
                self.worker.heard(Withdraw), [Withdraw(_kernel.cookie(sock))]
            )

    async def test_afterTheEnd(self) -> None:
        """
        A worker that is being parted with is sent no socket, and asked for nothing.
        """
        await self.join()
        self.channel.bye("enough")
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.channel.shareSocket(7, sock)
            self.channel.withdraw(sock)
            await eventually(self.worker.hasEnded)
        self.assertEqual(self.worker.heard(Listener), [])
        self.assertEqual(self.worker.heard(Withdraw), [])
        self.assertEqual(self.worker.descriptors, [])

    async def test_wrongKind(self) -> None:
        """
        A worker that cannot take what there is of the port that it asks for is told
        why and cut off, and the dispatcher never hears of it.
        """
        await eventually(self.worker.read)
        self.worker.say(WorkerHello(1, ("http",), frozenset([Kind.DATAGRAMS])))
        await eventually(self.worker.hasEnded)
        (bye,) = self.worker.heard(Bye)
        self.assertIn("is no UDP port", bye.reason)
        self.assertEqual(self.dispatcher.events, [("connected",), ("disconnected",)])
        self.assertIn("is no UDP port", "".join(texts(self.logged, "warn")))
