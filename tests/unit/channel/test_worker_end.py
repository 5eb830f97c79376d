"""
Tests for L{portlisten._channel.worker_end}: joining, claims and descriptors.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._channel import worker_end
from portlisten._channel.interfaces import IWorkerChannel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.worker_end import WorkerChannel
from portlisten._model import Kind
from portlisten._wire import worker_session
from portlisten._wire.codec import FROM_WORKER, encode
from portlisten._wire.frames import (
    DRAINING,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Withdraw,
    WorkerHello,
)
from tests.support.channel_ends import (
    WorkerChannelTestCase,
    overTwistedToo,
    stuff,
    transportOf,
    unstuff,
)
from tests.support.channels import (
    PATIENCE,
    Peer,
    RecordingAdopter,
    aMoment,
    eventually,
    tcpPair,
    texts,
)
from tests.support.descriptors import watchDescriptors
from tests.support.frames import LEAVES


class InterfaceTests(SynchronousTestCase):
    """
    Tests for the interfaces that objects provide.
    """

    def test_workerChannel(self) -> None:
        """
        The worker's end is an L{IWorkerChannel} that can receive descriptors.
        """
        channel = WorkerChannel(Clock(), RecordingAdopter())
        for interface in (IWorkerChannel, IFileDescriptorReceiver):
            verifyClass(interface, WorkerChannel)
            verifyObject(interface, channel)


@overTwistedToo
class WorkerGreetingTests(WorkerChannelTestCase):
    """
    How the worker meets its listener.
    """

    async def test_hello(self) -> None:
        """
        The worker says HELLO with its window, without being asked.
        """
        await eventually(self.listener.read)
        self.assertEqual(self.listener.frames, [WorkerHello(4, frames=LEAVES)])

    async def test_registered(self) -> None:
        """
        The adopter hears what the listener's HELLO says.
        """
        await self.register()
        self.assertEqual(self.adopter.events, [("registered", self.hello.ports)])
        self.assertEqual(str(self.channel), "the listener")

    async def test_inTime(self) -> None:
        """
        Once HELLO is said, silence is no fault.
        """
        await self.register()
        self.clock.advance(3600)
        await aMoment()
        self.assertFalse(self.listener.hasEnded())

    async def test_silence(self) -> None:
        """
        A listener that does not say HELLO in time is left, with a BYE that says
        why.
        """
        self.clock.advance(4.9)
        self.assertFalse(self.listener.hasEnded())
        self.clock.advance(0.1)
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(
            self.listener.frames,
            [WorkerHello(4, frames=LEAVES), Drain(), Bye("no HELLO within 5 s")],
        )
        self.assertEqual(self.adopter.lostFor, ["no HELLO within 5 s"])

    async def test_turnedAway(self) -> None:
        """
        A listener may say BYE instead of HELLO, and the adopter hears why.
        """
        self.listener.say(Bye("members only"))
        self.listener.close()
        await self.gone()
        self.assertEqual(
            self.adopter.events, [("lost", "the listener says: members only")]
        )


@overTwistedToo
class ClaimTests(WorkerChannelTestCase):
    """
    Claim before touch.
    """

    async def test_claimFirst(self) -> None:
        """
        When a connection is given to the adopter, its claim is in the kernel:
        the listener can read it there.
        """
        seen: list[list[Claim]] = []
        self.adopter.react = lambda event: (
            seen.append(self.listener.heard(Claim)) if event[0] == "adopt" else None
        )
        await self.register()
        await self.adopt(2)
        self.assertEqual(seen, [[Claim((1, 2))]] * 2)

    async def test_notWhileUnwritten(self) -> None:
        """
        While the claim cannot be written, nothing is adopted; afterwards it is.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.offer((1, accepted))
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        await unstuff(self.listener)
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.listener.heard(Claim), [Claim((1,))])

    async def test_batches(self) -> None:
        """
        Offers that come while a claim is being written are claimed after it, at once.
        """
        pairs = self.connections(3)
        await self.register()
        stuff(self.channel)
        for id, (_, accepted) in enumerate(pairs):
            self.offer((id, accepted))
            await aMoment()
        await unstuff(self.listener)
        await eventually(lambda: len(self.adopter.adopted) == 3)
        self.assertEqual(self.listener.heard(Claim), [Claim((0,)), Claim((1, 2))])

    async def test_theConnectionItself(self) -> None:
        """
        The adopter gets the connection that the offer names, whatever the order
        in which the descriptors came.
        """
        pairs = self.connections(3)
        await self.register()
        self.listener.say(
            *[Offer(id, 0, _kernel.cookie(pair[1])) for id, pair in enumerate(pairs)],
            descriptors=[accepted.fileno() for _, accepted in reversed(pairs)],
        )
        await eventually(lambda: len(self.adopter.adopted) == 3)
        for id, (client, _) in enumerate(pairs):
            os.write(self.adopter.descriptors[id], b"%d" % id)
            self.assertEqual(client.recv(10), b"%d" % id)

    async def test_descriptorAhead(self) -> None:
        """
        A descriptor may come long before its offer.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        frame = encode(Offer(1, 0, _kernel.cookie(accepted)))
        self.listener.say(frame[:1], descriptors=[accepted.fileno()])
        await aMoment()
        self.assertEqual(self.adopter.adopted, [])
        self.listener.say(frame[1:])
        await eventually(lambda: self.adopter.adopted)

    async def test_closeOnExec(self) -> None:
        """
        Adopted connections are not passed on to programs that the worker runs.
        """
        await self.register()
        await self.adopt(1)
        self.assertFalse(os.get_inheritable(self.adopter.descriptors[1]))

    async def test_gone(self) -> None:
        """
        A client that left before its connection was adopted is reported.
        """
        await self.register()
        await self.adopt(2)
        self.channel.clientGone(2)
        await eventually(lambda: self.listener.heard(ClientGone))
        self.assertEqual(self.listener.heard(ClientGone), [ClientGone((2,))])

    async def test_bug(self) -> None:
        """
        A bug that loses one connection is logged, and loses no other.
        """

        def fail(event: tuple[Any, ...]) -> None:
            if event[0] == "adopt" and event[1].id == 1:
                raise ZeroDivisionError

        self.adopter.react = fail
        await self.register()
        await self.adopt(2)
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_closed(self) -> None:
        """
        The end of a connection is reported.
        """
        await self.register()
        await self.adopt(2)
        self.channel.closed(2)
        await eventually(lambda: self.listener.heard(Closed))
        self.assertEqual(self.listener.heard(Closed), [Closed((2,))])

    async def test_closedSoon(self) -> None:
        """
        The reactor is asked once to report an end.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.offer((1, accepted))
        await eventually(lambda: self.adopter.adopted)
        transport = transportOf(self.channel)
        asked: list[object] = []
        add = transport.reactor.addWriter

        def spy(writer: object) -> None:
            asked.append(writer)
            add(writer)

        self.patch(transport.reactor, "addWriter", spy)
        self.channel.closed(1)
        await eventually(lambda: self.listener.heard(Closed))
        if isinstance(transport, ChannelTransport):
            self.assertEqual(asked, [transport])


