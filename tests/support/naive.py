"""
The control: what the tests of faults must fail against.

L{main} is a listener that sends each connection to the next worker and closes
its own descriptor, as the program of 2002 did.  It speaks enough of the channel
for our workers to join, and listens to nothing that they say.

L{ByOrder} is a worker's end of a channel that takes the first descriptor that
came for the first offer, the second for the second, and so on.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import sys
from collections import deque
from typing import Any

from portlisten._channel.worker_end import WorkerChannel
from portlisten._wire.codec import encode
from portlisten._wire.frames import ListenerHello, Offer
from portlisten._wire.session import Do
from portlisten._wire.worker_events import Adopt, Event
from portlisten._wire.worker_session import WorkerSession


def main(port: int, path: str) -> None:
    """
    Listen, send and close, until killed.
    """
    clients = socket.create_server(("127.0.0.1", port), backlog=4096)
    workers = socket.socket(socket.AF_UNIX)
    workers.bind(path)
    workers.listen()
    print(f"listening on tcp:127.0.0.1:{clients.getsockname()[1]}; workers connect")
    sys.stdout.flush()
    joined: deque[socket.socket] = deque()
    count = 0
    ids = itertools.count(1)
    with selectors.DefaultSelector() as selector:
        selector.register(workers, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is workers:
                    worker, _ = workers.accept()
                    worker.sendall(encode(ListenerHello(window=128)))
                    joined.append(worker)
                    count += 1
                    print(f"worker {count} joined", flush=True)
                    if len(joined) == 1:
                        selector.register(clients, selectors.EVENT_READ)
                else:
                    client, _ = clients.accept()
                    with client:
                        send(client, next(ids), joined)
            if not joined and clients in selector.get_map():
                selector.unregister(clients)


def send(client: socket.socket, id: int, joined: deque[socket.socket]) -> None:
    """
    Send a connection to the next worker that takes it.
    """
    offer = encode(Offer(id, 0, cookie(client)))
    while joined:
        worker = joined[0]
        joined.rotate()
        try:
            worker.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            joined.remove(worker)
            continue
        try:
            socket.send_fds(worker, [offer], [client.fileno()])
            return
        except OSError:
            joined.remove(worker)


def cookie(sock: socket.socket) -> int:
    """
    C{SO_COOKIE}, which a worker tells descriptors by.
    """
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)


class SessionByOrder(WorkerSession[socket.socket]):
    """
    Takes the first descriptor that came for the first offer, without a claim.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._came: deque[socket.socket] = deque()

    def descriptorCame(self, token: socket.socket) -> list[Event[socket.socket]]:
        """
        See L{WorkerSession}.
        """
        self._came.append(token)
        return []

    def takeFirst(self, offer: Offer) -> None:
        """
        Take what came first.
        """
        if self._came:
            self._events.append(Adopt(offer, self._came.popleft()))


SessionByOrder.table = {
    state: {**row, Offer: Do(SessionByOrder.takeFirst)}
    for state, row in WorkerSession.table.items()
}


class ByOrder(WorkerChannel):
    """
    Trusts the order in which descriptors come.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        hello = self._session._hello
        self._session = SessionByOrder(hello.window, hello.names, hello.takes)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
