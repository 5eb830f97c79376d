"""
Clients that ask again and again: C{python -m tests.systemd.client PORT AT-ONCE}.

They go on until the standard input ends.  Then the answers that are still to come are
waited for, and the counts are written as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter

#: How long an answer may take, in seconds.
PATIENCE = 30.0

#: Each second client asks for the first path.  Its answer takes a moment, so that
#: requests are in service at any time.
PATHS = ("/slow.rpy", "/")

#: The pauses after an answer, and after a refusal, in seconds.
PAUSE_SECONDS = 0.005
REFUSED_SECONDS = 0.01


class Clients:
    """
    Clients in threads.

    @ivar counts: how many clients got an answer (C{ok}), were C{refused}, were reset or
        got a part of the answer (C{cut}), got none in time (C{late}), or got another
        answer (C{wrong}).
    @ivar refusals: when clients were refused, in monotonic seconds.
    @ivar longest: how long the slowest client took that got its answer, in seconds.
    @ivar errors: what some of the others saw.
    """

    def __init__(self, port: int) -> None:
        self.counts: Counter[str] = Counter(ok=0, refused=0, cut=0, late=0, wrong=0)
        self.refusals: list[float] = []
        self.longest = 0.0
        self.errors: list[str] = []
        self.go = True
        self._port = port
        self._lock = threading.Lock()

    def repeat(self, path: str) -> None:
        """
        Ask until the end.
        """
        while self.go:
            began = time.monotonic()
            kind, text = self._ask(path)
            took = time.monotonic() - began
            with self._lock:
                self.counts[kind] += 1
                if kind == "refused":
                    self.refusals.append(began)
                elif kind == "ok":
                    self.longest = max(self.longest, took)
                elif len(self.errors) < 5:
                    self.errors.append(f"{kind} after {took:.2f} s at {path}: {text}")
            time.sleep(REFUSED_SECONDS if kind == "refused" else PAUSE_SECONDS)

    def _ask(self, path: str) -> tuple[str, str]:
        """
        Ask once.

        @return: a name of L{counts}, and a text for L{errors}.
        """
        answer = b""
        try:
            address = ("127.0.0.1", self._port)
            with socket.create_connection(address, PATIENCE) as client:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                while data := client.recv(4096):
                    answer += data
        except ConnectionRefusedError:
            return "refused", ""
        except TimeoutError:
            return "late", repr(answer)
        except OSError as error:
            return "cut", f"{error}, {answer!r}"
        if not answer.endswith(b"\r\n\r\nhello\n"):
            return "wrong" if answer else "cut", repr(answer[:200])
        return "ok", ""


def main() -> None:
    """
    Run the clients of the command line.
    """
    clients = Clients(int(sys.argv[1]))
    threads = [
        threading.Thread(target=clients.repeat, args=[PATHS[number % 2]])
        for number in range(int(sys.argv[2]))
    ]
    for each in threads:
        each.start()
    sys.stdin.read()
    clients.go = False
    for each in threads:
        each.join()
    window = clients.refusals and max(clients.refusals) - min(clients.refusals)
    print(
        json.dumps(
            {
                **clients.counts,
                "window": window or 0.0,
                "longest": clients.longest,
                "errors": clients.errors,
            }
        )
    )


if __name__ == "__main__":
    main()
