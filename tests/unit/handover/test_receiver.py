"""
Tests for L{portlisten._handover.receiver} and L{portlisten._handover.successors}.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._handover.messages import Stopping, encode
from portlisten._handover.receiver import Receiver
from portlisten._handover.successors import Successors
from portlisten._handover.takeover import Transfer
from portlisten._model import InternetAddress, Kind, Port
from portlisten._ports.accepting import Accepted
from portlisten._wire import frames
from portlisten._wire.codec import FROM_WORKER, Decoder
from portlisten._wire.codec import encode as encodeFrame
from portlisten._wire.frames import Bye, Claim, Frame, ListenerHello, Offer, WorkerHello
from tests.support.channels import aMoment, eventually, inReactor, tcpPair


def port(number: int, address: int, name: str, kind: Kind = Kind.CONNECTIONS) -> Port:
    """
    Make a port of this host.
    """
    return Port(number, InternetAddress("TCP", "127.0.0.1", address), name, kind)


#: The ports of the predecessor, and of its successor.
BEFORE = (
    port(0, 80, "http"),
    port(1, 81, "http"),
    port(2, 443, "https"),
    port(3, 53, "dns", Kind.LISTENER),
)
AFTER = (port(0, 443, "https"), port(1, 82, "http"), port(2, 81, "http"))


class ReceiverTests(TestCase):
    """
    Tests for L{Receiver}, with a predecessor that is made of bytes.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        link, self.link = socket.socketpair()
        channel, self.channel = socket.socketpair()
        self.channel.setblocking(False)
        self.decoder = Decoder(FROM_WORKER)
        self.frames: list[Frame] = []
        self.accepted: list[tuple[Port, Sequence[Accepted], float]] = []
        self.receiver = Receiver(
            reactor, Transfer(link, channel, 4711), AFTER, self.accept
        )
        self.addCleanup(self.end)

    def accept(self, port: Port, batch: Sequence[Accepted], waited: float) -> None:
        """
        Note connections.
        """
        self.accepted.append((port, batch, waited))

    async def end(self) -> None:
        """
        Close everything.
        """
        self.link.close()
        self.channel.close()
        await eventually(lambda: not self.receiver.receives)
        await aMoment()
        self.receiver.close()
        for _, batch, _ in self.accepted:
            for sock, _ in batch:
                sock.close()

    def begin(self) -> None:
        """
        Begin, and let the predecessor say HELLO.
        """
        self.receiver.start()
        self.channel.send(encodeFrame(ListenerHello(8, BEFORE)))

    def offer(self, id: int, number: int, waited: int = 0) -> socket.socket:
        """
        Offer a connection.

        @return: its client.
        """
        client, sock = tcpPair()
        self.addCleanup(client.close)
        with sock:
            offer = encodeFrame(Offer(id, number, _kernel.cookie(sock), waited))
            _kernel.send(self.channel, offer, [sock.fileno()])
        return client

    async def heard(self, kind: type[Frame]) -> Frame:
        """
        Wait for a frame.
        """

        def has() -> bool:
            try:
                self.frames += self.decoder.feed(self.channel.recv(65536))
            except BlockingIOError:
                pass
            return any(isinstance(each, kind) for each in self.frames)

        await eventually(has)
        found = next(each for each in self.frames if isinstance(each, kind))
        self.frames.remove(found)
        return found

    async def test_joins(self) -> None:
        """
        The successor joins as a worker of all names and kinds.
        """
        self.begin()
        hello = await self.heard(WorkerHello)
        assert isinstance(hello, WorkerHello)
        self.assertEqual(hello.names, ())
        self.assertEqual(
            hello.takes, {Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP, Kind.DATAGRAMS}
        )

    async def test_connection(self) -> None:
        """
        A connection is claimed, and comes by the port of the same address and name,
        with the time that it has waited.
        """
        self.begin()
        for id, number in enumerate([2, 1], 1):
            client = self.offer(id, number, 250 * id)
            await eventually(lambda: len(self.accepted) == id)  # noqa: B023
            found, ((_, address),), waited = self.accepted[-1]
            self.assertEqual(found, AFTER[0] if number == 2 else AFTER[2])
            self.assertEqual(address, client.getsockname())
            self.assertEqual(waited, 2.5 * id)
            self.assertEqual(await self.heard(Claim), Claim((id,)))
        self.assertEqual(self.receiver.count, 2)

    async def test_otherPort(self) -> None:
        """
        If the port is gone, it comes by another one of the same name.
        """
        self.begin()
        self.offer(1, 0)
        await eventually(lambda: self.accepted)
        self.assertEqual(self.accepted[0][0], AFTER[1])

    async def test_noPort(self) -> None:
        """
        If none has the name, it is closed.
        """
        self.begin()
        client = self.offer(1, 3)
        client.setblocking(False)

        def closed() -> bool:
            try:
                return client.recv(1) == b""
            except BlockingIOError:
                return False

        await eventually(closed)
        self.assertEqual(self.accepted, [])

    async def test_clientGone(self) -> None:
        """
        Its client may have left.
        """
        self.begin()
        client, sock = tcpPair()
        client.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + b"\0\0\0\0"
        )
        client.close()
        await aMoment()
        with sock:
            offer = encodeFrame(Offer(1, 2, _kernel.cookie(sock)))
            _kernel.send(self.channel, offer, [sock.fileno()])
        await eventually(lambda: self.accepted)
        self.assertIsNone(self.accepted[0][1][0][1])

    async def test_sharedSocket(self) -> None:
        """
        A shared socket is closed: it came with the manifest.
        """
        self.begin()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            frame = encodeFrame(frames.Listener(3, _kernel.cookie(sock)))
            _kernel.send(self.channel, frame, [sock.fileno()])
            await aMoment()
        self.assertTrue(self.receiver.receives)

    async def test_done(self) -> None:
        """
        BYE ends it.
        """
        self.begin()
        await self.heard(WorkerHello)
        self.channel.send(encodeFrame(Bye("all is handed over")))
        self.channel.close()
        await eventually(lambda: not self.receiver.receives)

    async def test_dies(self) -> None:
        """
        So does the end of the predecessor.
        """
        self.begin()
        await self.heard(WorkerHello)
        self.channel.close()
        await eventually(lambda: not self.receiver.receives)

    async def test_stop(self) -> None:
        """
        A listener that is told to stop says so.
        """
        self.begin()
        self.receiver.stop()
        self.assertEqual(self.link.recv(99), encode(Stopping()))

    async def test_close(self) -> None:
        """
        When the listener ends, the predecessor sees the end of the link.
        """
        self.begin()
        await self.heard(WorkerHello)
        self.receiver.close()
        self.receiver.close()
        self.receiver.stop()
        self.link.setblocking(False)

        def ended() -> bool:
            try:
                return self.link.recv(99) == b""
            except BlockingIOError:
                return False

        await eventually(ended)


