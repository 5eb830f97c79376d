"""
Tests for L{portlisten._worker.worker}: how a worker finds its listener, which writes
its frames by hand.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._channel.interfaces import IAdopter
from portlisten._kernel import Credentials
from portlisten._policy.link import INCOMPATIBLE_RETRY_SECONDS
from portlisten._wire.frames import Bye, Frame, WorkerHello
from portlisten._worker.worker import Worker
from tests.support.channels import Peer, aMoment, eventually, texts
from tests.support.workers import (
    GRACE,
    HELLO,
    NAMED,
    RETRY,
    ClockedReactor,
    Listener,
    WorkerTestCase,
    exhausted,
    monkeyPatched,
)

#: The uid of somebody else.
STRANGER = 54321


class InterfaceTests(SynchronousTestCase):
    """
    Tests for the interfaces that a worker provides.
    """

    def test_adopter(self) -> None:
        """
        A L{Worker} is an L{IAdopter}.
        """
        verifyClass(IAdopter, Worker)
        verifyObject(IAdopter, Worker(ClockedReactor(), "path", Factory()))


class ConnectingTests(WorkerTestCase):
    """
    How the worker finds its listener.
    """

    async def tryAgain(self) -> None:
        """
        Let the time between two tries pass, and the next try.
        """
        self.clock.advance(RETRY)
        await aMoment()

    async def test_joined(self) -> None:
        """
        It says HELLO, and logs what the listener listens on.
        """
        listener = await self.join()
        await eventually(lambda: listener.channel.heard(WorkerHello))
        self.assertEqual(
            texts(self.logged, "info"),
            [f"joined the listener at {self.path}, which listens on tcp:192.0.2.1:80"],
        )

    async def test_listenerComesLater(self) -> None:
        """
        Without a listener, the worker waits, complains once, and joins one that comes.
        """
        self.start()
        await aMoment()
        for _ in range(3):
            await self.tryAgain()
        [complaint] = texts(self.logged, "warn")
        self.assertIn(
            f"waiting for a listener at {self.path}, trying every 0.5 s", complaint
        )
        listener = self.listen()
        self.clock.advance(RETRY)
        await eventually(listener.accept)

    async def test_distinctComplaints(self) -> None:
        """
        A complaint that differs from the one before is made.
        """
        self.start()
        await aMoment()
        await self.tryAgain()
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(self.path)
            await self.tryAgain()
            await self.tryAgain()
        os.unlink(self.path)
        complaints = texts(self.logged, "warn")
        self.assertEqual(len(complaints), 2)
        self.assertIn("No such file", complaints[0])
        self.assertIn("refused", complaints[1])

    async def test_busyListener(self) -> None:
        """
        If a listener is too busy to accept, the worker tries again.
        """
        listener = Listener(self.path, backlog=0)
        self.addCleanup(listener.close)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.path)
            self.start()
            [complaint] = texts(self.logged, "warn")
            self.assertIn("temporarily unavailable", complaint)
        await eventually(listener.accept)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_silent(self) -> None:
        """
        If the listener does not say HELLO, the worker waits on, and complains once.  It
        keeps its place in the backlog, as while a supervisor starts a listener anew.
        """
        listener = self.listen()
        self.start()
        for _ in range(5):
            self.clock.advance(5)
            await aMoment()
        self.assertEqual(
            texts(self.logged, "warn"),
            [f"waiting for the listener at {self.path}: no HELLO has come yet"],
        )
        await eventually(listener.accept)
        await eventually(lambda: self.worker.ports)
        self.assertFalse(listener.accept())

    async def test_silentReplaced(self) -> None:
        """
        If another listener has the path by then, the worker leaves the silent one.
        """
        silent = self.listen()
        self.start()
        os.rename(self.path, f"{self.path}.old")
        listener = self.listen()
        self.clock.advance(5)
        await aMoment()
        self.clock.advance(5)
        await eventually(listener.accept)
        await eventually(lambda: self.worker.ports)
        silent.greeting = ()
        silent.accept()
        await eventually(lambda: silent.channel.heard(Bye))
        os.unlink(f"{self.path}.old")

    async def test_noAccess(self) -> None:
        """
        If the worker may not connect, the complaint says what decides about that.
        """

        def fail(sock: socket.socket, path: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        self.patch(socket.socket, "connect", fail)
        self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn(
            "Permission denied; the path's mode and group say who may be a worker",
            complaint,
        )

    async def test_noDescriptors(self) -> None:
        """
        A process that is out of descriptors goes on trying.
        """
        listener = self.listen()

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeyPatched(socket.socket, "dup", fail):
            self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("Too many open files", complaint)
        await eventually(listener.accept)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_noSocket(self) -> None:
        """
        So does one that cannot even make a socket.
        """
        listener = self.listen()
        with exhausted():
            self.start()
        [complaint] = texts(self.logged, "warn")
        self.assertIn("Too many open files", complaint)
        await self.tryAgain()
        await eventually(listener.accept)

    async def test_again(self) -> None:
        """
        A listener that is gone is waited for, as often as that happens, with one
        complaint of the loss and one of the absence.
        """
        listener = await self.join()
        await self.serve(listener)
        for _ in range(2):
            listener.close()
            await eventually(lambda: texts(self.logged, "warn"))
            await self.tryAgain()
            await self.tryAgain()
            lost, waiting = texts(self.logged, "warn")
            self.assertEqual(
                lost,
                f"lost the listener at {self.path}, with 1 connections in service:"
                " the listener is gone",
            )
            self.assertIn("waiting for a listener", waiting)
            listener = self.listen()
            self.logged.clear()
            self.clock.advance(RETRY)
            await eventually(listener.accept)
            await eventually(lambda: texts(self.logged, "info"))
        client, conversation = await self.serve(listener)
        client.sendall(b"ping")
        await eventually(lambda: conversation.received == b"ping")


class IncompatibleTests(WorkerTestCase):
    """
    Listeners that cannot serve the worker.
    """

    async def meet(self, *greeting: Frame | bytes, names: Sequence[str] = ()) -> Peer:
        """
        Start a worker at a path whose listener greets it with this.
        """
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, names=names
        )
        self.listener = self.listen()
        self.start()
        return await self.again(*greeting)

    async def again(self, *greeting: Frame | bytes) -> Peer:
        """
        Greet the next channel with this.
        """
        self.listener.greeting = greeting
        await eventually(self.listener.accept)
        return self.listener.channel

    async def complaints(self, count: int) -> list[str]:
        """
        Wait for complaints.
        """
        await eventually(lambda: len(texts(self.logged, "warn")) >= count)
        return texts(self.logged, "warn")

    async def test_unknownName(self) -> None:
        """
        A listener without the port that is asked for is left, with a BYE that
        says why; and asked again a little later, with no further complaint, since
        it may be started anew with that port.
        """
        channel = await self.meet(NAMED, names=("http", "smtp"))
        [complaint] = await self.complaints(1)
        self.assertEqual(
            complaint,
            f"waiting for a listener at {self.path}, trying every 5 s: the listener"
            " cannot serve this worker: no port is called 'smtp' here, only http,"
            " https",
        )
        await eventually(channel.hasEnded)
        self.assertIn("no port is called 'smtp'", channel.frames[-1].reason)
        self.assertEqual(channel.frames[0].names, ("http", "smtp"))
        self.clock.advance(INCOMPATIBLE_RETRY_SECONDS - 0.1)
        await aMoment()
        self.assertEqual(len(self.listener.channels), 1)
        self.clock.advance(0.1)
        await self.again(NAMED)
        await aMoment()
        self.assertEqual(len(await self.complaints(1)), 1)

    async def test_knownNames(self) -> None:
        """
        If the listener has such ports, only those count.
        """
        channel = await self.meet(NAMED, names=("https",))
        await eventually(lambda: texts(self.logged, "info"))
        self.assertEqual(
            texts(self.logged, "info"),
            [
                f"joined the listener at {self.path}, which listens on"
                " https=tcp:192.0.2.1:443"
            ],
        )
        self.assertEqual(self.worker.ports, NAMED.ports[1:])
        await eventually(lambda: channel.heard(WorkerHello))
        self.assertEqual(channel.heard(WorkerHello)[0].names, ("https",))

    async def test_sameName(self) -> None:
        """
        A name that is given twice is asked for once.
        """
        channel = await self.meet(NAMED, names=("https", "https"))
        await eventually(lambda: channel.heard(WorkerHello))
        self.assertEqual(channel.heard(WorkerHello)[0].names, ("https",))

    async def test_turnedAway(self) -> None:
        """
        A worker that is turned away says why, once, and does not ask again at once.
        """
        channel = await self.meet(Bye("members only"))
        channel.close()
        [complaint] = await self.complaints(1)
        self.assertIn("trying every 5 s", complaint)
        self.assertIn("the listener says: members only", complaint)

    async def test_vanished(self) -> None:
        """
        One that was gone before it said anything was only restarted, and is
        asked again at once.
        """
        channel = await self.meet()
        for _ in range(3):
            channel.close()
            await self.complaints(1)
            await aMoment()
            self.clock.advance(RETRY)
            channel = await self.again()
        [complaint] = await self.complaints(1)
        self.assertIn(
            "trying every 0.5 s: it closed the channel without a reason", complaint
        )
        channel.say(HELLO)
        await eventually(lambda: texts(self.logged, "info"))

    async def test_nonsense(self) -> None:
        """
        A process that is no listener cannot serve the worker either.
        """
        await self.meet(b"220 mail.example.com ESMTP")
        [complaint] = await self.complaints(1)
        self.assertIn(
            "cannot serve this worker: a frame of the unknown type 50", complaint
        )

    async def test_otherKindOfSocket(self) -> None:
        """
        A socket that is no stream is waited out.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        self.start()
        [complaint] = await self.complaints(1)
        self.assertIn("a socket of another kind is there", complaint)


