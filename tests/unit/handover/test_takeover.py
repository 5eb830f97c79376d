"""
Tests for L{portlisten._handover.takeover}.  The predecessor's bytes are in the kernel
before they are read.
"""

from __future__ import annotations

import os
import socket

from portlisten import _kernel
from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    Replace,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from portlisten._handover.messages import (
    MAXIMUM_LINE_BYTES,
)
from portlisten.errors import ToldToStop
from tests.support.sockets import listening, pair
from tests.support.takeovers import TakeoverTestCase


class AskTests(TakeoverTestCase):
    """
    Tests for L{Takeover.ask}.
    """

    def closed(self) -> bool:
        """
        Whether the takeover has closed its end.
        """
        return self.takeover.link.fileno() == -1

    def refused(self) -> str:
        """
        L{Takeover.ask} fails, and everything is closed.
        """
        text = self.fails(self.takeover.ask)
        self.assertTrue(self.closed())
        self.assertEqual(self.takeover.given, {})
        return text

    def test_request(self) -> None:
        """
        The request has the versions.
        """
        self.answer("transfer")
        self.takeover.ask()
        (line,) = self.heard()
        self.assertEqual(parseRequest(line), Replace(("2", "1")))

    def test_sockets(self) -> None:
        """
        The sockets come by their roles, in their order.
        """
        sockets = [listening(self) for _ in range(3)] + [pair(self)[0]]
        self.answer("port", "channel", "port", "transfer", sockets=sockets)
        self.assertIs(self.takeover.ask(), True)
        self.assertEqual(self.takeover.pid, 4711)
        ports = self.takeover.take("port")
        self.assertEqual(
            [each.getsockname() for each in ports],
            [sockets[0].getsockname(), sockets[2].getsockname()],
        )
        self.assertEqual([each.gettimeout() for each in ports], [0, 0])
        self.assertEqual([each.get_inheritable() for each in ports], [False] * 2)
        self.assertEqual(self.takeover.take("port"), [])
        self.assertEqual(self.takeover.take("control"), [])
        for each in ports:
            each.close()

    def test_manySockets(self) -> None:
        """
        More sockets come than fit into one message of the kernel.
        """
        count = _kernel.MAXIMUM_DESCRIPTORS + 5
        port = listening(self)
        roles = tuple([HandedSocket("port")] * (count - 1) + [HandedSocket("transfer")])
        data = encodeAnswer(Manifest(1, 4711, roles))
        descriptors = [port.fileno()] * count
        first = descriptors[: _kernel.MAXIMUM_DESCRIPTORS]
        socket.send_fds(self.peer, [data[:1]], first)
        socket.send_fds(self.peer, [data[1:]], descriptors[len(first) :])
        self.assertIs(self.takeover.ask(), True)
        self.assertEqual(len(self.takeover.given["port"]), count - 1)

    def test_dead(self) -> None:
        """
        If the predecessor has ended before the request, there is none.
        """
        self.peer.close()
        self.assertIs(self.takeover.ask(), False)
        self.assertTrue(self.closed())

    def test_diesBeforeTheAnswer(self) -> None:
        """
        If the predecessor ends before it answers, there is none.
        """
        self.say(b'{"version"')
        self.peer.shutdown(socket.SHUT_WR)
        self.assertIs(self.takeover.ask(), False)
        self.assertTrue(self.closed())

    def test_refused(self) -> None:
        """
        The predecessor may refuse, and say why.
        """
        self.say(encodeError("not now"))
        self.assertEqual(self.refused(), ": not now")

    def test_refusedAndClosed(self) -> None:
        """
        The predecessor's reason is heard if it has closed before the request.
        """
        self.say(encodeError("not now"))
        self.peer.close()
        self.assertEqual(self.refused(), ": not now")

    def test_older(self) -> None:
        """
        A predecessor of an older release does not know the request.
        """
        self.say(encodeError("unknown command: replace"))
        self.assertEqual(
            self.refused(),
            ": it is of a release that cannot be replaced while it serves: stop it, and"
            " start this one without --replace",
        )

    def test_noManifest(self) -> None:
        """
        Another answer is an error.
        """
        self.say(b'{"version": 1}\n')
        self.refused()

    def test_noAnswer(self) -> None:
        """
        Bytes that are no answer are an error.
        """
        self.say(b"\xff\n")
        self.refused()

    def test_tooLong(self) -> None:
        """
        The answer has a limit.
        """
        self.takeover._reader._received = b"x" * (MAXIMUM_LINE_BYTES + 1)
        self.assertIn("a line of more than", self.refused())

    def test_hangs(self) -> None:
        """
        If the predecessor does not answer in time, it may be stopped.
        """
        self.patience(0.02)
        self.assertEqual(
            self.refused(),
            ": it does not answer within 0.02 s: see whether it is stopped",
        )

    def test_told(self) -> None:
        """
        The wait ends if this process is told to stop.
        """
        self.told = True
        self.assertRaises(ToldToStop, self.takeover.ask)
        self.assertTrue(self.closed())

    def test_doesNotRead(self) -> None:
        """
        If the request does not fit the buffer, the predecessor does not read.
        """
        self.fill()
        self.assertEqual(self.refused(), ": it does not read what it is sent")

    def fill(self) -> None:
        """
        Let nothing more fit the buffer.
        """
        try:
            while True:
                self.takeover.link.send(bytes(65536))
        except BlockingIOError:
            pass

    def test_fitsInPart(self) -> None:
        """
        So it is if the request fits in part.
        """
        self.patch(_kernel, "send", lambda sock, data, descriptors: len(data) - 1)
        self.assertEqual(self.refused(), ": it does not read what it is sent")

    def test_tooFew(self) -> None:
        """
        If this process has too few descriptors, fewer sockets come.
        """
        self.answer("port", "port", "transfer", sockets=[listening(self)])
        self.assertEqual(
            self.refused(),
            " (pid 4711): 1 of its 3 sockets came: this process may have too few"
            " descriptors (ulimit -n)",
        )

    def test_tooMany(self) -> None:
        """
        More sockets than the answer names are an error.
        """
        self.answer("transfer", sockets=pair(self))
        self.assertIn("2 of its 1 sockets came", self.refused())

    def test_noSocket(self) -> None:
        """
        A descriptor that leads to no socket is an error, and all are closed.
        """
        ends = os.pipe()
        roles = (HandedSocket("port"), HandedSocket("port"), HandedSocket("transfer"))
        data = encodeAnswer(Manifest(1, 4711, roles))
        socket.send_fds(self.peer, [data], [listening(self).fileno(), *ends])
        for each in ends:
            os.close(each)
        self.assertIn("a descriptor leads to no socket: ", self.refusedButGiven())

    def refusedButGiven(self) -> str:
        """
        L{Takeover.ask} fails after sockets were taken, and all are closed.
        """
        text = self.fails(self.takeover.ask)
        self.assertTrue(self.closed())
        return text

    def test_noTransfer(self) -> None:
        """
        An answer without a socket for what waits is an error.
        """
        self.answer("port")
        self.assertIn("no socket for what waits", self.refusedButGiven())

    def test_twoTransfers(self) -> None:
        """
        A second socket for what waits is closed, like one of an unknown role.
        """
        self.answer("transfer", "transfer", "later")
        self.assertIs(self.takeover.ask(), True)
        self.takeover.close()
        self.takeover.close()
