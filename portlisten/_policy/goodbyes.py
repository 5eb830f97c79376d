"""
How servers say that they end a connection, for every event loop.
"""

from __future__ import annotations

import struct

#: HTTP/2's GOAWAY with NO_ERROR, and the highest stream number.  A server that stops in
#: good order begins with it: RFC 9113, section 6.8.
GOAWAY = struct.pack("!HBBBIII", 0, 8, 7, 0, 0, 2**31 - 1, 0)

#: The close code of a WebSocket whose server goes away: RFC 6455, section 7.4.1.
GOING_AWAY = 1001
