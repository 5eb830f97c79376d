"""
Tests for L{portlisten._listener.succession}, with a successor that is spoken by hand.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace

from twisted.internet.defer import Deferred

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import Replace
from portlisten._handover.messages import (
    Ready,
    Stopping,
)
from portlisten._model import Kind
from portlisten._ports.binding import boundElsewhere
from tests.support.channels import texts
from tests.support.sockets import connection, pair
from tests.support.succession_cases import (
    CLIENT,
    REPLACE,
    RecordingAcceptor,
    SuccessionTestCase,
)


class AskTests(SuccessionTestCase):
    """
    Another listener asks.
    """

    def test_otherVersions(self) -> None:
        """
        The listeners need a version of the handover in common.
        """
        request = Replace(("7", "8"))
        error = self.assertRaises(ControlError, self.succession.asked, request, CLIENT)
        self.assertEqual(
            str(error),
            "this listener speaks other versions of the handover (2, 1) than the new"
            " one (7, 8): restart it",
        )

    def test_another(self) -> None:
        """
        One listener at a time may take over, and the next one when that has failed.
        """
        self.begin()
        first = self.ask()
        error = self.assertRaises(ControlError, self.succession.asked, REPLACE, CLIENT)
        self.assertEqual(
            str(error), "another listener is about to take over from this one"
        )
        self.end(first)
        self.end(self.ask())
        self.assertEqual(self.wire.calls, [])

    def test_sockets(self) -> None:
        """
        The successor gets the sockets of the ports.
        """
        sock = self.tcp()
        self.add("a", sock)
        self.begin()
        successor = self.ask()
        data, descriptors = _kernel.receive(successor)
        found = [os.fstat(each).st_ino for each in descriptors]
        self.assertEqual(data.count(b'"port"'), 1)
        self.assertEqual(found[0], os.fstat(sock.fileno()).st_ino)
        for each in descriptors:
            os.close(each)
        self.end(successor)

    def test_impossible(self) -> None:
        """
        If the sockets cannot be handed over, the log says so, and the next one may ask.
        """

        def fail() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.begin()
        ours, theirs = pair(self)
        patch = self.patch(socket, "socketpair", fail)
        self.detach(ours)
        patch.restore()
        self.assertEqual(
            texts(self.logged, "error"),
            [f"this listener cannot be handed over now: {os.strerror(errno.EMFILE)}"],
        )
        self.assertEqual(theirs.recv(1), b"")
        self.end(self.ask())

    def test_cancelNothing(self) -> None:
        """
        Without a handover, there is nothing to cancel.
        """
        self.assertIs(self.succession.cancel(), False)

    def test_cancel(self) -> None:
        """
        If this listener is told to stop, the successor hears so.
        """
        self.begin()
        successor = self.ask()
        self.assertIs(self.succession.cancel(), False)
        self.turn()
        data, descriptors = _kernel.receive(successor)
        self.assertIn(b"this listener was told to stop", data + successor.recv(999))
        for each in descriptors:
            os.close(each)


class CommitTests(SuccessionTestCase):
    """
    Nobody accepts.
    """

    def test_suspend(self) -> None:
        """
        Neither ports, nor the wire accept.  If the successor dies, they do again.
        """
        acceptor = self.add("a", self.tcp())
        self.begin()
        successor = self.ask()
        self.say(successor, Ready((), ()))
        self.assertEqual((acceptor.calls, self.wire.calls), (["park"], ["suspend"]))
        self.end(successor)
        self.assertEqual(acceptor.calls, ["park", "unpark"])
        self.assertEqual(self.wire.calls, ["suspend", "resume"])
        self.assertEqual(self.ended, [])


class RetireTests(SuccessionTestCase):
    """
    The successor serves.
    """

    def admits(self, sock: socket.socket, seconds: float = 30.0) -> bool:
        """
        Whether a listening TCP socket takes a client in time.
        """
        client = socket.socket()
        self.addCleanup(client.close)
        client.settimeout(seconds)
        try:
            client.connect(sock.getsockname())
        except TimeoutError:
            return False
        return True

    def refuses(self, sock: socket.socket) -> bool:
        """
        Whether it takes none: the kernel drops what a client sends.
        """
        return not self.admits(sock, 0.05)

    def test_done(self) -> None:
        """
        When all is handed over, the paths are the successor's, and the process ends.
        """
        sock = self.tcp()
        acceptor = self.add("a", sock, waits=True)
        successor = self.run_(sock, names=("a", "b"))
        self.assertEqual(self.wire.calls, ["suspend", "retire 9"])
        self.assertEqual(self.wire.names, ("a", "b"))
        self.assertIs(self.succession.isOver, False)
        self.assertIs(self.succession.cancel(), True)
        self.wire.done.callback(None)
        self.assertIs(self.succession.isOver, True)
        self.assertEqual((self.ended, self.sockets.disowned), (["retired"], 1))
        self.turn()
        self.end(successor)
        self.assertEqual(self.wire.calls, ["suspend", "retire 9"])
        self.assertEqual(acceptor.calls, ["park"])

    def test_wait(self) -> None:
        """
        If the process was told to stop meanwhile, that goes on when all is handed over.
        """
        successor = self.run_()
        waiting = self.succession.wait()
        self.assertNoResult(waiting)
        self.wire.done.callback(None)
        self.successResultOf(waiting)
        self.assertEqual(self.ended, [])
        self.turn()
        self.end(successor)

    def test_waitForNothing(self) -> None:
        """
        It goes on as well if the successor dies.
        """
        successor = self.run_()
        waiting = self.succession.wait()
        self.end(successor)
        self.successResultOf(waiting)
        self.assertIs(self.succession.isOver, False)

    def test_stopping(self) -> None:
        """
        If the successor is told to stop, so is this listener.
        """
        successor = self.run_()
        self.say(successor, Stopping())
        self.assertEqual(self.ended, ["told"])
        self.assertIs(self.succession.cancel(), False)
        self.end(successor)
        self.assertNotIn("takeBack", self.wire.calls)

    def test_unwanted(self) -> None:
        """
        A port that the successor lacks takes no new client.  If some wait, they are
        accepted.
        """
        wanted, busy, idle = self.tcp(), self.tcp(), self.tcp()
        acceptors = [
            self.add("a", wanted, waits=True),
            self.add("b", busy, waits=True),
            self.add("c", idle),
        ]
        client = socket.create_connection(busy.getsockname())
        self.addCleanup(client.close)
        successor = self.run_(wanted)
        self.assertEqual(
            [each.calls for each in acceptors], [["park"], ["park", "unpark"], ["park"]]
        )
        self.assertEqual(self.wire.waits(), {"b"})
        self.assertTrue(self.admits(wanted))
        self.assertTrue(self.refuses(busy))
        self.assertTrue(self.refuses(idle))
        accepted, _ = busy.accept()
        accepted.close()
        self.assertEqual(self.wire.waits(), set())
        self.end(successor)
        self.assertTrue(self.admits(idle))
        self.assertEqual(self.wire.calls[2:], ["takeBack", "resume"])
        self.assertEqual(acceptors[0].calls, ["park", "unpark"])
        self.assertEqual(self.wire.waits(), set())

    def test_unwantedUnix(self) -> None:
        """
        A Unix port that the successor lacks takes one client at a time, and as many as
        before when the successor is dead.
        """
        sock = self.unix()
        self.add("a", sock)
        successor = self.run_()
        self.assertEqual(self.connects(sock), 1)
        self.end(successor)
        self.assertEqual(self.connects(sock), 7)

    def connects(self, sock: socket.socket) -> int:
        """
        Count the clients that find a place beside those that wait.
        """
        for count in range(20):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.setblocking(False)
            try:
                client.connect(sock.getsockname())
            except BlockingIOError:
                return count
        return 20

    def test_noFilter(self) -> None:
        """
        So it is for a TCP port, if the kernel has no filter for it.
        """
        self.patch(_kernel, "refuseClients", lambda sock: False)
        sock = self.tcp()
        self.add("a", sock)
        successor = self.run_()
        self.assertEqual(_kernel.queued(sock), (0, 0))
        self.end(successor)
        self.assertEqual(_kernel.queued(sock), (0, 12))

    def test_partOfGroup(self) -> None:
        """
        Of a group, only the sockets that the successor lacks take no new clients.
        """
        one, other = self.tcp(), self.tcp()
        port = boundElsewhere([one], "a", Kind.GROUP)
        self.ports = [replace(port, sockets=[one, other])]
        self.acceptors = [RecordingAcceptor()]
        successor = self.run_(one)
        self.assertTrue(self.admits(one))
        self.assertTrue(self.refuses(other))
        self.end(successor)
        self.assertTrue(self.admits(other))

    def test_datagrams(self) -> None:
        """
        A UDP port has no clients that wait to be accepted.
        """
        self.add("a", self.udp(), kind=Kind.DATAGRAMS)
        successor = self.run_()
        self.assertEqual(self.wire.waits(), set())
        self.end(successor)

    def test_again(self) -> None:
        """
        When a successor has died, another one may take over.
        """
        self.end(self.run_())
        client, _ = connection(self)
        client.close()
        self.wire.done = Deferred()
        successor = self.run_()
        self.wire.done.callback(None)
        self.assertEqual(self.ended, ["retired"])
        self.turn()
        self.end(successor)
