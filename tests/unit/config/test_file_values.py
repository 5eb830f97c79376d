"""
Tests for L{portlisten._config.file_values}.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config import file_values
from portlisten._config.file_values import fill
from portlisten._config.values import ValueType
from portlisten._config.wrong import WrongValues


class ValuesTestCase(SynchronousTestCase):
    """
    Values that are taken, and others that are refused.
    """

    def assertTaken(self, type: ValueType, *pairs: tuple[object, object]) -> None:
        """
        Expect that each value gives another.
        """
        for value, expected in pairs:
            taken = type.take(value)
            self.assertEqual((taken, taken.__class__), (expected, expected.__class__))
            type.check(taken)

    def assertRefused(self, type: ValueType, *pairs: tuple[object, str]) -> None:
        """
        Expect that each value is refused, with a text.
        """
        for value, text in pairs:
            error = self.assertRaises(ValueError, type.take, value)
            self.assertIn(text, str(error))


class CommandTests(ValuesTestCase):
    """
    Tests for L{file_values.Command} and L{fill}.
    """

    type = file_values.Command()

    def test_taken(self) -> None:
        """
        A list of words is taken, with most braces.
        """
        for words in (
            ["a"],
            ["a", "", "{path}", "{label}{name}"],
            ["sh", "-c", "echo ${HOME} ${path} {} { x } {a b} {1}"],
            ["{{pth}}", '{"a": 1}', "%(h)s"],
        ):
            self.assertTaken(self.type, (words, tuple(words)))

    def test_refused(self) -> None:
        """
        Anything else is refused.
        """
        self.assertRefused(
            self.type,
            ([], "empty"),
            ([""], "empty"),
            ("a b", 'write ["a", "b"]'),
            (3, "3 is no list of words"),
            ({}, "a table is no list"),
            (["a", 3], "3 is no text"),
            (["a", True], "true is no text"),
            (["a", "x\0"], "zero byte"),
            (["a", "{pth}"], "{pth} (did you mean {path}?): portlisten replaces"),
            (["a", "{Path}"], "{Path} (did you mean {path}?)"),
            (["a", "{print}"], "for the text {print}, write {{print}}"),
            (["a", "{path} {x}"], "has {x}: portlisten replaces {path}, {label} and"),
        )

    def test_all(self) -> None:
        """
        All wrong words are named.
        """
        error = self.assertRaises(WrongValues, self.type.take, ["a", 3, "{x}", "\0"])
        self.assertEqual(len(error.problems), 3)

    def test_fill(self) -> None:
        """
        What is said to be replaced is replaced, and nothing twice.
        """
        values = {"path": "{label}", "label": "L", "name": "N"}
        for word, expected in [
            ("{path}:{label}:{name}", "{label}:L:N"),
            ("${path} {{path}} {} {", "${path} {path} {} {"),
            ("{{{path}}}", "{{path}}"),
        ]:
            self.assertEqual(fill(word, values), expected)


class NumbersTests(ValuesTestCase):
    """
    Tests for numbers with units, and for counts.
    """

    def test_cores(self) -> None:
        """
        A count may be that of the usable cores.
        """
        type = file_values.Cores()
        cores = len(os.sched_getaffinity(0))
        self.assertTaken(type, ("cores", cores), (3, 3), ("4", 4), (255, 255))
        self.patch(os, "sched_getaffinity", lambda process: set(range(300)))
        self.assertTaken(type, ("cores", 255))
        self.assertRefused(
            type,
            (0, "0 is not a whole number from 1 to 255"),
            ("core", "'core' is not a whole number from 1 to 255, and not cores"),
            (1.0, "1.0 is not a whole"),
            (True, "true is no number"),
            ([1], "a list is no number"),
        )

    def test_size(self) -> None:
        """
        Sizes have units of 1024.
        """
        type = file_values.Size()
        self.assertTaken(
            type,
            ("512M", 512 * 1024**2),
            ("2G", 2 * 1024**3),
            ("1.5G", 3 * 1024**3 // 2),
            ("2048K", 2 * 1024**2),
            ("1T", 1024**4),
            ("1048576", 1024**2),
            (1048577, 1048577),
        )
        self.assertRefused(
            type,
            (512, "at least 1M"),
            ("512", "at least 1M"),
            ("-1M", "is no size"),
            ("512 M", "is no size"),
            ("512MB", "is no size"),
            ("", "is no size"),
            ("99999999T", "cannot be"),
            (2.0**30, "is no text"),
            (True, "true is no text"),
        )
        for text in ("512M", "3G", "1T", "1025K", "1048577"):
            self.assertEqual(type.write(type.parse(text)), text)

    def test_age(self) -> None:
        """
        Ages have units of time.
        """
        type = file_values.Age()
        self.assertTaken(
            type,
            ("12h", 43200.0),
            ("7d", 604800.0),
            ("90m", 5400.0),
            ("1.5h", 5400.0),
            ("45s", 45.0),
            ("45", 45.0),
            (45, 45.0),
            (1.5, 1.5),
        )
        self.assertRefused(
            type,
            (0, "at least 1 second"),
            ("0h", "at least 1 second"),
            ("1w", "is no age"),
            ("h", "is no age"),
            ("-1h", "is no age"),
            (float("inf"), "inf seconds cannot"),
            (float("nan"), "nan seconds cannot"),
            (10**400, "cannot be an age"),
            (True, "true is no text"),
        )
        for text in ("12h", "7d", "91m", "45s", "1.5s"):
            self.assertEqual(type.write(type.parse(text)), text)


class TextsTests(ValuesTestCase):
    """
    Tests for paths, umasks, variables and descriptions.
    """

    def test_path(self) -> None:
        """
        Paths begin at the root.
        """
        type = file_values.AbsolutePath()
        self.assertTaken(type, ("/a b", "/a b"))
        self.assertRefused(
            type, ("a", "/run/"), ("", "absolute"), (3, "quotes"), ("/\0", "zero byte")
        )
        orNone = file_values.AbsolutePathOrNone()
        self.assertEqual(orNone.take("none"), "")
        self.assertRefused(orNone, ("", "absolute"), ("None", "absolute"))

    def test_umask(self) -> None:
        """
        A umask is octal text.
        """
        type = file_values.Umask()
        self.assertTaken(type, ("0027", 0o27), ("077", 0o77))
        self.assertRefused(type, ("088", "0027"), ("1000", "0027"), (27, '"0027"'))

    def test_environment(self) -> None:
        """
        Variables are texts, and some belong to portlisten.
        """
        type = file_values.Environment()
        self.assertTaken(
            type, ({}, {}), ({"A b": "", "B": "x=y"}, {"A b": "", "B": "x=y"})
        )
        self.assertRefused(
            type,
            ("A=b", "is no table"),
            ({"": "x"}, "without '='"),
            ({"a=b": "x"}, "without '='"),
            ({"a\0": "x"}, "zero byte"),
            ({"a": "x\0"}, "zero byte"),
            ({"a": 1}, "1 is no text"),
            ({"PORTLISTEN_LABEL": "x"}, "leave it out"),
            ({"NOTIFY_SOCKET": "x"}, "leave it out"),
            ({"LISTEN_PID": "x"}, "leave it out"),
        )
        error = self.assertRaises(WrongValues, type.take, {"a": 1, "LISTEN_FDS": ""})
        self.assertEqual([name for name, _ in error.problems], ["a", "LISTEN_FDS"])

    def test_description(self) -> None:
        """
        A description is a number or text, without a name.
        """
        type = file_values.Description()
        self.assertTaken(type, (80, "80"), ("80:nodelay=yes", "80:nodelay=yes"))
        self.assertRefused(
            type,
            ("http=80", "write '80'"),
            ("=80", "write '80'"),
            (True, "true is no port"),
            ("80\n", "characters"),
            ({}, "a table is no port"),
        )
