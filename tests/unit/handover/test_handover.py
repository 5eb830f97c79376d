"""
Tests for L{portlisten._handover.handover}, with a successor that is a socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._control.convert import Refusal
from portlisten._control.messages import HandedSocket, Manifest, parseAnswer
from portlisten._handover.handover import (
    READY_SECONDS,
    RUNNING_SECONDS,
    Handed,
    Handover,
    State,
)
from portlisten._handover.messages import (
    MAXIMUM_LINE_BYTES,
    Commit,
    Message,
    Ready,
    Running,
    Stopping,
    decode,
    encode,
)
from tests.support.channels import aMoment, eventually, inReactor
from tests.support.workers import ClockedReactor

READY = Ready((1, 2), ("http",))
COMMIT = Commit(True, (7,))


class Host:
    """
    Notes what the listener is told.

    @ivar told: the names of the methods that were called.
    @ivar transfer: what L{retire} got.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.transfer: socket.socket | None = None
        self.fails = False

    def suspend(self) -> Commit:
        """
        See L{portlisten._handover.handover.IHost}.
        """
        self.told.append("suspend")
        if self.fails:
            raise RuntimeError("a bug")
        return COMMIT

    def resume(self) -> None:
        """
        See L{portlisten._handover.handover.IHost}.
        """
        self.told.append("resume")

    def retire(self, ready: Ready, transfer: socket.socket) -> None:
        """
        See L{portlisten._handover.handover.IHost}.
        """
        assert ready == READY
        self.told.append("retire")
        self.transfer = transfer

    def takeBack(self) -> None:
        """
        See L{portlisten._handover.handover.IHost}.
        """
        self.told.append("takeBack")

    def stop(self) -> None:
        """
        See L{portlisten._handover.handover.IHost}.
        """
        self.told.append("stop")


