"""
Tests for L{portlisten._config.values}.
"""

from __future__ import annotations

import grp
import pwd

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config import values
from portlisten._config.values import ValueType
from tests.support.users import unusedUID

NOBODY = pwd.getpwnam("nobody").pw_uid


class DurationTests(SynchronousTestCase):
    """
    Tests for L{Duration}.
    """

    def test_units(self) -> None:
        """
        A number is in seconds, unless a unit follows it.
        """
        type = values.Duration()
        for text, seconds in (
            ("90", 90.0),
            ("90s", 90.0),
            ("0.5", 0.5),
            ("10m", 600.0),
            ("1.5h", 5400.0),
            ("1d", 86400.0),
        ):
            self.assertEqual(type.parse(text), seconds)
            type.check(seconds)
            self.assertEqual(type.parse(type.write(seconds)), seconds)
        type.check(None)

    def test_refused(self) -> None:
        """
        Everything else is refused.
        """
        type = values.Duration()
        for text in (
            "",
            "s",
            "0",
            "0m",
            "-1",
            "1w",
            "1 h",
            "1_0",
            "1e3",
            "inf",
            "1.2.3",
        ):
            error = self.assertRaises(ValueError, type.parse, text)
            self.assertEqual(
                str(error), f"{text!r} is no time such as 90s, 10m, 2h or 1d"
            )
        for seconds in (0, -1.0, float("inf"), float("nan")):
            self.assertRaises(ValueError, type.check, seconds)


class NumberTests(SynchronousTestCase):
    """
    Tests for L{Number}.
    """

    def assertRefused(self, type: ValueType, texts: list[str], wanted: str) -> None:
        """
        Expect that each of these is refused, and what would do instead.
        """
        for text in texts:
            error = self.assertRaises(ValueError, type.parse, text)
            self.assertEqual(str(error), f"{text!r} is not a {wanted}")

    def test_whole(self) -> None:
        """
        Whole numbers in the range are taken, its ends included.
        """
        type = values.Number("N", int, 1, 10)
        self.assertEqual([type.parse(text) for text in ("1", "7", "10")], [1, 7, 10])
        self.assertIsInstance(type.parse("7"), int)

    def test_notWhole(self) -> None:
        """
        Everything else is refused.
        """
        self.assertRefused(
            values.Number("N", int, 1, 10),
            ["0", "11", "-1", "1.5", "1e0", "many", "", "nan"],
            "whole number from 1 to 10",
        )

    def test_fraction(self) -> None:
        """
        Fractions are taken where they make sense.
        """
        type = values.Number("N", float, 0.5)
        self.assertEqual(
            [type.parse(text) for text in ("0.5", "7", "1e3")], [0.5, 7, 1e3]
        )

    def test_notFinite(self) -> None:
        """
        Infinity and NaN are refused even if the type has no upper limit.
        """
        self.assertRefused(
            values.Number("N", float, 0.5),
            ["0.4", "-inf", "inf", "nan", "1e999", "long"],
            "number of at least 0.5",
        )

    def test_noMaximum(self) -> None:
        """
        If the type has no upper limit, the error names none.
        """
        type = values.Number("N", int, 0)
        self.assertEqual(type.parse("1000000000000"), 10**12)
        self.assertRefused(type, ["-1"], "whole number of at least 0")


class GroupTests(SynchronousTestCase):
    """
    Tests for L{Group}.
    """

    def test_name(self) -> None:
        """
        A group may be given by its name.
        """
        for entry in grp.getgrall():
            self.assertEqual(values.Group().parse(entry.gr_name), entry.gr_gid)

    def test_number(self) -> None:
        """
        A group may be given by its number.
        """
        self.assertEqual(values.Group().parse("0"), 0)

    def test_unknown(self) -> None:
        """
        What is no group's name or number is refused.
        """
        unused = max(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid < 60000)
        for text in (str(unused + 1), "no such group", "", "-1", str(2**70)):
            error = self.assertRaises(ValueError, values.Group().parse, text)
            self.assertEqual(str(error), f"the group {text!r} does not exist")


