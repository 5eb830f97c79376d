"""
The status page of C{portlisten run}, in a real Chromium.

If C{PORTLISTEN_PICTURES} names a folder, pictures of the page are written to it; see
L{tests.pictures}.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.browser import Browser, NoBrowser
from tests.support.clients import ask
from tests.support.ports import freePort
from tests.support.running import Run, pids

#: Where pictures go; empty for nowhere.
PICTURES = os.environ.get("PORTLISTEN_PICTURES", "")

#: For how long clients come before a picture, in seconds.
LOAD_SECONDS = 100.0 if PICTURES else 1.5

#: How many clients wait in the end.
WAITING = 7

#: The contrast of each piece of text with its ground, as WCAG 2 computes it.
CONTRASTS = """
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((each) => {
    const part = each / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
for (const each of document.querySelectorAll("body *")) {
  const own = [...each.childNodes].some(
    (node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || each.closest("noscript, script")) continue;
  const pair = [light(getComputedStyle(each).color), light(ground(each))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < 4.5) found.push([each.outerHTML.slice(0, 80), ratio]);
}
return found;
"""

#: Whatever the page has loaded from elsewhere.
ELSEWHERE = """
return performance.getEntriesByType("resource").map((each) => each.name)
  .filter((name) => !name.startsWith(location.origin + "/"));
"""


@contextmanager
def clients(port: int) -> Iterator[None]:
    """
    Clients come, within a C{with} statement, now more and now less.
    """
    ended = threading.Event()

    def come(number: int) -> None:
        count = 0
        while not ended.wait(0.01 + 0.03 * (number + 1) * (1 + count // 200 % 3)):
            count += 1
            with suppress(OSError):
                ask(port, send=b"who\n")

    threads = [threading.Thread(target=come, args=(each,)) for each in range(4)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in threads:
            each.join()


def picture(browser: Browser, name: str) -> None:
    """
    Look with a wide and a narrow window, in light and in dark colours, and check what
    must be so in each state.
    """
    for width, dark in ((1100, False), (1100, True), (360, True), (360, False)):
        browser.look(width, dark)
        assert browser.run("return innerWidth") == width
        assert browser.run("return document.documentElement.scrollWidth") == width
        assert browser.run(CONTRASTS) == []
        assert browser.run(ELSEWHERE) == []
        prefers = "return matchMedia('(prefers-color-scheme: dark)').matches"
        assert browser.run(prefers) is dark
        if PICTURES:
            browser.run(
                "document.querySelector('details').open = false;"
                "document.activeElement.blur();"
            )
            kind = ("-phone" if width == 360 else "") + ("-dark" if dark else "")
            browser.picture(Path(PICTURES, f"status-{name}{kind}.png"))
    assert browser.errors() == []


def withoutScript(address: str) -> None:
    """
    Without a script, the page loads itself again.
    """
    with Browser(script=False) as browser:
        browser.visit(address)
        assert browser.title().startswith("well: ")
        loaded = browser.source()
        assert "all is well" in loaded
        browser.waitFor(lambda: browser.source() != loaded)


def number(browser: Browser, name: str) -> int:
    """
    Find a counter in the page.
    """
    rows = browser.run(
        "return [...document.querySelectorAll('#tables tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    [found] = [row[1] for row in rows if row[0] == name]
    return int(found.replace(",", ""))


def follow(browser: Browser, address: str, port: int) -> None:
    """
    Look at the page while clients come: it follows, and leaves the reader alone.
    """
    browser.visit(address)
    state = "return document.getElementById('state').textContent"
    browser.until(state, lambda found: found.endswith("all is well"))
    assert browser.run("return document.querySelector('details').open") is False
    browser.click("summary")
    assert browser.run("return document.querySelector('details').open") is True
    assert browser.run("return document.querySelectorAll('#figures tr').length") == 11
    browser.run("window.mark = document.querySelector('#tables .box'); mark.focus()")
    before = number(browser, "accepted")
    for _ in range(5):
        ask(port, send=b"who\n")
    deadline = time.monotonic() + 30
    while number(browser, "accepted") < before + 5:
        assert time.monotonic() < deadline
    # The page was not loaded again, what was unfolded stays, and so does the focus.
    assert browser.run("return 'mark' in window")
    assert browser.run("return document.querySelector('details').open") is True
    focused = "return document.activeElement.getAttribute('aria-label')"
    assert browser.run(focused) == "1 port"
    browser.click("summary")
    assert browser.run("return document.querySelector('details').open") is False
    browser.press("\ue007")
    assert browser.run("return document.querySelector('details').open") is True


@asynchronous
async def test_page(run: Run) -> None:
    """
    The page while all is well, when a worker has died, and with a queue.
    """
    port = freePort(24600, 24700)
    tables = [run.table("web", also="count = 4")]
    listen = f"[ports.http]\nlisten = {run.address(run.port)}"
    run.write(*tables, ports=f"metrics = {port}\n{listen}")
    run.launch()
    await run.ready()
    address = f"http://127.0.0.1:{port}/"
    try:
        browser = await deferToThread(Browser().__enter__)
    except NoBrowser as error:
        pytest.skip(str(error))
    with ExitStack() as stack:
        stack.callback(browser.__exit__)
        await deferToThread(follow, browser, address, run.port)
        with clients(run.port):
            await deferToThread(time.sleep, LOAD_SECONDS)
            await deferToThread(picture, browser, "well")
            run.mode("web", "wait")
            first, *others = pids(await run.ready()).values()
            os.kill(first, signal.SIGKILL)
            state = "return document.getElementById('state').textContent"
            await deferToThread(
                browser.until, state, lambda found: "web" in found and found[0] == "!"
            )
            await deferToThread(time.sleep, LOAD_SECONDS / 5)
            await deferToThread(picture, browser, "died")
        for each in others:
            os.kill(each, signal.SIGKILL)
        for _ in range(WAITING):
            sock = await deferToThread(
                socket.create_connection, ("127.0.0.1", run.port)
            )
            stack.callback(sock.close)
            sock.sendall(b"who\n")
        legend = "return document.querySelector('#queue .legend').textContent"
        await deferToThread(
            browser.until, legend, lambda found: found == f"http {WAITING}"
        )
        label = "return document.querySelector('#queue svg').getAttribute('aria-label')"
        said = f"http: {WAITING} now, "
        await deferToThread(browser.until, label, lambda found: said in found)
        await deferToThread(time.sleep, LOAD_SECONDS / 5)
        await deferToThread(picture, browser, "queue")
        run.mode("web", "")
        await run.ready()
        await deferToThread(
            browser.until, state, lambda found: found.endswith("all is well")
        )
        await deferToThread(withoutScript, address)
        await run.stop()
        await deferToThread(
            browser.until,
            "return document.getElementById('stale').textContent",
            lambda found: "This page is old" in found,
        )
    assert "Traceback" not in run.process.output, run.process.output
