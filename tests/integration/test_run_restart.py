"""
C{portlisten restart} replaces all workers of a file under load, and no client notices.

If C{PORTLISTEN_ROUNDS} is set, the workers are replaced so many times, and each server
is tried alone as well.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.load import wrk
from tests.support.ports import freePort
from tests.support.programs import needs
from tests.support.requests import Requests
from tests.support.run_service import NoPython, Workers, portlisten, write
from tests.support.spawned import Process, Start
from tests.support.waiting import until

LONG = os.environ.get("PORTLISTEN_ROUNDS")
ROUNDS = int(LONG or 1)
CLOSE = "--header=Connection: close"
WORKERS = 4 if LONG else 3

#: How long one restart may take, in seconds.
PATIENCE = 120.0

#: The same application for each server.  C{/slow/NAME} takes a while, and all others
#: answer at once.
APPLICATION = """
import asyncio

SECONDS = 1.5

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"].startswith("/slow/"):
        await asyncio.sleep(SECONDS)
    body = f"hello {scope['path'].rpartition('/')[2]}\\n".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

SITE = """
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from application import SECONDS

class Hello(Resource):
    isLeaf = True

    def render_GET(self, request):
        body = b"hello %s\\n" % request.path.rpartition(b"/")[2]
        request.setHeader("content-length", str(len(body)))
        if not request.path.startswith(b"/slow/"):
            return body
        reactor.callLater(SECONDS, self.answer, request, body)
        return NOT_DONE_YET

    def answer(self, request, body):
        request.write(body)
        request.finish()
"""

ENDPOINT = "portlisten:{path}:name=http"

TWISTD = ("python", "-c", "from twisted.scripts.twistd import run; run()")

#: The command of each server, and what it needs.
COMMANDS: dict[str, tuple[str, ...]] = {
    "twistd": (
        *(*TWISTD, "--nodaemon", "--pidfile=", "--logfile=/dev/null"),
        *("web", f"--listen={ENDPOINT}", "--class=site_of_twistd.Hello"),
    ),
    "uvicorn": (
        *("python", "-m", "uvicorn", "--no-access-log"),
        *("--loop", "portlisten.asyncio:loop", "--host", ENDPOINT, "application:app"),
    ),
    "daphne": (
        *("python", "-m", "daphne", "--verbosity", "0"),
        *("-e", ENDPOINT, "application:app"),
    ),
}

#: How many workers of each server a file has.
KINDS = {
    "mixed": {"twistd": WORKERS - 2, "uvicorn": 1, "daphne": 1},
    **{name: {name: WORKERS} for name in COMMANDS},
}


class Run:
    """
    C{portlisten run}.
    """

    def __init__(self, start: Start, folder: Path, counts: dict[str, int]) -> None:
        self._start = start
        self.port = freePort(23000, 24000)
        self._modules = [each for each in counts if each != "twistd"]
        for each in self._modules:
            needs(each, each)
        (folder / "application.py").write_text(APPLICATION)
        (folder / "site_of_twistd.py").write_text(SITE)
        self._folder = folder
        self._counts = counts

    async def open(self, also: str = "") -> None:
        """
        Start it, and wait until all workers are ready.

        @param also: a line for each table of workers.
        """
        self._file = write(
            self._folder,
            f'[ports.http]\nlisten = "tcp:{self.port}:interface=127.0.0.1"',
            [
                Workers(
                    name, COMMANDS[name], count, f'folder = "{self._folder}"\n{also}'
                )
                for name, count in self._counts.items()
            ],
        )
        self.process = self._run("run", str(self._file))
        *_, last = self._counts.items()
        await self.process.says(
            rf"{last[1]} of {last[1]} workers of {last[0]} are ready", 60
        )

    def _run(self, *arguments: str) -> Process:
        try:
            words = portlisten(*arguments, modules=self._modules)
        except NoPython as error:
            pytest.skip(str(error))
        return self._start(*words)

    async def restart(self) -> float:
        """
        Replace all workers.

        @return: the seconds that took.
        """
        began = time.monotonic()
        command = self._run("restart", str(self._file))
        await until(lambda: not command.running, "the restart", PATIENCE)
        assert await command.ended() == 0, command.output + self.process.output
        return time.monotonic() - began

    def check(self) -> None:
        """
        Check that no process had a fault.
        """
        for word in ("Traceback", "Unhandled", "never retrieved", "CRITICAL"):
            assert word not in self.process.output, self.process.output


@pytest.mark.parametrize("options", [(), (CLOSE,)], ids=["keepAlive", "close"])
@pytest.mark.parametrize("kind", KINDS if LONG else ["mixed"])
@asynchronous
async def test_restart(
    start: Start, folder: Path, kind: str, options: tuple[str, ...]
) -> None:
    """
    No client has an error: neither wrk's, nor those that are slow to be served, nor
    those that check each answer.
    """
    run = Run(start, folder, KINDS[kind])
    await run.open()
    seconds: list[float] = []
    slow = Requests(run.port, path="/slow/{number}", threads=4)
    quick = Requests(run.port, threads=2, keep=not options)

    async def roll() -> None:
        for _ in range(ROUNDS):
            seconds.append(await run.restart())

    try:
        url = f"http://127.0.0.1:{run.port}/hello"
        load = await wrk(start, url, roll(), *options, connections=16)
    finally:
        for clients in (slow, quick):
            clients.stop()
        await deferToThread(slow.join)
        await deferToThread(quick.join)
    print(
        f"{kind}, {' '.join(options) or 'keep-alive'}: {ROUNDS} restarts of"
        f" {WORKERS} workers in {[round(each, 1) for each in seconds]} s;"
        f" wrk {load.requests} requests, {load.errors} errors ({vars(load)});"
        f" checked {quick.right}, {len(quick.wrong)} wrong, {quick.again} again;"
        f" slow {slow.right}, {len(slow.wrong)} wrong"
    )
    assert load.errors == 0
    assert quick.wrong == slow.wrong == []
    assert quick.again == 0 or not options
    assert load.requests > 300
    assert slow.right >= 4 * ROUNDS
    assert run.process.output.count(" is started as process ") == (
        1 + WORKERS + WORKERS * ROUNDS
    )
    run.check()


@asynchronous
async def test_undrained(start: Start, folder: Path) -> None:
    """
    For comparison: daphne cancels its work at SIGTERM, and so loses requests if it is
    not drained.
    """
    run = Run(start, folder, {"daphne": 1})
    await run.open("grace = 0")
    slow = Requests(run.port, path="/slow/{number}", threads=8)
    try:
        await until(lambda: slow.right > 0, "an answer")
        await run.restart()
    finally:
        slow.stop()
        await deferToThread(slow.join)
    print(f"not drained: {slow.right} answers, {len(slow.wrong)} lost")
    assert slow.wrong
