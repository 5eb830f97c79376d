"""
A client of a listener's control socket.  It blocks, and needs no event loop.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from stat import S_ISSOCK

from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Request, encodeRequest, parseAnswer
from portlisten._control.place import SUFFIX, controlPath

#: How long the listener may take to accept, and to answer a request, in seconds.
ANSWER_SECONDS = 10.0

#: How many bytes an answer may have.
MAXIMUM_ANSWER_BYTES = 4 * 1024 * 1024


class ControlClient:
    """
    A connection to a listener's control socket.

    @param channel: the path of the listener's channel.
    @param control: the path of its control socket; L{None} for the usual one.
    @raise ControlError: if the listener cannot be asked.
    """

    def __init__(self, channel: str, control: str | None = None) -> None:
        path = controlPath(channel, control)
        if not path:
            raise ControlError(
                f"{channel}{SUFFIX} is too long for a socket: --control names the"
                " listener's control socket, if it has one"
            )
        self._channel = channel
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ControlError(_explain(error, channel, path)) from None

    def ask(self, request: Request) -> Answer:
        """
        Send a request, and wait for its answer.

        @return: an answer of the request's type.
        @raise ControlError: if the listener refuses the request, does not answer it, or
            has ended.
        """
        try:
            try:
                self._socket.sendall(encodeRequest(request))
            except BrokenPipeError:
                pass  # the listener may have said why
            line = self._readLine()
        except TimeoutError:
            raise ControlError(
                f"the listener at {self._channel} does not answer within"
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
        while b"\n" not in self._received:
            data = self._socket.recv(65536)
            if not data:
                raise self._ended()
            self._received += data
            if len(self._received) > MAXIMUM_ANSWER_BYTES:
                raise ControlError("the answer is too long")
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> ControlError:
        return ControlError(f"the listener at {self._channel} has stopped")


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
