"""
What a node of Kubernetes does with the manifests of C{contrib/kubernetes}, by podman.

C{podman kube play} runs the file of a pod as it is.  What podman has no kind for, as a
DaemonSet, is run container by container, as the manifest says.  What the kubelet would
do, such as C{preStop}, is done here.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.containers.image import PORTLISTEN, WORKER
from tests.containers.podman import Podman
from tests.support.load import Load, parse
from tests.support.manifests import FOLDER, Container, containers

#: How long anything may take to be ready, in seconds.
READY_SECONDS = 30.0


class Kube:
    """
    What a node does, by podman.

    @param folder: a folder for files.
    """

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.folder = folder
        self.network = f"kube{os.getpid()}"
        self._environment = podman.environment
        self._names: list[str] = []

    def __enter__(self) -> Kube:
        names = {
            str(each.spec["image"])
            for file in ("pod.yaml", "node.yaml")
            for each in containers(file).values()
        }
        self._before = self.everything()
        run("ip", "netns", "add", self.network)
        try:
            self.inside("ip", "link", "set", "lo", "up")
            self.podman("network", "create", self.network)
            for name in names:
                image = PORTLISTEN if "/portlisten:" in name else WORKER
                self.podman("tag", image, name)
                self._names.append(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for words in (
            ["kube", "down", str(FOLDER / "pod.yaml")],
            ["rm", "--force", "--time=3", "--filter", f"label=network={self.network}"],
            *(["untag", name, name] for name in self._names),
            ["network", "rm", "--force", self.network],
        ):
            self.podman(*words, check=False)
        run("ip", "netns", "del", self.network, check=False)

    def everything(self) -> set[str]:
        """
        List the containers, pods and volumes of this host.
        """
        found: set[str] = set()
        for words in (["ps", "--all"], ["pod", "ps"], ["volume", "ls"]):
            found.update(self.podman(*words, "--quiet").split())
        return found

    def left(self) -> set[str]:
        """
        List what is there that was not there before.
        """
        return self.everything() - self._before

    def inside(self, *words: str, check: bool = True) -> str:
        """
        Run a program in the network namespace.
        """
        prefix = ["nsenter", f"--net=/run/netns/{self.network}"]
        return run(*prefix, *words, check=check, environment=self._environment)

    def podman(self, *words: str, check: bool = True) -> str:
        """
        Run podman.
        """
        if words[0] in ("kube", "run", "rm", "restart"):
            return self.inside("podman", *words, check=check)
        return run("podman", *words, check=check, environment=self._environment)

    def start(self, container: Container, name: str, folder: Path) -> None:
        """
        Start a container as its manifest says, on the network of the node.

        @param folder: what stands for the C{hostPath}.
        """
        security, spec = container.security, container.spec
        words = [
            *("run", "--detach", "--name", name, "--label", f"network={self.network}"),
            f"--network=ns:/run/netns/{self.network}",
            f"--user={security['runAsUser']}:{security['runAsGroup']}",
            "--security-opt=no-new-privileges",
            *(f"--cap-drop={each}" for each in security["capabilities"]["drop"]),
            *(f"--cap-add={each}" for each in security["capabilities"].get("add", ())),
            f"--env=PORTLISTEN_LABEL={name}",
        ]
        if security["readOnlyRootFilesystem"]:
            words += ["--read-only", "--read-only-tmpfs=false"]
        volumes = {each["name"]: each for each in container.pod["volumes"]}
        for mount in spec["volumeMounts"]:
            if "hostPath" in volumes[mount["name"]]:
                mode = "ro" if mount.get("readOnly") else "rw"
                words.append(f"--volume={folder}:{mount['mountPath']}:{mode}")
            else:
                words.append(f"--tmpfs={mount['mountPath']}:size=1m,mode=1777")
        command = spec["command"]
        words.append(f"--entrypoint={json.dumps(command)}")
        self.podman(*words, spec["image"])

    def execute(self, name: str, *words: str) -> int:
        """
        Run a command in a container, as its user.

        @return: the exit code.
        """
        return subprocess.run(
            ["podman", "exec", name, *words],
            env=self._environment,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode

    def end(self, found: dict[str, Container], grace: float) -> dict[str, float]:
        """
        End containers as the kubelet ends a pod: all C{preStop} at once, and for each
        container SIGTERM after its own, and SIGKILL after the grace.

        @param found: the containers, by their names in Podman.
        @return: how long each took, in seconds.
        """
        began = time.monotonic()
        took: dict[str, float] = {}

        def end(name: str, container: Container) -> None:
            if container.preStop:
                self.execute(name, *container.preStop)
            rest = max(2, int(grace - (time.monotonic() - began)))
            self.podman("stop", f"--time={rest}", name)
            took[name] = time.monotonic() - began

        threads = [threading.Thread(target=end, args=each) for each in found.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    def logs(self, name: str) -> str:
        """
        Read what a container has logged.
        """
        return self.podman("logs", name)

    def code(self, name: str) -> int:
        """
        Get the exit code of a container that has ended.
        """
        return int(self.podman("inspect", "--format={{.State.ExitCode}}", name))

    @contextmanager
    def load(self, url: str, *options: str) -> Iterator[list[Load]]:
        """
        Load a server by wrk while the body runs.

        @return: what wrk says is in the list afterwards.
        """
        found: list[Load] = []
        process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self.network}", "nice", "-n19"),
                *("wrk", "-t2", "-c32", "-d120s", "--timeout=20s", *options, url),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(1)
            yield found
            time.sleep(1)
            process.send_signal(2)  # which has it print its figures
            output, _ = process.communicate(timeout=30)
            found.append(parse(output))
        finally:
            process.kill()
            process.wait()


def run(
    *words: str, check: bool = True, environment: dict[str, str] | None = None
) -> str:
    """
    Run a program.

    @return: its output, with the standard error.
    """
    done = subprocess.run(
        words,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}"
    return done.stdout


def until(true: Callable[[], bool], what: str) -> float:
    """
    Wait until something is true.

    @return: how long that took, in seconds.
    """
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < READY_SECONDS, what
        time.sleep(0.1)
    return time.monotonic() - began
