"""
Programs of Twisted's own.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence

from tests.programs.program import PATIENCE, Stage
from tests.programs.python import PythonProgram


class TwistedWeb(PythonProgram):
    """
    C{twistd web}, with a port number.
    """

    name = "twistd web"

    def prepare(self, stage: Stage) -> None:
        """
        Make a page.
        """
        stage.write("www/index.html", "hello, web\n")

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return [
            *("twistd", "-n", "--pidfile=", "web"),
            *(f"--listen=tcp:{stage.free}", "--path=www"),
        ]

    def job(self, stage: Stage) -> str:
        """
        Get the page.
        """
        url = f"http://127.0.0.1:{stage.port}/index.html"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            assert response.read() == b"hello, web\n"
        return "got a page"


PROGRAMS = [TwistedWeb()]
