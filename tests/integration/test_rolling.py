"""
A web server's workers are replaced under load, one after the other, and no client
notices.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.load import Load, wrk
from tests.support.ports import freePort
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import sleep

CLOSE = "--header=Connection: close"
WORKERS = 4
ROUNDS = 5

#: C{twistd}, with workers that end no connection of HTTP by themselves.
CARELESS = """
import sys
from portlisten._worker import draining as _draining
from twisted.scripts.twistd import run

_draining.drain = lambda protocol: None
sys.argv[0] = "twistd"
run()
"""


class Fleet:
    """
    A listener on a privileged port, and as many workers as there are to be.

    Each worker is Twisted's own web server, by nothing but the description of
    its port.

    @ivar leaving: the seconds that each stopped worker took to end.
    """

    def __init__(self, start: Start, twistd: Start, folder: Path) -> None:
        self._start = start
        self._twistd = twistd
        self._folder = folder
        self.workers: list[Process] = []
        self.gone: list[Process] = []
        self.leaving: list[float] = []

    async def open(self, careless: bool = False, shared: bool = False) -> str:
        """
        Start them all.

        @param careless: whether the workers are to be the control's.
        @param shared: whether they are to accept themselves.
        @return: the URL.
        """
        site = self._folder / "site"
        site.mkdir()
        site.joinpath("index.html").write_text("<p>hello</p>\n" * 20)
        self._careless = careless
        self._port = freePort(80, 1024)
        self.listener = self._twistd(
            "portlisten",
            "--group=daemon",
            *(["--share"] if shared else []),
            str(self._port),
            "./socket",
            uid="nobody",
            gid="nogroup",
        )
        assert await listening(self.listener) == self._port
        self.workers = [self._worker() for _ in range(WORKERS)]
        for each in self.workers:
            await each.says("joined the listener")
        return f"http://127.0.0.1:{self._port}/"

    def _worker(self) -> Process:
        port = "portlisten:./socket" + (":grace=0" if self._careless else "")
        arguments = ["web", f"--listen={port}", "--path=site", "--logfile=/dev/null"]
        if not self._careless:
            return self._twistd(*arguments, uid="daemon")
        own = ["-n", "--pidfile=", "--uid=daemon"]
        return self._start(sys.executable, "-c", CARELESS, *own, *arguments)

    async def roll(self, number: int, rounds: int) -> None:
        """
        Replace each worker in turn, so many times: its successor joins before
        it gets the signal, or is started right after, by turns.
        """
        places = [*range(WORKERS)] * rounds
        following = self._worker()
        for first, second in zip(places[::2], places[1::2], strict=True):
            successor = following
            await successor.says("joined the listener")
            began = time.monotonic()
            await self._end(first, number)
            self.workers[first] = successor
            self.leaving.append(time.monotonic() - began)
            ended = self._end(second, number)
            self.workers[second] = self._worker()
            # While that one starts, the next one can.
            following = self._worker()
            await self.workers[second].says("joined the listener")
            await ended
        self.workers.append(following)

    def _end(self, place: int, number: int) -> Deferred[int]:
        leaving = self.workers[place]
        leaving.signal(number)
        self.gone.append(leaving)
        return leaving.ended()

    async def leave(self, seconds: float) -> None:
        """
        Stop all workers at once, and run none for a while.
        """
        ends = [self._end(place, signal.SIGTERM) for place in range(len(self.workers))]
        for end in ends:
            await end
        await sleep(seconds)
        self.workers = [self._worker() for _ in range(WORKERS)]
        for each in self.workers:
            await each.says("joined the listener")

    async def counters(self) -> dict[str, int]:
        """
        Return the listener's counters.
        """
        self.listener.signal(signal.SIGUSR1)
        match = await self.listener.says(r"since the start: (.*)")
        return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", match[1])}

    async def check(self) -> None:
        """
        Check that everything goes on, and that no request failed.
        """
        request = b"GET / HTTP/1.0\r\n\r\n"
        for _ in range(WORKERS):
            answer = await ask(self._port, request)
            assert b" 200 OK\r\n" in answer, answer
        for process in [self.listener, *self.workers, *self.gone]:
            assert "Traceback" not in process.output
            assert "Unhandled" not in process.output


def show(what: str, load: Load, fleet: Fleet, **more: Any) -> None:
    """
    Print the figures.
    """
    figures = {**vars(load), "replaced": len(fleet.gone), **more}
    print(f"{what}:", ", ".join(f"{name} {value}" for name, value in figures.items()))


@pytest.fixture
def fleet(root: None, start: Start, twistd: Start, folder: Path) -> Fleet:
    """
    A listener and its workers, not started yet.
    """
    return Fleet(start, twistd, folder)


@pytest.mark.parametrize("options", [(), (CLOSE,)], ids=["keepAlive", "close"])
@asynchronous
async def test_restarts(fleet: Fleet, start: Start, options: tuple[str, ...]) -> None:
    """
    Each of four workers is stopped and replaced five times under load without one
    error, both with kept connections and with new ones.  Kept connections end with
    their next response, long before the grace is over.
    """
    url = await fleet.open()
    load = await wrk(
        start, url, fleet.roll(signal.SIGTERM, ROUNDS), *options, atLeast=20
    )
    counters = await fleet.counters()
    show(
        f"restarts under load, {' '.join(options) or 'keep-alive'}",
        load,
        fleet,
        slowestExit=round(max(fleet.leaving), 2),
        accepted=counters["accepted"],
    )
    assert len(fleet.gone) == WORKERS * ROUNDS
    assert load.errors == 0
    assert load.requests > 1000
    assert counters["lostInService"] == 0
    assert all("still in service after" not in gone.output for gone in fleet.gone)
    await fleet.check()


@pytest.mark.parametrize("options", [(), (CLOSE,)], ids=["keepAlive", "close"])
@asynchronous
async def test_shared(fleet: Fleet, start: Start, options: tuple[str, ...]) -> None:
    """
    The same holds for workers that accept on the port themselves.  For three seconds no
    worker runs; clients wait then, and none is refused.
    """

    async def work() -> None:
        await fleet.roll(signal.SIGTERM, 2)
        await fleet.leave(3)
        await fleet.roll(signal.SIGTERM, ROUNDS - 2)

    url = await fleet.open(shared=True)
    load = await wrk(start, url, work(), *options)
    counters = await fleet.counters()
    show(
        f"restarts of those that share, {' '.join(options) or 'keep-alive'}",
        load,
        fleet,
        slowestExit=round(max(fleet.leaving), 2),
    )
    assert len(fleet.gone) >= WORKERS * ROUNDS
    assert load.errors == 0
    assert load.requests > 1000
    assert counters["accepted"] == 0
    await fleet.check()


@asynchronous
async def test_kills(fleet: Fleet, start: Start) -> None:
    """
    Each of four workers is killed and replaced five times under load: no client
    loses more than what a dead worker was serving.
    """
    url = await fleet.open()
    load = await wrk(start, url, fleet.roll(signal.SIGKILL, ROUNDS), CLOSE)
    counters = await fleet.counters()
    show("kills under load", load, fleet, lostInService=counters["lostInService"])
    assert load.connect == load.write == load.timeout == load.refused == 0
    assert load.broken <= counters["lostInService"]
    assert load.requests > 1000
    await fleet.check()


@asynchronous
async def test_restartsControl(fleet: Fleet, start: Start) -> None:
    """
    If a worker just exits, its kept connections break by the dozen.
    """
    url = await fleet.open(careless=True)
    load = await wrk(start, url, fleet.roll(signal.SIGTERM, 1))
    show("restarts that end kept connections", load, fleet)
    assert load.broken > 0
