"""
The processes that serve connections: starting one for each, and noticing its end.

A connection is I{waiting} until there is a process for it, and I{running} from then on.
Nobody touches a waiting connection: the header of a proxy is looked at, and is read
just before the program begins.  So if this process ends, the listener hands it to
another worker.  Only one waiting connection at a time is tried.  If its program cannot
be executed although it looks as if it could, the listener may have been told already
that others touch it.  Then that one connection depends on this process.

This process closes its own descriptor of a connection as soon as the program has begun.
So the client sees the end when the program ends, or closes the connection.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.clock import Clock, Soon
from portlisten._anyloop.interfaces import NO_REPORTS, Reports
from portlisten._each.environment import Internet, Unix
from portlisten._each.starting import CannotStart, NotAnnounced, Program
from portlisten._policy.complaints import Complaint
from portlisten._policy.networks import Network
from portlisten._ports.proxies import (
    NO_HEADER,
    Proxies,
    awaitHeader,
    lookAtHeader,
    takeHeader,
)
from portlisten._process.forking import signalName
from portlisten._reactor.log_limit import LogLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.proxy_header import Header, ProxyHeader

#: How long to wait before a program that could not be started is tried again, in
#: seconds.
RETRY_SECONDS = 0.5

#: How long to wait before that if only the channel was busy, or has just ended.
BUSY_SECONDS = 0.02


class Connection:
    """
    A connection that has not ended.

    @ivar descriptor: the descriptor, until the program has begun.
    @ivar peer: the two ends.
    @ivar begun: whether the header of a proxy, if there is one, was read.
    @ivar closed: reports the end.
    @ivar given: finds out what is to be said before another process touches it.
    @ivar process: the number of its process, or 0 if it has none yet.
    @ivar began: when the program began, in seconds.
    """

    __slots__ = ("began", "begun", "closed", "descriptor", "given", "peer", "process")

    def __init__(
        self,
        descriptor: int,
        peer: Internet | Unix,
        closed: Callable[[], None],
        given: Callable[[], tuple[int, bytes] | None],
    ) -> None:
        self.descriptor = descriptor
        self.peer = peer
        self.closed = closed
        self.given = given
        self.begun = True
        self.process = 0
        self.began = 0.0


class Children:
    """
    Starts a program for each connection.  The owner calls L{reap} after each SIGCHLD.

    @param limit: the most processes at a time.
    @param changed: called each time that the number of connections has changed.
    @param proxies: the networks of proxies whose headers are believed.

    @ivar connections: all connections that have not ended.
    @ivar running: those that have a process, by its number.
    """

    gives = True

    def __init__(
        self,
        clock: Clock,
        program: Program,
        limit: int,
        changed: Callable[[], None],
        proxies: Iterable[Network] = (),
    ) -> None:
        self._proxies = Proxies(proxies)
        self._unknown: set[Connection] = set()
        self._clock = clock
        self._program = program
        self._limit = limit
        self._changed = changed
        self._logLimited = LogLimit(clock)
        self._complaint = Complaint()
        self._waiting: list[Connection] = []
        self._soon = Soon(clock, self._startOne)
        self._pause = Pause(clock, self._soon.request)
        self._ending = False
        self.connections: set[Connection] = set()
        self.running: dict[int, Connection] = {}

    # What a worker calls

    def adopt(
        self,
        descriptor: int,
        cookie: int | None = None,
        reports: Reports = NO_REPORTS,
    ) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.
        """
        try:
            peer = identify(descriptor)
        except OSError as error:
            os.close(descriptor)
            gone = error.errno == errno.ENOTCONN
            (reports.clientGone if gone else reports.closed)()
            return
        connection = Connection(descriptor, peer, reports.closed, reports.given)
        self.connections.add(connection)
        if isinstance(peer, Internet) and self._proxies.believes(
            (peer.remoteHost, peer.remotePort)
        ):
            self._identify(connection, peer)
        else:
            self._waiting.append(connection)
        self._changed()
        self._startSoon()

    def _identify(self, connection: Connection, proxy: Internet) -> None:
        """
        Find out who the client of a proxy is.

        @param proxy: the two ends, as the kernel knows them.
        """
        self._unknown.add(connection)

        def look() -> Header | ProxyHeader:
            if connection not in self._unknown:
                return Header.WRONG  # it was abandoned
            return lookAtHeader(connection.descriptor)

        def done(header: ProxyHeader | None) -> None:
            if connection not in self._unknown:
                return
            self._unknown.discard(connection)
            if header is None:
                self._refuse(connection, proxy.remoteHost)
                return
            connection.begun = False
            if header.client is not None:
                host, port = header.client
                connection.peer = replace(proxy, remoteHost=host, remotePort=port)
            self._waiting.append(connection)
            self._startSoon()

        awaitHeader(look, self._clock.callLater, done)

    def _refuse(self, connection: Connection, proxy: str) -> None:
        """
        Close a connection whose proxy does not say who the client is.
        """
        self._logLimited(log.warning, NO_HEADER, event="header-missing", host=proxy)
        with _kernel.received(connection.descriptor) as sock, suppress(OSError):
            # While the listener has its copy, closing sends nothing.
            sock.shutdown(socket.SHUT_RDWR)
        self.connections.discard(connection)
        connection.closed()
        self._changed()

    def drain(self) -> None:
        """
        Do nothing: the programs know when to end.
        """

    def undrain(self) -> None:
        """
        Do nothing.
        """

    def abandon(self) -> None:
        """
        Close the connections that no program has.
        """
        self.startNoMore()
        for connection in [*self._waiting, *self._unknown]:
            os.close(connection.descriptor)
            self.connections.discard(connection)
        self._waiting.clear()
        self._unknown.clear()
        self._logLimited.flush()

    # Starting

    def _startSoon(self) -> None:
        if (
            self._waiting
            and not self._pause.active
            and not self._ending
            and len(self.running) < self._limit
        ):
            self._soon.request()

    def _startOne(self) -> None:
        """
        Start the program for the oldest connection that waits.  The next one gets the
        next turn of the loop, since this takes a few milliseconds.
        """
        if not self._waiting or len(self.running) >= self._limit:
            return
        connection = self._waiting[0]
        if not connection.begun:
            connection.begun = True
            takeHeader(connection.descriptor)
        try:
            process = self._program.start(
                connection.descriptor, connection.peer.variables(), connection.given()
            )
        except (BlockingIOError, NotAnnounced):
            self._pause.begin(BUSY_SECONDS)
            return
        except CannotStart as error:
            if error.given:
                connection.given = NO_REPORTS.given
            self._startLater(str(error))
            return
        self._complaint.clear()
        del self._waiting[0]
        os.close(connection.descriptor)
        connection.process = process
        connection.began = self._clock.seconds()
        self.running[process] = connection
        log.debug(
            "connection of {peer} is process {pid}",
            event="program-started",
            peer=connection.peer,
            pid=process,
        )
        self._startSoon()

    def _startLater(self, why: str) -> None:
        if self._complaint.isNew(why):
            self._logLimited(
                log.warning,
                "{path} cannot be started, and is tried again every {delay:g} s, while"
                " {count} connections wait: {why}",
                event="program-not-started",
                path=self._program.path,
                delay=RETRY_SECONDS,
                count=len(self._waiting),
                why=why,
            )
        self._pause.begin(RETRY_SECONDS)

    # Ending

    def reap(self) -> None:
        """
        Take note of the processes that have ended.
        """
        ended = False
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not process:
                break
            connection = self.running.pop(process, None)
            # Process 1 of a container gets the children of others as well.
            if connection is not None:
                ended = True
                self.connections.discard(connection)
                self._logEnd(connection, os.waitstatus_to_exitcode(status))
                connection.closed()
        if ended:
            self._changed()
            self._startSoon()

    def _logEnd(self, connection: Connection, code: int) -> None:
        if code < 0:
            how = f"was killed by {signalName(-code)}"
        else:
            how = f"ended with code {code}"
        write: Callable[..., None] = log.debug
        if code < 0 and not self._ending:
            write = log.warning
        elif code:
            write = log.info
        fields = {
            "pid": connection.process,
            "peer": connection.peer,
            "how": how,
            "seconds": self._clock.seconds() - connection.began,
        }
        format = "process {pid} ({peer}) {how} after {seconds:.1f} s"
        if code:
            self._logLimited(write, format, event="program-ended", **fields)
        else:
            write(format, event="program-ended", **fields)

    def startNoMore(self) -> None:
        """
        Start no process any more.
        """
        self._ending = True
        self._soon.cancel()
        self._pause.cancel()

    def end(self, number: signal.Signals) -> None:
        """
        Send a signal to each process that serves a connection, and to the other
        processes of its group.  Start none any more.
        """
        self.startNoMore()
        for process in self.running:
            try:
                os.killpg(process, number)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended, or is another user's by now


def identify(descriptor: int) -> Internet | Unix:
    """
    Find out the two ends of a connection.  Does not keep the descriptor.

    @raise OSError: C{ENOTCONN} if the client has left.
    """
    family = _kernel.family(descriptor)
    sock = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
    try:
        local, remote = sock.getsockname(), sock.getpeername()
        if family != socket.AF_UNIX:
            return Internet(local[0], local[1], remote[0], remote[1])
        client = _kernel.credentials(sock)
        return Unix(
            os.fsdecode(local),
            os.fsdecode(remote),
            client.pid,
            client.uid,
            client.gid,
        )
    finally:
        sock.detach()
