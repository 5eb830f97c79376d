"""
A listener's service in the real reactor, for tests whose workers are made by hand.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, cast
from weakref import WeakKeyDictionary

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from portlisten._commands.listener import Options, makeService
from portlisten._reactor import log_limit
from portlisten._wire import codec
from portlisten._wire.frames import ListenerHello, WorkerHello
from tests.support.addresses import internet
from tests.support.channels import PATIENCE, Peer, eventually, inReactor, texts

UDP = "udp:0:interface=127.0.0.1"


def parse(*arguments: str) -> Options:
    """
    Parse a command line.
    """
    options = Options()
    options.parseOptions(list(arguments))
    return options


def keepSignalHandlers(test: TestCase) -> None:
    """
    Restore the handlers of signals after a test.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        test.addCleanup(signal.signal, number, signal.getsignal(number))


class ListenerTestCase(TestCase):
    """
    A L{ListenerService} on a port that the kernel chooses.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        keepSignalHandlers(self)
        # The reactor, and with it the count, is that of all tests.
        self.patch(log_limit, "MAXIMUM_LINES", 1000)
        logs = capturedLogs()
        self.logged = cast(list[dict[str, Any]], logs.__enter__())
        self.addCleanup(logs.__exit__, None, None, None)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.workers: list[Peer] = []
        self.service: Any = None
        self.expectManyLines()
        self.addCleanup(self.end)

    def expectManyLines(self) -> None:
        """
        Start with fresh log limits, so that the lines of other tests do not count.
        """
        self.patch(log_limit, "_limits", WeakKeyDictionary())
        self.patch(log_limit, "MAXIMUM_LINES", 1000)

    async def end(self) -> None:
        """
        End the workers, and check that the service leaves nothing.
        """
        for worker in self.workers:
            worker.close()
        if self.service is not None:
            await self.service.stopService()
        await deferLater(reactor, 0)
        self.assertFalse(os.path.exists(self.path))
        self.assertFalse(os.path.exists(f"{self.path}.ctl"))

    def make(self, *arguments: str, port: str = "tcp:0:interface=127.0.0.1") -> Any:
        """
        Make the service.
        """
        options = parse("--grace", "0.2", *arguments, port, self.path)
        self.service = makeService(options)
        return self.service

    def start(self, *arguments: str, port: str = "tcp:0:interface=127.0.0.1") -> None:
        """
        Start it as C{twistd} does.
        """
        service = self.make(*arguments, port=port)
        service.privilegedStartService()
        service.startService()

    def connect(self) -> Peer:
        """
        Connect a worker.
        """
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.connect(self.path)
        self.workers.append(Peer(sock, codec.FROM_LISTENER))
        return self.workers[-1]

    async def greeted(self) -> tuple[Peer, ListenerHello]:
        """
        Connect a worker, and wait for the listener's HELLO.
        """
        worker = self.connect()
        await eventually(lambda: worker.heard(ListenerHello))
        return worker, worker.heard(ListenerHello)[0]

    async def join(self, window: int = 16) -> tuple[Peer, ListenerHello]:
        """
        Connect a worker, and let it join.
        """
        worker, hello = await self.greeted()
        joined = sum("joined" in line for line in texts(self.logged, "info"))
        worker.say(WorkerHello(window))
        await eventually(
            lambda: (
                sum("joined" in line for line in texts(self.logged, "info")) > joined
            )
        )
        return worker, hello

    def client(self, hello: ListenerHello, port: int = 0) -> socket.socket:
        """
        Connect a client to one of the ports.
        """
        address = internet(hello.ports[port].address)
        client = socket.create_connection((address.host, address.port), PATIENCE)
        self.addCleanup(client.close)
        return client
