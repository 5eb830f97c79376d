"""
Tests for L{portlisten._monitor.html}.
"""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import StatusAnswer
from portlisten._monitor.history import History
from portlisten._monitor.html import document, parts, title
from tests.support.statuses import ALONE, BAD, LISTENER, WELL, worker

#: Elements without an end.
VOID = {"meta", "link", "line", "path"}


class Reader(HTMLParser):
    """
    Reads a page, and checks that each element ends where it should.

    @ivar elements: the elements with their attributes.
    @ivar text: the text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """
        Note an element.
        """
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """
        Note an element without content.
        """
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """
        Check the end of an element.
        """
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        """
        Note text.
        """
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """
        The attributes of all elements of a kind.
        """
        return [attributes for each, attributes in self.elements if each == tag]


class PageTests(SynchronousTestCase):
    """
    Tests for L{document} and L{parts}.
    """

    def page(self, answer: StatusAnswer | None, samples: int = 20) -> Reader:
        """
        Make a page, and read it.
        """
        history = History()
        for second in range(samples):
            history.add(second, answer)
        reader = Reader()
        reader.feed(document(answer, parts(answer, history, "12:00:00 UTC")))
        reader.close()
        self.assertEqual(reader._open, [])
        return reader

    def test_well(self) -> None:
        """
        It says what C{status} says.
        """
        reader = self.page(WELL)
        text = " ".join(reader.text)
        for each in ("all is well", "web 4 of 4 ready", "1,204,345", "12:00:00 UTC"):
            self.assertIn(each, text)
        self.assertEqual(title(WELL), "well: /run/portlisten/web.sock")

    def test_bad(self) -> None:
        """
        What is wrong comes first, and is in the title.
        """
        reader = self.page(BAD)
        text = " ".join(reader.text)
        first, second = BAD.problems
        self.assertLess(text.index(first), text.index(second))
        self.assertLess(text.index(second), text.index("/etc/portlisten/web.toml"))
        self.assertEqual(title(BAD), "2 wrong: /run/portlisten/web.sock")

    def test_silent(self) -> None:
        """
        If nobody answers, it says so.
        """
        for answer in (None, StatusAnswer(None), StatusAnswer(None, BAD.supervisor)):
            text = " ".join(self.page(answer).text)
            self.assertIn("the listener does not answer", text)
            self.assertIn("1 wrong: ", title(answer))

    def test_readers(self) -> None:
        """
        A screen reader finds its way.
        """
        for answer in (WELL, BAD, ALONE, None):
            reader = self.page(answer)
            self.assertEqual(reader.named("html"), [{"lang": "en"}])
            heads = [tag for tag, _ in reader.elements if tag in ("h1", "h2", "h3")]
            self.assertEqual(heads, ["h1", *["h2"] * (len(heads) - 1)])
            for each in reader.named("svg"):
                self.assertEqual(each["role"], "img")
                self.assertTrue(each["aria-label"])
            for each in reader.named("th"):
                self.assertIn(each["scope"], ("col", "row"))
            captions = len(reader.named("caption"))
            self.assertEqual(captions, len(reader.named("table")))
            ids = [a["id"] for _, a in reader.elements if "id" in a]
            self.assertEqual(len(ids), len(set(ids)))

    def test_parts(self) -> None:
        """
        The page has an element for each part.
        """
        reader = self.page(WELL)
        ids = {a["id"] for _, a in reader.elements if "id" in a}
        made = parts(WELL, History(), "")
        self.assertEqual(made.keys() - ids, set())

    def test_ownOnly(self) -> None:
        """
        It loads nothing from elsewhere, has no script in it, and changes nothing.
        """
        reader = self.page(BAD)
        for tag, attributes in reader.elements:
            self.assertNotIn(tag, ("form", "input", "button", "iframe", "img", "style"))
            for name, value in attributes.items():
                self.assertFalse(name.startswith("on"), name)
                self.assertNotEqual(name, "style")
                if name in ("src", "href", "action"):
                    self.assertRegex(value or "", r"^[a-z.]+$")

    def test_hostile(self) -> None:
        """
        What a worker says of itself is text, and nothing else.
        """
        nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
        workers = (
            worker(1, nasty, ports=(nasty,)),
            worker(2, "\u202egnp.exe"),
            worker(3, "x" * 5000),
        )
        answer = StatusAnswer(
            replace(LISTENER, workers=workers, path=nasty), None, (nasty,)
        )
        plain = self.page(
            StatusAnswer(replace(LISTENER, workers=workers), None, ("x",))
        )
        reader = self.page(answer)
        self.assertEqual(len(reader.named("script")), 1)
        self.assertEqual(reader.named("img"), [])
        self.assertIn(nasty, "".join(reader.text))
        self.assertEqual(
            [tag for tag, _ in reader.elements], [tag for tag, _ in plain.elements]
        )

    def test_many(self) -> None:
        """
        With hundreds of workers, the pictures are limited.
        """
        workers = tuple(worker(each, f"web-{each}") for each in range(300))
        reader = self.page(StatusAnswer(replace(LISTENER, workers=workers)))
        self.assertLess(len(reader.named("svg")), 60)
        self.assertIn("16 more", reader.text)
