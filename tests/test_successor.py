"""
Tests for L{portlisten._successor}, with threads for listeners.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _successor
from portlisten._frames import ListenerHello, encode

HELLO = encode(ListenerHello(4, (), True))


class SuccessorTests(SynchronousTestCase):
    """
    Whoever is at the path.
    """

    def setUp(self) -> None:
        self.path = self.mktemp()
        self.listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listening.close)
        self.listening.bind(self.path)
        self.listening.listen()

    def serve(self, data: bytes, pause: float) -> None:
        """
        Write to whoever comes first, byte by byte.
        """

        def write() -> None:
            sock, _ = self.listening.accept()
            with sock:
                try:
                    for number in range(len(data)):
                        sock.sendall(data[number : number + 1])
                        time.sleep(pause)
                except OSError:
                    pass  # nobody listens any more

        thread = threading.Thread(target=write)
        thread.start()
        self.addCleanup(thread.join)

    def test_stops(self) -> None:
        """
        A listener that stops says so.
        """
        self.serve(HELLO, 0)
        self.assertTrue(_successor.stops(self.path))

    def test_slow(self) -> None:
        """
        One that takes too long for all of what it says does not stop, however little
        it takes for each byte.
        """
        self.patch(_successor, "TIMEOUT", 0.2)
        self.serve(HELLO, 0.1)
        began = time.monotonic()
        self.assertFalse(_successor.stops(self.path))
        self.assertLess(time.monotonic() - began, 1.0)

    def test_pathIsGone(self) -> None:
        """
        A listener whose path is gone has ended, though its process goes on.
        """
        threading.Timer(0.1, os.unlink, [self.path]).start()
        end = time.monotonic() + 2
        self.assertTrue(
            _successor.waitForEnd(self.path, lambda: time.monotonic() > end)
        )

    def test_interrupted(self) -> None:
        """
        Nobody waits for longer than they want to.
        """
        self.assertFalse(_successor.waitForEnd(self.path, lambda: True))
