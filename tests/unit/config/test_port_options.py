"""
Tests for L{portlisten._config.port_options}.
"""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.port_options import (
    MAXIMUM_DEFER,
    MAXIMUM_REUSEPORT,
    PORT_OPTIONS,
    PortOptions,
    separate,
)
from portlisten._config.port_values import MAXIMUM_KEEPALIVE
from portlisten.errors import BadDescription

DEVICES = st.text(
    st.characters(exclude_categories=["Z", "C"], exclude_characters="/:"),
    min_size=1,
    max_size=15,
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 15)

OPTIONS = st.builds(
    PortOptions,
    reuseport=st.none() | st.integers(1, MAXIMUM_REUSEPORT),
    nodelay=st.none() | st.booleans(),
    keepalive=st.none() | st.booleans() | st.integers(1, MAXIMUM_KEEPALIVE),
    defer=st.none() | st.integers(1, MAXIMUM_DEFER),
    mptcp=st.none() | st.booleans(),
    freebind=st.none() | st.booleans(),
    device=st.none() | DEVICES,
    balance=st.none() | st.booleans(),
)

#: The options of the sockets of a port.
SOCKET_OPTIONS = {
    name: option for name, option in PORT_OPTIONS.items() if not option.limit
}

#: Parts of descriptions that are no options of L{PortOptions}.
OTHERS = st.sampled_from(
    ["80", "interface=127.0.0.1", r"interface=\:\:1", "backlog=5", "", "a=b", "\\\\"]
)


def written(options: PortOptions) -> list[str]:
    """
    Write each option as a part of a description.
    """
    parts = []
    for option in options.given:
        value = getattr(options, option.name)
        if isinstance(value, bool):
            value = "yes" if value else "no"
        text = re.sub(r"([\\:=])", r"\\\1", str(value))
        parts.append(f"{option.name}={text}")
    return parts


class SeparateTests(SynchronousTestCase):
    """
    Tests for L{separate}.
    """

    def assertBad(self, description: str, reason: str) -> None:
        """
        Expect that a description is refused, and why.
        """
        error = self.assertRaises(BadDescription, separate, description)
        self.assertEqual(str(error), f"{description!r}{reason}")

    @given(OPTIONS, st.lists(OTHERS, max_size=4), st.randoms(use_true_random=False))
    def test_roundTrip(
        self, options: PortOptions, others: list[str], random: Any
    ) -> None:
        """
        Options that are written, in any order and among other parts, are read.  The
        other parts stay as they are, in their order.
        """
        parts = written(options)
        random.shuffle(parts)
        places = sorted(random.randint(0, len(parts)) for _ in others)
        for place, other in reversed([*zip(places, others, strict=True)]):
            parts.insert(place, other)
        rest, read = separate(":".join(["tcp", *parts]))
        self.assertEqual(rest, ":".join(["tcp", *others]))
        self.assertEqual(read, options)
        # 1 is not True.
        self.assertIs(type(read.keepalive), type(options.keepalive))

    @given(st.text(alphabet="abnodely:=\\5", max_size=30))
    def test_anyText(self, text: str) -> None:
        """
        A text that has no option stays as it is.  Any other text is refused, or loses
        its options.
        """
        try:
            rest, options = separate(text)
        except BadDescription as error:
            self.assertEqual(len(str(error).splitlines()), 1)
        else:
            self.assertEqual(rest == text, options == PortOptions())

    def test_escaped(self) -> None:
        """
        A colon behind a backslash does not begin an option.
        """
        for description in (
            r"unix:/run/a\:nodelay=yes",
            r"unix:/run/a\\\:nodelay=yes",
            "nodelay=yes",
        ):
            self.assertEqual(separate(description), (description, PortOptions()))
        self.assertEqual(
            separate(r"unix:/run/a\\:nodelay=yes"),
            (r"unix:/run/a\\", PortOptions(nodelay=True)),
        )

    def test_twice(self) -> None:
        """
        An option may be given once.
        """
        for option in SOCKET_OPTIONS:
            text = "2" if option in ("reuseport", "defer") else "no"
            self.assertBad(
                f"80:{option}={text}:{option}={text}", f" has {option} twice"
            )

    def test_noValue(self) -> None:
        """
        An option has a value.
        """
        self.assertBad("80:nodelay", ": nodelay has no value: write nodelay=yes|no")
        self.assertBad("80:device", ": device has no value: write device=NAME")

    def test_wrongValues(self) -> None:
        """
        A value that an option cannot have is refused, and the error says what would be
        right.
        """
        for option in ("nodelay", "mptcp", "freebind"):
            for text in ("", "true", "1", "Yes", "no "):
                self.assertBad(
                    f"80:{option}={text}", f": {option}: {text!r} is none of yes, no"
                )
        for option, most in (
            ("reuseport", MAXIMUM_REUSEPORT),
            ("defer", MAXIMUM_DEFER),
        ):
            limit = f"is not a whole number from 1 to {most}"
            for number in (0, most + 1):
                self.assertBad(f"80:{option}={number}", f": {option}: {number} {limit}")
            for text in ("", "-1", "x", "1.5", " 2", "٣", "9" * 5000):
                self.assertBad(f"80:{option}={text}", f": {option}: {text!r} {limit}")
        limit = "is not a whole number from 1 to 32767, and neither yes nor no"
        self.assertBad("80:keepalive=0", f": keepalive: 0 {limit}")
        self.assertBad("80:keepalive=32768", f": keepalive: 32768 {limit}")
        self.assertBad("80:keepalive=on", f": keepalive: 'on' {limit}")
        for name in ("", ".", "..", "a/b", "a b", "x" * 16, "é" * 8, "a\0"):
            self.assertBad(
                f"80:device={name}",
                f": device: {name!r} is no name of a network device: give up to 15"
                " bytes, such as eth0",
            )


