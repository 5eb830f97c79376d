"""
C{twistd hellofdpass}: the sample worker, its protocol, options and service.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.python.usage import CompleteFiles, Completer, UsageError
from zope.interface import implementer

from portlisten._commands.options import CommandOptions
from portlisten._config.settings import WorkerSettings
from portlisten._process import exits, signals
from portlisten._process.service import CommandService
from portlisten._reactor.monotonic import ours
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.interfaces import IWorker
from portlisten._worker.worker import Worker

#: How long a client may take to close, once it has the answer, in seconds.
LINGER = 5.0


@implementer(IHalfCloseableProtocol)
class Hello(Protocol):
    """
    Writes a string, and closes.

    A client may have sent something that nobody reads, or be about to.  Closing
    right away would answer that with a reset, which can take the string from a
    client that has not read it yet.  So this ends the writing side only, and
    waits, though not for long, until the client closes too.
    """

    def __init__(self, reactor: IReactorTime, string: bytes) -> None:
        self._reactor = reactor
        self._string = string
        self._timeout: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """
        Write, and end the writing side.
        """
        transport: Any = self.transport
        transport.write(self._string)
        transport.loseWriteConnection()
        self._timeout = self._reactor.callLater(LINGER, transport.loseConnection)

    def readConnectionLost(self) -> None:
        """
        The client will send no more; it may still be reading.
        """
        transport: Any = self.transport
        transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        The string and its end are on their way.
        """

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It is over.
        """
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()


class HelloFactory(Factory):
    """
    Builds a L{Hello} for each connection.
    """

    noisy = False

    def __init__(self, reactor: IReactorTime, string: bytes) -> None:
        self._reactor = reactor
        self._string = string

    def buildProtocol(self, addr: IAddress | None) -> Hello:
        """
        See L{IProtocolFactory}.
        """
        return Hello(self._reactor, self._string)


class Options(CommandOptions):
    """
    The options of C{twistd hellofdpass}.
    """

    settingsType = WorkerSettings

    command = "hellofdpass"

    arguments = [CompleteFiles(descr="PATH"), Completer(descr="STRING")]

    synopsis = "[options] PATH STRING"

    longdesc = (
        "A sample worker. It connects to the listener at PATH ('twistd portlisten PORT"
        " PATH'), adopts the connections that the listener hands off, writes STRING on"
        " each, exactly as given, and closes it. The worker needs no privilege but to"
        " write to PATH. Listener and worker may be started in any order, and either"
        " may be restarted. While no worker runs, connections wait."
    )

    epilogue = """
Examples:
  twistd -n hellofdpass ./socket 'hello, world'
  twistd --uid www-data hellofdpass /run/portlisten/web.sock 'hello, world'
"""

    def parseArgs(self, *args: str) -> None:
        """
        Take PATH and STRING.
        """
        if len(args) != 2:
            self.checkOrder(args)
            raise UsageError(f"expected PATH and STRING, got {len(args)} arguments")
        self["path"] = args[0]
        self.checkPath(self["path"])
        self["string"] = os.fsencode(args[1])

    def settings(self) -> WorkerSettings:
        """
        What was given.
        """
        return WorkerSettings(path=self["path"], **self.given())


class WorkerService(CommandService):
    """
    Runs a worker.
    """

    def __init__(self, reactor: Any, command: exits.Command, worker: IWorker) -> None:
        super().__init__(reactor, command)
        self._worker = worker

    def bind(self) -> None:
        """
        Look at the path, or bind it.  See L{CommandService.bind}.
        """
        self._worker.bind()

    def serve(self) -> None:
        """
        Look for the listener, or wait for what it sends.
        """
        self._worker.start()

    def report(self) -> None:
        """
        See L{CommandService.report}.
        """
        self._worker.report()

    def finish(self) -> Deferred[None]:
        """
        Take no more connections, and finish those in service.
        """
        return self._worker.stop()


def makeService(options: Options, reactor: Any = None) -> IService:
    """
    Make the service of C{twistd hellofdpass}.

    @param reactor: by default the global one.
    """
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings()
    signals.ownProcess(reactor, settings.retry)
    factory = HelloFactory(reactor, options["string"])
    worker = makeWorker(ours(reactor), settings, factory)
    return WorkerService(reactor, options.process, worker)


def makeWorker(
    reactor: Any, settings: WorkerSettings, factory: IProtocolFactory
) -> IWorker:
    """
    Make the worker that settings describe.
    """
    common = (reactor, settings.path, factory, settings.retry, settings.grace)
    if settings.wire == "datagram":
        return DatagramWorker(*common, settings.mode, settings.group, settings.replace)
    return Worker(*common, settings.listenerUsers, settings.names)
