"""
C{portlisten status}: shows what is going on.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.python.usage import CompleteFiles, UsageError

from portlisten._commands.asking import NOT_ASKED, AskingOptions
from portlisten._commands.progress import writable
from portlisten._config.settings import StatusSettings
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import Status, StatusAnswer, encodeAnswer
from portlisten._process.output import show
from portlisten._screen.status_screen import isWell, rates, screenOf
from portlisten._screen.tables import Mood, Screen, Text, plainLines

#: The exit code if something is wrong.
PROBLEMS = 1

#: Seconds between the two requests by which rates are measured.
SAMPLE_SECONDS = 0.5

#: Seconds between two requests of C{--watch}.
INTERVAL_SECONDS = 1.0


class StatusOptions(AskingOptions):
    """
    The options of C{portlisten status}.
    """

    settingsType = StatusSettings
    command = "portlisten status"

    arguments = [CompleteFiles(descr="FILE or PATH")]

    synopsis = "[options] [FILE|PATH]"

    longdesc = (
        "Shows what is going on: what is wrong, the supervisor, the listener, its"
        " ports, the connections that wait, the workers, and what became of all"
        " connections. FILE is the file of 'portlisten run'. PATH is the path of a"
        " listener's channel, also of a listener that 'twistd portlisten' started."
        " Without FILE and PATH, the command looks for the only listener in"
        " /run/portlisten."
    )

    epilogue = """
The first lines are the most important ones: they say what is wrong, or that all is
well. The columns of the table of workers:
  up        how long the process has run
  joined    how long ago it joined the listener
  serves    the names of the ports that it serves
  offered   connections that were offered to it, and that it has not claimed yet
  serving   connections that it serves
  limit     the most connections that it may have
  memory    the memory of the process and its children
  failures  how often in a row it has failed

If the terminal is narrow, the less important columns are left out. A label, and what a
worker serves, is what the worker says of itself. The pid and the user of a worker are
from the kernel.

To measure how many connections come in a second, the command asks twice, half a second
apart. With --json, it asks once. With --watch, it asks every second, until you press
Ctrl-C; with --watch and --json, each answer is a line. The exit code is then that of
the last answer. The extra portlisten[terminal] installs rich, for colours.

For a check that starts the listener again if it hangs, such as the health check of a
container, use --alive. The exit code without it is 1 also if no worker runs, and then
another listener would not help.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten status
  portlisten status /etc/portlisten/web.toml
  portlisten status --watch /run/portlisten/web.sock
  portlisten status --json | jq -r '.problems[]'
  portlisten status --alive /run/portlisten/web.sock
"""

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH.
        """
        self.checkOrder(args)
        if len(args) > 1:
            raise UsageError(f"expected FILE or PATH, got {len(args)} arguments")
        self["target"] = args[0] if args else None
        if args:
            self.checkPath(args[0])

    def work(self) -> int:
        """
        Ask, and show the answer.
        """
        settings = StatusSettings(target=self["target"], **self.given())
        if settings.alive and (settings.json or settings.watch):
            self.refuse("--alive shows nothing: leave out --json and --watch")
        with self.connect(settings) as client:
            if settings.alive:
                return _life(client)
            if settings.watch:
                return _watch(client, settings, self.complain)
            answer = _ask(client)
            if settings.json:
                show(_json(answer))
            else:
                answer, speed = _sample(client, answer)
                _show(screenOf(answer, speed))
            return _code(answer)


def _ask(client: ControlClient) -> StatusAnswer:
    try:
        return client.askAgain(Status(), StatusAnswer)
    except UnknownCommand:
        raise ControlError(
            f"the listener at {client.channel} is older, and cannot describe itself:"
            " restart it; 'portlisten drain PATH' lists its workers"
        ) from None


