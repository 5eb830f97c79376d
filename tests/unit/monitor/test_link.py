"""
Tests for L{portlisten._monitor.link}, with a real socket pair.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._channel.limits import KERNEL_RETRY_SECONDS
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Status,
    StatusAnswer,
    encodeAnswer,
    encodeError,
    encodeRequest,
)
from portlisten._monitor import link
from portlisten._monitor.link import MonitorLink, Poll
from tests.support.channels import texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.statuses import ALONE, WELL

ASK = encodeRequest(Status())


class LinkTests(SynchronousTestCase):
    """
    Tests for L{MonitorLink}.
    """

    def setUp(self) -> None:
        """
        Make a link, whose other end the test speaks for.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged: Any = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        ours, self.parent = socket.socketpair()
        self.parent.setblocking(False)
        self.ended: list[bool] = []
        self.link = MonitorLink(self.clock, ours, lambda: self.ended.append(True))
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        The parent closes the link: nothing is left then.
        """
        self.parent.close()
        # If the parent has left bytes unread, the first read fails.
        for _ in range(2):
            self.clock.read()
            self.clock.advance(KERNEL_RETRY_SECONDS)
        self.assertEqual(self.ended, [True])
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def requests(self) -> int:
        """
        How many requests came since the last look.
        """
        received = b""
        with contextlib.suppress(BlockingIOError):
            while data := self.parent.recv(65536):
                received += data
        self.assertEqual(received, ASK * (len(received) // len(ASK)))
        return len(received) // len(ASK)

    def say(self, data: bytes) -> None:
        """
        Say something as the parent.
        """
        self.parent.sendall(data)
        self.clock.read()

    def ask(self, age: float) -> list[Any]:
        """
        Ask for the status.

        @return: gets the result.
        """
        results: list[Any] = []

        def failed(failure: Any) -> None:
            failure.trap(ControlError)
            results.append(failure.getErrorMessage())

        self.link.latest(age).addCallbacks(results.append, failed)
        return results

    def test_shared(self) -> None:
        """
        All who ask at a time get the same answer, and so do those for whom it is fresh
        enough.
        """
        results = [self.ask(0.5) for _ in range(9)]
        self.assertEqual(self.requests(), 1)
        self.say(encodeAnswer(WELL))
        self.assertEqual(results, [[WELL]] * 9)
        self.clock.advance(0.5)
        self.assertEqual(self.ask(0.5), [WELL])
        self.assertEqual(self.requests(), 0)
        self.clock.advance(0.1)
        last = self.ask(0.5)
        self.assertEqual((last, self.requests()), ([], 1))
        line = encodeAnswer(ALONE)
        self.say(line[:100])
        self.assertEqual(last, [])
        self.say(line[100:])
        self.assertEqual(last, [ALONE])

    def test_late(self) -> None:
        """
        If the answer on its way would be too old, the next one is waited for.
        """
        first = self.ask(1.0)
        self.clock.advance(0.5)
        second, third = self.ask(1.0), self.ask(0.2)
        self.assertEqual(self.requests(), 1)
        self.say(encodeAnswer(WELL))
        self.assertEqual((first, second, third), ([WELL], [WELL], []))
        self.assertEqual(self.requests(), 1)
        self.say(encodeAnswer(ALONE))
        self.assertEqual(third, [ALONE])
        # The age of an answer counts from its request.
        self.assertEqual(self.ask(0.0), [ALONE])
        self.clock.advance(0.1)
        self.assertEqual(self.ask(0.0), [])

    def test_silent(self) -> None:
        """
        If the parent is silent, each waits for a limited time, and is forgotten then.
        An answer that comes later is still used.
        """
        results = []
        for _ in range(8):
            results += [self.ask(0.2), self.ask(9.0)]
            self.clock.advance(1.0)
        self.assertEqual(self.requests(), 1)
        said = f"no answer within {link.ANSWER_SECONDS:g} s"
        self.assertEqual(results[:8], [[said]] * 8)
        self.assertEqual(results[8:], [[]] * 8)
        self.clock.advance(link.ANSWER_SECONDS)
        self.assertEqual(results, [[said]] * 16)
        self.assertEqual((self.link._waiting, self.link._late), ({}, {}))
        self.say(encodeAnswer(WELL))
        self.assertEqual(self.ask(20.0), [WELL])
        self.assertEqual(self.requests(), 0)

    def test_error(self) -> None:
        """
        An answer that is an error, or that nobody understands, is a failure of the
        request, and the next request may do better.
        """
        for line in (encodeError("it starts again"), b"{}\n", b"nonsense\n", b"\n"):
            first, late = self.ask(0.0), None
            self.clock.advance(0.1)
            late = self.ask(0.0)
            self.say(line)
            self.assertEqual(len(first), 1)
            self.assertIsInstance(first[0], str)
            self.assertEqual(self.requests(), 2)
            self.say(encodeAnswer(WELL))
            self.assertEqual(late, [WELL])
            self.clock.advance(1.0)

    def test_unasked(self) -> None:
        """
        A parent that speaks without being asked has broken the link.
        """
        self.say(encodeAnswer(WELL))
        self.check("it spoke without being asked")

    def test_twice(self) -> None:
        """
        So has a parent that answers twice.
        """
        asked = self.ask(0.0)
        self.say(encodeAnswer(WELL) * 2)
        self.check("it spoke without being asked")
        self.assertEqual(asked, ["the link to the listener has ended"])

    def test_long(self) -> None:
        """
        So has a parent that does not end its line.
        """
        self.patch(link, "MAXIMUM_ANSWER_BYTES", 5000)
        asked = self.ask(0.0)
        for _ in range(3):
            self.say(b"x" * 2000)
        self.check("a line is too long")
        self.assertEqual(asked, ["the link to the listener has ended"])

    def test_descriptor(self) -> None:
        """
        So has a parent that sends a descriptor, if the kernel lets it.  It stays
        unread.
        """
        reader, writer = os.pipe()
        try:
            _kernel.send(self.parent, b"x", [writer])
        except OSError:
            return  # the kernel refuses it
        finally:
            os.close(reader)
            os.close(writer)
        self.clock.read()
        self.check("it sent a descriptor")

    def check(self, reason: str) -> None:
        """
        Check that the link is broken, which is said once.
        """
        self.clock.advance(0)
        self.assertEqual(self.ended, [True])
        self.assertEqual(
            texts(self.logged, "error"), [f"the link to the listener broke: {reason}"]
        )

    def test_ended(self) -> None:
        """
        When the parent closes the link, all who wait learn it.
        """
        first = self.ask(1.0)
        self.clock.advance(1.5)
        second = self.ask(1.0)
        self.end()
        for each in (first, second, self.ask(1.0)):
            self.assertEqual(each, ["the link to the listener has ended"])


class PollTests(SynchronousTestCase):
    """
    Tests for L{Poll}.
    """

    def setUp(self) -> None:
        """
        Make a poll of a source that answers when told.
        """
        self.clock = Clock()
        self.asked: list[Deferred[StatusAnswer]] = []
        self.added: list[tuple[float, StatusAnswer | None]] = []
        self.poll = Poll(self.clock, self.latest, self)  # type: ignore[arg-type]
        self.poll.start()

    def latest(self, age: float) -> Deferred[StatusAnswer]:
        """
        See L{portlisten._monitor.source.Source.latest}.
        """
        self.assertEqual(age, link.POLL_AGE_SECONDS)
        self.asked.append(Deferred())
        return self.asked[-1]

    def add(self, at: float, answer: StatusAnswer | None) -> None:
        """
        See L{portlisten._monitor.history.History.add}.
        """
        if answer is ALONE:
            raise ValueError("a bug")
        self.added.append((at, answer))

    def test_beats(self) -> None:
        """
        It asks every second, whether the answer takes a while or not.  Without an
        answer, the history learns that as well.
        """
        self.asked[0].callback(WELL)
        self.clock.advance(1.0)
        self.clock.advance(0.4)
        self.asked[1].errback(ControlError("no answer"))
        self.clock.advance(0.5)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(0.1)
        self.assertEqual(len(self.asked), 3)
        self.asked[2].callback(WELL)
        self.assertEqual(self.added, [(0.0, WELL), (1.4, None), (2.0, WELL)])

    def test_missed(self) -> None:
        """
        Beats that were missed are left out.
        """
        self.clock.advance(7.5)
        self.assertEqual(len(self.asked), 1)
        self.asked[0].callback(WELL)
        self.clock.advance(0)
        self.assertEqual(len(self.asked), 2)
        self.asked[1].callback(WELL)
        self.clock.advance(0.9)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(0.1)
        self.assertEqual(len(self.asked), 3)

    def test_bug(self) -> None:
        """
        A bug does not end it, and is logged.
        """
        self.asked[0].callback(ALONE)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(1.0)
        self.assertEqual(len(self.asked), 2)

    def test_stop(self) -> None:
        """
        It can be stopped, also while an answer is on its way.
        """
        self.poll.stop()
        self.asked[0].callback(WELL)
        self.clock.advance(5.0)
        self.assertEqual(len(self.asked), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
