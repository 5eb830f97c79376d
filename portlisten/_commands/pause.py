"""
C{portlisten pause} and C{portlisten resume}: let load balancers send clients elsewhere,
and take that back.
"""

from __future__ import annotations

from twisted.python.usage import CompleteFiles, UsageError

from portlisten._commands.asking import AskingOptions
from portlisten._config.settings import PauseSettings
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import Pause, PauseAnswer, Request, Resume
from portlisten._process.output import show


class _PauseOptions(AskingOptions):
    """
    The options of a command that asks for one of the two.
    """

    settingsType = PauseSettings

    arguments = [CompleteFiles(descr="FILE or PATH")]

    synopsis = "[options] FILE|PATH"

    request: Request

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH.
        """
        self.checkOrder(args)
        if len(args) != 1:
            raise UsageError(f"expected FILE or PATH, got {len(args)} arguments")
        (self["target"],) = args
        self.checkPath(self["target"])

    def work(self) -> int:
        """
        Ask, and say what is so now.
        """
        settings = PauseSettings(target=self["target"], **self.given())
        with self.connect(settings) as client:
            answer = self._ask(client)
        if answer.paused and not answer.metrics:
            self.complain(
                "warning: no load balancer can see that: this listener serves no"
                " health, see --metrics"
            )
        if not settings.quiet:
            show(self._describe(answer))
        return 0

    def _ask(self, client: ControlClient) -> PauseAnswer:
        try:
            return client.askFor(self.request, PauseAnswer)
        except UnknownCommand:
            raise ControlError(
                f"the listener at {client.channel} is older, and cannot be paused:"
                " restart it"
            ) from None

    def _describe(self, answer: PauseAnswer) -> str:
        health = f"/healthz at {answer.metrics}" if answer.metrics else "/healthz"
        if answer.paused:
            return f"paused: {health} says 503, and accepting goes on"
        return f"not paused: {health} says 200 while workers serve"


class PauseOptions(_PauseOptions):
    """
    The options of C{portlisten pause}.
    """

    command = "portlisten pause"

    request = Pause()

    longdesc = (
        "Lets load balancers send new clients elsewhere: /healthz, which --metrics"
        " serves, says 503. Nothing else changes: the listener at PATH, or of"
        " 'portlisten run FILE', goes on to accept and to hand off. 'portlisten"
        " resume' undoes it."
    )

    epilogue = """
To take a machine out of service so that no client notices:
  1. portlisten pause FILE       the load balancer sees 503
  2. wait for the balancer: its check interval, times the checks that must fail
  3. portlisten drain or stop    the clients that are left are served to their end
  4. portlisten resume FILE      if the same listener is to serve again

The supervisor of 'portlisten run' remembers the pause if the listener is started again.
A new supervisor, and a new listener alone, begin without it.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten pause /etc/portlisten/web.toml && sleep 10 &&
      portlisten stop /etc/portlisten/web.toml
"""


class ResumeOptions(_PauseOptions):
    """
    The options of C{portlisten resume}.
    """

    command = "portlisten resume"

    request = Resume()

    longdesc = (
        "Undoes 'portlisten pause': /healthz of the listener at PATH, or of 'portlisten"
        " run FILE', says 200 again while workers serve."
    )

    epilogue = """
Drained workers stay drained: 'portlisten undrain' lets them serve again. Do that first.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten resume /etc/portlisten/web.toml
"""
