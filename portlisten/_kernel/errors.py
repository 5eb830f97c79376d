"""
Temporary errors of system calls, and calls that are made again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

#: Errors of accept(2) if the process or the machine has run out of descriptors or
#: memory.  The connection stays in the backlog, and a later try may succeed.
EXHAUSTION_ERRORS = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])

#: Errors of accept(2) if the port itself is unusable, as after another holder of its
#: socket called shutdown(2).
UNUSABLE_ERRORS = frozenset([errno.EBADF, errno.EINVAL, errno.ENOTSOCK])

#: Errors of any call after which a later try may succeed.  epoll_ctl(2) fails with
#: ENOSPC if the user has too many watches.
TEMPORARY_ERRORS = EXHAUSTION_ERRORS | {errno.EINTR, errno.ENOSPC, errno.EAGAIN}

#: How often L{retry} makes a call, before the last try.
_TRIES = 10


def retry(call: Callable[..., Any], *arguments: object) -> Any:
    """
    Make a system call, and make it again if it fails with one of L{TEMPORARY_ERRORS}.

    @return: the result of the call.
    @raise OSError: if the call fails with another error, or fails each time.
    """
    for _ in range(_TRIES):
        try:
            return call(*arguments)
        except OSError as error:
            if error.errno not in TEMPORARY_ERRORS:
                raise
    return call(*arguments)


def lastError() -> OSError:
    """
    Make the error of the last failed call that was made with C{ctypes}.
    """
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
