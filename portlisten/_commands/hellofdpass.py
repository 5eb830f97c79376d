"""
C{twistd hellofdpass}: the sample worker, its protocol, options and service.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import implementer

from portlisten._commands.options import JoiningOptions
from portlisten._config import values
from portlisten._model import portName
from portlisten._process import exits, signals, systemd_notify
from portlisten._reactor.monotonic import ours
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.interfaces import IWorker
from portlisten._worker.worker import Worker
from portlisten.errors import PathError

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


class Options(JoiningOptions):
    """
    The options of C{twistd hellofdpass}.
    """

    command = "hellofdpass"

    synopsis = "[options] PATH STRING"

    longdesc = (
        "A worker: connects to the listener at PATH ('twistd portlisten PORT"
        " PATH'), adopts the connections that it hands off, writes STRING on each,"
        " exactly as given, and closes it. It needs no privilege but to write to"
        " PATH. Listener and worker may be started in any order, and each may be"
        " restarted: connections that come meanwhile wait."
    )

    epilogue = """
Examples:
  twistd -n hellofdpass ./socket 'hello, world'
  twistd --uid www-data hellofdpass /run/portlisten/web.sock 'hello, world'
"""

    optParameters = [
        [
            "wire",
            None,
            "stream",
            "How connections come: 'stream', with which none is lost, or 'datagram',"
            " as in 2002, where the worker binds PATH.",
            values.wire,
        ],
        [
            "mode",
            None,
            None,
            "With --wire=datagram, permissions of PATH: the users that may"
            " write to it may send connections. [default: 0660]",
            values.octal,
        ],
        [
            "group",
            None,
            None,
            "With --wire=datagram, group of PATH. [default: the process's]",
            values.group,
        ],
        [
            "retry",
            None,
            0.1,
            "Seconds between two tries to connect to the listener.",
            values.number("retry", float, 0.001),
        ],
        [
            "grace",
            None,
            10.0,
            "Seconds that a stop may take to finish what is in service.",
            values.number("grace", float, 0),
        ],
    ]

    optFlags = [
        [
            "replace",
            None,
            "With --wire=datagram, take PATH over from a worker that lives there.",
        ]
    ]

    def __init__(self) -> None:
        super().__init__()
        self["mode"] = 0o660
        self["name"] = []

    def opt_name(self, name: str) -> None:
        """
        Serve only the ports of this name; may be given several times.
        [default: all]
        """
        try:
            self["name"].append(portName(name))
        except ValueError as error:
            raise UsageError(f"--name: {error}") from None

    def postOptions(self) -> None:
        """
        See that no option goes with the other wire only.
        """
        if self["wire"] == "datagram":
            self.checkAlone("wire=datagram", "name", "listener-user")
        else:
            self.checkAlone("wire=stream", "mode", "group", "replace")

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


class HelloService(Service):
    """
    Runs a worker that says hello.
    """

    def __init__(self, reactor: Any, options: Options, worker: IWorker) -> None:
        self._reactor = reactor
        self._options = options
        self._worker = worker
        self._ready = False

    def privilegedStartService(self) -> None:
        """
        Look at the path, or bind it.

        @raise StartFailure: if that is impossible.
        """
        super().privilegedStartService()
        exits.checkUser(self._options)
        try:
            self._worker.bind()
        except PathError as error:
            exits.failToStart(self._options, str(error))
        self._ready = True

    def startService(self) -> None:
        """
        Look for the listener, or wait for what it sends.
        """
        if not self._ready:
            # `twist` starts services without their privileged part.
            self.privilegedStartService()
        super().startService()
        exits.warnOfRoot("hellofdpass")
        signals.onReportSignal(self._reactor, self._worker.report)
        self._worker.start()

    def stopService(self) -> Deferred[None]:
        """
        Take no more connections, and finish those in service.
        """
        if not self.running:
            return succeed(None)
        super().stopService()
        systemd_notify.manager().stopping()
        return self._worker.stop()


def makeService(options: Options, reactor: Any = None) -> IService:
    """
    Make the service of C{twistd hellofdpass}.

    @param reactor: by default the global one.
    """
    if reactor is None:
        from twisted.internet import reactor
    signals.ownProcess(reactor, options["retry"])
    common = (
        ours(reactor),
        options["path"],
        HelloFactory(reactor, options["string"]),
        options["retry"],
        options["grace"],
    )
    worker: IWorker
    if options["wire"] == "datagram":
        worker = DatagramWorker(
            *common, options["mode"], options["group"], options["replace"]
        )
    else:
        worker = Worker(*common, options["listener-user"], options["name"])
    return HelloService(reactor, options, worker)
