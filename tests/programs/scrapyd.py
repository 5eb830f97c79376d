"""
Scrapyd, which runs spiders, and has an interface over HTTP.
"""

from __future__ import annotations

import io
import json
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Sequence
from typing import Any

from tests.programs.program import PATIENCE, Stage
from tests.programs.python import PythonProgram

#: A project with one spider, as an egg has it.
EGG = {
    "EGG-INFO/PKG-INFO": "Metadata-Version: 1.0\nName: project\nVersion: 1\n",
    "EGG-INFO/entry_points.txt": "[scrapy]\nsettings = project.settings\n",
    "project/__init__.py": "",
    "project/settings.py": "SPIDER_MODULES = ['project.spiders']\n",
    "project/spiders/__init__.py": "",
    "project/spiders/one.py": """
import scrapy

class One(scrapy.Spider):
    name = "one"
    start_urls = ["data:,hello"]

    def parse(self, response):
        yield {"text": response.text}
""",
}


class Scrapyd(PythonProgram):
    """
    C{scrapyd}.
    """

    name = "scrapyd"
    packages = ("scrapyd",)

    def prepare(self, stage: Stage) -> None:
        """
        Write the configuration.
        """
        stage.write(
            "scrapyd.conf",
            "[scrapyd]\nbind_address = 127.0.0.1\npoll_interval = 0.5\n"
            f"http_port = {stage.free}\n",
        )
        self._crawled = False

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return ["scrapyd"]

    def job(self, stage: Stage) -> str:
        """
        Run a spider to its end, but only once, since that takes long.  Ask what there
        is.
        """
        if not self._crawled:
            self._crawl(stage)
            self._crawled = True
        assert self._ask(stage, "listprojects.json")["projects"] == ["project"]
        assert self._ask(stage, "daemonstatus.json")["running"] == 0
        return "deployed a project, ran a spider, asked daemonstatus and listprojects"

    def _crawl(self, stage: Stage) -> None:
        egg = io.BytesIO()
        with zipfile.ZipFile(egg, "w") as archive:
            for name, text in EGG.items():
                archive.writestr(name, text)
        self._deploy(stage, egg.getvalue())
        job = self._ask(stage, "schedule.json", project="project", spider="one")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            jobs = self._ask(stage, "listjobs.json")
            if [each["id"] for each in jobs["finished"]] == [job["jobid"]]:
                break
            time.sleep(0.2)
        (log,) = stage.folder.glob(f"logs/project/one/{job['jobid']}.log")
        assert "'item_scraped_count': 1" in log.read_text(), log.read_text()

    def _deploy(self, stage: Stage, egg: bytes) -> None:
        mark = "portlisten"
        parts = [("project", "", b"project"), ("version", "", b"1")]
        body = b""
        for name, more, value in [*parts, ("egg", '; filename="egg"', egg)]:
            head = f'Content-Disposition: form-data; name="{name}"{more}'
            body += f"--{mark}\r\n{head}\r\n\r\n".encode() + value + b"\r\n"
        request = urllib.request.Request(
            f"http://127.0.0.1:{stage.port}/addversion.json",
            body + f"--{mark}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={mark}"},
        )
        assert self._open(request)["spiders"] == 1

    def _ask(self, stage: Stage, page: str, **fields: str) -> Any:
        """
        Ask for a page, with a form if there are fields.
        """
        data = urllib.parse.urlencode(fields).encode() if fields else None
        url = f"http://127.0.0.1:{stage.port}/{page}"
        return self._open(urllib.request.Request(url, data))

    @staticmethod
    def _open(request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert answer["status"] == "ok", answer
        return answer


PROGRAMS = [Scrapyd()]
