"""
C{python -m tests.monitoring}: what C{promtool} says of all that is for Prometheus.

  - The metrics of a listener alone and of a supervisor are well made, in a real scrape
    of each.
  - Each metric that the documents, the alerts and the dashboard name is among them.
  - The alerts pass their tests, and each expression of the dashboard can be parsed.

It exits with 1 if something is wrong, and says what.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from portlisten._monitor.metric_names import METRICS
from tests.support.clients import connect, read
from tests.support.dashboards import PROMETHEUS, expressions, mentioned, series
from tests.support.ports import freePort
from tests.support.processes import PATIENCE, Processes
from tests.support.run_service import NoPython, Workers, portlisten, write

#: How to install promtool.
INSTALL = "apt-get install --no-install-recommends prometheus"

#: A worker, which answers a client that says C{who}.
WORKER = ("python", "-m", "tests.support.run_worker", "portlisten:{path}:name=http")


class Wrong(Exception):
    """
    Something is wrong.
    """


def promtool(*words: str, given: bytes = b"") -> None:
    """
    Run C{promtool}.

    @param given: its standard input.
    @raise Wrong: if it has anything to say.
    """
    done = subprocess.run(
        ["promtool", *words],
        input=given,
        capture_output=True,
        cwd=PROMETHEUS,
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    # What it says of what is right.
    right = re.compile(r"Checking |Unit Testing: | *SUCCESS|$")
    if done.returncode or not all(right.match(each) for each in said.splitlines()):
        raise Wrong(f"promtool {' '.join(words)}:\n{said}")
    print(f"promtool {' '.join(words)}: well", flush=True)


def scrape(monitor: int, complete: str) -> bytes:
    """
    Ask a monitor until a metric is not 0.

    @param complete: the beginning of the line of the metric.
    @raise Wrong: if that takes too long.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/metrics") as found:
                body: bytes = found.read()
        except OSError:
            body = b""
        if re.search(rf"^{complete}.* [1-9]", body.decode(), re.MULTILINE):
            return body
        if time.monotonic() > end:
            raise Wrong(f"{complete} stays 0:\n{body.decode()}")
        time.sleep(0.1)


@contextmanager
def listenerAlone(port: int, monitor: int) -> Iterator[None]:
    """
    Run a listener without a supervisor, and a worker.
    """
    description = f"http=tcp:{port}:interface=127.0.0.1"
    with Processes() as processes:
        processes.twistd(
            "portlisten", f"--metrics={monitor}", f"--listen={description}", "./socket"
        ).port()
        description = "portlisten:./socket:name=http:label=web-1"
        processes.twistd("web", f"--listen={description}", "--path=.")
        yield


@contextmanager
def supervisor(port: int, monitor: int) -> Iterator[None]:
    """
    Run a supervisor with two workers.
    """
    with Processes() as processes:
        file = write(
            processes.folder,
            f'[ports.http]\nlisten = "tcp:{port}:interface=127.0.0.1"',
            [Workers("web", WORKER, 2)],
            f"metrics = {monitor}",
        )
        process = processes.start(
            *portlisten("run", str(file), modules=["prometheus_client"])
        )
        try:
            yield
        finally:
            process.stop()


def tryOne(
    what: Callable[[int, int], AbstractContextManager[None]],
    port: int,
    monitor: int,
    request: bytes,
) -> set[str]:
    """
    Scrape a listener that has had a client, and check what it tells.

    @param what: runs the listener.
    @return: the names of the metrics.
    @raise Wrong: if something is wrong.
    """
    with what(port, monitor):
        scrape(monitor, "portlisten_port_workers")
        with connect(port) as client:
            client.sendall(request)
            read(client)
        rendered = scrape(monitor, "portlisten_connections_finished_total")
    print(f"{what.__name__}: {len(rendered)} bytes")
    promtool("check", "metrics", given=rendered)
    return set(re.findall(r"^# TYPE (\w+)", rendered.decode(), re.MULTILINE))


def checkNames(where: str, text: str) -> None:
    """
    @raise Wrong: if a text names a metric that does not exist.
    """
    wrong = mentioned(text) - series()
    if wrong:
        raise Wrong(f"{where} names metrics that do not exist: {', '.join(wrong)}")


def main() -> None:
    """
    Check everything.
    """
    if shutil.which("promtool") is None:
        sys.exit(f"promtool is missing: {INSTALL}")
    port = freePort(20000, 30000)
    monitor = freePort(port + 1, 30000)
    known = tryOne(listenerAlone, port, monitor, b"GET / HTTP/1.0\r\n\r\n")
    expected = {each.name for each in METRICS if not each.supervised}
    try:
        known |= tryOne(supervisor, port, monitor, b"who\n")
        expected |= {each.name for each in METRICS}
    except NoPython as error:
        print(f"the supervisor's own metrics are not tried: {error}")
    if known != expected:
        raise Wrong(f"these are missing or not known: {sorted(known ^ expected)}")
    for name in ("portlisten.rules.yml", "portlisten.test.yml"):
        checkNames(name, (PROMETHEUS / name).read_text("utf-8"))
    checkNames("the dashboard", "\n".join(expressions()))
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "portlisten.rules.yml")
    promtool("test", "rules", "portlisten.test.yml")
    with tempfile.TemporaryDirectory() as folder:
        # JSON is YAML as well.
        rules = [
            {"record": f"dashboard:{number}", "expr": text}
            for number, text in enumerate(expressions())
        ]
        file = Path(folder) / "dashboard.yml"
        groups = [{"name": "dashboard", "rules": rules}]
        file.write_text(json.dumps({"groups": groups}))
        promtool("check", "rules", "--lint=none", str(file))


if __name__ == "__main__":
    try:
        main()
    except Wrong as error:
        sys.exit(str(error))
