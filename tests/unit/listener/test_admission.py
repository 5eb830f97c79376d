"""
Tests for L{portlisten._listener.admission}, and for what the dispatcher does with it.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener import admission
from portlisten._listener.access import Access
from portlisten._listener.admission import Admission
from portlisten._policy.places import Places
from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Bye, ListenerHello
from portlisten.errors import ProtocolError
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import DispatcherTestCase, RecordingChannel

#: Nothing is read from it here.
NO_SOCKET: Any = None


class FakeAcceptor:
    """
    Stands for an L{Acceptor}: lets a test say what was accepted.

    @ivar running: whether it accepts.
    """

    def __init__(self, *arguments: Any) -> None:
        _, self.socket, self.label, self.most, self.accepted, self.retry = arguments
        self.running = self.closed = False

    def resume(self) -> None:
        self.running = True

    def suspend(self) -> None:
        self.running = False

    def close(self) -> None:
        self.closed = True


class AdmissionTests(SynchronousTestCase):
    """
    Tests for L{Admission}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = Clock()
        self.who = _kernel.Credentials(77, 1000, 100)
        self.unread: dict[int, int] = {}
        self.let: list[tuple[socket.SocketType, _kernel.Credentials]] = []
        self.patch(_kernel, "credentials", lambda sock: self.who)
        self.patch(admission, "Acceptor", FakeAcceptor)
        self.admission = self.admit()

    def admit(self, **access: Any) -> Admission:
        """
        Let processes in, which have two places.
        """
        made = Admission(
            self.clock,
            Access(**access),
            Places(2),
            lambda user: self.unread.get(user, 0),
            80,
            lambda sock, who: self.let.append((sock, who)),
        )
        made.listen(NO_SOCKET, "/run/path", 0.1)
        self.acceptor: Any = made._acceptor
        return made

    def connect(self) -> str | None:
        """
        A process connects.

        @return: why it is turned away, or L{None} if it is let in.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            before = len(self.let)
            self.acceptor.accepted([(ours, "")])
            if len(self.let) > before:
                self.assertIs(self.let[-1][0], ours)
                return None
            self.came = theirs.recv(1000)
            self.assertEqual(theirs.recv(1), b"")
        *_, bye = Decoder(FROM_LISTENER).feed(self.came)
        assert isinstance(bye, Bye)
        return bye.reason

    def test_letIn(self) -> None:
        """
        A process that may be a worker is let in, with what the kernel says of it.
        """
        self.assertIsNone(self.connect())
        self.assertEqual([who for _, who in self.let], [self.who])

    def test_pause(self) -> None:
        """
        Only a few are let in at a time, and a pause follows.
        """
        self.assertEqual(self.acceptor.most(), admission.PROCESSES_PER_BATCH)
        self.assertTrue(self.acceptor.running)
        self.connect()
        self.assertFalse(self.acceptor.running)
        self.clock.advance(admission.BATCH_PAUSE_SECONDS)
        self.assertTrue(self.acceptor.running)

    def test_notPermitted(self) -> None:
        """
        A user that is not permitted is turned away, which is logged.
        """
        self.admission = self.admit(users=[1])
        reason = self.connect()
        assert reason is not None
        self.assertIn("uid 1000 may not be a worker here", reason)
        self.assertEqual(
            texts(self.logged, "warn"), [f"process 77 is turned away: {reason}"]
        )

    def test_unread(self) -> None:
        """
        A user whose processes leave more than an eighth of the descriptors unread that
        may be in flight is turned away.
        """
        self.unread[1000] = 11
        self.assertEqual(
            self.connect(),
            "11 descriptors are on their way to processes of uid 1000 that do not read"
            " them: end those",
        )
        self.unread[1000] = 10
        self.assertIsNone(self.connect())

    def test_places(self) -> None:
        """
        A process that finds no place is turned away, until another leaves.
        """
        self.assertIsNone(self.connect())
        reason = self.connect()
        assert reason is not None
        self.assertIn("the listener is full: 1 of 2 places", reason)
        self.admission.leave(RecordingChannel("worker 1", 1000))
        self.assertIsNone(self.connect())

    def test_turnedAwayHasNoPlace(self) -> None:
        """
        A process that is turned away for another reason takes no place.
        """
        self.unread[1000] = 11
        for _ in range(3):
            self.connect()
        self.unread.clear()
        self.assertIsNone(self.connect())

    def test_refuseAll(self) -> None:
        """
        When the listener stops, it lets in no more processes, and sends a HELLO before
        each refusal.
        """
        hello = encode(ListenerHello(4, (), stopping=True))
        self.admission.refuseAll(hello)
        self.assertEqual(self.connect(), "the listener stops")
        self.assertTrue(self.came.startswith(hello))

    def test_unknown(self) -> None:
        """
        A process of which the kernel says nothing is turned away, which is logged.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOMEM, "no memory")

        self.patch(_kernel, "credentials", fail)
        ours, theirs = socket.socketpair()
        with theirs:
            self.acceptor.accepted([(ours, "")])
            self.assertEqual(theirs.recv(1), b"")
        self.assertEqual(
            texts(self.logged, "error"),
            ["a worker is turned away, and may try again: no memory"],
        )

    def test_close(self) -> None:
        """
        When it is closed, nothing is left to do.
        """
        self.connect()
        self.admission.close()
        self.assertTrue(self.acceptor.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ThrottleTests(DispatcherTestCase):
    """
    Workers that die at once, again and again.
    """

    def crash(self, times: int, user: int = 1000) -> None:
        """
        Have workers join and die.
        """
        for number in range(times):
            self.die(self.join(f"crash {number}", user=user))

    def throttled(self) -> RecordingChannel:
        """
        Make a worker join that must wait for 2 s.
        """
        self.crash(1)
        return self.join()

    def test_waits(self) -> None:
        """
        Such a worker has to wait before it is offered anything, and that is
        logged.
        """
        worker = self.throttled()
        self.accept()
        self.clock.advance(1.9)
        self.assertEqual(worker.offers, [])
        self.assertEqual(
            texts(self.logged, "warn")[-1],
            "worker 1 must wait 2 s: the workers before it died at once",
        )
        self.clock.advance(0.1)
        self.assertEqual(worker.ids, [1])

    def test_others(self) -> None:
        """
        A worker of another user does not wait.
        """
        self.throttled()
        other = self.join("worker 2", user=1001)
        self.accept()
        self.assertEqual(other.ids, [1])

    def test_hungWorkers(self) -> None:
        """
        To hang is as bad as to die.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.revoking(worker)
        self.dispatcher.left(worker, "revoked")
        self.assertEqual(self.join("worker 2").offers, [])

    def test_good(self) -> None:
        """
        When a worker finishes a connection, the deaths before it joined are forgiven,
        and its own death later does not count.
        """
        worker = self.throttled()
        self.clock.advance(2.0)
        self.accept(2)
        for id in (1, 2):
            self.dispatcher.claimed(worker, [id])
            self.dispatcher.closed(worker, [id])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [1])

    def test_goodBefore(self) -> None:
        """
        If an earlier worker finishes a connection, later deaths are not forgiven.
        """
        worker = self.join()
        self.crash(3)
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.closed(worker, [1])
        self.assertEqual(self.join("worker 2").ids, [])

    def test_clientsWhoLeft(self) -> None:
        """
        A client that left is nothing that a worker has finished.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.clientGone(worker, [1])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [])

    def test_diesWaiting(self) -> None:
        """
        A worker that dies while it waits is forgotten, and counts for nothing.
        """
        self.die(self.throttled())
        self.accept()
        self.assertEqual(self.dispatcher.channels, 0)
        worker = self.join("worker 2")
        self.clock.advance(2)
        self.assertEqual(worker.ids, [1])

    def test_partsWaiting(self) -> None:
        """
        A worker that parts while it waits is forgotten.
        """
        worker = self.throttled()
        self.dispatcher.revoking(worker)
        self.dispatcher.left(worker, "it says: no")
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])

    def test_claimsWaiting(self) -> None:
        """
        A worker that waits has nothing to claim.
        """
        worker = self.throttled()
        self.assertRaises(ProtocolError, self.dispatcher.claimed, worker, [1])

    def test_drainsWaiting(self) -> None:
        """
        If a worker drains while it waits, it gets DRAINED, and no offers.
        """
        worker = self.throttled()
        self.dispatcher.draining(worker)
        self.assertEqual(worker.calls, [("drained",)])
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])
        self.die(worker)
        self.assertEqual(self.dispatcher.channels, 0)
