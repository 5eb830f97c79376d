"""
The monitor itself: it takes the sockets from its parent, and serves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._model import Kind
from portlisten._monitor.channel import BoundedSite
from portlisten._monitor.history import History
from portlisten._monitor.link import MonitorLink, Poll
from portlisten._monitor.site import makeSite
from portlisten._monitor.start import (
    MAXIMUM_SOCKETS,
    MAXIMUM_START_BYTES,
    MonitorStart,
    parseStart,
)
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._reactor.log_limit import logLimit
from portlisten.errors import WrongSocket, firstLine

#: How long the start message may take, in seconds.
START_SECONDS = 30.0

#: How long accepting pauses if descriptors or memory run out, in seconds.
RETRY_SECONDS = 0.1


def receiveStart(link: socket.socket) -> tuple[MonitorStart, list[socket.socket]]:
    """
    Wait for the start message, and take the sockets that come with it.

    @param link: is connected to the parent, and stays the caller's.
    @return: the message, and the listening sockets, which the caller owns.
    @raise ControlError: if there is no start message in time, or the sockets do not fit
        it.  No descriptor stays open then but the link.
    """
    with ExitStack() as undo:
        line, descriptors = _readLine(link, undo)
        message = parseStart(line)
        if len(descriptors) != message.sockets:
            raise ControlError(
                f"{len(descriptors)} descriptors came with the start message, which"
                f" names {message.sockets}"
            )
        for descriptor in descriptors:
            _checkListening(descriptor)
        undo.pop_all()
    sockets = [socket.socket(fileno=each) for each in descriptors]
    for each in sockets:
        each.setblocking(False)
    return message, sockets


def _readLine(link: socket.socket, undo: ExitStack) -> tuple[bytes, list[int]]:
    """
    Read a line.

    @param undo: closes the descriptors that come.
    @raise ControlError: if that is impossible.
    """
    received, descriptors = b"", []
    end = time.monotonic() + START_SECONDS
    while not received.endswith(b"\n"):
        try:
            link.settimeout(max(0.001, end - time.monotonic()))
            data, came = _kernel.receive(link)
        except TimeoutError:
            raise ControlError(f"no start message within {START_SECONDS:g} s") from None
        except OSError as error:
            raise ControlError(
                f"the start message cannot be read: {error.strerror}"
            ) from None
        for each in came:
            undo.callback(os.close, each)
        descriptors += came
        received += data
        if not data:
            raise ControlError("the link was closed before the start")
        if len(received) > MAXIMUM_START_BYTES or len(descriptors) > MAXIMUM_SOCKETS:
            raise ControlError("the start message is too long")
    return received[:-1], descriptors


def _checkListening(descriptor: int) -> None:
    """
    Check that a descriptor leads to a listening socket.

    @param descriptor: stays the caller's.
    @raise ControlError: if it leads to nothing of that kind.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ControlError(
            f"a descriptor leads to no socket: {error.strerror}"
        ) from None
    try:
        if _kernel.kindOf(sock) is not Kind.LISTENER:
            raise WrongSocket("no listening socket")
    except WrongSocket as error:
        raise ControlError(f"a socket does not fit: it is {error}") from None
    finally:
        sock.detach()


class Server:
    """
    Serves by HTTP what its parent knows.

    @param reactor: any reactor; L{monotonicReactor
        <portlisten._reactor.monotonic.monotonicReactor>} makes its time monotonic.
    @param link: is connected to the parent.  The server owns it.
    @param sockets: the listening sockets, which the server owns.
    @param ended: called when the parent is gone.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        link: socket.socket,
        sockets: Sequence[socket.socket],
        ended: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._logLimited = logLimit(reactor)
        history = History()
        source = MonitorLink(reactor, link, ended)
        self._poll = Poll(reactor, source.latest, history)
        self.site: BoundedSite = makeSite(source, history, reactor)
        self._acceptors = [
            Acceptor(
                reactor,
                each,
                "the monitor's port",
                lambda: self.site.capacity,
                self._accepted,
                RETRY_SECONDS,
            )
            for each in sockets
        ]

    def start(self) -> None:
        """
        Accept on the sockets, and begin to ask.
        """
        self.site.doStart()
        for each in self._acceptors:
            each.resume()
        self._poll.start()

    def listen(self, description: str, failed: Callable[[str], object]) -> None:
        """
        Listen on an endpoint, and begin to ask when that is done.

        @param failed: called with the reason if that is impossible.
        """

        def fail(failure: Failure) -> None:
            failed(f"{description!r} cannot be listened on: {firstLine(failure.value)}")

        try:
            listening = serverFromString(self._reactor, description).listen(self.site)
        except Exception:
            fail(Failure())
            return
        listening.addCallbacks(lambda port: self._poll.start(), fail)

    def stop(self) -> None:
        """
        Accept no more.
        """
        self._poll.stop()
        for each in self._acceptors:
            each.close()

    def _accepted(self, batch: Sequence[Accepted]) -> None:
        for sock, _ in batch:
            try:
                # It duplicates the descriptor.
                self._reactor.adoptStreamConnection(
                    sock.fileno(), sock.family, self.site
                )
            except OSError as error:
                # Mostly, the client has left already.
                self._logLimited(
                    self.log.debug,
                    "a client is turned away: {error}",
                    event="http-refused",
                    error=error.strerror,
                )
            finally:
                sock.close()
