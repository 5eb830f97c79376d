"""
Tests for L{portlisten._log.observers} and L{portlisten._log.standard}.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any, cast

from twisted.logger import Logger, LogPublisher, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from portlisten._anyloop import log as anyloop
from portlisten._children.logs import LineLogger
from portlisten._log import standard
from portlisten._log import writer as writing
from portlisten._log.lines import MAXIMUM_BYTES
from portlisten._log.observers import Observer, jsonOf, plainTextOf, textOf
from portlisten._log.writer import Sink


class JSONTests(SynchronousTestCase):
    """
    Tests for L{jsonOf}.
    """

    def setUp(self) -> None:
        self.lines: list[Any] = []
        self.observe: Any = self._observe
        self.publisher = LogPublisher(cast(Any, self._observe))
        self.log = Logger("there", observer=self.publisher)

    def _observe(self, event: Any) -> None:
        line = jsonOf(event)
        self.lines.append(None if line is None else json.loads(line))

    def test_own(self) -> None:
        """
        An event of portlisten's has its name and its fields.
        """
        self.log.warn(
            "{channel} died: {why}", event="worker-lost", channel="w", why="x"
        )
        [made] = self.lines
        del made["time"]
        self.assertEqual(
            made,
            {
                "event": "worker-lost",
                "level": "warn",
                "message": "w died: x",
                "reason": "x",
            },
        )

    def test_foreign(self) -> None:
        """
        Another event has the name C{log}, and says where it comes from.  Its fields are
        its own business.
        """
        self.log.info("{a}", event="click", a=1, log_system="web")
        self.log.info("b")
        for made in self.lines:
            del made["time"]
        self.assertEqual(
            self.lines,
            [
                {"event": "log", "level": "info", "message": "1", "system": "web"},
                {"event": "log", "level": "info", "message": "b", "system": "there"},
            ],
        )

    def test_failure(self) -> None:
        """
        A traceback is one text, and its line is no longer than others.
        """

        def deep(count: int) -> None:
            if not count:
                raise ValueError("x" * 20000)
            deep(count - 1)

        try:
            deep(100)
        except ValueError:
            self.log.failure("a bug", Failure(), event="bug")
        [made] = self.lines
        self.assertEqual((made["event"], made["level"]), ("bug", "critical"))
        self.assertTrue(made["message"].startswith("a bug"))
        self.assertIn("xxx", made["traceback"])
        self.assertLessEqual(len(json.dumps(made)), MAXIMUM_BYTES)

    def test_broken(self) -> None:
        """
        An event that cannot be formatted is a line, too.
        """
        self.log.info("{missing}", event="report")
        [made] = self.lines
        self.assertIn("missing", made["message"])

    def test_legacy(self) -> None:
        """
        Events of Twisted's older log are written.  Those without a text are not.
        """
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        legacy.msg("hello", system="old")
        self.assertEqual(self.lines[-1]["message"], "hello")
        self.assertEqual(self.lines[-1]["system"], "old")
        self.log.info("", event="report")
        self.assertIsNone(self.lines[-1])

    def test_output(self) -> None:
        """
        A line of a process has the names of the process, whatever it writes.
        """
        lines = LineLogger("web-1", "web", 1)
        lines.pid = 7
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        lines("{plain}")
        lines('{"event": "x", "process": "listener", "worker": "other"}')
        LineLogger("listener")('{"event": "client-lost", "pid": 9}')
        plain, forged, listener = self.lines[-3:]
        for made in self.lines[-3:]:
            self.assertTrue(made.pop("time").endswith("Z"))
        names = {"process": "web-1", "group": "web", "slot": 1, "pid": 7}
        self.assertEqual(
            plain,
            {
                **names,
                "event": "output",
                "level": "info",
                "message": "{plain}",
                "worker": "web-1",
            },
        )
        self.assertEqual(
            forged, {**names, "event": "x", "level": "info", "worker": "other"}
        )
        self.assertEqual(
            listener,
            {"event": "client-lost", "level": "info", "process": "listener", "pid": 9},
        )


class TextTests(SynchronousTestCase):
    """
    Tests for the text.
    """

    def test_text(self) -> None:
        """
        The text is as C{twistd} and as a supervised listener write it.
        """
        made: list[list[str | None]] = []

        def observe(event: Any) -> None:
            made.append([textOf(event), plainTextOf(event)])

        observer: Any = observe
        log = Logger("there", observer=LogPublisher(observer))
        log.warn("{a}", a="b")
        log.info("c")
        log.info("")
        (first, plain), (_, info), nothing = made
        assert first is not None
        self.assertRegex(first, r"^\d{4}-.* \[there#warn\] b$")
        self.assertEqual((plain, info), ("warn: b", "c"))
        self.assertEqual(nothing, [None, None])


class WrittenTests(SynchronousTestCase):
    """
    Tests for L{Observer}, and for the handler of L{logging}.
    """

    def setUp(self) -> None:
        self.patch(writing, "_writers", [])
        self.reader, self.writer = os.pipe()
        self.addCleanup(os.close, self.reader)
        self.addCleanup(os.close, self.writer)

    def read(self, end: Callable[[], None]) -> list[str]:
        """
        End a writer, and read what it has written.
        """
        end()
        return os.read(self.reader, 65536).decode().splitlines()

    def test_observer(self) -> None:
        """
        Lines come in order.  If some were dropped, a line says how many.
        """
        observer = Observer(jsonOf, Sink(self.writer))
        self.patch(observer.writer, "_maximum", 400)
        log = Logger("there", observer=LogPublisher(observer))
        for number in range(10):
            log.info("{number}", event="report", number=number)
        events = [json.loads(line) for line in self.read(observer.writer.end)]
        count = events[-1]["count"]
        self.assertEqual(events[-1]["event"], "lines-dropped")
        self.assertIn(f"{count} lines were dropped", events[-1]["message"])
        numbers = [each["number"] for each in events[:-1]]
        self.assertEqual(numbers, list(range(10 - count)))

    def handle(self, format: str) -> list[str]:
        """
        Log as a command without Twisted does.
        """
        handler = standard.Handler("portlisten each", format)
        self.patch(handler.writer, "_sink", Sink(self.writer))
        logger = logging.getLogger("portlisten")
        self.patch(logger, "level", logging.INFO)
        logger._cache.clear()  # type: ignore[attr-defined]
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        anyloop.info("joined {path}", event="listener-joined", path="p", count=None)
        anyloop.bug("a bug: {a}", ValueError("b"), event="bug", a="c")
        logging.getLogger("portlisten.other").warning("other %d", 1)
        return self.read(handler.writer.end)

    def test_standardJSON(self) -> None:
        """
        Commands without Twisted write the same lines.
        """
        events = [json.loads(line) for line in self.handle("json")]
        for each in events:
            del each["time"]
        joined, bug, other = events
        self.assertEqual(
            joined,
            {
                "event": "listener-joined",
                "level": "info",
                "message": "joined p",
                "path": "p",
            },
        )
        self.assertEqual((bug["event"], bug["level"], bug["a"]), ("bug", "error", "c"))
        self.assertIn("ValueError: b", bug["traceback"])
        self.assertEqual(
            other,
            {
                "event": "log",
                "level": "warn",
                "message": "other 1",
                "system": "portlisten.other",
            },
        )

    def test_standardText(self) -> None:
        """
        Each line of text begins with the command.
        """
        lines = self.handle("text")
        self.assertEqual(lines[0], "portlisten each: joined p")
        self.assertEqual(lines[-1], "portlisten each: other 1")
