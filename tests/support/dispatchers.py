"""
Helpers for tests of the dispatcher.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from portlisten._kernel import SharedMemory
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.copy_check import CHECK_SECONDS
from portlisten._listener.dispatcher import FAREWELL_SECONDS, Dispatcher
from portlisten._listener.interfaces import IChannel, IConnection
from portlisten._listener.limits import Limiter
from portlisten._listener.sharing import Sharing
from portlisten._model import InternetAddress, Port
from portlisten._policy.ledger import Ledger
from portlisten._policy.throttle import Throttle
from portlisten._wire.listener_session import Joined
from tests.support.channels import tcpPair
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors

PATIENCE = 60.0


HOLD = 1.0


CLAIM_TIMEOUT = 5.0


PAUSE = 0.1


NAMES = ("", "web", "mail")


NOTHING = Sharing(Clock(), (), {}, 1, 1, 1)


def portOf(name: str = "", number: int = 0) -> Port:
    """
    Make a port of this name.
    """
    return Port(number, InternetAddress("TCP", "192.0.2.1", 80), name)


@implementer(IChannel)
class RecordingChannel:
    """
    Records its calls.

    @ivar reads: whether the worker reads.
    @ivar child: the worker's process.
    @ivar offers: the ids and connections of its offers.
    @ivar kept: for each offer, whether to keep it for a flush.
    @ivar flushes: the number of offers at each flush.
    @ivar calls: all other calls.
    """

    def __init__(self, label: str, user: int = 1000) -> None:
        self.name = self.label = label
        self.user = user
        self.pid = 0
        self.number = 0
        self.reads = True
        self.child: subprocess.Popen[bytes] | None = None
        self.offers: list[tuple[int, IConnection]] = []
        self.ports: list[int] = []
        self.kept: list[bool] = []
        self.flushes: list[int] = []
        self.calls: list[tuple[Any, ...]] = []

    def offer(
        self, id: int, port: int, connection: IConnection, more: bool = False
    ) -> None:
        self.offers.append((id, connection))
        self.ports.append(port)
        self.kept.append(more)

    def flush(self) -> None:
        self.flushes.append(len(self.offers))

    def shareSocket(self, port: int, sock: socket.socket) -> None:
        self.calls.append(("lend", port, sock))

    def shareLoads(
        self, slot: int, ports: int, loads: SharedMemory, members: SharedMemory
    ) -> None:
        self.calls.append(("loads", slot, ports, loads, members))

    def withdraw(self, sock: socket.socket) -> None:
        self.calls.append(("withdraw", sock))

    def unread(self) -> bool:
        return not self.reads

    def inFlight(self) -> int:
        return 0 if self.reads else len(self.offers)

    def process(self) -> int | None:
        if self.child is None:
            return None
        return os.pidfd_open(self.child.pid)

    def dismiss(self) -> bool:
        self.calls.append(("dismiss",))
        return True

    def leave(self) -> None:
        self.calls.append(("leave",))

    def drained(self) -> None:
        self.calls.append(("drained",))

    def revoke(self, reason: str) -> None:
        self.calls.append(("revoke", reason))

    def bye(self, reason: str) -> None:
        self.calls.append(("bye", reason))

    @property
    def ids(self) -> list[int]:
        """
        Return the ids of its offers, in order.
        """
        return [id for id, _ in self.offers]


class DispatcherTestCase(SynchronousTestCase):
    """
    A L{Dispatcher} with room for a few connections to wait.
    """

    queue = 2

    def setUp(self) -> None:
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.timeouts = 0
        self.roomChanges = 0
        self.ledger = Ledger(
            self.queue, 100, PATIENCE, HOLD, CLAIM_TIMEOUT, PAUSE, names=NAMES
        )
        self.throttle = Throttle(free=1, first=2.0, longest=10.0)
        limiter = self.makeLimiter()
        self.dispatcher = Dispatcher(
            self.clock,
            self.ledger,
            self.throttle,
            self.sharing(),
            self.timedOut,
            limiter=limiter,
        )
        self.dispatcher.capacityChanged = self.capacityChanged
        self.clients: list[socket.socket] = []
        self.addCleanup(self.end)

    def sharing(self) -> Sharing:
        """
        Make what lends the sockets of shared ports.
        """
        return NOTHING

    def makeLimiter(self) -> Limiter | None:
        """
        Make what says who comes in.
        """
        return None

    def end(self) -> None:
        """
        Stop, and see that nothing is left: no descriptors, no delayed calls.
        """
        stopped = self.dispatcher.stop(0)
        self.clock.pump([CHECK_SECONDS, FAREWELL_SECONDS, CHECK_SECONDS])
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.ledger.held, 0)

    def timedOut(self) -> None:
        self.timeouts += 1
        self.openThen = list(map(self.isOpen, self.clients))

    def capacityChanged(self) -> None:
        self.roomChanges += 1

    def accept(
        self, count: int = 1, port: int = 0, name: str = ""
    ) -> list[socket.socket]:
        """
        Let connections come in.

        @return: the clients.
        """
        batch = []
        clients = []
        for _ in range(count):
            client, accepted = tcpPair()
            self.addCleanup(client.close)
            client.setblocking(False)
            clients.append(client)
            self.clients.append(client)
            batch.append(AcceptedConnection(accepted, client.getsockname()))
        self.dispatcher.accepted(portOf(name, port), batch)
        return clients

    def join(
        self,
        label: str = "worker 1",
        window: int = 4,
        user: int = 1000,
        names: tuple[str, ...] = (),
        limit: int | None = None,
        first: float | None = None,
    ) -> RecordingChannel:
        """
        Have a worker join, which wants the ports of these names, or all.
        """
        channel = RecordingChannel(label, user)
        self.dispatcher.connected(channel)
        ports = [portOf(name, number) for number, name in enumerate(names or NAMES)]
        self.dispatcher.joined(channel, Joined(window, tuple(ports), limit, first))
        return channel

    def die(self, channel: RecordingChannel) -> None:
        """
        Have a worker die.
        """
        self.dispatcher.died(channel)
        self.dispatcher.channelClosed(channel)

    def adopt(self, channel: RecordingChannel) -> socket.socket:
        """
        Adopt what was offered last, as the worker does: with a descriptor of
        its own, once the claim is made.
        """
        id, connection = channel.offers[-1]
        self.dispatcher.claimed(channel, [id])
        own = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(own.close)
        return own

    def isOpen(self, client: socket.socket) -> bool:
        """
        Say whether anybody still holds the other end of a client's connection.
        """
        try:
            return client.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def check(self) -> None:
        """
        Let the time pass until the kernel is asked the next time.
        """
        self.clock.advance(CHECK_SECONDS)
