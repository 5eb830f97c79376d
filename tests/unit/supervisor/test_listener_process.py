"""
Tests for L{portlisten._supervisor.listener_process}, with processes made by hand.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._control.start import encodeReady, parseStart
from portlisten._ports.binding import bind
from portlisten._ports.parsing import parse
from portlisten._supervisor.listener_process import ListenerProcess
from portlisten.errors import CannotRun
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.unit.supervisor.test_listener import FakeListener


class ListenerProcessTests(SynchronousTestCase):
    """
    Tests for L{ListenerProcess}.
    """

    def setUp(self) -> None:
        """
        Bind a port, and the path that workers connect to.
        """
        watchDescriptors(self)
        self.clock = ReadingClock()
        self.events: list[str] = []
        self.ports = bind(parse("http=tcp:0:interface=127.0.0.1", 5))
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.bind("")
        self.channel.listen()
        self.addCleanup(self.channel.close)
        for port in self.ports:
            self.addCleanup(port.close)
        self.descriptors: list[int] = []
        self.addCleanup(self.closeDescriptors)

    def closeDescriptors(self) -> None:
        """
        Close what came.
        """
        for each in self.descriptors:
            os.close(each)

    def start(self) -> tuple[ListenerProcess, Any]:
        """
        Start a process.

        @return: it, as the supervisor sees it, and as the test drives it.
        """
        made = ListenerProcess(
            self.clock,
            None,
            lambda process: self.events.append("accepts"),
            lambda process: self.events.append("ended"),
            lambda process, reason: self.events.append(reason),
            FakeListener,  # type: ignore[arg-type]
        )
        process: Any = made.process
        self.addCleanup(self.clock.advance, 0)
        self.addCleanup(made.close)
        self.addCleanup(process.link.close)
        return made, process

    def hears(self, sock: socket.socket) -> tuple[bytes, list[int]]:
        """
        What has come, and the descriptors, which the test closes.
        """
        data, descriptors = _kernel.receive(sock)
        self.descriptors += descriptors
        return data, descriptors

    def sendStart(
        self, made: ListenerProcess, predecessor: ListenerProcess | None = None
    ) -> None:
        """
        Let a process start.
        """
        settings = ListenerSettings(path="/run/s")
        made.sendStart(settings, self.ports, self.channel, predecessor)

    def start_(self, process: Any) -> tuple[tuple[str, ...], list[socket.socket]]:
        """
        Read the start message.

        @return: the names of the links, and the links.
        """
        data = b""
        came: list[int] = []
        while b"\n" not in data:
            more, descriptors = _kernel.receive(process.link)
            data += more
            came += descriptors
            self.clock.read()
        message = parseStart(data)
        sockets = [socket.socket(fileno=each) for each in came]
        for each in sockets:
            self.addCleanup(each.close)
        return message.links, sockets[message.channel + 1 :]

    def test_successors(self) -> None:
        """
        A process gets a connection by which its successors come.
        """
        made, process = self.start()
        self.sendStart(made)
        names, (successors,) = self.start_(process)
        self.assertEqual(names, ("successors",))
        other = made.introduce()
        self.addCleanup(other.close)
        _, (descriptor,) = self.hears(successors)
        other.send(b"hello")
        self.assertEqual(os.read(descriptor, 9), b"hello")

    def test_predecessor(self) -> None:
        """
        A successor gets a connection to its predecessor, which gets the other end.
        """
        old, oldProcess = self.start()
        self.sendStart(old)
        _, (successors,) = self.start_(oldProcess)
        new, newProcess = self.start()
        self.sendStart(new, old)
        names, (_, predecessor) = self.start_(newProcess)
        self.assertEqual(names, ("successors", "predecessor"))
        _, (descriptor,) = self.hears(successors)
        predecessor.send(b"replace")
        self.assertEqual(os.read(descriptor, 9), b"replace")

    def test_predecessorGone(self) -> None:
        """
        If the predecessor cannot be told, nothing is sent.
        """
        old, _ = self.start()
        old.close()
        new, process = self.start()
        self.assertRaises(OSError, self.sendStart, new, old)
        self.assertRaises(BlockingIOError, _kernel.receive, process.link)

    def test_full(self) -> None:
        """
        If the predecessor does not read, it cannot be told, and nothing stays open.
        """
        old, _ = self.start()
        made = []
        with self.assertRaises(OSError):
            for _ in range(5000):
                made.append(old.introduce())
        for each in made:
            each.close()

    def test_ready(self) -> None:
        """
        When it accepts, what it was sent is closed here.
        """
        made, process = self.start()
        self.sendStart(made)
        self.start_(process)
        self.assertEqual(len(made._sent), 1)
        process.link.send(encodeReady(7))
        self.clock.read()
        self.assertEqual((self.events, made._sent), (["accepts"], []))

    def test_noLink(self) -> None:
        """
        If no connection can be made to it, it cannot be started, and nothing is left.
        """
        pair = socket.socketpair
        for working in (0, 1):
            left = working

            def scarce() -> tuple[socket.socket, socket.socket]:
                nonlocal left
                if not left:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                left -= 1
                return pair()

            patch = self.patch(socket, "socketpair", scarce)
            error = self.assertRaises(CannotRun, self.start)
            self.assertEqual(
                str(error), "no link to it can be made: Too many open files"
            )
            patch.restore()

    def test_cannotStart(self) -> None:
        """
        So it is if the process cannot be started.
        """
        self.patch(FakeListener, "failure", "no such program")
        self.assertRaises(CannotRun, self.start)
        self.clock.advance(0)

    def test_closed(self) -> None:
        """
        If it is closed, the process finds out by its link, and its successors by
        theirs.
        """
        made, process = self.start()
        self.sendStart(made)
        _, (successors,) = self.start_(process)
        made.close()
        made.close()
        self.clock.advance(0)
        self.assertEqual(self.hears(successors)[0], b"")
        self.assertEqual(self.hears(process.link)[0], b"")
