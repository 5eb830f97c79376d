"""
C{portlisten stop}: stops a supervisor with all that it started, and waits for its end.
"""

from __future__ import annotations

import os
import select
import time
from time import sleep

from portlisten._commands.asking import TIME_OVER, TargetOptions
from portlisten._config.settings import StopSettings
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import Stop, StopAnswer
from portlisten._control.words import duration
from portlisten._process.output import show

#: Seconds between two looks at the control socket, if the kernel does not tell when
#: the process ends.
INTERVAL_SECONDS = 0.1


class StopOptions(TargetOptions):
    """
    The options of C{portlisten stop}.
    """

    settingsType = StopSettings
    command = "portlisten stop"

    longdesc = (
        "Stops a supervisor, with its listener and its workers, and waits until it has"
        " ended. FILE is the file of 'portlisten run'. PATH is the path of the channel."
    )

    epilogue = """
The listener hands off all connections that wait. Then the workers get SIGTERM, and
finish what they serve, for as long as the key stop of their group allows. The same
happens after SIGTERM. If systemd started the supervisor, use 'systemctl stop': systemd
may start it again otherwise.

If the time of --timeout is over, or the command is interrupted, the supervisor goes on
to stop.

Only root, and the user that started the supervisor, may stop it.

Examples:
  portlisten stop /etc/portlisten/web.toml
  portlisten stop --timeout 120 /run/portlisten/web.sock
"""

    def work(self) -> int:
        """
        Ask the supervisor to stop, and wait for its end.
        """
        settings = StopSettings(target=self["target"], **self.given())
        with self.connect(settings) as client:
            return self._carryOut(client, settings)

    def _carryOut(self, client: ControlClient, settings: StopSettings) -> int:
        began = time.monotonic()
        # Get it before the process can end, and its number be another one's.
        pid, pidfd = client.pid, client.process()
        try:
            stopping = _stop(client, pid)
            end = began + settings.timeout
            try:
                if pidfd is not None and pid == stopping:
                    isOver = _awaitProcess(pidfd, end)
                else:
                    isOver = _awaitRefusal(client, end)
            except KeyboardInterrupt:
                self.complain(f"interrupted; process {stopping} goes on to stop")
                raise
        finally:
            if pidfd is not None:
                os.close(pidfd)
        if not isOver:
            self.complain(
                f"process {stopping} has not ended after {settings.timeout:g} s; it"
                " goes on to stop"
            )
            return TIME_OVER
        show(f"stopped in {duration(time.monotonic() - began, exact=True)}")
        return 0


def _stop(client: ControlClient, pid: int) -> int:
    """
    Ask the supervisor to stop.

    @param pid: the number of the process that listens on the control socket, or 0.
    @return: the number of the process that stops.
    """
    try:
        return client.askFor(Stop(), StopAnswer).pid
    except UnknownCommand:
        hint = f"'kill {pid}'" if pid else "its pid file"
        raise ControlError(
            f"the listener at {client.channel} has no supervisor, and cannot be stopped"
            f" so: use 'systemctl stop', or {hint}"
        ) from None


def _awaitProcess(pidfd: int, end: float) -> bool:
    """
    Wait until a process has ended.

    @param end: when the time is over.
    @return: whether it has ended.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))


def _awaitRefusal(client: ControlClient, end: float) -> bool:
    """
    Wait until nobody listens on the control socket.

    @param end: when the time is over.
    @return: whether nobody listens.
    """
    while True:
        try:
            client.reconnect()
        except ControlError:
            return True
        if time.monotonic() >= end:
            return False
        sleep(INTERVAL_SECONDS)
