"""
Signals that do not stop a process: neither side ends, and no client notices.
"""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.support.asking import askMany
from tests.support.asynchronous import asynchronous
from tests.support.spawned import Process, Start
from tests.support.waiting import beside, sleep, until

HELLO = b"hello"

SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Logged:
    """
    A process that logs to its standard output, or to a file.

    @param file: the file, if any.
    """

    def __init__(self, process: Process, file: Path | None) -> None:
        self.process = process
        self._file = file

    def _log(self) -> str:
        if self._file is None:
            return self.process.output
        text = []
        for each in self._file.parent.glob(f"{self._file.name}*"):
            with suppress(FileNotFoundError):  # it is rotated just now
                text.append(each.read_text())
        return "".join(text)

    async def says(self, pattern: str) -> re.Match[str]:
        """
        Wait until it has logged something that matches.
        """
        found: list[re.Match[str]] = []

        def holds() -> bool:
            log = self._log()
            assert self.process.running, self.process.output + log
            found.extend(re.finditer(pattern, log))
            return bool(found)

        await until(holds, pattern)
        return found[0]

    async def rotates(self) -> None:
        """
        Wait until the log's file was rotated.
        """
        assert self._file is not None
        await until(self._file.with_name(f"{self._file.name}.1").exists, "a new log")


async def started(
    twistd: Start, folder: Path, wire: str, toFile: bool
) -> tuple[int, list[Logged]]:
    """
    Start a listener and a worker, and give each of them each signal as soon as it
    is there.

    @return: the port, and the two processes.
    """
    path = f"./{wire}.{toFile}"
    sides = [
        ("portlisten", ("0", path), r"listening on \S+:(\d+)"),
        ("hellofdpass", (path, HELLO.decode()), "joined|receiving"),
    ]
    processes, matches = [], []
    for command, arguments, begun in sides:
        file = folder / f"{path}.{command}" if toFile else None
        options = {"logfile": str(file)} if file else {}
        process = twistd(command, f"--wire={wire}", *arguments, **options)
        processes.append(Logged(process, file))
        matches.append(await processes[-1].says(begun))
        for number in SIGNALS:
            process.signal(number)
            await sleep(0.05)
    return int(matches[0][1]), processes


@asynchronous
async def test_signals(twistd: Start, folder: Path) -> None:
    """
    SIGHUP, SIGUSR1 and SIGUSR2 are logged and end neither side, on both wires, with
    each kind of log, right after the start and while clients are served.
    """

    async def one(wire: str, toFile: bool) -> None:
        port, processes = await started(twistd, folder, wire, toFile)
        for logged in processes:
            await logged.says("received SIGHUP")
            await logged.says("received SIGUSR2")
            if toFile:
                await logged.rotates()
        await processes[0].says("since the start: accepted 0")
        load = Deferred.fromCoroutine(askMany(port, 400, 8))
        for number in SIGNALS:
            for _ in range(20):
                for logged in processes:
                    logged.process.signal(number)
                await sleep(0.005)
        answers, _ = await load
        assert answers.count(HELLO) == 400
        for logged in processes:
            assert logged.process.running
        processes[0].process.signal(signal.SIGUSR1)
        await processes[0].says("since the start: accepted 400")
        for logged in reversed(processes):
            assert await logged.process.stop() == 0

    await beside(
        {
            f"{wire}, {'file' if toFile else 'output'}": one(wire, toFile)
            for wire in ("stream", "datagram")
            for toFile in (False, True)
        }
    )


@asynchronous
async def test_workerReports(twistd: Start, folder: Path) -> None:
    """
    SIGUSR1 makes a worker log a report.
    """

    async def one(wire: str) -> None:
        worker = twistd("hellofdpass", f"--wire={wire}", f"./{wire}", HELLO.decode())
        await worker.says("starting up")
        await sleep(0.5)
        before = len(worker.output)
        worker.signal(signal.SIGUSR1)
        await until(
            lambda: not worker.running or "serv" in worker.output[before:],
            "a report",
        )
        assert worker.running

    await beside({wire: one(wire) for wire in ("stream", "datagram")})


@asynchronous
async def test_whoWaits(twistd: Start) -> None:
    """
    Clients that wait while no worker runs are still served after the signals.
    """

    async def one(wire: str) -> None:
        listener = twistd("portlisten", f"--wire={wire}", "0", f"./{wire}")
        match = await listener.says(r"listening on \S+:(\d+)")
        waiting = Deferred.fromCoroutine(askMany(int(match[1]), 4, 4))
        await sleep(0.3)
        for number in SIGNALS * 3:
            listener.signal(number)
        await sleep(0.3)
        twistd("hellofdpass", f"--wire={wire}", f"./{wire}", HELLO.decode())
        answers, _ = await waiting
        assert answers == [HELLO] * 4
        assert listener.running

    await beside({wire: one(wire) for wire in ("stream", "datagram")})