@overTwistedToo
class TurnTests(WorkerChannelTestCase):
    """
    A worker that claims two connections at a time.
    """

    async def setUp(self) -> None:
        self.patch(worker_end, "CLAIMS_PER_WRITE", 2)
        await super().setUp()

    async def test_turns(self) -> None:
        """
        The others are claimed and adopted in the next turns of the loop.
        """
        turns: list[list[int]] = []
        later: Any = reactor
        self.adopter.react = lambda event: (
            later.callLater(0, lambda: turns.append(self.adopter.adopted))
            if event[0] == "adopt"
            else None
        )
        await self.register()
        await self.adopt(4)
        await eventually(lambda: len(turns) == 4)
        self.assertEqual(turns[:2], [[1, 2], [1, 2]])
        self.assertEqual(self.listener.heard(Claim), [Claim((1, 2)), Claim((3, 4))])

    async def test_drains(self) -> None:
        """
        A worker that drains between them refuses the others.
        """
        self.adopter.react = lambda event: (
            self.channel.drain() if event[0] == "adopt" and event[1].id == 2 else None
        )
        await self.register()
        self.offer(*[(id, pair[1]) for id, pair in enumerate(self.connections(4), 1)])
        await eventually(lambda: self.listener.heard(Drain))
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(self.listener.heard(Claim), [Claim((1, 2))])
        self.assertEqual(self.listener.heard(Refuse), [Refuse(DRAINING, (3, 4))])

    async def test_listenerDies(self) -> None:
        """
        If the listener dies between them, the worker serves all.
        """
        self.adopter.react = lambda event: (
            self.listener.close() if event[0] == "adopt" and event[1].id == 2 else None
        )
        await self.register()
        self.offer(*[(id, pair[1]) for id, pair in enumerate(self.connections(4), 1)])
        await self.gone()
        self.assertEqual(self.adopter.adopted, [1, 2, 3, 4])

    async def test_leaves(self) -> None:
        """
        A worker that says BYE between them refuses the others first.
        """
        self.adopter.react = lambda event: (
            self.channel.bye("enough")
            if event[0] == "adopt" and event[1].id == 2
            else None
        )
        await self.register()
        self.offer(*[(id, pair[1]) for id, pair in enumerate(self.connections(4), 1)])
        await eventually(lambda: self.listener.heard(Bye))
        self.assertEqual(self.adopter.adopted, [1, 2])
        self.assertEqual(self.listener.heard(Claim), [Claim((1, 2))])
        self.assertEqual(self.listener.heard(Refuse), [Refuse(DRAINING, (3, 4))])


