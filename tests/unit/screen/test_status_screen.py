"""
Tests for L{portlisten._screen.status_screen}, and for how its screens are shown:
L{portlisten._screen.tables} and L{portlisten._commands.terminal}.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands.terminal import ScreenView
from portlisten._control.convert import ControlError
from portlisten._control.messages import StatusAnswer, encodeAnswer
from portlisten._control.status import (
    DenialStatus,
    DeniedStatus,
    PortStatus,
    ProcessState,
    QueueStatus,
    SourceStatus,
    State,
)
from portlisten._screen.status_screen import isWell, rates, screenOf
from portlisten._screen.tables import Column, Mood, Screen, Table, Text, plainLines
from tests.support.settings import SETTINGS
from tests.support.statuses import (
    ALONE,
    BAD,
    LISTENER,
    SUPERVISOR,
    WELL,
    process,
    worker,
)


def plain(answer: StatusAnswer, width: int | None = None) -> str:
    """
    Show an answer as plain text.
    """
    return "\n".join(plainLines(screenOf(answer, {}), width))


def rich(screen: Screen, width: int, encoding: str = "utf-8") -> str:
    """
    Show a screen with rich, without colours.
    """
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    console.print(ScreenView(screen))
    file.seek(0)
    return file.read()


class PlainTests(SynchronousTestCase):
    """
    Tests for plain text.
    """

    def test_bad(self) -> None:
        """
        All of it, when much is wrong.
        """
        self.assertEqual(
            plain(BAD),
            """\
! nobody serves https: 12 wait, the oldest for 8 s
! api-1 has failed 8 times in a row, and is given up

supervisor  /etc/portlisten/web.toml, pid 4000, up 3 h 12 min, restart of web
listener    /run/portlisten/web.sock, pid 4001, user 987654, up 3 h 12 min, version 26.11.0, 45.0 MiB

4 ports
port   address                      accepted by  waiting  silent  oldest  limit  workers
http   tcp:80                       listener           0       -       -   1024        2
http   tcp6:80                      listener
https  tcp:443:interface=192.0.2.1  listener          12       3     8 s   1024        0
dns    udp:53                       workers

workers: web 2 of 4 ready, api 0 of 1 ready, 1 other
label        pid  user    state                             up      joined  serves       offered  serving  limit    memory  failures
web-1       5001  987654  ready                     3 h 12 min  3 h 12 min  http, https        1       12         45.0 MiB
web-2       5002  987654  ready                     3 h 12 min  3 h 12 min  http, https        1       15    100  45.0 MiB
web-3       5003  987654  draining for 3 s, 7 left  3 h 12 min  3 h 12 min  http, https        1        7         45.0 MiB
web-4          -  987654  restarts in 4 s                                                      -        -                   3, last: exit status 1
web-5       5005  987654  starting for 3 s          3 h 12 min                                 -        -         45.0 MiB
api-1          -  987654  given up                                                             -        -                   8, last: signal 11
(no label)  5009  987654  serving                               3 h 12 min  (no name)          0        0

connections  since the start
accepted           1,204,345
offered                    4
claimed                    0
timed out                  3""",  # noqa: E501
        )

    def test_limits(self) -> None:
        """
        What the limits keep out, and the sources with the most connections, are shown
        if there are any.
        """
        self.assertNotIn("kept out", plain(BAD))
        self.assertNotIn("denied", plain(BAD))
        queue = QueueStatus("http", 0, 0, 0.0, 1024, 4)
        limited = {"max-per-source": 12_345, "rate": 0, "denied": 2}
        listener = replace(
            LISTENER,
            queues=(replace(queue, limited=limited),),
            sources=(
                SourceStatus("192.0.2.7", 1_020, 1_000, 12_345),
                SourceStatus("2001:db8:1:2::/64", 3, 0, 0),
            ),
            denied=DeniedStatus(1, (DenialStatus("192.0.2.9"),)),
        )
        shown = plain(StatusAnswer(listener))
        self.assertIn(", 1 network denied\n", shown)
        self.assertTrue(
            shown.endswith(
                """
