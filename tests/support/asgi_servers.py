"""
Servers of asyncio as workers: their commands, and several of them that are replaced.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificates import Certificates
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import sleep

#: An ASGI application: quick at C{/}, slow at C{/slow}, and a WebSocket that echoes.
APPLICATION = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    if scope["path"] == "/slow":
        print("asked", flush=True)
        await asyncio.sleep(1)
    headers = [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\\n"})
"""

#: Its name for servers.
APP = "app:app"

#: The same for aiohttp, and a program that runs it.
AIOHTTP = """
import asyncio
import ssl
import sys

from aiohttp import web

import portlisten.asyncio

async def hello(request):
    return web.Response(text="hello\\n")

async def slow(request):
    print("asked", flush=True)
    await asyncio.sleep(1)
    return web.Response(text="hello\\n")

async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket

def make(arguments):
    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/slow", slow), web.get("/ws", echo)])
    return app

if __name__ == "__main__":
    path, loop, *files = sys.argv[1:]
    context = None
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*files)
    loop = getattr(portlisten.asyncio, loop)()
    web.run_app(
        make([]), path=path, loop=loop, ssl_context=context, access_log=None
    )
"""


@dataclass(frozen=True)
class Kind:
    """
    A kind of server.

    @ivar package: what it needs.
    @ivar arguments: makes its command from a description and the files of TLS, if any.
    """

    package: str
    arguments: Callable[[str, Certificates | None], Sequence[str]]


def _uvicorn(loop: str, *options: str) -> Kind:
    def arguments(host: str, tls: Certificates | None) -> list[str]:
        own = [
            "--loop",
            f"portlisten.asyncio:{loop}",
            "--host",
            host,
            "--no-access-log",
        ]
        files = _files(tls, "--ssl-certfile", "--ssl-keyfile")
        return [command("uvicorn"), *own, *options, *files, APP]

    return Kind("uvicorn", arguments)


def _hypercorn(*options: str) -> Kind:
    def arguments(host: str, tls: Certificates | None) -> list[str]:
        own = ["-c", "python:portlisten.hypercorn", "--bind", host]
        files = _files(tls, "--certfile", "--keyfile")
        return [command("hypercorn"), *own, *options, *files, APP]

    return Kind("hypercorn", arguments)


def _aiohttp(loop: str) -> Kind:
    def arguments(host: str, tls: Certificates | None) -> list[str]:
        files = [] if tls is None else [str(tls.certificate), str(tls.key)]
        return [sys.executable, "server.py", host, loop, *files]

    return Kind("aiohttp", arguments)


def _files(tls: Certificates | None, certificate: str, key: str) -> list[str]:
    if tls is None:
        return []
    return [certificate, str(tls.certificate), key, str(tls.key)]


KINDS = {
    "uvicorn-asyncio": _uvicorn("asyncioLoop", "--no-access-log", "--http", "h11"),
    "uvicorn-uvloop": _uvicorn("uvloopLoop", "--no-access-log", "--http", "httptools"),
    "hypercorn": _hypercorn(),
    "hypercorn-uvloop": _hypercorn("--worker-class", "uvloop"),
    "aiohttp": _aiohttp("asyncioLoop"),
    "aiohttp-uvloop": _aiohttp("uvloopLoop"),
}


def write(folder: Path) -> None:
    """
    Write the applications into a folder.
    """
    (folder / "app.py").write_text(APPLICATION)
    (folder / "server.py").write_text(AIOHTTP)


@dataclass
class Fleet:
    """
    A listener and its workers.

    @ivar workers: those that serve.
    @ivar gone: those that were stopped.
    """

    start: Start
    twistd: Start
    folder: Path
    kind: Kind
    tls: Certificates | None = None
    workers: list[Process] = field(default_factory=list)
    gone: list[Process] = field(default_factory=list)

    async def open(self, count: int) -> str:
        """
        Start the listener and so many workers.

        @return: the URL.
        """
        write(self.folder)
        self.listener = self.twistd("portlisten", "http=tcp:0", "./socket")
        self.port = await listening(self.listener)
        for _ in range(count):
            self.workers.append(await self.add())
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/"

    def clients(self, *options: str) -> Clients:
        """
        Start clients in a process of their own.

        @param options: those of L{tests.support.asgi_clients}.
        """
        tls = [] if self.tls is None else ["--tls"]
        return Clients.begin(self.start, self.port, *tls, *options)

    async def add(self) -> Process:
        """
        Start a worker, and wait until it has joined.
        """
        description = "portlisten:./socket:name=http"
        worker = self.start(*self.kind.arguments(description, self.tls))
        await self.listener.says(rf"pid {worker.pid}\b.* joined")
        return worker

    async def replace(self, number: int = signal.SIGTERM, drain: bool = False) -> None:
        """
        Start a worker, and stop the oldest one.

        @param number: the signal that stops it.
        @param drain: whether C{portlisten drain} comes first.
        """
        self.workers.append(await self.add())
        oldest = self.workers.pop(0)
        if drain:
            await self.drain(oldest)
        oldest.signal(number)
        await oldest.ended()
        self.gone.append(oldest)

    async def drain(self, worker: Process) -> str:
        """
        Drain a worker, and wait until it is drained.

        @return: what the command says.
        """
        command_ = self.start(
            command("portlisten"), "drain", "./socket", str(worker.pid)
        )
        assert await command_.ended() == 0, command_.output
        return command_.output

    async def counters(self) -> dict[str, int]:
        """
        Return the listener's counters.
        """
        self.listener.signal(signal.SIGUSR1)
        match = await self.listener.says(r"since the start: (.*)")
        return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", match[1])}

    def check(self) -> None:
        """
        Check that no process had a fault.
        """
        for process in [self.listener, *self.workers, *self.gone]:
            for word in ("Traceback", "Unhandled", "never retrieved", "ERROR"):
                assert word not in process.output, process.output


@dataclass
class Clients:
    """
    Clients in a process of their own.
    """

    process: Process

    @classmethod
    def begin(cls, start: Start, port: int, *options: str) -> Clients:
        """
        Start them.

        @param options: those of L{tests.support.asgi_clients}.
        """
        root = str(Path(__file__).parents[2])
        program = [sys.executable, "-m", "tests.support.asgi_clients", str(port)]
        return cls(start("env", f"PYTHONPATH={root}", *program, *options))

    async def end(self) -> dict[str, Any]:
        """
        Let them finish.

        @return: their figures.
        """
        self.process.signal(signal.SIGINT)
        assert await self.process.ended() == 0, self.process.output
        figures: dict[str, Any] = json.loads(self.process.output.splitlines()[-1])
        return figures


async def begun(seconds: float = 1.0) -> None:
    """
    Wait until clients that were just started are at work.
    """
    await sleep(seconds)
