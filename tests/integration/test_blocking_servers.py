"""
Servers that block, as they are, are workers: C{http.server} and waitress.  They are
replaced under load, and no client notices.

If C{PORTLISTEN_ROUNDS} is set, each worker is replaced so many times, and what the same
server loses on a port of its own is counted as well.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from tests.support.blocking_pair import Pair, answer, processes
from tests.support.ports import freePort
from tests.support.processes import Process, Processes
from tests.support.programs import needs
from tests.support.requests import Requests

__all__ = ["processes"]

LONG = os.environ.get("PORTLISTEN_ROUNDS")
ROUNDS = int(LONG or 2)
REQUESTS = 1000

CASES = [
    (kind, wire)
    for kind in ("one", "threads", "forks", "waitress")
    for wire in ("plain", "tls")
    if (kind, wire) != ("waitress", "tls") and (LONG or kind != "forks")
]


def say(what: str, clients: Requests) -> None:
    """
    Print figures for the guides.
    """
    print(
        f"\n{what}: {clients.right} right, {len(clients.wrong)} wrong,"
        f" {clients.again} asked again, slowest {clients.slowest:.2f} s",
        dict(Counter(each.partition("(")[0] for each in clients.wrong)),
    )


@pytest.mark.parametrize(("kind", "wire"), CASES)
def test_replaced(processes: Processes, kind: str, wire: str) -> None:
    """
    Two workers are replaced again and again.  All requests are answered.  waitress cuts
    off what it has in hand at SIGTERM, so it is drained before.
    """
    if kind == "waitress":
        needs("waitress", "waitress")
    pair = Pair(processes)
    if wire == "tls":
        pair.secure()
    workers = [pair.worker(kind) for _ in range(2)]
    with pair.requests() as clients:
        for _ in range(2 * ROUNDS):
            clients.reach(REQUESTS // (2 * ROUNDS) if not LONG else REQUESTS)
            new = pair.worker(kind)
            old = workers.pop(0)
            if kind == "waitress":
                assert pair.drain(str(old.pid)) == 0
            assert old.stop() == 0
            workers.append(new)
        clients.reach(100)
    say(f"{kind}, {wire}", clients)
    assert clients.wrong == []
    assert clients.right >= REQUESTS
    assert "revoked" not in pair.listener.output
    assert not any("Traceback" in each.output for each in workers)


def test_kept(processes: Processes) -> None:
    """
    waitress keeps connections.  It is drained, and no client notices; a client may find
    that its idle connection was closed.
    """
    needs("waitress", "waitress")
    pair = Pair(processes)
    workers = [pair.worker("waitress") for _ in range(2)]
    for _ in range(ROUNDS):
        new = pair.worker("waitress")
        with pair.requests(keep=True) as clients:
            clients.reach(REQUESTS // 2)
        say("waitress, kept", clients)
        assert clients.wrong == []
        old = workers.pop(0)
        assert pair.drain(str(old.pid)) == 0
        assert old.stop() == 0
        workers.append(new)


def test_limit(processes: Processes) -> None:
    """
    Clients of waitress that keep connections and say nothing hold no other client up:
    the limit is not the number of its threads.
    """
    needs("waitress", "waitress")
    pair = Pair(processes)
    pair.worker("waitress")
    with pair.requests(keep=True, threads=16, path="/sleep/0.02") as clients:
        clients.reach(64)
        start = time.monotonic()
        assert answer(pair.ask("/other")) == "hello other\n"
        assert time.monotonic() - start < 5
    assert clients.wrong == []


@pytest.mark.skipif(not LONG, reason="counts for the guides: set PORTLISTEN_ROUNDS")
@pytest.mark.parametrize(("kind", "wire"), CASES)
def test_ownPort(processes: Processes, kind: str, wire: str) -> None:
    """
    What the same server loses on a port of its own when it is stopped and started
    again.
    """
    port = freePort(12000, 12400)
    pair = Pair(processes)
    if wire == "tls":
        pair.secure()
    module = "waitress_worker" if kind == "waitress" else "http_worker"
    arguments = [str(port)] if kind == "waitress" else [str(port), kind, *pair.files]

    def serve() -> Process:
        process = processes.python("-m", f"tests.support.{module}", *arguments)
        process.says("serves")
        time.sleep(0.3)
        return process

    process = serve()
    with Requests(port, pair.context) as clients:
        for _ in range(ROUNDS):
            clients.reach(REQUESTS)
            process.signal(signal.SIGTERM)
            ended(process)
            process = serve()
        clients.reach(100)
    say(f"{kind}, {wire}, its own port", clients)
    assert clients.right > 0


@pytest.mark.skipif(not LONG, reason="counts for the guides: set PORTLISTEN_ROUNDS")
@pytest.mark.parametrize("keep", [False, True], ids=["closed", "kept"])
def test_notDrained(processes: Processes, keep: bool) -> None:
    """
    What waitress loses at SIGTERM if it was not drained.
    """
    pair = Pair(processes)
    workers = [pair.worker("waitress") for _ in range(2)]
    with pair.requests(keep=keep) as clients:
        for _ in range(2 * ROUNDS):
            clients.reach(REQUESTS)
            workers.append(pair.worker("waitress"))
            old = workers.pop(0)
            old.signal(signal.SIGTERM)
            ended(old)
        clients.reach(100)
    say(f"waitress, SIGTERM alone, {'kept' if keep else 'closed'}", clients)
    assert clients.right > 0


def ended(process: Process) -> None:
    """
    Wait until a process has ended.
    """
    deadline = time.monotonic() + 30
    while process.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
