"""
Releases of the past, to test that the present one works with them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

#: The wheel of the release before this version.
BEFORE = Path(__file__).parents[1] / "releases" / "portlisten-0.1.0-py3-none-any.whl"


def unpack(folder: Path) -> str:
    """
    Unpack the release before this version.

    @param folder: where to put it.
    @return: a setting of C{PYTHONPATH}, for env(1), with which programs use it.
    """
    path = folder / "before"
    with zipfile.ZipFile(BEFORE) as wheel:
        wheel.extractall(path)
    return f"PYTHONPATH={path}"
