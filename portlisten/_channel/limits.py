"""
Limits and errors of reading and writing a channel, for every event loop.
"""

from __future__ import annotations

import errno

from portlisten import _kernel

#: The most messages, and the most bytes, that one turn of the loop reads.
READS_PER_TURN = 16
BYTES_PER_TURN = 16384

#: How long to wait if the kernel lacks resources, in seconds.
KERNEL_RETRY_SECONDS = 0.1

#: Errors of sendmsg(2) after which a later try may succeed.  ETOOMANYREFS is from
#: unix(7): the user has too many descriptors in flight.
TEMPORARY_WRITE_ERRORS = _kernel.TEMPORARY_ERRORS | {errno.ETOOMANYREFS}

#: Errors of a write if the other end is closed, or its reading side is shut down.
PEER_GONE = frozenset([errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN])

#: Errors of recvmsg(2) after which no later try can succeed.
UNREADABLE = frozenset([errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN, errno.EINVAL])

#: The most bytes that are read after the end of a channel.  This is more than the other
#: end's buffer holds.
MAXIMUM_REST_BYTES = 1 << 22

#: How often a failed read is tried there.
READ_TRIES = 10

#: How long the listener's HELLO may take, in seconds.
HELLO_SECONDS = 5.0

#: After a channel has ended, how long until a listener that lives has closed its copies
#: of what the worker had claimed, in seconds: more than it keeps a copy.
COPIES_SECONDS = 1.5
