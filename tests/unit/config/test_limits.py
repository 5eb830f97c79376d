"""
Tests for L{portlisten._config.limits}, and for limits in descriptions of ports.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.limits import NO_LIMITS, limitsOf
from portlisten._config.port_options import (
    LIMIT_OPTIONS,
    PORT_OPTIONS,
    PortOptions,
    readLimits,
    separate,
    writeLimits,
)
from portlisten._config.port_values import MAXIMUM_NETWORKS, Networks, RateValue
from portlisten._config.ports import PortKind, PortSettings
from portlisten._policy.source_limits import Beyond, Limits, Rate
from portlisten.errors import BadDescription

COUNTS = st.integers(1, 1_000_000)

RATES = st.builds(
    lambda number, seconds, burst: Rate(number / seconds, burst),
    COUNTS,
    st.sampled_from([1, 60, 3600]),
    COUNTS,
)

NETWORKS = st.lists(
    st.builds(
        lambda address, prefix: ip_network(f"{address}/{prefix}", strict=False),
        st.ip_addresses(v=4),
        st.integers(0, 32),
    )
    | st.builds(
        lambda address, prefix: ip_network(f"{address}/{prefix}", strict=False),
        st.ip_addresses(v=6, network="2000::/3"),
        st.integers(3, 128),
    ),
    min_size=1,
    max_size=4,
    unique=True,
).map(tuple)

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "maxPerSource": COUNTS,
        "ratePerSource": RATES,
        "most": COUNTS,
        "rate": RATES,
        "allow": NETWORKS,
        "deny": NETWORKS,
        "beyond": st.sampled_from(Beyond),
        "fair": st.booleans(),
        "prefix": st.integers(1, 32),
        "prefix6": st.integers(1, 128),
        "proxies": NETWORKS,
    },
)

#: Wrong options of C{80}, and what is said of them.
WRONG = [
    ("max-per-source=0", "max-per-source: 0 is not a whole number from 1 to 1000000"),
    ("max-per-source=many", "max-per-source: 'many' is not a whole number from 1 to"),
    ("max-per-source", "max-per-source has no value: write max-per-source=N"),
    ("max=-5", "max: '-5' is not a whole number from 1 to 1000000"),
    ("max=1000001", "max: 1000001 is not a whole number from 1 to 1000000"),
    ("max=5:max=5", " has max twice"),
    ("rate=20", "rate: '20' is no rate: it needs a unit, as in 20/s for connections"),
    ("rate=0/s", "rate: a rate of 0/s is not possible: give at least 1/h"),
    ("rate=2000000/s", "rate: a rate of 2e+06/s is not possible: give at least 1/h"),
    ("rate=20/d", "rate: '20/d' is no rate: give connections in a second, a minute"),
    ("rate=0.5/s", "rate: '0.5/s' is no rate: give connections in a second, a minute"),
    ("rate", "rate has no value: write rate=N/s"),
    (
        "rate-per-source=20/s burst 0",
        "rate-per-source: a burst of 0 is not possible: give at least 1",
    ),
    (
        "rate-per-source=20/s burst",
        "rate-per-source: '20/s burst' is no rate: give connections in a second",
    ),
    (
        "rate-per-source=20/s 40",
        "rate-per-source: '20/s 40' is no rate: give connections in a second",
    ),
    (
        "allow=300.1.1.1",
        "allow: '300.1.1.1' is no address and no network: give an address or a network",
    ),
    (
        "allow=10.0.0.1/8",
        "allow: '10.0.0.1/8' is no network, since it has bits behind the prefix: write"
        " 10.0.0.0/8 for the network, or 10.0.0.1 for the address",
    ),
    ("allow=10.0.0.0/33", "allow: '10.0.0.0/33' is no address and no network"),
    ("allow=10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0' is no address and no network"),
    ("allow=example.com", "allow: 'example.com' is no address and no network"),
    ("deny=", "deny: it has no network: give some, such as 192.0.2.7,10.0.0.0/8"),
    ("deny=10.0.0.0/8,", "deny: '' is no address and no network"),
    ("deny=192.0.2.7,192.0.2.7/32", "deny: 192.0.2.7 is there twice: leave out one"),
    (
        "deny=2001:db8::/32",
        r"deny: '2001' is no address and no network: if it is of IPv6, write each colon"
        r" as '\:', such as 2001\:db8\:\:/32",
    ),
    (
        r"deny=fe80\:\:1%eth0",
        "deny: 'fe80::1%eth0' is no address and no network: leave out %eth0",
    ),
    (
        r"deny=\:\:ffff\:10.0.0.0/104",
        "deny: '::ffff:10.0.0.0/104' is of IPv4: write 10.0.0.0/8",
    ),
    (
        "allow=10.0.0.0/8:deny=10.0.0.0/8",
        "allow: 10.0.0.0/8 is in deny as well, so its clients do not come in: leave it"
        " out of allow or of deny",
    ),
    (
        "allow=10.1.2.3:deny=10.0.0.0/8",
        "allow: 10.1.2.3 is within 10.0.0.0/8 of deny, so its clients do not come in",
    ),
    ("max=5:beyond=drop", "beyond: 'drop' is none of reset, close, wait"),
    ("beyond=close", "beyond: there is no limit that it is for: give a limit, such as"),
    (
        "deny=10.0.0.0/8:beyond=wait",
        "beyond: wait is for max-per-source, rate-per-source, max, rate: clients that"
        " allow and deny keep out are reset, or closed with beyond=close",
    ),
    (
        "max=10:max-per-source=20",
        "max-per-source: 20 is more than max, which is 10: lower max-per-source, or"
        " raise max",
    ),
    (
        "rate=10/s:rate-per-source=20/s",
        "rate-per-source: 20/s burst 20 is more than rate, which is 10/s burst 10:"
        " lower rate-per-source, or raise rate",
    ),
    ("fair=no", "fair: without limits, sources do not take turns: leave fair=no out"),
    ("max=5:fair=maybe", "fair: 'maybe' is none of yes, no"),
    (
        "max=5:source-prefix=24",
        "source-prefix: nothing here counts sources: give max-per-source,"
        " rate-per-source or fair=yes, or leave source-prefix out",
    ),
    ("max-per-source=5:source-prefix=0", "source-prefix: 0 is not a whole number from"),
    ("max-per-source=5:source-prefix=33", "source-prefix: 33 is not a whole number"),
    (
        "max-per-source=5:source-prefix6=129",
        "source-prefix6: 129 is not a whole number from 1 to 128",
    ),
    ("source-prefix6=56", "source-prefix6: nothing here counts sources: give max-per"),
    (
        "rate=5/s:proxy-from=10.0.0.1",
        "proxy-from: nothing here goes by the source: give max-per-source,"
        " rate-per-source, allow, deny or fair=yes, or leave proxy-from out",
    ),
    ("max-per-source=5:proxy-from=", "proxy-from: it has no network: give some"),
    (
        "mptcp=yes:max=5",
        "max: the kernel does not say which connections of Multipath TCP live: leave"
        " out max or mptcp=yes",
    ),
    ("max-per-source=5:mptcp=yes", "max-per-source: the kernel does not say which"),
]


class WrongTests(SynchronousTestCase):
    """
    Limits that are refused.
    """

    def test_descriptions(self) -> None:
        """
        Each mistake is one line that has the port, the option, and what would be right.
        """
        for options, reason in WRONG:
            description = f"80:{options}"
            error = self.assertRaises(BadDescription, separate, description)
            text = str(error)
            self.assertIn(reason, text)
            self.assertTrue(text.startswith(repr(description)), text)
            self.assertNotIn("\n", text)

    def test_ports(self) -> None:
        """
        Ports that have no clients to limit, or none with addresses, cannot have limits.
        """
        for description, options in [
            (f"{option.name}=", PortOptions(**values))
            for option, values in (
                (PORT_OPTIONS["max-per-source"], {"maxPerSource": 5}),
                (PORT_OPTIONS["rate"], {"rate": Rate(1, 1)}),
                (PORT_OPTIONS["deny"], {"deny": (ip_network("10.0.0.0/8"),)}),
                (PORT_OPTIONS["fair"], {"fair": True}),
            )
        ]:
            name = description[:-1]
            for kind, fields, reason in (
                (
                    PortKind.TCP,
                    {"shared": True},
                    f"{name} is not for --share, since workers accept on this port"
                    f" themselves: use --listen, or leave {name} out",
                ),
                (
                    PortKind.INHERITED,
                    {"shared": True, "descriptor": 3},
                    f"{name} is not for --share, since workers accept on this port",
                ),
                (
                    PortKind.UDP,
                    {"shared": True},
                    f"{name} is for TCP ports only: leave it out",
                ),
                (
                    PortKind.UNIX,
                    {"path": "/run/x"},
                    f"{name} is for TCP ports only, since clients of a Unix socket have"
                    f" no address: leave {name} out",
                ),
            ):
                error = self.assertRaises(
                    ValueError, PortSettings, kind, "it", options=options, **fields
                )
                self.assertIn(f"'it': {reason}", str(error))

    def test_family(self) -> None:
        """
        If a port has one version of IP, somebody of that version must be allowed.
        """
        four, six = (ip_network("10.0.0.0/8"),), (ip_network("2001:db8::/32"),)
        for host, wrong, version in (("", six, 4), ("::", four, 6)):
            for name, options in (
                ("allow", PortOptions(allow=wrong)),
                ("proxy-from", PortOptions(fair=True, proxies=wrong)),
            ):
                error = self.assertRaises(
                    ValueError,
                    PortSettings,
                    PortKind.TCP,
                    "it",
                    host=host,
                    options=options,
                )
                self.assertEqual(
                    str(error),
                    f"'it': {name}: clients of this port are of IPv{version}, and no"
                    f" network in it is: give one of IPv{version}, or leave {name} out",
                )
        for options in (
            PortOptions(allow=four + six),
            PortOptions(deny=six),
            PortOptions(allow=six, proxies=four),
        ):
            PortSettings(PortKind.TCP, "it", options=options)
        PortSettings(PortKind.NUMBER, "it", options=PortOptions(allow=six))

    def test_wire(self) -> None:
        """
        With the wire of 2002, there are only limits that need no end of a connection,
        and no queue.
        """
        networks = (ip_network("10.0.0.0/8"),)
        rate = Rate(1, 1)
        for name, options in (
            ("max-per-source", PortOptions(maxPerSource=5)),
            ("max", PortOptions(most=5)),
            ("fair", PortOptions(fair=True)),
            ("proxy-from", PortOptions(deny=networks, proxies=networks)),
        ):
            settings = PortSettings(PortKind.TCP, "it", options=options)
            settings.checkWire("stream")
            error = self.assertRaises(ValueError, settings.checkWire, "datagram")
            self.assertEqual(
                str(error),
                f"'it': {name} goes with --wire=stream only: with the wire datagram,"
                " the listener does not know when connections end, and keeps no queue"
                f" of sources: leave {name} out, or limit by rate",
            )
        waits = PortSettings(
            PortKind.TCP, "it", options=PortOptions(rate=rate, beyond=Beyond.WAIT)
        )
        waits.checkWire("stream")
        error = self.assertRaises(ValueError, waits.checkWire, "datagram")
        self.assertIn("beyond=wait goes with --wire=stream only", str(error))
        PortSettings(
            PortKind.TCP,
            "it",
            options=PortOptions(
                ratePerSource=rate,
                rate=rate,
                allow=networks,
                beyond=Beyond.CLOSE,
                prefix=24,
            ),
        ).checkWire("datagram")


class LimitsOfTests(SynchronousTestCase):
    """
    Limits that are right.
    """

    def limits(self, text: str) -> Limits | None:
        """
        Read the limits of a description.
        """
        return separate(f"80:{text}")[1].limits

    def test_all(self) -> None:
        """
        All options of limits, as an operator writes them, among other parts.
        """
        rest, options = separate(
            r"tcp:80:max-per-source=20:rate-per-source=20/s burst 40:max=1000:backlog=5"
            r":rate=500/s:allow=10.0.0.0/8, 192.0.2.7:deny=2001\:db8\:\:/32"
            r":beyond=close:fair=no:source-prefix=24:source-prefix6=56:nodelay=yes"
            r":proxy-from=10.0.0.1,10.0.1.0/24"
        )
        self.assertEqual(rest, "tcp:80:backlog=5")
        expected = Limits(
            maxPerSource=20,
            ratePerSource=Rate(20.0, 40),
            most=1000,
            rate=Rate(500.0, 500),
            allow=(ip_network("10.0.0.0/8"), ip_network("192.0.2.7")),
            deny=(ip_network("2001:db8::/32"),),
            beyond=Beyond.CLOSE,
            fair=False,
            prefix=24,
            prefix6=56,
            proxies=(ip_network("10.0.0.1"), ip_network("10.0.1.0/24")),
        )
        self.assertEqual(options.limits, expected)
        self.assertEqual(options.limitNames, [option.name for option in LIMIT_OPTIONS])

    def test_none(self) -> None:
        """
        Without such options, there are no limits.
        """
        self.assertIsNone(self.limits("nodelay=yes"))
        self.assertIsNone(PortOptions().limits)
        self.assertIsNone(limitsOf({}))
        self.assertEqual(PortOptions().limitNames, [])

    def test_fair(self) -> None:
        """
        Sources take turns if they are limited, or if that alone is asked for.
        """
        for text, fair in (
            ("max-per-source=5", True),
            ("rate-per-source=5/s", True),
            ("max=5", False),
            ("deny=10.0.0.1", False),
            ("fair=yes", True),
            ("max-per-source=5:fair=no", False),
            ("max=5:fair=yes:source-prefix=24", True),
        ):
            limits = self.limits(text)
            assert limits is not None
            self.assertEqual(limits.fair, fair, text)

    def test_rates(self) -> None:
        """
        A rate is in a second, a minute or an hour.  Without a burst, the bucket holds
        what comes in a second, and at least one.
        """
        for text, rate in (
            ("20/s", Rate(20.0, 20)),
            ("20/s burst 1", Rate(20.0, 1)),
            ("20/s  burst  40", Rate(20.0, 40)),
            ("30/m", Rate(0.5, 1)),
            ("90/m", Rate(1.5, 1)),
            ("7200/h", Rate(2.0, 2)),
            ("1/h burst 5", Rate(1 / 3600, 5)),
        ):
            self.assertEqual(RateValue().parse(text), rate)
        self.assertEqual(RateValue().write(Rate(1.5, 1)), "90/m burst 1")
        self.assertEqual(RateValue().write(Rate(0.1234567, 1)), "444/h burst 1")

    def test_values(self) -> None:
        """
        Values are checked, wherever they come from.
        """
        for values in (
            {"rate": 5},
            {"rate": Rate(0.0, 1)},
            {"rate": Rate(1.0, 0)},
            {"allow": ()},
            {"most": 5, "beyond": "drop"},
            {"deny": (ip_network("10.0.0.1"),) * 2},
            {"maxPerSource": 5, "most": 4},
        ):
            made: dict[str, Any] = values
            self.assertRaises(ValueError, PortOptions, **made)
        many = ",".join(f"10.0.{n // 256}.{n % 256}" for n in range(1025))
        self.assertEqual(len(many.split(",")), MAXIMUM_NETWORKS + 1)
        error = self.assertRaises(ValueError, Networks().parse, many)
        self.assertIn("1025 networks are too many: give up to 1024", str(error))

    @given(OPTIONS)
    def test_roundTrip(self, values: dict[str, Any]) -> None:
        """
        Limits that are written for another process are read as they were.
        """
        try:
            limits = limitsOf(values)
        except ValueError:
            return
        text = writeLimits(limits)
        self.assertEqual(readLimits(text), limits)
        self.assertEqual(not text, limits is None)

    def test_notLimits(self) -> None:
        """
        Other options are no limits.
        """
        for text in ("nodelay=yes", "81", "max=0", "max=5:backlog=5"):
            self.assertRaises(BadDescription, readLimits, text)

    def test_fields(self) -> None:
        """
        Each field of L{Limits} has an option.
        """
        names = [option.field for option in LIMIT_OPTIONS]
        self.assertEqual(names, list(vars(NO_LIMITS)))


class DocumentedTests(SynchronousTestCase):
    """
    The limits in the guide for operators.
    """

    def test_table(self) -> None:
        """
        Its table has each option, with its values.
        """
        guide = Path(__file__).parents[3] / "docs" / "operators.md"
        _, _, section = guide.read_text().partition("## Limits per source")
        section, _, _ = section.partition("\n## ")
        rows = re.findall(r"^\| `([a-z0-9-]+=.*?)` \|", section, re.M)
        self.assertEqual(
            [each.replace("\\|", "|") for each in rows],
            [f"{option.name}={option.value.metavar}" for option in LIMIT_OPTIONS],
        )
