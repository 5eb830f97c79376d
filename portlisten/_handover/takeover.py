"""
The successor's end of a handover.

All this happens before the reactor runs, so it may block: the predecessor serves
meanwhile.  Up to RUNNING, the successor accepts nothing, and removes no path: both are
the predecessor's.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from portlisten import _kernel
from portlisten._control.convert import ControlError, Refusal, prepare
from portlisten._control.messages import (
    Manifest,
    Replace,
    encodeRequest,
    parseAnswer,
)
from portlisten._handover.lines import LineReader
from portlisten._handover.messages import (
    MAXIMUM_LINE_BYTES,
    TOLD_TO_STOP,
    VERSIONS,
    Commit,
    Message,
    Ready,
    Running,
    Stopping,
    decode,
    encode,
)
from portlisten.errors import CannotTakeOver

#: How long the predecessor may take for each answer, in seconds.
ANSWER_SECONDS = 10.0

#: How many sockets may come.
MAXIMUM_SOCKETS = 16384


@dataclass
class Transfer:
    """
    What goes on after the takeover.

    @ivar link: the connection of the handover.  While it is open, the predecessor knows
        that this process lives.
    @ivar channel: is connected to the predecessor, which hands off what waits there.
    @ivar pid: the number of the predecessor's process.
    """

    link: socket.socket
    channel: socket.socket
    pid: int

    def close(self) -> None:
        """
        Close both.
        """
        self.link.close()
        self.channel.close()

    def sayStopping(self) -> None:
        """
        Tell the predecessor not to take back what it has handed over.
        """
        with suppress(OSError):  # it has ended
            _kernel.send(self.link, encode(Stopping()), [])


@dataclass
class Takeover:
    """
    Takes over from a listener.

    @ivar link: is connected to the predecessor.  This owns it.
    @ivar where: names the predecessor in errors.
    @ivar interrupted: says whether this process was told to stop.
    @ivar given: the sockets that came, by their roles; they belong to this until they
        are taken.
    @ivar pid: the number of the predecessor's process.
    """

    link: socket.socket
    where: str
    interrupted: Callable[[], bool] = lambda: False
    given: dict[str, list[socket.socket]] = field(default_factory=dict)
    pid: int = 0

    def __post_init__(self) -> None:
        self._channel: socket.socket | None = None
        self._reader = LineReader(
            self.link, MAXIMUM_LINE_BYTES, MAXIMUM_SOCKETS, self.interrupted
        )

    def ask(self) -> bool:
        """
        Ask for the sockets.

        @return: whether the predecessor lives.  If not, this is closed.
        @raise CannotTakeOver: if it refuses, or does not answer.  The predecessor goes
            on then, and this is closed.
        """
        try:
            # What comes may take the last free descriptors.
            prepare()
            # If it has closed its end for a reason, it says so first.
            self._send(encodeRequest(Replace(tuple(map(str, VERSIONS)))))
            line = self._read()
            if line is not None:
                self._take(parseAnswer(line, Manifest))
                return True
        except ControlError as error:
            self.close()
            raise self.failure(error) from None
        except BaseException:
            self.close()
            raise
        self.close()
        return False

    def _take(self, manifest: Manifest) -> None:
        """
        Take the sockets that came with a manifest.

        @raise ControlError: if they do not fit it.
        """
        self.pid = manifest.pid
        descriptors = self._reader.descriptors
        if len(descriptors) != len(manifest.sockets):
            raise ControlError(
                f"{len(descriptors)} of its {len(manifest.sockets)} sockets came: this"
                " process may have too few descriptors (ulimit -n)"
            )
        with ExitStack() as undo:
            for entry in manifest.sockets:
                try:
                    sock = socket.socket(fileno=descriptors[0])
                except OSError as error:
                    raise ControlError(
                        f"a descriptor leads to no socket: {error.strerror}"
                    ) from None
                del descriptors[0]
                undo.callback(sock.close)
                sock.setblocking(False)
                if entry.role == "transfer" and self._channel is None:
                    self._channel = sock
                else:
                    self.given.setdefault(entry.role, []).append(sock)
            if self._channel is None:
                raise ControlError("it gives no socket for what waits")
            undo.pop_all()

    def take(self, role: str) -> list[socket.socket]:
        """
        Take the sockets of a role.

        @return: the sockets, which are the caller's.
        """
        return self.given.pop(role, [])

    def commit(self, cookies: Iterable[int], names: Iterable[str]) -> Commit | None:
        """
        Let the predecessor accept nothing more.

        @param cookies: C{SO_COOKIE} of each socket of this process's ports.
        @param names: the names of its ports.
        @return: what the predecessor says; L{None} if it is dead, so that this process
            must serve at once.
        @raise CannotTakeOver: if it refuses, or does not answer.  It goes on then.
        """
        try:
            ready = Ready(tuple(cookies), tuple(dict.fromkeys(names)))
            self._send(encode(ready))
            message = self._expect()
            if message is None or isinstance(message, Commit):
                return message
        except ControlError as error:
            raise self.failure(error) from None
        raise self.failure("it sends a wrong message")

    def run(self) -> Transfer:
        """
        Say that this process takes over.  It does from now on, unless this raises.
        After that, this has nothing that is open.

        @return: what goes on, which is the caller's.  The predecessor may be dead.
        @raise CannotTakeOver: if the predecessor has waited for too long.  It goes on
            then.
        """
        try:
            # If the predecessor has closed its end for a reason, it says so first.
            if not self._send(encode(Running(os.getpid()))) and self._expect():
                raise ControlError("it sends a wrong message")
        except ControlError as error:
            raise self.failure(error) from None
        channel, self._channel = self._channel, None
        assert channel is not None
        self._closeGiven()
        return Transfer(self.link, channel, self.pid)

    def _expect(self) -> Message | None:
        line = self._read()
        return None if line is None else decode(line)

    def _send(self, data: bytes) -> bool:
        """
        @return: whether the other end is open.
        @raise ControlError: if it does not read.
        """
        try:
            if _kernel.send(self.link, data, []) == len(data):
                return True
        except BlockingIOError:
            pass
        except OSError:
            return False
        raise ControlError("it does not read what it is sent")

    def _read(self) -> bytes | None:
        try:
            return self._reader.read(time.monotonic() + ANSWER_SECONDS)
        except TimeoutError:
            raise ControlError(
                f"it does not answer within {ANSWER_SECONDS:g} s: see whether it is"
                " stopped"
            ) from None

    def failure(self, error: object) -> CannotTakeOver:
        """
        Make an error.

        @param error: why this process cannot take over.
        """
        text = str(error)
        if isinstance(error, Refusal) and text.startswith("unknown command"):
            text = (
                "it is of a release that cannot be replaced while it serves: stop it,"
                " and start this one without --replace"
            )
        who = f"{self.where} (pid {self.pid})" if self.pid else self.where
        end = "" if text == TOLD_TO_STOP else "; it goes on"
        return CannotTakeOver(f"cannot take over from {who}: {text}{end}")

    def _closeGiven(self) -> None:
        for sockets in self.given.values():
            for each in sockets:
                each.close()
        self.given.clear()

    def close(self) -> None:
        """
        Close all that was not taken.
        """
        self._reader.close()
        self._closeGiven()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.link.close()