class PortOptionsTests(SynchronousTestCase):
    """
    Tests for L{PortOptions}.
    """

    def test_fields(self) -> None:
        """
        Each option that a description may have is a field.  None is given by default.
        """
        self.assertEqual(
            {field.name for field in fields(PortOptions)},
            {option.field for option in PORT_OPTIONS.values()},
        )
        self.assertEqual(PortOptions().given, [])

    def test_given(self) -> None:
        """
        An option is given even if its value is no.
        """
        [option] = PortOptions(nodelay=False).given
        self.assertIs(option, PORT_OPTIONS["nodelay"])

    def test_frozen(self) -> None:
        """
        Options do not change.
        """
        self.assertRaises(FrozenInstanceError, setattr, PortOptions(), "nodelay", True)

    def test_bounds(self) -> None:
        """
        Values are checked, wherever they come from.
        """
        for name, value in (
            ("reuseport", 65),
            ("keepalive", 0),
            ("defer", 0),
            ("nodelay", 1),
            ("device", ""),
        ):
            values: dict[str, Any] = {name: value}
            error = self.assertRaises(ValueError, PortOptions, **values)
            self.assertTrue(str(error).startswith(f"{name}: "))


class DocumentedTests(SynchronousTestCase):
    """
    The options in the guide for operators.
    """

    def test_table(self) -> None:
        """
        Its tables have each option, with its values, what it goes with, and systemd's
        names for it.
        """
        guide = Path(__file__).parents[3] / "docs" / "operators.md"
        _, _, section = guide.read_text().partition("## The options of a port")
        section, _, _ = section.partition("### ")
        uses, _, names = section.partition("names of the options")
        rows = re.findall(r"^\| `(.*?)` \| .* \| (.*?) \|$", uses, re.M)
        units = dict(re.findall(r"^\| `(.*?)` \| .* \| .* \| (.*?) \|$", names, re.M))
        documented = {
            row.replace("\\|", "|"): (
                goes,
                re.findall("`(.*?)`", units.pop(row.partition("=")[0])),
            )
            for row, goes in rows
        }
        self.assertEqual(units, {})
        expected = {
            f"{option.name}={option.value.metavar}": (
                "TCP, UDP" if option.datagrams else "TCP",
                re.findall(r"\w+=\w*", option.unit),
            )
            for option in SOCKET_OPTIONS.values()
        }
        expected["reuseport=N"] = ("TCP, with `--share`", [])
        expected["balance=yes|no"] = ("TCP, Unix, with `--share`", [])
        self.assertEqual(documented, expected)
