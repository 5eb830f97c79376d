"""
Tests for L{portlisten._children.output}.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._children.output import (
    LINES_A_TURN,
    MAXIMUM_LINE_BYTES,
    Lines,
    Output,
)
from tests.support.descriptors import watchDescriptors


def divided(*pieces: bytes, ended: bool = True) -> list[str]:
    """
    Divide bytes that come in pieces.
    """
    lines = Lines()
    found = []
    for number, piece in enumerate(pieces, 1):
        lines.add(piece)
        last = ended and number == len(pieces)
        while (line := lines.next(last)) is not None:
            found.append(line)
    return found


class LinesTests(SynchronousTestCase):
    """
    Tests for L{Lines}.
    """

    def test_lines(self) -> None:
        """
        Lines may come in pieces, be empty, and end as on other systems.
        """
        for pieces, expected in (
            ((b"a\nb\n",), ["a", "b"]),
            ((b"a", b"b", b"\nc"), ["ab", "c"]),
            ((b"\n\na\r\n",), ["", "", "a"]),
            ((b"a\r", b"\nb"), ["a", "b"]),
            ((b"", b""), []),
            ((b"{a}\tb\n",), ["{a}\tb"]),
        ):
            self.assertEqual(divided(*pieces), expected)
        self.assertEqual(divided(b"a\nb", ended=False), ["a"])

    def test_replaced(self) -> None:
        """
        What is not UTF-8, control characters and other ends of a line are replaced.
        """
        self.assertEqual(divided("ä€😀\n".encode()), ["ä€😀"])
        self.assertEqual(divided(b"a\xffb\xc3\n"), ["a\ufffdb\ufffd"])
        for each in "\0\x07\x0b\x0c\r\x1b\x1f\x7f\x85\x9b\u2028\u2029":
            found = divided(f"a{each}b\n".encode())
            self.assertEqual(found, ["a\ufffdb"], repr(each))

    def test_long(self) -> None:
        """
        A long line is divided, also if its end does not come.
        """
        most = MAXIMUM_LINE_BYTES
        for data, lengths in (
            (b"x" * most + b"\n", [most]),
            (b"x" * (most + 1) + b"\n", [most, 1]),
            (b"x" * (2 * most + 5) + b"\ny", [most, most, 5, 1]),
        ):
            self.assertEqual([len(each) for each in divided(data)], lengths)
        found = divided(b"x" * (most + 1), ended=False)
        self.assertEqual([len(each) for each in found], [most])
        found = divided(b"x" * most, ended=False)
        self.assertEqual(found, [])

    def test_longCharacters(self) -> None:
        """
        No character is divided.  What is not UTF-8 is divided all the same.
        """
        for shift in range(4):
            text = "a" * shift + "😀" * MAXIMUM_LINE_BYTES
            found = divided(text.encode())
            self.assertEqual("".join(found), text)
            self.assertTrue(
                all(len(each.encode()) <= MAXIMUM_LINE_BYTES for each in found)
            )
        found = divided(b"\x80" * (MAXIMUM_LINE_BYTES + 9))
        self.assertEqual([len(each) for each in found], [MAXIMUM_LINE_BYTES, 9])


class FakeReactor(Clock):
    """
    A reactor whose readers a test calls.

    @ivar error: what the next registration fails with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.error: OSError | None = None

    def addReader(self, reader: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        self.readers.discard(reader)

    def turn(self) -> None:
        """
        Do one turn: what is due, and then each reader.  What becomes due meanwhile has
        the next turn, as in a real reactor.
        """
        for call in list(self.calls):
            if call.getTime() <= self.seconds():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        for each in list(self.readers):
            each.doRead()

    def rest(self) -> None:
        """
        Do turns while a call is due.
        """
        while self.getDelayedCalls():
            self.turn()


class OutputTests(SynchronousTestCase):
    """
    Tests for L{Output}.

    @ivar lines: what was passed on; "end" at the end.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.reactor = FakeReactor()
        self.lines: list[str] = []
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.output = Output(
            self.reactor, self.reader, self.line, lambda: self.lines.append("end")
        )
        self.addCleanup(self.output.close)
        self.addCleanup(self.closeWriter)
        self.output.start()

    def line(self, line: str) -> None:
        """
        Called with each line.
        """
        self.lines.append(line)

    def closeWriter(self) -> None:
        """
        Close the end that the process has.
        """
        writer, self.writer = self.writer, -1
        if writer != -1:
            os.close(writer)

    def test_course(self) -> None:
        """
        Lines are passed on as they come, and the last one needs no end.
        """
        self.reactor.turn()
        self.assertEqual(self.lines, [])
        os.write(self.writer, b"one\ntwo")
        self.reactor.turn()
        self.assertEqual(self.lines, ["one"])
        self.closeWriter()
        self.reactor.turn()
        self.assertEqual(self.lines, ["one", "two", "end"])
        self.assertEqual(self.reactor.readers, set())
        self.output.finish()
        self.assertEqual(self.lines[3:], [])

    def test_flood(self) -> None:
        """
        A turn passes on only so many lines, and nothing is read meanwhile.
        """
        os.write(self.writer, b"\n" * 60000)
        self.reactor.turn()
        self.assertEqual(len(self.lines), LINES_A_TURN)
        self.assertEqual(self.reactor.readers, set())
        for count in range(2, 40):
            self.reactor.turn()
            self.assertLessEqual(len(self.lines), count * LINES_A_TURN)
        self.closeWriter()
        while self.lines[-1:] != ["end"]:
            self.reactor.turn()
        self.assertEqual(len(self.lines), 60001)

    def test_heldOpen(self) -> None:
        """
        After the end of the process, what is in the pipe is passed on, and nothing that
        another process writes later, even if the pipe stays open.
        """
        os.write(self.writer, b"x" * 40000 + b"\nlast")
        self.output.finish()
        os.write(self.writer, b"late\n")
        for _ in range(10):
            self.reactor.turn()
        self.assertEqual(self.lines[-2:], ["last", "end"])
        self.assertEqual(sum(map(len, self.lines[:-2])), 40000)
        self.assertRaises(BrokenPipeError, os.write, self.writer, b"x")

    def test_nothingLeft(self) -> None:
        """
        If nothing is in the pipe, the end comes at once.
        """
        os.write(self.writer, b"one\nhalf")
        self.reactor.turn()
        self.output.finish()
        self.assertEqual(self.lines, ["one", "half", "end"])

    def test_endWhileFull(self) -> None:
        """
        If lines still wait at the end of the process, all of them are passed on.
        """
        os.write(self.writer, b"\n" * (LINES_A_TURN + 5))
        self.reactor.turn()
        self.output.finish()
        self.assertNotIn("end", self.lines)
        self.reactor.rest()
        self.assertEqual(self.lines, [""] * (LINES_A_TURN + 5) + ["end"])

    def test_close(self) -> None:
        """
        After it was closed, nothing is passed on, even if lines wait.
        """
        os.write(self.writer, b"\n" * 1000)
        self.reactor.turn()
        self.output.close()
        self.output.close()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(len(self.lines), LINES_A_TURN)

    def test_closedByLine(self) -> None:
        """
        It may be closed when it passes on a line.
        """

        def close(line: str) -> None:
            self.line(line)
            self.output.close()

        self.output._onLine = close
        os.write(self.writer, b"one\ntwo\n")
        self.reactor.turn()
        self.assertEqual(self.lines, ["one"])

    def test_dropped(self) -> None:
        """
        The reactor drops a pipe that is empty and has no other end.  That is the end.
        """
        [reader] = self.reactor.readers
        os.write(self.writer, b"half")
        self.reactor.turn()
        reader.connectionLost(None)
        self.assertRaises(BrokenPipeError, os.write, self.writer, b"x")
        self.assertEqual(reader.logPrefix(), "-")
        self.assertEqual(self.lines, ["half", "end"])
        reader.connectionLost(None)
        self.assertEqual(self.lines[2:], [])

    def test_badLine(self) -> None:
        """
        If a line cannot be passed on, the next one is.
        """

        def fail(line: str) -> None:
            self.line(line)
            if line == "one":
                raise ValueError("no")

        self.output._onLine = fail
        os.write(self.writer, b"one\ntwo\n")
        self.reactor.turn()
        self.assertEqual(self.lines, ["one", "two"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_notResumed(self) -> None:
        """
        If the reactor cannot watch the pipe any more, that is an end.
        """
        os.write(self.writer, b"\n" * (LINES_A_TURN + 5))
        self.reactor.turn()
        self.reactor.error = OSError(errno.ENOMEM, "no memory")
        self.reactor.rest()
        self.assertEqual(self.lines, [""] * (LINES_A_TURN + 5) + ["end"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
