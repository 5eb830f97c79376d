"""
Clients of several sources that ask again and again, in a process with a clock of its
own: C{python -m tests.support.timed_clients PORT SECONDS INTERVAL PATH SOURCE ...}.

Each source asks once in INTERVAL seconds, whether it was answered or not, for SECONDS
in all.  The sources take turns.  At the end, the process prints how long each answer
took in seconds, as a list in JSON, with C{null} for each client that was refused, or
not answered by then.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

#: How long the last answers may take after the last question, in seconds.
PATIENCE = 1.0


async def ask(port: int, path: str, source: str) -> None:
    """
    Ask for a path.

    @raise OSError: if there is no answer.
    """
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(source, 0)
    )
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise ConnectionError(f"no answer: {answer!r}")


async def run(
    port: int, seconds: float, interval: float, path: str, sources: list[str]
) -> list[float | None]:
    """
    Run the clients.
    """
    times: list[float | None] = []

    async def one(source: str) -> None:
        began = time.monotonic()
        try:
            await ask(port, path, source)
        except (OSError, asyncio.CancelledError):
            times.append(None)
        else:
            times.append(time.monotonic() - began)

    began = time.monotonic()
    tasks = []
    total = round(seconds / interval * len(sources))
    for number in range(total):
        due = began + number * interval / len(sources)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        source = sources[number % len(sources)]
        tasks.append(asyncio.create_task(one(source)))
    await asyncio.wait(tasks, timeout=PATIENCE)
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks)
    return times


def main() -> None:
    """
    Run the clients of the command line.
    """
    port, seconds, interval, path, *sources = sys.argv[1:]
    found = run(int(port), float(seconds), float(interval), path, sources)
    print(json.dumps(asyncio.run(found)), flush=True)


if __name__ == "__main__":
    main()
