"""
Kills under C{portlisten run}: C{python -m tests.kills --help}.

It starts C{portlisten run} with a port that is handed off, a shared port and a UDP
port, and clients.  Then it sends SIGKILL at random moments.

With C{listener}, it kills the listener under load.  It counts:

  - I{refused}: clients that nobody listened for.  This must be 0.
  - I{lost}: clients that got no answer.  The listener must have held them: it is
    stopped by SIGSTOP for a moment before it is killed, and its descriptors are
    counted.
  - I{lost, though a worker had adopted them}: this must be 0.

With C{supervisor}, it kills the supervisor: under load, while it starts, while it
restarts the workers, and while it stops.  Then it starts the next C{portlisten run}
at once.  That must serve on all ports, without any cleaning, and all processes of
the last one must end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.storm import forkClients, read
from tests.support.ports import freePort
from tests.support.processes import Process
from tests.support.run_service import NoPython, Workers, portlisten, write

#: How long anything may take, in seconds.
PATIENCE = 60.0

#: How long the next C{portlisten run} may take to serve, and the old processes to end,
#: in seconds.
SOON = 30.0

#: How many clients run at once.
CLIENTS = 48

#: A shell that starts a worker, waits for it, and passes SIGTERM on.
SHELL = (
    "/bin/sh",
    "-c",
    'trap \'kill "$worker"; wait "$worker"; exit\' TERM; "$@" & worker=$!;'
    ' wait "$worker"',
    "shell",
)

WORKER = ("python", "-m", "tests.support.noting_worker")

#: The moments at which the supervisor is killed.
MOMENTS = ("load", "start", "restart", "stop")


#: How often the listener of one supervisor is killed.  The supervisor takes more for a
#: crash loop, and its pauses grow.
SERIES = 4

MORE = "lost, and the listener had fewer"
ADOPTED = "lost, though a worker had adopted them"
ELSEWHERE = "lost at other moments"

#: The figures that must be 0.
BROKEN = ("refused", "answered twice", MORE, ADOPTED, ELSEWHERE)


class Failed(Exception):
    """
    The promise was broken.
    """


class Service:
    """
    C{portlisten run}, again and again in one folder.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kills."))
        self.folder.chmod(0o755)
        self.http, self.own, self.udp = (
            freePort(first, first + 1000) for first in (18000, 19000, 20000)
        )
        book = self.folder / "book"
        book.touch()
        book.chmod(0o666)
        stream = [*WORKER, "stream", str(book)]
        self.file = write(
            self.folder,
            "\n".join(
                f'[ports.{name}]\n{kind} = "{what}:{port}:interface=127.0.0.1"'
                for name, kind, what, port in (
                    ("http", "listen", "tcp", self.http),
                    ("own", "share", "tcp", self.own),
                    ("dns", "share", "udp", self.udp),
                )
            ),
            [
                Workers("web", [*stream, "portlisten:{path}:name=http:limit=6"], 2),
                Workers(
                    "shell", [*SHELL, *stream, "portlisten:{path}:name=http:limit=6"]
                ),
                Workers("own", [*stream, "portlisten:{path}:name=own"]),
                Workers(
                    "dns",
                    [
                        *("python", "-m", "portlisten", "exec", "--name=dns", "{path}"),
                        *(*WORKER, "datagram"),
                    ],
                ),
            ],
        )
        self.generation = 0
        self.process: Process | None = None
        self.marks: list[str] = []
        self._good = False

    def start(self) -> Process:
        """
        Start the next one.
        """
        self.generation += 1
        mark = f"{self.folder.name}-{self.generation}"
        self.marks.append(mark)
        words = portlisten("run", str(self.file))
        words = ["env", f"GENERATION={mark}", *[w for w in words if w != "env"]]
        self.process = Process(words, self.folder, f"run{self.generation}")
        return self.process

    @property
    def mark(self) -> str:
        return self.marks[-1]

    def command(self, *arguments: str) -> Process:
        """
        Run another command of portlisten.
        """
        words = portlisten(*arguments)
        return Process(words, self.folder, arguments[0])

    def status(self) -> Any:
        """
        What C{portlisten status} says.
        """
        with self.command("status", "--json", str(self.file)) as process:
            # After the listener was killed, it does not know who has the UDP port.
            if process.wait() > 1:
                raise Failed(f"no status: {process.output}")
            return json.loads(process.output)

    def processes(self, mark: str) -> list[int]:
        """
        The processes of one generation, without the supervisor.
        """
        found = []
        for each in os.listdir("/proc"):
            if not each.isdigit():
                continue
            with suppress(OSError):
                environment = Path(f"/proc/{each}/environ").read_bytes()
                if f"GENERATION={mark}".encode() in environment.split(b"\0"):
                    found.append(int(each))
        return found

    def served(self) -> None:
        """
        Wait until this generation serves all ports.
        """
        mark = self.mark.encode()
        waitFor(
            lambda: mark in exchange(self.http, socket.SOCK_STREAM), self, "http", SOON
        )
        waitFor(
            lambda: mark in exchange(self.own, socket.SOCK_STREAM), self, "own", SOON
        )
        waitFor(
            lambda: mark in exchange(self.udp, socket.SOCK_DGRAM), self, "dns", SOON
        )

    def gone(self, mark: str) -> float:
        """
        Wait until all processes of a generation have ended.

        @return: the seconds that took.
        """
        began = time.monotonic()
        while left := self.processes(mark):
            if time.monotonic() - began > SOON:
                what = [
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                    for pid in left
                ]
                raise Failed(f"still there after {SOON:g} s: {left} {what}")
            time.sleep(0.05)
        return time.monotonic() - began

    def good(self) -> None:
        """
        Note that nobody needs the logs.
        """
        self._good = True

    def clear(self) -> None:
        """
        Kill all processes.
        """
        if self.process is not None:
            self.process.kill()
        for mark in self.marks:
            for pid in self.processes(mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        if self._good:
            shutil.rmtree(self.folder)
        else:
            print(f"the logs are in {self.folder}", flush=True)


def waitFor(
    condition: Callable[[], bool], service: Service, what: str, patience: float
) -> None:
    """
    Wait until something is so.
    """
    end = time.monotonic() + patience
    while not condition():
        process = service.process
        assert process is not None
        if not process.running:
            raise Failed(f"{what}: portlisten run ended:\n{process.output}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {patience:g} s:\n{process.output}")
        time.sleep(0.02)


def exchange(port: int, kind: int) -> bytes:
    """
    Ask which generation serves.
    """
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5 if kind == socket.SOCK_STREAM else 0.3)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(b"generation\n")
            return sock.recv(200)
        except OSError:
            return b""


