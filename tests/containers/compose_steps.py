"""
C{contrib/compose}, by podman-compose.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.containers.image import PORTLISTEN, PROMETHEUS, SOURCE, WEB
from tests.containers.podman import until
from tests.containers.step import Step
from tests.containers.trial import Trial, ask

FOLDER = SOURCE / "contrib" / "compose"

#: The ports of the loopback address that are published.
PORT, PROMETHEUS_PORT = 18080, 19090

#: Where the images and ports of a trial are named.
SETTINGS = {
    "PORTLISTEN_IMAGE": PORTLISTEN,
    "WORKER_IMAGE": WEB,
    "PROMETHEUS_IMAGE": PROMETHEUS,
    "PORTLISTEN_PUBLISH": str(PORT),
    "PROMETHEUS_PUBLISH": str(PROMETHEUS_PORT),
}


class Project:
    """
    What the file describes.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.name = f"trial{os.getpid()}"

    def __call__(self, *words: str) -> str:
        """
        Run a command of podman-compose.
        """
        podman = self._trial.podman
        program = Path(sys.executable).with_name("podman-compose")
        search = os.pathsep.join([str(program.parent), os.environ["PATH"]])
        done = podman.other(
            program,
            f"--project-name={self.name}",
            *words,
            cwd=FOLDER,
            env={**podman.environment, **SETTINGS, "PATH": search},
        )
        return done.stdout + done.stderr

    def containers(self, service: str) -> list[str]:
        """
        List the containers of a service that run.
        """
        found = json.loads(self._trial.podman("ps", "--format=json"))
        return sorted(
            name
            for each in found
            for name in each["Names"]
            if re.fullmatch(rf"{self.name}[-_]{service}[-_]\d+", name)
        )

    def listener(self, *words: str) -> str:
        """
        Run a command in the listener's container.

        @return: its output.
        """
        (name,) = self.containers("listener")
        return self._trial.podman.run("exec", name, *words, check=False).stdout

    def log(self, name: str) -> str:
        """
        The log of a container.
        """
        return self._trial.podman("logs", name)

    def workers(self) -> list[str]:
        """
        The labels of the workers that serve.
        """
        found = json.loads(self.listener("portlisten", "status", "--json"))
        serving = [
            each["label"]
            for each in found["listener"]["workers"]
            if each["state"] == "serving"
        ]
        return sorted(serving)


@contextmanager
def project(trial: Trial, *words: str) -> Iterator[Project]:
    """
    Start what the file describes, and end it.
    """
    made = Project(trial)
    try:
        made(*words, "up", "--detach", "--no-build")
        until(lambda: len(made.workers()) == 2, "two workers serve")
        yield made
    finally:
        made(*words, "down", "--volumes", "--remove-orphans")


def scaled(trial: Trial) -> str:
    """
    Two workers serve, then three; then one of them is stopped, and started again.
    podman-compose stops none to scale down.
    """
    with project(trial) as made:

        def scale() -> None:
            made("up", "--detach", "--no-build", "--scale=worker=3")
            until(lambda: len(made.workers()) == 3, "three workers serve")
            for each in made.containers("worker"):
                until(functools.partial(serves, each), f"{each} serves clients")

        def serves(name: str) -> bool:
            return " 200 " in made.log(name)

        def work() -> None:
            scale()
            trial.podman("stop", made.containers("worker")[0])
            assert len(made.workers()) == 2, made.workers()
            scale()

        seen = trial.load(f"http://127.0.0.1:{PORT}/", work).check()
        for label in made.workers():
            assert re.fullmatch("web-[0-9a-f]{12}", label), label
        (worker, *_) = made.containers("worker")
        found = trial.podman.inspect(worker)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], host
        assert found["EffectiveCaps"] in ([], None), found["EffectiveCaps"]
        assert found["Config"]["User"] == "10002:10001", found["Config"]
    assert trial.podman.left() == [], trial.podman.left()
    return f"2, 3, 2 and 3 workers, {seen}; `down` left nothing"


def watched(trial: Trial) -> str:
    """
    With its profile, Prometheus has the listener's metrics.
    """
    with project(trial, "--profile=monitoring"):
        for _ in range(5):
            ask(PORT)

        def query(text: str) -> Any:
            url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query={text}"
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    found = json.load(answer)["data"]["result"]
            except OSError:
                return None
            return found[0]["value"][1] if found else None

        until(lambda: query("up") == "1", "Prometheus reaches the listener")
        name = "sum(portlisten_connections_accepted_total)"
        until(lambda: int(query(name) or 0) >= 5, "Prometheus has the connections")
        found = query(name)
    return f"Prometheus has its metrics, {found} accepted connections among them"


STEPS = [
    Step(
        "compose",
        "two workers, a third one, and one that is stopped, under load",
        scaled,
    ),
    Step("compose", "Prometheus, by its profile", watched),
]
