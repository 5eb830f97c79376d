"""
Clients in threads, which ask until they are told to end.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time


class Requests:
    """
    Asks, in several threads, and notes what went wrong.  Ends with the C{with}
    statement.

    @param keep: whether the clients keep their connections.  If the server has closed a
        connection that was kept, the client asks once more, as browsers do.

    @ivar right: how many answers were right.
    @ivar again: how often a client asked once more.
    @ivar wrong: what went wrong.
    """

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None = None,
        threads: int = 8,
        keep: bool = False,
        path: str = "/{number}",
        atMost: int = 0,
    ) -> None:
        self._port = port
        self._context = context
        self._keep = keep
        self._path = path
        self._atMost = atMost
        self._lock = threading.Lock()
        self._begun = 0
        self._stopped = threading.Event()
        self.right = 0
        self.again = 0
        self.wrong: list[str] = []
        self.slowest = 0.0
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for each in self._threads:
            each.start()

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """
        Let no client ask again.
        """
        self._stopped.set()

    def join(self) -> None:
        """
        Wait until all clients have ended.
        """
        for each in self._threads:
            each.join()

    def reach(self, count: int, patience: float = 60.0) -> None:
        """
        Wait until so many more requests were answered.
        """
        until = self.right + len(self.wrong) + count
        deadline = time.monotonic() + patience
        while self.right + len(self.wrong) < until:
            assert time.monotonic() < deadline, (self.right, self.wrong)
            time.sleep(0.01)

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        return http.client.HTTPSConnection(
            "localhost", self._port, timeout=30, context=self._context
        )

    def _run(self) -> None:
        connection = self._connect()
        while not self._stopped.is_set():
            with self._lock:
                self._begun += 1
                number = self._begun
            if self._atMost and number > self._atMost:
                break
            kept = connection.sock is not None
            start = time.monotonic()
            try:
                try:
                    self._ask(connection, number)
                except (http.client.RemoteDisconnected, ConnectionError):
                    if not kept:
                        raise
                    connection.close()
                    with self._lock:
                        self.again += 1
                    self._ask(connection, number)
            except Exception as error:
                connection.close()
                with self._lock:
                    self.wrong.append(repr(error))
            else:
                with self._lock:
                    self.right += 1
                    took = time.monotonic() - start
                    self.slowest = max(self.slowest, took)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        headers = {} if self._keep else {"Connection": "close"}
        path = self._path.format(number=number)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        expected = f"hello {path.rsplit('/', 1)[1]}\n".encode()
        if (response.status, body) != (200, expected):
            raise ValueError(f"{response.status} {body!r}")
        if not self._keep:
            connection.close()
