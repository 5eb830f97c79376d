"""
Registrations with the reactor that are tried again if they fail.

epoll_ctl(2) can fail for lack of memory, or of watches.  Twisted passes the error to
the caller that wanted to read or write, and the caller would have to give up.
L{Persistent} tries again.  In a process of portlisten's commands, the reactor itself
tries again: L{portlisten._reactor.monotonic.makeMonotonic}.  In another program's
process, only portlisten's own objects and the transports of adopted connections do.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

#: How long to wait before a registration is tried again, by default, in seconds.
RETRY_SECONDS = 0.1

#: How long registrations must succeed before a failure is logged again, in seconds.
SILENCE_SECONDS = 10.0

#: How often the reactor is asked to remove a reader or writer, if that fails.
REMOVAL_TRIES = 10

# Errors of a registration that would fail again: see epoll_ctl(2).
_FINAL = frozenset([errno.EBADF, errno.EINVAL, errno.EPERM, errno.ELOOP])

log = Logger()


class Persistent:
    """
    Wraps a reactor, and tries a registration again if it fails.  Everything else is
    the wrapped reactor's.

    @param clock: an L{IReactorTime}.

    @ivar retry: how long to wait before trying again, in seconds.
    """

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self._clock = clock
        self.addReader, self.removeReader = self._persist(
            reactor.addReader, reactor.removeReader
        )
        self.addWriter, self.removeWriter = self._persist(
            reactor.addWriter, reactor.removeWriter
        )
        self._failed = -SILENCE_SECONDS
        self.retry = RETRY_SECONDS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def _persist(
        self, add: Callable[[Any], None], remove: Callable[[Any], None]
    ) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
        """
        Make two methods of L{IReactorFDSet}, which are called several times for each
        connection.
        """
        pending: dict[Any, IDelayedCall] = {}

        def persistentAdd(each: Any) -> None:
            if pending:
                _cancel(pending.pop(each, None))
            try:
                add(each)
            except OSError as error:
                if error.errno in _FINAL:
                    raise
                self._logFailure(error)
                pending[each] = self._clock.callLater(self.retry, again, each)

        def again(each: Any) -> None:
            del pending[each]
            if each.fileno() != -1:
                persistentAdd(each)

        def persistentRemove(each: Any) -> None:
            if pending:
                _cancel(pending.pop(each, None))
            try:
                remove(each)
            except OSError as error:
                self._logFailure(error)
                self._removeAgain(each, remove)

        return persistentAdd, persistentRemove

    def _removeAgain(self, each: Any, remove: Callable[[Any], None]) -> None:
        for _ in range(REMOVAL_TRIES):
            if each.fileno() == -1:
                break
            # When EPollReactor's removal fails, the object is gone from _selectables.
            known = getattr(self._reactor, "_selectables", {})
            known.setdefault(each.fileno(), each)
            try:
                remove(each)
            except OSError as error:
                self._logFailure(error)
            else:
                break

    def _logFailure(self, error: OSError) -> None:
        last, self._failed = self._failed, self._clock.seconds()
        if self._failed - last >= SILENCE_SECONDS:
            log.error(
                "the reactor's registration fails: {error}; it is tried again every"
                " {retry:g} s",
                event="reactor-failed",
                error=error.strerror,
                retry=self.retry,
            )


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None:
        call.cancel()
