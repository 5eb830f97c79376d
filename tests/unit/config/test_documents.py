"""
Tests for what the documents say of options: L{docs.options} and L{docs.manual}.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from docs import manual, options
from portlisten._commands import hellofdpass
from portlisten._config.caller import Caller
from portlisten._config.options import DATAGRAM, option
from portlisten._config.settings import WorkerSettings
from portlisten._config.toml import parse
from portlisten._config.values import count


@dataclass(frozen=True, kw_only=True)
class MoreSettings(WorkerSettings):
    """
    Settings with one option more.
    """

    bigFish: tuple[int, ...] = option(
        (),
        count(1, 9),
        "Catch fish of this size.",
        more="See `--name` as well.",
        shown="all that swim",
        several=True,
        wires=DATAGRAM,
        inDescription=True,
    )


class MoreOptions(hellofdpass.Options):
    """
    Options of these settings.
    """

    settingsType = MoreSettings


class InventedTests(SynchronousTestCase):
    """
    An option exists everywhere if the settings have it.
    """

    def refusal(self, *arguments: str) -> str:
        """
        Say why a command line is refused.
        """
        exit = self.assertRaises(
            SystemExit, MoreOptions().parseOptions, [*arguments, "path", "hello"]
        )
        return str(exit.code)

    def test_help(self) -> None:
        """
        The help has it.
        """
        self.assertIn(
            "--big-fish= With --wire=datagram, catch fish of this size; may be given"
            " several times. [default: all that swim]",
            " ".join(str(MoreOptions()).split()),
        )

    def test_parsed(self) -> None:
        """
        The command line takes it, and it becomes a setting.
        """
        made = MoreOptions()
        made.parseOptions(
            ["--wire=datagram", "--big-fish=3", "--big-fish", "4", "path", "hello"]
        )
        settings = MoreSettings(path=made["path"], **made.given())
        self.assertEqual(settings.bigFish, (3, 4))

    def test_checked(self) -> None:
        """
        Its values and its wires are checked.
        """
        self.assertIn(
            "--big-fish: '10' is not a whole number from 1 to 9",
            self.refusal("--wire=datagram", "--big-fish=10"),
        )
        self.assertIn(
            "--big-fish means nothing with --wire=stream", self.refusal("--big-fish=3")
        )
        error = self.assertRaises(
            ValueError, MoreSettings, path="path", wire="datagram", bigFish=(10,)
        )
        self.assertEqual(str(error), "big-fish: 10 is not a whole number from 1 to 9")

    def test_tables(self) -> None:
        """
        The tables have it.
        """
        self.assertIn(
            "\n| `--big-fish=N` | all that swim | With `--wire=datagram`, catch fish of"
            " this size; may be given several times. See `--name` as well. |\n",
            options.commandTable(MoreSettings),
        )
        self.assertIn(
            "\n| `bigFish=N,…` | all that swim | With `wire=datagram`, catch fish of"
            " this size. |\n",
            options.endpointTable(MoreSettings),
        )

    def test_meaningless(self) -> None:
        """
        The option of the wire names all options that mean nothing with the other wire.
        """
        for text, names in [
            (
                options.commandTable(MoreSettings),
                "`--name`, `--listener-user`, `--limit`, `--first`, `--label` and"
                " `--proxy-from`",
            ),
            (
                options.endpointTable(MoreSettings),
                "`name`, `listenerUser`, `limit`, `first`, `label` and `proxyFrom`",
            ),
        ]:
            self.assertIn(f" With `datagram`, {names} mean nothing. |\n", text)
        self.assertIn(
            " \\fB\\-\\-label\\fR and \\fB\\-\\-proxy\\-from\\fR mean nothing.\n",
            manual.write(manual.PAGES[1]),
        )

    def test_manual(self) -> None:
        """
        The manual page has it, for the command and for the endpoint.
        """
        _, page, *_ = manual.PAGES
        text = manual.write(replace(page, options=MoreOptions))
        self.assertIn(
            ".TP\n\\fB\\-\\-big\\-fish\\fR=\\fIN\\fR\nWith"
            " \\-\\-wire=datagram, catch fish of this size; may be given several"
            " times. See \\fB\\-\\-name\\fR as well.\n[default: all that swim]\n",
            text,
        )
        self.assertIn(".TP\n\\fBbigFish=\\fR\\fIN\\fR,...\nWith wire=", text)


class DocumentTests(SynchronousTestCase):
    """
    Tests for the documents as they are.
    """

    def test_upToDate(self) -> None:
        """
        They say what the settings say; if not, C{python -m docs.options} writes them.
        """
        self.assertEqual(list(options.stale()), [])

    def test_tables(self) -> None:
        """
        Every table is in a guide, and only its place is replaced.
        """
        texts = [guide.read_text("utf-8") for guide in options.GUIDES]
        for name in options.TABLES:
            mark = f"<!-- options: {name} -->\n\n"
            (text, *_) = [each for each in texts if mark in each]
            before, _, after = text.partition(mark)
            table, _, rest = after.partition("\n<!-- end of options -->")
            broken = f"{before}{mark}| --{name} |\n\n<!-- end of options -->{rest}"
            heads = ("| option | default |", "| key |", "| metric |", "| event |")
            self.assertTrue(table.startswith(heads))
            self.assertEqual(options.fill(broken), text)

    def test_pages(self) -> None:
        """
        Every manual page has its parts, in the usual order.
        """
        for page in manual.PAGES:
            text = manual.write(page)
            parts = [line[4:] for line in text.splitlines() if line.startswith(".SH ")]
            self.assertEqual(
                [each for each in parts if not each.startswith(("END", "SIG"))],
                [
                    *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"),
                    *("EXAMPLES", "SEE ALSO"),
                ],
            )
            self.assertEqual(text.count(".EX\n"), text.count(".EE\n"))
            self.assertNotIn("\n\n", text)

    def test_groff(self) -> None:
        """
        groff accepts each page without a warning, and shows every option.
        """
        if shutil.which("groff") is None:
            raise SkipTest("groff is not installed")
        for page in manual.PAGES:
            shown = subprocess.run(
                ["groff", "-man", "-Tutf8", "-ww", "-P-c", "-P-bou"],
                input=manual.write(page),
                capture_output=True,
                text=True,
                check=True,
            )
            self.assertEqual(shown.stderr, "")
            for name in page.options().synonyms:
                self.assertIn(f"--{name}", shown.stdout)

    def test_packaged(self) -> None:
        """
        Every page is named among the files of the package.
        """
        root = Path(options.ROOT)
        for page in manual.PAGES:
            name = f"docs/man/{page.name}.{page.section}"
            self.assertIn(f'"{name}"', (root / "setup.py").read_text("utf-8"))


class ExampleTests(SynchronousTestCase):
    """
    Tests for the files in C{contrib}.
    """

    def test_file(self) -> None:
        """
        The file of systemd's units is right, without and with the monitor that it
        mentions.
        """
        text = Path(options.ROOT, "contrib/systemd/web.toml").read_text("utf-8")
        # This machine has other users.
        text = text.replace('"portlisten"', '"nobody"').replace('"web"\n', '"daemon"\n')
        switchedOn = text.replace("# metrics = ", "metrics = ")
        for each, metrics in ((text, None), (switchedOn, "9100")):
            settings = parse(each, Caller(0, 0))
            self.assertEqual(settings.listener.metrics, metrics)
            self.assertEqual([group.name for group in settings.workers], ["web"])

    def test_severalMachines(self) -> None:
        """
        The files of machines behind balancers are right.
        """
        for name in ("haproxy", "keepalived/without-haproxy"):
            text = Path(options.ROOT, "contrib", name, "web.toml").read_text("utf-8")
            text = text.replace('"portlisten"', '"nobody"')
            settings = parse(text.replace('"web"\n', '"daemon"\n'), Caller(0, 0))
            self.assertEqual([group.name for group in settings.workers], ["web"])
