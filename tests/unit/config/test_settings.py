"""
Tests for L{portlisten._config.options} and L{portlisten._config.settings}.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.options import (
    DATAGRAM,
    STREAM,
    ChannelSettings,
    Option,
    option,
    optionsOf,
    useless,
)
from portlisten._config.settings import (
    DrainSettings,
    ExecSettings,
    ListenerSettings,
    UndrainSettings,
    WorkerSettings,
)
from portlisten._config.values import Flag, Name, count, seconds


def twice(values: object) -> tuple[object, ...]:
    """
    Take two values, and no other number of them.
    """
    if len(values) > 2:  # type: ignore[arg-type]
        raise ValueError("more than two")
    return tuple(values)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ToolSettings(ChannelSettings):
    """
    Settings of the tests' own.
    """

    wire: str = option("stream", Name(), "The wire.")
    someSizes: tuple[int, ...] = option(
        (), count(1, 10), "A size.", name="some-size", several=True, together=twice
    )
    pause: float | None = option(
        None, seconds(0), "The pause.", shown="none", wires=DATAGRAM
    )
    slow: bool = option(False, Flag(), "Be slow.", wires=STREAM)
    ratio: float = option(3.0, seconds(0), "The ratio.")


def named(name: str) -> Option:
    """
    Find an option of the tests' own.
    """
    (found,) = (each for each in optionsOf(ToolSettings) if each.name == name)
    return found


class OptionTests(SynchronousTestCase):
    """
    Tests for L{Option}.
    """

    def test_names(self) -> None:
        """
        An option's names come from its field's, unless it has another one.
        """
        self.assertEqual(
            [(each.field, each.name) for each in optionsOf(ToolSettings)],
            [
                ("wire", "wire"),
                ("someSizes", "some-size"),
                ("pause", "pause"),
                ("slow", "slow"),
                ("ratio", "ratio"),
            ],
        )
        self.assertEqual(named("some-size").describedName, "someSize")
        self.assertEqual(named("slow").describedName, "slow")

    def test_parse(self) -> None:
        """
        Text becomes a value, or several with commas between them.
        """
        self.assertEqual(named("pause").parse("2"), 2.0)
        self.assertEqual(named("some-size").parse("3,4"), (3, 4))
        self.assertRaises(ValueError, named("some-size").parse, "3,,4")
        self.assertRaises(ValueError, named("some-size").parse, "1,2,3")

    def test_append(self) -> None:
        """
        A value is added to others, which are checked together.
        """
        self.assertEqual(named("some-size").append([3], "4"), (3, 4))
        error = self.assertRaises(ValueError, named("some-size").append, [3, 4], "5")
        self.assertEqual(str(error), "more than two")

    def test_explain(self) -> None:
        """
        What an option does begins with its wire, if that is not the default one.
        """
        self.assertEqual(
            [each.explain("--wire=", ", often") for each in optionsOf(ToolSettings)],
            [
                "The wire.",
                "A size, often.",
                "With --wire=datagram, the pause.",
                "Be slow.",
                "The ratio.",
            ],
        )

    def test_defaults(self) -> None:
        """
        A default is shown as on a command line, or as C{none}.
        """
        self.assertEqual(
            [each.defaultText() for each in optionsOf(ToolSettings)],
            ["stream", "none", "none", "no", "3"],
        )


class SettingsTests(SynchronousTestCase):
    """
    Tests for L{ChannelSettings}.
    """

    def test_frozen(self) -> None:
        """
        Settings do not change.
        """
        settings = ToolSettings(path="path")
        with self.assertRaises(FrozenInstanceError):
            settings.ratio = 1.0  # type: ignore[misc]

    def test_checked(self) -> None:
        """
        A value that no text could give is refused, with the option's name.
        """
        for given, reason in [
            ({"someSizes": (1, 11)}, "some-size: 11 is not a whole number from 1"),
            ({"someSizes": (1, 2, 3)}, "some-size: more than two"),
            ({"slow": "yes"}, "slow: 'yes' is neither"),
            ({"ratio": None}, "ratio: None is not a number"),
            ({"pause": 3.0}, "pause means nothing with wire=stream"),
            ({"wire": "datagram", "slow": True}, "slow means nothing with wire=data"),
        ]:
            error = self.assertRaises(
                ValueError,
                ToolSettings,
                path="path",
                **given,  # type: ignore[arg-type]
            )
            self.assertTrue(str(error).startswith(reason), str(error))

    def test_useless(self) -> None:
        """
        What is given and says no more than the default may go with any wire.
        """
        given: dict[str, Any] = {
            "wire": "stream",
            "pause": None,
            "some-size": [],
            "slow": 0,
        }
        self.assertEqual(useless(ToolSettings, {**given, "ratio": 3.0}), [])
        given["pause"] = 1.0
        self.assertEqual(
            [each.name for each in useless(ToolSettings, {**given, "ratio": 3.0})],
            ["pause"],
        )

    def test_all(self) -> None:
        """
        The default settings of all commands are right, and the help of every option is
        a sentence.
        """
        ExecSettings(path="path", program=("true",))
        for settings in (ListenerSettings, WorkerSettings):
            settings(path="path")
            settings(path="path", wire="datagram")
        for asking in (DrainSettings, UndrainSettings):
            asking(target="path", workers=())
        for kind in (
            *(ListenerSettings, WorkerSettings, ExecSettings),
            *(DrainSettings, UndrainSettings),
        ):
            for each in optionsOf(kind):
                self.assertTrue(each.help.endswith("."), each.name)
                self.assertTrue(each.more.endswith(".") or not each.more, each.name)
