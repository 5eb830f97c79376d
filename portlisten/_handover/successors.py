"""
How a supervisor gives its listener a successor: it sends a connection to the new
listener, which then asks as at a control socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from zope.interface import implementer

from portlisten._channel.transport import ChannelTransport


@implementer(IFileDescriptorReceiver)
class Successors(Protocol):
    """
    Gets a connection to each successor from the supervisor.

    @param serve: takes a connection, which it owns, and a function that it calls when
        the connection has ended.
    """

    log = Logger()

    def __init__(
        self, serve: Callable[[socket.socket, Callable[[], None]], None]
    ) -> None:
        self._serve = serve

    def listen(self, reactor: Any, sock: socket.socket) -> None:
        """
        Begin.

        @param sock: is connected to the supervisor; belongs to this object from now on.
        """
        ChannelTransport(reactor, sock, self).start()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        A connection to a successor has come.
        """
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            return
        try:
            self._serve(sock, lambda: None)
        except OSError as error:
            self.log.error(
                "the next listener cannot be answered: {error}",
                event="handover-failed",
                error=error.strerror,
            )

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.  The bytes only carry the descriptors.
        """
