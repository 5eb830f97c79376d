"""
The port that C{reactor.listenTCP} returns to a program, if a listener has it.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.reflect import qual
from zope.interface import implementer

from portlisten._as_port.mappings import ANY, Mapping, conflict, writePort
from portlisten.endpoints import endpointFor
from portlisten.errors import EndpointError


@implementer(IListeningPort)
class MappedPort:
    """
    A port of a program, whose connections come from a listener.  It has the attributes
    of C{twisted.internet.tcp.Port} that programs read.  It has no socket.

    @param mapping: the mapping of the port.
    @param contextFactory: for TLS on each connection; L{None} for no TLS.
    @param taken: the ports that listen, of all mappings.  This port adds and removes
        itself.
    @param interface: what the program asked for.
    @param address: the address of that interface.

    @ivar port: the number that the program asked for.
    @ivar connected: whether it listens.
    """

    log = Logger(namespace="portlisten")

    socketType = socket.SOCK_STREAM
    sessionno = 0
    disconnected = False
    _type = "TCP"
    _realPortNumber: int | None = None

    def __init__(
        self,
        reactor: Any,
        mapping: Mapping,
        contextFactory: Any,
        taken: list[MappedPort],
        factory: IProtocolFactory,
        backlog: int = 50,
        interface: str = "",
        address: str = ANY,
    ) -> None:
        self.reactor = reactor
        self.mapping = mapping
        self.port = mapping.number
        self.factory = factory
        self.backlog = backlog
        self.interface = interface
        self.address = address
        self.addressFamily = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self.connected = False
        self.disconnecting = False
        self._contextFactory = contextFactory
        self._taken = taken
        self._listening: Any = None
        self._warnedOfPause = False

    def startListening(self) -> None:
        """
        Join the listener when the reactor runs.

        @raise CannotListenError: if the port listens already, or another one of the
            same number and address does, or the path can never work.
        @raise Exception: what the start of the factory raises.
        """
        for each in self._taken:
            if each.port == self.port and conflict(each.address, self.address):
                raise self._error(
                    OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                )
        self._warnOfOther()
        endpoint = endpointFor(
            self.reactor, self.mapping.settings, self._contextFactory
        )
        try:
            self._listening = endpoint.begin(self.factory)
        except EndpointError as error:
            raise self._error(error) from None
        self._realPortNumber = self.port
        self.connected = True
        self._taken.append(self)

    def _error(self, reason: BaseException) -> CannotListenError:
        return CannotListenError(self.interface, self.port, reason)

    def _warnOfOther(self) -> None:
        """
        Warn if another port of this mapping has another factory.
        """
        for each in self._taken:
            if each.mapping is self.mapping and each.factory is not self.factory:
                self.log.warn(
                    "the program listens on {one} and on {other}, and the listener at"
                    " {path} gives each connection to either: map each address alone",
                    event="mapping-ambiguous",
                    one=each.written,
                    other=self.written,
                    path=self.mapping.settings.path,
                )
                return

    @property
    def written(self) -> str:
        """
        The address and the number.
        """
        return writePort(self.address, self.port)

    def stopListening(self) -> Deferred[None]:
        """
        Take no more connections.  Connections in service go on.  A reactor that stops
        waits for them, for no longer than the grace.

        @return: fires when no connection can come any more, as with a port of
            Twisted's.  A program may then end its connections itself.
        """
        if not self.connected:
            return succeed(None)
        self.connected = False
        self.disconnecting = True
        self._realPortNumber = None
        self._taken.remove(self)
        listening, self._listening = self._listening, None

        def done(result: None) -> None:
            self.disconnecting = False

        stopped: Deferred[None] = listening.stopTaking()
        return stopped.addCallback(done)

    def loseConnection(self, connDone: object = None) -> Deferred[None]:
        """
        See L{stopListening}.
        """
        return self.stopListening()

    def pauseProducing(self) -> None:
        """
        Warn that the port cannot be paused.  A program does so if it has too many
        connections.
        """
        if not self._warnedOfPause:
            self._warnedOfPause = True
            self.log.warn(
                "the program pauses its port {port}, and goes on to get connections:"
                " say limit=N after {path} in the mapping for so many at a time",
                event="port-pause-ignored",
                port=self.written,
                path=self.mapping.settings.path,
            )

    def resumeProducing(self) -> None:
        """
        Do nothing: the port was not paused.
        """

    stopReading = pauseProducing
    startReading = resumeProducing

    def getHost(self) -> IPv4Address | IPv6Address:
        """
        Return the address that the program asked for.  The listener's own address is
        not known before the worker has joined, and may change when the listener does.
        """
        made = IPv6Address if self.addressFamily == socket.AF_INET6 else IPv4Address
        return made("TCP", self.address, self.port)

    def logPrefix(self) -> str:
        """
        Return the name of the factory's class.
        """
        return qual(type(self.factory))

    def __repr__(self) -> str:
        path = self.mapping.settings.path
        state = f"by way of {path}" if self.connected else "not listening"
        return f"<{self.written} of {qual(type(self.factory))}, {state}>"
