"""
Tests for L{portlisten._events}: each call that logs names an event, and each event is
logged somewhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import portlisten
from portlisten._events import EVENTS, NEVER_SUMMED_UP

PACKAGE = Path(portlisten.__file__).parent

#: The names of methods and functions that log.
METHODS = {
    *("debug", "info", "warn", "warning", "error", "critical", "failure", "bug"),
}

#: Events that no call of a logger names: they are made from events of others.
MADE = {"log", "lines-dropped"}

#: What passes on what others log.
PASSING = {"_anyloop/log.py", "gunicorn.py"}


def isMethod(node: ast.AST) -> bool:
    """
    Whether an expression is a method of a logger's, such as C{self.log.info}.
    """
    if isinstance(node, ast.IfExp):
        return isMethod(node.body) and isMethod(node.orelse)
    if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
        return False
    owner = node.value
    if isinstance(owner, ast.Call):
        return isinstance(owner.func, ast.Name) and owner.func.id in ("Logger", "_log")
    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return name in ("log", "_log")


def logs(node: ast.Call) -> bool:
    """
    Whether a call logs: by a method of a logger's, or by a function that limits how
    much is logged.
    """
    if isMethod(node.func):
        return True
    if isinstance(node.func, ast.Attribute) and node.func.attr == "_logLimited":
        return True
    return bool(node.args) and isMethod(node.args[0])


def names(node: ast.AST) -> Iterator[str]:
    """
    All names that an argument C{event} may have.
    """
    if isinstance(node, ast.IfExp):
        yield from names(node.body)
        yield from names(node.orelse)
    elif isinstance(node, ast.Constant):
        assert isinstance(node.value, str)
        yield node.value
    elif not isinstance(node, ast.Name):
        raise AssertionError(ast.unparse(node))


def calls() -> Iterator[tuple[str, ast.Call]]:
    """
    All calls in the package, with their places.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and where not in PASSING:
                yield f"{where}:{node.lineno}", node


class EventsTests(SynchronousTestCase):
    """
    Tests for L{EVENTS}.
    """

    def test_named(self) -> None:
        """
        Each call that logs gives the name of an event.
        """
        found = [(where, node) for where, node in calls() if logs(node)]
        self.assertGreater(len(found), 140)
        nameless = [
            where
            for where, node in found
            if not any(each.arg == "event" for each in node.keywords)
        ]
        self.assertEqual(nameless, [])

    def test_known(self) -> None:
        """
        Each name is in the list, and no other is in it.
        """
        used = set(MADE)
        for where, node in calls():
            name = getattr(node.func, "id", "")
            if name == "_log" and where.startswith("_commands/execute.py"):
                used.update(names(node.args[0]))
            for each in node.keywords:
                if each.arg == "event":
                    used.update(names(each.value))
        self.assertEqual(used - EVENTS.keys(), set())
        self.assertEqual(EVENTS.keys() - used, set())
        self.assertEqual(NEVER_SUMMED_UP - EVENTS.keys(), set())