def children(pid: int) -> list[int]:
    """
    The children of a process.
    """
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def listenerOf(supervisor: int) -> int:
    """
    The listener of a supervisor; 0 if none runs.
    """
    for pid in children(supervisor):
        with suppress(OSError):
            if b"supervised-listener" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def sockets(pid: int) -> int:
    """
    How many sockets a process has open.
    """
    count = 0
    for each in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/{pid}/fd/{each}").startswith("socket:")
    return count


def killListeners(
    service: Service, rounds: Sequence[int], chance: random.Random
) -> Counter[str]:
    """
    Kill the listener of one supervisor under load.

    @param rounds: the numbers of the rounds.
    @return: the figures.
    """
    process = service.start()
    service.served()
    process.says("1 of 1 workers of dns are ready")
    enough = service.folder / "enough"
    answers = forkClients(float("inf"), CLIENTS, [service.http], enough)
    moments: list[tuple[float, float, int]] = []
    try:
        for number in rounds:
            time.sleep(chance.uniform(0.3, 1.5))
            before = service.status()["listener"]
            held = before["held"]
            listener = listenerOf(process.pid)
            time.sleep(chance.uniform(0, 0.3))
            os.kill(listener, signal.SIGSTOP)
            while state(listener) not in "tT":
                time.sleep(0.001)
            # The listening sockets, the path's, the link, the workers' channels.
            own = 3 + 1 + 1 + len(before["workers"])
            had = sockets(listener) - own
            killed = time.monotonic()
            os.kill(listener, signal.SIGKILL)
            # A program under "portlisten exec" joins no other listener.
            labels = sorted(
                each["label"] for each in before["workers"] if each["label"] != "dns-1"
            )
            rejoined = partial(hasRejoined, service, listener, labels)
            waitFor(rejoined, service, f"workers {labels}", PATIENCE)
            back = time.monotonic()
            moments.append((killed, back, had))
            print(
                f"listener killed {number}: said {held}, had {had} connections; all"
                f" workers were back after {back - killed:.1f} s",
                flush=True,
            )
    finally:
        time.sleep(1)
        enough.touch()
        os.waitpid(answers, 0)
    return countListeners(service, moments)


def hasRejoined(service: Service, listener: int, labels: Sequence[str]) -> bool:
    """
    Whether another listener runs, and all workers have joined it.

    @param listener: the last one.
    """
    try:
        found = service.status()["listener"]
    except Failed:
        return False
    return (
        found is not None
        and found["pid"] != listener
        and labels == sorted(each["label"] for each in found["workers"])
    )