class ListenerUserTests(WorkerTestCase):
    """
    Whose listener a worker has to do with.
    """

    def meet(self, uid: int, *allowed: int) -> list[str]:
        """
        Start a worker where a listener of some user lives.

        @return: what the worker complains of.
        """
        self.worker = Worker(
            self.reactor, self.path, self.factory, RETRY, GRACE, allowed
        )
        self.patch(_kernel, "credentials", lambda sock: Credentials(1, uid, uid))
        self.listen()
        self.start()
        return texts(self.logged, "warn")

    async def test_root(self) -> None:
        """
        Root's will do.
        """
        self.assertEqual(self.meet(0), [])

    async def test_own(self) -> None:
        """
        So will one of the worker's own user.
        """
        self.assertEqual(self.meet(os.geteuid()), [])

    async def test_folderOwner(self) -> None:
        """
        So will one of the user who owns the folder of the path.
        """
        os.chown(os.path.dirname(self.path), STRANGER, -1)
        self.assertEqual(self.meet(STRANGER), [])

    if os.geteuid() != 0:
        test_folderOwner.skip = "only root can give a folder away"  # type: ignore

    async def test_stranger(self) -> None:
        """
        Anybody else's will not, and the complaint says what to do.
        """
        [complaint] = self.meet(STRANGER)
        self.assertIn(
            f"the listener there has the uid {STRANGER}: --listener-user (in a"
            " description, listenerUser) must name it",
            complaint,
        )
        self.clock.advance(RETRY)
        self.assertEqual(len(texts(self.logged, "warn")), 1)

    async def test_named(self) -> None:
        """
        The listener of a named user is accepted, whichever user that is.
        """
        self.assertEqual(self.meet(STRANGER, 1, STRANGER), [])

    async def test_notNamed(self) -> None:
        """
        If users are named, the listener of no other user is accepted, not even root's.
        """
        self.assertEqual(len(self.meet(0, STRANGER)), 1)
