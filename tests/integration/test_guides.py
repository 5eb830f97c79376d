"""
The programs in the guides do what the guides say.
"""

from __future__ import annotations

import re
import socket
import sys
import textwrap
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.integration.test_servers import shakeHands
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.programs import command, needs
from tests.support.spawned import Start, listening

DOCS = Path(__file__).parents[2] / "docs"

#: An ASGI application that is slow to answer, and keeps WebSockets.
APPLICATION = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
    else:
        print("asked", flush=True)
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the answer"})
"""

#: Serves one client of descriptor 3, if the environment says that it is this
#: process's, and says whether small answers are sent at once.
PASSED = """
import os, select, socket

assert os.environ["LISTEN_PID"] == str(os.getpid()), "not this process's"
print("ready", flush=True)
with socket.socket(fileno=3) as listening:
    select.select([listening], [], [])
    client, _ = listening.accept()
    nodelay = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.sendall(b"nodelay" if nodelay else b"delay")
    client.close()
"""


def shown(guide: str, line: str) -> str:
    """
    Find a program in a guide.

    @param line: a line of it.
    @return: the block that has the line, without its indentation.
    """
    text = (DOCS / guide).read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    [found] = [block for _, block in blocks if line in block]
    return textwrap.dedent(found)


def closeFrame(sock: socket.socket) -> bytes:
    """
    Read from a WebSocket to its end, or to the code of a frame that closes it.

    @return: the code, or nothing.
    """
    received = b""
    while b"\x88\x02" not in received:
        data = sock.recv(1000)
        if not data:
            return b""
        received += data
    return received.partition(b"\x88\x02")[2]


@asynchronous
async def test_daphneFinishes(twistd: Start, start: Start, folder: Path) -> None:
    """
    Daphne, run as the guide says, answers the requests in hand when it is told to
    stop, and says goodbye to WebSockets.
    """
    needs("daphne", "daphne")
    (folder / "module.py").write_text(APPLICATION)
    (folder / "run.py").write_text(shown("servers.md", "from daphne.server import"))
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    daphne = start(sys.executable, "run.py", "-e", "portlisten:./socket", "module:app")
    await listener.says("joined")
    with await deferToThread(shakeHands, port, "/") as sock:
        sock.settimeout(10)
        assert (await deferToThread(sock.recv, 1000)).startswith(b"HTTP/1.1 101 ")
        request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = Deferred.fromCoroutine(ask(port, request))
        await daphne.says("asked")
        stopped = daphne.stop()
        code = await deferToThread(closeFrame, sock)
        assert int.from_bytes(code, "big") == 1001
        assert b"the answer" in await answer
    await stopped
    assert "Traceback" not in daphne.output


@asynchronous
async def test_forkingHelper(twistd: Start, start: Start, folder: Path) -> None:
    """
    A program that was forked for another user gets its sockets, if a shell corrects
    C{LISTEN_PID} as the guide says.
    """
    (folder / "server.py").write_text(PASSED)
    [corrected] = re.findall(
        r"runuser -u web -- sh -c '(LISTEN_PID=.* exec) gunicorn example:app'",
        (DOCS / "operators.md").read_text(),
    )
    listener = twistd("portlisten", "--share=tcp:0:interface=127.0.0.1", "./socket")
    port = await listening(listener)
    program = f"{sys.executable} server.py"
    # The shell forks for all but its last command.
    for shell in (f"{program}; true", f"sh -c '{corrected} {program}'; true"):
        server = start(command("portlisten"), "exec", "./socket", "sh", "-c", shell)
        if "LISTEN_PID" in shell:
            assert await ask(port) == b"delay"
        else:
            await server.says("not this process's")
        assert await server.ended() == 0
