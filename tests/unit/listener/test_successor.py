"""
Tests for L{portlisten._listener.successor}, against small listeners in threads and in
processes of their own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._kernel import peers
from portlisten._listener import successor
from portlisten._wire.codec import encode
from portlisten._wire.frames import Bye, ListenerHello
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors

STOPPING = encode(ListenerHello(1, stopping=True))
LIVING = encode(ListenerHello(1))


class SuccessorTestCase(SynchronousTestCase):
    """
    A path for a listener.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.addCleanup(self.remove)
        self.patch(successor, "HELLO_SECONDS", PATIENCE)
        self.patch(successor, "CHECK_SECONDS", 0.01)

    def remove(self) -> None:
        """
        Leave nothing at the path.
        """
        if os.path.exists(self.path):
            os.unlink(self.path)

    def orphan(self) -> subprocess.Popen[str]:
        """
        Have another process listen at the path whose supervisor has ended.
        """
        parent = subprocess.Popen(
            [sys.executable, "-c", ORPHAN, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            parent.kill()
            parent.communicate()

        self.addCleanup(end)
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.wait()
        return parent

    def listen(self) -> socket.socket:
        """
        Listen at the path.
        """
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        sock.listen()
        return sock


class StopsTests(SuccessorTestCase):
    """
    Tests for L{successor.isStopping}.
    """

    def answer(
        self, *messages: bytes, pause: float = 0.01, descriptors: tuple[int, ...] = ()
    ) -> bool:
        """
        Ask a listener that sends these bytes to each process that connects, and then
        closes.
        """
        listening = self.listen()
        asked = threading.Event()

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                for message in messages:
                    try:
                        socket.send_fds(sock, [message], descriptors)
                    except BrokenPipeError:
                        break  # it has heard enough
                    time.sleep(pause)
                if not messages:
                    asked.wait(PATIENCE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return successor.isStopping(self.path)
        finally:
            asked.set()
            thread.join()

    def test_stops(self) -> None:
        """
        A listener whose HELLO says that it is stopping stops.
        """
        self.assertIs(self.answer(STOPPING), True)

    def test_lives(self) -> None:
        """
        A listener whose HELLO does not say that it is stopping goes on.
        """
        self.assertIs(self.answer(LIVING), False)

    def test_pieces(self) -> None:
        """
        HELLO may come in pieces.
        """
        self.assertIs(self.answer(STOPPING[:3], STOPPING[3:9], STOPPING[9:]), True)

    def test_firstWord(self) -> None:
        """
        What comes before HELLO is no HELLO.
        """
        self.assertIs(self.answer(encode(Bye("go away")) + STOPPING), False)

    def test_nonsense(self) -> None:
        """
        Another program at the path is not a listener that stops.
        """
        self.assertIs(self.answer(b"220 mail.example ESMTP ready\r\n" * 10), False)

    def test_end(self) -> None:
        """
        A listener that closes before its HELLO is complete does not count as stopping.
        """
        self.assertIs(self.answer(STOPPING[:-1]), False)

    def test_silence(self) -> None:
        """
        If a listener sends nothing, the wait is short.
        """
        self.patch(successor, "HELLO_SECONDS", 0.2)
        began = time.monotonic()
        self.assertIs(self.answer(), False)
        self.assertTrue(0.2 <= time.monotonic() - began < PATIENCE)

    def test_slow(self) -> None:
        """
        If a listener sends its HELLO too slowly, the wait is short, even if each byte
        comes soon.
        """
        self.patch(successor, "HELLO_SECONDS", 0.2)
        drops = [STOPPING[each : each + 1] for each in range(len(STOPPING))]
        self.assertIs(self.answer(*drops, pause=0.1), False)

    def test_descriptors(self) -> None:
        """
        If a listener sends a descriptor, its HELLO is not believed, and the descriptor
        is not received.
        """
        with open(os.devnull) as file:
            answer = self.answer(STOPPING, descriptors=(file.fileno(),))
        self.assertIs(answer, False)

    def test_orphan(self) -> None:
        """
        If the process that bound the path has ended, and nobody says HELLO there, the
        listener stops.
        """
        self.patch(successor, "HELLO_SECONDS", 0.1)
        self.orphan()
        self.assertIs(successor.isStopping(self.path), True)
        # To take over from it, one asks it.
        self.assertIs(successor.isStopping(self.path, silent=False), False)

    def test_orphanLives(self) -> None:
        """
        If that process has ended, and the listener says for long enough that it does
        not stop, it was to be replaced, and was not.
        """
        self.patch(successor, "HELLO_SECONDS", 0.1)
        self.patch(_kernel, "processEnded", lambda find: True)
        listening = self.listen()
        ended = threading.Event()

        def serve() -> None:
            listening.settimeout(0.01)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    sock, _ = listening.accept()
                    with sock, contextlib.suppress(BrokenPipeError):
                        sock.sendall(LIVING)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            self.assertIs(successor.isStopping(self.path), False)
        finally:
            ended.set()
            thread.join()

    def test_nothing(self) -> None:
        """
        The path may not exist.
        """
        self.assertIs(successor.isStopping(self.path), False)

    def test_nobody(self) -> None:
        """
        The path may have a socket on which no process listens any more.
        """
        self.listen().close()
        self.assertIs(successor.isStopping(self.path), False)

    def test_fullBacklog(self) -> None:
        """
        If a listener does not accept, the wait is short.
        """
        self.patch(successor, "HELLO_SECONDS", 0.2)
        listening = self.listen()
        listening.listen(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            self.assertIs(successor.isStopping(self.path), False)


class IsStaleTests(SuccessorTestCase):
    """
    Tests for L{successor.isStale}.
    """

    def test_nothing(self) -> None:
        """
        A path that does not exist is not stale.
        """
        self.assertIs(successor.isStale(self.path), False)

    def test_nobody(self) -> None:
        """
        A socket that no process has open is stale.
        """
        listening = self.listen()
        self.assertIs(successor.isStale(self.path), False)
        listening.close()
        self.assertIs(successor.isStale(self.path), True)


#: A supervisor that has died: its child has the socket until it reads a line.
ORPHAN = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen(100)
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.readline()
"""

PROGRAM = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen(100)
print(flush=True)
sys.stdin.readline()
"""


class WaitForEndTests(SuccessorTestCase):
    """
    Tests for L{successor.waitForEnd}.
    """

    def process(self) -> subprocess.Popen[str]:
        """
        Start a process that listens at the path until it reads a line.
        """
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self.end, child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    def end(self, child: subprocess.Popen[str]) -> None:
        """
        End a process, in whatever state it is.
        """
        child.kill()
        child.communicate()

    def asked(self, child: subprocess.Popen[str]) -> bool:
        """
        Wait for a process, and end it meanwhile.
        """
        asked: list[float] = []

        def interrupted() -> bool:
            asked.append(time.monotonic())
            if len(asked) == 3:
                child.kill()
            return len(asked) > 1000

        ended = successor.waitForEnd(self.path, interrupted)
        self.assertGreaterEqual(len(asked), 3)
        self.assertGreaterEqual(asked[2] - asked[0], 0.02)
        return ended

    def test_ends(self) -> None:
        """
        It waits until the process has ended that listens there.
        """
        self.assertIs(self.asked(self.process()), True)

    def test_orphan(self) -> None:
        """
        If the process that bound the path has ended, the wait goes on until no process
        has the socket open.
        """
        orphan = self.orphan()
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            if asked == 3:
                assert orphan.stdin is not None
                orphan.stdin.write("\n")
                orphan.stdin.flush()
            return asked > 1000

        self.assertIs(successor.waitForEnd(self.path, interrupted), True)
        self.assertGreaterEqual(asked, 3)

    def test_orphanReplaced(self) -> None:
        """
        If another socket is bound to the path by then, the wait is over.
        """
        self.orphan()
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            if asked == 3:
                os.unlink(self.path)
                self.listen()
            return asked > 1000

        self.assertIs(successor.waitForEnd(self.path, interrupted), True)
        self.assertEqual(asked, 3)

    def test_withoutPidfd(self) -> None:
        """
        If the end of a process cannot be watched, the wait ends when no process listens
        at the path any more.
        """
        self.patch(_kernel, "peerProcess", lambda sock, pid: None)
        self.assertIs(self.asked(self.process()), True)

    def test_successorThere(self) -> None:
        """
        If it knows the process, it is no matter that another listens there by then.
        """
        child = self.process()
        asked: list[None] = []

        def interrupted() -> bool:
            asked.append(None)
            if child.poll() is None:
                os.unlink(self.path)
                self.listen()
                child.kill()
                child.wait()
            return len(asked) > 5

        self.assertIs(successor.waitForEnd(self.path, interrupted), True)

    def test_pathIsGone(self) -> None:
        """
        A listener whose path is gone has ended, though its process goes on.
        """
        self.process()
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            if asked == 3:
                os.unlink(self.path)
            return asked > 3

        self.assertIs(successor.waitForEnd(self.path, interrupted), True)

    def test_interrupted(self) -> None:
        """
        The wait ends if it is interrupted, whether the process is known or not.
        """
        self.process()
        self.assertIs(successor.waitForEnd(self.path, lambda: True), False)
        self.patch(_kernel, "peerProcess", lambda sock, pid: None)
        self.assertIs(successor.waitForEnd(self.path, lambda: True), False)

    def test_nothing(self) -> None:
        """
        If no process listens at the path any more, the wait ends at once.
        """
        self.assertIs(successor.waitForEnd(self.path, lambda: False), True)

    def test_nobodyKnown(self) -> None:
        """
        If the kernel does not say which process listens at the path, the wait goes by
        the path.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError

        self.patch(_kernel, "credentials", fail)
        self.patch(peers, "SO_PEERPIDFD", -1)
        self.assertIs(self.asked(self.process()), True)
