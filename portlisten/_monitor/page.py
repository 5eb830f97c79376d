"""
The status page.
"""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request

from portlisten._monitor.history import History
from portlisten._monitor.source import Source


class Page(Resource):
    """
    The page itself.
    """

    isLeaf = True

    def __init__(self, source: Source, history: History) -> None:
        super().__init__()

    def render_GET(self, request: Request) -> bytes:
        """
        Answer with the page.
        """
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return b"portlisten\n"


class Events(Resource):
    """
    The events by which the page stays up to date.
    """

    isLeaf = True

    def __init__(self, source: Source, history: History) -> None:
        super().__init__()

    def render_GET(self, request: Request) -> bytes:
        """
        Answer with the events.
        """
        request.setHeader("Content-Type", "text/event-stream")
        return b""