port  reason          kept out since the start
http  max-per-source                    12,345
http  denied                                 2

the busiest sources
source             connections  waiting  kept out
192.0.2.7                1,020    1,000    12,345
2001:db8:1:2::/64            3        -         -"""
            ),
            shown,
        )

    def test_alone(self) -> None:
        """
        A listener without a supervisor has no columns that only a supervisor fills.
        """
        shown = plain(ALONE)
        self.assertTrue(shown.startswith("all is well\n\nlistener  /run/portlisten/"))
        self.assertIn("\n4 workers\n", shown)
        self.assertIn(
            "\nlabel   pid  user    state        joined  serves       offered  serving",
            shown,
        )

    def test_narrow(self) -> None:
        """
        Where the lines are short, the less important columns are left out.
        """
        for width in (40, 50, 60, 80, 100, 132):
            for answer in (WELL, BAD, ALONE, StatusAnswer(None, SUPERVISOR)):
                lines = plain(answer, width).splitlines()
                self.assertLessEqual(max(map(len, lines)), width, lines)
        self.assertIn(
            "\nlabel       state                   \n".rstrip(), plain(BAD, 40)
        )

    def test_longWords(self) -> None:
        """
        What a worker says of itself does not push the rest away.
        """
        long = worker(1, "x" * 63, ports=tuple("y" * 32 for _ in range(30)))
        listener = replace(LISTENER, workers=(long,), version="9" * 500)
        lines = plain(StatusAnswer(listener)).splitlines()
        self.assertLess(max(map(len, lines)), 170)


class AnyTests(SynchronousTestCase):
    """
    Tests for any answer that can come: what a listener says may be hostile.
    """

    @SETTINGS
    @given(st.from_type(StatusAnswer), st.integers(1, 200))
    def test_shown(self, given: StatusAnswer, width: int) -> None:
        """
        It can be shown in any width, without what a terminal could take for a command.
        """
        # Only finite numbers can come.
        message = json.loads(encodeAnswer(given), parse_constant=lambda _: 1e300)
        try:
            answer = StatusAnswer.fromJSON(message)
        except ControlError:
            return
        assert isinstance(answer, StatusAnswer)
        screen = screenOf(answer, rates(answer, answer, 0.5))
        for shown in (
            "".join(plainLines(screen)),
            "".join(plainLines(screen, width)),
            rich(screen, width).replace("\n", ""),
        ):
            self.assertTrue(shown.isprintable(), shown)


class WorkersTests(SynchronousTestCase):
    """
    Tests for the rows of workers.
    """

    def rows(self, answer: StatusAnswer) -> list[dict[str, str]]:
        """
        The cells of each worker, by the names of their columns.
        """
        (table,) = [
            each
            for each in screenOf(answer, {}).tables
            if each.columns[0].name == "label"
        ]
        return [
            {
                column.name: cell.text
                for column, cell in zip(table.columns, row, strict=True)
            }
            for row in table.rows
        ]

    def states(self, *answers: StatusAnswer) -> list[str]:
        """
        The states of the first workers.
        """
        return [self.rows(each)[0]["state"] for each in answers]

    def test_workerStates(self) -> None:
        """
        A worker without a supervisor has the state that the listener knows.
        """
        self.assertEqual(
            self.states(
                *(
                    StatusAnswer(replace(LISTENER, workers=(made,)))
                    for made in (
                        worker(1),
                        worker(1, state=State.DRAINING, connections=2, serving=3),
                        worker(1, state=State.DRAINED),
                        worker(1, state=State.UNKNOWN),
                    )
                )
            ),
            ["serving", "draining, 5 left", "drained", "draining, left unknown"],
        )

    def test_processStates(self) -> None:
        """
        A supervised worker has the state that the supervisor knows, unless it is ready.
        """
        (group,) = SUPERVISOR.groups

        def answer(state: ProcessState, joined: bool = True) -> StatusAnswer:
            made = process("web-1", 1, state=state, restartsIn=4.0)
            supervisor = replace(
                SUPERVISOR, groups=(replace(group, processes=(made,)),)
            )
            workers = (worker(1, "web-1", connections=7),) if joined else ()
            return StatusAnswer(replace(LISTENER, workers=workers), supervisor)

        self.assertEqual(
            self.states(*map(answer, ProcessState)),
            [
                "starting for 3 s",
                "ready",
                "draining for 3 s, 7 left",
                "stopping for 3 s",
                "restarts in 4 s",
                "given up",
            ],
        )
        self.assertEqual(
            self.states(answer(ProcessState.READY, joined=False)), ["ready, not joined"]
        )

    def test_drainedByHand(self) -> None:
        """
        An operator may drain a worker that is ready for the supervisor.
        """
        workers = (worker(1, "web-1", state=State.DRAINED), *LISTENER.workers[1:])
        answer = replace(WELL, listener=replace(LISTENER, workers=workers))
        self.assertEqual(self.states(answer), ["drained"])

    def test_twoEndpoints(self) -> None:
        """
        A process with two endpoints is two workers, and its memory is shown once.
        """
        workers = (*LISTENER.workers, worker(7, "web-1", pid=5001))
        rows = self.rows(replace(WELL, listener=replace(LISTENER, workers=workers)))
        self.assertEqual(
            [(row["label"], row["memory"], row["up"]) for row in rows[:3]],
            [
                ("web-1", "45.0 MiB", "3 h 12 min"),
                ("web-1", "", ""),
                ("web-2", "45.0 MiB", "3 h 12 min"),
            ],
        )
        self.assertEqual(len(rows), 5)

    def test_lastEnd(self) -> None:
        """
        How the process before ended is shown while that was a failure.
        """
        (group,) = SUPERVISOR.groups
        made = (
            process("web-1", 1, lastEnd="exit status 0"),
            process("web-2", 2, lastEnd="signal 9", failures=1),
            process("web-3", 0, lastEnd="signal 9", state=ProcessState.WAITING),
        )
        supervisor = replace(SUPERVISOR, groups=(replace(group, processes=made),))
        self.assertEqual(
            [row["failures"] for row in self.rows(StatusAnswer(None, supervisor))],
            ["", "1, last: signal 9", "last: signal 9"],
        )


class PartsTests(SynchronousTestCase):
    """
    Tests for the other parts.
    """

    def test_ports(self) -> None:
        """
        The ports of one name have one queue, and a shared port has none.  What waits
        for a port that is gone is shown too.
        """
        listener = replace(
            LISTENER,
            ports=(PortStatus("", "tcp:80", False), PortStatus("", "tcp:81", True)),
            queues=(
                QueueStatus("", 5, 0, 100.0, 9, 1),
                QueueStatus("old", 1, 0, 2.0, 9, 0),
                QueueStatus("older", 0, 0, 0.0, 9, 0),
            ),
        )
        ports, *_ = screenOf(StatusAnswer(listener), {}).tables
        self.assertEqual(
            [" ".join(cell.text or "." for cell in row) for row in ports.rows],
            [
                "(no name) tcp:80 listener 5 - 1 min 40 s 9 1",
                "(no name) tcp:81 workers . . . . .",
                "old . . 1 - 2 s 9 0",
            ],
        )

    def test_listenerDown(self) -> None:
        """
        If the listener does not run, the supervisor says how far it is.
        """
        waiting = process(
            "listener",
            0,
            state=ProcessState.WAITING,
            restartsIn=2.0,
            failures=2,
            lastEnd="signal 9",
        )
        shown = plain(StatusAnswer(None, replace(SUPERVISOR, listener=waiting)))
        self.assertIn(
            "\nlistener    restarts in 2 s, 2 failures in a row (last: signal 9)\n",
            shown,
        )

    def test_stopping(self) -> None:
        """
        A listener that stops says so.
        """
        shown = plain(StatusAnswer(replace(LISTENER, stopping=True)))
        self.assertIn("version 26.11.0, stopping\n", shown)

    def test_well(self) -> None:
        """
        All is well if no problem is known, and the listener answers.
        """
        self.assertEqual(
            [isWell(each) for each in (WELL, ALONE, BAD, StatusAnswer(None))],
            [True, True, False, False],
        )

    def test_rates(self) -> None:
        """
        Rates are differences by the time between two answers of one listener.
        """

        def answer(pid: int = 1, uptime: float = 9.0, **counters: int) -> StatusAnswer:
            listener = replace(LISTENER, pid=pid, uptime=uptime, counters=counters)
            return StatusAnswer(listener)

        before = answer(accepted=100, claimed=50)
        now = answer(uptime=11.0, accepted=300, claimed=40, refused=7)
        self.assertEqual(
            rates(before, now, 2.0), {"accepted": 100.0, "claimed": 0.0, "refused": 0.0}
        )
        for old, new, seconds in [
            (before, answer(pid=2, uptime=11.0, accepted=300), 2.0),
            (before, answer(uptime=1.0, accepted=300), 2.0),
            (before, now, 0.0),
            (None, now, 2.0),
            (before, StatusAnswer(None), 2.0),
            (StatusAnswer(None), now, 2.0),
        ]:
            self.assertEqual(rates(old, new, seconds), {})

    def test_counters(self) -> None:
        """
        Counters that are 0 are left out, unless they matter always.
        """
        speed = {"accepted": 1234.4, "timedOut": 0.25}
        table = screenOf(ALONE, speed).tables[-1]
        self.assertEqual(
            [[cell.text for cell in row] for row in table.rows],
            [
                ["accepted", "1,204,345", "1,234"],
                ["offered", "4", ""],
                ["claimed", "0", ""],
                ["timed out", "3", "0.2"],
            ],
        )


class TerminalTests(SynchronousTestCase):
    """
    Tests for what rich shows.
    """

    def test_fits(self) -> None:
        """
        No line is longer than the terminal, and no cell is cut where it can be helped.
        """
        for width in (50, 60, 80, 100, 132, 200):
            for answer in (WELL, BAD, ALONE, StatusAnswer(None, SUPERVISOR)):
                shown = rich(screenOf(answer, {}), width)
                self.assertLessEqual(max(map(len, shown.splitlines())), width)
                self.assertNotIn("…", shown)

    def test_tiny(self) -> None:
        """
        A terminal may be tiny.
        """
        for width in (1, 5, 20):
            shown = rich(screenOf(WELL, {}), width)
            self.assertLessEqual(max(map(len, shown.splitlines())), width)

    def test_table(self) -> None:
        """
        A table has a title, a line below its heading, and columns two characters apart.
        """
        table = Table(
            "2 things",
            (Column("name"), Column("size", right=True), Column("empty", 1)),
            (
                (Text("one"), Text("1"), Text("")),
                (Text("fourteen"), Text("14", Mood.BAD), Text("")),
            ),
        )
        screen = Screen((Text("all is well", Mood.GOOD),), (), (table,))
        lines = [line.rstrip() for line in rich(screen, 40).splitlines()]
        self.assertEqual(
            lines,
            [
                " ✓ all is well",
                "",
                " 2 things",
                " name      size",
                " ──────────────",
                " one          1",
                " fourteen    14",
            ],
        )

    def test_plainCharacters(self) -> None:
        """
        A terminal may only have plain characters.
        """
        shown = rich(screenOf(BAD, {}), 100, "ascii")
        self.assertTrue(shown.startswith(" ! nobody serves https"))
        self.assertNotIn("?", shown)

    def test_markup(self) -> None:
        """
        What looks like rich's own markup is shown as it is.
        """
        listener = replace(LISTENER, path="/run/[red]x[/red]")
        answer = StatusAnswer(listener, None, ("[bold]bad[/bold] :smile:",))
        shown = rich(screenOf(answer, {}), 100)
        self.assertIn("/run/[red]x[/red]", shown)
        self.assertIn("[bold]bad[/bold] :smile:", shown)