class SuccessorsTests(TestCase):
    """
    Tests for L{Successors}.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        ours, self.supervisor = socket.socketpair()
        self.served: list[socket.socket] = []
        self.fails = False
        Successors(self.serve).listen(reactor, ours)
        self.addCleanup(self.end)

    def serve(self, sock: socket.socket, ended: Callable[[], Any]) -> None:
        """
        Note a connection.
        """
        if self.fails:
            sock.close()
            raise OSError(24, "no descriptors")
        ended()
        self.served.append(sock)

    async def end(self) -> None:
        """
        Close everything.
        """
        self.supervisor.close()
        for each in self.served:
            each.close()
        await aMoment()

    async def test_connections(self) -> None:
        """
        Each connection is served.
        """
        for count in (1, 2):
            one, other = socket.socketpair()
            with one, other:
                socket.send_fds(self.supervisor, [b"\n"], [other.fileno()])
                await eventually(lambda: len(self.served) == count)  # noqa: B023

    async def test_noSocket(self) -> None:
        """
        What is no socket is closed.
        """
        with open(os.devnull) as file:
            socket.send_fds(self.supervisor, [b"\n"], [file.fileno()])
        await aMoment()
        self.assertEqual(self.served, [])

    async def test_fails(self) -> None:
        """
        If a connection cannot be served, the next one may be.
        """
        self.fails = True
        with socket.socket() as sock:
            socket.send_fds(self.supervisor, [b"\n"], [sock.fileno()])
            await aMoment()
            self.fails = False
            socket.send_fds(self.supervisor, [b"\n"], [sock.fileno()])
            await eventually(lambda: self.served)
