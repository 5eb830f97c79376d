"""
The manifests of C{contrib/kubernetes} in Podman, as root: C{python -m
tests.containers.kube_steps IMAGE}.

C{podman kube play} runs the file of a pod as it is.  What Podman has no kind for, as a
DaemonSet, is run container by container, as the manifest says.  What the kubelet would
do, such as C{preStop}, is done here.

Everything is in a network namespace of its own, so the pod's ports are not this host's.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.load import Load, parse
from tests.support.manifests import FOLDER, Container, containers

#: Podman's defaults here.  Limits above those of this host's user cannot be set.
SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
"""

#: How long anything may take to be ready, in seconds.
READY_SECONDS = 30.0


class Kube:
    """
    What a node does, by Podman.

    @param folder: an empty folder for files.
    @param image: the image for all containers: it has portlisten.
    """

    def __init__(self, folder: Path, image: str) -> None:
        self.folder = folder
        self.network = f"kube{os.getpid()}"
        settings = folder / "containers.conf"
        settings.write_text(SETTINGS)
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(settings),
            # Health checks are run by timers of systemd, which may not be here.
            "DISABLE_HC_SYSTEMD": "true",
        }
        self._image = image
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
                self.podman("tag", self._image, name)
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
        return (
            self.inside("podman", *words, check=check)
            if words[0]
            in (
                "kube",
                "run",
                "rm",
                "restart",
            )
            else run("podman", *words, check=check, environment=self._environment)
        )

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


# The pod

LISTENER, APP = "web-pod-0-listener", "web-pod-0-app"

CLOSE = ("--header", "Connection: close")


@contextmanager
def pod(kube: Kube) -> Iterator[str]:
    """
    Run the pod of the file as it is.

    @return: the pod's address.
    """
    name = str(FOLDER / "pod.yaml")
    kube.podman("kube", "play", "--network", kube.network, name)
    try:
        until(lambda: joined(kube) == 1, "the app has not joined")
        infra = kube.podman("inspect", "--format={{.Pod}}", LISTENER).strip()
        found = json.loads(kube.podman("pod", "inspect", infra))
        networks = json.loads(kube.podman("inspect", found["InfraContainerID"]))
        (network,) = networks[0]["NetworkSettings"]["Networks"].values()
        yield network["IPAddress"]
    finally:
        kube.podman("kube", "down", name)


def joined(kube: Kube) -> int:
    """
    Count how often the app has joined the listener.
    """
    return kube.logs(LISTENER).count(" joined, with ")


def podServes(kube: Kube) -> str:
    """
    The pod answers, with the client's address in the app's log.
    """
    with pod(kube) as address:
        page = kube.inside(
            "curl", "--silent", "--max-time", "5", f"http://{address}:8080/"
        )
        assert "Twisted Web" in page, page
        health = kube.inside("curl", "--silent", f"http://{address}:9100/healthz/http")
        assert health == "serving http\n", health
        client = address.rpartition(".")[0] + ".1"
        assert f'"{client}"' in kube.logs(APP), kube.logs(APP)
        log = kube.logs(LISTENER)
        assert "(web, pid 0, uid 10002) joined" in log, log
        # The app can do nothing that is the listener's.
        path = "/run/portlisten/web.sock"
        assert kube.execute(APP, "portlisten", "pause", path) == 2
        mounted = " /run/portlisten [a-z0-9]* ro,"
        assert kube.execute(APP, "grep", "-q", mounted, "/proc/mounts") == 0
        assert kube.execute(LISTENER, "grep", "-q", mounted, "/proc/mounts") == 1
        # The liveness probe, which is a health check here, sees a listener that hangs.
        assert kube.podman("healthcheck", "run", LISTENER) == ""
        process = int(kube.podman("inspect", "--format={{.State.Pid}}", LISTENER))
        os.kill(process, 19)
        try:
            failed = kube.podman("healthcheck", "run", LISTENER, check=False)
        finally:
            os.kill(process, 18)
        assert "exceeded timeout" in failed, failed
    assert kube.left() == set(), kube.left()
    return f"serves {client}, as its log says; the app cannot use the control socket"


