"""
Chromium without a screen, by the W3C's WebDriver protocol and Debian's C{chromedriver}.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

#: The key of an element's id in the protocol.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class NoBrowser(Exception):
    """
    Chromium, or its driver, is not installed.
    """


class Browser:
    """
    A browser with one window, within a C{with} statement.

    @param script: whether pages may run scripts.
    """

    def __init__(self, script: bool = True) -> None:
        self._script = script
        self._session = ""

    def __enter__(self) -> Browser:
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium")
        if driver is None or chromium is None:
            raise NoBrowser("chromium and chromium-driver are not installed")
        self._profile = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [driver, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._port = self._findPort()
            self._open(chromium)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._session:
            self._call("DELETE", "")
        self._process.terminate()
        self._process.communicate()
        self._profile.cleanup()

    def _findPort(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            match = re.search(r"successfully on port (\d+)", line)
            if match:
                return int(match[1])
        raise NoBrowser("chromedriver has ended")

    def _open(self, chromium: str) -> None:
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={self._profile.name}",
        ]
        if not self._script:
            arguments.append("--blink-settings=scriptEnabled=false")
        options = {"binary": chromium, "args": arguments}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        value = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._session = value["sessionId"]

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """
        Send a command.

        @raise AssertionError: if the driver refuses it.
        """
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        place = f"/session/{self._session}" if self._session else "/session"
        data = None if body is None else json.dumps(body)
        connection.request(method, place + path, data)
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def command(self, name: str, **parameters: Any) -> Any:
        """
        Send a command of Chromium's own protocol.
        """
        return self._call(
            "POST", "/goog/cdp/execute", {"cmd": name, "params": parameters}
        )

    def look(self, width: int, dark: bool = False) -> None:
        """
        Be another window.

        @param width: in pixels.
        @param dark: whether it prefers dark colours.
        """
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=1000,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def visit(self, address: str) -> None:
        """
        Load a page.
        """
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """
        Run a script in the page.

        @param script: the body of a function.
        @return: what it returns.
        """
        return self._call(
            "POST", "/execute/sync", {"script": script, "args": list(arguments)}
        )

    def title(self) -> str:
        """
        The title of the page.
        """
        return str(self._call("GET", "/title"))

    def source(self) -> str:
        """
        The page as HTML.
        """
        return str(self._call("GET", "/source"))

    def waitFor(self, what: Callable[[], object]) -> None:
        """
        Wait until something is so.
        """
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end
            time.sleep(0.1)

    def until(self, script: str, what: Callable[[Any], object] = bool) -> Any:
        """
        Run a script until it returns what it should.
        """
        end = time.monotonic() + PATIENCE
        found = self.run(script)
        while not what(found):
            assert time.monotonic() < end, (script, found)
            time.sleep(0.05)
            found = self.run(script)
        return found

    def click(self, selector: str) -> None:
        """
        Click on an element.
        """
        found = self._call(
            "POST", "/element", {"using": "css selector", "value": selector}
        )
        self._call("POST", f"/element/{found[_ELEMENT]}/click", {})

    def press(self, key: str) -> None:
        """
        Press a key.
        """
        keys = [{"type": each, "value": key} for each in ("keyDown", "keyUp")]
        self._call(
            "POST",
            "/actions",
            {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]},
        )

    def errors(self) -> list[str]:
        """
        What the console says that is wrong, since the last call.
        """
        return [
            each["message"]
            for each in self._call("POST", "/se/log", {"type": "browser"})
            if each["level"] != "INFO"
        ]

    def picture(self, file: Path) -> None:
        """
        Write a picture of the whole page, as PNG.
        """
        width, height = self.run(
            "const all = document.documentElement;"
            "return [all.scrollWidth, all.scrollHeight]"
        )
        found = self.command(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        )
        file.write_bytes(base64.b64decode(found["data"]))
