"""
A worker that does what a line of its standard input says, and nothing else:
C{python -m tests.support.scripted PATH}.
"""

from __future__ import annotations

import os
import socket
import sys

from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import (
    Bye,
    Claim,
    Offer,
    WorkerHello,
)


class Worker:
    """
    Each method is a command.

    @param path: the channel's.
    """

    def __init__(self, path: str) -> None:
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.connect(path)
        self._channel.sendall(encode(WorkerHello(8)))
        self._decoder = Decoder(FROM_LISTENER)
        self._held: list[socket.socket] = []

    def claim(self) -> None:
        """
        Claim the next offer.
        """
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._channel, 65536, 253)
            self._held += [socket.socket(fileno=each) for each in descriptors]
            frames = list(self._decoder.feed(data))
            ids = [each.id for each in frames if isinstance(each, Offer)]
            if ids:
                self._channel.sendall(encode(Claim(tuple(ids))))
                return
            assert data, "the channel has ended"

    def touch(self) -> None:
        """
        Read from the claimed connection.
        """
        for each in self._held:
            each.recv(1)

    def answer(self) -> None:
        """
        Serve the claimed connection.
        """
        for each in self._held:
            each.sendall(b"scripted")
            each.close()

    def bye(self) -> None:
        """
        Say BYE, and close the channel.
        """
        self._channel.sendall(encode(Bye("as the test asks for")))
        self._channel.close()

    def die(self) -> None:
        """
        End at once.
        """
        os._exit(0)


def main() -> None:
    """
    Carry out each command, and confirm it.
    """
    worker = Worker(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        getattr(worker, line.strip())()
        print("did", line.strip(), flush=True)


if __name__ == "__main__":
    main()
