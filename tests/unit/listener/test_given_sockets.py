"""
Tests for L{portlisten._listener.given_sockets}, with a supervisor made by hand.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Stop,
    StopAnswer,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.start import encodeReady
from portlisten._listener import given_sockets
from portlisten._listener.given_sockets import GivenSockets, receiveStart
from portlisten._listener.making import makeListener
from portlisten._model import Kind
from portlisten._policy.source_limits import Limits, Rate
from portlisten._ports.binding import boundElsewhere
from portlisten._process import exits
from tests.support.channels import aMoment, eventually, inReactor
from tests.support.descriptors import descriptors
from tests.support.listeners import keepSignalHandlers

reactor: Any = _reactor


class ServiceTests(TestCase):
    """
    A listener on given sockets, in the real reactor.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        keepSignalHandlers(self)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.bind(self.path)
        self.channel.listen()
        self.channel.setblocking(False)
        tcp = socket.create_server(("127.0.0.1", 0))
        self.supervisor, link = socket.socketpair()
        for each in (self.channel, tcp, self.supervisor):
            self.addCleanup(each.close)
        self.supervisor.setblocking(False)
        self.stops = 0
        self.given = GivenSockets(
            [boundElsewhere([tcp.dup()], "", Kind.CONNECTIONS)],
            self.channel.dup(),
            link,
            self.stop,
        )
        command = exits.Command("listener", {"nodaemon": True}, warnsOfRoot=False)
        settings = ListenerSettings(path=self.path, grace=0.2)
        self.service = makeListener(reactor, command, settings, self.given, 5)
        self.service.privilegedStartService()
        self.service.startService()
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Stop it, and check that the path stays.
        """
        await self.service.stopService()
        self.given.close()
        await aMoment()
        self.assertTrue(os.path.exists(self.path))
        self.assertFalse(os.path.exists(f"{self.path}.ctl"))

    def stop(self) -> None:
        self.stops += 1

    def heard(self) -> bytes:
        """
        Return what the supervisor can read.
        """
        try:
            return self.supervisor.recv(4096)
        except BlockingIOError:
            return b""

    async def test_ready(self) -> None:
        """
        It says that it is ready when it is told to, and then answers.
        """
        self.supervisor.send(encodeRequest(Workers()))
        await aMoment()
        self.assertEqual(self.heard(), b"")
        self.given.sayReady()
        self.assertEqual(self.heard(), encodeReady(os.getpid()))
        said = b""

        def answers() -> bool:
            nonlocal said
            said += self.heard()
            return said == encodeAnswer(WorkersAnswer())

        await eventually(answers)

    async def test_gone(self) -> None:
        """
        If the supervisor is gone, it stops, and the sockets count as kept.
        """
        self.given.sayReady()
        self.supervisor.close()
        await eventually(lambda: self.stops)
        self.assertTrue(self.given.keepsChannel())

    async def test_died(self) -> None:
        """
        If the supervisor has died, this process has another parent, and nobody keeps
        the sockets, whether the end of the link has been seen or not.  No workers come
        any more.
        """
        self.assertTrue(self.given.keepsChannel())
        self.assertTrue(self.given.expectsWorkers())
        self.patch(os, "getppid", lambda: 1)
        self.assertFalse(self.given.keepsChannel())
        self.assertFalse(self.given.expectsWorkers())

    async def test_goneEarlier(self) -> None:
        """
        The supervisor may be gone already.
        """
        self.supervisor.close()
        self.given.sayReady()
        await eventually(lambda: self.stops)

    async def test_final(self) -> None:
        """
        After the request C{stop}, nobody keeps the sockets.
        """
        self.given.sayReady()
        self.supervisor.send(encodeRequest(Stop()))
        await eventually(lambda: self.stops)
        self.assertFalse(self.given.keepsChannel())
        self.assertTrue(self.heard().endswith(encodeAnswer(StopAnswer(os.getpid()))))

    async def test_shutsPort(self) -> None:
        """
        After the request C{stop}, it shuts ports down, since the supervisor holds them
        for a while.  Ports that systemd keeps stay as they are.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            kept = boundElsewhere([sock], "", Kind.CONNECTIONS)
            own = replace(kept, inherited=False)
            for final, seen in (False, (True, False)), (True, (False, True)):
                self.given._final = final
                found = self.given.keepsPort(own), self.given.shutsPort(own)
                self.assertEqual(found, seen)
                self.assertTrue(self.given.keepsPort(kept))
                self.assertFalse(self.given.shutsPort(kept))

    async def test_farewell(self) -> None:
        """
        While it says BYE, it turns no worker away: a worker that connects waits for the
        next listener.
        """
        wire: Any = self.service._wire
        wire._refuseWorkers()
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(self.path)
            await deferLater(reactor, 0.2)
            accepted, _ = self.channel.accept()
            accepted.close()

    async def test_farewellForGood(self) -> None:
        """
        If there is no next listener, it turns workers away.
        """
        self.given._final = True
        wire: Any = self.service._wire
        wire._refuseWorkers()
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(self.path)
            worker.setblocking(False)
            heard: list[bytes] = []

            def hears() -> bool:
                try:
                    heard.append(worker.recv(4096))
                except BlockingIOError:
                    pass
                return b"the listener stops" in b"".join(heard)

            await eventually(hears)


