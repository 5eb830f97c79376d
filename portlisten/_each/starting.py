"""
Starting a program for a connection.

The child process says on the channel that it may touch the connection, by GIVEN, and
only then becomes the program.  Two things depend on that.  If this process is killed
before the child has said so, the child still has the channel open.  So the listener
does not take this process for dead, and hands the connection to nobody else, before the
child has said it or has ended.  And the program starts with the connection only if
nobody else gets it.

C{os.posix_spawn} would start a program in a third of the time.  But its child can say
nothing, and C{LISTEN_PID} must be the number of the child.

A child that is forked may call anything here, since this process has one thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from portlisten import _kernel
from portlisten._process import forking, listen_fds

#: What the child says when it has said GIVEN.
_GIVEN = b"G"

_ERROR = struct.Struct("=i")

#: The errors of the announcement if the listener reads no more.
_READS_NO_MORE = frozenset([errno.EPIPE, errno.ECONNRESET])


class CannotStart(Exception):
    """
    The program cannot be started now.  A later try may succeed.

    @ivar given: whether the listener was told that others may touch the connection.
    """

    def __init__(self, error: OSError, given: bool = False) -> None:
        super().__init__(error.strerror)
        self.given = given


class NotAnnounced(Exception):
    """
    The listener reads no more from the channel, and so was told nothing.  A later try
    may succeed, when this process has read why.
    """


@dataclass(frozen=True)
class Program:
    """
    What is started for each connection.

    @ivar path: the path of the program.
    @ivar arguments: its arguments, from the name of the program on.
    @ivar environment: its environment, without what tells of the connection.
    @ivar listenFds: whether the connection is descriptor 3, and not 0 and 1.
    @ivar onStandardError: whether the connection is descriptor 2 as well.
    """

    path: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    listenFds: bool = False
    onStandardError: bool = False

    def start(
        self,
        connection: int,
        variables: Mapping[str, str],
        announcement: tuple[int, bytes] | None = None,
    ) -> int:
        """
        Start the program, in a session of its own.  This waits until it has begun.

        @param connection: the descriptor of the connection.  It stays the caller's.
        @param variables: those that tell of the connection.
        @param announcement: a descriptor, which stays the caller's, and what the child
            writes to it before it touches the connection.  L{None} for nothing.
        @return: the number of the process.  The caller must wait for the process.
        @raise CannotStart: if that is impossible now.
        @raise NotAnnounced: if the announcement cannot be written any more.
        """
        try:
            self._check()
            reader, writer = socket.socketpair()
        except OSError as error:
            raise CannotStart(error) from None
        environment = {**self.environment, **variables}
        status = writer.fileno()
        become = partial(self._become, connection, environment, announcement, status)
        try:
            child = forking.fork(become)
        except OSError as error:
            reader.close()
            raise CannotStart(error) from None
        finally:
            writer.close()
        said = _readAll(reader)
        given = said.startswith(_GIVEN)
        said = said.removeprefix(_GIVEN)
        if said:
            os.waitpid(child, 0)
            (number,) = _ERROR.unpack(said)
            if not given and number in _READS_NO_MORE:
                raise NotAnnounced
            raise CannotStart(OSError(number, os.strerror(number)), given)
        if announcement is not None and not given:
            os.waitpid(child, 0)
            raise CannotStart(
                OSError(errno.ECANCELED, "its process ended before it began")
            )
        return child

    def _check(self) -> None:
        """
        Check that the program is there, before the listener is told anything.

        @raise OSError: if it is not.
        """
        os.stat(self.path)
        if not os.access(self.path, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _become(
        self,
        connection: int,
        environment: dict[str, str],
        announcement: tuple[int, bytes] | None,
        status: int,
        blocked: forking.Mask,
    ) -> NoReturn:
        """
        Become the program.  Called in the child, and ends it.

        @param status: gets L{_GIVEN}, and then the number of an error.
        @param blocked: the signals that the program has blocked.
        """
        try:
            # Above the numbers that the program's descriptors get.
            above = listen_fds.FIRST_DESCRIPTOR + 1
            status = fcntl.fcntl(status, fcntl.F_DUPFD_CLOEXEC, above)
            connection = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, above)
            if announcement is not None:
                _kernel.sendBytes(*announcement)
                _tell(status, _GIVEN)
            os.setsid()
            os.set_blocking(connection, True)
            self._arrange(connection)
            if self.listenFds:
                environment.update(listen_fds.environment(["connection"]))
            forking.resetSignals(blocked)
            os.execve(self.path, self.arguments, environment)  # noqa: S606
        except OSError as error:
            _tell(status, _ERROR.pack(error.errno))
        finally:
            os._exit(127)

    def _arrange(self, connection: int) -> None:
        """
        Put the connection where the program expects it.
        """
        if self.listenFds:
            os.dup2(connection, listen_fds.FIRST_DESCRIPTOR)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return
        numbers = [0, 1, 2] if self.onStandardError else [0, 1]
        for number in numbers:
            os.dup2(connection, number)


def _tell(status: int, data: bytes) -> None:
    """
    Tell the parent, which may have been killed meanwhile.

    @raise OSError: if the parent lives, and cannot be told.
    """
    with suppress(BrokenPipeError, ConnectionResetError):
        _kernel.sendBytes(status, data)


def _readAll(reader: socket.socket) -> bytes:
    """
    Read a socket to its end, and close it.
    """
    with reader:
        return b"".join(iter(lambda: reader.recv(100), b""))