class HandoverTests(TestCase):
    """
    Tests for L{Handover}.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.reactor = ClockedReactor()
        self.host = Host()
        self.ended: list[None] = []
        ours, self.successor = socket.socketpair()
        self.successor.setblocking(False)
        self.port = socket.socket()
        self.handover = Handover(
            self.reactor, ours, self.host, lambda: self.ended.append(None)
        )
        self.received = b""
        self.descriptors: list[int] = []
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Close everything.
        """
        self.successor.close()
        self.port.close()
        if self.host.transfer is not None:
            self.host.transfer.close()
        for each in self.descriptors:
            os.close(each)
        await self.until(State.ENDED)
        self.reactor.clock.advance(1)
        await aMoment()
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])

    def read(self) -> bool:
        """
        Read what has come.

        @return: whether the end has come.
        """
        try:
            data, descriptors = _kernel.receive(self.successor)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        self.received += data
        self.descriptors += descriptors
        return not data

    async def line(self) -> bytes:
        """
        Wait for a line.
        """

        def has() -> bool:
            self.read()
            return b"\n" in self.received

        await eventually(has)
        line, _, self.received = self.received.partition(b"\n")
        return line

    async def begin(self, sockets: Sequence[Handed] = ()) -> Manifest:
        """
        Begin, and wait for the manifest.
        """
        self.handover.begin(1, 4711, sockets)
        return parseAnswer(await self.line(), Manifest)

    def say(self, message: Message) -> None:
        """
        Send a message.
        """
        self.successor.sendall(encode(message))

    async def until(self, state: State) -> None:
        """
        Wait until the handover has come so far.
        """
        await eventually(lambda: self.handover.state is state)

    async def commit(self) -> None:
        """
        Come so far that nobody accepts.
        """
        await self.begin()
        self.say(READY)
        self.assertEqual(decode(await self.line()), COMMIT)

    async def run_(self) -> None:
        """
        Come so far that the successor serves.
        """
        await self.commit()
        self.say(Running(99))
        await self.until(State.RETIRING)

    async def refused(self, *told: str) -> str:
        """
        The handover has failed, the successor hears why, and the listener goes on.

        @return: what the successor hears.
        """
        line = await self.line()
        error = self.assertRaises(Refusal, decode, line)
        await eventually(self.read)
        self.assertIs(self.handover.state, State.ENDED)
        self.assertEqual((self.host.told, len(self.ended)), ([*told], 1))
        return str(error)

    async def test_manifest(self) -> None:
        """
        The manifest says what each socket is, and the last is the transfer.
        """
        manifest = await self.begin([Handed(self.port, "port")])
        roles = (HandedSocket("port"), HandedSocket("transfer"))
        self.assertEqual(manifest, Manifest(1, 4711, roles))
        same, transfer = self.descriptors
        with socket.socket(fileno=os.dup(same)) as port:
            self.assertEqual(_kernel.cookie(port), _kernel.cookie(self.port))
        self.assertTrue(os.fstat(transfer))
        self.assertIs(self.handover.state, State.OFFERED)
        self.assertEqual(self.host.told, [])

    async def test_all(self) -> None:
        """
        The listener accepts nothing after COMMIT, and retires after RUNNING.  The two
        ends of the transfer are connected.
        """
        await self.run_()
        self.assertEqual(self.host.told, ["suspend", "retire"])
        assert self.host.transfer is not None
        self.host.transfer.send(b"hello")
        with socket.socket(fileno=self.descriptors.pop()) as transfer:
            self.assertEqual(transfer.recv(9), b"hello")
        self.reactor.clock.advance(RUNNING_SECONDS + READY_SECONDS)
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertTrue(self.handover.cancel("too late"))
        self.handover.retired()
        await aMoment()
        self.reactor.clock.advance(0)
        await eventually(self.read)
        self.assertEqual(self.host.told, ["suspend", "retire"])

    async def test_endsBeforeReady(self) -> None:
        """
        If the successor ends before it is ready, nothing has changed.
        """
        await self.begin()
        self.successor.close()
        await self.until(State.ENDED)
        self.assertEqual((self.host.told, len(self.ended)), ([], 1))

    async def test_endsBeforeRunning(self) -> None:
        """
        If it ends before it runs, the listener accepts again.
        """
        await self.commit()
        self.successor.close()
        await self.until(State.ENDED)
        self.assertEqual(self.host.told, ["suspend", "resume"])

    async def test_endsWhileItRuns(self) -> None:
        """
        If it ends when it runs, the listener takes everything back.
        """
        await self.run_()
        self.successor.close()
        await self.until(State.ENDED)
        self.assertEqual(self.host.told, ["suspend", "retire", "takeBack"])
        self.assertEqual(len(self.ended), 1)

    async def test_stops(self) -> None:
        """
        If it is told to stop when it runs, the listener stops as well.
        """
        await self.run_()
        self.say(Stopping())
        await self.until(State.ENDED)
        self.successor.close()
        await aMoment()
        self.assertEqual(self.host.told, ["suspend", "retire", "stop"])

    async def test_notReadyInTime(self) -> None:
        """
        A successor that does not get ready in time hears so.
        """
        await self.begin()
        self.reactor.clock.advance(READY_SECONDS)
        self.reactor.clock.advance(0)
        self.assertIn("does not go on within 60 s", await self.refused())

    async def test_notRunningInTime(self) -> None:
        """
        If it does not run in time, it can never say so afterwards.
        """
        await self.commit()
        self.reactor.clock.advance(RUNNING_SECONDS)
        self.assertRaises(BrokenPipeError, self.say, Running(99))
        self.reactor.clock.advance(0)
        error = await self.refused("suspend", "resume")
        self.assertIn("does not go on within 5 s", error)

    async def test_runningJustInTime(self) -> None:
        """
        What it said before the time was over counts, even if nobody had read it.
        """
        await self.commit()
        self.say(Running(99))
        self.reactor.clock.advance(RUNNING_SECONDS)
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertEqual(self.host.told, ["suspend", "retire"])

    async def test_cancel(self) -> None:
        """
        A listener that is told to stop ends the handover, unless the successor runs.
        """
        await self.commit()
        self.assertFalse(self.handover.cancel("it stops"))
        self.reactor.clock.advance(0)
        self.assertEqual(await self.refused("suspend", "resume"), "it stops")
        self.assertFalse(self.handover.cancel("again"))

    async def test_wrongTime(self) -> None:
        """
        A message at a wrong time ends the handover.
        """
        await self.begin()
        self.say(Running(99))
        await self.until(State.ENDED)
        self.reactor.clock.advance(0)
        self.assertIn("running at a wrong time", await self.refused())

    async def test_nonsense(self) -> None:
        """
        So does nonsense.
        """
        await self.commit()
        self.successor.sendall(b"hello\n")
        await self.until(State.ENDED)
        self.reactor.clock.advance(0)
        self.assertIn("is no JSON", await self.refused("suspend", "resume"))

    async def test_longLine(self) -> None:
        """
        So does too long a line.
        """
        await self.begin()
        left = MAXIMUM_LINE_BYTES + 1

        def send() -> bool:
            nonlocal left
            if self.handover.state is State.ENDED:
                return True
            try:
                left -= self.successor.send(b"x" * min(left, 65536))
            except OSError:
                pass
            return False

        await eventually(send)
        self.reactor.clock.advance(0)
        self.assertIn("too long a line", await self.refused())

    async def test_descriptor(self) -> None:
        """
        So does a descriptor.
        """
        await self.begin()
        try:
            socket.send_fds(self.successor, [b"x"], [self.port.fileno()])
        except PermissionError:
            return  # this kernel refuses it
        await self.until(State.ENDED)
        self.reactor.clock.advance(0)
        self.assertIn("a descriptor", await self.refused())

    async def test_nonsenseWhileItRuns(self) -> None:
        """
        A successor that serves is not given up for nonsense: only its end counts.
        """
        await self.run_()
        self.successor.sendall(b"hello\n")
        await aMoment()
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertEqual(self.host.told, ["suspend", "retire"])

    async def test_bug(self) -> None:
        """
        A bug ends the handover, and the listener goes on.
        """
        self.host.fails = True
        await self.begin()
        self.say(READY)
        await self.until(State.ENDED)
        self.reactor.clock.advance(0)
        self.assertIn("internal error", await self.refused("suspend", "resume"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