@overTwistedToo
class UselessDescriptorTests(WorkerChannelTestCase):
    """
    Descriptors of what is no stream connection.
    """

    async def check(self, descriptor: int, complaint: str) -> None:
        """
        Send one, along with one of a connection, and check that this alone is
        adopted and that the other is closed with a complaint.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        self.listener.say(
            Offer(1, 0, 12345),
            Offer(2, 0, _kernel.cookie(accepted)),
            descriptors=[descriptor, accepted.fileno()],
        )
        await eventually(lambda: self.adopter.adopted)
        self.assertEqual(self.adopter.adopted, [2])
        self.assertEqual(
            self.listener.heard(Refuse), [Refuse(MISSING_DESCRIPTOR, (1,))]
        )
        [line] = texts(self.logged, "warn")
        self.assertIn(complaint, line)

    async def test_pipe(self) -> None:
        """
        A pipe is closed.
        """
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        await self.check(ends[0], "non-socket")

    async def test_file(self) -> None:
        """
        A file is closed.
        """
        with open(os.devnull) as file:
            await self.check(file.fileno(), "non-socket")

    async def test_listeningSocket(self) -> None:
        """
        A listening socket is closed.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await self.check(sock.fileno(), "a listening socket")

    async def test_datagramSocket(self) -> None:
        """
        A connected datagram socket, which Twisted would adopt, is closed.
        """
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
            await self.check(sock.fileno(), "a UDP socket")


@overTwistedToo
class MissingDescriptorTests(WorkerChannelTestCase):
    """
    Offers whose descriptor did not arrive.
    """

    async def test_refused(self) -> None:
        """
        Such an offer is refused, and those around it are not affected.
        """
        pairs = self.connections(3)
        await self.register()
        offers = [
            Offer(id, 0, _kernel.cookie(pair[1])) for id, pair in enumerate(pairs)
        ]
        self.listener.say(
            *offers, descriptors=[pairs[0][1].fileno(), pairs[2][1].fileno()]
        )
        await eventually(lambda: len(self.adopter.adopted) == 2)
        self.assertEqual(self.adopter.adopted, [0, 2])
        self.assertEqual(
            self.listener.heard(Refuse), [Refuse(MISSING_DESCRIPTOR, (1,))]
        )

    async def test_tooMany(self) -> None:
        """
        A listener that sends more descriptors than the window allows, and no
        offers, is left; none of them is kept.
        """
        pairs = self.connections(5)
        await self.register()
        self.listener.say(b"\3", descriptors=[pair[1].fileno() for pair in pairs])
        await self.gone()
        self.assertEqual(
            self.adopter.lostFor, ["more than 4 descriptors without their offers"]
        )
        self.assertEqual(self.adopter.adopted, [])


