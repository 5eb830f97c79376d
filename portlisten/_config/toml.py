"""
Reads the text of the file of C{portlisten run}, and reports all of its mistakes at
once.  L{portlisten._config.tables} makes settings of its tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from portlisten._config.caller import Caller
from portlisten._config.file import PortsSettings, RunSettings, WorkersSettings
from portlisten._config.file_values import (
    MAXIMUM_WORKERS,
    AbsolutePath,
    AbsolutePathOrNone,
    Description,
    Endpoint,
)
from portlisten._config.options import Option, Settings, optionsOf
from portlisten._config.settings import ListenerSettings
from portlisten._config.tables import missing, structure, unknown
from portlisten._config.wrong import Problem, collected, key
from portlisten._config.wrong_file import WrongFile
from portlisten._model import portName, workerLabel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_S = TypeVar("_S", bound=Settings)

#: Checks the description of a port.  The second argument says whether it is shared.  It
#: raises L{ValueError} if the description cannot be understood.
CheckPort = Callable[[str, bool], None]

#: Checks the endpoint of the monitor, and raises L{ValueError} likewise.
CheckMetrics = Callable[[str], None]

#: Options of the listener that the file has elsewhere, or not at all.
_ELSEWHERE = ("wire", "listen", "share", "replace")

_PATH = Option(
    AbsolutePath(),
    "The path of the channel, where workers connect.",
    shown="required",
    field="path",
)

_PLACE = re.compile(r"(.*?) \(at (line [0-9]+, column [0-9]+|end of document)\)")
_WORKER = re.compile("(.+)-[0-9]+")


def fileOptions() -> list[Option]:
    """
    List the keys of the file that stand above all tables.
    """
    user = optionsOf(RunSettings)
    listener = [_inFile(each) for each in optionsOf(ListenerSettings)]
    return [_PATH, *user, *(each for each in listener if each.name not in _ELSEWHERE)]


def _inFile(option: Option) -> Option:
    if option.name == "control":
        return replace(option, type=AbsolutePathOrNone(example="/run/web.ctl"))
    if option.name == "metrics":
        return replace(option, type=Endpoint())
    return option


def parseTOML(text: str | bytes) -> dict[str, Any]:
    """
    Parse TOML.

    @raise WrongFile: if it is none.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = Problem(f"line {line}", "the file is no text in UTF-8: save it so")
    except RecursionError:
        problem = Problem("", "the file has too many brackets in brackets")
    except ValueError as error:
        found = _PLACE.fullmatch(str(error))
        reason, place = (found[1], found[2]) if found else (str(error), "")
        hint = ""
        if reason == "Invalid value":
            hint = '; text stands in quotes, as in user = "web"'
        elif "twice" in reason or "overwrite" in reason:
            hint = "; each key and each [table] stands once"
        problem = Problem(place, f"this is no TOML: {reason}{hint}")
    raise WrongFile([problem])


def parse(
    text: str | bytes,
    caller: Caller,
    checkPort: CheckPort = lambda text, shared: None,
    checkMetrics: CheckMetrics = lambda text: None,
) -> RunSettings:
    """
    Parse the file of C{portlisten run}.

    @param caller: the process that would run it.
    @param checkPort: checks the description of each port.
    @param checkMetrics: checks the endpoint of the monitor.
    @raise WrongFile: if it has mistakes.  It names all of them.
    """
    reader = _Reader(parseTOML(text), caller, checkPort, checkMetrics)
    return reader.read()


def parseChannel(text: str | bytes) -> tuple[str, str | None]:
    """
    Find the channel in a file, which may have mistakes elsewhere.

    @return: the path of the channel; and the path of the control socket, empty for
        none, L{None} for the usual one.
    @raise WrongFile: if these are wrong.
    """
    table = parseTOML(text)
    known = {each.name: each for each in fileOptions()}
    problems: list[Problem] = []
    if "path" not in table:
        problems.append(missing("", "path"))
    values: dict[str, Any] = {"path": None, "control": None}
    for name in values:
        try:
            if name in table:
                values[name] = known[name].take(table[name])
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        raise WrongFile(problems)
    return values["path"], values["control"]


