"""
Tests for L{portlisten._kernel.first_bytes}.
"""

from __future__ import annotations

import os
import select
import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import arrived, connection, pair, reset


class SilentTests(SynchronousTestCase):
    """
    Tests for L{_kernel.silent}.
    """

    def test_silent(self) -> None:
        """
        Of several connections, those are found whose clients have sent nothing, not
        ended their side, and not reset the connection.
        """
        clients, accepted = zip(*(connection(self) for _ in range(5)), strict=True)
        clients[0].send(b"x")
        clients[1].shutdown(socket.SHUT_WR)
        reset(clients[2])
        clients[3].send(b"!", socket.MSG_OOB)
        self.assertEqual(_kernel.silent(accepted), [accepted[4]])

    def test_multipath(self) -> None:
        """
        That is so as well for connections of Multipath TCP.
        """
        ends = [connection(self, protocol=_kernel.IPPROTO_MPTCP) for _ in range(4)]
        clients, accepted = zip(*ends, strict=True)
        clients[0].send(b"x")
        clients[1].shutdown(socket.SHUT_WR)
        reset(clients[2])
        arrived(accepted[0])
        arrived(accepted[1], select.POLLRDHUP)
        arrived(accepted[2], select.POLLHUP)
        self.assertEqual(_kernel.silent(accepted), [accepted[3]])
        firstBytes = _kernel.FirstBytes()
        self.addCleanup(firstBytes.close)
        firstBytes.add(accepted[3].fileno())
        self.assertEqual(firstBytes.come(), [])
        clients[3].send(b"x")
        arrived(accepted[3])
        self.assertEqual(firstBytes.come(), [(accepted[3].fileno(), False)])

    def test_unix(self) -> None:
        """
        That is so as well for connections over a Unix socket.
        """
        ends = [pair(self) for _ in range(3)]
        ends[0][0].send(b"x")
        ends[1][0].close()
        found = _kernel.silent([end for _, end in ends])
        self.assertEqual(found, [ends[2][1]])

    def test_nothing(self) -> None:
        """
        Of no connections, none is found.
        """
        self.assertEqual(_kernel.silent([]), [])


class FirstBytesTests(SynchronousTestCase):
    """
    Tests for L{_kernel.FirstBytes}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.firstBytes = _kernel.FirstBytes()
        self.addCleanup(self.firstBytes.close)
        self.client, self.accepted = connection(self)
        self.descriptor = self.accepted.fileno()
        self.firstBytes.add(self.descriptor)

    def isReadable(self, seconds: float = 0) -> bool:
        """
        Say whether a reactor would read.
        """
        poll = select.poll()
        poll.register(self.firstBytes, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def come(self) -> list[tuple[int, bool]]:
        """
        Wait until something has come.
        """
        self.assertTrue(self.isReadable(PATIENCE))
        return self.firstBytes.come()

    def test_bytes(self) -> None:
        """
        A connection is reported once, when something has come.
        """
        self.assertFalse(self.isReadable())
        self.assertEqual(self.firstBytes.come(), [])
        self.client.send(b"x")
        self.assertTrue(self.isReadable(PATIENCE))
        self.assertEqual(self.come(), [(self.descriptor, False)])
        self.client.send(b"y")
        self.assertFalse(self.isReadable())
        self.assertEqual(self.firstBytes.come(), [])

    def test_again(self) -> None:
        """
        If that is asked for, each arrival is reported once, though nothing is read.
        """
        client, accepted = connection(self)
        self.firstBytes.add(accepted.fileno(), again=True)
        for data in (b"x", b"y", b"z"):
            client.send(data)
            self.assertEqual(self.come(), [(accepted.fileno(), False)])
            self.assertFalse(self.isReadable())
            self.assertEqual(self.firstBytes.come(), [])
        reset(client)
        self.assertEqual(self.come(), [(accepted.fileno(), True)])

    def test_earlier(self) -> None:
        """
        A connection is reported as well if something came before it was watched.
        """
        client, accepted = connection(self)
        client.send(b"x")
        self.firstBytes.add(accepted.fileno())
        self.assertEqual(self.come(), [(accepted.fileno(), False)])

    def test_urgent(self) -> None:
        """
        Urgent bytes are something.
        """
        self.client.send(b"!", socket.MSG_OOB)
        self.assertEqual(self.come(), [(self.descriptor, False)])

    def test_end(self) -> None:
        """
        The end of the client's side is something.
        """
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.come(), [(self.descriptor, False)])

    def test_reset(self) -> None:
        """
        If the client reset the connection, it has ended.
        """
        reset(self.client)
        self.assertEqual(self.come(), [(self.descriptor, True)])

    def test_untouched(self) -> None:
        """
        A connection that was watched is untouched.
        """
        self.client.send(b"x")
        self.firstBytes.come()
        self.firstBytes.remove(self.descriptor)
        self.assertIs(_kernel.untouched(self.accepted), True)
        self.assertEqual(self.accepted.recv(10), b"x")

    def test_noGhost(self) -> None:
        """
        After its removal, a connection is not reported, although another process holds
        it and this one has closed it.
        """
        other = os.dup(self.descriptor)
        self.addCleanup(os.close, other)
        self.firstBytes.remove(self.descriptor)
        self.accepted.close()
        self.client.send(b"x")
        self.assertFalse(self.isReadable())
        self.assertEqual(self.firstBytes.come(), [])

    def test_ghost(self) -> None:
        """
        Without removal, such a connection is reported, and can not be removed any more.
        That is harmless: it is reported once.
        """
        other = os.dup(self.descriptor)
        self.addCleanup(os.close, other)
        self.accepted.close()
        self.firstBytes.remove(self.descriptor)
        self.client.send(b"x")
        self.assertEqual(self.come(), [(self.descriptor, False)])
        self.assertFalse(self.isReadable())

    def test_watchedAgain(self) -> None:
        """
        A connection that was removed can be watched again.
        """
        self.firstBytes.remove(self.descriptor)
        self.firstBytes.add(self.descriptor)
        self.client.send(b"x")
        self.assertEqual(self.come(), [(self.descriptor, False)])

    def test_notPossible(self) -> None:
        """
        If a descriptor can not be watched, that is an L{OSError}.
        """
        with open(__file__, "rb") as file:
            self.assertRaises(OSError, self.firstBytes.add, file.fileno())
