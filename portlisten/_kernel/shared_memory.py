"""
Memory that several processes share: memfd_create(2), fcntl(2) for its seals.

A process that can truncate a file ends, by SIGBUS, each process that has mapped it.  So
the memory is sealed against that before anybody gets it, and whoever gets it looks at
the seals first.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from contextlib import suppress

# linux/include/uapi/linux/memfd.h and fcntl.h.  Python lacks some of them, or has them
# only if it was built with new headers.
_MFD_NOEXEC_SEAL = 8  # since Linux 6.3
_F_SEAL_SEAL = 1
_F_SEAL_SHRINK = 2
_F_SEAL_GROW = 4
_F_SEAL_FUTURE_WRITE = 16  # since Linux 5.1
_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034

_SIZE_SEALS = _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW


class WrongMemory(Exception):
    """
    A descriptor leads to no memory that can be used here.
    """


class SharedMemory:
    """
    Mapped memory, which has one size as long as it is there.

    @ivar descriptor: of the memory; owned by this object until L{close}.
    @ivar view: the memory, as numbers of 32 bits in the machine's byte order.
    """

    def __init__(self, descriptor: int, size: int, writable: bool) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE * writable
        self._map = mmap.mmap(descriptor, size, mmap.MAP_SHARED, access)
        self.descriptor = descriptor
        self.view = memoryview(self._map).cast("I")

    @property
    def number(self) -> int:
        """
        See L{memoryNumber}.
        """
        return os.fstat(self.descriptor).st_ino

    def close(self) -> None:
        """
        Close the descriptor, and unmap the memory.  May be called again.
        """
        if self.descriptor >= 0:
            self.view.release()
            self._map.close()
            os.close(self.descriptor)
            self.descriptor = -1


def createMemory(name: str, size: int, writable: bool) -> SharedMemory:
    """
    Make memory of zeros, for this process and for those that get its descriptor.  No
    other user can open it, by way of C{/proc} or otherwise.

    @param name: for C{/proc/pid/maps}.
    @param size: in bytes.
    @param writable: whether the others may write.  This process may.
    @return: the caller closes it.
    @raise OSError: if the kernel has no memory, or no descriptor is free.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.memfd_create(name, flags)
    memory = None
    try:
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, size)
        memory = SharedMemory(descriptor, size, True)
        seals = _SIZE_SEALS | (0 if writable else _F_SEAL_FUTURE_WRITE)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, seals)
    except BaseException:
        if memory is None:
            os.close(descriptor)
        else:
            memory.close()
        raise
    return memory


def memoryNumber(descriptor: int) -> int | None:
    """
    Find out which memory a descriptor from another process leads to.  Does not keep the
    descriptor.

    @return: the number of its inode, which is the same in each process that has a
        descriptor of it, and no other memory's at the same time; or L{None} if this is
        no memory that can be sealed.
    """
    try:
        fcntl.fcntl(descriptor, _F_GET_SEALS)
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_ino if stat.S_ISREG(status.st_mode) else None


def attachMemory(descriptor: int, size: int, writable: bool) -> SharedMemory:
    """
    Map memory that another process has made by L{createMemory}.

    @param descriptor: owned by the result from now on.  If this fails, it is closed.
    @param size: which size it must have, in bytes.
    @param writable: whether to write.
    @return: the caller closes it.
    @raise WrongMemory: if it has another size, or its size is not sealed.
    @raise OSError: if the kernel does not map it.
    """
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
        if seals & _SIZE_SEALS != _SIZE_SEALS:
            raise WrongMemory("memory whose size may change")
        found = os.fstat(descriptor).st_size
        if found != size:
            raise WrongMemory(f"memory of {found} bytes, where {size} are needed")
        return SharedMemory(descriptor, size, writable)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
