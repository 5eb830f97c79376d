"""
C{portlisten reload}: lets a supervisor read its file again, and shows how it changes
what runs.

The supervisor compares the file with what runs, and does the work.
"""

from __future__ import annotations

import time

from portlisten._commands.asking import TargetOptions, fileOf
from portlisten._commands.check import askForPlan, check
from portlisten._commands.progress import Lines
from portlisten._commands.restart import watch
from portlisten._commands.restart_steps import isComplete, reloadFailure
from portlisten._config.settings import ReloadSettings
from portlisten._config.wrong_file import WrongFile
from portlisten._control.client import ControlClient
from portlisten._control.messages import Reload
from portlisten._control.words import duration

#: The exit code if the file is wrong, or the reload failed.
FAILED = 1

#: What is said of a file that is wrong.
NOTHING = "nothing changes"


class ReloadOptions(TargetOptions):
    """
    The options of C{portlisten reload}.
    """

    settingsType = ReloadSettings
    command = "portlisten reload"

    longdesc = (
        "Lets a supervisor read its file again, and changes what runs to what the file"
        " says, without losing a connection. FILE is the file of 'portlisten run'. PATH"
        " is the path of the channel. SIGHUP to the supervisor does the same."
    )

    epilogue = """
The command first says what will change. 'portlisten check --against-running FILE' says
that too, and changes nothing. Then these steps follow:

  1. The supervisor binds new ports, also below 1024.
  2. If ports or options of the listener change, the listener is started anew. A port
     that is removed takes no new clients, and those that wait are served. Ports that
     stay are not closed: clients wait for a moment, until the new listener accepts.
  3. If metrics changes, the monitor is started, stopped, or started elsewhere.
  4. New groups of workers, and more workers, are started.
  5. If the command of a group or the like changes, its workers are replaced, one after
     the other, as by 'portlisten restart'. If only its grace, stop, ready, failures,
     max-memory or max-age changes, the workers stay.
  6. Workers that are not wanted any more are drained, and stopped.

If the file has a mistake, or a port cannot be bound, nothing changes. If the new
listener does not get ready, the old ports and options are in use again, and nothing has
changed. If a new worker, or the monitor, does not get ready, the reload ends, and what
was done stays: the next reload goes on from there.

The keys path, control, mode, group, user, wire and log-format, and the options mptcp,
reuseport, freebind and device of a port, cannot change while it runs; nor can ports
that systemd binds.

If the command is interrupted, the reload goes on. 'portlisten status' shows it. Only
root, and the user that started the supervisor, may reload.

The exit code is 0 if all is done, 1 if the file is wrong or the reload failed, and 2 if
the supervisor cannot be asked.

Examples:
  portlisten check --against-running /etc/portlisten/web.toml
  portlisten reload /etc/portlisten/web.toml
  portlisten reload --quiet /run/portlisten/web.sock && echo reloaded
"""

    def work(self) -> int:
        """
        Start the reload, and watch it to its end.
        """
        settings = ReloadSettings(target=self["target"], **self.given())
        file = fileOf(settings.target or "")
        if file:
            try:
                # The supervisor has the sockets of systemd's, and this process has not.
                check(file, hasSockets=False)
            except WrongFile as error:
                self.complain("\n".join([*error.lines, NOTHING]))
                return FAILED
        with self.connectOrHint(settings) as client:
            try:
                return self._carryOut(client, settings, file)
            except KeyboardInterrupt:
                self.complain(
                    "interrupted; the reload goes on: 'portlisten status' shows it"
                )
                raise

    def _carryOut(
        self, client: ControlClient, settings: ReloadSettings, file: str
    ) -> int:
        began = time.monotonic()
        answer = askForPlan(client, Reload((file,) if file else ()))
        if answer.problems:
            self.complain("\n".join([*answer.problems, NOTHING]))
            return FAILED
        lines = Lines(settings.quiet)
        for line in answer.lines:
            lines.say(line)
        if answer.progress is None:
            return 0
        progress = watch(client, answer.progress, settings.quiet, "reload")
        if not isComplete(progress):
            self.complain("\n".join(reloadFailure(progress)))
            return FAILED
        seconds = duration(time.monotonic() - began, exact=True)
        lines.say(f"reloaded in {seconds}")
        return 0
