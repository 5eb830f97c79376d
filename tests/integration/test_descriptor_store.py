"""
Listeners that follow one another while a service manager keeps their sockets.  A real
one is in L{tests.systemd}.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import LoopingCall

from tests.support.asynchronous import asynchronous
from tests.support.programs import command
from tests.support.replacing import ROUNDS, SERVES, Clients, Make, Ports, checkNotes
from tests.support.service_manager import ServiceManager
from tests.support.spawned import Process, Start
from tests.support.waiting import until


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    """
    A service manager with a descriptor store.
    """
    made = ServiceManager()
    # The kernel queues ten messages: see net.unix.max_dgram_qlen.
    reading = LoopingCall(made.read)
    reading.start(0.01)
    yield made
    reading.stop()
    made.close()


class Service:
    """
    A listener that the service manager starts again and again.

    @param folder: the folder of the path.
    """

    def __init__(self, folder: Path, start: Start, manager: ServiceManager) -> None:
        self._folder = folder
        self._start = start
        self._manager = manager

    async def start(self, *arguments: str) -> Process:
        """
        Start it, and wait until it serves.
        """
        store = self._manager.read()
        variables = [f"{key}={each}" for key, each in self._manager.environment.items()]
        process = self._start(
            *(sys.executable, "-m", "tests.support.as_service", ":".join(store)),
            *(*variables, command("twistd"), "-n", "--pidfile=", "portlisten"),
            *(*arguments, str(self._folder / "socket")),
            inherited=[each.fileno() for each in store.values()],
        )
        await process.says(SERVES)
        return process


@asynchronous
async def test_restarts(
    folder: Path, start: Start, replaced: Make, manager: ServiceManager
) -> None:
    """
    One listener after the other is stopped, and the next one is started.  Each kind of
    port stays open, no client is refused, reset or served twice, and the workers stay.
    """
    ports = Ports.free(folder)
    service = Service(folder, start, manager)
    listener = await service.start(*ports.arguments())
    # IPv4 alone: http, local, shared, four of group, dns, the path, the control socket
    assert len(manager.read()) == 10
    made = replaced(*ports.arguments())
    await made.work("twisted", "asyncio", "twisted", "asyncio")
    clients = Clients(folder, start, 4, ports.targets())
    await clients.progress()
    for _ in range(ROUNDS or 4):
        assert await listener.stop() == 0, listener.output
        listener = await service.start(*ports.arguments())
        await clients.progress()
        assert len(manager.read()) == 10
    found = await clients.finish()
    checkNotes(made.notes, found)
    assert len(found["servers"]) == 4
    assert await listener.stop() == 0
    made.check()


@asynchronous
async def test_killed(
    folder: Path, start: Start, replaced: Make, manager: ServiceManager
) -> None:
    """
    If the listener is killed, no client is refused.  Those that it had accepted and not
    handed off are lost with it.
    """
    ports = Ports.free(folder)
    service = Service(folder, start, manager)
    listener = await service.start(*ports.arguments())
    made = replaced(*ports.arguments())
    await made.work("twisted", "asyncio")
    clients = Clients(folder, start, 4, ports.targets())
    await clients.progress()
    for _ in range(ROUNDS or 4):
        listener.signal(signal.SIGKILL)
        assert await listener.ended() == -signal.SIGKILL
        listener = await service.start(*ports.arguments())
        await clients.progress()
    found = await clients.finish()
    assert not any("refused" in each.lower() for each in found["wrong"]), found["wrong"]
    assert await listener.stop() == 0
    made.check()


@asynchronous
async def test_changed(
    folder: Path, start: Start, replaced: Make, manager: ServiceManager
) -> None:
    """
    The next listener has other ports: one is gone, one has another address, and a group
    is smaller.  Those that stay refuse nobody.
    """
    ports = Ports.free(folder)
    service = Service(folder, start, manager)
    listener = await service.start(*ports.arguments())
    made = replaced(*ports.arguments())
    await made.work("twisted", "asyncio")
    targets = [f"close=tcp:{ports.http}", f"close=unix:{ports.local}"]
    clients = Clients(folder, start, 4, targets)
    await clients.progress()
    assert await listener.stop() == 0
    kept = ports.arguments()[:2]
    listener = await service.start(
        *kept,
        f"--share=shared=tcp:{ports.shared}",
        f"--share=group=tcp:{ports.group}:interface=127.0.0.1:reuseport=2",
    )
    await clients.progress()
    await until(lambda: len(manager.read()) == 7, "the others have left the store")
    found = await clients.finish()
    checkNotes(made.notes, found)
    assert f"the socket udp:0.0.0.0:{ports.dns} is closed" in listener.output
    assert f"the socket tcp:127.0.0.1:{ports.shared} is closed" in listener.output
    again = Clients(
        folder, start, 4, [f"close=tcp:{ports.shared}", f"close=tcp:{ports.group}"]
    )
    await again.progress()
    assert (await again.finish())["wrong"] == {}
    assert await listener.stop() == 0
    made.check()
