"""
Which ports a program listens on, and a warning if a mapped one is not among them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from portlisten._as_port.mappings import Mapping

#: How many other ports a warning names.
_MOST_NAMED = 10


def children() -> list[int]:
    """
    The processes that this process has started, and that have not ended.

    @return: empty if the kernel does not tell: C{/proc/pid/task/tid/children} in
        proc(5).
    """
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.extend(map(int, path.read_text().split()))
        except OSError:
            pass  # a thread that ends
    return sorted(found)


class Watch:
    """
    Warns once of the mapped ports that a program does not listen on.

    @param mappings: the mappings.
    @param seconds: how long a reactor may run before the warning.
    @param findChildren: finds the children of this process.

    @ivar reactors: how many reactors were made.
    """

    log = Logger(namespace="portlisten")

    def __init__(
        self,
        mappings: Sequence[Mapping],
        seconds: float,
        findChildren: Callable[[], Sequence[int]] = children,
    ) -> None:
        self._unused = list(mappings)
        self._seconds = seconds
        self._findChildren = findChildren
        self._others: list[str] = []
        self._warned = False
        self._forked = False
        self.reactors = 0
        os.register_at_fork(after_in_parent=self._noteFork)

    def _noteFork(self) -> None:
        self._forked = True

    # What the program does

    def madeReactor(self, reactor: Any) -> None:
        """
        Note that a reactor was made.
        """
        self.reactors += 1
        reactor.callWhenRunning(self._running, reactor)

    def listensOn(self, mapping: Mapping) -> None:
        """
        Note that the program listens on a mapped port.
        """
        if mapping in self._unused:
            self._unused.remove(mapping)

    def listensElsewhere(self, port: str) -> None:
        """
        Note that the program listens on a port that is not mapped.
        """
        matters = self._unused and not self._warned
        if matters and port not in self._others:
            self._others.append(port)

    def _running(self, reactor: Any) -> None:
        when = f"{self._seconds:g} s after its reactor began to run"
        late = reactor.callLater(self._seconds, self._warn, f"does not listen, {when},")

        def stopping() -> None:
            if late.active():
                late.cancel()
            self._warn("stops, and has never listened")

        reactor.addSystemEventTrigger("before", "shutdown", stopping)

    def _warn(self, what: str) -> None:
        text = self._complaint(what)
        if text:
            self.log.warn("{text}", event="mapping-unused", text=text)

    # What it means

    def ended(self) -> str:
        """
        Say what is wrong if the program has ended well.

        @return: a line, or nothing.
        """
        # A process that has forked may have done so to become a daemon.
        if self._forked:
            return ""
        if not self.reactors:
            return self._complaint(
                "has made no reactor of Twisted's, and never listened"
            )
        return self._complaint("has ended, and never listened")

    def _complaint(self, what: str) -> str:
        """
        @param what: what the program does, and the end of it is C{listen} or so.
        @return: a line, or nothing if all is well or the warning was given.
        """
        if self._warned or not self._unused:
            return ""
        self._warned = True
        ports = _enumerate([each.port for each in self._unused])
        others = self._others[:_MOST_NAMED]
        if len(self._others) > _MOST_NAMED:
            others.append(f"{len(self._others) - _MOST_NAMED} more")
        where = _enumerate(others) if others else "no other port"
        noun = "port" if len(self._unused) == 1 else "ports"
        text = f"the program {what} on {noun} {ports}; it listened on {where}"
        started = self._findChildren()
        if started:
            numbers = _enumerate([str(each) for each in started[:_MOST_NAMED]])
            text += (
                f"; it has started processes ({numbers}), and as-port does not change"
                " what those listen on"
            )
        return text


def _enumerate(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
