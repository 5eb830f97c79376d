"""
Tests for L{portlisten._listener.given_sockets}: the connections to a predecessor, and
to successors.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeError,
    encodeRequest,
)
from portlisten._handover.messages import Commit, encode
from portlisten._listener.given_sockets import GivenSockets, receiveStart
from portlisten._model import Kind
from portlisten._ports.binding import BoundPort, boundElsewhere
from portlisten.errors import CannotTakeOver
from tests.support.channels import PATIENCE
from tests.support.clocks import ReadingClock
from tests.support.descriptors import descriptors, watchDescriptors
from tests.support.handovers import closed
from tests.support.sockets import pair

COMMIT = Commit(True, (5,))


class LinksTestCase(SynchronousTestCase):
    """
    A port, and the path that workers connect to.
    """

    def setUp(self) -> None:
        """
        Bind them.
        """
        watchDescriptors(self)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.bind(b"")
        self.channel.listen()
        self.supervisor, self.link = pair(self)
        for each in (self.tcp, self.channel):
            self.addCleanup(each.close)

    def given(self, **links: socket.socket) -> GivenSockets:
        """
        Make what a listener has.
        """
        made = GivenSockets([], self.channel.dup(), self.link, **links)  # type: ignore[arg-type]
        self.addCleanup(made.close)
        return made

    def port(self) -> BoundPort:
        """
        Describe the port.
        """
        return boundElsewhere([self.tcp], "a", Kind.CONNECTIONS)


class StartTests(LinksTestCase):
    """
    The links come with the start message.
    """

    def send(self, links: list[str], *more: int) -> None:
        """
        Send a start message.
        """
        port = {
            "name": "a",
            "kind": "CONNECTIONS",
            "address": f"tcp:127.0.0.1:{self.tcp.getsockname()[1]}",
            "sockets": 1,
        }
        message = {
            "version": 1,
            "settings": {"path": "/s"},
            "ports": [port],
            "channel": 1,
            "links": links,
        }
        line = json.dumps(message).encode() + b"\n"
        numbers = [self.tcp.fileno(), self.channel.fileno(), *more]
        _kernel.send(self.supervisor, line, numbers)

    def test_links(self) -> None:
        """
        Both get to their places, and are closed if nobody takes them.
        """
        ends = pair(self)
        self.send(["successors", "predecessor"], *(each.fileno() for each in ends))
        message, given = receiveStart(self.link)
        self.assertEqual(message.links, ("successors", "predecessor"))
        found = given._successors, given._predecessor
        given.close()
        self.assertEqual([closed(each) for each in found], [True, True])

    def test_none(self) -> None:
        """
        An older supervisor sends none.
        """
        self.send([])
        _, given = receiveStart(self.link)
        self.assertIsNone(given.takeOver([]))
        given.close()

    def test_noSocket(self) -> None:
        """
        If one leads to no socket, nothing stays open, and nothing is closed twice.
        """
        ends = os.pipe()
        self.send(["successors", "predecessor"], pair(self)[0].fileno(), ends[0])
        before = descriptors()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("a descriptor leads to no socket", str(error))
        self.assertEqual(descriptors(), before)
        for each in ends:
            os.close(each)

    def test_wrongPort(self) -> None:
        """
        So it is if a port is wrong.
        """
        self.channel, kept = self.tcp, self.channel
        self.send(["successors"], pair(self)[0].fileno())
        self.channel = kept
        before = descriptors()
        self.assertRaises(ControlError, receiveStart, self.link)
        self.assertEqual(descriptors(), before)


class TakeOverTests(LinksTestCase):
    """
    Tests for L{GivenSockets.takeOver}.
    """

    def predecessor(self, talk: Callable[[socket.socket], None]) -> socket.socket:
        """
        Let a predecessor talk in a thread.

        @return: the connection to it.
        """
        ours, theirs = socket.socketpair()
        theirs.settimeout(PATIENCE)

        def run() -> None:
            with theirs:
                theirs.recv(65536)  # the request
                talk(theirs)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(ours.close)
        return ours

    def send(self, sock: socket.socket) -> None:
        """
        Send a manifest with the transfer alone.
        """
        one, other = socket.socketpair()
        data = encodeAnswer(Manifest(1, 4711, (HandedSocket("transfer"),)))
        socket.send_fds(sock, [data], [one.fileno()])
        one.close()
        other.close()

    def test_takesOver(self) -> None:
        """
        It takes over from the listener that the supervisor names.
        """
        heard: list[bytes] = []

        def talk(sock: socket.socket) -> None:
            self.send(sock)
            heard.append(sock.recv(65536))
            sock.sendall(encode(COMMIT))
            heard.append(sock.recv(65536))

        given = self.given(predecessor=self.predecessor(talk))
        taken = given.takeOver([self.port()])
        assert taken is not None
        self.assertEqual((taken[0], taken[1].pid), (COMMIT, 4711))
        taken[1].close()
        self.assertIsNone(given.takeOver([self.port()]))
        given.settle()
        given.disown()

    def test_dead(self) -> None:
        """
        If that one is dead, this one serves alone.
        """
        given = self.given(predecessor=self.predecessor(lambda sock: None))
        self.assertIsNone(given.takeOver([self.port()]))

    def test_refuses(self) -> None:
        """
        If it refuses, this one does not start.
        """

        def talk(sock: socket.socket) -> None:
            sock.sendall(encodeError("not now"))

        given = self.given(predecessor=self.predecessor(talk))
        error = self.assertRaises(CannotTakeOver, given.takeOver, [self.port()])
        self.assertEqual(
            str(error),
            "cannot take over from the listener before this one: not now; it goes on",
        )

    def test_refusesLate(self) -> None:
        """
        It may refuse later, too, and then all is closed.
        """

        def talk(sock: socket.socket) -> None:
            self.send(sock)
            sock.recv(65536)
            sock.sendall(encodeError("too late"))

        given = self.given(predecessor=self.predecessor(talk))
        error = self.assertRaises(CannotTakeOver, given.takeOver, [self.port()])
        self.assertIn("(pid 4711): too late", str(error))


class SuccessorsTests(LinksTestCase):
    """
    Successors come from the supervisor.
    """

    def test_answers(self) -> None:
        """
        When it is ready, each of them is answered as at a control socket.
        """
        clock = ReadingClock()
        supervisor, theirs = pair(self)
        given = self.given(successors=theirs)
        asked: list[Any] = []

        def answer(request: Any, client: _kernel.Credentials) -> WorkersAnswer:
            asked.append(request)
            return WorkersAnswer()

        server = given.startControl(clock, {Workers: answer})
        assert server is not None
        successor, other = pair(self)
        socket.send_fds(supervisor, [b"\n"], [other.fileno()])
        clock.read()
        successor.send(encodeRequest(Workers()))
        clock.read()
        self.assertEqual(asked, [])
        given.sayReady()
        for _ in range(3):
            clock.read()
            clock.advance(0)
        self.assertEqual(asked, [Workers()])
        self.assertEqual(successor.recv(999), encodeAnswer(WorkersAnswer()))
        server.close()
        supervisor.close()
        clock.read()
        clock.advance(0)
        self.assertEqual(clock.readers, [])

    def test_handed(self) -> None:
        """
        They get no sockets from it: the supervisor has given them.
        """
        self.assertEqual(self.given().handed([self.port()]), [])
