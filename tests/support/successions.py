"""
Listeners that take over from one another, without a pause.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

#: How long one may take, in seconds.
SECONDS = 60.0


class Successions:
    """
    Starts one listener after the other, each with C{--replace}, in a thread.

    @param command: the command of each.
    @param log: the file that each logs to.
    @param first: the listener that lives.

    @ivar count: how many have taken over.
    @ivar errors: what went wrong.
    """

    def __init__(
        self, command: Sequence[str], log: Path, first: subprocess.Popen[bytes]
    ) -> None:
        self._command = command
        self._log = log
        self._current = first
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.errors: list[str] = []

    def start(self) -> None:
        """
        Begin.
        """
        self._thread.start()

    def _run(self) -> None:
        while not self._enough.is_set() and not self.errors:
            with self._log.open("ab") as file:
                heir = subprocess.Popen(self._command, stdout=file, stderr=file)
            try:
                code = self._current.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.errors.append("a listener does not end after its replacement")
                heir.kill()
                heir.wait()
                return
            if code:
                self.errors.append(f"a listener exited with {code}")
            self._current = heir
            self.count += 1

    def stop(self) -> subprocess.Popen[bytes]:
        """
        End.

        @return: the listener that lives.
        """
        self._enough.set()
        self._thread.join()
        return self._current
