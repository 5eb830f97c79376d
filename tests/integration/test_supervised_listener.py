"""
A listener that a supervisor starts: it gets all sockets, and they outlive it.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import threads

from portlisten import _kernel
from portlisten._control.messages import Drain, Stop, StopAnswer, Workers
from portlisten._control.start import encodeLoaded
from tests.support.asynchronous import asynchronous
from tests.support.clients import Repeated, ask, read
from tests.support.ports import freePort
from tests.support.processes import SOURCE
from tests.support.programs import command, moduleFor
from tests.support.spawned import Start, steady
from tests.support.supervised import COMMAND, Supervisor
from tests.support.waiting import sleep, until

HELLO = b"hello\n"


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    """
    A supervisor with one port.
    """
    made = Supervisor(folder)
    yield made
    made.close()


class Clients(Repeated):
    """
    Clients in threads, from C{with} to its end.

    @ivar served: how many were served.
    @ivar refused: the errors of connect(2).
    @ivar lost: how many had connected, and were not served.
    """

    def __init__(self, port: int, atOnce: int) -> None:
        super().__init__(atOnce)
        self.served = 0
        self.lost = 0
        self.refused: list[OSError] = []
        self._port = port

    def once(self) -> None:
        """
        Run one client.
        """
        try:
            client = socket.create_connection(("127.0.0.1", self._port), 30)
        except OSError as error:
            self.refused.append(error)
            return
        with client:
            if read(client) == HELLO:
                self.served += 1
            else:
                self.lost += 1


async def answers(supervisor: Supervisor) -> bytes | None:
    """
    Run a client.
    """
    answer: bytes | None = await threads.deferToThread(ask, supervisor.port)
    return answer


@asynchronous
async def test_serves(supervisor: Supervisor, start: Start, twistd: Start) -> None:
    """
    It serves by way of a worker, answers requests, and ends with the supervisor.
    """
    process, link = supervisor.start(start)
    assert await link.ready == process.pid
    worker = twistd("hellofdpass", "--label=web-1", "./socket", "hello\n")
    await worker.says("joined the listener")
    assert await answers(supervisor) == HELLO
    (state,) = (await link.ask(Workers())).workers
    assert (state.label, state.pid) == ("web-1", worker.pid)
    (state,) = (await link.ask(Drain(("web-1",)))).workers
    assert state.label == "web-1"
    link.close()
    assert await process.ended() == 0
    assert "the supervisor is gone" in process.output
    assert os.path.exists(supervisor.path)
    assert supervisor.broken == []


@asynchronous
async def test_killed(supervisor: Supervisor, start: Start, twistd: Start) -> None:
    """
    When it is killed under load, no client is refused, and workers join the next one at
    once.  To workers, the supervisor is at the other end of the path all the while.
    """
    process, link = supervisor.start(start)
    await link.ready
    workers = [
        twistd("hellofdpass", "./socket", "hello\n"),
        start(command("portlisten"), "each", "./socket", "echo", "hello"),
    ]
    for each in workers:
        await each.says("joined the listener")
    with Clients(supervisor.port, 4) as clients:
        await until(lambda: clients.served > 100, "no load", 30)
        for _ in range(3):
            await process.kill()
            served = clients.served
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(supervisor.path)
                assert _kernel.credentials(waiting).pid == os.getpid()
            process, link = supervisor.start(start)
            await link.ready
            await until(
                lambda served=served: clients.served > served + 100,  # type: ignore[misc]
                "nobody is served again",
                30,
            )
    assert clients.refused == []
    # What the listener had accepted and not handed off is lost with it.
    assert clients.lost <= 3 * 4
    for each in workers:
        # Each joined four times, and never waited for longer than usual.
        assert len(re.findall("joined the listener", each.output)) == 4
        assert "trying every 5 s" not in each.output
    assert len(supervisor.broken) == 3
    assert set(supervisor.broken) == {
        "the link to the listener broke: it closed the link"
    }
    assert await process.stop() == 0


@asynchronous
async def test_neverAlone(supervisor: Supervisor, start: Start, twistd: Start) -> None:
    """
    A worker and a client that come while no listener runs wait for the next one.  The
    worker joins it at once, even if it has waited for longer than HELLO usually takes.
    """
    worker = twistd("hellofdpass", "./socket", "hello\n")
    waiting = threads.deferToThread(ask, supervisor.port)
    await worker.says("waiting for the listener at ./socket: no HELLO has come yet")
    process, link = supervisor.start(start)
    await link.ready
    await worker.says("joined the listener")
    assert await waiting == HELLO
    assert "trying" not in worker.output
    assert await process.stop() == 0


@asynchronous
async def test_program(folder: Path, start: Start) -> None:
    """
    A program under C{exec} waits likewise, and is known by its label.
    """
    supervisor = Supervisor(folder, share=("web=tcp:0:interface=127.0.0.1",))
    try:
        program = start(
            *("/usr/bin/env", "PORTLISTEN_LABEL=web-1", command("portlisten")),
            *("exec", "--name=web", "./socket", "sleep", "60"),
        )
        await until(
            lambda: bool(select.select([supervisor.channel.socket], [], [], 0)[0]),
            "it does not connect",
            30,
        )
        process, link = supervisor.start(start)
        await link.ready
        await program.says("is descriptor 3")
        (state,) = (await link.ask(Workers())).workers
        assert (state.label, state.pid) == ("web-1", program.pid)
        link.close()
        assert await process.ended() == 0
    finally:
        supervisor.close()


@asynchronous
async def test_unprivileged(
    root: None, folder: Path, start: Start, twistd: Start
) -> None:
    """
    It may run as another user, on ports that only root can bind.  To workers, root is
    at the other end all the same.
    """
    port = freePort(80, 1024)
    supervisor = Supervisor(folder, listen=(f"tcp:{port}:interface=127.0.0.1",))
    try:
        # Its Python may need to be told where this package is.
        python = " ".join(moduleFor("nobody", "twisted")[:-2])
        python = python.replace("PYTHONPATH=", f"PYTHONPATH={SOURCE}:")
        process, link = supervisor.start(
            start,
            [
                *("/usr/bin/setpriv", "--reuid=nobody", "--regid=nogroup"),
                *("--clear-groups", *python.split(), *COMMAND[1:]),
            ],
        )
        await link.ready
        nobody = pwd.getpwnam("nobody").pw_uid
        assert process.status()["Uid"].split() == [str(nobody)] * 4
        worker = twistd(
            "hellofdpass", "--listener-user=root", "./socket", "hello\n", uid="daemon"
        )
        await worker.says("joined the listener")
        assert await answers(supervisor) == HELLO
        assert await process.stop() == 0
    finally:
        supervisor.close()


@asynchronous
async def test_term(supervisor: Supervisor, start: Start, twistd: Start) -> None:
    """
    After SIGTERM, it leaves what waits in the backlogs to the next one, and its workers
    join that one.
    """
    process, link = supervisor.start(start)
    await link.ready
    worker = twistd("hellofdpass", "./socket", "hello\n")
    await worker.says("joined the listener")
    assert await process.stop() == 0
    waiting = threads.deferToThread(ask, supervisor.port)
    await worker.says("the listener says: the listener stops")
    await sleep(1)
    process, link = supervisor.start(start)
    await link.ready
    assert await waiting == HELLO
    assert "cannot serve this worker" not in worker.output
    link.close()
    assert await process.ended() == 0


@asynchronous
async def test_stop(folder: Path, start: Start, twistd: Start) -> None:
    """
    If the supervisor ends the service, the listener waits until a worker has taken what
    waits in the backlogs.  After SIGTERM it leaves that to the next listener.
    """
    supervisor = Supervisor(folder, queue=0, grace=30.0)
    try:
        process, link = supervisor.start(start)
        await link.ready
        clients = [
            threads.deferToThread(ask, supervisor.port, send=b"") for _ in range(3)
        ]
        await until(
            lambda: (_kernel.queued(supervisor.ports[0].socket) or (0, 0))[0] == 3,
            "the backlog does not fill",
        )
        answer = await link.ask(Stop())
        assert answer == StopAnswer(process.pid)
        await sleep(0.5)
        assert process.running
        twistd("hellofdpass", "./socket", "hello\n")
        assert [await each for each in clients] == [HELLO] * 3
        assert await process.ended() == 0
    finally:
        supervisor.close()


@asynchronous
async def test_manySockets(folder: Path, start: Start) -> None:
    """
    All sockets arrive, in several messages, and nothing else stays open.
    """
    groups = [f"g{each}=tcp:0:interface=127.0.0.1:reuseport=60" for each in range(5)]
    supervisor = Supervisor(folder, share=(*groups, "dns=udp:0:interface=127.0.0.1"))
    try:
        process, link = supervisor.start(start)
        await link.ready
        await process.says("(?s)" + "60 sockets.*" * 5)
        # Also: standard input, output and error; the link; epoll, and two pairs that
        # wake the reactor; the other two ports; and the channel's path.
        assert await steady(process) == 300 + 12
        link.close()
        assert await process.ended() == 0
    finally:
        supervisor.close()


async def refusal(start: Start, *messages: tuple[bytes, list[int]]) -> str:
    """
    Send something else than a start message, and return the only line of the log.
    """
    ours, theirs = socket.socketpair()
    with ours:
        process = start(*COMMAND, inherited=[theirs.fileno()])
        theirs.close()
        for data, sent in messages:
            _kernel.send(ours, data, sent)
        ours.shutdown(socket.SHUT_WR)
        assert await process.ended() == 1
        assert ours.recv(1000) in (b"", encodeLoaded())
    (line,) = process.output.splitlines()
    return line


@asynchronous
async def test_badStart(supervisor: Supervisor, start: Start) -> None:
    """
    A start message that is none ends it with one line.
    """
    channel = supervisor.channel.socket.fileno()
    port = supervisor.ports[0].socket.fileno()
    manifest = {
        "name": "",
        "kind": "CONNECTIONS",
        "address": str(supervisor.ports[0].address),
        "sockets": 1,
    }
    good: dict[str, Any] = {
        "version": 1,
        "settings": {"path": supervisor.path},
        "ports": [manifest],
        "channel": 1,
    }

    def line(**changes: Any) -> bytes:
        return json.dumps({**good, **changes}).encode() + b"\n"

    reader, writer = os.pipe()
    try:
        for expected, data, sent in [
            ("closed the link before the start", b"", []),
            ("closed the link before the start", line()[:-1], [port, channel]),
            ("is no JSON", b"hello\n", []),
            ("another version than 1", line(version=2), [port, channel]),
            ("1 descriptors came with the start message", line(), [channel]),
            ("3 descriptors came", line(), [port, port, channel]),
            ("leads to no socket", line(), [reader, channel]),
            ("does not fit: it is no listening socket", line(), [writer, channel]),
            ("the channel's socket is no Unix socket", line(), [port, port]),
            ("is bound to unix:", line(), [channel, channel]),
        ]:
            messages = [(data, sent)] if data else []
            if sent and sent[0] == writer:
                with socket.socket() as deaf:
                    messages = [(data, [deaf.fileno(), channel])]
                    said = await refusal(start, *messages)
            else:
                said = await refusal(start, *messages)
            assert said.startswith("portlisten supervised-listener: ")
            assert expected in said
    finally:
        os.close(reader)
        os.close(writer)


@asynchronous
async def test_alone(start: Start) -> None:
    """
    Nobody can start it by hand, and no help names it.
    """
    process = start(*COMMAND)
    assert await process.ended() == 1
    assert "'portlisten run' starts this command" in process.output
    process = start(sys.executable, "-m", "portlisten", "--help")
    assert await process.ended() == 0
    assert "supervised" not in process.output
