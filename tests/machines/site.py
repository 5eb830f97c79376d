"""
The site that each machine serves, for C{twistd web --class}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

#: How many pieces C{/pieces} has, and their size.
PIECES, PIECE = 10, 1000


class Page(Resource):
    """
    All pages.  An answer is an object of JSON with the C{machine}, the C{version} that
    its worker was started with, and the address of the C{client}.  C{/slow/SECONDS}
    answers later.  C{/pieces/SECONDS} begins at once, and ends after that time.

    C{MACHINE} of the environment is the machine, and C{VERSION} a file.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._known = {
            "machine": os.environ["MACHINE"],
            "version": Path(os.environ["VERSION"]).read_text().strip(),
        }

    def render_GET(self, request: Any) -> Any:
        """
        Answer at once, or later.
        """
        peer = request.getClientAddress()
        answer = json.dumps({**self._known, "client": peer.host}).encode()
        path = request.uri.split(b"/")
        if len(path) < 3:
            return answer
        steps = 1 if path[1] == b"slow" else PIECES
        gap = float(path[2]) / steps
        # Spaces before an object mean nothing.
        pieces = [b" " * PIECE] * (steps - 1) + [answer]
        request.setHeader("content-length", str(sum(map(len, pieces))))
        ended = request.notifyFinish()
        later = LoopingCall(self._write, request, pieces)
        ended.addBoth(lambda _: later.stop())
        later.start(gap, now=False)
        return NOT_DONE_YET

    def _write(self, request: Any, pieces: list[bytes]) -> None:
        request.write(pieces.pop(0))
        if not pieces:
            request.finish()
