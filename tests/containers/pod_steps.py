"""
A pod: the listener in one container, and workers in others, which share its network and
a volume.  Clients are in the pod's network.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from tests.containers.image import PORTLISTEN, WEB
from tests.containers.image_steps import LISTENER
from tests.containers.step import Step
from tests.containers.trial import Container, Trial, inNetworkOf
from tests.containers.worker_steps import TIMES, joins, uvicorn

_LEAN = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


@dataclass
class Pod:
    """
    A pod.

    @ivar name: its name.
    @ivar listener: the listener's container.
    """

    trial: Trial
    name: str
    listener: Container

    def options(self, volume: str, *more: str) -> list[str]:
        """
        The options of a container in it.
        """
        return [f"--pod={self.name}", f"--volume={volume}", *_LEAN, *more]

    def worker(self, label: str) -> Container:
        """
        Start a worker, as another user, and wait until it has joined.
        """
        options = self.options("channel:/run/portlisten:ro", "--user=10002:10001")
        started = self.trial.container(WEB, *uvicorn(label), options=options)
        joins(self.listener, label)
        return started

    def load(self, work: object) -> str:
        """
        Load it while some work is done, and check that nothing goes wrong.
        """
        assert callable(work)
        prefix = inNetworkOf(self.listener)
        return self.trial.load("http://127.0.0.1:8080/", work, prefix).check()


def make(trial: Trial) -> Pod:
    """
    Make a pod with a listener.
    """
    trial.podman("pod", "create", "--name=pod", "--network=none")
    trial.podman("volume", "create", "channel")
    options = ["--pod=pod", "--volume=channel:/run/portlisten", *_LEAN]
    listener = trial.container(PORTLISTEN, *LISTENER, options=options)
    listener.says("listening on")
    return Pod(trial, "pod", listener)


def replaced(trial: Trial) -> str:
    """
    A worker is replaced again and again; each is drained by its label.
    """
    pod = make(trial)
    current = pod.worker("web-0")

    def work() -> None:
        nonlocal current
        for number in range(1, TIMES + 1):
            new = pod.worker(f"web-{number}")
            path, old = "/run/portlisten/web.sock", f"web-{number - 1}"
            pod.listener.run("portlisten", "drain", "--timeout=20", path, old)
            current.stop()
            current = new
            time.sleep(0.2)

    return pod.load(work)


def restarted(trial: Trial) -> str:
    """
    The only worker is restarted: clients wait.
    """
    pod = make(trial)
    container = pod.worker("web")

    def work() -> None:
        for times in range(1, 4):
            trial.podman("restart", "--time=20", container.name)
            joins(pod.listener, "web", times + 1)
            time.sleep(0.3)

    return f"3 restarts, {pod.load(work)}"


def listenerReplaced(trial: Trial) -> str:
    """
    The listener's container is replaced by another one, which takes over.
    """
    pod = make(trial)
    pod.worker("web")
    old = pod.listener

    def work() -> None:
        options = pod.options("channel:/run/portlisten")
        command = [*LISTENER[:4], "--replace", *LISTENER[4:]]
        pod.listener = trial.container(PORTLISTEN, *command, options=options)
        joins(pod.listener, "web")
        time.sleep(0.5)

    prefix = inNetworkOf(old)
    seen = trial.load("http://127.0.0.1:8080/", work, prefix).check()
    (code,) = re.findall(r"^\d+$", trial.podman("wait", old.name), re.MULTILINE)
    assert code == "0", old.output
    return f"{seen}; the old container has ended with {code}"


STEPS = [
    Step("pod", "worker replaced 5 times, drained by label", replaced),
    Step("pod", "the only worker, restarted", restarted),
    Step("pod", "listener's container replaced, with --replace", listenerReplaced),
]
