"""
Tests for L{portlisten._monitor.page}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from portlisten._control.convert import ControlError
from portlisten._control.messages import StatusAnswer
from portlisten._monitor import page
from portlisten._monitor.history import History
from tests.support.statuses import BAD, WELL


class Asked:
    """
    A source whose answer a test gives.

    @ivar answer: the answer; L{None} if nobody answers.
    @ivar count: how often it was asked.
    """

    def __init__(self) -> None:
        self.answer: StatusAnswer | None = WELL
        self.count = 0

    def latest(self, age: float) -> Deferred[StatusAnswer]:
        """
        Answer at once.
        """
        self.count += 1
        if self.answer is None:
            return fail(ControlError("silent"))
        return succeed(self.answer)


class Client(DummyRequest):
    """
    A request whose producer is left alone.
    """

    def registerProducer(self, prod: object, s: object) -> None:
        """
        Do nothing: a test pauses the producer itself.
        """


class PageTestCase(SynchronousTestCase):
    """
    A view of a source.
    """

    def setUp(self) -> None:
        """
        Make the view.
        """
        self.clock = Clock()
        self.source = Asked()
        self.view = page.View(self.clock, self.source, History(), lambda: "noon")

    def get(self, resource: Any, method: bytes = b"GET") -> Any:
        """
        Ask for a resource.
        """
        request: Any = Client([b""])
        request.method = method
        result = resource.render(request)
        if result is not NOT_DONE_YET:
            request.write(result)
            request.finish()
        return request


class PageTests(PageTestCase):
    """
    Tests for L{page.Page} and L{page.Static}.
    """

    def test_page(self) -> None:
        """
        The page says how it is, and what browsers may load.
        """
        request = self.get(page.Page(self.view))
        text = b"".join(request.written)
        self.assertIn(b"all is well", text)
        headers = dict(request.responseHeaders.getAllRawHeaders())
        self.assertEqual(headers[b"Content-Length"], [b"%d" % len(text)])
        [policy] = headers[b"Content-Security-Policy"]
        self.assertTrue(policy.startswith(b"default-src 'none'; "), policy)
        self.assertNotIn(b"unsafe", policy)

    def test_silent(self) -> None:
        """
        If nobody answers, the page says that.
        """
        self.source.answer = None
        text = b"".join(self.get(page.Page(self.view)).written)
        self.assertIn(b"the listener does not answer", text)

    def test_files(self) -> None:
        """
        All that the page loads is there.
        """
        for name, kind in page.FILES.items():
            request = self.get(page.Static(name))
            self.assertTrue(b"".join(request.written))
            [found] = request.responseHeaders.getRawHeaders(b"Content-Type")
            self.assertEqual(found.decode(), kind)


class EventsTests(PageTestCase):
    """
    Tests for L{page.Events}.
    """

    def setUp(self) -> None:
        """
        Make the resource.
        """
        super().setUp()
        self.events = page.Events(self.view)

    def heard(self, request: Any) -> list[dict[str, str]]:
        """
        The events that a client has got.
        """
        text = b"".join(request.written).decode()
        self.assertTrue(text.endswith("\n\n"))
        lines = text.split("\n\n")[:-1]
        self.assertEqual([each[:6] for each in lines], ["data: "] * len(lines))
        return [json.loads(each[6:]) for each in lines]

    def test_changes(self) -> None:
        """
        The first event has all parts, and the others have what has changed.
        """
        request = self.get(self.events)
        self.clock.advance(1)
        self.source.answer = BAD
        self.clock.advance(1)
        self.source.answer = None
        self.clock.advance(1)
        first, second, third, fourth = self.heard(request)
        self.assertIn("all is well", first["state"])
        self.assertEqual(second, {})
        self.assertIn(BAD.problems[0], third["state"])
        self.assertEqual(third["title"], "2 wrong: /run/portlisten/web.sock")
        self.assertNotIn("time", third)
        self.assertIn("does not answer", fourth["state"])

    def test_left(self) -> None:
        """
        When a client leaves, its events end.
        """
        request = self.get(self.events)
        request.processingFailed(Failure(ConnectionError()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.events._streams, set())

    def test_slow(self) -> None:
        """
        A client that does not read gets no events until it does.
        """
        request = self.get(self.events)
        [stream] = self.events._streams
        stream.pauseProducing()
        self.source.answer = BAD
        self.clock.pump([1] * 10)
        self.assertEqual(len(self.heard(request)), 1)
        stream.resumeProducing()
        self.clock.advance(1)
        self.assertIn(BAD.problems[0], self.heard(request)[1]["state"])

    def test_many(self) -> None:
        """
        Many clients cost one question a second, and more than that are refused.
        """
        for _ in range(page.MAXIMUM_LIVE):
            self.assertEqual(self.get(self.events).responseCode, None)
        refused = self.get(self.events)
        self.assertEqual(refused.responseCode, 503)
        self.assertIn(b"live already", b"".join(refused.written))
        [one, *_] = self.events._streams
        one._request.processingFailed(Failure(ConnectionError()))
        self.assertEqual(self.get(self.events).responseCode, None)

    def test_head(self) -> None:
        """
        HEAD begins nothing.
        """
        request = self.get(self.events, b"HEAD")
        self.assertEqual(request.finished, 1)
        self.assertEqual(self.events._streams, set())
