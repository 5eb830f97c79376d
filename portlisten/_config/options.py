"""
What an option is: how it is written, understood, checked and explained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from portlisten._config.values import Flag, ValueType

#: How connections can travel.  The first is the default.
WIRES = ("stream", "datagram")
STREAM = WIRES[:1]
DATAGRAM = WIRES[1:]


@dataclass(frozen=True)
class Option:
    """
    An option.

    @ivar type: the type of its value, or of each of its values.
    @ivar help: what it does, in a sentence.
    @ivar more: further sentences, which the help leaves out.
    @ivar shown: what the default is called, if it is not written like a value.
    @ivar wires: with which wires it means something.
    @ivar several: whether it may be given several times.  Its value is a tuple then.
    @ivar together: checks all of its values.  It may leave some out.
    @ivar onCommandLine: whether the command has it.
    @ivar inDescription: whether endpoint descriptions have it.
    @ivar field: the setting's name.
    @ivar default: the value if it is not given.
    """

    type: ValueType
    help: str
    more: str = ""
    shown: str = ""
    wires: Sequence[str] = WIRES
    several: bool = False
    together: Callable[[Sequence[Any]], Sequence[Any]] = tuple
    onCommandLine: bool = True
    inDescription: bool = False
    written: str = ""
    field: str = ""
    default: Any = None

    @property
    def name(self) -> str:
        """
        What it is called on a command line, without the dashes.
        """
        return self.written or re.sub("([A-Z])", r"-\1", self.field).lower()

    @property
    def describedName(self) -> str:
        """
        What it is called in an endpoint description.
        """
        first, *others = self.name.split("-")
        return first + "".join(map(str.capitalize, others))

    @property
    def onlyWire(self) -> str:
        """
        The wire that it has to be given with, or nothing if the default wire will do.
        """
        return "" if WIRES[0] in self.wires else self.wires[0]

    def explain(self, wire: str, again: str = "") -> str:
        """
        Say what it does, with which wire, and whether it may be given several times.

        @param wire: what comes before the name of a wire.
        @param again: what is added if it may be given several times.
        """
        text = self.help
        if self.onlyWire:
            text = f"With {wire}{self.onlyWire}, {text[0].lower()}{text[1:]}"
        if self.several:
            text = f"{text.removesuffix('.')}{again}."
        return text

    def defaultText(self) -> str:
        """
        The default as a table shows it.
        """
        if self.shown:
            return self.shown
        if self.default is None or self.default == ():
            return "none"
        return self.type.write(self.default)

    def parse(self, text: str) -> Any:
        """
        Turn text into a value.  If there may be several, commas stand between them.

        @raise ValueError: if the text is no such value.  The error says why, without
            the option's name.
        """
        if not self.several:
            return self.type.parse(text)
        return tuple(self.together([self.type.parse(each) for each in text.split(",")]))

    def append(self, values: Sequence[Any], text: str) -> Sequence[Any]:
        """
        Add a value to those that were given before.

        @raise ValueError: as L{parse}.
        """
        return self.together([*values, self.type.parse(text)])

    def freeze(self, value: Any) -> Any:
        """
        Turn what a command line has collected into a setting's value.
        """
        if self.several:
            return tuple(value)
        return bool(value) if isinstance(self.type, Flag) else value

    def check(self, value: Any) -> None:
        """
        See that the setting may have this value.

        @raise ValueError: if it may not.
        """
        if self.several:
            for each in value:
                self.type.check(each)
            self.together(value)
        elif value is not None or self.default is not None:
            self.type.check(value)

    def isDefault(self, value: Any) -> bool:
        """
        Say whether a value says nothing that the default does not.
        """
        return bool(self.freeze(value) == self.default)


def option(
    default: Any, type: ValueType, help: str, *, name: str = "", **others: Any
) -> Any:
    """
    A field of a dataclass that is an option.

    @param name: what it is called on a command line; by default, what the field is
        called.
    @param others: see L{Option}.
    """
    made = Option(type, help, written=name, default=default, **others)
    return field(default=default, metadata={"option": made})


def optionsOf(settings: type[Settings]) -> list[Option]:
    """
    All options that a class of settings has.
    """
    return [
        replace(each.metadata["option"], field=each.name)
        for each in fields(settings)
        if "option" in each.metadata
    ]


def useless(settings: type[Settings], values: Mapping[str, Any]) -> list[Option]:
    """
    Find options that were given and mean nothing with the wire that was given.

    @param values: the values of all options, by the options' names.
    """
    wire = values.get("wire", WIRES[0])
    return [
        each
        for each in optionsOf(settings)
        if wire not in each.wires and not each.isDefault(values[each.name])
    ]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    What all settings have in common.

    @ivar path: where listener and workers meet.
    @raise ValueError: if a setting cannot be what it is.
    """

    path: str

    def __post_init__(self) -> None:
        values = {}
        for each in optionsOf(type(self)):
            values[each.name] = getattr(self, each.field)
            try:
                each.check(values[each.name])
            except ValueError as error:
                raise ValueError(f"{each.name}: {error}") from None
        for each in useless(type(self), values):
            raise ValueError(f"{each.name} means nothing with wire={values['wire']}")
