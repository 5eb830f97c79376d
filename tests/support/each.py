"""
C{portlisten each} in tests: its listener, its programs, and its children.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command

#: A port that the kernel chooses.
PORT = "tcp:0:interface=127.0.0.1"


def startEach(processes: Processes, *arguments: str, limit: int = 0) -> Process:
    """
    Start C{portlisten each}.

    @param limit: C{RLIMIT_NOFILE}; with 0, the usual one.
    """
    return processes.start(command("portlisten"), "each", *arguments, limit=limit)


def startPair(
    processes: Processes, *arguments: str, port: str = PORT
) -> tuple[Process, Process, int]:
    """
    Start a listener and C{portlisten each}, and wait until it has joined.

    @param arguments: of C{portlisten each}; C{./socket} is the channel.
    @return: the listener, C{portlisten each}, and the number of the port.
    """
    listener = processes.twistd("portlisten", port, "./socket")
    number = listener.port()
    each = startEach(processes, *arguments)
    listener.says("joined")
    return listener, each, number


def script(processes: Processes, name: str, text: str) -> Path:
    """
    Write a program.
    """
    path = processes.folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """
    Connect a client.

    @param source: its address.
    """
    return socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))


def readToEnd(client: socket.socket) -> bytes:
    """
    Read until the other side ends.

    @raise OSError: if it resets the connection, or does not end in time.
    """
    parts = iter(lambda: client.recv(65536), b"")
    return b"".join(parts)


def ask(port: int, send: bytes = b"", source: str = "127.0.0.1") -> bytes:
    """
    Send bytes and the end, and read the answer to its end.
    """
    with closing(connect(port, source)) as client:
        client.sendall(send)
        client.shutdown(socket.SHUT_WR)
        return readToEnd(client)


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """
    Wait until a condition holds.

    @raise AssertionError: if it does not in time.
    """
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def childrenOf(pid: int) -> Iterator[tuple[int, str]]:
    """
    Find the children of a process.

    @return: for each, its number and its state, which is C{Z} if nobody has waited for
        it.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                fields = _stat(int(name))
                if int(fields[1]) == pid:
                    yield int(name), fields[0]


def runs(pid: int) -> bool:
    """
    Whether a process runs.
    """
    try:
        return _stat(pid)[0] not in ("Z", "X")
    except OSError:
        return False


def needsProgram(path: str, package: str) -> str:
    """
    Skip a test if a program is not installed.

    @return: its path.
    """
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is not installed: apt-get install {package}")
    return path
