"""
Tests that wait: pytest runs them in the reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest_twisted

Test = TypeVar("Test", bound=Callable[..., Coroutine[Any, Any, None]])


def asynchronous(test: Test) -> Test:
    """
    Mark a test that is a coroutine, so that pytest waits for it.
    """
    marked: Test = pytest_twisted.ensureDeferred(test)
    return marked
