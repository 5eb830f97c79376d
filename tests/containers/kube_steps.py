"""
The manifests of C{contrib/kubernetes}.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.containers.kube import Kube, until
from tests.containers.step import Step
from tests.containers.trial import Trial
from tests.support.manifests import FOLDER, Container, containers

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
        grace = found["app"].pod["terminationGracePeriodSeconds"]

        def end() -> None:
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
        assert max(took.values()) < grace, took
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
                # A listener without a successor pauses for 10 seconds.
                assert took[old] < 10, took
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
    assert 10 < took[names[-1]] < grace, took
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


def _step(name: str, do: Callable[[Kube], str]) -> Step:
    """
    Make a step.
    """

    def run(trial: Trial) -> str:
        with Kube(trial.podman, trial.folder) as kube:
            return do(kube)

    return Step("kubernetes", name, run)


STEPS = [
    _step("pod.yaml: `podman kube play`, and `kube down`", podServes),
    _step(
        "pod.yaml: the app's container restarted and killed, under load", podRestarts
    ),
    _step("pod.yaml: ended as by the kubelet, under load", podEnds),
    _step("node.yaml: the listener updated, under load", nodeUpdated),
    _step("node.yaml: the listener updated while a worker is drained", nodeDrained),
]
