"""
The request C{status} of a listener, with real processes: the raw lines of the control
socket.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asking import ask, client
from tests.support.asynchronous import asynchronous
from tests.support.spawned import Process, Start, listening, settled, steady
from tests.support.users import unusedUID
from tests.support.waiting import PATIENCE, sleep, together

#: The counters of how connections end, as the document lists them.
ENDS = (
    "finished",
    "lostInService",
    "unusable",
    "timedOut",
    "silentTooLong",
    "goneBeforeAdoption",
    "given",
    "leftWithWorker",
    "handedOver",
    "stopped",
)

LOOPBACK = "http=tcp:0:interface=127.0.0.1"
LINE = b'{"version": 1, "command": "status"}\n'
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: Asks as another user, in any Python, and prints the answer or the error.
STRANGER = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(int(sys.argv[1]))
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(30)
try:
    sock.connect("./socket.ctl")
    try:
        sock.sendall(b'{"version": 1, "command": "status"}\\n')
    except BrokenPipeError:
        pass  # the reason has come already
    print(sock.makefile().readline(), flush=True)
except OSError as error:
    print(error.strerror, flush=True)
"""


class Control:
    """
    The control socket of a listener.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "socket.ctl")

    def connect(self) -> socket.socket:
        """
        Connect a client, which blocks.
        """
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(PATIENCE)
        return sock

    def ask(self) -> dict[str, Any]:
        """
        Ask once.
        """
        with self.connect() as sock, sock.makefile("rb") as file:
            sock.sendall(LINE)
            return answer(file.readline())

    def askOften(self, count: int) -> list[dict[str, Any]]:
        """
        Ask on one connection, again and again.
        """
        with self.connect() as sock, sock.makefile("rb") as file:
            answers = []
            for _ in range(count):
                sock.sendall(LINE)
                answers.append(answer(file.readline()))
            return answers

    async def status(self) -> dict[str, Any]:
        """
        Ask once, while the reactor runs.
        """
        found: dict[str, Any] = await deferToThread(self.ask)
        return found

    async def shows(self, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """
        Ask until the answer is as it should be.
        """
        end = time.monotonic() + PATIENCE
        while not what(found := await self.status()):
            assert time.monotonic() < end, found
            await sleep(0.05)
        return found


def answer(line: bytes) -> dict[str, Any]:
    """
    Read an answer.
    """
    message: dict[str, Any] = json.loads(line)
    assert message["version"] == 1
    assert "error" not in message, message
    assert message["supervisor"] is None
    return message


def addsUp(message: dict[str, Any]) -> None:
    """
    Check that each connection is in one place.
    """
    listener = message["listener"]
    counters, held = listener["counters"], listener["held"]
    assert sorted(held) == ["claimed", "departed", "offered", "waiting"]
    ended = sum(counters[name] for name in ENDS)
    assert counters["accepted"] == sum(held.values()) + ended, message
    assert held["waiting"] == sum(each["waiting"] for each in listener["queues"])
    for place in ("offered", "claimed"):
        # A worker that has just died may not be listed any more.
        assert held[place] >= sum(each[place] for each in listener["workers"])
    for each in listener["workers"]:
        assert each["connections"] == each["offered"] + each["claimed"]
        assert each["offered"] <= each["window"]


@pytest.fixture
def control(folder: Path) -> Control:
    """
    The control socket of the listener.
    """
    return Control(folder)


async def worker(twistd: Start, label: str, folder: Path) -> Process:
    """
    Start C{twistd web}.
    """
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www" / "index.html").write_text("hello")
    description = f"portlisten:./socket:name=http:label={label}"
    process = twistd("web", f"--listen={description}", "--path=www")
    await process.says("[Jj]oined|accepting")
    return process


@asynchronous
async def test_storm(twistd: Start, folder: Path, control: Control) -> None:
    """
    While clients come and workers are killed, each answer adds up, and in the end all
    connections have ended, as the clients have seen it.
    """
    listener = twistd("portlisten", "--listen", LOOPBACK, "./socket")
    port = await listening(listener)
    workers = [await worker(twistd, f"web-{n}", folder) for n in range(2)]
    found = await control.shows(lambda each: len(each["listener"]["workers"]) == 2)
    labels = [each["label"] for each in found["listener"]["workers"]]
    assert sorted(labels) == ["web-0", "web-1"]
    pids = {each["pid"] for each in found["listener"]["workers"]}
    assert pids == {each.pid for each in workers}
    seen: set[str] = set()
    asked = 0
    served: list[Any] = []
    for number in range(2, 8):
        clients = [client(port, GET) for _ in range(60)]
        asking = deferToThread(control.askOften, 200)
        await sleep(0.1)
        await workers.pop(0).kill()
        workers.append(await worker(twistd, f"web-{number}", folder))
        for message in await asking:
            addsUp(message)
            asked += 1
            held = message["listener"]["held"]
            seen.update(name for name in held if held[name])
        served += [each for each, _ in await together(clients)]
    assert asked == 1200
    assert "claimed" in seen
    found = await control.shows(lambda each: not any(each["listener"]["held"].values()))
    addsUp(found)
    counters = found["listener"]["counters"]
    assert counters["accepted"] == len(served) == 360
    whole = sum(isinstance(each, bytes) and b"hello" in each for each in served)
    assert counters["finished"] + counters["lostInService"] == 360
    assert whole >= counters["finished"]
    assert counters["finished"] > 0
    workers[0].signal(15)
    await workers[0].ended()
    found = await control.shows(lambda each: len(each["listener"]["workers"]) == 1)
    assert found["listener"]["ports"] == [
        {
            "name": "http",
            "address": f"tcp:127.0.0.1:{port}",
            "shared": False,
            "workers": 1,
            "waiting": 0,
            "unserved": False,
        }
    ]


@asynchronous
async def test_ends(twistd: Start, folder: Path, control: Control) -> None:
    """
    A worker that stops while it serves keeps its connections: they have left with it.
    One that is killed loses them.
    """
    listener = twistd("portlisten", "--listen", LOOPBACK, "./socket")
    port = await listening(listener)
    first = await worker(twistd, "web-1", folder)
    with ExitStack() as stack:

        def request() -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(GET[: len(GET) // 2])
            return sock

        for _ in range(3):
            request()
        await control.shows(lambda each: each["listener"]["held"]["claimed"] == 3)
        await sleep(0.5)  # the server has read
        await first.kill()
        found = await control.shows(
            lambda each: each["listener"]["counters"]["lostInService"] == 3
        )
        addsUp(found)
        await worker(twistd, "web-2", folder)
        kept = request()
        await control.shows(lambda each: each["listener"]["held"]["claimed"] == 1)
        kept.close()
        found = await control.shows(
            lambda each: each["listener"]["counters"]["finished"] == 1
        )
        addsUp(found)


@asynchronous
async def test_unserved(twistd: Start, control: Control) -> None:
    """
    Clients wait, and nobody serves them: the answer says so in a sentence.
    """
    https = "https=tcp:0:interface=127.0.0.1"
    listener = twistd("portlisten", "--queue=8", "--listen", https, "./socket")
    port = await listening(listener)
    found = await control.status()
    expected = "nobody serves https: its next connections will wait"
    assert found["problems"] == [expected]
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        found = await control.shows(
            lambda each: each["listener"]["queues"][0]["oldest"] >= 1
        )
        (problem,) = found["problems"]
        assert problem.startswith("nobody serves https: 8 connections wait, the oldest")
        assert problem.endswith("; its queue is full, and 4 more wait in the kernel")
        assert found["listener"]["ports"][0]["waiting"] == 4
    await control.shows(lambda each: not each["listener"]["held"]["waiting"])


@asynchronous
async def test_twelve(twistd: Start, control: Control) -> None:
    """
    Twelve clients wait.
    """
    https = "https=tcp:0:interface=127.0.0.1"
    port = await listening(twistd("portlisten", "--listen", https, "./socket"))
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        found = await control.shows(
            lambda each: each["listener"]["queues"][0]["oldest"] >= 1
        )
        seconds = round(found["listener"]["queues"][0]["oldest"])
        assert found["problems"] == [
            f"nobody serves https: 12 connections wait, the oldest for {seconds} s"
        ]


@asynchronous
async def test_leaks(twistd: Start, folder: Path, control: Control) -> None:
    """
    A thousand calls, and a thousand clients that send half a line or garbage, or leave
    their answers unread, leave no descriptor behind.  Meanwhile others are answered.
    """
    listener = twistd("portlisten", "--listen", LOOPBACK, "./socket")
    port = await listening(listener)
    await worker(twistd, "web-1", folder)
    # The first connection makes the listener open a descriptor that it keeps.
    assert b"hello" in await ask(port, GET)
    await control.shows(lambda each: each["listener"]["counters"]["finished"] == 1)
    before = await steady(listener)

    def call() -> None:
        for _ in range(1000):
            control.ask()

    def crowd() -> None:
        with ExitStack() as stack:
            for number in range(1000):
                sock = stack.enter_context(control.connect())
                data = (LINE[:9], b"\0\xff{[\n", LINE * 1000, b"")[number % 4]
                try:
                    sock.setblocking(False)
                    sock.send(data)
                except OSError:
                    pass  # it had to make way already
                if number % 100 == 99:
                    addsUp(control.ask())
            assert listener.descriptors() <= before + 10

    await deferToThread(call)
    await deferToThread(crowd)
    assert b"hello" in await ask(port, GET)
    await control.status()
    # It keeps one more if a client was silent for a moment for the first time.
    assert await settled(listener, before) <= before + 1


@asynchronous
async def test_users(
    root: None, twistd: Start, start: Start, folder: Path, control: Control
) -> None:
    """
    Root may ask, and so may the user that the listener has become.  Others may not,
    even if the path's mode lets them connect.
    """
    listener = twistd(
        "portlisten", "--listen", LOOPBACK, "./socket", uid=65534, gid=65534
    )
    await listening(listener)
    status = os.stat(control.path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 65534)
    addsUp(control.ask())

    async def asked(uid: int) -> str:
        process = start(sys.executable, "-c", STRANGER, str(uid))
        await process.ended()
        return process.output

    message = answer((await asked(65534)).encode())
    assert message["listener"]["uid"] == 65534
    stranger = unusedUID()
    assert await asked(stranger) == "Permission denied\n"
    os.chmod(control.path, 0o666)
    refused = json.loads(await asked(stranger))
    rule = "only root and uid 65534 may"
    assert refused == {"version": 1, "error": f"uid {stranger} may not ask: {rule}"}
    assert f"of uid {stranger} may not use the control socket" in listener.output
    assert json.loads(await asked(65534))["listener"]["uid"] == 65534
