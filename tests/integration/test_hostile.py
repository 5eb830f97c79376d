"""
Hostile workers, with real processes: whatever one worker does, the clients of others
are served, and the listener stays small and quick.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from pathlib import Path

import pytest

from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import (
    DRAINING,
    Bye,
    Offer,
    Refuse,
)
from tests.hostile import (
    HELLO,
    STRANGER,
    attacker,
    honest,
    join,
    listener,
    measure,
    underAttack,
)
from tests.support import older
from tests.support.clients import ask
from tests.support.processes import Processes
from tests.support.sockets import spoil
from tests.support.tracing import canTrace, failing

PORT = "tcp:0:interface=127.0.0.1"

#: The longest that a client may wait while there is an attack, in seconds.
LONGEST = 3.0

#: What the listener may log in a second of an attack, in bytes.
LOG_RATE = 4096

#: How much the listener's memory may grow in an attack, in KiB.
GROWTH = 16 * 1024


@pytest.mark.parametrize("sameUser", [False, True])
@pytest.mark.parametrize(
    ("limit", "channels", "seconds"), [(4096, 1, 5), (4096, 5, 5), (20000, 5, 10)]
)
def test_inFlight(limit: int, channels: int, seconds: int, sameUser: bool) -> None:
    """
    If a worker never reads and claims all offers, the honest worker's clients still get
    their answers.
    """
    if os.geteuid() != 0 and not sameUser:
        pytest.skip("needs root, to be several users")
    attack = underAttack(seconds, limit, channels, sameUser)
    print(f"without: {attack.alone}; with: {attack.attacked}")
    assert attack.offers > 0
    assert attack.attacked.lost == 0
    assert attack.attacked.longest < LONGEST
    assert attack.attacked.answers[HELLO] > attack.alone.answers[HELLO] / 20


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kernel", ["this", "older"])
def test_neverCloses(processes: Processes, kernel: str) -> None:
    """
    A worker sends a descriptor whose close(2) never returns, also where the kernel
    cannot refuse descriptors, and the listener goes on.
    """
    if not Path("/dev/fuse").exists():
        pytest.skip("/dev/fuse is not there")
    if kernel == "older":
        if platform.machine() not in older.CALLS:
            pytest.skip("the numbers of this machine's system calls are not known")
        program = str(Path(sys.executable).with_name("twistd"))
        process = processes.python(
            *("-m", "tests.support.older", "83", "--", program, "-n", "--pidfile="),
            *("portlisten", "--mode=0666", PORT, "./socket"),
        )
        process.says("this kernel cannot refuse descriptors")
    else:
        process = listener(processes, PORT)
    port = process.port()
    honest(processes).says("joined the listener")
    enemy = attacker(processes, "neverCloses")
    said = enemy.says("(?m)^(sent|refused|cannot mount).*")
    if said[1] == "cannot mount":
        pytest.skip(said[0])
    time.sleep(0.5)
    answers = [ask(port, 5) for _ in range(3)]
    # Lets go of the listener, which could not even be killed before.
    enemy.kill()
    assert answers == [HELLO] * 3
    assert "Traceback" not in process.output


@pytest.mark.usefixtures("root")
def test_crowd(processes: Processes) -> None:
    """
    If one process opens more channels than the listener has places, workers of another
    user are still let in, and serve.
    """
    process = listener(processes, PORT)
    port = process.port()
    enemy = attacker(processes, "crowd", 300, user=STRANGER, limit=1024)
    enemy.says("opened 300 channels")
    for _ in range(3):
        honest(processes).says("joined the listener", patience=10)
    enemy.kill()
    assert [ask(port, 10) for _ in range(10)] == [HELLO] * 10


def test_smallCrowd(processes: Processes) -> None:
    """
    One process opens a hundred channels, and another worker of its user is let in.
    """
    process = listener(processes, PORT)
    process.port()
    attacker(processes, "crowd", 100).says("opened 100 channels")
    honest(processes).says("joined the listener", patience=10)


def test_refusals(processes: Processes) -> None:
    """
    A worker that refuses all offers, and comes again and again, does not fill the log.
    """
    process = listener(processes, PORT)
    port = process.port()
    honest(processes).says("joined the listener")
    enemy = attacker(processes, "refuse", 12)
    time.sleep(0.5)
    size = process.log.stat().st_size
    began = time.monotonic()
    figures = measure(port, 5)
    rate = (process.log.stat().st_size - size) / (time.monotonic() - began)
    print(f"{rate:.0f} bytes of log a second; {figures}")
    assert enemy.running
    assert "refused" in process.output
    assert figures.lost == 0
    assert rate < LOG_RATE


@pytest.mark.skipif(not canTrace(), reason="needs strace, and the right to attach it")
def test_deaf(processes: Processes) -> None:
    """
    A worker that shuts down the listener's way to it, and writes claims without
    end, neither fills the listener's memory nor keeps it from its turns, even if it
    writes faster than the listener reads.
    """
    process = listener(processes, PORT)
    port = process.port()
    honest(processes).says("joined the listener")
    before = process.resident()
    with failing(process, "recvmsg", "delay_exit=500", "1+1"):
        enemy = attacker(processes, "deaf", 2)
        time.sleep(1)
        figures = measure(port, 4)
        growth = process.resident() - before
        assert enemy.running
        enemy.kill()
    print(f"{growth} KiB more; {figures}")
    assert figures.lost == 0
    assert figures.longest < LONGEST
    assert growth < GROWTH


def test_stuckMember(processes: Processes) -> None:
    """
    A worker of a group with C{SO_REUSEPORT} that stops reading is cut off, and the
    others serve on.
    """
    process = listener(processes, "--claim-timeout=0.5", f"--share={PORT}:reuseport=4")
    port = process.port()
    enemy = attacker(processes, "stuck", 4)
    enemy.says("cut off after", patience=20)
    honest(processes).says("joined the listener")
    assert ask(port, 10) == HELLO


def test_clientsThatLeft(processes: Processes) -> None:
    """
    Clients that connect and leave while no worker runs cost no places in the queue, no
    descriptors, and few lines of log.
    """
    process = listener(processes, "--queue=90", PORT)
    port = process.port()
    before = process.descriptors()
    for number in range(80):
        client = socket.create_connection(("127.0.0.1", port))
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    until = time.monotonic() + 9
    while process.descriptors() > before + 4 and time.monotonic() < until:
        time.sleep(0.05)
    assert process.descriptors() <= before + 4
    assert len(process.output.splitlines()) < 30
    # There is a place in the queue for each of these, which the listener accepts.
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
    until = time.monotonic() + 3
    while process.descriptors() < before + 80 and time.monotonic() < until:
        time.sleep(0.05)
    assert process.descriptors() >= before + 80
    honest(processes)
    for client in waiting:
        with client:
            client.settimeout(10)
            assert client.recv(100) == HELLO


@pytest.mark.parametrize("said", [b"request", b""], ids=["sent", "silent"])
def test_halfClosedClients(processes: Processes, said: bytes) -> None:
    """
    A client that ended its side while no worker ran is served when a worker comes, even
    if it had sent nothing.
    """
    process = listener(processes, PORT)
    port = process.port()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        time.sleep(1)
        honest(processes)
        client.settimeout(10)
        assert client.recv(100) == HELLO


def test_spoils(processes: Processes) -> None:
    """
    If a worker makes listening sockets of its offers and refuses them, honest workers
    do not have to refuse them again and again.
    """
    process = listener(processes, PORT)
    port = process.port()
    with join(str(processes.folder / "socket"), window=8) as channel:
        process.says("joined")
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        channel.settimeout(10)
        decoder = Decoder(FROM_LISTENER)
        ids: list[int] = []
        while len(ids) < len(clients):
            data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
            ids += [each.id for each in decoder.feed(data) if isinstance(each, Offer)]
            for descriptor in descriptors:
                spoil(descriptor)
                os.close(descriptor)
        channel.sendall(encode(Refuse(DRAINING, tuple(ids))) + encode(Bye("enough")))
        process.says("left")
    honest(processes).says("joined the listener")
    assert [ask(port, 5) for _ in range(20)] == [HELLO] * 20
    for client in clients:
        client.close()
