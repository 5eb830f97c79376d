"""
Logs in JSON, and descriptors to which no log can be written, for tests.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE

#: A worker that answers each piece of data with its process id, and keeps the
#: connection.
KEEPER = """
import os, sys
from twisted.internet import endpoints, protocol, reactor
class Keeper(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(b"%d\\n" % os.getpid())
factory = protocol.Factory.forProtocol(Keeper)
endpoints.serverFromString(reactor, sys.argv[1]).listen(factory)
print('{"event": "client-lost", "process": "listener", "level": "forged"}', flush=True)
print("plain", flush=True)
reactor.run()
"""

#: A program that writes so many lines, and then becomes C{sleep 1000}.
NOISE = """
import os, sys
for number in range(int(sys.argv[1])):
    print("noise", number)
sys.stdout.flush()
os.execvp("sleep", ["sleep", "1000"])
"""


def parse(text: str) -> list[dict[str, Any]]:
    """
    Parse a log line by line.  Each line must be an object with the keys that all have.
    """
    found = []
    for line in text.splitlines():
        event = json.loads(line)
        assert isinstance(event, dict), line
        assert {"time", "event", "level"} <= event.keys(), line
        found.append(event)
    return found


def unexplained(peers: Sequence[str], log: Path) -> int:
    """
    Count the clients that were lost and that a log of JSON does not name with a reason.
    """
    named = {
        each["peer"]
        for each in parse(log.read_text())
        if each["event"] in ("client-lost", "client-kept") and each["reason"]
    }
    return sum(each not in named for each in peers)


class Pipe:
    """
    A pipe that is full until it is read.

    @ivar writer: the end for a process; L{release} closes it here.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.writer, False)
        self.filled = 0
        with suppress(BlockingIOError):
            while True:
                self.filled += os.write(self.writer, b"\n")
        os.set_blocking(self.writer, True)
        self._read = b""

    def release(self) -> None:
        """
        Close the writing end of this process.
        """
        os.close(self.writer)

    def readUntil(self, done: Callable[[str], bool]) -> str:
        """
        Read until the text is as it should be, or the pipe ends.

        @return: the text so far, without what filled the pipe.
        """
        end = time.monotonic() + PATIENCE
        while not done(text := self._read[self.filled :].decode()):
            assert select.select([self._reader], [], [], end - time.monotonic())[0]
            data = os.read(self._reader, 65536)
            if not data:
                break
            self._read += data
        return text

    def close(self) -> None:
        """
        Close the reading end.
        """
        os.close(self._reader)


class Spawned:
    """
    A process with a standard output of the caller's, which ends with C{with}.

    @ivar errors: the file that has its standard error.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        output: int,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.errors = folder / "errors"
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **(variables or {})},
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """
        Whether it has not ended.
        """
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """
        What it wrote to standard error.
        """
        return self.errors.read_text()

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        self._process.send_signal(number)

    def stop(self) -> int:
        """
        Send it SIGTERM, and wait for its end.

        @return: its exit code.
        """
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def __enter__(self) -> Spawned:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
