"""
C{twistd hellofdpass}: the sample worker's protocol, options and service.
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
from portlisten._process.label import labelOf
from portlisten._process.service import CommandService
from portlisten._reactor.monotonic import monotonicReactor
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.interfaces import IWorker
from portlisten._worker.worker import Worker

#: Seconds that a client may take to close after the answer.
LINGER_SECONDS = 5.0


@implementer(IHalfCloseableProtocol)
class Hello(Protocol):
    """
    Writes a string, and closes.

    A client may send bytes that the protocol does not read.  If the protocol closed at
    once, the kernel would answer those bytes with a reset.  A reset can take the string
    from a client that has not read it yet.  So the protocol ends the writing side only.
    It closes when the client closes, or after L{LINGER_SECONDS}.
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
        self._timeout = self._reactor.callLater(
            LINGER_SECONDS, transport.loseConnection
        )

    def readConnectionLost(self) -> None:
        """
        Close: the client sends no more.  The kernel still delivers the string.
        """
        transport: Any = self.transport
        transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Do nothing: the client reads the string and closes.
        """

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Cancel the timeout.
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

    def postOptions(self) -> None:
        """
        See L{CommandOptions.postOptions}.

        @raise UsageError: also if the environment gives a bad label.
        """
        super().postOptions()
        if self["wire"] == "stream":
            try:
                labelOf(self["label"])
            except ValueError as error:
                raise UsageError(str(error)) from None

    def settings(self) -> WorkerSettings:
        """
        Make settings of the options and arguments.
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
        Check the path, or bind it.  See L{CommandService.bind}.
        """
        self._worker.bind()

    def serve(self) -> None:
        """
        Begin to connect to the listener, or to receive from it.
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
    worker = makeWorker(monotonicReactor(reactor), settings, factory)
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
    return Worker(
        *common,
        settings.listenerUsers,
        settings.names,
        limit=settings.limit,
        first=settings.first,
        label=labelOf(settings.label),
        proxies=settings.proxies or (),
    )
