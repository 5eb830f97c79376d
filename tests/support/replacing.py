"""
Listeners that are replaced while they serve, with their workers and clients.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.support.clients import connect
from tests.support.ports import freePort
from tests.support.processes import PATIENCE
from tests.support.programs import command
from tests.support.spawned import Process, Start
from tests.support.waiting import sleep, together, until

#: How many listeners follow, if C{PORTLISTEN_ROUNDS} of the environment says so.
ROUNDS = int(os.environ.get("PORTLISTEN_ROUNDS") or 0)

#: What a listener says when it serves.
SERVES = r"listening on .*workers connect"


#: What the fixture C{replaced} is.
Make = Callable[..., "Replaced"]


@dataclass
class Ports:
    """
    Ports of all kinds: a listener's arguments, and the clients' targets.
    """

    http: int
    shared: int
    group: int
    dns: int
    local: str

    @staticmethod
    def free(folder: Path) -> Ports:
        """
        Find free ones.
        """
        http, shared, group, dns = (
            freePort(first, first + 500) for first in range(21000, 23000, 500)
        )
        return Ports(http, shared, group, dns, str(folder / "www"))

    def arguments(self) -> list[str]:
        """
        The options of a listener.
        """
        return [
            f"--listen=http=tcp:{self.http}",
            f"--listen=local=unix:{self.local}",
            f"--share=shared=tcp:{self.shared}:interface=127.0.0.1",
            f"--share=group=tcp:{self.group}:interface=127.0.0.1:reuseport=4",
            f"--share=dns=udp:{self.dns}",
        ]

    @staticmethod
    def names() -> list[str]:
        """
        Their names.
        """
        return ["http", "local", "shared", "group", "dns"]

    def tables(self) -> str:
        """
        The same in a file of C{portlisten run}.
        """
        lines = []
        for each in self.arguments():
            option, name, value = each.removeprefix("--").split("=", 2)
            lines += [f"[ports.{name}]", f'{option} = "{value}"']
        return "\n".join(lines)

    def targets(self) -> list[str]:
        """
        The targets of L{tests.support.steady_clients}.
        """
        streams = [
            f"tcp:{self.http}",
            f"unix:{self.local}",
            f"tcp:{self.shared}",
            f"tcp:{self.group}",
        ]
        kept = [f"{how}={each}" for each in streams for how in ("close", "keep")]
        return [*kept, f"ask=udp:{self.dns}"]


class Clients:
    """
    A process of L{tests.support.steady_clients}.

    @param count: how many clients each target has.
    """

    def __init__(
        self, folder: Path, start: Start, count: int, targets: Sequence[str]
    ) -> None:
        self.targets = targets
        self._file = folder / "clients.json"
        self.process = start(
            *("nice", "-n19", sys.executable, "-m", "tests.support.steady_clients"),
            *(str(self._file), str(count), *targets),
        )

    def answers(self) -> Counter[str]:
        """
        How many answers have come, by the target.
        """
        lines = self.process.output.rpartition("\n")[0].rsplit("\n", 1)
        try:
            return Counter(json.loads(lines[-1])["answers"])
        except (ValueError, KeyError):
            return Counter()

    async def progress(self, count: int = 5) -> None:
        """
        Wait until so many more answers have come from each target.
        """
        before = self.answers()
        await until(
            lambda: all(
                self.answers()[each] >= before[each] + count for each in self.targets
            ),
            f"{count} answers of each target more than {before}",
            PATIENCE * 2,
        )

    async def finish(self) -> dict[str, Any]:
        """
        End them.

        @return: what they say.
        """
        self.process.closeInput()
        assert await self.process.ended() == 0, self.process.output[-3000:]
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found


def checkNotes(file: Path, found: dict[str, Any]) -> None:
    """
    Check that each request was answered, and that no process served it twice.

    @param file: what the workers noted.
    @param found: what the clients say.
    """
    assert found["wrong"] == {}
    noted = Counter(file.read_text().split())
    assert [each for each, count in noted.items() if count > 1] == []
    assert set(noted) == set(found["words"])


class Replaced:
    """
    A listener that is replaced by C{--replace} again and again, and its workers.

    @param twistd: starts C{twistd}.
    @param arguments: what each listener gets, before the path.

    @ivar listeners: all listeners so far.
    @ivar workers: all workers so far.
    @ivar notes: the file of the workers.
    @ivar clients: the clients of L{connect}.
    """

    def __init__(
        self, folder: Path, start: Start, twistd: Start, *arguments: str
    ) -> None:
        self.folder = folder
        self.path = str(folder / "socket")
        self.notes = folder / "notes"
        self.arguments = arguments
        self.listeners: list[Process] = []
        self.workers: list[Process] = []
        self.clients: list[socket.socket] = []
        self._startProgram = start
        self._twistd = twistd

    @property
    def listener(self) -> Process:
        """
        The newest listener.
        """
        return self.listeners[-1]

    def launch(self, *also: str, **options: Any) -> Process:
        """
        Start a listener, which takes over if there is one.

        @param also: more arguments.
        @param options: of C{twistd}.
        """
        return self._twistd(
            "portlisten", "--replace", *self.arguments, *also, self.path, **options
        )

    async def replace(self, *also: str, **options: Any) -> Process:
        """
        Start a listener, and wait until it serves, and until the one before it has
        ended.
        """
        before = self.listeners[-1:]
        process = self.launch(*also, **options)
        await process.says(SERVES)
        for each in before:
            assert await each.ended() == 0, each.output
        self.listeners.append(process)
        return process

    async def work(self, *kinds: str) -> None:
        """
        Start workers, and wait until they have joined.
        """
        names = [
            each.split("=")[1]
            for each in self.arguments
            if each.startswith(("--listen=", "--share="))
        ]
        started = [
            self._startProgram(
                *("nice", "-n9", sys.executable, "-m", "tests.support.noting_server"),
                kind,
                *(self.path, str(self.notes), ",".join(names)),
            )
            for kind in kinds
        ]
        await together([each.says("joined the listener") for each in started])
        self.workers += started

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """
        Ask the listener that lives at the path.
        """
        line = json.dumps({"version": 1, "command": command, **fields})
        found: dict[str, Any] = await deferToThread(self._ask, line)
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as file:
            sock.settimeout(PATIENCE)
            sock.connect(f"{self.path}.ctl")
            sock.sendall(line.encode() + b"\n")
            answer: dict[str, Any] = json.loads(file.readline())
            return answer

    async def shows(
        self, what: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE
    ) -> dict[str, Any]:
        """
        Ask for the listener's status until it is as it should be.
        """
        end = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = (await self.ask("status"))["listener"]
            if what(found):
                return found
            assert time.monotonic() < end, found
            await sleep(0.02)

    async def command(self, *words: str) -> Process:
        """
        Run C{portlisten} for the path, and wait until it has ended.

        @param words: the command, and what follows the path.
        """
        name, *others = words
        process = self._startProgram(command("portlisten"), name, self.path, *others)
        await process.ended()
        return process

    def connect(self, port: int) -> socket.socket:
        """
        Connect a client, which L{close} closes.
        """
        self.clients.append(connect(port))
        return self.clients[-1]

    def close(self) -> None:
        """
        Close all clients.  May be called again.
        """
        for each in self.clients:
            each.close()

    def check(self) -> None:
        """
        Check that nobody has a bug.
        """
        for each in [*self.listeners, *self.workers]:
            assert "Traceback" not in each.output, each.output
            assert "a bug" not in each.output, each.output