def _life(client: ControlClient) -> int:
    """
    Find out whether the listener answers.

    @return: the exit code.
    @raise ControlError: if it does not, or its supervisor has none just then.
    """
    if _ask(client).listener is None:
        raise ControlError(
            f"no listener runs at {client.channel} just now: its supervisor starts it"
        )
    return 0


def _sample(
    client: ControlClient, before: StatusAnswer
) -> tuple[StatusAnswer, dict[str, float]]:
    """
    Ask once more, to measure rates.

    @return: the last answer, and the rates.
    """
    if before.listener is None:
        return before, {}
    began = time.monotonic()
    time.sleep(SAMPLE_SECONDS)
    now = _ask(client)
    return now, rates(before, now, time.monotonic() - began)


def _code(answer: StatusAnswer) -> int:
    return 0 if isWell(answer) else PROBLEMS


def _json(answer: StatusAnswer) -> str:
    return encodeAnswer(answer).decode().rstrip("\n")


def _terminal() -> Any:
    """
    Load what shows a screen on a terminal.

    @return: a module; or L{None} if standard output is no terminal, or rich is missing.
    """
    if not _isTerminal():
        return None
    try:
        from portlisten._commands import terminal
    except ImportError:
        return None
    return terminal


def _isTerminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _text(screen: Screen) -> str:
    width = shutil.get_terminal_size().columns if _isTerminal() else None
    return writable("\n".join(plainLines(screen, width)))


def _show(screen: Screen) -> None:
    terminal = _terminal()
    if terminal is None:
        show(_text(screen))
        return
    console = terminal.Console(highlight=False)
    with console.capture() as captured:
        console.print(terminal.ScreenView(screen))
    show(captured.get().rstrip("\n"))


def _watch(
    client: ControlClient, settings: StatusSettings, complain: Callable[[str], None]
) -> int:
    """
    Show the status again and again.

    @return: the exit code.
    """
    answer = _ask(client)
    if settings.json:
        return _repeat(client, answer, lambda answer, _: show(_json(answer)))
    terminal = _terminal()
    if terminal is not None:
        return _live(terminal, client, answer)
    if _isTerminal():
        complain("for a screen that stays in place, install portlisten[terminal]")
    return _repeat(client, answer, _block)


def _block(answer: StatusAnswer, speed: dict[str, float]) -> None:
    show(
        f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n{_text(screenOf(answer, speed))}\n"
    )


def _repeat(
    client: ControlClient,
    answer: StatusAnswer,
    write: Callable[[StatusAnswer, dict[str, float]], None],
) -> int:
    """
    Write answers until Ctrl-C.

    @param answer: the first answer.
    @return: the exit code.
    """
    speed: dict[str, float] = {}
    try:
        while True:
            began = time.monotonic()
            write(answer, speed)
            time.sleep(INTERVAL_SECONDS)
            before, answer = answer, _ask(client)
            speed = rates(before, answer, time.monotonic() - began)
    except KeyboardInterrupt:
        return _code(answer)


def _live(terminal: Any, client: ControlClient, answer: StatusAnswer) -> int:
    """
    Show answers in place until Ctrl-C.  If the listener cannot be asked for a while,
    as when it is restarted, say so and go on.

    @param answer: the first answer.
    @return: the exit code.
    """
    view = screenOf(answer, {})
    code = _code(answer)
    last: StatusAnswer | None = answer
    console = terminal.Console(highlight=False)
    try:
        with terminal.live(console) as live:
            while True:
                began = time.monotonic()
                live.update(terminal.ScreenView(view), refresh=True)
                time.sleep(INTERVAL_SECONDS)
                try:
                    before, last = last, _ask(client)
                except ControlError as error:
                    last, code = None, NOT_ASKED
                    view = Screen((Text(str(error), Mood.BAD),), view.facts)
                else:
                    speed = rates(before, last, time.monotonic() - began)
                    view, code = screenOf(last, speed), _code(last)
    except KeyboardInterrupt:
        _show(view)
        return code
    except OSError:
        return code  # the terminal is gone
