"""
What the monitor serves by HTTP: health, metrics, and the status page.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from portlisten._control.convert import ControlError
from portlisten._control.messages import StatusAnswer
from portlisten._monitor.channel import BoundedSite
from portlisten._monitor.health import health
from portlisten._monitor.history import History
from portlisten._monitor.metrics import render
from portlisten._monitor.page import FILES, Events, Page, Static, View
from portlisten._monitor.source import Source

#: How old the status behind an answer may be, in seconds.
AGE_SECONDS = 0.2

#: The part of an address that stands for the ports without a name.  No port can have
#: this name.
NO_NAME = "-"

_HEALTH = b"healthz"

_TEXT = b"text/plain; charset=utf-8"


class _Answers(Resource):
    """
    The base of what answers from the status alone.
    """

    log = Logger()

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def render_GET(self, request: Request) -> int:
        """
        Answer a request as soon as the status is known.
        """
        left: list[object] = []
        request.notifyFinish().addErrback(left.append)

        def send(answer: StatusAnswer | None) -> None:
            if not left:
                body = self._answer(request, answer)
                request.setHeader(b"Content-Length", b"%d" % len(body))
                request.write(body)
                request.finish()

        def silent(failure: Failure) -> None:
            failure.trap(ControlError)

        def failed(failure: Failure) -> None:
            self.log.failure(
                "a bug in portlisten spoils an answer by HTTP", failure, event="bug"
            )
            if not left and not request.startedWriting:
                request.setResponseCode(500)
                request.finish()

        asked = self._source.latest(AGE_SECONDS)
        asked.addErrback(silent).addCallback(send).addErrback(failed)
        return NOT_DONE_YET

    def _answer(self, request: Request, answer: StatusAnswer | None) -> bytes:
        """
        Make the answer.

        @param answer: the status; L{None} if nobody answers.
        """
        raise NotImplementedError


class _Health(_Answers):
    """
    C{/healthz}, and C{/healthz/NAME}.

    @param name: see L{health}.
    """

    def __init__(self, source: Source, name: str | None = None) -> None:
        super().__init__(source)
        self._name = name

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        Find the health of a name.
        """
        if not path:
            return self
        if self._name is not None:
            return _NotFound()
        name = path.decode("utf-8", "replace")
        return _Health(self._source, "" if name == NO_NAME else name)

    def _answer(self, request: Request, answer: StatusAnswer | None) -> bytes:
        code, line = health(answer, self._name)
        request.setResponseCode(code)
        request.setHeader(b"Content-Type", _TEXT)
        return line.encode("utf-8", "replace") + b"\n"


class _Metrics(_Answers):
    """
    C{/metrics}.
    """

    isLeaf = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        # Who asks at the same time gets the same.
        self._made: tuple[StatusAnswer | None, str, str, bytes] | None = None

    def _answer(self, request: Request, answer: StatusAnswer | None) -> bytes:
        accept = (request.getHeader(b"Accept") or b"").decode("utf-8", "replace")
        made = self._made
        if made is None or made[0] is not answer or made[1] != accept:
            made = self._made = (answer, accept, *render(answer, accept))
        request.setHeader(b"Content-Type", made[2].encode())
        return made[3]


class _NotFound(Resource):
    """
    The answer for any other path.
    """

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """
        Say what exists.
        """
        request.setResponseCode(404)
        request.setHeader(b"Content-Type", _TEXT)
        return b"not found: ask for /, /healthz, /healthz/NAME or /metrics\n"


class _Root(Resource):
    """
    The root of all paths.
    """

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        """
        See L{Resource.getChildWithDefault}.  Only the health has paths below its own.
        """
        if path != _HEALTH and any(request.postpath or ()):
            return _NotFound()
        return super().getChildWithDefault(path, request)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        Answer for a path that has no resource of its own.
        """
        return _NotFound()


def makeSite(source: Source, history: History, reactor: Any = None) -> BoundedSite:
    """
    Make what the monitor serves.

    @param source: where the status comes from.
    @param history: what was going on in the last minutes.
    @param reactor: an L{IReactorTime}; by default the global one.
    """
    root = _Root()
    if reactor is None:
        from twisted.internet import reactor
    view = View(reactor, source, history)
    root.putChild(b"", Page(view))
    root.putChild(b"events", Events(view))
    for name in FILES:
        root.putChild(name.encode(), Static(name))
    root.putChild(b"metrics", _Metrics(source))
    root.putChild(_HEALTH, _Health(source))
    return BoundedSite(root, reactor)
