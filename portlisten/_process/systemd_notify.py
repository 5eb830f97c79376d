"""
Telling the service manager how the process is doing: sd_notify(3).

A process may have several parts, such as endpoints, each of which is ready in its
own time.  The process is ready when all of them are.  A part may end while the
process goes on.  If there is no C{NOTIFY_SOCKET}, nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any


class Manager:
    """
    The service manager, and what the parts of this process have told it.

    @param send: sends it a message; L{None} if there is none.
    """

    def __init__(self, send: Callable[[str], None] | None) -> None:
        self._send = send or (lambda message: None)
        self._watching = send is None
        self._parts: dict[Part, str] = {}
        self._waiting: set[Part] = set()
        self._ready = False
        self._stopping = False

    def begin(self) -> Part:
        """
        A part begins: it will be ready.
        """
        part = Part(self)
        self._parts[part] = ""
        self._waiting.add(part)
        return part

    def status(self, part: Part, text: str) -> None:
        """
        A part says how it does.
        """
        if part in self._parts and not self._stopping:
            self._parts[part] = text
            line = "; ".join(filter(None, self._parts.values()))
            # The library knows Latin-1 alone.
            self._send("STATUS=" + line.encode("ascii", "replace").decode())

    def ready(self, part: Part) -> None:
        """
        A part is ready.
        """
        self._waiting.discard(part)
        self._sayReady()

    def _sayReady(self) -> None:
        if self._parts and not (self._waiting or self._ready or self._stopping):
            self._ready = True
            self._send("READY=1")

    def ended(self, part: Part) -> None:
        """
        A part ends.
        """
        self._waiting.discard(part)
        self._parts.pop(part, None)
        self._sayReady()

    def watch(self, reactor: Any) -> None:
        """
        Hear when the process stops from its reactor.
        """
        if not self._watching:
            self._watching = True
            reactor.addSystemEventTrigger("before", "shutdown", self.stopping)

    def stopping(self) -> None:
        """
        The process stops.  May be called again.
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
        Say how it does, in a line.
        """
        self._manager.status(self, text)

    def ready(self, text: str) -> None:
        """
        Say that it does what it is for.
        """
        self._manager.status(self, text)
        self._manager.ready(self)

    def ended(self) -> None:
        """
        Say no more.  May be called again.
        """
        self._manager.ended(self)


@cache
def manager() -> Manager:
    """
    The manager of this process.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return Manager(None)
    import sdnotify

    return Manager(sdnotify.SystemdNotifier().notify)
