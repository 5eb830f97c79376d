"""
Describes the options of settings to L{twisted.python.usage.Options}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.python.usage import (
    CompleteFiles,
    CompleteGroups,
    CompleteList,
    Completer,
    CompleteUsernames,
    Completions,
    UsageError,
)

from portlisten._config.options import Option, Settings, optionsOf
from portlisten._config.values import Choice, File, Flag, Group, User


def commandLine(settings: type[Settings]) -> list[Option]:
    """
    List the options of a command line.
    """
    return [each for each in optionsOf(settings) if each.onCommandLine]


def flags(settings: type[Settings]) -> list[list[Any]]:
    """
    See C{Options.optFlags}.
    """
    return [
        [each.name, None, each.explain("--wire=")]
        for each in commandLine(settings)
        if isinstance(each.type, Flag)
    ]


def parameters(settings: type[Settings]) -> list[list[Any]]:
    """
    See C{Options.optParameters}.
    """
    return [
        # Twisted adds a default that is not None to the help.
        [
            each.name,
            None,
            None if each.shown else each.default,
            helpOf(each),
            _coercion(each, each.parse),
        ]
        for each in commandLine(settings)
        if not (each.several or isinstance(each.type, Flag))
    ]


def methods(settings: type[Settings]) -> dict[str, Callable[[Any, str], None]]:
    """
    Make the methods C{Options.opt_*} of options that may be given several times.
    """
    return {
        f"opt_{each.name.replace('-', '_')}": _appending(each)
        for each in commandLine(settings)
        if each.several
    }


def helpOf(option: Option) -> str:
    """
    Write the help of an option.  Twisted adds a default that is written like a value.
    """
    default = f" [default: {option.shown}]" if option.shown else ""
    return option.explain("--wire=", "; may be given several times") + default


def _coercion(option: Option, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def coerce(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise UsageError(f"--{option.name}: {error}") from None

    return coerce


def _appending(option: Option) -> Callable[[Any, str], None]:
    def append(self: Any, text: str) -> None:
        coerce = _coercion(option, lambda text: option.append(self[option.name], text))
        self[option.name] = list(coerce(text))

    append.__doc__ = helpOf(option)
    return append


def completions(
    settings: type[Settings], arguments: Sequence[Completer]
) -> Completions:
    """
    Describe how the shell completes the options and the arguments.
    """
    options = [
        each for each in commandLine(settings) if not isinstance(each.type, Flag)
    ]
    return Completions(
        descriptions={each.name: each.help for each in options if each.several},
        multiUse=[each.name for each in options if each.several],
        optActions={each.name: _completer(each) for each in options},
        extraActions=list(arguments),
    )


def _completer(option: Option) -> Completer:
    type = option.type
    if isinstance(type, Choice):
        return CompleteList(type.values)
    if isinstance(type, User):
        return CompleteUsernames(descr="user")
    if isinstance(type, Group):
        return CompleteGroups()
    if isinstance(type, File):
        return CompleteFiles()
    return Completer(descr=type.metavar)
