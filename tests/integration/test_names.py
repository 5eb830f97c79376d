"""
Several pools of workers behind one listener, told apart by the names of ports.
"""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from tests.support.asking import askMany
from tests.support.asynchronous import asynchronous
from tests.support.spawned import Process, Start

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


async def ports(listener: Process, *names: str) -> list[int]:
    """
    Wait for a listener, and return the numbers of its ports by their names.
    """
    await listener.says("listening on.*workers connect")
    return [
        int((await listener.says(rf"\b{name}=tcp:0\.0\.0\.0:(\d+)"))[1])
        for name in names
    ]


async def askFor(port: int, count: int, atOnce: int) -> list[str]:
    """
    Run many clients that ask for a page.

    @return: the different answers' texts.
    """
    answers, _ = await askMany(port, count, atOnce, REQUEST)
    assert len(answers) == count
    texts = set()
    for answer in answers:
        assert isinstance(answer, bytes), answer
        assert answer.split(b"\r\n", 1)[0].endswith(b"200 OK")
        texts.add(answer.partition(b"\r\n\r\n")[2].decode())
    return sorted(texts)


@asynchronous
async def test_pools(twistd: Start, folder: Path) -> None:
    """
    Each pool serves its own port.  While one pool is away, and more clients wait for it
    than its queue holds, the other pool goes on; the waiting clients are answered when
    the first comes back.  A worker that asks for no name gets both ports.
    """

    def worker(text: str, options: str) -> Process:
        site = folder / text
        site.mkdir(exist_ok=True)
        site.joinpath("index.html").write_text(text)
        port = f"--port=portlisten:./socket{options}"
        return twistd("web", port, f"--path={text}", "--logfile=/dev/null")

    listener = twistd(
        "portlisten", "--queue=20", "--listen=http=0", "https=0", "./socket"
    )
    http, https = await ports(listener, "http", "https")
    away = [worker("plain", ":name=http") for _ in range(2)]
    stay = [worker("secret", ":name=https") for _ in range(2)]
    for each in away + stay:
        await each.says("joined the listener")
    assert "https=tcp" not in away[0].output
    assert await askFor(http, 100, 16) == ["plain"]
    assert await askFor(https, 100, 16) == ["secret"]

    assert await gatherResults([each.stop() for each in away]) is not None
    waiting = Deferred.fromCoroutine(askFor(http, 200, 200))
    began = time.monotonic()
    assert await askFor(https, 500, 32) == ["secret"]
    seconds = time.monotonic() - began
    assert not waiting.called
    began = time.monotonic()
    worker("plain", ":name=http")
    assert await waiting == ["plain"]
    print(
        f"200 wait for a pool that is away, queue 20; meanwhile the other served"
        f" 500 in {seconds:.2f} s; answered {time.monotonic() - began:.2f} s after"
        " the first of it started"
    )

    both = worker("both", "")
    await both.says("joined the listener.*http=.*, https=|https=.*, http=")
    await gatherResults([each.stop() for each in stay])
    assert await askFor(https, 100, 16) == ["both"]
    assert "both" in await askFor(http, 100, 16)
    assert await listener.stop() == 0
    assert "timedOut 0" in listener.output
