"""
What the image has, and as what it runs.
"""

from __future__ import annotations

import re

import portlisten
from tests.containers.image import BASE, PORTLISTEN, WORKER
from tests.containers.podman import until
from tests.containers.step import Step
from tests.containers.trial import LEAN, Trial

#: A listener in a container that shares nothing.
LISTENER = (
    *("twistd", "--nodaemon", "--pidfile=", "portlisten"),
    *("http=8080", "/run/portlisten/web.sock"),
)

#: What a container of the image itself needs.
HARDENED = (
    *("--network=none", "--read-only", "--cap-drop=all"),
    "--security-opt=no-new-privileges",
)


def labels(trial: Trial) -> str:
    """
    Its labels, its user, and its size.
    """
    found = trial.podman.inspect(PORTLISTEN)
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in found["Config"]["Labels"].items()
    }
    assert labels["title"] == "portlisten"
    assert labels["version"] == portlisten.__version__
    assert labels["licenses"] == "MIT"
    assert found["Config"]["User"] == "10001:10001"
    base = trial.podman.inspect(BASE)["Size"]
    worker = trial.podman.inspect(WORKER)["Size"]
    own, withPip = ((each - base) / 1e6 for each in (found["Size"], worker))
    assert own < 90, own
    return (
        f"{own:.0f} MB on a Debian of {base / 1e6:.0f} MB; for workers {withPip:.0f} MB"
    )


def content(trial: Trial) -> str:
    """
    No tool to build with, and no program that gives a privilege.
    """
    search = "find / -xdev -perm /6000 -type f; command -v pip gcc cc make; true"
    shown = trial.podman("run", "--rm", *HARDENED, PORTLISTEN, "sh", "-c", search)
    assert shown == "", shown
    version = trial.podman("run", "--rm", *LEAN, PORTLISTEN, "portlisten", "--version")
    assert "accepting: compiled" in version, version
    return version


def health(trial: Trial) -> str:
    """
    It is well without a worker, and not while it hangs.
    """
    listener = trial.container(PORTLISTEN, *LISTENER, options=HARDENED)
    listener.says("listening on")

    def isWell() -> bool:
        check = ("healthcheck", "run", listener.name)
        return trial.podman.run(*check, check=False).returncode == 0

    until(isWell, "the listener is well")
    assert "nobody serves http" in listener.run("portlisten", "status", check=False)
    listener.kill("STOP")
    assert not isWell()
    listener.kill("CONT")
    until(isWell, "the listener is well again")
    listener.stop()
    return "healthy without a worker, unhealthy after SIGSTOP, healthy after SIGCONT"


def privileges(trial: Trial) -> str:
    """
    What it may do on port 80.
    """
    low = [each.replace("http=8080", "http=80") for each in LISTENER]
    refused = trial.podman.run("run", "--rm", *HARDENED, PORTLISTEN, *low, check=False)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1, said
    assert "cannot listen on port 80: Permission denied" in said, said
    capable = trial.container(
        PORTLISTEN, *low, options=[*HARDENED, "--cap-add=NET_BIND_SERVICE"]
    )
    capable.says("listening on http=tcp:0.0.0.0:80")
    status = f"/proc/{capable.pid}/status"
    with open(status) as file:
        (effective,) = re.findall(r"^CapEff:\s+(\w+)", file.read(), re.MULTILINE)
    assert int(effective, 16) == 1 << 10, effective
    sysctl = "--sysctl=net.ipv4.ip_unprivileged_port_start=0"
    plain = trial.container(PORTLISTEN, *low, options=[*HARDENED, sysctl])
    plain.says("listening on http=tcp:0.0.0.0:80")
    return (
        "refused without a capability; NET_BIND_SERVICE is enough, and then it has no"
        " other; so is the sysctl"
    )


STEPS = [
    Step("image", "labels, user, size", labels),
    Step("image", "nothing to build with, nothing setuid, read-only", content),
    Step("image", "health check", health),
    Step("image", "port 80", privileges),
]
