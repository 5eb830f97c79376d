"""
Report the state of the process to the service manager: sd_notify(3).

A process may have several parts, such as endpoints.  Each part becomes ready in its own
time, and the process is ready when all parts are ready.  A part may end while the
process goes on.  If C{NOTIFY_SOCKET} is not set, nothing is sent.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


class Manager:
    """
    The service manager, and the states of the parts of this process.

    @param send: sends a message to the service manager.  L{None} if the process has no
        service manager.
    @param watchdogSeconds: how long the process may be silent; L{None} if no watchdog
        waits.
    """

    def __init__(
        self,
        send: Callable[[str], None] | None,
        watchdogSeconds: float | None = None,
    ) -> None:
        self._watchdogSeconds = watchdogSeconds
        self._send = send or (lambda message: None)
        self._watching = send is None
        self._parts: dict[Part, str] = {}
        self._waiting: set[Part] = set()
        self._lastStatus = ""
        self._ready = False
        self._stopping = False

    def begin(self) -> Part:
        """
        Begin a part.  The process is not ready until the part is.

        @return: the part.
        """
        part = Part(self)
        self._parts[part] = ""
        self._waiting.add(part)
        return part

    def status(self, part: Part, text: str) -> None:
        """
        Send the state of a part, in one line with the states of the other parts, if it
        has changed.
        """
        if part in self._parts and not self._stopping:
            self._parts[part] = text
            line = "; ".join(filter(None, self._parts.values()))
            # The library can encode Latin-1 only.
            message = "STATUS=" + line.encode("ascii", "replace").decode()
            if message != self._lastStatus:
                self._lastStatus = message
                self._send(message)

    def ready(self, part: Part) -> None:
        """
        Note that a part is ready.
        """
        self._waiting.discard(part)
        self._sendReady()

    def _sendReady(self) -> None:
        if self._parts and not (self._waiting or self._ready or self._stopping):
            self._ready = True
            self._send("READY=1")

    def ended(self, part: Part) -> None:
        """
        Note that a part has ended.
        """
        self._waiting.discard(part)
        self._parts.pop(part, None)
        self._sendReady()

    def keepAlive(self) -> float | None:
        """
        Tell the watchdog that this process is alive: C{WatchdogSec=} in
        systemd.service(5).

        @return: in how many seconds to say so again; L{None} if no watchdog waits.
        """
        if self._watchdogSeconds is None:
            return None
        self._send("WATCHDOG=1")
        # sd_watchdog_enabled(3) recommends half of the time.
        return self._watchdogSeconds / 2

    def reloading(self) -> None:
        """
        Note that the process reads its configuration anew.  With C{Type=notify-reload},
        the manager waits for L{reloaded}: systemd.service(5).
        """
        if self._ready and not self._stopping:
            now = time.monotonic_ns() // 1000
            self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def reloaded(self) -> None:
        """
        Note that L{reloading} is over.
        """
        if self._ready and not self._stopping:
            self._send("READY=1")

    def watch(self, reactor: Any) -> None:
        """
        Call L{stopping} when the reactor stops.
        """
        if not self._watching:
            self._watching = True
            reactor.addSystemEventTrigger("before", "shutdown", self.stopping)

    def stopping(self) -> None:
        """
        Note that the process stops.  May be called again.
        """
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1\nSTATUS=finishing what is in service")


class Part:
    """
    A part of the process.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def status(self, text: str) -> None:
        """
        Set the state of this part.

        @param text: one line.
        """
        self._manager.status(self, text)

    def ready(self, text: str) -> None:
        """
        Say that this part is ready.

        @param text: its state, in one line.
        """
        self._manager.status(self, text)
        self._manager.ready(self)

    def ended(self) -> None:
        """
        Say that this part has ended.  May be called again.
        """
        self._manager.ended(self)


@cache
def manager() -> Manager:
    """
    Get the service manager of this process.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return Manager(None)
    import sdnotify

    return Manager(sdnotify.SystemdNotifier().notify, watchdogSeconds(os.environ))


def watchdogSeconds(environment: Mapping[str, str]) -> float | None:
    """
    Find how long this process may be silent: sd_watchdog_enabled(3).

    @return: in seconds; L{None} if no watchdog waits for this process.
    """
    pid, time = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
    if pid not in (None, str(os.getpid())) or not re.fullmatch("[1-9][0-9]*", time):
        return None
    return int(time) / 1_000_000
