"""
What the next listener has from the one before it: the clients that wait, the workers'
loads, what an operator has asked for, the paths and the pid file.

If C{PORTLISTEN_ROUNDS} is set, so many listeners follow one another in
L{test_nothingIsLeft}.
"""

from __future__ import annotations

import os
import select
import socket
from collections import Counter
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.replacing import ROUNDS, Make, Ports, Replaced
from tests.support.spawned import settled, steady
from tests.support.waiting import until

#: By how much the memory of a process may differ from another's, in KiB.
NOISE = 3000

LAST = b"GET /word HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
KEEP = b"GET /word HTTP/1.1\r\nHost: here\r\n\r\n"


def server(client: socket.socket, request: bytes = KEEP) -> int:
    """
    Ask on a connection.

    @return: the number of the process that answers.
    """
    client.sendall(request)
    answer = b""
    while b"word " not in answer or not answer.endswith(b"\n"):
        data = client.recv(4096)
        assert data, answer
        answer += data
    return int(answer.rpartition(b" ")[2])


def hasEnded(client: socket.socket) -> bool:
    """
    Say whether a connection has ended without an answer.
    """
    if not select.select([client], [], [], 0)[0]:
        return False
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except ConnectionResetError:
        return True  # what it had sent was not read


def web(replaced: Make, *also: str) -> tuple[Replaced, int]:
    """
    Make a listener with one port.
    """
    port = freePort(24000, 25000)
    address = f"--listen=http=tcp:{port}:interface=127.0.0.1"
    return replaced(address, *also), port


@asynchronous
async def test_waitingClients(replaced: Make) -> None:
    """
    Many clients wait while there is no worker, and three listeners follow one another.
    The patience with a client counts from when the first one accepted it.  Then a
    worker comes, and all others are answered.
    """
    made, port = web(replaced, "--patience=8")
    await made.replace()
    early = made.connect(port)
    early.sendall(LAST)
    await made.shows(lambda status: status["queues"][0]["oldest"] > 4)
    clients = [made.connect(port) for _ in range(500)]
    for each in clients[::2]:
        each.sendall(LAST)
    await made.shows(lambda status: status["queues"][0]["waiting"] == 501)
    for _ in range(3):
        await made.replace()
        await made.listener.says("has handed over 501 connections")
    assert not hasEnded(early)
    await until(lambda: hasEnded(early), "the end of patience", 30)
    assert not any(map(hasEnded, clients))
    for each in clients[1::2]:
        each.sendall(LAST)
    await made.work("asyncio")
    answers = await deferToThread(lambda: [server(each, b"") for each in clients])
    assert set(answers) == {made.workers[0].pid}
    assert len(made.notes.read_text().split()) == 500
    status = await made.shows(lambda status: not status["held"]["claimed"])
    assert status["counters"]["timedOut"] == 1
    assert await made.listener.stop() == 0
    made.check()


@asynchronous
async def test_silentClients(replaced: Make) -> None:
    """
    Clients that say nothing, and whom the listener keeps from the workers until they
    speak, are answered by the next listener's workers.
    """
    made, port = web(replaced)
    await made.replace()
    await made.work("twisted")
    clients = [made.connect(port) for _ in range(50)]
    await made.shows(lambda status: status["queues"][0]["silent"] == 50)
    await made.replace()
    for each in clients:
        each.sendall(LAST)
    answers = await deferToThread(lambda: [server(each, b"") for each in clients])
    assert set(answers) == {made.workers[0].pid}
    made.check()


@asynchronous
async def test_leastLoaded(replaced: Make) -> None:
    """
    The next listener knows how many connections the workers have that the one before it
    gave them: the one with more gets none of the next ones.
    """
    made, port = web(replaced)
    await made.replace()
    await made.work("twisted", "asyncio", "twisted", "asyncio")
    kept: dict[int, list[socket.socket]] = {each.pid: [] for each in made.workers}
    for _ in range(440):
        client = made.connect(port)
        kept[await deferToThread(server, client)].append(client)
    assert [len(each) for each in kept.values()] == [110] * 4
    busy, *others = kept
    for pid in others:
        while len(kept[pid]) > 100:
            kept[pid].pop().close()

    def loads(status: dict[str, list[dict[str, int]]]) -> Counter[int]:
        return Counter(
            {
                each["pid"]: each["connections"] + (each["serving"] or 0)
                for each in status["workers"]
            }
        )

    expected = Counter({busy: 110, **dict.fromkeys(others, 100)})
    await made.shows(lambda status: loads(status) == expected)
    await made.replace()
    await made.shows(lambda status: loads(status) == expected)
    late = [made.connect(port) for _ in range(10)]
    servers = [await deferToThread(server, each) for each in late]
    assert set(servers) == set(others)
    # The connections that are kept go on.
    for pid, clients in kept.items():
        assert await deferToThread(server, clients[0]) == pid
    made.close()
    await made.shows(lambda status: sum(loads(status).values()) == 0)
    made.check()