def _places() -> dict[str, list[str]]:
    """
    List the keys of all tables, by where a key belongs.
    """
    return {
        "above the first [table]": [each.name for each in fileOptions()],
        "in a table [workers.NAME]": [e.name for e in optionsOf(WorkersSettings)],
        "in a table [ports.NAME]": [e.name for e in optionsOf(PortsSettings)],
    }


class _Reader:
    """
    Makes settings of a file that is TOML.
    """

    def __init__(
        self,
        table: dict[str, Any],
        caller: Caller,
        checkPort: CheckPort,
        checkMetrics: CheckMetrics,
    ) -> None:
        self._table = dict(table)
        self._caller = caller
        self._checkPort = checkPort
        self._checkMetrics = checkMetrics
        self._problems: list[Problem] = []

    def read(self) -> RunSettings:
        """
        Make the settings.

        @raise WrongFile: if the file has mistakes.
        """
        top = dict(self._table)
        portTables = self._tables(top, "ports", "listen = 80")
        workerTables = self._tables(top, "workers", 'command = ["…"]')
        user = self._user(top)
        listener = self._listener(top)
        listen, share = self._ports(portTables)
        workers = self._workers(workerTables)
        if self._problems:
            path = self._table.get("path")
            good = not any(each.key == "path" for each in self._problems)
            raise WrongFile(
                self._problems, path=path if good else None, workers=workers
            )
        assert listener is not None
        return RunSettings(
            listener=replace(listener, listen=listen, share=share),
            user=user,
            workers=tuple(workers),
        )

    def _report(self, where: str, text: str) -> None:
        self._problems.append(Problem(where, text))

    def _tables(
        self, top: dict[str, Any], kind: str, example: str
    ) -> dict[str, dict[str, Any]]:
        """
        Take the tables with names out of the file.

        @param kind: the word before the names.
        @param example: a line of such a table.
        """
        tables = top.pop(kind, {})
        if not isinstance(tables, dict):
            self._report(
                kind, f"it is no table: write [{kind}.NAME], and under it {example}"
            )
            return {}
        found = {}
        for name, table in tables.items():
            where = key(kind, name)
            if isinstance(table, dict):
                found[name] = table
            elif isinstance(table, list) and all(isinstance(t, dict) for t in table):
                self._report(where, f"write [{where}] once, in single brackets")
            else:
                self._report(
                    where,
                    f"it is no table: write [{kind}.NAME] with a name of your choice,"
                    f" and under it such lines as {example}",
                )
        return found

    def _user(self, top: dict[str, Any]) -> int | None:
        if "user" not in top:
            if self._caller.uid == 0:
                self._report(
                    "user",
                    "it is missing: the listener needs no privilege, and root must"
                    ' name a user for it, as in user = "portlisten"',
                )
            return None
        try:
            return self._caller.takeUser(top.pop("user"), "the listener")
        except ValueError as error:
            self._report("user", str(error))
            return None

    def _listener(self, top: dict[str, Any]) -> ListenerSettings | None:
        options = fileOptions()
        made, problems = structure(
            ListenerSettings,
            top,
            "",
            {each.field: each for each in options if each.field != "user"},
            lambda name: unknown(
                "",
                name,
                [*(each.name for each in options), "ports", "workers"],
                _places(),
            ),
            {"metrics": self._takeMetrics},
        )
        self._problems += problems
        return made

    def _takeMetrics(self, value: object) -> str:
        text = Endpoint().take(value)
        self._checkMetrics(text)
        return text

    def _ports(
        self, tables: Mapping[str, dict[str, Any]]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """
        Make the descriptions of the listener's ports.

        @return: what it listens on, and what it shares.
        """
        found: dict[str, list[str]] = {"listen": [], "share": []}
        seen: dict[str, str] = {}
        if self._table.get("ports", {}) == {}:
            self._report(
                "ports",
                "the file has no port: add a line [ports.http], and under it"
                " listen = 80",
            )
        for name, table in tables.items():
            where = key("ports", name)
            try:
                portName(name)
            except ValueError as error:
                self._report(where, str(error))
            if len(found.keys() & table.keys()) != 1:
                has = "both listen and share" if "listen" in table else "no port"
                self._report(
                    where,
                    f"it has {has}: give it listen, for connections that are handed"
                    " to workers, or share, for sockets that they get; one of the two",
                )
            ports = self._structure(
                PortsSettings,
                table,
                where,
                {kind: partial(self._takePorts, kind) for kind in found},
            )
            for kind in found:
                texts = getattr(ports, kind) if ports else ()
                if ports and kind in table and not texts:
                    self._report(f"{where}.{kind}", "the list is empty: give a port")
                for text in texts:
                    self._checkOnce(text, f"{where}.{kind}", seen)
                    found[kind].append(f"{name}={text}")
        return tuple(found["listen"]), tuple(found["share"])

    def _takePorts(self, kind: str, value: object) -> tuple[str, ...]:
        """
        Take the ports of one name.

        @param kind: C{listen} or C{share}.
        """
        found = []
        with collected() as problems:
            for each in value if isinstance(value, list) else [value]:
                with problems.of(""):
                    text = Description().take(each)
                    self._checkPort(text, kind == "share")
                    found.append(text)
        return tuple(found)

    def _checkOnce(self, text: str, where: str, seen: dict[str, str]) -> None:
        """
        Check that a port was not given before.

        @param seen: the key of each earlier port, by its description.
        """
        isRandom = re.fullmatch("(tcp6?:|udp6?:)?0(:.*)?", text)
        if text in seen and not isRandom:
            self._report(
                where,
                f"{text!r} is in {seen[text]} as well, and a port has one name: leave"
                " one of the two out",
            )
        seen[text] = where

    def _workers(self, tables: Mapping[str, dict[str, Any]]) -> list[WorkersSettings]:
        found = []
        for name, table in tables.items():
            self._checkName(name, tables)
            made = self._group(name, table)
            if made is not None:
                found.append(made)
        total = sum(each.count for each in found)
        if total > MAXIMUM_WORKERS:
            self._report(
                "workers",
                f"these are {total} workers, and the listener serves"
                f" {MAXIMUM_WORKERS}: lower the counts",
            )
        return found

    def _checkName(self, name: str, names: Iterable[str]) -> None:
        where = key("workers", name)
        try:
            workerLabel(f"{name}-{MAXIMUM_WORKERS}")
        except ValueError:
            self._report(
                where,
                f"{name!r} is no name for workers: give up to 59 letters, digits, '_',"
                " '-' and '.', with neither '-' nor '.' first, such as web",
            )
        worker = _WORKER.fullmatch(name)
        if worker is not None and worker[1] in names:
            self._report(
                where,
                f"{name} is the label of a worker of [workers.{worker[1]}]: choose"
                " another name",
            )

    def _group(self, name: str, table: dict[str, Any]) -> WorkersSettings | None:
        where = key("workers", name)
        if self._caller.uid == 0 and "user" not in table:
            self._report(
                f"{where}.user",
                "it is missing: a worker needs no privilege, and root must name a user"
                ' for it, as in user = "web"',
            )
        return self._structure(
            WorkersSettings,
            table,
            where,
            {
                "user": lambda value: self._caller.takeUser(value, "a worker"),
                "group": self._caller.takeGroup,
            },
            {"name": name},
        )

    def _structure(
        self,
        kind: type[_S],
        table: dict[str, Any],
        where: str,
        take: Mapping[str, Callable[[object], Any]] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> _S | None:
        """
        Make settings of a table, and report its mistakes.

        @return: L{None} if it has mistakes.
        """
        options = {each.field: each for each in optionsOf(kind)}
        names = [each.name for each in options.values()]

        def unknownKey(name: str) -> Problem:
            if name in (given or {}):
                return Problem(
                    f"{where}.{name}", f"no such key: the name stands in [{where}]"
                )
            return unknown(where, name, names, _places())

        made, problems = structure(kind, table, where, options, unknownKey, take, given)
        self._problems += problems
        return made
