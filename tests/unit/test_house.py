"""
Tests for the layout of the package and its tests: which module may import which, and
where its tests are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import portlisten

PACKAGE = Path(portlisten.__file__).parent
TESTS = Path(__file__).parents[1]

#: How many lines a file of tests may have.
LONGEST = 900

#: From the top down.  Each imports only from those in later lines, and from its own.
ROOMS = [
    ["__main__", "listener", "hello"],
    ["_commands"],
    ["hypercorn", "aiohttp", "gunicorn", "_as_port", "_supervisor"],
    ["endpoints", "asyncio", "blocking", "_each"],
    ["_listener", "_worker", "_asyncio", "_blocking"],
    ["_anyloop", "_handover"],
    ["_monitor"],
    ["_children", "_screen"],
    ["_control"],
    ["_ports"],
    ["_channel"],
    ["_process"],
    ["_reactor"],
    ["_log"],
    ["_config"],
    ["_policy", "_wire"],
    ["_kernel"],
    ["_model", "_events", "_compiled", "errors", "interfaces", "__init__"],
]

FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

#: What decides and never acts, and what it must not import.
MIDDLE = ["_wire", "_policy", "_config", "_model", "_events", "errors"]
ACTS = ["twisted", "zope", "select", "selectors", "time", "signal", "asyncio"]

#: What needs the system all the same: addresses are packed, and users looked up.
SYSTEM = {"_wire": ["socket"], "_config": ["pwd", "grp", "os"], "_model": ["os"]}


def modules() -> dict[str, Path]:
    """
    All modules of the package, by their names in it.
    """
    return {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(path: Path) -> Iterator[str]:
    """
    What a module imports, wherever it does.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if node.module == "portlisten":
                yield from (f"portlisten.{each.name}" for each in node.names)
            else:
                yield from (f"{node.module}.{each.name}" for each in node.names)


def room(module: str) -> str:
    """
    The room that a module is in.
    """
    return module.split(".")[0]


def found(imported: str, known: dict[str, Path]) -> str | None:
    """
    Which module of the package is imported, if one is.
    """
    parts = imported.split(".")
    if parts[0] != "portlisten":
        return None
    while len(parts) > 1:
        name = ".".join(parts[1:])
        if name in known or f"{name}.__init__" in known:
            return name
        parts.pop()
    return "__init__"


class HouseTests(SynchronousTestCase):
    """
    Tests for the rules of L{ROOMS} and L{MIDDLE}.
    """

    def test_rooms(self) -> None:
        """
        Every module is in a room that is known.
        """
        self.assertEqual({room(each) for each in modules()}, set(FLOORS))

    def test_noUpwardArrow(self) -> None:
        """
        Nothing is imported from above, nor from another room of the same floor.
        """
        known = modules()
        wrong = []
        for name, path in known.items():
            own = room(name)
            for each in imports(path):
                target = found(each, known)
                if target is None or room(target) == own:
                    continue
                if FLOORS[room(target)] <= FLOORS[own]:
                    wrong.append(f"{name} imports {target}")
        self.assertEqual(wrong, [])

    def test_noCircle(self) -> None:
        """
        No module imports itself by way of others.
        """
        known = modules()
        arrows = {
            name: {
                target
                for each in imports(path)
                if (target := found(each, known)) not in (None, name)
            }
            for name, path in known.items()
        }
        done: set[str] = set()

        def visit(name: str, above: tuple[str, ...]) -> None:
            self.assertNotIn(name, above, " -> ".join([*above, name]))
            if name not in done:
                for each in arrows.get(name, arrows.get(f"{name}.__init__", ())):
                    visit(each, (*above, name))
                done.add(name)

        for name in arrows:
            visit(name, ())

    def test_middle(self) -> None:
        """
        What decides imports no Twisted, no socket and no clock.
        """
        wrong = []
        for name, path in modules().items():
            own = room(name)
            if own not in MIDDLE:
                continue
            forbidden = {*ACTS, "socket", "os", "pwd", "grp"} - {*SYSTEM.get(own, ())}
            for each in imports(path):
                if each.split(".")[0] in forbidden:
                    wrong.append(f"{name} imports {each}")
                if each.startswith("portlisten._kernel"):
                    wrong.append(f"{name} imports {each}")
        self.assertEqual(wrong, [])


class TestsOfRoomsTests(SynchronousTestCase):
    """
    Tests for the layout of the tests.
    """

    def test_length(self) -> None:
        """
        No file of tests is longer than a reader can keep in mind.
        """
        long = [
            str(path.relative_to(TESTS))
            for path in sorted(TESTS.rglob("*.py"))
            if len(path.read_text("utf-8").splitlines()) > LONGEST
        ]
        self.assertEqual(long, [])

    def test_folders(self) -> None:
        """
        Each room has a folder of tests, with a test in it.
        """
        rooms = {path.parent.name for path in PACKAGE.glob("_*/__init__.py")}
        tested = {f"_{path.parent.name}" for path in TESTS.glob("unit/*/test_*.py")}
        self.assertEqual(rooms, tested)
