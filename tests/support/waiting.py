"""
Waiting in the reactor, for one thing or for several.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

reactor: Any = _reactor


#: How long anything here may take before the test fails, in seconds.
PATIENCE = 30.0


def sleep(seconds: float) -> Deferred[None]:
    """
    Wait.
    """
    return deferLater(reactor, seconds)


async def until(holds: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """
    Wait until something holds.

    @raise AssertionError: if it does not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        await sleep(0.02)


async def timed(work: Awaitable[Any]) -> tuple[Any, float]:
    """
    Wait for something.

    @return: its result, or the exception that it raised, and the seconds it took.
    """
    began = time.monotonic()
    try:
        result = await work
    except Exception as error:
        result = error
    return result, time.monotonic() - began


async def beside(works: dict[str, Coroutine[Any, Any, Any]]) -> None:
    """
    Do several things at the same time.

    @raise AssertionError: when all have ended, if some failed; it names them.
    """
    failures: dict[str, BaseException] = {}

    async def one(name: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Exception as error:
            failures[name] = error

    await gatherResults(
        [Deferred.fromCoroutine(one(name, work)) for name, work in works.items()]
    )
    assert not failures, "\n".join(
        f"{name}: {error!r:.2000}" for name, error in failures.items()
    )


async def together(waiting: Iterable[Deferred[Any]]) -> list[Any]:
    """
    Wait for all of them.
    """
    return list(await gatherResults(list(waiting), consumeErrors=True))
