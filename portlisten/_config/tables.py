"""
Makes settings of the tables of a file.

C{cattrs} does it.  We chose it over C{msgspec}, which stops at the first mistake:
C{cattrs} reports all mistakes of a table at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from portlisten._config.options import Option, Settings
from portlisten._config.wrong import Problem, WrongValues, key

_S = TypeVar("_S", bound=Settings)

#: What to write if a key is missing that has no default.
_EXAMPLES = {
    "path": 'path = "/run/portlisten/web.sock"',
    "command": 'command = ["twistd", "-n", "web", "--listen=portlisten:{path}"]',
}


def missing(where: str, name: str) -> Problem:
    """
    Say that a key is missing.

    @param where: the key of its table.
    """
    text = f"it is missing: add a line such as {_EXAMPLES[name]}"
    return Problem(key(name) if not where else f"{where}.{key(name)}", text)


def unknown(
    where: str, name: str, known: Collection[str], places: Mapping[str, Collection[str]]
) -> Problem:
    """
    Say that a key does not exist.

    @param where: the key of its table.
    @param known: the keys of that table.
    @param places: the keys of all tables, by what they belong to.
    """
    others = [place for place, names in places.items() if name in names]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1)
    if others:
        text = f"it is no key of this table: it belongs {others[0]}"
    elif near:
        text = f"no such key: did you mean {near[0]}?"
    else:
        text = f"no such key: the keys here are {', '.join(known)}"
    return Problem(f"{where}.{key(name)}" if where else key(name), text)


def structure(
    kind: type[_S],
    table: Mapping[str, Any],
    where: str,
    options: Mapping[str, Option],
    unknownKey: Callable[[str], Problem],
    take: Mapping[str, Callable[[object], Any]] | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[_S | None, list[Problem]]:
    """
    Make settings of a table.

    @param where: the key of the table.
    @param options: the options that the table may have, by the fields of the settings.
    @param unknownKey: says that a key of the table does not exist.
    @param take: what turns values into settings, by the names of fields; by default
        L{Option.take}.
    @param given: the values of fields that the table does not have.
    @return: the settings, or L{None} if the table has mistakes; and these.
    """
    from cattrs import ClassValidationError, Converter
    from cattrs.gen import make_dict_structure_fn, override

    given, take = given or {}, take or {}
    hooks: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in options:
            option = options[each.name]
            hook = _hook(take.get(each.name, option.take))
            hooks[each.name] = override(rename=option.name, struct_hook=hook)
        elif each.name in given:
            hooks[each.name] = override(struct_hook=lambda value, _: value)
        else:
            hooks[each.name] = override(omit=True)
    make: Any = make_dict_structure_fn
    structured = make(
        kind,
        Converter(),
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **hooks,
    )
    problems = [unknownKey(name) for name in given if name in table]
    try:
        made = structured({**table, **given}, kind)
    except ClassValidationError as error:
        return None, [*problems, *_problems(error, where, options, unknownKey)]
    assert isinstance(made, kind)
    return (None if problems else made), problems


def _hook(take: Callable[[object], Any]) -> Callable[[object, object], Any]:
    return lambda value, _: take(value)


def _problems(
    error: Any,
    where: str,
    options: Mapping[str, Option],
    unknownKey: Callable[[str], Problem],
) -> list[Problem]:
    """
    Turn an error of C{cattrs} into problems.
    """
    from cattrs import ForbiddenExtraKeysError

    found = []
    noted, others = error.group_exceptions()
    for each, note in noted:
        name = options[note.name].name
        at = f"{where}.{name}" if where else name
        if isinstance(each, WrongValues):
            found += [
                Problem(f"{at}.{key(part)}" if part else at, text)
                for part, text in each.problems
            ]
        elif isinstance(each, KeyError):
            found.append(missing(where, name))
        elif isinstance(each, ValueError):
            found.append(Problem(at, str(each)))
        else:
            raise each
    for each in others:
        if isinstance(each, ForbiddenExtraKeysError):
            found += [unknownKey(name) for name in sorted(each.extra_fields)]
        elif isinstance(each, ValueError):
            found.append(Problem(where, str(each)))
        else:
            raise each
    return found
