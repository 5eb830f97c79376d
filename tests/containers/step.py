"""
One step of a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.containers.trial import Trial


@dataclass(frozen=True)
class Step:
    """
    A step.

    @ivar about: what it is about, for the table.
    @ivar name: what is done.
    @ivar do: does it, and returns what was seen.  It raises L{AssertionError} if that
        is not as it must be.
    """

    about: str
    name: str
    do: Callable[[Trial], str]
