"""
The listener and the supervisor of C{portlisten run} are killed at random moments.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run_service import NoPython, pythonFor

SOURCE = Path(__file__).parents[2]
ROUNDS = 3


def kills(*arguments: str) -> dict[str, str]:
    """
    Run C{python -m tests.kills}.

    @return: its figures, by their names.
    """
    try:
        pythonFor()
    except NoPython as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", *arguments, f"--rounds={ROUNDS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        cwd=SOURCE,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    return {name: value for name, _, value in lines}


def test_listener() -> None:
    """
    If the listener is killed, no client is refused, and only connections are lost that
    the listener had.
    """
    figures = kills("listener")
    assert figures["refused"] == "0"
    assert int(figures["answered"]) > 300
    assert int(figures["lost"]) <= int(figures["connections that the listeners had"])


def test_supervisor() -> None:
    """
    If the supervisor is killed, all its processes end, and the next one serves.
    """
    assert kills("supervisor")["failures"] == "0"
