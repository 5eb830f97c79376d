"""
An application for uvicorn, and uvicorn as a worker.

C{python -m benchmarks.asgi DESCRIPTION COUNT} runs COUNT processes of uvicorn that
serve a listener's connections.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks.serve import STRING, fork

#: What a client sends: it wants to hear, and no more.
REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: What a client sends that stays.
STAY = "GET /stay HTTP/1.1\r\nHost: localhost\r\n\r\n"

#: The answer to L{REQUEST}, with L{OPTIONS}.
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(STRING)
) + STRING

#: uvicorn's options: answers without the date, and clients that may stay.
OPTIONS: dict[str, Any] = {
    "date_header": False,
    "server_header": False,
    "access_log": False,
    "log_level": "warning",
    "timeout_keep_alive": 600,
    "backlog": 16384,
}

Message = MutableMapping[str, Any]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """
    Answer C{/stay} with the number of the process, and all else with the string that
    every contestant serves.  Say on standard output when the process is ready.
    """
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        os.write(1, b"ready\n")
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b"pid %d\n" % os.getpid() if scope["path"] == "/stay" else STRING
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """
    Serve as the command line says.
    """
    import uvicorn

    description, count = sys.argv[1:]

    def run() -> None:
        loop = "portlisten.asyncio:loop"
        uvicorn.run(app, host=description, loop=loop, **OPTIONS)

    fork(int(count), run)


if __name__ == "__main__":
    main()
