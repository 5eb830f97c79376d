"""
C{portlisten restart}: replaces workers, one after the other, and shows how far that has
come.

The supervisor does the work.  This command asks it again and again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from twisted.python.usage import CompleteFiles, Completer, UsageError

from portlisten._commands.asking import AskingOptions
from portlisten._commands.progress import Lines
from portlisten._commands.restart_steps import Story, failure, isComplete, replaced
from portlisten._config.settings import RestartSettings
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import ProgressAnswer, Restart, Watch
from portlisten._control.status import Progress
from portlisten._control.words import duration, plural

#: The exit code if a worker could not be replaced.
FAILED = 1

#: Seconds between two requests.
INTERVAL_SECONDS = 0.1


class RestartOptions(AskingOptions):
    """
    The options of C{portlisten restart}.
    """

    settingsType = RestartSettings
    command = "portlisten restart"

    arguments = [
        CompleteFiles(descr="FILE or PATH"),
        Completer(descr="NAME", repeat=True),
    ]

    synopsis = "[options] FILE|PATH [NAME ...]"

    longdesc = (
        "Replaces the workers of a supervisor, one after the other, without losing a"
        " connection. FILE is the file of 'portlisten run'. PATH is the path of the"
        " channel. NAME is the name of a group of workers; without NAME, all groups are"
        " restarted."
    )

    epilogue = """
For each worker, the supervisor starts a new one, and waits until that is ready: it has
joined the listener, and is alive a second later. Then the old one is drained. It gets
no more connections, and finishes what it serves, for as long as its grace allows. Then
it gets SIGTERM.

If a new worker does not get ready, the restart ends. The command shows the end of that
worker's log, and the old workers serve on.

If the command is interrupted, the restart goes on. 'portlisten status' shows it.

Only root, and the user that started the supervisor, may restart workers.

Examples:
  portlisten restart /etc/portlisten/web.toml
  portlisten restart /etc/portlisten/web.toml web api
  portlisten restart --quiet /run/portlisten/web.sock && echo replaced
"""

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH, and the groups.
        """
        self.checkOrder(args)
        if not args:
            raise UsageError("expected FILE or PATH, got no arguments")
        self["target"], *self["groups"] = args
        self.checkPath(self["target"])

    def work(self) -> int:
        """
        Start the restart, and watch it to its end.
        """
        settings = RestartSettings(
            target=self["target"], groups=tuple(self["groups"]), **self.given()
        )
        with self.connect(settings) as client:
            try:
                return self._carryOut(client, settings)
            except KeyboardInterrupt:
                self.complain(
                    "interrupted; the restart goes on: 'portlisten status' shows it"
                )
                raise

    def _carryOut(self, client: ControlClient, settings: RestartSettings) -> int:
        began = time.monotonic()
        progress = _start(client, settings)
        progress = watch(client, progress, settings.quiet, "restart")
        if not isComplete(progress):
            self.complain("\n".join(failure(progress)))
            return FAILED
        Lines(settings.quiet).say(
            f"{plural(replaced(progress), 'worker')} replaced in"
            f" {duration(time.monotonic() - began, exact=True)}"
        )
        return 0


def _start(client: ControlClient, settings: RestartSettings) -> Progress:
    try:
        return client.askFor(Restart(settings.groups), ProgressAnswer).progress
    except UnknownCommand:
        raise ControlError(
            f"the listener at {client.channel} has no supervisor, and cannot restart"
            " workers: restart them by what started them, after 'portlisten drain'"
        ) from None


def watch(
    client: ControlClient, progress: Progress, quiet: bool, what: str
) -> Progress:
    """
    Show the progress of an operation until it is over.

    @param quiet: whether to show nothing.
    @param what: the operation, for errors.
    @return: the last progress.
    @raise ControlError: if the supervisor does not answer.
    """
    with _display(quiet) as show:
        show(progress)
        while not progress.done:
            time.sleep(INTERVAL_SECONDS)
            try:
                answer = client.askAgain(Watch((progress.id,)), ProgressAnswer)
            except ControlError as error:
                raise ControlError(
                    f"{error}; the {what} was not over: 'portlisten status' shows what"
                    " runs"
                ) from None
            progress = answer.progress
            show(progress)
    return progress


def _display(
    quiet: bool,
) -> AbstractContextManager[Callable[[Progress], None]]:
    """
    Choose how the progress is shown.

    @return: a context manager of the function that shows it.
    """
    terminal = None if quiet else _terminal()
    if terminal is not None:
        return _Live(terminal)
    lines, story = Lines(quiet), Story()

    def show(progress: Progress) -> None:
        for line in story.tell(progress):
            lines.say(line)

    return nullcontext(show)


def _terminal() -> Any:
    """
    Load what shows the progress on a terminal.

    @return: a module; or L{None} if standard output is no terminal, or rich is missing.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    try:
        from portlisten._commands import terminal
    except ImportError:
        return None
    return terminal


class _Live:
    """
    Shows the progress in place: a line for each worker.

    @param terminal: the module L{portlisten._commands.terminal}.
    """

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal
        self._live = terminal.liveSteps()

    def __enter__(self) -> Callable[[Progress], None]:
        try:
            self._live.start()
        except OSError:
            pass  # nobody reads it, and the restart goes on
        return self._show

    def __exit__(self, *_: object) -> None:
        try:
            self._live.stop()
        except OSError:
            pass

    def _show(self, progress: Progress) -> None:
        try:
            self._live.update(self._terminal.StepsView(progress), refresh=True)
        except OSError:
            pass
