"""
A listener that is replaced, in a thread, spoken by hand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from shutil import rmtree
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    Replace,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from portlisten._handover.messages import Commit, Message, decode, encode
from portlisten._listener import successor
from portlisten._wire.codec import FROM_WORKER
from tests.support.channels import PATIENCE, Peer
from tests.support.descriptors import watchDescriptors

COMMIT = Commit(False, ())


class Predecessor:
    """
    Lives at a path, and serves one successor.

    @param path: the path that workers connect to.
    @param ports: the sockets of its ports.
    @param refusal: what it answers instead of the sockets.
    @param commit: what it answers when the successor is ready: a message, the reason of
        a refusal; or nothing, and it ends.

    @ivar heard: what the successor has said.
    @ivar transfer: its end of the channel to the successor.
    @ivar link: the connection of the handover.
    """

    def __init__(
        self,
        path: str,
        ports: Sequence[socket.socket] = (),
        refusal: str = "",
        commit: Commit | str | None = COMMIT,
    ) -> None:
        self.channel = self._bind(path)
        self.control = self._bind(f"{path}.ctl")
        self._paths = (path, f"{path}.ctl")
        self.ports = list(ports)
        self._refusal = refusal
        self._commit = commit
        self.heard: list[Message] = []
        ours, self._theirs = socket.socketpair()
        self.transfer = Peer(ours, FROM_WORKER)
        self.link: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _bind(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        return sock

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self.link, _ = self.control.accept()
            self.link.settimeout(PATIENCE)
            with self.link.makefile("rb") as lines:
                self._talk(self.link, lines)
        self._theirs.close()

    def _talk(self, link: socket.socket, lines: object) -> None:
        iterator = iter(lines)  # type: ignore[call-overload]
        line = next(iterator, None)
        if line is None:
            return  # it was not asked
        assert isinstance(parseRequest(line), Replace)
        if self._refusal:
            link.sendall(encodeError(self._refusal))
            return
        sockets = [*self.ports, self.channel, self.control, self._theirs]
        roles = ["port"] * len(self.ports) + ["channel", "control", "transfer"]
        manifest = Manifest(1, os.getpid(), tuple(map(HandedSocket, roles)))
        data = encodeAnswer(manifest)
        socket.send_fds(link, [data], [each.fileno() for each in sockets])
        self._theirs.close()
        for line in iterator:
            self.heard.append(decode(line.strip()))
            if len(self.heard) > 1:
                continue
            if self._commit is None:
                link.shutdown(socket.SHUT_RDWR)
                return
            reply = self._commit
            text = encodeError(reply) if isinstance(reply, str) else encode(reply)
            link.sendall(text)

    def join(self) -> None:
        """
        Wait until the successor has closed the connection.
        """
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        """
        End, but leave the paths.
        """
        for sock in (self.control, self.link):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.join()
        for sock in (self.channel, self.control, self.link, *self.ports):
            if sock is not None:
                sock.close()
        self.transfer.close()

    def remove(self) -> None:
        """
        End, and remove the paths that are still there.
        """
        self.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class TakingOverTestCase(SynchronousTestCase):
    """
    A path, where a predecessor may live.
    """

    def setUp(self) -> None:
        """
        Make a folder.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.folder = tempfile.mkdtemp()
        self.addCleanup(rmtree, self.folder)
        self.path = f"{self.folder}/s"
        self.predecessor: Any = None
        # Nobody says HELLO here.
        self.patch(successor, "HELLO_SECONDS", 0.001)

    def live(self, *ports: socket.socket, **others: Any) -> Predecessor:
        """
        Let a predecessor live at the path.
        """
        self.predecessor = Predecessor(self.path, ports, **others)
        self.addCleanup(self.predecessor.close)
        return self.predecessor  # type: ignore[no-any-return]

    def tcp(self) -> socket.socket:
        """
        Make a listening socket, which the predecessor closes.
        """
        return socket.create_server(("127.0.0.1", 0))
