"""
The log as JSON, and a log that cannot be written, with real processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import ask, connect
from tests.support.logs import KEEPER, NOISE, Pipe, Spawned, parse
from tests.support.ports import freePort
from tests.support.processes import SOURCE
from tests.support.programs import command
from tests.support.running import Run, workers
from tests.support.waiting import PATIENCE, until

#: How many lines a noisy worker writes: more than may wait to be written.
NOISY = 20000


class Held:
    """
    A client that keeps its connection.

    @ivar name: its address.
    @ivar worker: the process that answered it; 0 if none did.
    """

    def __init__(self, port: int, speak: bool = True) -> None:
        self.sock = connect(port)
        host, number = self.sock.getsockname()
        self.name = f"{host}:{number}"
        self.worker = 0
        if speak:
            self.sock.sendall(b"x")
            self.worker = int(self.sock.recv(100))

    def ends(self) -> None:
        """
        Wait until the connection has ended.
        """
        self.sock.settimeout(PATIENCE)
        try:
            assert self.sock.recv(1) == b""
        except ConnectionResetError:
            pass
        self.sock.close()


@asynchronous
async def test_lost(run: Run) -> None:
    """
    Each client that was lost is in a log of JSON with a reason, and the log agrees with
    the counters.  What workers write is marked with their names.
    """
    keeper = [*run.module("x")[:1], "-c", KEEPER, "portlisten:{path}:name=http"]
    top = 'log-format = "json"\npatience = 1\nclaim-timeout = 0.5\n'
    ports = f"{top}[ports.http]\nlisten = {run.address(run.port)}"
    run.write(run.table("web", keeper, also="count = 2"), ports=ports)
    process = run.launch()
    with ExitStack() as stack:
        await run.ready()
        served = [await deferToThread(Held, run.port) for _ in range(6)]
        first, second = {each.worker for each in served}
        killed = [each for each in served if each.worker == first]
        kept = [each for each in served if each.worker == second]
        for each in served:
            stack.callback(each.sock.close)

        os.kill(first, signal.SIGKILL)
        for each in killed:
            await deferToThread(each.ends)

        def others(found: dict[str, Any]) -> list[int]:
            ready = [e for e in workers(found).values() if e["state"] == "ready"]
            return [each["pid"] for each in ready if each["pid"] != first]

        found = await run.shows(lambda found: len(others(found)) == 2)
        stopped = others(found)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        overdue = [Held(run.port, speak=False) for _ in range(3)]
        for each in overdue:
            stack.callback(each.sock.close)
        # The stopped workers have the descriptors, so the clients hear nothing yet.
        found = await run.shows(
            lambda found: found["listener"]["counters"]["timedOut"] == len(overdue)
        )
        counters = found["listener"]["counters"]
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        for each in (*overdue, *kept):
            await deferToThread(each.ends)
    await run.stop()
    events = parse(process.output)
    lost = [e for e in events if e["event"] == "client-lost" and "peer" in e]
    causes = Counter(each["cause"] for each in lost)
    assert causes == {"lostInService": len(killed), "timedOut": len(overdue)}
    for name, count in causes.items():
        assert counters[name] == count, counters
    byPeer = {each["peer"]: each for each in lost}
    assert byPeer.keys() == {each.name for each in [*killed, *overdue]}
    for each in killed:
        event = byPeer[each.name]
        assert event["pid"] == first
        assert event["worker"] in ("web-1", "web-2")
        assert event["process"] == "listener"
        assert event["reason"] == "the worker that served it died"
    for event in lost:
        assert str(run.port) in event["port"]
        assert event["level"] == "warn"
        assert event["connection"] > 0
    peers = [e for e in events if e["event"] == "client-kept"]
    assert {each["peer"] for each in peers} == {each.name for each in kept}
    assert {each["pid"] for each in peers} == {second}
    for name in ("worker-joined", "worker-lost", "worker-revoked", "worker-ready"):
        assert any(each["event"] == name for each in events), name
    # No worker can pass for another process.
    forged = [each for each in events if each["level"] == "forged"]
    plain = [each for each in events if each.get("message") == "plain"]
    for event in (*forged, *plain):
        assert event["process"] == event["worker"] == f"web-{event['slot']}"
        assert event["group"] == "web"
        assert event["pid"] > 0
    assert len(forged) >= 3
    assert len(plain) >= 3


@asynchronous
async def test_supervisorBlocked(run: Run) -> None:
    """
    Nobody reads the supervisor's log, and a worker writes without end: clients are
    served, and all commands work.  When the log is read again, it says how many lines
    were dropped.
    """
    noise = [*run.module("x")[:1], "-c", NOISE, str(NOISY)]
    run.write(run.table("web"), run.table("noisy", noise, also="ready = 300"))
    pipe = Pipe()
    words = run.module("portlisten", "run", "--log-format=json", str(run.file))
    variables = run.environment()
    with Spawned(words, run.folder, pipe.writer, variables) as process:
        run.process = cast(Any, process)
        pipe.release()
        await until(
            lambda: "sleep 1000 " in run.members().values(),
            "the noise is written",
            PATIENCE,
        )
        await run.shows(lambda found: workers(found)["web-1"]["state"] == "ready")
        answer = await run.client()
        assert answer["label"] == "web-1"
        assert (await run.command("restart", str(run.file), "web")).code == 0

        def read(text: str) -> bool:
            # What waits is written first, so lines may be dropped until then.
            counts = re.findall(r'"count": (\d+)', "".join(drops(text)))
            numbers = re.findall(r'"message": "noise (\d+)"', text)
            missing = NOISY - len(numbers)
            return bool(counts) and sum(map(int, counts)) >= missing

        text = await deferToThread(pipe.readUntil, read)
        events = parse(text.rpartition("\n")[0])
        written = [e for e in events if e.get("message", "").startswith("noise ")]
        dropped = sum(e["count"] for e in events if e["event"] == "lines-dropped")
        missing = NOISY - len(written)
        assert missing > 0
        assert missing <= dropped <= missing + 40
        numbers = [int(each["message"].split()[1]) for each in written]
        assert numbers == sorted(numbers)
        process.signal(signal.SIGUSR1)
        await deferToThread(pipe.readUntil, lambda text: '"report"' in text)
        # Nobody reads any more, for ever.
        pipe.close()
        process.signal(signal.SIGUSR1)
        assert (await run.client())["label"].startswith("web-")
        assert await deferToThread(process.stop) == 0
    assert process.output == ""
    run.checkNothingLeft()


def drops(text: str) -> list[str]:
    """
    The lines that say how many were dropped.
    """
    return [line for line in text.splitlines() if '"lines-dropped"' in line]


@asynchronous
async def test_pairBlocked(folder: Path) -> None:
    """
    A listener alone whose log nobody reads, and a worker whose log is on a full disk,
    serve and stop.
    """
    port = freePort(20000, 30000)
    path = str(folder / "sock")
    twistd = [command("twistd"), "-n", "--pidfile="]
    for kind in ("text", "json"):
        format = f"--log-format={kind}"
        listen = ["portlisten", format, f"tcp:{port}:interface=127.0.0.1", path]
        pipe = Pipe()
        with (
            open("/dev/full", "wb") as full,
            Spawned([*twistd, *listen], folder, pipe.writer) as listener,
            Spawned(
                [*twistd, "hellofdpass", format, path, "hello"], folder, full.fileno()
            ) as worker,
        ):
            pipe.release()
            await until(lambda: _answers(port), "it serves", PATIENCE)
            for _ in range(50):
                assert await deferToThread(ask, port) == b"hello"
            assert await deferToThread(worker.stop) == 0
            began = time.monotonic()
            assert await deferToThread(listener.stop) == 0
            assert time.monotonic() - began < PATIENCE
            text = await deferToThread(pipe.readUntil, lambda text: False)
            pipe.close()
        assert listener.output == ""
        assert text == "" or kind == "text" or parse(text.rpartition("\n")[0])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            return bool(client.recv(10))
    except OSError:
        return False


@asynchronous
async def test_rotation(folder: Path) -> None:
    """
    logrotate moves the log file away, as C{contrib/logrotate} says: the process goes on
    in the new file, and no line is lost.
    """
    program = shutil.which("logrotate", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("needs logrotate")
    recipe = (SOURCE / "contrib/logrotate/portlisten").read_text()
    recipe = recipe.replace("/var/log/portlisten", str(folder))
    recipe = recipe.replace("/run/portlisten", str(folder))
    (folder / "recipe").write_text(recipe)
    (folder / "recipe").chmod(0o600)
    log = folder / "web.log"
    log.touch(mode=0o640)
    port = freePort(20000, 30000)
    words = [command("twistd"), "-n", f"--pidfile={folder}/web.pid"]
    words += [f"--logfile={log}", "portlisten", "--log-format=json"]
    words += [f"tcp:{port}:interface=127.0.0.1", str(folder / "sock")]

    def reports() -> int:
        texts = []
        for each in folder.glob("web.log*"):
            # One of them may be compressed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                texts.append("" if each.suffix == ".gz" else each.read_text())
        return "".join(texts).count('"event": "report"')

    with open(os.devnull, "wb") as null, Spawned(words, folder, null.fileno()) as one:
        await until(lambda: '"listening"' in log.read_text(), "it serves", PATIENCE)
        for _ in range(2):
            one.signal(signal.SIGUSR1)
            await until(lambda: reports() % 2 == 1, "it reports", PATIENCE)
            # The names of the old files have the time in seconds.
            second = int(time.time())
            rotate = [program, "--force", "--state", str(folder / "state")]
            done = await deferToThread(
                subprocess.run,
                [*rotate, str(folder / "recipe")],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), done
            await until(lambda: '"report"' in log.read_text(), "it goes on", PATIENCE)
            assert log.stat().st_mode & 0o777 == 0o640
            await until(partial(_isAfter, second), "a second", PATIENCE)
        assert await deferToThread(one.stop) == 0
    assert one.output == ""
    assert '"Server Shut Down."' in log.read_text()


def _isAfter(second: int) -> bool:
    return time.time() >= second + 1
