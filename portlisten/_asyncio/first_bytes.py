"""
Connections whose clients speak first.

Some servers close a connection that has brought no request when they stop.  Its client
may have sent a request that the server has not read, and then loses it.  So the
server's protocol is made only when the first bytes are there, and gets them at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from portlisten._reactor.deadline import Deadline
from portlisten.interfaces import IDrainable


@implementer(IDrainable)
class FirstBytes(asyncio.Protocol):
    """
    Waits for the first bytes, or for the client's end, and then gives the connection to
    the server's protocol.

    @param clock: has C{callLater}.
    @param seconds: how long to wait for the client.
    @param makeProtocol: makes the server's protocol.
    @param failed: called with the exception if the server's protocol cannot be made, or
        fails in C{connection_made}.
    @param made: called when the server's protocol has the connection and its first
        bytes.
    """

    def __init__(
        self,
        clock: Any,
        seconds: float,
        makeProtocol: Callable[[], Any],
        failed: Callable[[BaseException], None],
        made: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._makeProtocol = makeProtocol
        self._failed = failed
        self._made = made
        self._timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """
        Wait for the client.
        """
        self._transport = transport
        self._timer = Deadline(self._clock, self._seconds, self._waitedEnough)

    def drain(self) -> None:
        """
        Do nothing: the server's protocol is asked to drain once it is made.
        """

    def data_received(self, data: bytes) -> None:
        """
        Give the connection and its first bytes to the server's protocol.
        """
        protocol = self._handOver()
        if protocol is not None and not self._transport.is_closing():
            feed(protocol, data)
        self._made()

    def eof_received(self) -> Any:
        """
        Give the connection and its end to the server's protocol.
        """
        protocol = self._handOver()
        if protocol is None or self._transport.is_closing():
            return None
        keepOpen = protocol.eof_received()
        self._made()
        return keepOpen

    def connection_lost(self, exc: BaseException | None) -> None:
        """
        The client has left, and the server need not know that it was there.
        """
        self._timer.cancel()

    def _waitedEnough(self) -> None:
        if self._transport.is_closing():
            return
        self._handOver()
        self._made()

    def _handOver(self) -> Any:
        """
        Make the server's protocol.

        @return: the protocol, or L{None} if it failed.
        """
        self._timer.cancel()
        transport = self._transport
        try:
            protocol = self._makeProtocol()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        except Exception as error:
            self._failed(error)
            transport.abort()
            return None
        return protocol


def feed(protocol: Any, data: bytes) -> None:
    """
    Give bytes to a protocol of either kind, as a transport does.

    @raise RuntimeError: if a protocol has no room for them.
    """
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    while data:
        buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        part = data[: len(buffer)]
        buffer[: len(part)] = part
        protocol.buffer_updated(len(part))
        data = data[len(part) :]