@overTwistedToo
class SharedSocketTests(WorkerChannelTestCase):
    """
    Using shared sockets, on the worker's side.
    """

    takes = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.DATAGRAMS])

    async def setUp(self) -> None:
        await super().setUp()
        self.shared = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.shared.close)
        self.addCleanup(self.closeShared)
        self.cookie = _kernel.cookie(self.shared)

    def closeShared(self) -> None:
        """
        Close what the adopter was given.
        """
        for descriptor in self.adopter.sharedDescriptors:
            os.close(descriptor)

    def lend(self, *frames: Frame, sock: socket.socket | None = None) -> None:
        """
        Send a socket, and frames.
        """
        descriptor = (sock or self.shared).fileno()
        self.listener.say(*frames, descriptors=[descriptor])

    async def test_lent(self) -> None:
        """
        The adopter gets a socket when the frame is there that names it.
        """
        await self.register()
        self.lend(Listener(0, self.cookie))
        await eventually(lambda: self.adopter.sharedDescriptors)
        self.assertEqual(
            self.adopter.events[-1], ("socketShared", Listener(0, self.cookie))
        )
        (descriptor,) = self.adopter.sharedDescriptors
        self.assertFalse(os.get_inheritable(descriptor))
        self.assertEqual(
            _kernel.identify(descriptor, self.takes), (Kind.LISTENER, self.cookie)
        )

    async def test_datagrams(self) -> None:
        """
        UDP likewise.
        """
        await self.register()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            cookie = _kernel.cookie(sock)
            self.lend(Listener(0, cookie), sock=sock)
            await eventually(lambda: self.adopter.sharedDescriptors)
        self.assertEqual(self.adopter.events[-1], ("socketShared", Listener(0, cookie)))

    async def test_withdrawn(self) -> None:
        """
        It hears when one is not to be used any more.
        """
        await self.register()
        self.listener.say(Withdraw(5))
        await eventually(lambda: self.adopter.events[-1] == ("withdrawn", 5))

    async def test_missing(self) -> None:
        """
        A frame whose socket did not come ends the channel: the worker joins anew,
        and is sent it again.
        """
        await self.register()
        self.listener.say(Listener(0, self.cookie))
        await eventually(self.listener.hasEnded)
        (bye,) = self.listener.heard(Bye)
        self.assertIn("got lost on its way", bye.reason)

    async def test_neverNamed(self) -> None:
        """
        A socket that no frame names is closed when the channel is gone; and if it
        comes twice, one of the two at once.
        """
        await self.register()
        self.lend(Drained())
        self.lend(Drained())
        await eventually(lambda: self.adopter.events.count(("drained",)) == 2)
        self.listener.close()
        await eventually(lambda: self.adopter.lostFor)
        self.assertEqual(self.adopter.sharedDescriptors, [])

    async def test_afterTheEnd(self) -> None:
        """
        A socket that comes after the worker's BYE is closed.
        """
        self.adopter.react = lambda event: (
            self.channel.bye("enough") if event == ("drained",) else None
        )
        await self.register()
        self.channel.drain()
        await eventually(lambda: self.listener.heard(Drain))
        self.lend(Drained(), Listener(0, self.cookie))
        await eventually(self.listener.hasEnded)
        self.assertEqual(self.listener.frames[-1], Bye("enough"))
        self.assertEqual(self.adopter.sharedDescriptors, [])

    async def test_tooMany(self) -> None:
        """
        A listener that sends sockets and never says what for is left.
        """
        self.patch(worker_session, "MAXIMUM_SOCKETS", 2)
        await self.register()
        for _ in range(self.window + 1):
            with socket.create_server(("127.0.0.1", 0)) as sock:
                self.lend(Drained(), sock=sock)
        await eventually(self.listener.hasEnded)
        (bye,) = self.listener.heard(Bye)
        self.assertEqual(bye.reason, "more than 2 sockets without their frames")


