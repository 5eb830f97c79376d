"""
Listeners and workers of the release before this version work with those of this one.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import gatherResults

from tests.support.asking import askMany
from tests.support.asynchronous import asynchronous
from tests.support.programs import command
from tests.support.releases import unpack
from tests.support.spawned import Process, Start, listening

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def bodies(answers: Sequence[bytes | BaseException]) -> list[bytes | BaseException]:
    """
    Return what comes after the headers of answers.
    """
    return [
        each.rpartition(b"\r\n")[2] if isinstance(each, bytes) else each
        for each in answers
    ]


@pytest.fixture
def before(start: Start, folder: Path) -> Callable[..., Process]:
    """
    A function that starts C{twistd} with the release before this version.
    """
    path = unpack(folder)

    def run(*arguments: str) -> Process:
        return start(
            "/usr/bin/env",
            path,
            command("twistd"),
            "--nodaemon",
            "--pidfile=",
            *arguments,
        )

    return run


def test_isBefore(folder: Path) -> None:
    """
    The release is an older one.
    """
    output = subprocess.run(
        ["/usr/bin/env", unpack(folder), command("twistd"), "portlisten", "--version"],
        stdout=subprocess.PIPE,
        check=True,
        cwd=folder,
    ).stdout
    assert output.startswith(b"portlisten 0.1.0,")


@asynchronous
async def test_newWorkers(before: Start, twistd: Start, folder: Path) -> None:
    """
    An older listener knows nothing of limits, labels and first bytes.  Workers that say
    so serve all the same, stop in good order, and find the listener again.
    """
    folder.joinpath("index.html").write_text("hello")
    listener = before("portlisten", "0", "./socket")
    port = await listening(listener)
    workers = [
        twistd(
            "web",
            f"--listen=portlisten:./socket:limit=8:first=yes:label=web-{number}",
            "--path=.",
        )
        for number in range(2)
    ]
    await gatherResults([each.says("joined the listener") for each in workers])
    answers, _ = await askMany(port, 300, 16, REQUEST)
    assert bodies(answers) == [b"hello"] * 300
    await listener.kill()
    listener = before("portlisten", "0", "./socket")
    port = await listening(listener)
    await listener.says("worker 2.*joined")
    assert await workers[0].stop() in (0, -signal.SIGTERM)
    answers, _ = await askMany(port, 100, 16, REQUEST)
    assert bodies(answers) == [b"hello"] * 100
    assert await listener.stop() == 0
    assert "Traceback" not in listener.output + workers[1].output


@asynchronous
async def test_newListener(
    before: Start, twistd: Start, start: Start, folder: Path
) -> None:
    """
    Older workers serve what a listener of this version hands off and shares, stop in
    good order, and find the listener again.  They cannot be asked to drain, and whoever
    tries is told so.
    """
    folder.joinpath("index.html").write_text("hello")

    def listen() -> Process:
        return twistd(
            "portlisten", "--listen=http=0", "--share=shared=tcp:0", "./socket"
        )

    async def answer(listener: Process, count: int) -> None:
        for name in ("http", "shared"):
            port = int((await listener.says(rf"\b{name}=tcp:0\.0\.0\.0:(\d+)"))[1])
            answers, _ = await askMany(port, count, 16, REQUEST)
            assert bodies(answers) == [b"hello"] * count

    listener = listen()
    await listening(listener)
    workers = [
        before("web", "--listen=portlisten:./socket", "--path=.") for _ in range(2)
    ]
    await gatherResults([each.says("joined the listener") for each in workers])
    await answer(listener, 300)
    drain = start(
        command("portlisten"), "drain", "--timeout=1", "./socket", str(workers[0].pid)
    )
    assert await drain.ended() == 1
    assert "older" in drain.output
    await listener.kill()
    listener = listen()
    await listening(listener)
    await listener.says("worker 2.*joined")
    assert await workers[0].stop() in (0, -signal.SIGTERM)
    await answer(listener, 100)
    await workers[1].kill()
    await listener.says("died")
    assert await listener.stop() == 0
    assert "Traceback" not in listener.output + workers[1].output