class UserTests(SynchronousTestCase):
    """
    Tests for L{User}.
    """

    def test_name(self) -> None:
        """
        A user may be given by name.
        """
        self.assertEqual(values.User().parse("nobody"), NOBODY)

    def test_number(self) -> None:
        """
        A user may be given by number.
        """
        self.assertEqual(values.User().parse(str(NOBODY)), NOBODY)

    def test_unknown(self) -> None:
        """
        What is no user's name or number is refused.
        """
        for text in (str(unusedUID()), "no such user", "", "-1", str(2**70)):
            error = self.assertRaises(ValueError, values.User().parse, text)
            self.assertEqual(str(error), f"the user {text!r} does not exist")

    def test_unnamed(self) -> None:
        """
        Where only the number counts, any number is taken that the kernel has: in a
        container, the users of other containers have no names.
        """
        for type in (values.User(known=False), values.Group(known=False)):
            kind = type.metavar.lower()
            for number in (0, unusedUID(), 2**32 - 2):
                self.assertEqual(type.parse(str(number)), number)
                self.assertEqual(type.take(number), number)
            for text in (str(2**32 - 1), str(2**70)):
                error = self.assertRaises(ValueError, type.parse, text)
                reason = f"{text} is no {kind}: the greatest number is 4294967294"
                self.assertEqual(str(error), reason)
            for text in ("no such", "", "-1", "\u0663"):
                error = self.assertRaises(ValueError, type.parse, text)
                self.assertEqual(str(error), f"the {kind} {text!r} does not exist")


class ChoiceTests(SynchronousTestCase):
    """
    Tests for L{Choice}.
    """

    def test_values(self) -> None:
        """
        Each of the values is taken, and nothing else.
        """
        type = values.Choice("red", "green")
        self.assertEqual([type.parse("red"), type.parse("green")], ["red", "green"])
        for text in ("blue", "", "Red", "red, green"):
            error = self.assertRaises(ValueError, type.parse, text)
            self.assertEqual(str(error), f"{text!r} is none of red, green")


class ModeTests(SynchronousTestCase):
    """
    Tests for L{Mode}.
    """

    def test_octal(self) -> None:
        """
        A mode is written as an octal number of nine bits.
        """
        type = values.Mode()
        self.assertEqual([type.parse("0660"), type.parse("7")], [0o660, 7])
        self.assertEqual(type.write(0o60), "0060")
        for text in ("rw-rw----", "0888", "01777", "-1", ""):
            error = self.assertRaises(ValueError, type.parse, text)
            self.assertEqual(str(error), f"{text!r} is not an octal mode such as 0660")


class FlagTests(SynchronousTestCase):
    """
    Tests for L{Flag}.
    """

    def test_values(self) -> None:
        """
        A flag is yes or no.
        """
        type = values.Flag()
        self.assertEqual([type.parse("yes"), type.parse("no")], [True, False])
        self.assertEqual([type.write(True), type.write(False)], ["yes", "no"])
        error = self.assertRaises(ValueError, type.parse, "1")
        self.assertEqual(str(error), "'1' is none of yes, no")


class CheckTests(SynchronousTestCase):
    """
    Tests for C{check}: values that were no text.
    """

    def test_allowed(self) -> None:
        """
        What a text can give is allowed.
        """
        for type, text in [
            (values.count(0), "7"),
            (values.seconds(0), "0.5"),
            (values.Mode(), "0660"),
            (values.User(), "0"),
            (values.Group(), "0"),
            (values.Choice("red", "green"), "red"),
            (values.Flag(), "no"),
            (values.Name(), "http"),
            (values.File(), "a/b"),
        ]:
            type.check(type.parse(text))

    def test_refused(self) -> None:
        """
        What no text can give is refused.
        """
        wrong: list[tuple[ValueType, object, str]] = [
            (values.count(1, 9), 10, "10 is not a whole number from 1 to 9"),
            (values.count(0), 0.5, "0.5 is not a whole number of at least 0"),
            (values.seconds(0), "1", "'1' is not a number of at least 0"),
            (values.seconds(0), float("nan"), "nan is not a number of at least 0"),
            (values.Mode(), 0o1000, "512 is not a mode such as 0o660"),
            (values.Mode(), "0660", "'0660' is not a mode such as 0o660"),
            (values.User(), "root", "'root' is no number of a user"),
            (values.Group(), -1, "-1 is no number of a group"),
            (values.Choice("red", "green"), 3, "3 is none of red, green"),
            (values.Flag(), "yes", "'yes' is neither True nor False"),
            (values.Name(), "a b", "'a b' is no name for a port"),
            (values.File(), None, "None is no text"),
        ]
        for type, value, reason in wrong:
            error = self.assertRaises(ValueError, type.check, value)
            self.assertTrue(str(error).startswith(reason), str(error))