def podRestarts(kube: Kube) -> str:
    """
    The app's container is restarted and killed under load, and nobody is refused.
    """
    seen = []
    for kind, options in (("a connection each", CLOSE), ("kept connections", ())):
        with pod(kube) as address:
            url = f"http://{address}:8080/"
            with kube.load(url, *options) as loads:
                for number in range(1, 6):
                    kube.podman("restart", "--time=20", APP)
                    until(lambda n=number: joined(kube) > n, "it joined not")  # type: ignore[misc]
            (stopped,) = loads
            assert stopped.errors == 0, stopped
            with kube.load(url, *options) as loads:
                for number in range(6, 9):
                    process = kube.podman("inspect", "--format={{.State.Pid}}", APP)
                    os.kill(int(process), 9)
                    until(lambda n=number: joined(kube) > n, "it joined not")  # type: ignore[misc]
            (killed,) = loads
            # What was in service is cut, as with any server.
            assert killed.connect == killed.timeout == killed.refused == 0, killed
            seen.append(
                f"{kind}: restarted 5 times, {stopped.requests} requests, 0 errors;"
                f" killed 3 times, {killed.requests} requests, 0 refused,"
                f" {killed.broken} cut in service"
            )
    return "; ".join(seen)


def podEnds(kube: Kube) -> str:
    """
    The pod ends under load as the kubelet ends it.  As when a Service withdraws it,
    clients go elsewhere within ten seconds.
    """
    found = containers("pod.yaml")
    with pod(kube) as address:
        ended: list[dict[str, float]] = []

        def end() -> None:
            grace = found["app"].pod["terminationGracePeriodSeconds"]
            pair = {LISTENER: found["listener"], APP: found["app"]}
            ended.append(kube.end(pair, grace))

        thread = threading.Thread(target=end)
        with kube.load(f"http://{address}:8080/", *CLOSE) as loads:
            thread.start()
            time.sleep(5)
            health = kube.inside(
                "curl", "--silent", f"http://{address}:9100/healthz/http"
            )
            assert health == "paused by an operator\n", health
        thread.join()
        (load,) = loads
        assert load.errors == 0, load
        (took,) = ended
        assert max(took.values()) < 20, took
        log = kube.logs(LISTENER)
        assert " drains" in log, log
        codes = [kube.code(LISTENER), kube.code(APP)]
        assert codes == [0, 0], codes
    return (
        f"{load.requests} requests while /healthz said 503, 0 errors; ended after"
        f" {max(took.values()):.0f} s"
    )


# The node


def nodeUpdated(kube: Kube) -> str:
    """
    The node's listener is updated ten times under load, as the DaemonSet does it.
    """
    found = containers("node.yaml")
    folder = kube.folder / "run"
    folder.mkdir(mode=0o755)
    listener, app = found["listener"], found["app"]
    names = [f"{kube.network}-listener-{number}" for number in range(11)]
    worker = f"{kube.network}-web"
    ready = listener.spec["readinessProbe"]["exec"]["command"]
    grace = listener.pod["terminationGracePeriodSeconds"]

    def started(name: str) -> None:
        kube.start(listener, name, folder)
        until(lambda: kube.execute(name, *ready) == 0, f"{name} is not ready")

    started(names[0])
    kube.start(app, worker, folder)
    until(lambda: " joined, with " in kube.logs(names[0]), "no worker")
    status = kube.podman("exec", names[0], "cat", "/proc/self/status")
    assert "CapEff:\t0000000000000400" in status, status
    seen = []
    for part, options in ((names[:6], CLOSE), (names[5:], ())):
        with kube.load("http://127.0.0.1/", *options) as loads:
            for old, new in itertools.pairwise(part):
                started(new)
                # It was replaced, and its container goes on until the pod's end.
                until(lambda: kube.execute(old, *ready) == 1, f"{old} goes on")  # noqa: B023
                took = kube.end({old: listener}, grace)
                assert took[old] < 5, took
        (load,) = loads
        assert load.errors == 0, load
        seen.append(f"{load.requests} requests")
    # One that cannot start changes nothing.
    wrong = dict(listener.spec)
    wrong["command"] = [
        each.replace("--listen=http=80", "--listen=http=80 --listen=x=99999")
        for each in wrong["command"]
    ]
    with kube.load("http://127.0.0.1/", *CLOSE) as loads:
        name = f"{kube.network}-wrong"
        kube.start(Container(listener.pod, wrong), name, folder)
        kube.podman("wait", name)
        assert kube.code(name) == 1, kube.code(name)
    (load,) = loads
    assert load.errors == 0, load
    # The one that had taken over ends, and the one before it, whose pod is there yet,
    # serves again.
    successor = f"{kube.network}-successor"
    started(successor)
    kube.podman("kill", "--signal=KILL", successor)
    kube.podman("wait", names[-1])
    assert kube.code(names[-1]) == 1  # so the kubelet starts it again
    kube.podman("start", names[-1])
    until(lambda: kube.execute(names[-1], *ready) == 0, "it serves not")
    page = kube.inside("curl", "--silent", "--retry", "5", "http://127.0.0.1/")
    assert "Twisted Web" in page, page
    took = kube.end({names[-1]: listener}, grace)
    assert 10 < took[names[-1]] < 20, took
    kube.podman("rm", "--force", "--time=3", worker, successor, name, *names)
    shutil.rmtree(folder)
    assert kube.left() == set(), kube.left()
    return (
        f"10 times, {' over a connection each, '.join(seen)} over kept ones, 0 errors;"
        f" one that cannot start: {load.requests} requests, 0 errors"
    )


