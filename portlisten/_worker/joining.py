"""
Gets shared sockets from a listener without an event loop.  It drives a
L{portlisten._wire.worker_session.WorkerSession} with blocking reads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence

from portlisten import _kernel
from portlisten._model import Kind, Port
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import ByeReceived, Close, Event, Joined, UseSocket
from portlisten._wire.worker_session import WorkerSession
from portlisten.errors import ProtocolError, WrongSocket

_TAKES = frozenset([Kind.LISTENER, Kind.DATAGRAMS])


def receive(
    sock: socket.socket,
    names: Sequence[str],
    label: str = "",
    waitsOn: Callable[[], bool] = lambda: False,
) -> list[tuple[Port, int]] | None:
    """
    Join a listener, and wait for the sockets that it shares.

    @param sock: a socket that is connected to the listener.  Leaves it open.  Its
        time-out limits each wait for bytes of the listener.
    @param names: the names of the ports; if empty, all shared ports.
    @param label: the worker's name for the operator, or nothing.
    @param waitsOn: called each time that the listener's HELLO takes longer than the
        time-out.  Says whether to wait for as long again.
    @return: each port with a descriptor of its socket.  The caller owns the
        descriptors.  L{None} if the listener closed the channel without a reason.
    @raise TimeoutError: if no bytes come for too long.
    @raise ProtocolError: if the listener does not have such ports, or says BYE.
    """
    joining = _JoinAttempt(sock, names, label, waitsOn)
    try:
        return joining.join()
    except TimeoutError:
        raise
    except OSError:
        return None
    finally:
        joining.close()


class _JoinAttempt:
    """
    A channel on which the worker says only HELLO.

    @param sock: a socket that is connected to a listener.  The caller keeps it.
    """

    def __init__(
        self,
        sock: socket.socket,
        names: Sequence[str],
        label: str,
        waitsOn: Callable[[], bool],
    ) -> None:
        self._socket = sock
        self._waitsOn = waitsOn
        self._session: WorkerSession[int] = WorkerSession(1, names, _TAKES, label=label)
        self._ports: tuple[Port, ...] | None = None
        self._sockets: dict[int, int] = {}

    def join(self) -> list[tuple[Port, int]] | None:
        """
        See L{receive}.
        """
        self._socket.sendall(self._session.hello())
        while self._ports is None or len(self._sockets) < len(self._ports):
            if not self._read():
                return None
        return [(port, self._sockets.pop(port.number)) for port in self._ports]

    def _read(self) -> bool:
        """
        Read once.

        @return: whether the channel is still open.
        """
        try:
            data, descriptors = _kernel.receive(self._socket)
        except TimeoutError:
            if self._ports is None and self._waitsOn():
                return True
            raise
        events: list[Event[int]] = []
        for descriptor in descriptors:
            try:
                kind, cookie = _kernel.identify(descriptor, _TAKES)
            except (WrongSocket, OSError):
                os.close(descriptor)
            else:
                events += self._session.descriptorArrived(kind, cookie, descriptor)
        self._carryOut(events + self._session.receive(data))
        return bool(data)

    def _carryOut(self, events: Iterable[Event[int]]) -> None:
        """
        Carry out all events, even if one of them is an error.

        @raise ProtocolError: if one is an error, or the listener says BYE.
        """
        error = ""
        for event in events:
            if isinstance(event, Close):
                os.close(event.token)
            elif isinstance(event, UseSocket):
                error = error or self._use(event)
            elif isinstance(event, Joined):
                self._ports = event.ports
            elif isinstance(event, Broken | ByeReceived):
                error = error or event.reason
        if error:
            raise ProtocolError(error)

    def _use(self, event: UseSocket[int]) -> str:
        """
        Keep a socket for the caller, or close it.

        @return: the error, or nothing if the socket is kept.
        """
        wanted = {port.number for port in self._ports or ()}
        known = self._sockets.pop(event.port, None)
        if known is not None:
            os.close(known)
        if event.port in wanted:
            self._sockets[event.port] = event.token
            return ""
        os.close(event.token)
        return "a socket of a port that was not wanted"

    def close(self) -> None:
        """
        Close the descriptors that were not returned.
        """
        for event in self._session.channelEnded(False):
            if isinstance(event, Close):
                os.close(event.token)
        for descriptor in self._sockets.values():
            os.close(descriptor)
        self._sockets.clear()
