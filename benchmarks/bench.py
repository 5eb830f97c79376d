"""
What all questions share: the tools, the clients, and the rounds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.running import Running

#: The port of the first contestant.  A proxy's server is on the next port.
FIRST_PORT = 21000

#: Contestants with a process for each connection.  They get fewer clients.
FORKING = frozenset(["socat", "tcpserver"])

Figures = dict[str, Any]

#: Measures a contestant once.
Measure = Callable[[Contestant, Running], Figures]


def needsCompiler(parser: ArgumentParser) -> None:
    """
    End the program with an error if the clients cannot be built.
    """
    if shutil.which("cc") is None:
        parser.error(
            "the clients are in C, and cc is missing: apt install gcc libc6-dev"
        )


def buildClients(folder: Path) -> None:
    """
    Build the clients' program, for a L{Bench} with this folder.
    """
    source = Path(__file__).with_name("load.c")
    subprocess.run(["cc", "-O2", "-o", folder / "load", source], check=True)


@dataclass
class Bench:
    """
    The tools and the parameters of all questions.

    @ivar folder: the folder for files, with the clients' program in it.
    @ivar rounds: how often each contestant is measured.
    @ivar scale: the factor for the number of clients.
    @ivar parts: the parts that are asked of a question that has parts; all, if empty.
    @ivar port: the port of the first contestant.
    """

    folder: Path
    contestants: list[Contestant]
    rounds: int
    scale: float
    parts: Sequence[str] = ()
    port: int = FIRST_PORT

    def chosen(self, names: Iterable[str]) -> list[Contestant]:
        """
        Return the available contestants of these names.
        """
        wanted = set(names)
        return [each for each in self.contestants if each.name in wanted]

    def load(
        self,
        port: int,
        total: int,
        atOnce: int,
        expected: bytes,
        most: int = 0,
        request: str = "",
    ) -> Figures:
        """
        Run many clients.

        @param most: the most requests of each client, which then closes; with 0, the
            server closes.
        @param request: what each client sends first.
        @return: what they print, and C{taken}: how much of the machine's processor time
            they took, from 0 to 1.
        @raise RuntimeError: if a client got a wrong answer, or none.
        """
        process = subprocess.run(
            [
                str(self.folder / "load"),
                *(str(port), str(total), str(atOnce), expected.decode(), str(most)),
                *([request] if request else []),
            ],
            stdout=subprocess.PIPE,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(f"not all were answered: {process.stdout.decode()}")
        found: Figures = json.loads(process.stdout)
        processors = os.cpu_count() or 1
        return {**found, "taken": found["cpu"] / found["seconds"] / processors}

    def connections(
        self, each: Contestant, running: Running, total: int, atOnce: int
    ) -> Figures:
        """
        Run many clients, each of which hears one answer.

        @return: connections per second; waits in microseconds; and the processor time
            of a connection, in microseconds: in C{front}, in the server (C{back}), and
            in the C{clients}.
        """
        count = self.total(each, total)
        front, back = running.used()
        found = self.load(
            running.port, count, atOnce, each.answer, request=each.request
        )
        frontNow, backNow = running.used()
        return {
            "rate": count / found["seconds"],
            "p50": found["p50"],
            "p99": found["p99"],
            "longest": found["longest"],
            "front": (frontNow - front) / count * 1e6,
            "back": (backNow - back) / count * 1e6,
            "clients": found["cpu"] / count * 1e6,
            "taken": found["taken"],
        }

    def total(self, contestant: Contestant, total: int) -> int:
        """
        Return how many clients to run.
        """
        share = 8 if contestant.name in FORKING else 1
        return max(20, int(total * self.scale / share))

    def interleave(
        self,
        protocol: str,
        contestants: list[Contestant],
        cases: dict[str, Measure],
        warmUp: Measure | None = None,
    ) -> tuple[dict[str, dict[str, list[Figures]]], dict[str, list[int]]]:
        """
        Run all contestants, and measure one after the other, in rounds.

        @param cases: the measurements, by their names.
        @param warmUp: what each contestant does before the first round.  Node compiles
            what runs often.
        @return: the figures of each contestant in each case; and for each contestant,
            how many connections each process of its server had.
        """
        found: dict[str, dict[str, list[Figures]]] = {
            case: {each.name: [] for each in contestants} for case in cases
        }
        running: dict[str, Running] = {}
        with ExitStack() as stack:
            for number, each in enumerate(contestants):
                port = self.port + 2 * number
                running[each.name] = stack.enter_context(
                    each.running(self.folder, port, protocol)
                )
            if warmUp is not None:
                for each in contestants:
                    warmUp(each, running[each.name])
            for turn in range(self.rounds):
                print(f"round {turn + 1}", file=sys.stderr, flush=True)
                for case, measure in cases.items():
                    for each in contestants:
                        figures = measure(each, running[each.name])
                        found[case][each.name].append(figures)
        for one in running.values():
            for file in one.folder.glob("*.log"):
                if b"Traceback" in file.read_bytes():
                    raise RuntimeError(f"{file}:\n{file.read_text()}")
            shutil.rmtree(one.folder)
        return found, {name: one.served for name, one in running.items()}
