"""
The status page by HTTP: the page, what it loads, and the events that keep it up to
date.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from portlisten._control.convert import ControlError
from portlisten._control.messages import StatusAnswer
from portlisten._monitor.history import History
from portlisten._monitor.html import POLICY, document, parts, title
from portlisten._monitor.source import Source
from portlisten._reactor.pause import Pause

#: How old the status of the page may be, in seconds.
AGE_SECONDS = 0.9

#: How often an event is sent, in seconds.
EVENT_SECONDS = 1.0

#: How many pages may be live at a time.  The others load themselves again.
MAXIMUM_LIVE = 16

#: What the page loads, with its types.
FILES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_FOLDER = Path(__file__).with_name("static")


def _clock() -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime())


class View:
    """
    Makes the page's parts, once a second at the most, however many look.

    @param reactor: an L{IReactorTime}.
    @param clock: says the time of day, for people.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        source: Source,
        history: History,
        clock: Callable[[], str] = _clock,
    ) -> None:
        self.reactor = reactor
        self._source = source
        self._history = history
        self._clock = clock
        self._madeAt = -AGE_SECONDS
        self._made: tuple[StatusAnswer | None, dict[str, str]] | None = None

    def make(
        self, send: Callable[[StatusAnswer | None, dict[str, str]], object]
    ) -> None:
        """
        Ask for the status, and make the parts of it.

        @param send: gets the status, which is L{None} if nobody answers, and the parts
            by their ids.
        """

        def silent(failure: Failure) -> None:
            failure.trap(ControlError)

        def made(answer: StatusAnswer | None) -> None:
            send(*self._make(answer))

        def failed(failure: Failure) -> None:
            self.log.failure(
                "a bug in portlisten spoils the status page", failure, event="bug"
            )

        asked = self._source.latest(AGE_SECONDS)
        asked.addErrback(silent).addCallback(made).addErrback(failed)

    def _make(
        self, answer: StatusAnswer | None
    ) -> tuple[StatusAnswer | None, dict[str, str]]:
        now = self.reactor.seconds()
        made = self._made
        if made is None or made[0] is not answer or now - self._madeAt >= AGE_SECONDS:
            made = self._made = answer, parts(answer, self._history, self._clock())
            self._madeAt = now
        return made


class Page(Resource):
    """
    The page itself.
    """

    isLeaf = True

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def render_GET(self, request: Request) -> int:
        """
        Answer with the page.
        """
        left: list[object] = []
        request.notifyFinish().addErrback(left.append)

        def send(answer: StatusAnswer | None, made: dict[str, str]) -> None:
            if left:
                return
            body = document(answer, made).encode("utf-8", "replace")
            request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
            request.setHeader(b"Content-Security-Policy", POLICY.encode())
            request.setHeader(b"Referrer-Policy", b"no-referrer")
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(body)
            request.finish()

        self._view.make(send)
        return NOT_DONE_YET


class Static(Resource):
    """
    A file that the page loads.

    @param name: one of L{FILES}.
    """

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._type = FILES[name].encode()
        self._body = (_FOLDER / name).read_bytes()

    def render_GET(self, request: Request) -> bytes:
        """
        Answer with the file.
        """
        request.setHeader(b"Content-Type", self._type)
        return self._body


@implementer(IPushProducer)
class _Stream:
    """
    The events of one page.

    An event has the parts that have changed since the last one.  If the client reads
    too slowly, events are left out.

    @param ended: called when the client is gone.
    """

    def __init__(
        self, view: View, request: Request, ended: Callable[[_Stream], object]
    ) -> None:
        self._view = view
        self._request = request
        self._sent: dict[str, str] = {}
        self._isOver = False
        self._isPaused = False
        self._next = Pause(view.reactor, self._ask)

        def over(_: object) -> None:
            self._isOver = True
            self._next.cancel()
            ended(self)

        request.notifyFinish().addBoth(over)
        request.registerProducer(self, True)

    def start(self) -> None:
        """
        Send the first event.
        """
        self._ask()

    def _ask(self) -> None:
        self._next.begin(EVENT_SECONDS)
        if not self._isPaused:
            self._view.make(self._send)

    def _send(self, answer: StatusAnswer | None, made: Mapping[str, str]) -> None:
        if self._isOver or self._isPaused:
            return
        every = {**made, "title": title(answer)}
        changed = {
            name: part for name, part in every.items() if self._sent.get(name) != part
        }
        self._sent = every
        self._request.write(b"data: " + json.dumps(changed).encode() + b"\n\n")

    def pauseProducing(self) -> None:
        """
        The client reads too slowly.
        """
        self._isPaused = True

    def resumeProducing(self) -> None:
        """
        The client has read.
        """
        self._isPaused = False

    def stopProducing(self) -> None:
        """
        The client is gone.
        """
        self._isPaused = True


class Events(Resource):
    """
    The events by which pages stay up to date: U{server-sent events
    <https://html.spec.whatwg.org/multipage/server-sent-events.html>}.
    """

    isLeaf = True

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view
        self._streams: set[_Stream] = set()

    def render_GET(self, request: Request) -> Any:
        """
        Begin to send events.
        """
        if len(self._streams) >= MAXIMUM_LIVE:
            request.setResponseCode(503)
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"%d pages are live already\n" % MAXIMUM_LIVE
        request.setHeader(b"Content-Type", b"text/event-stream")
        # nginx gathers answers otherwise.
        request.setHeader(b"X-Accel-Buffering", b"no")
        if request.method == b"HEAD":
            return b""
        stream = _Stream(self._view, request, self._streams.discard)
        self._streams.add(stream)
        stream.start()
        return NOT_DONE_YET
