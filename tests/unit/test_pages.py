"""
Tests for the pages that say where things are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.unit.test_house import ROOMS

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name
    for name in (
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/releasing.md",
    )
]

#: Where a path may begin.
STARTS = [ROOT, ROOT / "portlisten"]

#: What is made only by a command that the pages show.
MADE = {".venv", "build"}

#: How a page marks what is not there yet.
PLANNED = re.compile(r"`([^`\n]+)` \(planned\)")


def named(page: str) -> Iterator[str]:
    """
    The paths that a page names in code, in commands and in links to files.
    """
    code = re.findall(r"`([^`\n]+)`", page)
    code += re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    for word in re.split(r"[\s,=]+", " ".join(code)):
        inFolder = "/" in word.strip("/")
        isFile = re.search(r"\w\.(py|md|toml|yaml)$", word)
        if (inFolder or isFile) and re.fullmatch(r"\.?[\w-][\w./+-]*", word):
            yield word
    yield from re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page)


def exists(path: str, page: Path) -> bool:
    """
    Say whether a path that a page names leads somewhere.
    """
    return any((start / path).exists() for start in [*STARTS, page.parent])


class PagesTests(SynchronousTestCase):
    """
    Tests for L{PAGES}.
    """

    def test_paths(self) -> None:
        """
        Each path that a page names leads somewhere.
        """
        wrong = []
        for page in PAGES:
            for path in named(PLANNED.sub("", page.read_text("utf-8"))):
                if path.split("/")[0] in MADE:
                    continue
                if not exists(path, page):
                    wrong.append(f"{page.name}: {path}")
        self.assertEqual(wrong, [])

    def test_planned(self) -> None:
        """
        What a page says is planned is not there yet.
        """
        wrong = [
            f"{page.name}: {path}"
            for page in PAGES
            for path in PLANNED.findall(page.read_text("utf-8"))
            if exists(path, page)
        ]
        self.assertEqual(wrong, [])

    def test_named(self) -> None:
        """
        Paths are found in code, in commands and in links, and other words are not.
        """
        page = (
            "`tests/run`, `a.b`, `X.Y.Z`, [a page](docs/faults.md#end), `x.py and`\n"
            "```sh\n.ci/run --now\n```\n"
        )
        self.assertEqual(
            sorted(named(page)), [".ci/run", "docs/faults.md", "tests/run", "x.py"]
        )

    def test_rooms(self) -> None:
        """
        The page on the architecture and its picture have every private room.
        """
        page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
        picture = (ROOT / "docs" / "pictures" / "rooms.svg").read_text("utf-8")
        for floor in ROOMS:
            for room in floor:
                if room.startswith("_") and not room.startswith("__"):
                    self.assertRegex(page, rf"`portlisten/{room}[/.]")
                    self.assertRegex(picture, rf">{room}[/.]")
