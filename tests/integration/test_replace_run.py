"""
C{portlisten run} replaces its listener while it serves, by C{portlisten upgrade} and by
a reload that the listener has to be started anew for, and no client notices.

If C{PORTLISTEN_ROUNDS} is set, so many listeners follow one another.
"""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import connect, read
from tests.support.replacing import ROUNDS, Clients, Make, Ports, checkNotes
from tests.support.running import IS_ROOT, LISTENER_USER, WORKER_USER, Run
from tests.support.spawned import Start, settled, steady
from tests.support.waiting import sleep, until


class Supervised:
    """
    A supervisor with ports of all kinds, and four workers.

    @ivar notes: the file of the workers.
    @ivar grace: a setting that the listener has to be started anew for.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ports = Ports.free(run.folder)
        self.notes = run.folder / "notes"
        self.notes.touch()
        self.notes.chmod(0o666)
        self.grace = 10
        run.port = self.ports.http

    def write(self) -> None:
        """
        Write the file.
        """
        run = self.run
        lines = [f'path = "{run.path}"', f"grace = {self.grace}"]
        if IS_ROOT:
            lines += [f'user = "{LISTENER_USER}"', f'group = "{WORKER_USER}"']
        tables = [
            run.table(
                kind,
                run.module(
                    *("tests.support.noting_server", kind, "{path}", str(self.notes)),
                    ",".join(self.ports.names()),
                ),
                "count = 2",
            )
            for kind in ("twisted", "asyncio")
        ]
        run.file.write_text("\n".join([*lines, self.ports.tables(), *tables, ""]))

    async def start(self) -> None:
        """
        Write the file, start the supervisor, and wait until all workers are ready.
        """
        self.write()
        self.run.launch()
        await self.run.ready()

    async def listener(self) -> int:
        """
        The number of the process that serves.
        """
        status = await self.run.ask("status")
        number: int = status["supervisor"]["listener"]["pid"]
        return number

    async def upgrade(self) -> None:
        """
        Replace the listener, and wait until the one before it has ended, and all
        workers have joined.
        """
        old = await self.listener()
        done = await self.run.command("upgrade", str(self.run.file))
        assert done.code == 0, done.errors + self.run.process.output
        await self.hasChanged(old)

    async def reload(self, bySignal: bool = False) -> None:
        """
        The same by a change of the file.
        """
        old = await self.listener()
        self.grace += 1
        self.write()
        if bySignal:
            self.run.process.signal(signal.SIGHUP)
        else:
            done = await self.run.command("reload", str(self.run.file))
            assert done.code == 0, done.errors + self.run.process.output
        await self.hasChanged(old)

    async def hasChanged(self, old: int) -> None:
        """
        Wait until another listener serves, and all workers have joined it.
        """

        def joined(status: dict[str, Any]) -> bool:
            listener = status.get("listener") or {"pid": old}
            return (
                listener["pid"] != old
                and len({each["pid"] for each in listener["workers"]}) == 4
                and not status["supervisor"]["operation"]
            )

        await self.run.shows(joined)
        await until(lambda: not os.path.exists(f"/proc/{old}"), "the old one's end")


@asynchronous
async def test_underLoad(run: Run, folder: Path, start: Start) -> None:
    """
    Each kind of port, with clients that keep their connections and others that do not,
    is taken over by one listener after the other.  No client is refused, reset or
    served twice, the workers stay, and the supervisor keeps no descriptor.
    """
    made = Supervised(run)
    await made.start()
    before = await steady(run.process)
    clients = Clients(folder, start, 8, made.ports.targets())
    await clients.progress()
    for number in range(ROUNDS or 4):
        if number % 2:
            await made.reload(bySignal=number % 4 == 3)
        else:
            await made.upgrade()
        await clients.progress()
    found = await clients.finish()
    print(found["answers"], found["servers"])
    checkNotes(made.notes, found)
    assert len(found["servers"]) == 4
    assert await settled(run.process, before) == before
    assert len(run.members()) == 6
    await run.stop()
    assert not os.path.lexists(made.ports.local)
    assert "Traceback" not in run.process.output, run.process.output


@asynchronous
async def test_operator(run: Run) -> None:
    """
    A worker that an operator has drained stays drained, and a pause goes on, whichever
    listener serves by then.
    """
    made = Supervised(run)
    await made.start()
    assert (await run.command("drain", run.path, "twisted-1")).code == 0
    assert (await run.command("pause", run.path)).code == 0
    await made.upgrade()
    await made.reload()
    status = await run.shows(
        lambda status: (
            {
                each["state"]
                for each in status["listener"]["workers"]
                if each["label"] == "twisted-1"
            }
            == {"drained"}
        )
    )
    assert status["listener"]["paused"]
    states = [each["state"] for each in status["listener"]["workers"]]
    # It has two channels, since it serves a UDP port as well.
    assert states.count("drained") == 2
    assert set(states) == {"drained", "serving"}
    await run.stop()
    assert "Traceback" not in run.process.output, run.process.output


@asynchronous
async def test_killed(run: Run, folder: Path, start: Start) -> None:
    """
    The old listener or the next one is killed during a replacement, early or late.  One
    serves then, no process and no descriptor is left, and the next replacement goes
    well.
    """
    chance = random.Random(9)
    made = Supervised(run)
    await made.start()
    before = await steady(run.process)
    for number in range(ROUNDS or 4):
        old = await made.listener()
        began = len(run.process.output)
        asked = Deferred.fromCoroutine(run.command("upgrade", str(run.file)))
        heir = await startedSince(run, began)
        await sleep(chance.random() * 0.5)
        with suppress(ProcessLookupError):  # the old one may have ended
            os.kill((old, heir)[number % 2], signal.SIGKILL)
        done = await asked
        assert done.code in (0, 1), done.errors
        assert "Traceback" not in done.errors
        status = await run.shows(hasWorkers)
        print(("old", "heir")[number % 2], done.code, done.errors.splitlines()[:1])
        assert status["listener"]["pid"] in run.members()
        for target in made.ports.targets():
            if target.startswith("close=tcp"):
                assert await deferToThread(get, int(target.partition(":")[2]))
        assert await settled(run.process, before) == before
    clients = Clients(folder, start, 4, made.ports.targets())
    await clients.progress()
    await made.upgrade()
    await clients.progress()
    assert (await clients.finish())["wrong"] == {}
    assert await settled(run.process, before) == before
    assert len(run.members()) == 6
    await run.stop()
    assert "Traceback" not in run.process.output, run.process.output


def hasWorkers(status: dict[str, Any]) -> bool:
    """
    Whether a listener serves, and all workers have joined it.
    """
    found = status.get("listener") or {"workers": []}
    return len({each["pid"] for each in found["workers"]}) == 4


async def startedSince(run: Run, began: int) -> int:
    """
    Wait for the next process of a listener.

    @param began: how long the supervisor's output was.
    """

    def found() -> re.Match[str] | None:
        return re.search(
            r"the listener is started as process (\d+)", run.process.output[began:]
        )

    await until(lambda: found() is not None, "another listener")
    match = found()
    assert match is not None
    return int(match[1])


def get(port: int) -> bytes:
    """
    Ask a web server.
    """
    with connect(port) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read(client)


@asynchronous
async def test_notByHand(run: Run, replaced: Make) -> None:
    """
    Nobody can take over from a supervisor's listener by C{--replace}.  One line names
    the command for it, and the listener goes on.
    """
    made = Supervised(run)
    await made.start()
    other = replaced(f"--listen=tcp:{made.ports.http}:interface=127.0.0.1")
    other.path = run.path
    process = other.launch()
    assert await process.ended() == 1
    lines = process.errors.strip().splitlines()
    assert len(lines) == 1, process.output
    assert f"'portlisten upgrade {run.file}' replaces it" in lines[0]
    await made.upgrade()
    await run.stop()
