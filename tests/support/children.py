"""
Python processes that tests start, and a stand-in for a reactor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from twisted.internet.error import ReactorNotRunning
from twisted.trial.unittest import SynchronousTestCase


def children() -> set[int]:
    """
    The processes that this one has started, and has not waited for.
    """
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(each) for each in file.read().split()}


def inChild(test: Callable[[], object]) -> str:
    """
    Run something in a forked child.

    @return: the text of its result, or of the exception that it raised.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writer, 1)
            try:
                result = test()
            except Exception as error:
                result = repr(error)
            os.write(1, str(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as file:
        return file.read()


class Child:
    """
    A Python process.

    @param code: the program.
    """

    def __init__(self, test: SynchronousTestCase, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        test.addCleanup(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def readLine(self) -> str:
        """
        Wait for a line of its output.
        """
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def terminate(self) -> None:
        """
        Send SIGTERM.
        """
        self._process.terminate()

    def wait(self) -> tuple[int, str, str]:
        """
        Wait for its end.

        @return: its exit code, its standard output, and its standard error.
        """
        output, errors = self._process.communicate(timeout=60)
        return self._process.returncode, output, errors


class StandInReactor:
    """
    A reactor that only counts how often it was stopped.
    """

    def __init__(self, running: bool) -> None:
        self.running = running
        self.stops = 0

    def stop(self) -> None:
        """
        See L{IReactorCore.stop}.
        """
        if not self.running:
            raise ReactorNotRunning
        self.stops += 1
