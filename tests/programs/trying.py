"""
Tries one program: starts a listener and the program, and restarts the program while
clients come.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs.program import PATIENCE, USER, Program, Stage, give
from tests.support.ports import freePort
from tests.support.processes import Process, Processes

#: The pause between two clients that only connect, in seconds.
KNOCK_SECONDS = 0.02

#: How long clients come between two restarts, in seconds.
BETWEEN_SECONDS = 0.5


@dataclass
class Result:
    """
    What was seen.

    @ivar did: what the client did, in a few words.
    @ivar jobs: how often the client did its job.
    @ivar cut: how often it did not, because the program stopped.
    @ivar knocks: how many connections were made besides.
    @ivar refused: how many connections were refused.
    @ivar restarts: how often the program was restarted.
    @ivar errors: the errors of clients.
    """

    did: str = ""
    jobs: int = 0
    cut: int = 0
    knocks: int = 0
    refused: int = 0
    restarts: int = 0
    errors: list[str] = field(default_factory=list)


class _Clients:
    """
    Clients in two threads: one does its job again and again, the other only connects.
    """

    def __init__(self, program: Program, stage: Stage, result: Result) -> None:
        self._program = program
        self._stage = stage
        self._result = result
        self._go = True
        self._threads = [
            threading.Thread(target=self._repeat, args=[each], daemon=True)
            for each in (self._work, self._knock)
        ]

    def __enter__(self) -> _Clients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go = False
        for each in self._threads:
            each.join(2 * PATIENCE)

    def served(self, count: int) -> None:
        """
        Wait until the client has done its job so many times from now on.

        @raise AssertionError: if it has not in time.
        """
        # The job that runs now may have begun before the restart.
        goal = self._result.jobs + count + 1
        end = time.monotonic() + PATIENCE
        while self._result.jobs < goal:
            assert time.monotonic() < end, self._result.errors[-3:] or "no job was done"
            time.sleep(0.02)

    def _repeat(self, turn: Callable[[], None]) -> None:
        while self._go:
            try:
                turn()
            except ConnectionRefusedError:
                self._result.refused += 1

    def _work(self) -> None:
        try:
            self._result.did = self._program.job(self._stage)
            self._result.jobs += 1
        except ConnectionRefusedError:
            raise
        except Exception as error:
            if _isRefused(error):
                self._result.refused += 1
            self._result.cut += 1
            self._result.errors.append(f"{type(error).__name__}: {error}")
            time.sleep(0.05)

    def _knock(self) -> None:
        for port in self._stage.ports.values():
            with suppress(TimeoutError):
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                self._result.knocks += 1
        time.sleep(KNOCK_SECONDS)


def _isRefused(error: BaseException | None) -> bool:
    """
    Whether an error comes of a refused connection.
    """
    while error is not None:
        reason = getattr(error, "reason", None)
        if isinstance(error, ConnectionRefusedError) or isinstance(
            reason, ConnectionRefusedError
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(program: Program, restarts: int) -> Result:
    """
    Try a program that is installed.

    @param restarts: how often the program is restarted while clients come.
    @return: what was seen.
    @raise AssertionError: if anything is not as it must be.  The text has the end of
        the program's log.
    """
    result = Result()
    with Processes() as processes:
        stage = _stage(program, processes.folder)
        _startListener(processes, program, stage)
        process = _start(processes, program, stage)
        try:
            _firstJob(program, stage, process, result)
            _checkPrivileges(process, stage)
            with _Clients(program, stage, result) as clients:
                for _ in range(restarts):
                    time.sleep(BETWEEN_SECONDS)
                    _stop(program, process)
                    process = _start(processes, program, stage)
                    clients.served(2)
                    _checkPrivileges(process, stage)
                    result.restarts += 1
            _stop(program, process)
        except (AssertionError, OSError) as error:
            text = "\n".join([str(error), *result.errors[-3:], process.output[-4000:]])
            raise AssertionError(text) from error
    return result


def _stage(program: Program, folder: Path) -> Stage:
    privileged = os.geteuid() == 0
    first = 600 if privileged else 20600
    ports: dict[str, int] = {}
    for name in program.ports:
        ports[name] = freePort(first, first + 400)
        first = ports[name] + 1
    own = folder / "program"
    own.mkdir()
    free = freePort(21600, 22600)
    stage = Stage(own, folder / "socket", ports, free, privileged)
    program.prepare(stage)
    if privileged:
        entry = pwd.getpwnam(USER)
        give(own, entry.pw_uid, entry.pw_gid)
    return stage


def _startListener(processes: Processes, program: Program, stage: Stage) -> Process:
    """
    Start a listener, and wait until it listens.
    """
    how = "--share" if program.share else "--listen"
    ports = [f"{how}={name}=tcp:{number}" for name, number in stage.ports.items()]
    group = [f"--group={USER}"] if stage.privileged else []
    options = [*group, "--patience=60", *ports, str(stage.path)]
    uid = "nobody" if stage.privileged else ""
    listener = processes.twistd("portlisten", *options, uid=uid)
    for number in stage.ports.values():
        listener.says(rf"listening on .*:{number}\b")
    return listener


def _start(processes: Processes, program: Program, stage: Stage) -> Process:
    folder, processes.folder = processes.folder, stage.folder
    try:
        command = ["env", "-u", "PYTHONPATH", f"HOME={stage.folder}"]
        user = USER if stage.privileged else ""
        return processes.start(*command, *program.command(stage), user=user)
    finally:
        processes.folder = folder


def _firstJob(program: Program, stage: Stage, process: Process, result: Result) -> None:
    """
    Be a client until the program has started.
    """
    end = time.monotonic() + PATIENCE
    while not result.did:
        try:
            result.did = program.job(stage)
        except Exception as error:
            result.errors.append(f"{type(error).__name__}: {error}")
            assert process.running, "the program has ended"
            assert time.monotonic() < end, "the client does not get its job done"
            time.sleep(0.1)
    result.errors.clear()


def _checkPrivileges(process: Process, stage: Stage) -> None:
    """
    Check that the program runs as its user, and has no capability.
    """
    if not stage.privileged:
        return
    text = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s+(.*)$", text, re.MULTILINE))
    uid = str(pwd.getpwnam(USER).pw_uid)
    assert fields["Uid"].split() == [uid] * 4, fields["Uid"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[name], 16) == 0, f"{name}: {fields[name]}"


def _stop(program: Program, process: Process) -> None:
    began = time.monotonic()
    try:
        process.stop()
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it does not stop within {PATIENCE:g} s") from None
    took = time.monotonic() - began
    assert took < program.patience, f"it took {took:.1f} s to stop"
    print(".", end="", file=sys.stderr, flush=True)
