"""
Clients in the reactor: their requests and the answers.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.support.waiting import PATIENCE, timed

reactor: Any = _reactor


class _Client(Protocol):
    def __init__(self, send: bytes, end: bool) -> None:
        self._send = send
        self._end = end
        self._received: list[bytes] = []
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._send:
            transport.write(self._send)
        if self._end:
            transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        if reason is not None and reason.check(ConnectionResetError):
            self.answer.errback(reason)
        else:
            self.answer.callback(b"".join(self._received))


async def ask(
    port: int, send: bytes = b"", host: str = "127.0.0.1", end: bool = False
) -> bytes:
    """
    Run a client: connect, perhaps send bytes, and read to the end.

    @param end: whether to end the writing side after that.
    """
    endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    client = _Client(send, end)
    factory = Factory.forProtocol(lambda: client)
    factory.noisy = False
    await endpoint(reactor, host, port, timeout=PATIENCE).connect(factory)
    return await client.answer.addTimeout(PATIENCE * 2, reactor)


async def askMany(
    port: int, count: int, atOnce: int, send: bytes = b""
) -> tuple[list[bytes | BaseException], list[float]]:
    """
    Run many clients.

    @return: the answers or errors, and how long each client waited, in seconds.
    """
    answers: list[bytes | BaseException] = []
    times: list[float] = []

    async def one() -> None:
        start = time.monotonic()
        try:
            answers.append(await ask(port, send))
        except Exception as error:
            answers.append(error)
        times.append(time.monotonic() - start)

    semaphore = DeferredSemaphore(atOnce)
    await gatherResults(
        [semaphore.run(lambda: Deferred.fromCoroutine(one())) for _ in range(count)],
        consumeErrors=True,
    )
    return answers, sorted(times)


def client(port: int, send: bytes = b"hi\n") -> Deferred[tuple[Any, float]]:
    """
    Start a client.

    @return: fires with the answer or the error, and the seconds that it took.
    """
    return Deferred.fromCoroutine(timed(ask(port, send)))
