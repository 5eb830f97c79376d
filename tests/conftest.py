"""
How pytest runs these tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Put the integration tests last.  After one of them has run, trial's TestCases that
    wait on a Deferred fail (pytest-twisted#147).
    """
    items.sort(key=lambda item: HERE / "integration" in item.path.parents)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Give each test an empty folder of its own, as trial does.  Relative paths in
    it also keep the paths of Unix sockets short.
    """
    monkeypatch.chdir(tmp_path)
