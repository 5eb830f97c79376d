"""
A site whose pages take a while: C{python -m tests.support.slow_site DESCRIPTION}.

C{/} answers at once, and C{/slow} after L{SECONDS}, which the process spends waiting
for nothing, as a site waits for its database.  An answer is the how-manieth request it
was, and the client's address.  The connection is kept if the client wants that.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import serverFromString
from twisted.python.log import startLogging
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

#: How long a slow page takes.
SECONDS = 0.05

reactor: Any = _reactor


class Page(Resource):
    """
    All pages.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def render_GET(self, request: Any) -> Any:
        """
        Answer at once, or later.
        """
        peer = request.getClientAddress().host
        answer = f"{next(self._numbers)} {peer}\n".encode()
        if request.path != b"/slow":
            return answer
        later = reactor.callLater(SECONDS, self._answer, request, answer)
        request.notifyFinish().addErrback(lambda _: later.active() and later.cancel())
        return NOT_DONE_YET

    def _answer(self, request: Any, answer: bytes) -> None:
        request.write(answer)
        request.finish()


def main() -> None:
    """
    Serve.
    """
    startLogging(sys.stdout)
    site = Site(Page())
    site.displayTracebacks = False
    serverFromString(reactor, sys.argv[1]).listen(site)
    reactor.run()


if __name__ == "__main__":
    main()
