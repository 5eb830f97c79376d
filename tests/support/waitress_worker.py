"""
waitress as a worker, as its guide has it:
C{python -m tests.support.waitress_worker DESCRIPTION}.

C{/} says hello, and C{/sleep/SECONDS} does so later.  If DESCRIPTION is the number of a
port, waitress binds that port itself.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import waitress  # type: ignore[import-untyped]

from portlisten.blocking import ListeningSocket


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """
    Answer a request.
    """
    parts = environ["PATH_INFO"].split("/")
    if parts[1] == "sleep":
        time.sleep(float(parts[2]))
    body = f"hello {parts[-1]}\n".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def main(description: str) -> None:
    """
    Serve.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    where: dict[str, Any]
    if description.isdigit():
        where = {"host": "127.0.0.1", "port": int(description)}
    else:
        where = {"sockets": [ListeningSocket(description, limit=90, first=True)]}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print("serves", flush=True)
    waitress.serve(app, **where, channel_timeout=5, cleanup_interval=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