class ReceiveStartTests(SynchronousTestCase):
    """
    The start message, with sockets.
    """

    def setUp(self) -> None:
        self.supervisor, self.link = socket.socketpair()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.bind(os.path.join(os.path.dirname(self.mktemp()), "path"))
        self.channel.listen()
        for each in (self.supervisor, self.link, self.tcp, self.udp, self.channel):
            self.addCleanup(each.close)
        number = self.tcp.getsockname()[1]
        self.message: dict[str, Any] = {
            "version": 1,
            "settings": {"path": "/s"},
            "ports": [
                {
                    "name": "http",
                    "kind": "CONNECTIONS",
                    "address": f"tcp:127.0.0.1:{number}",
                    "sockets": 1,
                    "kept": True,
                    "limits": "rate=5/s burst 9",
                },
                {
                    "name": "",
                    "kind": "DATAGRAMS",
                    "address": f"udp:127.0.0.1:{self.udp.getsockname()[1]}",
                    "sockets": 1,
                },
            ],
            "channel": 2,
        }

    def send(self, *sockets: socket.socket) -> None:
        """
        Send the message, with some descriptors.
        """
        numbers = [each.fileno() for each in sockets]
        line = json.dumps(self.message).encode() + b"\n"
        _kernel.send(self.supervisor, line[:5], numbers[:1])
        _kernel.send(self.supervisor, line[5:], numbers[1:])

    def refusal(self, *sockets: socket.socket) -> str:
        """
        Send the message, and expect that it is refused, and nothing stays open.
        """
        self.send(*sockets)
        before = descriptors()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertEqual(descriptors(), before)
        return str(error)

    def test_taken(self) -> None:
        """
        Each socket gets to its place, and all are closed if nobody takes them.
        """
        before = descriptors()
        self.send(self.tcp, self.udp, self.channel)
        message, given = receiveStart(self.link)
        self.assertEqual(message.settings.path, "/s")
        http, dns = given.bindPorts(0)
        self.assertEqual((http.name, http.kind), ("http", Kind.CONNECTIONS))
        self.assertEqual((dns.name, dns.kind), ("", Kind.DATAGRAMS))
        self.assertEqual(http.socket.getsockname(), self.tcp.getsockname())
        self.assertEqual(dns.socket.getsockname(), self.udp.getsockname())
        self.assertEqual((http.inherited, dns.inherited), (True, False))
        self.assertEqual(http.limits, Limits(rate=Rate(5.0, 9), fair=False))
        self.assertIsNone(dns.limits)
        self.assertEqual(http.socket.gettimeout(), 0)
        path = given.bindChannel()
        self.assertFalse(path.remove())
        self.assertTrue(os.path.exists(self.channel.getsockname()))
        self.assertEqual(path.socket.getsockname(), self.channel.getsockname())
        self.assertFalse(path.socket.get_inheritable())
        for each in (http.socket, dns.socket, path.socket):
            each.close()
        self.send(self.tcp, self.udp, self.channel)
        _, given = receiveStart(self.link)
        given.close()
        given.close()
        self.assertEqual(self.link.fileno(), -1)
        self.assertEqual(
            len(descriptors()), len(before) - 1, "the link was closed, and all else"
        )

    def test_count(self) -> None:
        """
        There must be as many descriptors as the message says.
        """
        self.assertIn("2 descriptors came", self.refusal(self.tcp, self.channel))
        more = [self.tcp, self.udp, self.channel, self.channel]
        self.assertIn("4 descriptors came", self.refusal(*more))

    def test_order(self) -> None:
        """
        Each must be what the message says.
        """
        for sockets, expected in [
            ([self.udp, self.tcp, self.channel], "it is no listening socket"),
            ([self.tcp, self.tcp, self.channel], "it is no UDP socket"),
            ([self.channel, self.udp, self.tcp], "is bound to unix:"),
            ([self.tcp, self.udp, self.tcp], "no Unix socket that listens"),
            ([self.tcp, self.udp, self.supervisor], "no Unix socket that listens"),
            ([self.tcp, self.udp, self.udp], "no Unix socket that listens"),
        ]:
            self.assertIn(expected, self.refusal(*sockets))

    def test_noSocket(self) -> None:
        """
        Each must be a socket.
        """
        reader, writer = os.pipe()
        line = json.dumps(self.message).encode() + b"\n"
        sent = [self.tcp.fileno(), reader, self.channel.fileno()]
        _kernel.send(self.supervisor, line, sent)
        before = descriptors()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("leads to no socket", str(error))
        self.assertEqual(descriptors(), before)
        os.close(reader)
        os.close(writer)

    def test_more(self) -> None:
        """
        Nothing may follow before the answer.
        """
        line = json.dumps(self.message).encode() + b"\n{"
        sent = [each.fileno() for each in (self.tcp, self.udp, self.channel)]
        _kernel.send(self.supervisor, line, sent)
        before = descriptors()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("more than the start message came", str(error))
        self.assertEqual(descriptors(), before)

    def test_late(self) -> None:
        """
        The message must come in time.
        """
        self.patch(given_sockets, "START_SECONDS", 0.02)
        _kernel.send(self.supervisor, b"{", [self.tcp.fileno()])
        before = descriptors()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("no start message within 0.02 s", str(error))
        self.assertEqual(descriptors(), before)

    def test_long(self) -> None:
        """
        The message has a limit.
        """
        self.patch(given_sockets, "MAXIMUM_START_BYTES", 100)
        self.supervisor.send(b" " * 101)
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("too long", str(error))

    def test_closed(self) -> None:
        """
        The supervisor may die first.
        """
        self.supervisor.close()
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn("the supervisor closed the link", str(error))
