"""
Tests for L{portlisten._log.files}.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from portlisten._log.files import LogFile


class LogFileTests(SynchronousTestCase):
    """
    Tests for L{LogFile}.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.file = LogFile(str(self.path), maximum=10)
        self.addCleanup(lambda: os.close(self.file.descriptor))

    def texts(self) -> dict[str, str]:
        folder, name = self.path.parent, self.path.name
        found = sorted(folder.glob(f"{name}*"))
        return {each.name.removeprefix(name): each.read_text() for each in found}

    def test_size(self) -> None:
        """
        A file that is large enough is rotated before the next write.
        """
        for text in (b"1234567\n", b"89\n", b"abcdefghijk\n", b"l\n"):
            self.assertEqual(self.file.write(text), len(text))
        self.assertEqual(
            self.texts(), {"": "l\n", ".1": "abcdefghijk\n", ".2": "1234567\n89\n"}
        )

    def test_mode(self) -> None:
        """
        The new file has the mode of the old one.
        """
        self.path.chmod(0o604)
        self.file.write(b"1\n")
        self.file.rotate()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o604)

    def test_moved(self) -> None:
        """
        If another program has moved the file, a rotation goes on at the path, whether
        that program made a file there or not.
        """
        self.file.write(b"1\n")
        os.rename(self.path, f"{self.path}-old")
        self.file.write(b"2\n")
        self.path.touch(mode=0o600)
        self.file.rotate()
        self.file.write(b"3\n")
        self.assertEqual(self.texts(), {"": "3\n", "-old": "1\n2\n"})
        os.unlink(self.path)
        self.file.rotate()
        self.file.write(b"4\n")
        self.assertEqual(self.texts(), {"": "4\n", "-old": "1\n2\n"})

    def test_truncated(self) -> None:
        """
        After another program has truncated the file, no hole is in it.
        """
        self.file.write(b"1234\n")
        os.truncate(self.path, 0)
        self.file.write(b"5\n")
        self.assertEqual(self.texts(), {"": "5\n"})

    def test_cannot(self) -> None:
        """
        If the file cannot be rotated, it grows.
        """
        self.file.write(b"123456789\n")
        self.patch(self.file, "_shift", self._refuse)
        self.file.write(b"more\n")
        self.assertEqual(self.path.read_text(), "123456789\nmore\n")

    def _refuse(self, number: int) -> None:
        raise PermissionError

    def test_descriptors(self) -> None:
        """
        No descriptor is lost, and none is inherited.
        """
        before = len(os.listdir("/proc/self/fd"))
        self.file.write(b"1\n")
        self.file.rotate()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertFalse(os.get_inheritable(self.file.descriptor))
