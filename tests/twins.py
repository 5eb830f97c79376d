"""
C{python -m tests.twins}: compare C{_batch.c} with its twin in Python.

Both get the same clients and the same errors of accept(2) and getsockopt(2), chosen at
random.  Both must accept the same clients and return the same error.  Then memory fails
at each allocation of a call, in turn.  No connection may be lost then, and no
descriptor.  C{tests/peers/failing.c} must be preloaded, as L{run} does.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portlisten._kernel import batch, sockets
from tests.support.batches import TWINS

#: The errors of accept(2): of a connection, of the machine, of the port.
ACCEPT_ERRORS = [
    *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    *(errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EAGAIN),
]

COOKIE_ERRORS = [errno.ENOMEM, errno.ENOBUFS, errno.EPERM, errno.EBADF]

#: More allocations than a call makes, with those of the Python code around it.
ALLOCATIONS = 40

SOURCE = Path(__file__).parent / "peers" / "failing.c"


class Place:
    """
    A listening socket, and its clients.
    """

    def __init__(self, kind: int, folder: str, count: int) -> None:
        self.clients: list[socket.socket] = []
        self.listening = socket.socket(kind, socket.SOCK_STREAM)
        if kind == socket.AF_UNIX:
            self.listening.bind(tempfile.mktemp(dir=folder))
        else:
            self.listening.bind(("127.0.0.1" if kind == socket.AF_INET else "::1", 0))
        self.listening.listen(100)
        self.listening.setblocking(False)
        self.kind = kind
        for number in range(count):
            client = socket.socket(kind, socket.SOCK_STREAM)
            if kind == socket.AF_UNIX and number % 3:
                name = tempfile.mktemp(dir=folder)
                client.bind(f"\0{name}" if number % 3 == 1 else name)
            client.connect(self.listening.getsockname())
            self.clients.append(client)
        # A client is connected before the listening socket has its connection.
        end = time.monotonic() + 10
        while kind != socket.AF_UNIX and self.queued() < count:
            assert time.monotonic() < end

    def queued(self) -> int:
        """
        How many connections wait to be accepted.
        """
        found = sockets.queued(self.listening)
        assert found is not None
        return found[0]

    def numbers(self, addresses: Iterable[Any]) -> list[int]:
        """
        Tell which clients have these addresses: for each, the first one.
        """
        known = [client.getsockname() for client in self.clients]
        return [known.index(address) for address in addresses]

    def rest(self) -> int:
        """
        Accept the connections that still wait.

        @return: how many they were.
        """
        accepted, number = batch.acceptSockets(self.listening, self.kind, 1000)
        assert number == 0
        for sock, _ in accepted:
            sock.close()
        return len(accepted)

    def close(self) -> None:
        """
        Close everything.
        """
        for each in (*self.clients, self.listening):
            each.close()


def descriptors() -> int:
    """
    How many descriptors are open.
    """
    return len(os.listdir("/proc/self/fd"))


def numbers(values: list[int]) -> tuple[Any, int]:
    """
    Make an array for C of some numbers.
    """
    return (ctypes.c_int * len(values))(*values), len(values)


def chooseErrors(rng: random.Random, errors: list[int], most: int) -> list[int]:
    """
    Choose the errors of the next calls: mostly none, and sometimes the same error many
    times.
    """
    chosen: list[int] = []
    for _ in range(rng.randrange(most)):
        if rng.random() < 0.7:
            chosen.append(0)
        else:
            chosen += [rng.choice(errors)] * rng.choice([1, 1, 2, 12])
    return chosen


@dataclass
class Case:
    """
    What both are given.

    @ivar family: the address family of the listening socket.
    @ivar clients: how many clients have connected.
    @ivar most: how many attempts to make.
    @ivar accepting: the errors of the first calls of accept(2), or 0.
    @ivar asking: the errors of the first calls of getsockopt(2) for a cookie, or 0.
    """

    family: int
    clients: int
    most: int
    accepting: list[int]
    asking: list[int]


def choose(rng: random.Random) -> Case:
    """
    Choose a case at random.
    """
    return Case(
        rng.choice([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]),
        rng.randrange(7),
        rng.randrange(9),
        chooseErrors(rng, ACCEPT_ERRORS, 5),
        chooseErrors(rng, COOKIE_ERRORS, 3),
    )


#: A client with a path, to whom nobody can be told, and then one without.
KNOWN = Case(socket.AF_UNIX, 4, 9, [], [0, 0, errno.EPERM])


def compare(library: Any, failing: Any, case: Case, folder: str) -> None:
    """
    Let both accept the same, and compare what they return.
    """
    results = []
    for twin in (batch, library):
        place = Place(case.family, folder, case.clients)
        before = descriptors()
        failing.fail_accept(*numbers(case.accepting))
        failing.fail_cookie(*numbers(case.asking))
        connections, number = twin.acceptMany(
            twin.Connection, place.listening, case.family, case.most
        )
        failing.fail_accept(*numbers([]))
        failing.fail_cookie(*numbers([]))
        assert descriptors() == before + len(connections)
        for each in connections:
            peek = socket.socket(fileno=os.dup(each.fileno()))
            with peek:
                assert peek.getpeername() == each.address, (twin, case)
                assert sockets.cookie(peek) == each.cookie
                assert (peek.family, 0) == (each.family, each.proto)
                assert not os.get_inheritable(each.fileno())
        known = place.numbers(each.address for each in connections)
        for each in connections:
            each.closeCopy()
            assert each.fileno() == -1
        assert descriptors() == before
        results.append((known, number, place.rest()))
        place.close()
    assert results[0] == results[1], (results, case)


def starve(library: Any, kind: int, folder: str) -> int:
    """
    Let each allocation of a call fail, and those after it.

    @return: how many calls accepted something, but not all.
    """
    import _testcapi

    partial = 0
    for start in range(ALLOCATIONS):
        for stop in (0, start + 1):
            place = Place(kind, folder, 4)
            before = descriptors()
            connections: list[Any] = []
            number = 0
            arguments = (library.Connection, place.listening, kind, 4)
            failed = False
            _testcapi.set_nomemory(start, stop)
            try:
                connections, number = library.acceptMany(*arguments)
            except MemoryError:
                failed = True
            finally:
                _testcapi.remove_mem_hooks()
            assert number in (0, errno.ENOMEM)
            assert not (failed and connections)
            assert descriptors() == before + len(connections)
            known = place.numbers(each.address for each in connections)
            first = place.clients[: len(connections)]
            assert known == place.numbers(each.getsockname() for each in first)
            partial += 0 < len(connections) < 4
            for each in connections:
                each.closeCopy()
            assert place.rest() == 4 - len(connections)
            place.close()
    return partial


def main() -> None:
    """
    Compare for some rounds.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.twins")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"--seed={arguments.seed}", flush=True)
    warnings.simplefilter("error")
    failing = ctypes.CDLL(None)
    library = TWINS["C"]
    assert library is not None, "it was not built"
    with tempfile.TemporaryDirectory(prefix="twins.") as folder:
        compare(library, failing, KNOWN, folder)
        for number in range(arguments.rounds):
            rng = random.Random(arguments.seed + number)
            compare(library, failing, choose(rng), folder)
        for kind in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            assert starve(library, kind, folder), "no call failed in the middle"
    print(f"{arguments.rounds} rounds, and the twins are the same")


def run(compiler: str, folder: str, *options: str) -> subprocess.CompletedProcess[str]:
    """
    Build C{failing.c}, and run this program with it.

    @param folder: where to put what is built.
    @param options: of this program.
    """
    library = os.path.join(folder, "failing.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, str(SOURCE), "-ldl"], check=True
    )
    preload = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    return subprocess.run(
        [sys.executable, "-m", "tests.twins", *options],
        env={**os.environ, "LD_PRELOAD": preload},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    main()
