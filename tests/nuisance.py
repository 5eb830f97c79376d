"""
The cost of a hostile worker for others: C{python -m tests.nuisance}.

For each kind of hostile worker in L{tests.worker}, one honest worker serves clients,
once without and once with the hostile worker.  This prints the rates, and the longest
turn of the listener's loop in CPU time and by the clock.  On a busy machine the clock
shows more, since other processes run meanwhile.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.worker import Hostile

#: How long the clients go on, in seconds.
SECONDS = 4.0


def listen(path: str) -> None:
    """
    Run a listener that measures its turns.
    """
    from twisted.internet import reactor as globalReactor

    from portlisten._commands.listener import Options, makeService

    reactor: Any = globalReactor
    options = Options()
    options.parseOptions(["--claim-timeout=0.3", "tcp:0:interface=127.0.0.1", path])
    service: Any = makeService(options)
    service.privilegedStartService()
    service.startService()
    print(service._bound[0].address.port, flush=True)

    class Poller:
        """
        Measures what happens between two polls.
        """

        def __init__(self, poller: Any) -> None:
            self._poller = poller
            self.reset()

        def reset(self) -> None:
            self.cpu = self.wall = 0.0
            self._since = time.process_time(), time.monotonic()

        def poll(self, *arguments: Any) -> Any:
            self.cpu = max(self.cpu, time.process_time() - self._since[0])
            self.wall = max(self.wall, time.monotonic() - self._since[1])
            events = self._poller.poll(*arguments)
            self._since = time.process_time(), time.monotonic()
            return events

        def __getattr__(self, name: str) -> Any:
            return getattr(self._poller, name)

    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor._poller = poller = Poller(reactor._poller)
    reactor.callLater(2, poller.reset)
    reactor.addSystemEventTrigger(
        "before",
        "shutdown",
        lambda: print(f"{poller.cpu * 1e3:.1f} {poller.wall * 1e3:.1f}", flush=True),
    )
    reactor.run()


async def rate(port: int) -> float:
    """
    Run 32 clients at a time.

    @return: how many were served in a second.
    """
    end = time.monotonic() + SECONDS
    served = 0

    async def some() -> None:
        nonlocal served
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await reader.read()
            writer.close()
            assert answer == b"hello", answer
            served += 1

    await asyncio.gather(*(some() for _ in range(32)))
    return served / SECONDS


def measure(way: str | None) -> tuple[float, str]:
    """
    Measure one way of being hostile, or none.

    @return: the rate, and the listener's longest turns in milliseconds.
    """
    python = [sys.executable, "-c"]
    twistd = [*python, "from twisted.scripts.twistd import run; run()", "-n"]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        listener = subprocess.Popen(
            [sys.executable, "-m", "tests.nuisance", path],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        processes = [
            subprocess.Popen(
                [*twistd, "--pidfile=", "hellofdpass", path, "hello"],
                stdout=subprocess.DEVNULL,
            )
        ]
        time.sleep(1)
        if way is not None:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.worker", path, "--hostile", way]
                )
            )
        time.sleep(2)
        served = asyncio.run(rate(port))
        for process in reversed(processes):
            process.terminate()
            process.wait(20)
        listener.terminate()
        turns = listener.communicate(timeout=20)[0].split()
    return served, f"{turns[0]} ms of CPU, {turns[1]} ms by the clock"


def main() -> None:
    """
    Measure all, and print them.
    """
    if len(sys.argv) > 1:
        listen(sys.argv[1])
        return
    for way in vars(Hostile):
        if not way.startswith("_"):
            alone, _ = measure(None)
            served, turns = measure(way)
            print(
                f"{way}: {served:.0f} connections/s, {alone:.0f} without, which is"
                f" {served / alone:.2f}; longest turn {turns}",
                flush=True,
            )


if __name__ == "__main__":
    main()
