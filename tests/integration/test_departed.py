"""
Workers that are revoked, or say BYE, and then die.  Connections that they had claimed
and not touched are handed off again.  While such a worker lives, it serves its own
connections.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from twisted.internet.defer import Deferred

from tests.support.asking import client
from tests.support.asynchronous import asynchronous
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import beside, sleep

HELLO = b"hello"

SOURCE = str(Path(__file__).parents[2])


class Scene:
    """
    A listener with a scripted worker, which has claimed a connection, and another
    worker.

    @ivar worker: the scripted one.
    @ivar first: the client of the connection that it claimed.
    """

    def __init__(self, start: Start, twistd: Start, name: str) -> None:
        self._start = start
        self._twistd = twistd
        self._path = f"./{name}"

    def _scripted(self) -> Process:
        code = (
            f"import sys; sys.path.insert(0, {SOURCE!r});"
            " from tests.support.scripted import main; main()"
        )
        return self._start(sys.executable, "-c", code, self._path)

    async def do(self, *commands: str) -> None:
        """
        Let the scripted worker carry out a command.
        """
        for each in commands:
            self.worker.tell(each)
            await self.worker.says(f"did {each}")

    async def open(self) -> None:
        """
        Start everything, up to the claim.
        """
        options = ["--claim-timeout=0.3", "--balance=round-robin"]
        self.listener = self._twistd("portlisten", *options, "0", self._path)
        self._port = await listening(self.listener)
        self.worker = self._scripted()
        await self.worker.says("ready")
        await self.listener.says("worker 1 .*joined")
        self.first = self.connect()
        self.worker.tell("claim")
        await self.worker.says("did claim")

    def connect(self) -> Deferred[bytes]:
        """
        Be a client.
        """
        return client(self._port).addCallback(lambda result: result[0])

    async def honest(self) -> None:
        """
        Start the other worker.
        """
        self._twistd("hellofdpass", self._path, HELLO.decode())

    async def revoked(self) -> None:
        """
        Stop the scripted worker, and wait until it is revoked for an unclaimed offer.
        """
        self.worker.signal(signal.SIGSTOP)
        second = self.connect()
        await self.listener.says("worker 1 .*revoked")
        await self.honest()
        assert await second == HELLO


@asynchronous
async def test_untouched(start: Start, twistd: Start) -> None:
    """
    Connections that the dead worker had not touched go to another worker.
    """

    async def revoked(scene: Scene) -> None:
        await scene.open()
        scene.worker.signal(signal.SIGSTOP)
        second = scene.connect()
        await scene.listener.says("worker 1 .*revoked")
        await scene.worker.kill()
        await scene.honest()
        assert [await scene.first, await second] == [HELLO, HELLO]

    async def left(scene: Scene) -> None:
        await scene.open()
        await scene.do("bye")
        await sleep(0.2)
        scene.worker.tell("die")
        await scene.worker.ended()
        await scene.honest()
        assert await scene.first == HELLO

    async def killed(scene: Scene) -> None:
        await scene.open()
        await scene.do("bye")
        await scene.worker.kill()
        await scene.honest()
        assert await scene.first == HELLO

    await beside(
        {
            each.__name__: each(Scene(start, twistd, each.__name__))
            for each in (revoked, left, killed)
        }
    )


@asynchronous
async def test_served(start: Start, twistd: Start) -> None:
    """
    While the worker lives, it alone serves its connections, long after it left or was
    revoked.
    """

    async def revoked(scene: Scene) -> None:
        await scene.open()
        await scene.revoked()
        await sleep(0.2)
        assert not scene.first.called
        scene.worker.signal(signal.SIGCONT)
        await scene.do("answer")
        assert await scene.first == b"scripted"

    async def left(scene: Scene) -> None:
        await scene.open()
        await scene.honest()
        await scene.listener.says("worker 2 .*joined")
        await scene.do("bye")
        await sleep(0.5)
        assert not scene.first.called
        await scene.do("answer")
        assert await scene.first == b"scripted"

    await beside(
        {
            each.__name__: each(Scene(start, twistd, each.__name__))
            for each in (revoked, left)
        }
    )


@asynchronous
async def test_touched(start: Start, twistd: Start) -> None:
    """
    Connections that the dead worker had touched are lost with it, and no other worker
    answers the rest.
    """

    async def revoked(scene: Scene) -> None:
        await scene.open()
        await scene.do("touch")
        await scene.revoked()
        await scene.worker.kill()
        assert await scene.first == b""

    async def left(scene: Scene) -> None:
        await scene.open()
        await scene.honest()
        await scene.do("touch", "bye")
        await scene.worker.kill()
        assert await scene.first == b""

    await beside(
        {
            each.__name__: each(Scene(start, twistd, each.__name__))
            for each in (revoked, left)
        }
    )
