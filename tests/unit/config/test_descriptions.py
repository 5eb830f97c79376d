"""
Tests for L{portlisten._config.descriptions}.
"""

from __future__ import annotations

from twisted.internet.endpoints import _parse, quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.descriptions import split, workerSettings
from portlisten.errors import EndpointError


class SplitTests(SynchronousTestCase):
    """
    Tests for L{split}.
    """

    def test_parts(self) -> None:
        """
        Colons separate the parts, and the first equals sign ends a name.
        """
        self.assertEqual(split("portlisten:/run/x"), (["/run/x"], {}))
        self.assertEqual(
            split("portlisten:/run/x:name=a,b:label=c=d"),
            (["/run/x"], {"name": "a,b", "label": "c=d"}),
        )
        self.assertEqual(split("portlisten:"), ([""], {}))

    def test_escapes(self) -> None:
        """
        A backslash takes the meaning from the next character.
        """
        self.assertEqual(
            split(r"portlisten:/a\:b\=c\\d:name=x"), (["/a:b=c\\d"], {"name": "x"})
        )

    def test_likeTwisted(self) -> None:
        """
        Twisted's endpoints split in the same way.
        """
        for text in (
            "x",
            "x:a=b",
            r"x\:y:a=b\:c:d=e=f",
            quoteStringArgument("a:b\\c=d"),
            "x:=y",
            "x:a=",
        ):
            self.assertEqual(split("portlisten:" + text), _parse(text), text)

    def test_other(self) -> None:
        """
        Something else is refused.
        """
        self.assertRaises(EndpointError, split, "tcp:80")


class WorkerSettingsTests(SynchronousTestCase):
    """
    Tests for L{workerSettings}.
    """

    def test_options(self) -> None:
        """
        The options become settings.
        """
        settings = workerSettings(["/x"], {"name": "a,b", "grace": "3", "retry": "2"})
        self.assertEqual(settings.path, "/x")
        self.assertEqual(settings.names, ("a", "b"))
        self.assertEqual((settings.grace, settings.retry), (3.0, 2.0))

    def test_wrong(self) -> None:
        """
        What cannot be understood is refused in one line.
        """
        for arguments, named in (
            ([], {}),
            ([""], {}),
            (["/x", "/y"], {}),
            (["/x"], {"grace": "soon"}),
            (["/x"], {"nothing": "1"}),
            (["/x"], {"mode": "0600"}),
            (["/x"], {"wire": "datagram", "name": "a"}),
        ):
            error = self.assertRaises(EndpointError, workerSettings, arguments, named)
            self.assertNotIn("\n", str(error))
