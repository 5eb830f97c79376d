"""
C{portlisten upgrade}: lets a supervisor replace its listener while it serves.
"""

from __future__ import annotations

import time

from portlisten._commands.asking import TargetOptions
from portlisten._commands.progress import Lines
from portlisten._commands.restart import watch
from portlisten._commands.restart_steps import isComplete
from portlisten._config.settings import UpgradeSettings
from portlisten._control.client import ControlClient
from portlisten._control.messages import ProgressAnswer, Upgrade
from portlisten._control.words import duration

#: The exit code if the new listener did not take over.
FAILED = 1


class UpgradeOptions(TargetOptions):
    """
    The options of C{portlisten upgrade}.
    """

    settingsType = UpgradeSettings
    command = "portlisten upgrade"

    longdesc = (
        "Lets a supervisor replace its listener while it serves. No client is refused"
        " or lost. If portlisten was installed anew, the new version is what starts."
        " FILE is the file of 'portlisten run'. PATH is the path of the channel."
    )

    epilogue = """
The new listener loads, gets the same ports, and takes over. What waits at the old one
goes to it, and the workers join it. The old one then ends, after its grace at the
latest. If the new one does not get ready, the old one goes on as if nothing had been.

The workers stay as they are: 'portlisten restart' replaces them. The supervisor stays,
too: it is replaced by stopping and starting it, as by 'systemctl restart'.

If the command is interrupted, the replacement goes on. Only root, and the user that
started the supervisor, may ask for it.

The exit code is 0 if the listener is replaced, 1 if the new one did not take over, and
2 if the supervisor cannot be asked.

Examples:
  pip install --upgrade portlisten && portlisten upgrade /etc/portlisten/web.toml
  portlisten upgrade --quiet /run/portlisten/web.sock
"""

    def work(self) -> int:
        """
        Ask for the replacement, and watch it to its end.
        """
        settings = UpgradeSettings(target=self["target"], **self.given())
        with self.connectOrHint(settings) as client:
            try:
                return self._carryOut(client, settings)
            except KeyboardInterrupt:
                self.complain(
                    "interrupted; the replacement goes on: 'portlisten status' shows it"
                )
                raise

    def _carryOut(self, client: ControlClient, settings: UpgradeSettings) -> int:
        began = time.monotonic()
        answer = client.askFor(Upgrade(), ProgressAnswer)
        progress = watch(client, answer.progress, settings.quiet, "replacement")
        if not isComplete(progress):
            lines = [progress.error or "the replacement ended before it was done"]
            if progress.log:
                lines += ["the end of the log of the new listener:"]
                lines += [f"  {line}" for line in progress.log]
            self.complain("\n".join(lines))
            return FAILED
        seconds = duration(time.monotonic() - began, exact=True)
        Lines(settings.quiet).say(f"the listener is replaced, in {seconds}")
        return 0
