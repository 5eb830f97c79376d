"""
Faults for real processes: a clock that is stepped, and standing still.
"""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import pytest
from twisted.internet.task import LoopingCall

#: How often a clock is stepped that is stepped all the time, in seconds.
OFTEN = 0.02

HOUR = 3600.0

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Clock:
    """
    The wall clock of some processes, which a test can step.  The kernel's monotonic
    clock goes on.

    @param file: where the library reads how far the clock is off.
    @param step: by how many seconds L{disturb} steps the clock; or L{None} for
        small steps, back and forth, until L{rest}.
    """

    def __init__(self, file: Path, step: float | None) -> None:
        if not _LIBRARIES:
            pytest.skip("libfaketime is not installed: apt-get install faketime")
        self._file = file
        self._step = step
        self._offset = 0.0
        self._shaking = LoopingCall(self._shake)
        self._write()

    def under(self, *arguments: str) -> list[str]:
        """
        The command line of a program that is to see this clock.
        """
        return [
            "env",
            f"LD_PRELOAD={_LIBRARIES[0]}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DISABLE_SHM=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
            *arguments,
        ]

    def _write(self) -> None:
        # A reader must never find half of it.
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._offset:+.3f}")
        new.rename(self._file)

    def _shake(self) -> None:
        self._offset += random.uniform(-0.5, 0.45)
        self._write()

    def disturb(self) -> None:
        """
        Step the clock.
        """
        if self._step is None:
            self._shaking.start(OFTEN)
        else:
            self._offset += self._step
            self._write()

    def rest(self) -> None:
        """
        Leave the clock alone, and take back a step into the past.
        """
        if self._shaking.running:
            self._shaking.stop()
        if self._offset < 0:
            self._offset = 0.0
            self._write()


class NoDescriptors:
    """
    As a context manager: a process that cannot open anything.  It first waits until the
    process has closed what it is about to close.

    @param pid: the process, which must be of this user.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        used = self._used()
        before: set[int] = set()
        while used != before:
            before, used = used, self._used()
        free = next(number for number in range(len(used) + 1) if number not in used)
        self._limits = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)
        limits = (free, self._limits[1])
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, limits)

    def __exit__(self, *exc: object) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._limits)

    def _used(self) -> set[int]:
        time.sleep(0.1)
        return {int(each.name) for each in Path(f"/proc/{self._pid}/fd").iterdir()}
