"""
One step of a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.systemd.machine import Machine


@dataclass(frozen=True)
class Step:
    """
    A step.

    @ivar unit: the units that it is about, for the table.
    @ivar name: what is done.
    @ivar do: does it, and returns what was seen.  It raises L{AssertionError} if that
        is not as it must be.
    """

    unit: str
    name: str
    do: Callable[[Machine], str]
