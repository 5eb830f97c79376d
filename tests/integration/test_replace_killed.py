"""
A listener, or the next one, is killed at chosen system calls of a takeover.

If C{PORTLISTEN_ROUNDS} is set, at so many.
"""

from __future__ import annotations

import re
import signal
import socket
from contextlib import suppress
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import read
from tests.support.killing import BY_TIME, attached, dying, points, recording, some
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.replacing import ROUNDS, SERVES, Make, Replaced
from tests.support.spawned import Process, Start
from tests.support.waiting import PATIENCE, sleep, until

REQUEST = b"GET /word HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"

#: How many clients wait during each takeover.
CLIENTS = 30


class Scene:
    """
    A listener, and a worker that an operator has drained, so that clients wait.

    @param queue: how many clients the listener accepts.
    """

    def __init__(self, replaced: Make, folder: Path, start: Start, queue: int) -> None:
        self._start = start
        self.folder = folder
        self.port = freePort(28000, 29000)
        self.made: Replaced = replaced(
            f"--listen=http=tcp:{self.port}",
            f"--listen=local=unix:{folder / 'www'}",
            f"--queue={queue}",
        )
        self.queue = queue
        self.clients: list[socket.socket] = []

    async def begin(self) -> None:
        """
        Start the listener and the worker, and drain it.
        """
        await self.made.replace()
        await self.made.work("asyncio")
        await self.drain()

    async def drain(self) -> None:
        """
        Drain the worker.
        """
        worker = str(self.made.workers[0].pid)
        await self.isInState("serving")
        await self.made.ask("drain", workers=[worker])
        await self.isInState("drained")

    async def isInState(self, state: str) -> None:
        """
        Wait until the worker has joined, and is in a state.
        """
        await self.made.shows(
            lambda status: [each["state"] for each in status["workers"]] == [state]
        )

    async def wait(self) -> None:
        """
        Let clients wait.
        """
        self.clients = [self.made.connect(self.port) for _ in range(CLIENTS)]
        for each in self.clients:
            each.sendall(REQUEST)
        held = min(self.queue, CLIENTS)
        await self.made.shows(
            lambda status: (
                status["held"]["waiting"] == held
                and sum(each["waiting"] or 0 for each in status["ports"])
                == CLIENTS - held
            )
        )

    def successor(self, *before: str) -> Process:
        """
        Start a successor.

        @param before: the beginning of its command line.
        """
        return self._start(
            *before,
            *(command("twistd"), "-n", "--pidfile=", "portlisten", "--replace"),
            *(*self.made.arguments, self.made.path),
        )

    def answers(self) -> int:
        """
        Read what the clients get.

        @return: how many are answered.  All others are reset.
        """
        count = sum(map(_answer, self.clients))
        for each in self.clients:
            each.close()
        return count

    async def undrain(self) -> None:
        """
        Let the worker serve.
        """
        worker = str(self.made.workers[0].pid)
        await self.made.ask("undrain", workers=[worker])

    async def settled(self, old: Process) -> bool:
        """
        After the death of a successor: wait until the old listener serves, or has
        ended.

        @return: whether it serves.
        """
        while old.running:
            with suppress(OSError, ValueError):
                status = await self.made.ask("status")
                if status["listener"]["pid"] == old.pid:
                    return True
            await sleep(0.02)
        return False


def _answer(client: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return read(client).startswith(b"HTTP/1.1 200 ")
    return False


async def killed(process: Process) -> None:
    """
    Wait until a successor is killed.  It may not come to the last calls so often as the
    one that was recorded, so it is killed at the end of its takeover at the latest.
    """
    await until(
        lambda: not process.running or "has handed over" in process.output,
        "the death of the successor",
        PATIENCE,
    )
    code = await process.kill()
    # On a busy machine, the old one may take too long to say that it does not stop.
    early = code == 1 and "there is none to take over from" in process.output
    assert early or code == -signal.SIGKILL, process.output
    assert "Traceback" not in process.output


def handedOver(old: Process) -> int:
    """
    What a listener says at its end of how many clients it has handed over.
    """
    match = re.search(r"handedOver (\d+)", old.output)
    assert match is not None, old.output
    return int(match[1])


@asynchronous
async def test_successor(replaced: Make, folder: Path, start: Start) -> None:
    """
    The next one is killed: the old one answers everybody whom the next one had not
    claimed, and counts the others.  The worker that was drained is drained still.
    """
    scene = Scene(replaced, folder, start, 1000)
    made = scene.made
    await scene.begin()
    file = folder / "calls"
    await scene.wait()
    process = scene.successor(*recording(file))
    assert await made.listener.ended() == 0
    await process.says(f"handed over {CLIENTS} connections")
    made.listeners.append(process)
    # A recorded process is slow.
    await made.replace()
    every = points(
        file,
        lambda line: line.startswith("connect(") and ".ctl" in line,
        lambda line: "all is handed over" in line,
    )
    await scene.isInState("drained")
    await scene.undrain()
    assert await deferToThread(scene.answers) == CLIENTS
    lost: list[int] = []
    for point in some(every, ROUNDS or 6):
        old = made.listener
        await scene.drain()
        before = (await made.ask("status"))["listener"]["counters"]["handedOver"]
        await scene.wait()
        process = scene.successor(*dying(point))
        await killed(process)
        if await scene.settled(old):
            await scene.isInState("drained")
            status = await made.ask("status")
            count = status["listener"]["counters"]["handedOver"] - before
            await scene.undrain()
        else:
            count = handedOver(old) - before
            await made.replace()
        answered = await deferToThread(scene.answers)
        print(point, f"{count} handed over, {answered} answered")
        assert answered == CLIENTS - count, (point, old.output)
        lost.append(count)
    assert lost[0] == 0
    made.check()


@asynchronous
async def test_old(replaced: Make, folder: Path, start: Start) -> None:
    """
    The old one is killed: the next one answers everybody whom the old one had not
    accepted, or has handed over.
    """
    scene = Scene(replaced, folder, start, 10)
    made = scene.made
    await scene.begin()
    file = folder / "calls"
    await scene.wait()
    async with attached(start, made.listener, *recording(file)):
        await made.replace()
    every = points(
        file,
        lambda line: "SCM_RIGHTS" in line,
        lambda line: "all is handed over" in line,
        without=BY_TIME,
    )
    await scene.undrain()
    assert await deferToThread(scene.answers) == CLIENTS
    came: list[int] = []
    for point in some(every[1:], ROUNDS or 5):
        old = made.listener
        await scene.drain()
        await scene.wait()
        async with attached(start, old, *dying(point)):
            process = made.launch()
            await process.says(SERVES)
            code = await old.ended()
        made.listeners.append(process)
        await made.shows(lambda status: len(status["workers"]) == 1)
        await scene.undrain()
        answered = await deferToThread(scene.answers)
        match = re.search(r"(?:handed over|lost;) (\d+) connections", process.output)
        count = int(match[1]) if match is not None else 0
        print(point, code, f"{count} came, {answered} answered")
        assert code == -signal.SIGKILL
        # Up to then, the sockets are the old one's alone, and end with it.
        early = "there is none to take over from" in process.output
        expected = 0 if early else CLIENTS - 10 + count
        assert answered == expected, (point, old.output, process.output)
        came.append(count)
    assert came[0] == 0
    made.check()
