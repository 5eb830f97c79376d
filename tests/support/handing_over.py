"""
A successor that is spoken by hand, in the reactor.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from portlisten import _kernel
from portlisten._control.messages import (
    Replace,
    encodeRequest,
)
from portlisten._handover.messages import (
    Commit,
    Message,
    Ready,
    Running,
    decode,
    encode,
)
from portlisten._wire.codec import FROM_LISTENER
from portlisten._wire.frames import (
    ListenerHello,
    WorkerHello,
)
from tests.support.channels import Peer, eventually


class Successor:
    """
    A successor that is spoken by hand.

    @ivar roles: the roles of the sockets that came.
    @ivar sockets: the sockets.
    @ivar transfer: its end of the channel to the predecessor.
    @ivar versions: the versions of the handover that it speaks.
    """

    versions: tuple[str, ...] = ("1",)

    def __init__(self, path: str) -> None:
        self.link = socket.socket(socket.AF_UNIX)
        self.link.connect(path)
        self.link.setblocking(False)
        self.received = b""
        self.descriptors: list[int] = []
        self.roles: list[str] = []
        self.sockets: list[socket.socket] = []
        self.transfer: Peer | None = None

    def say(self, *messages: Message | bytes) -> None:
        """
        Write.
        """
        for each in messages:
            self.link.send(each if isinstance(each, bytes) else encode(each))

    def line(self) -> bytes | None:
        """
        Read a line, if one has come.
        """
        try:
            data, descriptors = _kernel.receive(self.link)
        except (BlockingIOError, ConnectionResetError):
            data, descriptors = b"", []
        self.received += data
        self.descriptors += descriptors
        line, end, rest = self.received.partition(b"\n")
        if not end:
            return None
        self.received = rest
        return line

    async def hear(self) -> bytes:
        """
        Wait for a line.
        """
        lines: list[bytes | None] = []

        def came() -> bool:
            lines.append(self.line())
            return lines[-1] is not None

        await eventually(came)
        assert lines[-1] is not None
        return lines[-1]

    async def ask(self) -> dict[str, Any]:
        """
        Ask for the sockets, in one of L{versions}.

        @return: the manifest.
        """
        self.say(encodeRequest(Replace(self.versions)))
        manifest: dict[str, Any] = json.loads(await self.hear())
        self.roles = [each["role"] for each in manifest["sockets"]]
        self.sockets = [socket.socket(fileno=each) for each in self.descriptors]
        self.descriptors = []
        assert self.roles[-1] == "transfer"
        self.transfer = Peer(self.sockets.pop(), FROM_LISTENER)
        return manifest

    async def commit(self, *names: str) -> Commit:
        """
        Get so far that nobody accepts.
        """
        await self.ask()
        ports = [
            each
            for each, role in zip(self.sockets, self.roles, strict=False)
            if role == "port"
        ]
        self.say(Ready(tuple(map(_kernel.cookie, ports)), names or ("",)))
        commit = decode(await self.hear())
        assert isinstance(commit, Commit)
        return commit

    async def takeOver(self) -> Peer:
        """
        Take over, and join the predecessor.
        """
        await self.commit()
        self.say(Running(os.getpid()))
        transfer = self.transfer
        assert transfer is not None
        await eventually(lambda: transfer.heard(ListenerHello))
        transfer.say(WorkerHello(8, label="next-listener"))
        return transfer

    def close(self) -> None:
        """
        Die.
        """
        self.link.close()
        for sock in self.sockets:
            sock.close()
        for each in self.descriptors:
            os.close(each)
        if self.transfer is not None:
            self.transfer.close()
