"""
A client of the control socket of a listener, or of its supervisor.  It blocks, and
needs no event loop.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from contextlib import suppress
from stat import S_ISSOCK
from typing import TypeVar

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Request, encodeRequest, parseAnswer
from portlisten._control.place import SUFFIX, controlPath

#: How long the listener may take to accept, and to answer a request, in seconds.
ANSWER_SECONDS = 10.0

#: How many bytes an answer may have.  A supervisor's may be longer than its listener's.
MAXIMUM_ANSWER_BYTES = 16 * 1024 * 1024

#: For how long a client tries to be let in while too many clients are connected, and
#: how long it pauses between two tries, in seconds.
BUSY_SECONDS = 1.5
PAUSE_SECONDS = 0.1

_BUSY = re.compile(r"\d+ clients are connected: wait")
_UNKNOWN = re.compile(r'unknown command "|\w+ means nothing to this listener')

_Answer = TypeVar("_Answer", bound=Answer)


class UnknownCommand(ControlError):
    """
    The other side does not know the command, or cannot do it.
    """


class ControlClient:
    """
    A connection to a listener's control socket.

    @ivar channel: the path of the listener's channel.
    @param channel: the path of the listener's channel.
    @param control: the path of its control socket; L{None} for the usual one, and
        empty if the listener has none.
    @raise ControlError: if the listener cannot be asked.
    """

    def __init__(self, channel: str, control: str | None = None) -> None:
        path = controlPath(channel, control)
        if path is None:
            raise ControlError(
                f"{channel}{SUFFIX} is too long for a socket: --control names the"
                " listener's control socket, if it has one"
            )
        if not path:
            raise ControlError(f"the listener at {channel} has no control socket")
        self.channel = channel
        self._path = path
        # Whether this connection has had an answer, and whether any has.
        self._answered = self._everAnswered = False
        self._connect()

    def _connect(self) -> None:
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            self._socket.connect(self._path)
        except OSError as error:
            self._socket.close()
            raise ControlError(_explain(error, self.channel, self._path)) from None

    def reconnect(self) -> None:
        """
        Close the connection, and connect again.

        @raise ControlError: if that fails.
        """
        self._socket.close()
        self._answered = False
        self._connect()

    @property
    def pid(self) -> int:
        """
        The number of the process that listens on the control socket, as far as the
        kernel knows: it is the one that called listen(2).

        @return: 0 if the kernel does not tell.
        """
        try:
            return _kernel.credentials(self._socket).pid
        except OSError:
            return 0

    def process(self) -> int | None:
        """
        Get a pidfd of the process that called listen(2) on the control socket.

        @return: the pidfd, which the caller owns; or L{None} if the kernel gives none,
            or the process has ended.
        """
        try:
            pidfd = _kernel.peerProcess(self._socket, self.pid)
        except ProcessLookupError:
            return None
        # Since Linux 6.15, the kernel gives one of a process that has ended, too.
        if pidfd is not None and _kernel.hasEnded(pidfd):
            os.close(pidfd)
            return None
        return pidfd

    def ask(self, request: Request) -> Answer:
        """
        Send a request, and wait for its answer.  While too many clients are connected,
        try again for a while.

        @return: an answer of the request's type.
        @raise UnknownCommand: if the listener does not know the request.
        @raise ControlError: if the listener refuses the request, does not answer it, or
            has ended.
        """
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                answer = self._ask(request)
            except ControlError as error:
                if _UNKNOWN.match(str(error)):
                    raise UnknownCommand(str(error)) from None
                isBusy = not self._answered and _BUSY.fullmatch(str(error))
                if not isBusy or time.monotonic() >= end:
                    raise
                time.sleep(PAUSE_SECONDS)
                self.reconnect()
            else:
                self._answered = self._everAnswered = True
                return answer

    def askFor(self, request: Request, kind: type[_Answer]) -> _Answer:
        """
        Do what L{ask} does, for an answer of a given type.
        """
        answer = self.ask(request)
        assert isinstance(answer, kind)
        return answer

    def askAgain(self, request: Request, kind: type[_Answer]) -> _Answer:
        """
        Do what L{askFor} does.  If the connection has ended since an earlier answer, as
        it does when this process was stopped for a while, connect again.  The request
        may then be answered twice.
        """
        try:
            return self.askFor(request, kind)
        except UnknownCommand:
            raise
        except ControlError:
            if not self._everAnswered:
                raise
        self.reconnect()
        return self.askFor(request, kind)

    def _ask(self, request: Request) -> Answer:
        try:
            try:
                self._socket.settimeout(ANSWER_SECONDS)
                self._socket.sendall(encodeRequest(request))
            except BrokenPipeError:
                pass  # the listener may have said why
            line = self._readLine()
        except TimeoutError:
            raise ControlError(
                f"the listener at {self.channel} does not answer within"
                f" {ANSWER_SECONDS:g} s: see whether it is stopped"
            ) from None
        except OSError as error:
            raise self._ended() from error
        return parseAnswer(line, request.ANSWER)

    def close(self) -> None:
        """
        Close the connection.
        """
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readLine(self) -> bytes:
        received = bytearray(self._received)
        end = time.monotonic() + ANSWER_SECONDS
        searched = 0
        while (length := received.find(b"\n", searched)) < 0:
            searched = len(received)
            # The time is for the whole answer: each byte could come late.
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            data = self._socket.recv(65536)
            if not data:
                raise self._ended()
            received += data
            if len(received) > MAXIMUM_ANSWER_BYTES:
                raise ControlError("the answer is too long")
        self._received = bytes(received[length + 1 :])
        return bytes(received[:length])

    def _ended(self) -> ControlError:
        return ControlError(f"the listener at {self.channel} has stopped")


def _explain(error: OSError, channel: str, path: str) -> str:
    """
    Say why the control socket cannot be used, and what to do.
    """
    if error.errno == errno.EACCES:
        return (
            f"{path}: {error.strerror}; only root, the user that started the listener"
            " and the listener's own user may ask it"
        )
    if error.errno == errno.ENOENT and os.path.lexists(channel):
        if not _isSocket(channel):
            return f"{channel} is no socket: give the path of a listener's channel"
        if channel.endswith(SUFFIX):
            return f"{channel} is a control socket: give the path without {SUFFIX}"
        return (
            f"the listener at {channel} has no control socket at {path}: it is older,"
            " or was started with --control; restart it, or give --control here, too"
        )
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"no listener runs at {channel}: start it, or check the path"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"the listener at {channel} does not answer: see whether it is stopped"
    if error.errno == errno.EPROTOTYPE:
        return f"{path} is no control socket of a listener"
    return f"{path}: {error.strerror or error}"


def _isSocket(path: str) -> bool:
    with suppress(OSError):
        return S_ISSOCK(os.stat(path).st_mode)
    return False
