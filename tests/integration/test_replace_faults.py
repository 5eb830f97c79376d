"""
If a listener cannot take over from another one, it says so in one line and exits with
1, and the other one goes on to serve.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command, pythonFor
from tests.support.releases import unpack
from tests.support.replacing import SERVES, Clients, Make, Replaced, checkNotes
from tests.support.spawned import Process, Start
from tests.support.waiting import together, until

#: What a successor says in the end.
SERVED_OR_NOT = rf"{SERVES}|cannot take over"

REQUEST = b"GET /word HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"

#: Runs C{twistd} with a listener that speaks other versions of the handover.
OTHER_VERSION = """
from portlisten._handover import messages
messages.VERSIONS = (7, 8)
from twisted.scripts.twistd import run
run()
"""

#: The same with one that does not wait for ten seconds.
IMPATIENT = """
from portlisten._handover import takeover
takeover.ANSWER_SECONDS = 1.0
from twisted.scripts.twistd import run
run()
"""

#: The same with one that stands still before it takes over.
STANDING = """
import os, signal
from portlisten._handover.takeover import Takeover
commit = Takeover.commit
def stand(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    return commit(*arguments)
Takeover.commit = stand
from twisted.scripts.twistd import run
run()
"""

#: The same with one that stands still when the old one has stopped to accept.
LATE = STANDING.replace("Takeover.commit", "Takeover.run")

#: A listener that does not wait for long for one that is about to run.
HASTY = """
from portlisten._handover import handover
handover.RUNNING_SECONDS = 0.5
from twisted.scripts.twistd import run
run()
"""


class Serving:
    """
    A listener that serves TCP and Unix ports, with a worker.

    @ivar made: the listener.
    @ivar port: the number of its port.
    """

    def __init__(self, replaced: Make, folder: Path) -> None:
        self.port = freePort(25000, 26000)
        self.local = str(folder / "www")
        self.listen = (
            f"--listen=http=tcp:{self.port}:interface=127.0.0.1",
            f"--listen=local=unix:{self.local}",
            f"--listen=both={freePort(26000, 27000)}",
            f"--listen=six=tcp6:{freePort(27000, 28000)}",
        )
        self.made: Replaced = replaced(*self.listen)
        self._inodes: Sequence[int] = ()

    def words(self, script: str) -> Sequence[str]:
        """
        The command line of a successor that is run by a script.
        """
        return [
            *(sys.executable, "-c", script, "-n", "--pidfile=", "portlisten"),
            *("--replace", *self.listen, self.made.path),
        ]

    async def start(self) -> None:
        """
        Start both.
        """
        await self.made.replace()
        await self.made.work("asyncio")
        self._inodes = self._look()

    def _look(self) -> Sequence[int]:
        paths = [self.made.path, f"{self.made.path}.ctl", self.local]
        return [os.stat(each).st_ino for each in paths]

    async def fails(self, process: Process, *lines: str) -> None:
        """
        Check that a successor has failed.

        @param lines: what its only line contains.
        """
        assert await process.ended() == 1, process.output
        assert "Traceback" not in process.output, process.output
        said = process.errors.strip().splitlines()
        assert len(said) == 1, process.output
        for each in lines:
            assert each in said[0], said

    async def goesOn(self, locked: bool = True) -> None:
        """
        Check that the listener serves on all ports, and that its paths, its lock and
        its control socket are as they were.

        @param locked: whether the lock is its own.
        """
        assert self._look() == self._inodes
        assert await deferToThread(self._ask) == [self.made.workers[0].pid] * 2
        if locked:
            assert os.readlink(f"{self.local}.lock") == str(self.made.listener.pid)
        status = await self.made.ask("status")
        assert status["listener"]["pid"] == self.made.listener.pid
        self.made.check()

    def _ask(self) -> list[int]:
        found = []
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", self.port)),
            (socket.AF_UNIX, self.local),
        ):
            with socket.socket(family) as client, client.makefile("rb") as file:
                client.settimeout(30)
                client.connect(address)
                client.sendall(REQUEST)
                found.append(int(file.read().rpartition(b" ")[2]))
        return found


@pytest.fixture
def serving(replaced: Make, folder: Path) -> Serving:
    """
    A listener that is to go on.
    """
    return Serving(replaced, folder)


@asynchronous
async def test_options(serving: Serving, start: Start) -> None:
    """
    A wrong option, a port that another process has, an address that this host does not
    have, and too few descriptors: nothing changes.
    """
    await serving.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for option, *lines in (
            ("--patience=never", "never"),
            (f"--listen=more=tcp:{number}:interface=127.0.0.1", f"tcp:{number}"),
            ("--listen=more=tcp:8080:interface=192.0.2.1", "192.0.2.1"),
            ("--listen=more=unix:/no/such/folder/www", "/no/such/folder/www"),
            ("--share=more=tcp:0:reuseport=900", "900"),
        ):
            process = serving.made.launch(option)
            await serving.fails(process, "portlisten: ", *lines)
            await serving.goesOn()
    for limit, line in (
        (9, r"\d of its \d sockets came.* \(ulimit -n\); it goes on"),
        (40, r"only \d+ descriptors are left .* it goes on"),
    ):
        process = start(
            *("/usr/bin/prlimit", f"--nofile={limit}:{limit}", command("twistd")),
            *("-n", "--pidfile=", "portlisten", "--replace", *serving.listen),
            serving.made.path,
        )
        await serving.fails(process)
        assert re.search(line, process.errors), process.errors
        await serving.goesOn()
    # It can still be replaced.
    await serving.made.replace()
    await serving.goesOn()
    status = await serving.made.command("status")
    assert f"pid {serving.made.listener.pid}" in status.output, status.output
    assert await serving.made.listener.stop() == 0


@asynchronous
async def test_otherUser(root: None, serving: Serving, start: Start) -> None:
    """
    A user who may not use the control socket cannot take the listener over.
    """
    await serving.start()
    process = start(
        *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("/usr/bin/env", *pythonFor("nobody")),
        *("-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="),
        *("portlisten", "--replace", *serving.listen, serving.made.path),
    )
    await serving.fails(process)
    await serving.goesOn()


@asynchronous
async def test_stopped(serving: Serving, start: Start) -> None:
    """
    If the old one stands still, its successor says so after a while, and the old one
    serves when it goes on.
    """
    await serving.start()
    old = serving.made.listener
    old.signal(signal.SIGSTOP)
    try:
        process = start(*serving.words(IMPATIENT))
        await serving.fails(process, "does not answer within 1 s", "it goes on")
    finally:
        old.signal(signal.SIGCONT)
    await serving.goesOn()
    await serving.made.replace()
    await serving.goesOn()


@asynchronous
async def test_late(serving: Serving, start: Start) -> None:
    """
    If the next one stands still while nobody accepts, the old one goes on after a
    while, and the next one gives up when it moves again.
    """
    await serving.start()
    made = serving.made
    first, hasty = made.listener, start(*serving.words(HASTY))
    await hasty.says(SERVES)
    assert await first.ended() == 0
    made.listeners.append(hasty)
    late = start(*serving.words(LATE))
    await hasty.says("does not go on within 0.5 s; this listener goes on")
    await serving.goesOn()
    late.signal(signal.SIGCONT)
    await serving.fails(late, "it does not go on within 0.5 s; it goes on")
    await made.replace()
    await serving.goesOn()


@asynchronous
async def test_otherVersions(serving: Serving, start: Start) -> None:
    """
    Listeners that have no version of the handover in common say so, whichever of them
    is the old one.
    """
    await serving.start()
    process = start(*serving.words(OTHER_VERSION))
    await serving.fails(process, "other versions", "(2, 1)", "(7, 8)", "it goes on")
    await serving.goesOn()
    await serving.made.listener.stop()
    process = start(*serving.words(OTHER_VERSION))
    await process.says(SERVES)
    serving.made.listeners.append(process)
    serving.made.workers[0].kill()
    await serving.made.workers.pop().ended()
    await serving.made.work("asyncio")
    serving._inodes = serving._look()
    process = serving.made.launch()
    await serving.fails(process, "other versions", "(2, 1)", "(7, 8)", "it goes on")
    await serving.goesOn()


@asynchronous
async def test_olderRelease(replaced: Make, folder: Path, start: Start) -> None:
    """
    A listener of the release before cannot be replaced, and goes on.
    """
    made = replaced("--listen=http=0")
    old = start(
        *("/usr/bin/env", unpack(folder), command("twistd"), "-n", "--pidfile="),
        *("portlisten", "--listen=http=0", made.path),
    )
    port = int((await old.says(r"listening on \S+:(\d+)\b.*workers connect"))[1])
    process = made.launch()
    assert await process.ended() == 1, process.output
    assert "Traceback" not in process.output
    said = process.errors.strip().splitlines()
    assert len(said) == 1, process.output
    assert "a release that cannot be replaced while it serves" in said[0]
    await made.work("asyncio")
    client = made.connect(port)
    client.sendall(REQUEST)
    assert await deferToThread(client.recv, 10) == b"HTTP/1.1 2"
    assert await old.stop() == 0


@asynchronous
async def test_twoAtOnce(serving: Serving, start: Start) -> None:
    """
    While one takes over, another one is told so, and gives up.  If several start at the
    same moment, each serves or says why not, and one is left.
    """
    await serving.start()
    made = serving.made
    first = start(*serving.words(STANDING))
    await until(lambda: first.status()["State"].startswith("T"), "it stands still")
    await serving.fails(made.launch(), "another listener is about to take over")
    await serving.goesOn(locked=False)
    first.signal(signal.SIGCONT)
    await first.says(SERVES)
    assert await made.listener.ended() == 0
    made.listeners.append(first)
    await serving.goesOn()

    several = [made.launch() for _ in range(3)]
    last = await together([each.says(SERVED_OR_NOT) for each in several])
    assert any("listening on" in each[0] for each in last)
    await until(
        lambda: sum(each.running for each in [first, *several]) == 1, "one is left"
    )
    (left,) = (each for each in [first, *several] if each.running)
    for each in [first, *several]:
        if each is not left and "has taken over" not in each.output:
            await serving.fails(each, "another listener is about to take over")
    made.listeners.append(left)
    await serving.goesOn()


@asynchronous
async def test_backToBack(serving: Serving, folder: Path, start: Start) -> None:
    """
    Each listener is replaced as soon as it serves, while the one before it hands over.
    """
    await serving.start()
    made = serving.made
    targets = [f"{how}=tcp:{serving.port}" for how in ("close", "keep")]
    clients = Clients(folder, start, 16, targets)
    await clients.progress()
    for _ in range(5):
        process = made.launch()
        await process.says(SERVES)
        made.listeners.append(process)
    assert set(await together([each.ended() for each in made.listeners[:-1]])) == {0}
    await clients.progress()
    checkNotes(made.notes, await clients.finish())
    await serving.goesOn()
