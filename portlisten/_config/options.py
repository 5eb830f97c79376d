"""
Options: how each is written, parsed, checked and explained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from portlisten._config.values import Flag, ValueType
from portlisten._config.wrong import collected

#: The wires, by which connections travel.  The first is the default.
WIRES = ("stream", "datagram")
STREAM = WIRES[:1]
DATAGRAM = WIRES[1:]


@dataclass(frozen=True)
class Option:
    """
    An option.

    @ivar type: the type of the value, or of each value.
    @ivar help: the effect, in a sentence.
    @ivar more: further sentences, which C{--help} leaves out.
    @ivar shown: the text of the default, if it is not written like a value.
    @ivar wires: the wires with which the option means something.
    @ivar several: whether it may be given several times.  The value is then a tuple.
    @ivar together: checks all values, and may drop some.
    @ivar onCommandLine: whether the command has the option.
    @ivar inDescription: whether endpoint descriptions have the option.
    @ivar written: the name on a command line; empty if L{field} gives it.
    @ivar field: the name of the setting.
    @ivar default: the value if the option is not given.
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
        The name on a command line, without the dashes.
        """
        return self.written or re.sub("([A-Z])", r"-\1", self.field).lower()

    @property
    def describedName(self) -> str:
        """
        The name in an endpoint description.
        """
        first, *others = self.name.split("-")
        return first + "".join(map(str.capitalize, others))

    @property
    def onlyWire(self) -> str:
        """
        The only wire that the option goes with; empty if the default wire is one.
        """
        return "" if WIRES[0] in self.wires else self.wires[0]

    def explain(self, wire: str, again: str = "") -> str:
        """
        Write the effect, with the wire if it is not the default.

        @param wire: the text before the name of a wire.
        @param again: the text to add if the option may be given several times.
        """
        text = self.help
        if self.onlyWire:
            text = f"With {wire}{self.onlyWire}, {text[0].lower()}{text[1:]}"
        if self.several:
            text = f"{text.removesuffix('.')}{again}."
        return text

    def defaultText(self) -> str:
        """
        Write the default for a table.
        """
        if self.shown:
            return self.shown
        if self.default is None or self.default == ():
            return "none"
        return self.type.write(self.default)

    def parse(self, text: str) -> Any:
        """
        Turn text into a value.  Commas separate several values.

        @raise ValueError: if the text is no such value.  The error says why, without
            the option's name.
        """
        if not self.several:
            return self.type.parse(text)
        return tuple(self.together([self.type.parse(each) for each in text.split(",")]))

    def take(self, value: object) -> Any:
        """
        Turn a value of TOML into a value.  If the option may be given several times,
        it may be a list.

        @raise WrongValues: if several values are wrong.
        @raise ValueError: if it cannot be a value.  The error says why, without the
            option's name.
        """
        if not self.several:
            return self.type.take(value)
        values: list[Any] = []
        with collected() as problems:
            for each in value if isinstance(value, list) else [value]:
                with problems.of(""):
                    values.append(self.type.take(each))
        return tuple(self.together(values))

    def append(self, values: Sequence[Any], text: str) -> Sequence[Any]:
        """
        Add a value to the earlier values.

        @raise ValueError: as L{parse}.
        """
        return self.together([*values, self.type.parse(text)])

    def freeze(self, value: Any) -> Any:
        """
        Turn the collected values of a command line into a setting's value.
        """
        if self.several:
            return tuple(value)
        return bool(value) if isinstance(self.type, Flag) else value

    def check(self, value: Any) -> None:
        """
        Check that the setting may have this value.

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
        Say whether a value is the default.
        """
        return bool(self.freeze(value) == self.default)


def option(
    default: Any, type: ValueType, help: str, *, name: str = "", **others: Any
) -> Any:
    """
    Make a dataclass field for an option.

    @param name: the name on a command line; by default, the field's name.
    @param others: see L{Option}.
    """
    made = Option(type, help, written=name, default=default, **others)
    return field(default=default, metadata={"option": made})


def required(type: ValueType, help: str, **others: Any) -> Any:
    """
    Make a dataclass field for an option that has no default.

    @param others: see L{Option}.
    """
    others.setdefault("shown", "required")
    return field(metadata={"option": Option(type, help, **others)})


def optionsOf(settings: type[Settings]) -> list[Option]:
    """
    List the options of a class of settings.
    """
    return [
        replace(each.metadata["option"], field=each.name)
        for each in fields(settings)
        if "option" in each.metadata
    ]


def useless(settings: type[Settings], values: Mapping[str, Any]) -> list[Option]:
    """
    Find the given options that mean nothing with the given wire.

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
    The base of all settings.

    @raise ValueError: if a setting has a wrong value.
    """

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


@dataclass(frozen=True, kw_only=True)
class ChannelSettings(Settings):
    """
    The base of the settings of a process that has one channel.

    @ivar path: the path of the channel.
    """

    path: str