class FirstTests(SynchronousTestCase):
    """
    Tests for L{First}.
    """

    def test_parsed(self) -> None:
        """
        It is yes, no, or a number of seconds that the wire can say.
        """
        type = values.First()
        self.assertEqual(
            [type.parse(text) for text in ("yes", "no", "0.001", "65.535")],
            [2.0, 0.0, 0.001, 65.535],
        )

    def test_refused(self) -> None:
        """
        Everything else is refused.
        """
        type = values.First()
        for text in ("", "Yes", "0", "0.0009", "65.536", "-1", "nan", "inf"):
            error = self.assertRaises(ValueError, type.parse, text)
            self.assertEqual(
                str(error),
                f"{text!r} is not a number from 0.001 to 65.535,"
                " and neither yes nor no",
            )

    def test_checked(self) -> None:
        """
        A value in code is a number of seconds, or 0 for no.
        """
        type = values.First()
        for allowed in (0, 0.0, False, 2.0, 65.535):
            type.check(allowed)
        wrong: list[object] = [-1, 66, "yes", None]
        for value in wrong:
            self.assertRaises(ValueError, type.check, value)


class LabelTests(SynchronousTestCase):
    """
    Tests for L{Label}.
    """

    def test_taken(self) -> None:
        """
        A label is like the name of a port.
        """
        for text in ("web-1", "1st", "_", "x" * 63):
            self.assertEqual(values.Label().parse(text), text)

    def test_refused(self) -> None:
        """
        A number alone would name a pid.
        """
        for text in ("", "12", "0", "-x", "a b", "x" * 64, "é"):
            error = self.assertRaises(ValueError, values.Label().parse, text)
            self.assertIn(f"{text!r} is no label for a worker", str(error))


class FileTests(SynchronousTestCase):
    """
    Tests for L{FileOrNone}.
    """

    def test_none(self) -> None:
        """
        C{none}, and no text, mean no file.
        """
        type = values.FileOrNone()
        self.assertEqual(
            list(map(type.parse, ["none", "", "x", "./none"])), ["", "", "x", "./none"]
        )
        self.assertEqual(list(map(type.write, ["", "x"])), ["none", "x"])


class TakeTests(SynchronousTestCase):
    """
    Tests for L{ValueType.take}: values of TOML.
    """

    def test_taken(self) -> None:
        """
        A value may be text, or what TOML has for it.
        """
        for type, value, expected in [
            (values.count(1, 9), 3, 3),
            (values.count(1, 9), "3", 3),
            (values.seconds(0), 3, 3.0),
            (values.seconds(0), 1.5, 1.5),
            (values.seconds(0), "1.5", 1.5),
            (values.Flag(), True, True),
            (values.Flag(), "no", False),
            (values.Choice("a", "b"), "b", "b"),
            (values.Mode(), "0600", 0o600),
            (values.User(), "nobody", NOBODY),
            (values.User(), NOBODY, NOBODY),
            (values.User(), str(NOBODY), NOBODY),
            (values.FileOrNone(), "none", ""),
        ]:
            taken = type.take(value)
            self.assertEqual((taken, taken.__class__), (expected, expected.__class__))

    def test_refused(self) -> None:
        """
        Other values are refused, and the error shows them as TOML does.
        """
        for type, value, text in [
            (values.count(1, 9), 10, "10 is not a whole number from 1 to 9"),
            (values.count(1, 9), 3.0, "3.0 is not a whole number from 1 to 9"),
            (values.count(1, 9), True, "true is no number"),
            (values.count(1, 9), [3], "a list is no number"),
            (values.seconds(0), 10**400, "the number is too large"),
            (values.seconds(0), -1, "-1 is not a number of at least 0"),
            (values.Flag(), 1, "1 is no text: write text in quotes"),
            (values.Flag(), "on", "'on' is none of yes, no"),
            (values.Mode(), 660, 'write the octal number in quotes, such as "0660"'),
            (
                values.User(),
                1.5,
                "1.5 is no user: give a name in quotes, or a number",
            ),
            (
                values.User(),
                False,
                "false is no user: give a name in quotes, or a number",
            ),
            (values.User(), -1, "the user '-1' does not exist"),
            (values.Name(), {}, "a table is no text: write text in quotes"),
        ]:
            error = self.assertRaises(ValueError, type.take, value)
            self.assertEqual(str(error), text)