@overTwistedToo
class DrainTests(WorkerChannelTestCase):
    """
    A worker that wants no more.
    """

    async def test_drain(self) -> None:
        """
        The listener is asked once, and the adopter hears its answer.
        """
        await self.register()
        self.channel.drain()
        self.channel.drain()
        await eventually(lambda: self.listener.heard(Drain))
        self.listener.say(Drained())
        await eventually(lambda: ("drained",) in self.adopter.events)
        self.assertEqual(self.listener.heard(Drain), [Drain()])

    async def test_givesBack(self) -> None:
        """
        What waited to be claimed goes back, and so does what comes later; what
        was being claimed is served.
        """
        pairs = self.connections(3)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        await aMoment()
        self.channel.drain()
        self.offer((3, pairs[2][1]))
        await aMoment()
        await unstuff(self.listener)
        await eventually(lambda: self.listener.heard(Drain))
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.listener.heard(Refuse), [Refuse(DRAINING, (2, 3))])

    async def test_bye(self) -> None:
        """
        BYE is the last word, and is said once what was being claimed is
        claimed.
        """
        pairs = self.connections(2)
        await self.register()
        stuff(self.channel)
        self.offer((1, pairs[0][1]))
        await aMoment()
        self.offer((2, pairs[1][1]))
        await aMoment()
        self.channel.bye("the worker stops")
        self.channel.bye("again")
        await unstuff(self.listener)
        await eventually(self.listener.hasEnded)
        await self.gone()
        self.assertEqual(
            self.listener.frames,
            [
                WorkerHello(4, frames=LEAVES),
                Claim((1,)),
                Refuse(DRAINING, (2,)),
                Drain(),
                Bye("the worker stops"),
            ],
        )
        self.assertEqual(self.adopter.adopted, [1])
        self.assertEqual(self.adopter.lostFor, ["the worker stops"])

    async def test_lostWhileParting(self) -> None:
        """
        A listener that is gone before BYE could be said leaves to the worker
        what was being claimed to be closed: it said that it would not serve it.
        """
        [(_, accepted)] = self.connections(1)
        await self.register()
        stuff(self.channel)
        self.channel.bye("the worker stops")
        self.offer((1, accepted))
        await aMoment()
        self.listener.close()
        await self.gone()
        self.assertEqual(self.adopter.adopted, [])


OUT_OF_DESCRIPTORS = """
import os, resource, socket, sys
from twisted.internet import reactor
from portlisten._channel.worker_end import WorkerChannel
from tests.support.channels import Once, RecordingAdopter

class Adopter(RecordingAdopter):
    def adopt(self, channel, offer, sock):
        sock.send(b"%d" % offer.id)
        sock.close()
        channel.closed(offer.id)

    def lost(self, channel, reason):
        reactor.stop()

def exhaust():
    # What is not open yet when it is needed could not be opened any more.
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    soft = max(used) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    filler = []
    try:
        while True:
            filler.append(os.dup(0))
    except OSError:
        os.close(filler.pop())
    os.write(1, b"ready")

sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(False)
channel = WorkerChannel(reactor, Adopter())
reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Once(channel))
sock.close()
reactor.callWhenRunning(exhaust)
reactor.run()
"""


class OutOfDescriptorsTests(SynchronousTestCase):
    """
    A worker that has no room for all descriptors of a message, some of which
    the kernel then drops, and says so by C{MSG_CTRUNC}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        pairs = [tcpPair() for _ in range(4)]
        for pair in pairs:
            for sock in pair:
                self.addCleanup(sock.close)
        self.clients = [client for client, _ in pairs]
        self.accepted = [accepted for _, accepted in pairs]

    def start(self) -> tuple[Peer, subprocess.Popen[bytes]]:
        """
        Start a worker, and wait until it has one free descriptor.
        """
        ours, theirs = socket.socketpair()
        repository = str(Path(__file__).resolve().parents[3])
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": repository},
            )
        listener = Peer(ours, FROM_WORKER)
        assert child.stdout is not None
        for cleanup in (child.wait, child.kill, child.stdout.close, listener.close):
            self.addCleanup(cleanup)
        self.assertEqual(child.stdout.read(5), b"ready")
        return listener, child

    def test_truncated(self) -> None:
        """
        The offers that lost their descriptor are refused, and the one that did
        not is answered to the very client that it belongs to.
        """
        listener, child = self.start()
        listener.say(
            ListenerHello(4),
            *[
                Offer(id, 0, _kernel.cookie(sock))
                for id, sock in enumerate(self.accepted)
            ],
            descriptors=[sock.fileno() for sock in self.accepted],
        )
        while not (listener.heard(Closed) and listener.heard(Refuse)):
            self.assertTrue(select.select([listener.socket], [], [], PATIENCE)[0])
            self.assertFalse(listener.hasEnded())
        [refuse], [claim] = listener.heard(Refuse), listener.heard(Claim)
        self.assertEqual(refuse, Refuse(MISSING_DESCRIPTOR, (1, 2, 3)))
        self.assertEqual(claim, Claim((0,)))
        self.assertEqual(self.clients[0].recv(10), b"0")
        for client in self.clients[1:]:
            client.setblocking(False)
            self.assertRaises(BlockingIOError, client.recv, 1)
        listener.close()
        self.assertEqual(child.wait(PATIENCE), 0)
