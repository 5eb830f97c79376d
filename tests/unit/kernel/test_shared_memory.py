"""
Tests for L{portlisten._kernel.shared_memory}.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import shared_memory
from portlisten._kernel.shared_memory import (
    SharedMemory,
    WrongMemory,
    attachMemory,
    createMemory,
    memoryNumber,
)
from tests.support.descriptors import watchDescriptors

SIZE = 4096


class MemoryTests(SynchronousTestCase):
    """
    Tests for all of it.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def create(self, writable: bool = True) -> SharedMemory:
        """
        Make some.
        """
        memory = createMemory("portlisten-test", SIZE, writable)
        self.addCleanup(memory.close)
        return memory

    def copy(self, memory: SharedMemory) -> int:
        """
        Make another descriptor of it, as another process gets one.
        """
        return os.dup(memory.descriptor)

    def test_shared(self) -> None:
        """
        What one holder writes, the other reads, and both tell it by the same number.
        """
        first = self.create()
        second = attachMemory(self.copy(first), SIZE, True)
        self.addCleanup(second.close)
        first.view[3] = 7
        second.view[4] = 0xFFFFFFFF
        self.assertEqual(first.view[3:5].tolist(), second.view[3:5].tolist())
        self.assertEqual(len(first.view), SIZE // 4)
        self.assertEqual(first.number, second.number)
        self.assertEqual(memoryNumber(second.descriptor), first.number)
        self.assertNotEqual(self.create().number, first.number)

    def test_sizeIsSealed(self) -> None:
        """
        Nobody can change its size, or take the seals away.
        """
        for writable in (False, True):
            descriptor = self.create(writable).descriptor
            for size in (0, 2 * SIZE):
                error = self.assertRaises(OSError, os.ftruncate, descriptor, size)
                self.assertEqual(error.errno, errno.EPERM)
            error = self.assertRaises(
                OSError, fcntl.fcntl, descriptor, shared_memory._F_ADD_SEALS, 8
            )
            self.assertEqual(error.errno, errno.EPERM)

    def test_readOnly(self) -> None:
        """
        Memory that is not writable can be written by its maker alone, and not by way of
        C{/proc} either.
        """
        memory = self.create(writable=False)
        reader = attachMemory(self.copy(memory), SIZE, False)
        self.addCleanup(reader.close)
        memory.view[0] = 5
        self.assertEqual(reader.view[0], 5)
        with self.assertRaises(TypeError):
            reader.view[0] = 6
        error = self.assertRaises(OSError, attachMemory, self.copy(memory), SIZE, True)
        self.assertEqual(error.errno, errno.EPERM)
        again = os.open(f"/proc/self/fd/{memory.descriptor}", os.O_RDWR)
        self.addCleanup(os.close, again)
        for write in (
            lambda: os.write(again, b"x"),
            lambda: mmap.mmap(again, SIZE).close(),
        ):
            error = self.assertRaises(OSError, write)
            self.assertEqual(error.errno, errno.EPERM)

    def test_mode(self) -> None:
        """
        No other user can open it, it is not executable, and programs do not inherit it.
        """
        descriptor = self.create().descriptor
        self.assertEqual(os.fstat(descriptor).st_mode & 0o777, 0o600)
        self.assertFalse(os.get_inheritable(descriptor))

    def test_older(self) -> None:
        """
        On kernels that do not know that it is never executable, it is made all the
        same.
        """
        create = os.memfd_create

        def older(name: str, flags: int) -> int:
            if flags & shared_memory._MFD_NOEXEC_SEAL:
                raise OSError(errno.EINVAL, "unknown flag")
            return create(name, flags)

        with mock.patch.object(os, "memfd_create", older):
            self.create().view[0] = 1

    def test_noMemory(self) -> None:
        """
        If the kernel fails, nothing stays open.
        """
        for target, name in (
            (os, "memfd_create"),
            (os, "ftruncate"),
            (fcntl, "fcntl"),
        ):
            failing = mock.Mock(side_effect=OSError(errno.ENOMEM, "no memory"))
            with mock.patch.object(target, name, failing):
                error = self.assertRaises(OSError, createMemory, "it", SIZE, True)
            self.assertEqual(error.errno, errno.ENOMEM)

    def test_wrong(self) -> None:
        """
        Memory of another size, or whose size may change, is not mapped.
        """
        memory = self.create()
        error = self.assertRaises(
            WrongMemory, attachMemory, self.copy(memory), 2 * SIZE, True
        )
        self.assertEqual(str(error), "memory of 4096 bytes, where 8192 are needed")
        loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
        os.ftruncate(loose, SIZE)
        self.assertIsNotNone(memoryNumber(loose))
        error = self.assertRaises(WrongMemory, attachMemory, loose, SIZE, True)
        self.assertEqual(str(error), "memory whose size may change")

    def test_noMemoryAtAll(self) -> None:
        """
        Other things that a descriptor may lead to are no memory.
        """
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as file, open(os.devnull, "rb") as null:
            for descriptor in (reader, file.fileno(), null.fileno(), 9999):
                self.assertIsNone(memoryNumber(descriptor))
            error = self.assertRaises(
                OSError, attachMemory, os.dup(null.fileno()), SIZE, True
            )
            self.assertEqual(error.errno, errno.EINVAL)
        os.close(reader)
        os.close(writer)

    def test_closeTwice(self) -> None:
        """
        It may be closed again.
        """
        memory = self.create()
        memory.close()
        memory.close()
        self.assertEqual(memory.descriptor, -1)
