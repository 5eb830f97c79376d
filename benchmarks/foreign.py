"""
Contestants that are not Twisted's: Node and its cluster, uvicorn, and the floor in C.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.asgi import ANSWER, OPTIONS, REQUEST, STAY
from benchmarks.contestants import Contestant, Start, twistd
from benchmarks.running import Running

HERE = Path(__file__).parent

NODE = ("node", "nodejs")

#: Names of Node's two ways to divide connections among processes.
WAYS = {"round robin": "roundrobin", "shared": "shared"}


def node(mode: str, count: int = 1) -> Start:
    """
    Node, alone or as a cluster.
    """

    def start(running: Running) -> None:
        running.parentAccepts = mode == "roundrobin"
        program = ("node", str(HERE / "node.js"))
        running.run(
            *(*program, mode, running.protocol, str(running.port), str(count)),
            count=count,
        )

    return start


def cluster(*counts: int) -> list[Contestant]:
    """
    Node's cluster, in both ways, with so many processes.
    """
    return [
        Contestant(f"Node {way} x{count}", node(mode, count), NODE)
        for way, mode in WAYS.items()
        for count in counts
    ]


def floor(running: Running) -> Path:
    """
    Compile the floor.
    """
    program = running.folder / "floor"
    subprocess.run(["cc", "-O2", "-o", program, HERE / "floor.c"], check=True)
    return program


def floorDirect(running: Running) -> None:
    """
    A server in C that listens itself.
    """
    running.run(str(floor(running)), "direct", str(running.port))


def floorHanded(running: Running) -> None:
    """
    A listener and a worker in C.
    """
    program, path = str(floor(running)), f"{running.folder}/socket"
    running.before(program, "listener", str(running.port), path)
    running.run(program, "worker", path)


def uvicorn(count: int = 1) -> Start:
    """
    uvicorn that listens itself, with its own workers if they are several.
    """

    def start(running: Running) -> None:
        options = [
            f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            + ("" if value is False else f"={value}")
            for name, value in OPTIONS.items()
        ]
        running.run(
            *(sys.executable, "-m", "uvicorn", "--host=127.0.0.1"),
            *(f"--port={running.port}", f"--workers={count}", *options),
            "benchmarks.asgi:app",
            count=count,
        )

    return start


def uvicornBehind(count: int, *options: str) -> Start:
    """
    uvicorn as workers of a listener.
    """

    def start(running: Running) -> None:
        twistd(running, *options, f"tcp:{running.port}:interface=127.0.0.1")
        description = f"portlisten:{running.folder}/socket"
        program = (sys.executable, "-m", "benchmarks.asgi")
        running.run(*program, description, str(count), count=count)

    return start


def http(name: str, start: Start) -> Contestant:
    """
    A contestant that speaks HTTP.
    """
    return Contestant(
        name,
        start,
        request=REQUEST,
        answer=ANSWER,
        stayRequest=STAY,
        module="uvicorn",
    )


NODES = [Contestant("Node direct", node("direct"), NODE), *cluster(1, 2, 4)]

FLOOR = [
    Contestant("C direct", floorDirect),
    Contestant("C listen x1", floorHanded),
]

UVICORNS = [
    http("uvicorn direct", uvicorn()),
    http("uvicorn x4", uvicorn(4)),
    http("uvicorn listen x1", uvicornBehind(1)),
    http("uvicorn listen x4", uvicornBehind(4)),
    http("uvicorn share x4", uvicornBehind(4, "--share")),
]
