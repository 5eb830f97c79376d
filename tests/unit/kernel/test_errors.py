"""
Tests for L{portlisten._kernel.errors}.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import errors, sockets
from tests.support.sockets import pair


class InsistTests(SynchronousTestCase):
    """
    Tests for L{errors.retry}.
    """

    def retry(self, *numbers: int) -> Any:
        """
        Make a call that fails with these errors first.
        """
        self.left = list(numbers)

        def call(one: int, two: int) -> int:
            if self.left:
                number = self.left.pop(0)
                raise OSError(number, os.strerror(number))
            return one + two

        return errors.retry(call, 1, 2)

    def test_succeeds(self) -> None:
        """
        It gives what the call gives.
        """
        self.assertEqual(self.retry(), 3)

    def test_passing(self) -> None:
        """
        An error that may pass is not the end.
        """
        self.assertEqual(self.retry(errno.ENOMEM, errno.EINTR, errno.ENOBUFS), 3)

    def test_other(self) -> None:
        """
        Any other is, at once.
        """
        error = self.assertRaises(OSError, self.retry, errno.EBADF, errno.EBADF)
        self.assertEqual((error.errno, len(self.left)), (errno.EBADF, 1))

    def test_goesOn(self) -> None:
        """
        So is one that does not pass.
        """
        error = self.assertRaises(OSError, self.retry, *[errno.ENOMEM] * 1000)
        self.assertEqual(error.errno, errno.ENOMEM)
        self.assertGreater(len(self.left), 900)

    def test_cookie(self) -> None:
        """
        A cookie is asked for again if the kernel lacks memory.
        """
        sock = pair(self)[0]
        lacking = OSError(errno.ENOMEM, "no memory")
        answers: list[Any] = [lacking, None, lacking, None]

        class Forgetful:
            def getsockopt(self, *args: int) -> Any:
                answer = answers.pop(0)
                if answer is not None:
                    raise answer
                return sock.getsockopt(*args)

        forgetful: Any = Forgetful()
        self.assertEqual(sockets.cookie(forgetful), sockets.cookie(sock))
        self.assertEqual(answers, [])
