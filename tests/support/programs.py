"""
Programs and packages that tests need, and that may not be installed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def command(name: str) -> str:
    """
    The path of a program that is installed beside this Python.
    """
    return str(Path(sys.executable).with_name(name))


def needs(module: str, name: str) -> None:
    """
    Skip a test if something is not installed.
    """
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
