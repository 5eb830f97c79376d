"""
The file of C{twistd --logfile}.
"""

from __future__ import annotations

import os
import stat

from portlisten._log.writer import Sink

#: How large the file may be before it is rotated, in bytes, as with C{twistd} itself.
MAXIMUM_BYTES = 1000000


class LogFile(Sink):
    """
    A file that is rotated as C{twistd} does: it becomes C{FILE.1}, the one before
    C{FILE.2}, and so on.  All is appended, so another program may truncate it.

    @param path: its path.
    @raise OSError: if it cannot be opened.
    """

    def __init__(self, path: str, maximum: int = MAXIMUM_BYTES) -> None:
        self._path = os.path.abspath(path)
        self._maximum = maximum
        super().__init__(self._open())
        self._size = os.fstat(self.descriptor).st_size

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, 0o666)

    def write(self, data: bytes) -> int:
        """
        See L{Sink.write}.
        """
        if self._size >= self._maximum:
            try:
                self.rotate()
            except OSError:
                # It grows on.  Its user may have no right to rename it.
                self._maximum += MAXIMUM_BYTES
        written = super().write(data)
        self._size += written
        return written

    def rotate(self) -> None:
        """
        Begin a new file.  If another program has moved the file away, as logrotate
        does, use the file that is at the path now, or make one.

        @raise OSError: if that is impossible.  Then the file stays in use.
        """
        mode = None
        if self._isAtPath():
            mode = stat.S_IMODE(os.fstat(self.descriptor).st_mode)
            self._size = os.fstat(self.descriptor).st_size
            if not self._size:
                return
            self._shift(1)
        new = self._open()
        if mode is not None:
            os.fchmod(new, mode)
        os.dup2(new, self.descriptor, inheritable=False)
        os.close(new)
        self._size = os.fstat(self.descriptor).st_size

    def _isAtPath(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def _shift(self, number: int) -> None:
        """
        Rename the file, or an older one, to the next older name.
        """
        new = f"{self._path}.{number}"
        if os.path.exists(new):
            self._shift(number + 1)
        old = f"{self._path}.{number - 1}" if number > 1 else self._path
        os.rename(old, new)
