"""
A listener that is replaced, without its wire, and a successor that is spoken by hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.connection import Detached
from portlisten._control.messages import Replace
from portlisten._handover.handover import Handed
from portlisten._handover.messages import (
    Commit,
    Message,
    Ready,
    Running,
    encode,
)
from portlisten._listener.succession import Succession
from portlisten._model import Kind
from portlisten._ports.binding import BoundPort, boundElsewhere
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import pair

COMMIT = Commit(False, ())
CLIENT = _kernel.Credentials(1, 0, 0)
REPLACE = Replace(("1",))


class RecordingWire:
    """
    A wire that notes what it is told.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.done: Deferred[None] = Deferred()
        self.names: Collection[str] = ()
        self.transfer: socket.socket | None = None
        self.waits: Callable[[], Collection[str]] = tuple

    def suspend(self) -> Commit:
        """
        See L{ISucceededWire}.
        """
        self.calls.append("suspend")
        return COMMIT

    def resume(self) -> None:
        """
        See L{ISucceededWire}.
        """
        self.calls.append("resume")

    def retire(
        self,
        grace: float,
        names: Collection[str],
        transfer: socket.socket,
        waits: Callable[[], Collection[str]],
    ) -> Deferred[None]:
        """
        See L{ISucceededWire}.
        """
        self.calls.append(f"retire {grace:g}")
        self.names, self.transfer, self.waits = names, transfer, waits
        return self.done

    def takeBack(self) -> None:
        """
        See L{ISucceededWire}.
        """
        self.calls.append("takeBack")


class RecordingSockets:
    """
    Sockets that belong to nobody afterwards.
    """

    disowned = 0

    def handed(self, ports: list[BoundPort]) -> list[Handed]:
        """
        See L{ISockets}.
        """
        return [Handed(each, "port") for port in ports for each in port.sockets]

    def pauseMonitor(self) -> None:
        """
        See L{portlisten._listener.interfaces.ISockets}.
        """

    def resumeMonitor(self) -> None:
        """
        See L{portlisten._listener.interfaces.ISockets}.
        """

    def disown(self) -> None:
        """
        See L{ISockets}.
        """
        self.disowned += 1


class RecordingAcceptor:
    """
    An acceptor that notes what it is told.
    """

    def __init__(self, waits: bool = False) -> None:
        self.calls: list[str] = []
        self.waits = waits

    def park(self) -> None:
        """
        See L{Acceptor}.
        """
        self.calls.append("park")

    def unpark(self) -> None:
        """
        See L{Acceptor}.
        """
        self.calls.append("unpark")


class SuccessionTestCase(SynchronousTestCase):
    """
    A L{Succession}, and a successor.

    @ivar ended: how often the process was told to end, or to stop.
    """

    def setUp(self) -> None:
        """
        Make the ports.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.wire, self.sockets = RecordingWire(), RecordingSockets()
        self.ended: list[str] = []
        self.succession = Succession(
            self.clock,
            self.sockets,  # type: ignore[arg-type]
            self.wire,  # type: ignore[arg-type]
            9.0,
            lambda: self.ended.append("retired"),
            lambda: self.ended.append("told"),
            7,
        )
        self.ports: list[BoundPort] = []
        self.acceptors: list[RecordingAcceptor] = []

    def tcp(self) -> socket.socket:
        """
        Make a listening socket.
        """
        sock = socket.create_server(("127.0.0.1", 0), backlog=12)
        self.addCleanup(sock.close)
        return sock

    def unix(self) -> socket.socket:
        """
        Make a listening Unix socket.
        """
        path = os.path.join(os.path.dirname(self.mktemp()), "unix")
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(path)
        self.addCleanup(os.unlink, path)
        sock.listen(7)
        return sock

    def udp(self) -> socket.socket:
        """
        Make a UDP socket.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(("127.0.0.1", 0))
        return sock

    def add(
        self,
        name: str,
        *sockets: socket.socket,
        kind: Kind = Kind.CONNECTIONS,
        waits: bool = False,
    ) -> RecordingAcceptor:
        """
        Add a port.
        """
        self.ports.append(boundElsewhere(list(sockets), name, kind))
        self.acceptors.append(RecordingAcceptor(waits))
        return self.acceptors[-1]

    def begin(self) -> None:
        """
        Let the ports be known.
        """
        pairs: Any = list(zip(self.ports, self.acceptors, strict=True))
        self.succession.begin(self.ports, pairs)

    def ask(self) -> socket.socket:
        """
        Let a successor ask.

        @return: its end of the connection.
        """
        ours, theirs = pair(self)
        self.detach(ours)
        return theirs

    def detach(self, sock: socket.socket) -> None:
        """
        Let a successor ask over a connection.
        """
        answer = self.succession.asked(REPLACE, CLIENT)
        assert isinstance(answer, Detached)
        answer.then(sock)

    def turn(self) -> None:
        """
        Let the predecessor read and write.
        """
        for _ in range(2):
            self.clock.read()
            self.clock.advance(0)

    def say(self, sock: socket.socket, *messages: Message) -> None:
        """
        Let a successor write.
        """
        sock.send(b"".join(map(encode, messages)))
        self.turn()

    def run_(self, *sockets: socket.socket, names: tuple[str, ...] = ("a",)) -> Any:
        """
        Let a successor take over that has these sockets.

        @return: its end of the connection.
        """
        self.begin()
        successor = self.ask()
        cookies = tuple(map(_kernel.cookie, sockets))
        self.say(successor, Ready(cookies, names), Running(4711))
        transfer = self.wire.transfer
        assert transfer is not None
        self.addCleanup(transfer.close)
        return successor

    def end(self, successor: socket.socket) -> None:
        """
        Let a successor end.
        """
        successor.close()
        self.turn()
