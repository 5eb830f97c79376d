"""
C{twistd portlisten --replace} replaces a listener while it serves, and no client
notices.

If C{PORTLISTEN_ROUNDS} is set, so many listeners follow one another.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.asynchronous import asynchronous
from tests.support.replacing import (
    ROUNDS,
    Clients,
    Make,
    Ports,
    checkNotes,
)
from tests.support.spawned import Start


@asynchronous
async def test_underLoad(folder: Path, start: Start, replaced: Make) -> None:
    """
    Each kind of port, with clients that keep their connections and others that do not,
    is taken over by one listener after the other.  No client is refused, reset or
    served twice, and the workers stay.
    """
    ports = Ports.free(folder)
    made = replaced(*ports.arguments())
    await made.replace()
    await made.work("twisted", "asyncio", "twisted", "asyncio")
    clients = Clients(folder, start, 8, ports.targets())
    await clients.progress()
    for _ in range(ROUNDS or 4):
        await made.replace()
        await clients.progress()
    found = await clients.finish()
    print(found["answers"], found["servers"])
    checkNotes(made.notes, found)
    assert len(found["servers"]) == 4
    assert await made.listener.stop() == 0
    made.check()


@asynchronous
async def test_naiveWay(folder: Path, start: Start, replaced: Make) -> None:
    """
    If the old listener is stopped before the next one starts, the same clients are
    refused: they can tell the difference.
    """
    ports = Ports.free(folder)
    made = replaced(*ports.arguments())
    await made.replace()
    await made.work("twisted", "asyncio")
    clients = Clients(folder, start, 8, [f"close=tcp:{ports.http}"])
    await clients.progress()
    assert await made.listener.stop() == 0
    await made.replace()
    await clients.progress()
    found = await clients.finish()
    assert any("Refused" in each for each in found["wrong"])