@asynchronous
async def test_operator(replaced: Make) -> None:
    """
    A worker that an operator has drained stays drained, and gets no client even if it
    joins first and clients wait.  A pause goes on, too.  The operator takes both back,
    whichever listener serves by then.
    """
    made, port = web(replaced)
    await made.replace()
    await made.work("twisted")
    drained = made.workers[0].pid
    assert (await made.command("drain", str(drained))).output
    early = [made.connect(port) for _ in range(10)]
    for each in early:
        each.sendall(LAST)
    await made.shows(lambda status: status["held"]["waiting"] == 10)
    await made.replace()
    await made.shows(
        lambda status: [each["state"] for each in status["workers"]] == ["drained"]
    )
    await made.work("asyncio", "twisted")
    others = [each.pid for each in made.workers[1:]]
    for each in early:
        assert await deferToThread(server, each, b"") in others
    assert "paused" in (await made.command("pause")).output
    for _ in range(2):
        await made.replace()
        status = await made.shows(
            lambda status: (
                {each["pid"]: each["state"] for each in status["workers"]}
                == {drained: "drained", **dict.fromkeys(others, "serving")}
            )
        )
        assert status["paused"]
    clients = [made.connect(port) for _ in range(30)]
    servers = {await deferToThread(server, each, LAST) for each in clients}
    assert servers == set(others)
    await made.command("undrain", str(drained))
    await made.command("resume")
    await made.replace()
    status = await made.shows(
        lambda status: [each["state"] for each in status["workers"]] == ["serving"] * 3
    )
    assert not status["paused"]
    clients += [made.connect(port) for _ in range(30)]
    servers = {await deferToThread(server, each, LAST) for each in clients[30:]}
    assert servers == {drained, *others}
    made.check()


@asynchronous
async def test_nothingIsLeft(replaced: Make, folder: Path) -> None:
    """
    After many listeners, the newest has no more descriptors and no more memory than an
    early one, the paths are the same sockets, and the processes are gone.  At its end,
    no path is left.
    """
    ports = Ports.free(folder)
    made = replaced(*ports.arguments())
    paths = [made.path, f"{made.path}.ctl", ports.local]
    await made.replace()
    await made.work("twisted", "asyncio")
    inodes = [os.stat(each).st_ino for each in paths]
    names = sorted(os.listdir(folder))
    lock = f"{ports.local}.lock"
    first = await steady(made.listener)
    worker = [await steady(each) for each in made.workers]
    await made.replace()
    memory = made.listener.resident()
    for _ in range(ROUNDS or 4):
        await made.replace()
        client = made.connect(ports.http)
        assert await deferToThread(server, client, LAST)
        assert [os.stat(each).st_ino for each in paths] == inodes
        assert os.readlink(lock) == str(made.listener.pid)
    assert await settled(made.listener, first) == first
    for each, count in zip(made.workers, worker, strict=True):
        assert await settled(each, count) == count
    print(f"{memory} KiB at first, {made.listener.resident()} KiB at the end")
    assert made.listener.resident() <= memory + NOISE
    assert {name for name in os.listdir(folder) if "pid" not in name} == {
        name for name in [*names, "notes"] if "pid" not in name
    }
    assert (await made.command("status")).output
    assert await made.listener.stop() == 0
    assert not any(map(os.path.lexists, [*paths, lock]))
    made.check()


@asynchronous
async def test_pidFile(replaced: Make, folder: Path) -> None:
    """
    The pid file that all listeners share names the newest, and is gone at its end.
    """
    made, _ = web(replaced)
    file = folder / "listener.pid"
    for _ in range(3):
        await made.replace(pidfile=str(file))
        assert int(file.read_text()) == made.listener.pid
    assert await made.listener.stop() == 0
    assert not file.exists()
    made.check()


@asynchronous
async def test_privileges(root: None, replaced: Make, folder: Path) -> None:
    """
    Listeners that drop root's privileges follow one another in a folder of root's, on a
    port below 1024.  The control socket belongs to their user, and they leave no path.
    """
    port = freePort(80, 1000)
    local = str(folder / "www")
    made = replaced(
        f"--listen=http=tcp:{port}:interface=127.0.0.1",
        f"--listen=local=unix:{local}",
    )
    for _ in range(3):
        await made.replace(uid="nobody", gid="nogroup")
        assert made.listener.status()["Uid"].split() == ["65534"] * 4
        assert os.stat(f"{made.path}.ctl").st_uid == 65534
    await made.work("asyncio")
    client = made.connect(port)
    assert await deferToThread(server, client, LAST) == made.workers[0].pid
    assert await made.listener.stop() == 0
    made.check()