def nodeDrained(kube: Kube) -> str:
    """
    Of two workers, one is drained, and it stays so while the listener is updated.
    """
    found = containers("node.yaml")
    folder = kube.folder / "drained"
    folder.mkdir(mode=0o755)
    ready = found["listener"].spec["readinessProbe"]["exec"]["command"]
    workers = [f"{kube.network}-web-{number}" for number in range(2)]
    names = [f"{kube.network}-before-{number}" for number in range(5)]
    ask = ("portlisten", "drain", "/run/portlisten/web.sock")
    for name in names:
        kube.start(found["listener"], name, folder)
        until(lambda n=name: kube.execute(n, *ready) == 0, "it is not ready")  # type: ignore[misc]
        if name == names[0]:
            for worker in workers:
                kube.start(found["app"], worker, folder)
        log = functools.partial(kube.logs, name)
        until(lambda log=log: log().count(" joined, ") == 2, "no workers")  # type: ignore[misc]
        if name == names[0]:
            kube.podman("exec", name, *ask, workers[0])
        seen = kube.podman("exec", name, *ask, check=False)
        assert f"{workers[0]}  pid 0  uid 10002  drained" in seen, seen
        assert f"{workers[1]}  pid 0  uid 10002  serving" in seen, seen
    kube.podman("rm", "--force", "--time=3", *workers, *names)
    assert kube.left() == set(), kube.left()
    return f"{len(names) - 1} times: the drained one stays drained, the other serves"


#: What is done, and to which manifest.
STEPS: Sequence[tuple[str, Callable[[Kube], str]]] = [
    ("pod.yaml: `podman kube play`, and `kube down`", podServes),
    ("pod.yaml: the app's container restarted and killed, under load", podRestarts),
    ("pod.yaml: ended as by the kubelet, under load", podEnds),
    ("node.yaml: the listener updated, under load", nodeUpdated),
    ("node.yaml: the listener updated while a worker is drained", nodeDrained),
]


def main(image: str, *words: str) -> int:
    """
    Take the steps whose names have one of some words, and print what was seen.

    @return: the exit code: 1 if a step failed.
    """
    failed = False
    with tempfile.TemporaryDirectory(prefix="kube.") as folder:
        os.chmod(folder, 0o755)
        with Kube(Path(folder), image) as kube:
            for name, do in STEPS:
                if words and not any(each in name for each in words):
                    continue
                began = time.monotonic()
                try:
                    print(f"| {name} | {do(kube)} |", flush=True)
                except AssertionError as error:
                    failed = True
                    traceback.print_exc()
                    print(f"| {name} | FAILED: {error} |", flush=True)
                print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
