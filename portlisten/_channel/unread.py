"""
The bytes and descriptors that the other end of a channel has not read.
"""

from __future__ import annotations

from collections import deque


class Unread:
    """
    Computes how much the other end of a channel has not read, from the kernel's charge
    for unread messages.

    This notes each message that is written, with its charge.  The kernel tells the sum
    of the charges of all unread messages, and messages are read in order.  So the
    unread messages are the latest ones whose charges add up to that sum.  The first of
    them may have been read in part.

    @ivar written: how many bytes were written.
    @ivar descriptors: how many of the sent descriptors may be unread.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[int, int, int]] = deque()
        self._charge = 0
        self.written = 0
        self.descriptors = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, size: int, charge: int, descriptors: int) -> None:
        """
        Note a message that was written.

        @param size: how many bytes it has.
        @param charge: the kernel's charge for it, in bytes.
        @param descriptors: how many descriptors it carries.
        """
        self.written += size
        self._charge += charge
        self.descriptors += descriptors
        self._messages.append((self.written, charge, descriptors))

    def settle(self, charge: int) -> int:
        """
        Drop the messages that were read.

        @param charge: the kernel's charge for all unread messages, in bytes.
        @return: how many of the written bytes may have been read.
        """
        messages = self._messages
        while messages and (not charge or self._charge - messages[0][1] >= charge):
            _, oldest, descriptors = messages.popleft()
            self._charge -= oldest
            self.descriptors -= descriptors
        return messages[0][0] if messages else self.written
