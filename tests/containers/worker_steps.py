"""
Workers in containers, behind a listener on the host.
"""

from __future__ import annotations

import re
import time

from tests.containers.image import WEB
from tests.containers.podman import until
from tests.containers.step import Step
from tests.containers.trial import LEAN, Container, Trial, ask
from tests.support.processes import Process

#: How often a container is replaced.
TIMES = 5


def uvicorn(label: str, path: str = "/run/portlisten/web.sock") -> list[str]:
    """
    The command of a worker.
    """
    return [
        *("env", f"PORTLISTEN_LABEL={label}", "uvicorn", "--app-dir=/app"),
        *("--loop=portlisten.asyncio:loop", f"--host=portlisten:{path}:name=http"),
        *("--no-proxy-headers", "app:app"),
    ]


def worker(
    trial: Trial, listener: Process | Container, label: str, *options: str
) -> Container:
    """
    Start a worker, and wait until it has joined a listener.

    @param options: of its container; by default it has no more than it needs.
    """
    mount = f"--volume={trial.folder}:/run/portlisten:ro"
    own = [mount, *(options or LEAN)]
    started = trial.container(WEB, *uvicorn(label), options=own)
    joins(listener, label)
    return started


def joins(listener: Process | Container, label: str, times: int = 1) -> None:
    """
    Wait until workers with a label have joined a listener so many times.
    """
    pattern = re.compile(rf"\({label}, pid \d+, uid \d+\) joined")
    until(lambda: len(pattern.findall(listener.output)) >= times, f"{label} joins")


def replaceAll(trial: Trial, drains: bool) -> str:
    """
    Replace a worker again and again, under load.
    """
    listener, port = trial.listener("--group=daemon")
    path = f"{trial.folder}/web.sock"
    current = worker(trial, listener, "web-0")

    def work() -> None:
        nonlocal current
        for number in range(1, TIMES + 1):
            new = worker(trial, listener, f"web-{number}")
            if drains:
                trial.control("drain", "--timeout=20", path, f"web-{number - 1}")
            current.stop()
            current = new
            time.sleep(0.2)

    return trial.load(f"http://127.0.0.1:{port}/", work).check()


def drained(trial: Trial) -> str:
    """
    Each is drained by its label before it is stopped.
    """
    return replaceAll(trial, True)


def stopped(trial: Trial) -> str:
    """
    Each is only stopped.
    """
    return replaceAll(trial, False)


def addresses(trial: Trial) -> str:
    """
    The worker and its log have the clients' addresses.
    """
    listener, port = trial.listener("--group=daemon")
    container = worker(trial, listener, "web")
    sources = [f"127.0.0.{number}" for number in range(11, 16)]
    for source in sources:
        body = ask(port, source)
        assert body.endswith(f" to {source}\n"), body
    for source in sources:
        container.says(rf"{re.escape(source)}:\d+ - \"GET / HTTP/1.1\" 200")
    found = trial.podman("exec", container.name, "cat", "/proc/net/dev")
    devices = re.findall(r"^ *(\w+):", found, re.MULTILINE)
    assert devices == ["lo"], devices
    return f"{', '.join(sources)} in its log; its only network device is lo"


def alone(trial: Trial) -> str:
    """
    The only worker is restarted: clients wait.
    """
    listener, port = trial.listener("--group=daemon")
    container = worker(trial, listener, "web")

    def work() -> None:
        for times in range(1, 4):
            trial.podman("restart", "--time=20", container.name)
            joins(listener, "web", times + 1)
            time.sleep(0.3)

    seen = trial.load(f"http://127.0.0.1:{port}/", work)
    return f"3 restarts, {seen.check()}"


def killed(trial: Trial) -> str:
    """
    One of two workers is killed: only what it served is lost.
    """
    listener, port = trial.listener("--group=daemon")
    first, _ = (worker(trial, listener, label) for label in ("web-1", "web-2"))

    def work() -> None:
        time.sleep(0.5)
        first.kill()
        listener.says(r"died, \d+ connections to hand off again, \d+ lost in service")
        time.sleep(0.5)

    seen = trial.load(f"http://127.0.0.1:{port}/", work)
    lost = int(listener.says(r"(\d+) lost in service")[1])
    # wrk counts a connection that breaks once or, if it writes again, twice.
    assert seen.requests > 200, seen
    assert 0 < seen.errors <= 2 * lost, f"{seen}, {lost} lost in service"
    return f"{seen}; the listener says: {lost} lost in service"


def mapped(trial: Trial) -> str:
    """
    A container with user namespaces, whose root is somebody else outside.
    """
    listener, port = trial.listener("--mode=0666")
    maps = ("--uidmap=0:200000:65536", "--gidmap=0:200000:65536")
    lean = [each for each in LEAN if not each.startswith("--user=")]
    worker(trial, listener, "web", *lean, *maps, "--user=0:0")
    assert ask(port).endswith("to 127.0.0.1\n")
    user = listener.says(r"\(web, pid \d+, uid (\d+)\) joined")[1]
    assert user == "200000", user
    return f"its root is the user {user} for the listener"


STEPS = [
    Step("worker", "replaced 5 times, drained by label", drained),
    Step("worker", "replaced 5 times, by `podman stop` alone", stopped),
    Step("worker", "clients' addresses, without a network", addresses),
    Step("worker", "the only one, restarted", alone),
    Step("worker", "one of two, killed", killed),
    Step("worker", "user namespaces", mapped),
]