def state(pid: int) -> str:
    """
    The state of a process: a letter, see proc(5).
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def countListeners(
    service: Service, moments: Sequence[tuple[float, float, int]]
) -> Counter[str]:
    """
    Count what became of the clients.

    @param moments: for each kill its time, when all workers were back, and how many
        connections the listener had.
    """
    results, book = read(service.folder)
    kinds = Counter(each.kind for each in results)
    bad = [each for each in results if each.kind in ("reset", "late")]
    figures = Counter(
        {
            "listeners killed": len(moments),
            "connections": len(results),
            "answered": kinds["answered"],
            "answered twice": kinds["twice"],
            "refused": kinds["refused"],
            "connections that the listeners had": sum(had for _, _, had in moments),
            "lost": len(bad),
            MORE: 0,
            ADOPTED: sum(each.adopted(book) for each in bad),
            ELSEWHERE: len(bad),
        }
    )
    for killed, _, had in moments:
        lost = sum(each.began <= killed <= each.ended for each in bad)
        figures[ELSEWHERE] -= lost
        figures[MORE] += max(0, lost - had)
    return figures


def tryListeners(rounds: int, chance: random.Random) -> bool:
    """
    Kill the listener so often, and say what became of the clients.

    @return: whether all went well.
    """
    total: Counter[str] = Counter()
    for first in range(0, rounds, SERIES):
        numbers = range(first + 1, min(first + SERIES, rounds) + 1)
        with Service() as service:
            figures = killListeners(service, numbers, chance)
            print(
                f"lost {figures['lost']} of the"
                f" {figures['connections that the listeners had']} connections that"
                f" they had",
                flush=True,
            )
            if not any(figures[each] for each in BROKEN):
                service.good()
        for name, value in figures.items():
            total[name] += value
    for name, value in total.items():
        print(f"{name}: {value}")
    return total["answered"] > 0 and not any(total[each] for each in BROKEN)


def trySupervisors(rounds: int, chance: random.Random, only: str = "") -> bool:
    """
    Kill the supervisor so often, and start the next one at once.

    @param only: the only moment at which to kill it; empty for all.
    @return: whether all went well.
    """
    with Service() as service:
        service.start()
        service.served()
        enough = service.folder / "enough"
        answers = forkClients(float("inf"), CLIENTS, [service.http], enough)
        times: list[tuple[float, float]] = []
        try:
            for number in range(1, rounds + 1):
                moment = only or MOMENTS[number % len(MOMENTS)]
                when = killAt(service, moment, chance)
                print(f"supervisor killed {number}, {when}: ", end="", flush=True)
                try:
                    times.append(startNext(service))
                except Failed as error:
                    print(f"FAILED: {error}", flush=True)
                    service.clear()
                    service.start()
                    service.served()
                else:
                    print(
                        "its processes ended within {:.1f} s, and the next one served"
                        " after {:.1f} s".format(*times[-1]),
                        flush=True,
                    )
            assert service.process is not None
            code = service.process.stop()
        finally:
            enough.touch()
            os.waitpid(answers, 0)
        left = [each for each in os.listdir(service.folder) if "socket" in each]
        kinds = Counter(each.kind for each in read(service.folder)[0])
        print(f"supervisors killed: {rounds}")
        print(f"failures: {rounds - len(times)}")
        if times:
            ended, served = zip(*times, strict=True)
            print(f"longest until all processes had ended: {max(ended):.1f} s")
            print(f"longest until the next one served: {max(served):.1f} s")
        print(f"clients meanwhile: {', '.join(f'{k} {n}' for k, n in kinds.items())}")
        print(f"exit code of the last: {code}; left behind: {left or 'nothing'}")
        good = len(times) == rounds and code == 0 and not left
        if good:
            service.good()
        return good


def startNext(service: Service) -> tuple[float, float]:
    """
    Kill the supervisor, and start the next one at once.

    @return: the seconds until all processes of the killed one had ended, and until the
        next one served.
    @raise Failed: if that takes too long.
    """
    began = time.monotonic()
    old = service.mark
    assert service.process is not None
    service.process.kill()
    service.start()
    ended = service.gone(old)
    service.served()
    return ended, time.monotonic() - began


def killAt(service: Service, moment: str, chance: random.Random) -> str:
    """
    Wait for a moment to kill the supervisor.

    @return: when that is.
    """
    process = service.process
    assert process is not None
    if moment == "start":
        process.stop()
        service.start()
        wait = chance.uniform(0, 3)
        time.sleep(wait)
        return f"{wait:.2f} s after its start"
    process.says("1 of 1 workers of dns are ready", patience=PATIENCE)
    if moment == "load":
        wait = chance.uniform(0, 1)
        time.sleep(wait)
        return "under load"
    if moment == "restart":
        command = service.command("restart", str(service.file))
        process.says("the restart of .* begins")
        wait = chance.uniform(0, 8)
        time.sleep(wait)
        command.kill()
        return f"{wait:.2f} s after the begin of a restart"
    process.signal(signal.SIGTERM)
    wait = chance.uniform(0, 0.3)
    time.sleep(wait)
    return f"{wait:.2f} s after SIGTERM"


def main() -> None:
    """
    Run the command.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.kills",
        description="Kill the listener and the supervisor of 'portlisten run'.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["listener", "supervisor", "both"],
        default="both",
        help="what is killed [both]",
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="how often each is killed [20]"
    )
    parser.add_argument("--seed", type=int, default=2002)
    parser.add_argument(
        "--moment",
        choices=MOMENTS,
        default="",
        help="kill the supervisor only at such moments",
    )
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    fine = True
    try:
        if arguments.what != "supervisor":
            fine = tryListeners(arguments.rounds, chance)
        if arguments.what != "listener":
            fine = trySupervisors(arguments.rounds, chance, arguments.moment) and fine
    except (Failed, AssertionError) as error:
        print(f"FAILED: {error}")
        fine = False
    except NoPython as error:
        parser.error(str(error))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
