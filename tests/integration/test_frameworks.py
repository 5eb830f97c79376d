"""
Frameworks of asyncio: the application of each one's own tutorial is served by a worker,
unchanged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.programs import command, needs
from tests.support.spawned import Start, listening

HOST = "portlisten:./socket:name=http"

UVICORN = ["uvicorn", "--loop", "portlisten.asyncio:loop", "--host", HOST]
HYPERCORN = ["hypercorn", "-c", "python:portlisten.hypercorn", "--bind", HOST]
DAPHNE = ["daphne", "-e", HOST]

FASTAPI = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def root():
    return {"message": "Hello World"}
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def homepage(request):
    return JSONResponse({'hello': 'world'})


app = Starlette(debug=True, routes=[
    Route('/', homepage),
])
"""

QUART = """
from quart import Quart

app = Quart(__name__)

@app.route('/')
async def hello():
    return 'hello'

if __name__ == "__main__":
    app.run()
"""

AIOHTTP = """
from aiohttp import web

async def hello(request):
    return web.Response(text="Hello, world")

def init_func(argv):
    app = web.Application()
    app.add_routes([web.get('/', hello)])
    return app
"""

#: The view and the URLs of Django's tutorial.
POLLS = """
from django.http import HttpResponse
from django.urls import path


def index(request):
    return HttpResponse("Hello, world. You're at the polls index.")


urlpatterns = [path("", index, name="index")]
"""


async def answer(
    twistd: Start, start: Start, server: list[str], request: bytes = b"/"
) -> bytes:
    """
    Start a listener and a server, and ask for a page.

    @return: the answer.
    """
    listener = twistd("portlisten", "http=tcp:0", "./socket")
    port = await listening(listener)
    program = start(command(server[0]), *server[1:])
    await listener.says("joined")
    lines = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % request
    received = await ask(port, lines)
    await program.stop()
    assert "Traceback" not in program.output
    return received


@pytest.mark.parametrize(
    "server", [UVICORN, HYPERCORN, DAPHNE], ids=lambda each: each[0]
)
@pytest.mark.parametrize(
    ("package", "application", "expected"),
    [
        ("fastapi", FASTAPI, b'{"message":"Hello World"}'),
        ("starlette", STARLETTE, b'{"hello":"world"}'),
        ("quart", QUART, b"hello"),
    ],
    ids=["fastapi", "starlette", "quart"],
)
@asynchronous
async def test_framework(
    twistd: Start,
    start: Start,
    folder: Path,
    server: list[str],
    package: str,
    application: str,
    expected: bytes,
) -> None:
    """
    FastAPI, Starlette and Quart are served by uvicorn, Hypercorn and daphne.
    """
    needs(package, package)
    needs(server[0], server[0])
    (folder / "main.py").write_text(application)
    received = await answer(twistd, start, [*server, "main:app"])
    assert received.startswith(b"HTTP/1.1 200"), received
    assert received.endswith(expected)


@pytest.mark.parametrize(
    "server", [UVICORN, HYPERCORN, DAPHNE], ids=lambda each: each[0]
)
@asynchronous
async def test_django(
    twistd: Start, start: Start, folder: Path, server: list[str]
) -> None:
    """
    A project of Django is served by uvicorn, Hypercorn and daphne.
    """
    needs("django", "django")
    needs(server[0], server[0])
    make = start(sys.executable, "-m", "django", "startproject", "mysite", ".")
    assert await make.ended() == 0, make.output
    (folder / "polls.py").write_text(POLLS)
    with (folder / "mysite" / "urls.py").open("a") as urls:
        urls.write("\nfrom django.urls import include\n")
        urls.write('urlpatterns += [path("polls/", include("polls"))]\n')
    program = [*server, "mysite.asgi:application"]
    received = await answer(twistd, start, program, b"/polls/")
    assert received.startswith(b"HTTP/1.1 200"), received
    assert received.endswith(b"Hello, world. You're at the polls index.")


@asynchronous
async def test_aiohttp(twistd: Start, start: Start, folder: Path) -> None:
    """
    C{python -m aiohttp.web} serves the application of a function.
    """
    needs("aiohttp", "aiohttp")
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text(AIOHTTP)
    server = ["python", "-m", "aiohttp.web", "-U", HOST]
    program = [*server, "portlisten.aiohttp:app", "package.module:init_func"]
    received = await answer(twistd, start, program)
    assert received.startswith(b"HTTP/1.1 200"), received
    assert received.endswith(b"Hello, world")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "the name of a function is missing after portlisten.aiohttp:app"),
        ("module", "'module' is not of the form my.module:function"),
        ("nomodule:f", "'nomodule:f' cannot be imported: No module named 'nomodule'"),
        ("asyncio:f", "'asyncio:f' cannot be found: module 'asyncio' has no attribute"),
    ],
)
@asynchronous
async def test_wrongFunction(start: Start, name: str, expected: str) -> None:
    """
    If C{portlisten.aiohttp} cannot find the function, it says so in one line.
    """
    needs("aiohttp", "aiohttp")
    server = [sys.executable, "-m", "aiohttp.web", "-U", HOST]
    program = start(*server, "portlisten.aiohttp:app", *name.split())
    assert await program.ended() == 1
    assert program.output.startswith(f"portlisten: {expected}")
    assert program.output.count("\n") == 1
