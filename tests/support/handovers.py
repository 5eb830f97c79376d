"""
The predecessor's end of a handover, whose successor is spoken by hand.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._handover.handover import Handed, Handover, State
from portlisten._handover.messages import Commit, Message, Ready, Running, encode
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors

COMMIT = Commit(True, (17,))
READY = Ready((5, 6), ("http",))


class RecordingHost:
    """
    A listener that notes what it is told to do.

    @ivar calls: what it was told, without the first call of a handover's end.
    @ivar transfer: what it got for those that wait.
    @ivar failing: which of its methods raises an error.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ready: Ready | None = None
        self.transfer: socket.socket | None = None
        self.failing = ""

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing:
            raise ValueError("a bug of the test's")

    def suspend(self) -> Commit:
        """
        See L{IHost}.
        """
        self._note("suspend")
        return COMMIT

    def resume(self) -> None:
        """
        See L{IHost}.
        """
        self._note("resume")

    def retire(self, ready: Ready, transfer: socket.socket) -> None:
        """
        See L{IHost}.
        """
        self.ready = ready
        self.transfer = transfer
        self._note("retire")

    def takeBack(self) -> None:
        """
        See L{IHost}.
        """
        self._note("takeBack")

    def stop(self) -> None:
        """
        See L{IHost}.
        """
        self._note("stop")

    def ended(self) -> None:
        """
        The handover is over.
        """
        self._note("ended")


class HandoverTestCase(SynchronousTestCase):
    """
    A L{Handover}, and the other end of its connection.

    @ivar received: the bytes that the successor has read.
    @ivar descriptors: the descriptors that came with them.
    """

    def setUp(self) -> None:
        """
        Connect both, and begin.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.host = RecordingHost()
        self.sock, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.received = b""
        self.descriptors: list[int] = []
        self.addCleanup(self.cleanUp)
        self.handover = Handover(self.clock, self.sock, self.host, self.host.ended)

    def cleanUp(self) -> None:
        """
        End the handover, and close what is the test's.
        """
        if self.handover.state is not State.ASKED:
            self.handover.cancel("the test ends")
            self.handover.retired()
        self.clock.advance(0)
        for each in self.descriptors:
            os.close(each)
        if self.host.transfer is not None:
            self.host.transfer.close()
        self.peer.close()
        self.sock.close()

    def begin(self, *handed: Handed) -> None:
        """
        Offer sockets.
        """
        self.handover.begin(1, os.getpid(), handed)

    def say(self, *messages: Message | bytes) -> None:
        """
        Let the successor write, and the predecessor read.
        """
        self.write(*messages)
        self.turn()

    def write(self, *messages: Message | bytes) -> None:
        """
        Let the successor write.
        """
        data = [each if isinstance(each, bytes) else encode(each) for each in messages]
        self.peer.send(b"".join(data))

    def turn(self) -> None:
        """
        Let the predecessor read and write, and make the calls that are due.
        """
        # If the other end has closed with bytes unread, only the second read tells.
        for _ in range(2):
            self.clock.read()
            self.clock.advance(0)

    def lines(self) -> list[bytes]:
        """
        What has come to the successor.
        """
        while True:
            try:
                data, descriptors = _kernel.receive(self.peer)
            except (BlockingIOError, ConnectionResetError):
                break
            if not data:
                break
            self.received += data
            self.descriptors += descriptors
        return self.received.splitlines(keepends=True)

    def hasEnded(self) -> bool:
        """
        Whether the predecessor has closed the connection.
        """
        self.lines()
        try:
            return not self.peer.recv(1)
        except ConnectionResetError:
            return True
        except BlockingIOError:
            return False

    def errors(self) -> list[str]:
        """
        What was logged as an error.
        """
        return [
            formatEvent(each)
            for each in self.logged
            if each["log_level"].name in ("error", "critical")
        ]

    def commit(self) -> None:
        """
        Come so far that nobody accepts.
        """
        self.begin()
        self.say(READY)

    def retire(self) -> None:
        """
        Come so far that the successor serves.
        """
        self.commit()
        self.say(Running(4711))

    def assertGoesOn(self, *calls: str) -> None:
        """
        The predecessor goes on, and the successor's connection is closed.

        @param calls: what it was told.
        """
        self.turn()
        self.assertEqual(self.host.calls, [*calls, "ended"])
        self.assertTrue(self.hasEnded())
        self.assertEqual(self.sock.fileno(), -1)
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


def sendDescriptor(sock: socket.socket, data: bytes) -> None:
    """
    Send bytes with a descriptor.
    """
    ends = os.pipe()
    try:
        socket.send_fds(sock, [data], [ends[0]])
    finally:
        for each in ends:
            os.close(each)


def closed(sock: Any) -> bool:
    """
    Whether a socket of this process is closed.
    """
    return bool(sock.fileno() == -1)
