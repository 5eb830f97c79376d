"""
A listener with limits, its workers, and the clients that come to it.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from tests.support.ports import freePort
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command

#: The source of a flood, and the others.
FLOOD = "127.0.0.66"
OTHERS = [f"127.0.0.{number}" for number in range(10, 20)]

#: How many connections a flood is.
CONNECTIONS = 5000

#: How often each source asks, in seconds.
INTERVAL = 0.2

#: How many connections the slow site has at a time, and how many of them a source may
#: have.  It answers each in 50 ms.
PLACES = 8
SHARE = 2

ASK = b"GET / HTTP/1.0\r\n\r\n"
KEEP = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"

#: Answers, each with its time in seconds, or with infinity if it did not come.
Times = Sequence[float]


def quantile(times: Times, share: float) -> float:
    """
    The time within which a share of the clients had answers, in seconds.
    """
    return sorted(times)[math.ceil(share * len(times)) - 1]


class Scene:
    """
    A listener with one port, and what else there is.

    @param processes: starts the processes.
    @param limits: what follows the address in the port's description.
    @param options: of all listeners.
    @ivar port: the port.
    @ivar listener: the newest listener.
    """

    listener: Process

    def __init__(self, processes: Processes, limits: str = "", *options: str) -> None:
        self._processes = processes
        self._options = options
        self.port = freePort(26000, 27000)
        self._description = f"tcp:{self.port}:interface=127.0.0.1{limits}"

    def listen(self, *options: str) -> Process:
        """
        Start a listener, which may take over from the one before it.
        """
        listen = f"--listen={self._description}"
        self.listener = self._processes.twistd(
            "portlisten", *self._options, *options, listen, "./socket"
        )
        self.listener.says("workers (?:connect|bind)")
        return self.listener

    def site(self, options: str = "", wrapper: str = "") -> Process:
        """
        Start a worker of L{tests.support.slow_site}, and wait until it has joined.

        @param options: of its endpoint.
        @param wrapper: what stands before its endpoint.
        """
        description = f"{wrapper}portlisten:./socket:grace=0{options}"
        worker = self._processes.python("-m", "tests.support.slow_site", description)
        worker.says("joined the listener")
        return worker

    def flood(self, count: int = CONNECTIONS, *options: str) -> Process:
        """
        Start a flood, and wait until it has tried all its connections.
        """
        flood = self._processes.python(
            *("-m", "tests.support.flood", str(self.port), str(count), FLOOD),
            *options,
        )
        flood.says("opened")
        return flood

    def begin(
        self,
        sources: Sequence[str],
        seconds: float,
        interval: float,
        path: str = "/slow",
    ) -> Process:
        """
        Let sources ask in turns, each once in an interval.

        @return: the process, for L{answers}.
        """
        return self._processes.python(
            *("-m", "tests.support.timed_clients", str(self.port), str(seconds)),
            *(str(interval), path, *sources),
        )

    def answers(self, clients: Process) -> Times:
        """
        Wait for the end of clients that L{begin} started.
        """
        assert clients.wait() == 0, clients.output
        found = json.loads(clients.output)
        return [math.inf if each is None else each for each in found]

    def times(
        self,
        sources: Sequence[str],
        seconds: float,
        interval: float,
        path: str = "/slow",
    ) -> Times:
        """
        L{begin}, and wait for the end.
        """
        return self.answers(self.begin(sources, seconds, interval, path))

    def portlisten(self, *words: str) -> str:
        """
        Run C{portlisten}, and say what it writes.

        @param words: its command line.
        """
        done = subprocess.run(
            [command("portlisten"), *words],
            cwd=self._processes.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.stdout + done.stderr

    def status(self) -> Any:
        """
        What C{portlisten status} says of the listener.
        """
        return json.loads(self.portlisten("status", "--json", "./socket"))["listener"]

    def counts(self) -> dict[str, int]:
        """
        How many connections each source has, if it has any that live or wait.
        """
        found = {
            each["source"]: each["connections"] + each["waiting"]
            for each in self.status()["sources"]
        }
        return {source: count for source, count in found.items() if count}

    def waiting(self, count: int) -> None:
        """
        Wait until so many connections wait.
        """
        end = time.monotonic() + PATIENCE
        while self.status()["queues"][0]["waiting"] != count:
            assert time.monotonic() < end, self.status()
            time.sleep(0.05)

    def counted(self, expected: dict[str, int], patience: float = 10.0) -> None:
        """
        Wait until the sources have so many connections.
        """
        end = time.monotonic() + patience
        while (found := self.counts()) != expected:
            assert time.monotonic() < end, (found, expected, self.listener.output)
            time.sleep(0.1)


@dataclass
class Seen:
    """
    What clients saw.

    @ivar others: the others, before a flood.
    @ivar flooded: the same, while the flood came.
    @ivar source: the source of the flood, before it.
    @ivar after: the same, after it.
    @ivar fate: what became of the flood.
    """

    others: Times
    flooded: Times
    source: Times
    after: Times
    fate: dict[str, int]

    def __str__(self) -> str:
        rows = [("others", self.others), ("flooded", self.flooded)]
        rows += [("source", self.source), ("after", self.after)]
        shown = [
            f"{name}: p50 {quantile(each, 0.5) * 1000:.1f},"
            f" p90 {quantile(each, 0.9) * 1000:.1f},"
            f" p99 {quantile(each, 0.99) * 1000:.1f} ms of {len(each)}"
            for name, each in rows
            if each
        ]
        return "; ".join([*shown, f"flood: {self.fate}"])


def underFlood(processes: Processes, beyond: str, seconds: float, pause: float) -> Seen:
    """
    See how a flood and its end change how clients are served by a slow site.

    The site answers each request after 50 ms, and has eight connections at a time.  A
    source may have two of them.

    @param beyond: what happens to a client beyond the limit; if empty, there is none.
    @param seconds: how long the others ask before the flood, and while it comes.
    @param pause: how long after the flood the source asks again, in seconds.  With 0,
        it does not.
    """
    limits = f":max-per-source={SHARE}:beyond={beyond}" if beyond else ""
    scene = Scene(processes, limits)
    scene.listen()
    scene.site(f":limit={PLACES}")
    # The first requests import modules.
    scene.times(OTHERS, 0.5, INTERVAL)
    source = scene.times([FLOOD], 2, INTERVAL)
    others = scene.times(OTHERS, seconds, INTERVAL)
    clients = scene.begin(OTHERS, seconds, INTERVAL)
    flood = scene.flood()
    flooded = scene.answers(clients)
    fate = ended(flood)
    time.sleep(pause)
    after = scene.times([FLOOD], 2, INTERVAL) if pause else []
    return Seen(others, flooded, source, after, fate)


def isNear(before: Times, now: Times, share: float = 0.99) -> bool:
    """
    Whether a quantile is within 1.5 times of what it was.  The processes of all sides
    share a few processors, so 5 ms more are for their scheduler.
    """
    return quantile(now, share) <= 1.5 * quantile(before, share) + 0.005


def ended(flood: Process) -> dict[str, int]:
    """
    End a flood.

    @return: what became of its connections.
    """
    assert flood.stop() == 0, flood.output
    counts: dict[str, int] = json.loads(flood.output.splitlines()[-1])
    return counts


class Clients(ExitStack):
    """
    Clients with sockets of their own, which end with C{with}.
    """

    def connect(self, port: int, source: str) -> socket.socket:
        """
        Connect from an address.
        """
        sock = self.enter_context(socket.socket())
        sock.settimeout(PATIENCE)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        return sock

    def ask(self, port: int, source: str, request: bytes = ASK) -> bytes:
        """
        Ask from an address.

        @return: the body of the answer; empty if the connection ended before that.
        """
        try:
            sock = self.connect(port, source)
            sock.sendall(request)
        except OSError:
            return b""
        return body(sock)

    def stay(self, port: int, source: str, count: int = 1) -> None:
        """
        Let some connect, get an answer, and stay.
        """
        for _ in range(count):
            assert self.ask(port, source, KEEP), "no answer"


def body(sock: socket.socket) -> bytes:
    """
    Read the body of an answer, which is a line; empty if the connection ends before it.
    """
    answer = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(4096):
            answer += data
            _, _, text = answer.partition(b"\r\n\r\n")
            if text.endswith(b"\n"):
                return text
    return b""
