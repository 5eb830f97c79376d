"""
One step of a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.machines.lan import Lan


@dataclass(frozen=True)
class Step:
    """
    A step.

    @ivar part: what it is about, for the table.
    @ivar name: what is done.
    @ivar do: does it, and returns what was seen.  It raises L{AssertionError} if that
        is not as it must be.
    """

    part: str
    name: str
    do: Callable[[Lan], str]
