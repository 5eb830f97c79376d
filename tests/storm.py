"""
A storm of signals: C{python -m tests.storm --help}.

Starts a real listener, a few workers, and clients.  Each client sends a number, and
expects it back with the pid of the process that answered.  Meanwhile the storm kills
one worker after the other with SIGKILL, and starts another in its place.  With
C{--stop}, it stops one worker after the other with SIGSTOP instead, for longer than an
offer may stay unclaimed, and lets it go on with SIGCONT.

It counts:

  - I{lost before a worker touched them}: clients that were reset, or got an
    empty answer, or none in time, and whose connection no worker had adopted
    by then.
    The promise is that this is 0.
  - I{answered twice}: clients that got two answers.  This must be 0 too.
  - I{lost in service}: clients whose connection a worker had adopted when it
    was killed.  Any server loses these.
  - I{lost and not in the log}: clients that were lost, and that the listener's
    log of JSON does not name with a reason.  This must be 0.
  - I{stalled}: clients whose connection was adopted so late that they must have
    waited for a stopped worker to go on.  For each stopped worker, up to a window's
    worth are right: the connections that it had claimed just before it was stopped.
  - I{adopted twice}: connections that two workers adopted.  If workers are
    killed, that is right: the first was killed before it read or wrote, so the
    listener handed the connection to the second, and the client got one answer.
    If workers are stopped, it is wrong: the first goes on, and serves it too.

With C{--asyncio}, the workers are servers of asyncio, without Twisted, on loops of
asyncio and uvloop in turn.

With C{--replace}, one listener after the other takes over from the one before it, all
the time.

With C{--naive} the listener is the control, which sends and closes; with
C{--wire=datagram} it speaks the wire of 2002, which makes neither promise.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from socket import inet_aton
from typing import Any

# With all that it imports, which would take a worker longer than it has to live.
from tests.support import asyncio_worker
from tests.support.logs import unexplained
from tests.support.storm_workers import RECORD, forkWorker
from tests.support.successions import Successions

#: With C{--stop}: how long an offer may stay unclaimed, and how long a worker is
#: stopped, in seconds.
CLAIM_TIMEOUT = 0.2
STOP = 1.0

#: A client whose connection is adopted later than this has stalled, in seconds.
STALLED = 0.8

#: How long a client waits, in seconds.
PATIENCE = 30.0

#: How many connections workers adopt between one kill and the next, at least.
#: Where a machine is so slow that workers were killed before they had begun, the
#: storm would do nothing else.
BETWEEN = 4

#: How long a storm may last, in seconds.
LIMIT = 600.0


#: What is printed after a figure, if workers are killed, and if they are stopped.
KILLED = {"adopted twice": "right: the first worker died before it touched them"}
STOPPED = {"adopted twice": "wrong: the first worker goes on, and serves them too"}


@dataclass
class Result:
    """
    The result of one client.

    @ivar kind: C{answered}, C{twice}, C{reset} (or the end, with no answer),
        C{refused} (nobody listened), or C{late}.
    """

    kind: str
    host: str
    port: int
    began: float
    ended: float

    def adoptions(self, book: dict[tuple[bytes, int], list[float]]) -> int:
        """
        How often workers adopted it, by the time that its client gave up or
        soon after.  Much later or earlier, its name was another's.
        """
        return len(self._times(book, 3 * STOP))

    def stalled(self, book: dict[tuple[bytes, int], list[float]]) -> bool:
        """
        Whether it was adopted late, and no earlier.
        """
        times = self._times(book, 0)
        return bool(times) and times[0] > self.began + STALLED

    def _times(
        self, book: dict[tuple[bytes, int], list[float]], more: float
    ) -> list[float]:
        times = book.get((inet_aton(self.host), self.port), ())
        return [time for time in times if self.began <= time < self.ended + more]

    def adopted(self, book: dict[tuple[bytes, int], list[float]]) -> bool:
        """
        Whether a worker had adopted it when its client gave up.
        """
        return bool(self._times(book, 0))


async def client(number: int, port: int, silence: float = 0.0) -> Result:
    """
    Send a number, and read to the end.

    @param silence: how long to wait before that, in seconds.
    """
    host = f"127.0.{number // 200 % 200}.{2 + number % 200}"
    received = b""
    name = (host, 0)
    began = time.monotonic()
    kind = "reset"
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=name
        )
        name = writer.get_extra_info("sockname")
        await asyncio.sleep(silence)
        writer.write(b"%d\n" % number)
        try:
            received = await asyncio.wait_for(reader.read(), PATIENCE)
        finally:
            writer.close()
    except asyncio.TimeoutError:
        kind = "late"
    except ConnectionRefusedError:
        kind = "refused"
        await asyncio.sleep(0.05)
    except OSError:
        pass
    answers = re.findall(rb"%d \d+\n" % number, received)
    if len(answers) == 1 and answers[0] == received:
        kind = "answered"
    elif len(answers) > 1:
        kind = "twice"
    return Result(kind, *name, began, time.monotonic())


async def clients(
    count: float, atOnce: int, ports: Sequence[int], enough: Path, silence: float
) -> list[Result]:
    """
    Run many clients, on each port in turn: so many, or until a stop file exists.

    @param silence: for how long some of them send nothing, in seconds.
    """
    results: list[Result] = []
    numbers = itertools.count()

    async def some() -> None:
        while not enough.exists():
            number = next(numbers)
            if number >= count:
                break
            silent = silence * (number % 8) / 7 if number % 2 else 0.0
            results.append(await client(number, ports[number % len(ports)], silent))

    await asyncio.gather(*(some() for _ in range(atOnce)))
    return results


def storm(
    connections: float,
    workers: int,
    every: float,
    atOnce: int,
    naive: bool = False,
    rounds: int = 0,
    wire: str = "stream",
    loops: Sequence[str] = ("",),
    options: str = "",
    replaces: bool = False,
) -> dict[str, Any]:
    """
    Run a storm.

    @param loops: what the workers run on, in turn.
    @param options: the options of the port, with a colon before each.
    @param workers: how many there are at a time; on the wire of 2002, one.
    @param rounds: how many workers to stop; with 0, workers are killed.
    @param replaces: whether the listener is replaced all the time.
    @return: the figures.
    """
    folder = Path(tempfile.mkdtemp(prefix="storm."))
    path = str(folder / "socket")
    log = folder / "listener.log"
    # The wire of 2002 tells the listener nothing of what becomes of a connection.
    logged = not naive and wire == "stream"
    if naive:
        command = ["-m", "tests.support.naive", "0", path]
    else:
        command = ["-c", "from twisted.scripts.twistd import run; run()", "-n"]
        command += [f"--pidfile={folder}/pid", "portlisten", f"--wire={wire}"]
        command += [f"--claim-timeout={CLAIM_TIMEOUT}"] if rounds else []
        command += ["--log-format=json"] if logged else []
        command += [f"tcp:0:interface=127.0.0.1{options}", path]
    with log.open("ab") as file:
        listener = subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=file
        )
    alive: set[int] = set()
    turns = itertools.cycle(loops)
    successions = None
    try:
        port = int(waitFor(log, r"listening on tcp:127\.0\.0\.1:(\d+).*workers")[1])
        book = os.open(folder / "book", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        alive.update(
            forkWorker(path, book, wire, loop=next(turns))
            for _ in range(1 if wire == "datagram" else workers)
        )
        enough = folder / "enough"
        answers = forkClients(connections, atOnce, [port], enough)
        start = time.monotonic()
        chance = random.Random(2002)
        if replaces:
            where = f"tcp:{port}:interface=127.0.0.1{options}"
            again = [*command[:-2], "--replace", where, path]
            successions = Successions([sys.executable, *again], log, listener)
            successions.start()
        if rounds:
            stopInTurn(alive, rounds, chance)
            enough.touch()
            os.waitpid(answers, 0)
            signals = rounds
        else:

            def fork() -> int:
                return forkWorker(path, book, wire, loop=next(turns))

            adoptions = partial(adopted, folder / "book")
            signals = killUntilEnd(answers, alive, fork, adoptions, every, chance)
        seconds = time.monotonic() - start
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if successions is not None:
            listener = successions.stop()
        listener.terminate()
        listener.wait(30)
    results, adoptionTimes = read(folder)
    figures = count(results, adoptionTimes)
    figures.update(signals=signals, seconds=round(seconds, 1))
    if successions is not None:
        figures["listeners replaced"] = successions.count
        figures["listeners that failed"] = len(successions.errors)
    if logged:
        lost = [each for each in results if each.kind in ("reset", "late")]
        names = [f"{each.host}:{each.port}" for each in lost]
        figures["lost and not in the log"] = unexplained(names, log)
    counters = re.search(r"since the start: ([^\"\n]*)", log.read_text())
    if counters is not None:
        figures["listener"] = counters[1]
    shutil.rmtree(folder)
    return figures


def forkClients(
    connections: float,
    atOnce: int,
    ports: Sequence[int],
    enough: Path,
    silence: float = 0.0,
) -> int:
    """
    Fork a process that runs the clients, and writes their results.

    @return: its process id.
    """
    pid = os.fork()
    if pid == 0:
        try:
            results = asyncio.run(clients(connections, atOnce, ports, enough, silence))
            with enough.with_name("results").open("w") as file:
                json.dump([asdict(result) for result in results], file)
        finally:
            os._exit(0)
    return pid


def read(
    folder: Path,
) -> tuple[list[Result], dict[tuple[bytes, int], list[float]]]:
    """
    Read the results of clients and workers.
    """
    results = [Result(**each) for each in json.loads((folder / "results").read_text())]
    times: dict[tuple[bytes, int], list[float]] = {}
    for when, _, *name in RECORD.iter_unpack((folder / "book").read_bytes()):
        times.setdefault(tuple(name), []).append(when)
    return results, times


def waitFor(log: Path, pattern: str) -> re.Match[str]:
    """
    Wait until a log has a line that matches.
    """
    for _ in range(300):
        match = re.search(pattern, log.read_text())
        if match is not None:
            return match
        time.sleep(0.1)
    raise AssertionError(f"no {pattern!r} in the log:\n{log.read_text()}")


def adopted(book: Path) -> int:
    """
    How many connections workers have adopted.
    """
    return book.stat().st_size // RECORD.size


def stopInTurn(alive: set[int], rounds: int, chance: random.Random) -> None:
    """
    Stop workers for a while, one after the other.
    """
    time.sleep(STOP)
    for _ in range(rounds):
        victim = chance.choice(sorted(alive))
        os.kill(victim, signal.SIGSTOP)
        time.sleep(STOP)
        os.kill(victim, signal.SIGCONT)
        time.sleep(CLAIM_TIMEOUT / 2)


def killUntilEnd(
    answers: int,
    alive: set[int],
    fork: Callable[[], int],
    adoptions: Callable[[], int],
    every: float,
    chance: random.Random,
) -> int:
    """
    Kill workers while the clients' process lives.

    @return: how many.
    @raise AssertionError: it lives for too long.
    """
    kills = 0
    seen = 0
    began = due = time.monotonic()
    while os.waitpid(answers, os.WNOHANG) == (0, 0):
        if time.monotonic() - began > LIMIT:
            os.kill(answers, signal.SIGKILL)
            os.waitpid(answers, 0)
            raise AssertionError(f"no end within {LIMIT:.0f} s, after {kills} kills")
        due = max(due + every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        if adoptions() < seen + BETWEEN:
            continue
        seen = adoptions()
        victim = chance.choice(sorted(alive))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        alive.remove(victim)
        alive.add(fork())
        kills += 1
    return kills


def count(
    results: list[Result], adopted: dict[tuple[bytes, int], list[float]]
) -> dict[str, Any]:
    """
    Separate connections lost in service from connections lost before.
    """
    kinds = Counter(result.kind for result in results)
    served = Counter(result.kind for result in results if result.adopted(adopted))
    lost = sum(kinds[each] - served[each] for each in ("reset", "late", "refused"))
    return {
        "connections": len(results),
        "answered": kinds["answered"],
        "lost before a worker touched them": lost,
        "answered twice": kinds["twice"],
        "lost in service": served["reset"],
        "stalled": sum(result.stalled(adopted) for result in results),
        "adopted twice": sum(result.adoptions(adopted) > 1 for result in results),
    }


@dataclass(frozen=True)
class Scene:
    """
    The set-up of a mixed storm.

    @ivar options: the listener's.
    @ivar names: what its ports are called; workers take one each, in turn.
    @ivar limit: its C{RLIMIT_NOFILE}; with 0, the usual one.
    @ivar worker: the workers' options.
    @ivar silence: for how long half of the clients send nothing, in seconds.
    """

    label: str
    options: tuple[str, ...] = ()
    names: tuple[str, ...] = ("",)
    limit: int = 0
    worker: Mapping[str, Any] = field(default_factory=dict)
    silence: float = 0.0


SCENES = (
    Scene("any"),
    Scene("narrow", ("--window=1", "--queue=0"), limit=64),
    Scene("names", names=("one", "two")),
    Scene("silent", worker={"limit": 6, "first": 0.2}, silence=0.4),
)

#: How long one part of a mixed storm lasts at the most, in seconds.
PART = 30.0

#: How long a mixed storm leaves a worker stopped at the most, in seconds.
LONGEST_STOP = 1.5


class Mixed:
    """
    A storm of all signals at once: each moment some worker is killed, or told to
    stop and replaced, or stopped for a while; and perhaps the listener is killed,
    and started again.

    @param workers: how many there are at a time.
    @param every: how often there is a signal, in seconds.
    @param loops: what the workers run on, in turn.
    @ivar signals: how many of each kind there were.
    @ivar listenerKills: when the listener was killed, and when another one listened.
    """

    def __init__(
        self,
        scene: Scene,
        workers: int,
        every: float,
        chance: random.Random,
        loops: Sequence[str] = ("",),
    ) -> None:
        self._scene = scene
        self._every = every
        self._chance = chance
        self.folder = Path(tempfile.mkdtemp(prefix="storm."))
        self._path = str(self.folder / "socket")
        self._book = os.open(
            self.folder / "book", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        self._loops = itertools.cycle(loops)
        self.signals: Counter[str] = Counter()
        self.listenerKills: list[tuple[float, float]] = []
        self._logs = 0
        self._adopters: dict[tuple[bytes, int], set[int]] = {}
        self.ports = [0] * len(scene.names)
        self._listener = self._listen()
        self._alive = {
            self._fork(name): name
            for name, _ in zip(itertools.cycle(scene.names), range(workers))
        }
        self._killed: set[int] = set()
        self._stopped: dict[int, float] = {}
        self._leaving: dict[int, float] = {}

    def _listen(self) -> subprocess.Popen[bytes]:
        scene = self._scene
        twistd = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", twistd, "-n", "--pidfile=", "portlisten"]
        command += [f"--claim-timeout={CLAIM_TIMEOUT}", *scene.options]
        for name, port in zip(scene.names, self.ports, strict=True):
            prefix = f"{name}=" if name else ""
            command += [f"--listen={prefix}tcp:{port}:interface=127.0.0.1"]
        if scene.limit:
            limit = f"--nofile={scene.limit}:{scene.limit}"
            command = ["prlimit", limit, *command]
        self._logs += 1
        log = self.folder / f"listener{self._logs}.log"
        with log.open("wb") as file:
            process = subprocess.Popen([*command, self._path], stdout=file, stderr=file)
        try:
            line = waitFor(log, "listening on (.*), as uid .*workers")[1]
        except BaseException:
            process.kill()
            process.wait()
            raise
        self.ports = [int(each) for each in re.findall(r":(\d+)(?:,|$)", line)]
        return process

    def _fork(self, name: str) -> int:
        options = {**self._scene.worker, **({"names": [name]} if name else {})}
        loop = next(self._loops)
        return forkWorker(self._path, self._book, "stream", loop, **options)

    def run(self, seconds: float, atOnce: int, listenerKills: int = 0) -> None:
        """
        Raise it for so long, and end all processes.

        @param listenerKills: how often to kill the listener.
        """
        enough = self.folder / "enough"
        silence = self._scene.silence
        answers = forkClients(float("inf"), atOnce, self.ports, enough, silence)
        began = time.monotonic()
        kills = [
            began + seconds * (number + 1) / (listenerKills + 1)
            for number in range(listenerKills)
        ]
        seen = 0
        try:
            while time.monotonic() < began + seconds:
                time.sleep(self._every * self._chance.uniform(0.2, 1.8))
                self._tend()
                if kills and time.monotonic() > kills[0]:
                    del kills[0]
                    self._replaceListener()
                now = adopted(self.folder / "book")
                if now >= seen + BETWEEN:
                    seen = now
                    self._strike()
            for pid in list(self._stopped):
                self._continue(pid)
        finally:
            enough.touch()
            self._end(answers)

    def _end(self, answers: int) -> None:
        until = time.monotonic() + 2 * PATIENCE
        while os.waitpid(answers, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(answers, signal.SIGKILL)
                os.waitpid(answers, 0)
                break
            self._tend()
            time.sleep(0.05)
        for pid in [*self._alive, *self._leaving]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._listener.terminate()
        try:
            self._listener.wait(30)
        finally:
            self._listener.kill()
            self._listener.wait()
            os.close(self._book)

    def _tend(self) -> None:
        """
        Let stopped workers go on after their time, and find ended processes.
        """
        now = time.monotonic()
        for pid, until in list(self._stopped.items()):
            if now > until:
                self._continue(pid)
        for pid, since in list(self._leaving.items()):
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                del self._leaving[pid]
                # Before its reactor ran, it may have ended rather than stopped.
                self._stopped.pop(pid, None)
            elif now > since + PATIENCE:
                raise AssertionError(f"worker {pid} does not stop")

    def _continue(self, pid: int) -> None:
        del self._stopped[pid]
        os.kill(pid, signal.SIGCONT)

    def _strike(self) -> None:
        """
        Send a signal to a worker.
        """
        victim = self._chance.choice(sorted(self._alive))
        kind = self._chance.choice(["SIGKILL", "SIGTERM", "SIGSTOP"])
        if kind == "SIGSTOP":
            if victim in self._stopped or len(self._stopped) + 1 >= len(self._alive):
                return
            self._stopped[victim] = time.monotonic() + self._chance.uniform(
                0.02, LONGEST_STOP
            )
            os.kill(victim, signal.SIGSTOP)
        else:
            name = self._alive.pop(victim)
            if kind == "SIGKILL":
                # One that is stopped may be killed as well.
                self._stopped.pop(victim, None)
                self._killed.add(victim)
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
            else:
                # One that is stopped hears of it when it goes on.
                os.kill(victim, signal.SIGTERM)
                self._leaving[victim] = time.monotonic()
            self._alive[self._fork(name)] = name
        self.signals[kind] += 1

    def _replaceListener(self) -> None:
        killed = time.monotonic()
        self._listener.kill()
        self._listener.wait()
        self._listener = self._listen()
        self.listenerKills.append((killed, time.monotonic()))

    def figures(self) -> Counter[str]:
        """
        Count what became of the clients.

        Those that were lost while the listener was killed are counted apart: they
        waited in it, or it alone could have handed them off again.
        """
        results, times = read(self.folder)
        apart = [result for result in results if self._met(result)]
        rest = [result for result in results if not self._met(result)]
        figures: Counter[str] = Counter(count(rest, times))
        figures["lost by a worker that was not killed"] = sum(
            result.adopted(times) and not self._killed & self._servers(result)
            for result in rest
            if result.kind in ("reset", "late")
        )
        kinds = Counter(result.kind for result in apart)
        figures["connections"] += len(apart)
        figures["lost with the listener"] = kinds["reset"] + kinds["late"]
        figures["refused while no listener was there"] = kinds["refused"]
        figures["listeners killed"] = len(self.listenerKills)
        figures.update(self.signals)
        return figures

    def _servers(self, result: Result) -> set[int]:
        """
        The workers that adopted a connection of its name.
        """
        if not self._adopters:
            data = (self.folder / "book").read_bytes()
            for _, pid, *name in RECORD.iter_unpack(data):
                self._adopters.setdefault(tuple(name), set()).add(pid)
        return self._adopters[inet_aton(result.host), result.port]

    def _met(self, result: Result) -> bool:
        """
        Whether a client went without an answer over a death of the listener.
        """
        if result.kind not in ("reset", "late", "refused"):
            return False
        return any(
            result.began <= back + 0.1 and result.ended >= killed
            for killed, back in self.listenerKills
        )


def mix(arguments: argparse.Namespace) -> Counter[str]:
    """
    Run mixed storms over all scenes for so long, and print a line for each part.

    @return: the figures of all.
    """
    total: Counter[str] = Counter()
    began = time.monotonic()
    seconds = 60 * arguments.minutes
    part = min(PART, seconds / len(SCENES))
    chance = random.Random(arguments.seed)
    for number, scene in enumerate(itertools.cycle(SCENES)):
        over = time.monotonic() > began + seconds - part / 2
        if over and number >= len(SCENES):
            break
        workers = max(4, arguments.workers)
        mixed = Mixed(scene, workers, arguments.every, chance, loops(arguments))
        mixed.run(part, arguments.at_once, arguments.kill_listener)
        figures = mixed.figures()
        total.update(figures)
        passed = (time.monotonic() - began) / 60
        said = ", ".join(f"{name} {value}" for name, value in figures.items() if value)
        print(f"{passed:.1f} min, {scene.label}: {said}", flush=True)
        if broken(figures):
            print(f"its logs are in {mixed.folder}", flush=True)
        else:
            shutil.rmtree(mixed.folder)
    return total


def loops(arguments: argparse.Namespace) -> Sequence[str]:
    """
    What the workers run on, in turn.
    """
    return list(asyncio_worker.LOOPS) if arguments.asyncio else ("",)


def broken(figures: Mapping[str, Any]) -> bool:
    """
    Say whether the promise was broken.
    """
    return bool(
        figures["lost before a worker touched them"]
        or figures["answered twice"]
        or figures.get("lost by a worker that was not killed")
        or figures.get("listeners that failed")
    )


def main() -> None:
    """
    Run the storm of the command line, and print its figures.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.storm",
        description="Kill or stop workers under load, and count what clients lose.",
    )
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=float, default=0.015, help="seconds")
    parser.add_argument("--at-once", type=int, default=64, help="clients")
    parser.add_argument(
        "--stop",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="stop so many workers, one after the other, rather than kill any",
    )
    parser.add_argument("--wire", choices=["stream", "datagram"], default="stream")
    parser.add_argument(
        "--asyncio", action="store_true", help="workers of asyncio, not of Twisted"
    )
    parser.add_argument("--naive", action="store_true", help="the control: send, close")
    parser.add_argument(
        "--mix",
        action="store_true",
        help="kill, stop and end workers at random, over several kinds of ports",
    )
    parser.add_argument(
        "--kill-listener",
        type=int,
        default=0,
        metavar="N",
        help="with --mix: kill the listener so often in each part, too",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace the listener all the time, too, one after the other",
    )
    parser.add_argument(
        "--minutes", type=float, default=1.5, help="with --mix: how long it lasts"
    )
    parser.add_argument("--seed", type=int, default=2002, help="with --mix")
    arguments = parser.parse_args()
    if arguments.mix:
        total = mix(arguments)
        for name, value in total.items():
            print(f"{name}: {value}")
        sys.exit(1 if broken(total) else 0)
    if arguments.replace and (arguments.naive or arguments.wire == "datagram"):
        parser.error("--replace is for a listener of --wire=stream")
    others = arguments.stop or arguments.naive or arguments.asyncio
    if arguments.wire == "datagram" and others:
        parser.error("--stop, --naive and --asyncio are for --wire=stream")
    figures = storm(
        float("inf") if arguments.stop else arguments.connections,
        arguments.workers,
        arguments.every,
        arguments.at_once,
        arguments.naive,
        arguments.stop,
        arguments.wire,
        loops(arguments),
        replaces=arguments.replace,
    )
    notes = STOPPED if arguments.stop else KILLED
    for name, value in figures.items():
        note = f" ({notes[name]})" if value and name in notes else ""
        print(f"{name}: {value}{note}")
    failed = broken(figures) or figures.get("lost and not in the log", 0)
    if arguments.stop:
        allowed = 16 * arguments.stop
        failed = (
            failed
            or figures["adopted twice"]
            or figures["lost in service"]
            or figures["stalled"] > allowed
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
