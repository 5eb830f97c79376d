"""
Signal handlers that raise exceptions, as programs do to end a wait, at each line of
what blocking workers do in the program's thread.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from portlisten._wire.frames import Closed
from portlisten.blocking import ListeningSocket
from tests.support.channels import PATIENCE
from tests.support.descriptors import descriptors
from tests.support.listening_sockets import Listener, SocketTestCase, eventually

#: Where a claim is made and the end of a connection is reported.
MODULES = (
    "portlisten._anyloop.channel",
    "portlisten._wire.claims",
    "portlisten._wire.worker_session",
    "portlisten._wire.codec",
)


class Interrupted(BaseException):
    """
    What the handler raises, as L{KeyboardInterrupt} is.
    """


def interruptAt(line: int, action: Callable[[], Any]) -> bool:
    """
    Raise L{Interrupted} where a signal handler may do so.

    @param line: at which of the lines that run in L{MODULES}.
    @return: whether so many lines ran.
    """
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_globals.get("__name__") not in MODULES:
            return None
        if event in ("call", "line"):
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


class InterruptedTests(SocketTestCase):
    """
    Wherever it happens, the worker gets further connections: the interrupted one does
    not count against the limit for ever.
    """

    def interrupt(
        self,
        listening: ListeningSocket,
        listener: Listener,
        line: int,
        action: Callable[[], Any],
    ) -> bool:
        """
        Interrupt something, and check that the worker serves the next connection, on
        this channel or the next.

        @return: as from L{interruptAt}.
        """
        end = time.monotonic() + PATIENCE
        receiver: Any = listening._receiver
        before = receiver._worker._channel
        interrupted = interruptAt(line, action)
        eventually(lambda: not receiver._loop._soon)
        with receiver._loop.lock:
            lost = receiver._worker._channel is not before
        if lost:
            listener.close()
            listener = self.join()
        else:

            def over() -> bool:
                listener.read()
                waits = bool(select.select([listening], [], [], 0)[0])
                return waits or bool(listener.heard(Closed))

            eventually(over)
            if not listener.heard(Closed):
                self.take(listening).close()
                listener.hears(Closed((1,)))
        self.offer(listener, 2)
        while Closed((2,)) not in listener.read():
            if select.select([listening], [], [], 0.001)[0]:
                self.take(listening).close()
            self.assertLess(time.monotonic(), end)
        with receiver._loop.lock:
            self.assertEqual(receiver._worker.adopter.connections, set())
        listening.close()
        listener.close()
        self.noThread()
        self.log.lines.clear()
        return interrupted

    def takeAndClose(self, listening: ListeningSocket) -> None:
        """
        Accept a connection, and end it.
        """
        self.take(listening).close()

    def closeLost(self, before: set[int]) -> None:
        """
        Close what is lost: between the claim and the adoption, only local variables
        know the descriptor of a connection.
        """
        self.noThread()
        gc.collect()
        for each in set(descriptors()) - before:
            os.close(each)

    def test_accept(self) -> None:
        """
        The handler interrupts C{accept}.
        """
        self.addCleanup(self.closeLost, set(descriptors()))
        line, ran = 1, True
        while ran:
            listening, listener = self.listen(":retry=0.02")
            self.offer(listener, 1)
            self.assertTrue(self.isReadable(listening, PATIENCE))
            ran = self.interrupt(
                listening, listener, line, partial(self.takeAndClose, listening)
            )
            line += 1
        self.assertGreater(line, 50)

    def test_close(self) -> None:
        """
        The handler interrupts the end of a connection.
        """
        self.addCleanup(self.closeLost, set(descriptors()))
        count = 0
        for line in range(1, 60):
            listening, listener = self.listen(":retry=0.02")
            self.offer(listener, 1)
            sock = self.take(listening)
            count += self.interrupt(listening, listener, line, sock.close)
        # Otherwise the loop's thread had the lock.
        self.assertGreater(count, 0)
