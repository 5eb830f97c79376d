"""
Slow and broken clients of the monitor: C{python -m tests.monitor}.

Starts a listener with two workers and a monitor.  Clients ask the workers again and
again.  Meanwhile, up to 200 others do to the monitor what clients should not do: they
say nothing, send a byte now and then, read nothing, send garbage, or too much.

It prints how long the workers' clients waited without them and with them, and how long
a load balancer waited that asked for the health every 100 ms.  No client of a worker,
and no load balancer, may get a wrong answer, or none.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

from tests.support.ports import freePort

#: How many clients ask the workers at a time.
CLIENTS = 8

#: How many clients do what they should not do.
BAD = 200

STRING = "hello, world"

_TWISTD = ("-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=")

Address = tuple[str, int]

#: What a bad client does with a connection.
Deed = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Watched:
    """
    A listener with a monitor, and its workers, within a C{with} statement.

    @ivar port: where clients of the workers connect.
    @ivar monitor: where clients of the monitor connect.
    """

    def __init__(self) -> None:
        self.port = ("127.0.0.1", freePort(20000, 21000))
        self.monitor = ("127.0.0.1", freePort(21000, 22000))
        self._stack = ExitStack()

    def __enter__(self) -> Watched:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.log = Path(folder, "log")
        path = f"{folder}/socket"
        port = f"tcp:{self.port[1]}:interface=127.0.0.1"
        with ExitStack() as undo:
            undo.push(self._stack.__exit__)
            self._start("portlisten", f"--metrics={self.monitor[1]}", port, path)
            for _ in range(2):
                self._start("hellofdpass", path, STRING)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, *words: str) -> None:
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *_TWISTD, *words], stdout=log, stderr=log
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)

    def check(self) -> None:
        """
        Look for signs of trouble in the log.

        @raise SystemExit: if there are any.
        """
        text = self.log.read_text()
        if re.search("Traceback|monitor has ended|monitor is killed", text):
            raise SystemExit(text)


async def timed(
    address: Address, request: bytes, expected: bytes, times: list[float]
) -> None:
    """
    Ask once, and note how long that took, in seconds.

    @param expected: is somewhere in the right answer.
    @raise ValueError: if the answer is wrong.
    """
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    if expected not in answer:
        raise ValueError(f"{answer!r} instead of {expected!r}")
    times.append(time.monotonic() - began)


async def until(end: float, ask: Callable[[], Awaitable[None]], pause: float) -> None:
    """
    Ask again and again.

    @param end: when to end, by the monotonic clock.
    """
    while time.monotonic() < end:
        await ask()
        await asyncio.sleep(pause)


_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


async def silent(writer: asyncio.StreamWriter) -> None:
    """
    Say nothing.
    """


async def trickle(writer: asyncio.StreamWriter) -> None:
    """
    Send a byte now and then.
    """
    for byte in b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * 1000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.2)


async def unread(writer: asyncio.StreamWriter) -> None:
    """
    Ask for much, and read nothing.
    """
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" * 2000)


async def events(writer: asyncio.StreamWriter) -> None:
    """
    Ask for all events, and read none.
    """
    writer.write(b"GET /events HTTP/1.1\r\nHost: here\r\n\r\n")


async def garbage(writer: asyncio.StreamWriter) -> None:
    """
    Send what is no HTTP.
    """
    writer.write(random.randbytes(4096))


async def large(writer: asyncio.StreamWriter) -> None:
    """
    Send headers without an end.
    """
    writer.write(b"GET / HTTP/1.1\r\n")
    while True:
        writer.write(b"X: " + b"y" * 4000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def body(writer: asyncio.StreamWriter) -> None:
    """
    Want to change something.
    """
    writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999\r\n\r\n")
    while True:
        writer.write(b"z" * 65536)
        await writer.drain()
        await asyncio.sleep(0.05)


DEEDS: Sequence[Deed] = (
    silent,
    trickle,
    unread,
    events,
    garbage,
    large,
    body,
)


async def bad(number: int, address: Address, end: float, done: Counter[str]) -> None:
    """
    Be a bad client, again and again.

    @param done: counts the connections, by what was done.
    """
    deed = DEEDS[number % len(DEEDS)]
    while time.monotonic() < end:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*address, limit=1)
            done[deed.__name__] += 1
            try:
                await asyncio.wait_for(_whole(deed, writer), 3)
            except asyncio.TimeoutError:
                pass
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.2)


async def _whole(
    deed: Callable[[asyncio.StreamWriter], Awaitable[None]],
    writer: asyncio.StreamWriter,
) -> None:
    await deed(writer)
    while not writer.transport.is_closing():
        await asyncio.sleep(0.1)


def shown(times: Sequence[float]) -> str:
    """
    Say how long some waited.
    """
    ordered = sorted(times)
    late = ordered[int(len(ordered) * 0.99)]
    return (
        f"{len(times)} answers, median {median(times) * 1e3:.1f} ms,"
        f" 99 of 100 within {late * 1e3:.1f} ms"
    )


async def measure(watched: Watched, seconds: float, count: int) -> None:
    """
    Ask for some seconds, and print how long that took.

    @param count: how many bad clients.
    """
    end = time.monotonic() + seconds
    served: list[float] = []
    health: list[float] = []
    done: Counter[str] = Counter()
    await asyncio.gather(
        *(bad(number, watched.monitor, end, done) for number in range(count)),
        *(
            until(end, lambda: timed(watched.port, b"", STRING.encode(), served), 0.005)
            for _ in range(CLIENTS)
        ),
        until(end, lambda: timed(watched.monitor, _HEALTH, b" 200 ", health), 0.1),
    )
    did = ", ".join(f"{name} {number}" for name, number in sorted(done.items()))
    print(f"{count} bad clients{': ' if did else ''}{did}")
    print(f"  workers: {shown(served)}")
    print(f"  health:  {shown(health)}", flush=True)


async def ready(watched: Watched) -> None:
    """
    Wait until all is well.

    @raise TimeoutError: if that takes longer than 30 seconds.
    """
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            await timed(watched.monitor, _HEALTH, b" 200 ", [])
            return
        await asyncio.sleep(0.1)
    raise TimeoutError


def main() -> None:
    """
    Do what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.monitor", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15, help="of each part [15]")
    parser.add_argument("--bad", type=int, default=BAD, help="bad clients [200]")
    arguments = parser.parse_args()
    # It says so for each client that has gone.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

    async def run(watched: Watched) -> None:
        await ready(watched)
        for count in (0, arguments.bad, 0, arguments.bad):
            await measure(watched, arguments.seconds, count)

    with Watched() as watched:
        asyncio.run(run(watched))
        watched.check()
    print("all answers were right")


if __name__ == "__main__":
    main()
