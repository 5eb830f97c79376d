"""
Descriptions of workers: C{portlisten:PATH:name=http}.

Twisted splits the descriptions of its endpoints itself.  L{split} does the same for
other programs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from portlisten._config.options import WIRES, Option, optionsOf
from portlisten._config.settings import WorkerSettings
from portlisten.errors import EndpointError

#: What a description begins with.
PREFIX = "portlisten:"


def split(description: str) -> tuple[list[str], dict[str, str]]:
    r"""
    Split what follows C{portlisten:}.  A backslash takes the special meaning from the
    next character: C{\:}, C{\=}, C{\\}.

    @return: the arguments without names, and those with names.
    @raise EndpointError: if the description does not begin with C{portlisten:}.
    """
    if not description.startswith(PREFIX):
        raise EndpointError(f"{description!r} does not begin with {PREFIX!r}")
    arguments: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    text = ""
    characters = iter(description[len(PREFIX) :])
    for each in characters:
        if each == "\\":
            text += next(characters, "")
        elif each == "=" and name is None:
            name, text = text, ""
        elif each == ":":
            _add(arguments, named, name, text)
            name, text = None, ""
        else:
            text += each
    _add(arguments, named, name, text)
    return arguments, named


def _add(
    arguments: list[str], named: dict[str, str], name: str | None, text: str
) -> None:
    if name is None:
        arguments.append(text)
    else:
        named[name] = text


def workerSettings(
    arguments: Sequence[str], named: Mapping[str, str], hidden: Collection[str] = ()
) -> WorkerSettings:
    """
    Parse a description that is split.

    @param arguments: the arguments without names: the path.
    @param named: the options of L{WorkerSettings} that descriptions have.
    @param hidden: the options that an error does not list.
    @raise EndpointError: if the description cannot be understood.
    """
    if len(arguments) != 1 or not arguments[0]:
        raise EndpointError(
            "a description has one path, as in portlisten:/run/portlisten/web.sock, and"
            r" a colon in it is written '\:'"
        )
    return WorkerSettings(path=arguments[0], **_parseOptions(named, hidden))


def _parseOptions(texts: Mapping[str, str], hidden: Collection[str]) -> dict[str, Any]:
    """
    Parse the options of a description.

    @return: the values of the given options, by the names of the settings' fields.
    @raise EndpointError: if an option cannot be understood, or means nothing with the
        given wire.
    """
    options = describedOptions()
    given: dict[str, Any] = {}
    # The wire comes first: it decides which other options exist.
    for name in sorted(texts, key=lambda name: name != "wire"):
        wire = given.get("wire", WIRES[0])
        if name not in options or wire not in options[name].wires:
            known = [
                each
                for each, option in options.items()
                if wire in option.wires and each != "wire" and each not in hidden
            ]
            raise EndpointError(
                f"a description with wire={wire} has no option {name!r}, only"
                f" {', '.join(known)}"
            )
        try:
            given[options[name].field] = options[name].parse(texts[name])
        except ValueError as error:
            raise EndpointError(f"{name}: {error}") from None
    return given


def describedOptions() -> dict[str, Option]:
    """
    List the options that descriptions have, by their names there.
    """
    return {
        each.describedName: each
        for each in optionsOf(WorkerSettings)
        if each.inDescription
    }
