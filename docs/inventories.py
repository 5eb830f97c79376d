"""
Lists the names of Twisted, zope.interface and Python to which docstrings and pages may
link.

Sphinx and pydoctor read such lists, called inventories, from the sites that they
link to. Building the documentation must not need the network. So this module writes
the inventories from the installed modules: one for each site.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from zope.interface.interface import InterfaceClass

#: The sites of the names.
SITES = {
    "twisted": "https://docs.twisted.org/en/stable/api",
    "zope": "https://zopeinterface.readthedocs.io/en/latest",
    "python": "https://docs.python.org/3",
}

#: Modules that pages name and the package does not import.
ALSO = [
    "builtins",
    "twisted.internet.address",
    "twisted.internet.interfaces",
    "twisted.internet.protocol",
    "twisted.protocols.policies",
    "twisted.protocols.tls",
    "twisted.python.deprecate",
    "twisted.web.http",
    "twisted.web.server",
]

# Python documents these types on a page of their own.
_STANDARD_TYPES: tuple[type, ...] = (bytearray, bytes, dict, frozenset, list)
_STANDARD_TYPES += (memoryview, range, set, str, tuple)


def write(package: Path, folder: Path) -> dict[str, tuple[str, Path]]:
    """
    Write the inventories.

    @param package: the folder of the modules that import.
    @return: for each inventory, the address of its site, and its file.
    """
    sources = [path.read_text("utf-8") for path in sorted(package.rglob("*.py"))]
    trees = [ast.parse(source) for source in sources]
    own = {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    lines: dict[str, set[str]] = {site: set() for site in SITES}
    for name in sorted({*ALSO, *_imported(trees), *_linked("".join(sources))}):
        site = _site(name)
        if site:
            lines[site].update(_entries(site, importlib.import_module(name), own))
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for site, entries in lines.items():
        written[site] = SITES[site], folder / f"{site}.inv"
        head = "# Sphinx inventory version 2\n# Project: {}\n# Version: \n# {}\n"
        about = head.format(site, "The rest is compressed with zlib.").encode()
        body = zlib.compress("".join(sorted(entries)).encode())
        written[site][1].write_bytes(about + body)
    return written


def _imported(trees: list[ast.Module]) -> Iterator[str]:
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (each.name for each in node.names)


def _linked(source: str) -> Iterator[str]:
    """
    Find the modules whose members docstrings name in full.
    """
    for full in re.findall(r"<((?:twisted|zope)[.\w]+)>\}", source):
        yield full.rpartition(".")[0]


def _site(module: str) -> str | None:
    root = module.partition(".")[0]
    if root in SITES:
        return root
    return "python" if root in sys.stdlib_module_names else None


def _entries(site: str, module: ModuleType, own: set[str]) -> Iterator[str]:
    """
    Write the lines of a module, and of its classes, functions and constants.
    """
    yield _line(module.__name__, "module", _page(site, module.__name__, ""))
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        full = name if module is builtins else f"{module.__name__}.{name}"
        kind = _kind(value)
        page = _page(site, module.__name__, full, value)
        yield _line(full, kind, page)
        # A docstring may name an interface that its module does not import.
        if re.match("I[A-Z]", name) and name not in own:
            yield _line(name, kind, page)
        if kind in ("class", "exception") and site != "python":
            for member in _members(value):
                yield _line(f"{full}.{member}", "method", f"{page}#{member}")


def _line(name: str, kind: str, page: str) -> str:
    return f"{name} py:{kind} 1 {page} -\n"


def _kind(value: Any) -> str:
    if isinstance(value, InterfaceClass):
        return "class"
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if callable(value) else "data"


def _members(value: Any) -> list[str]:
    if isinstance(value, InterfaceClass):
        return list(value)
    return [name for name in vars(value) if not name.startswith("_")]


def _page(site: str, module: str, full: str, value: Any = None) -> str:
    name = full.rpartition(".")[2]
    if site == "zope":
        return f"search.html?q={name or module}"
    if site == "twisted":
        home = getattr(value, "__module__", None) or module
        home = home if home.startswith("twisted") else module
        if _kind(value) in ("class", "exception"):
            return f"{home}.{name}.html"
        return f"{home}.html#{name}" if name else f"{module}.html"
    if module != "builtins":
        return f"library/{module}.html" + (f"#{full}" if full else "")
    if not name:
        return "library/builtins.html"
    if _kind(value) == "exception":
        return f"library/exceptions.html#{name}"
    if _kind(value) == "data":
        return f"library/constants.html#{name}"
    page = "stdtypes" if value in _STANDARD_TYPES else "functions"
    return f"library/{page}.html#{name}"
