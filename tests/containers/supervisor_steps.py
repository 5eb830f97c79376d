"""
The supervisor in one container: it starts the listener and the workers itself.
"""

from __future__ import annotations

from tests.containers.image import WEB
from tests.containers.step import Step
from tests.containers.trial import Container, Trial, inNetworkOf

_FILE = """
path = "/run/portlisten/web.sock"
{top}
[ports.http]
listen = 8080

[workers.web]
command = ["uvicorn", "--app-dir", "/app", "--loop", "portlisten.asyncio:loop",
           "--host", "portlisten:{{path}}:name=http", "--no-proxy-headers", "app:app"]
count = 2
{workers}
"""

#: It waits for its own children alone, and hears each signal.
_OPTIONS = (
    *("--init", "--network=none", "--read-only", "--cap-drop=all"),
    "--security-opt=no-new-privileges",
)

STATUS = ("portlisten", "status", "/etc/portlisten/web.toml")


def start(trial: Trial, top: str, workers: str, *options: str) -> Container:
    """
    Start the supervisor of a file, and wait until all is well.
    """
    folder = trial.folder / "etc"
    folder.mkdir()
    (folder / "web.toml").write_text(_FILE.format(top=top, workers=workers))
    container = trial.container(
        WEB,
        *("portlisten", "run", "/etc/portlisten/web.toml"),
        options=[f"--volume={folder}:/etc/portlisten:ro", *_OPTIONS, *options],
    )
    for _ in range(60):
        if (
            trial.podman.run("exec", container.name, *STATUS, check=False).returncode
            == 0
        ):
            return container
    raise AssertionError(f"{container.run(*STATUS, check=False)}{container.output}")


def users(container: Container) -> list[str]:
    """
    The users of the processes in a container, as numbers, each once.
    """
    found = container.run("sh", "-c", "stat -c %u /proc/[0-9]*")
    return sorted(set(found.split()))


def alone(trial: Trial) -> str:
    """
    As one user, without any capability, and restarted worker by worker under load.
    """
    # The volume belongs to its user.
    container = start(
        trial, "", "", "--user=10001:10001", "--volume=channel:/run/portlisten"
    )

    def work() -> None:
        container.run("portlisten", "restart", "/etc/portlisten/web.toml")

    prefix = inNetworkOf(container)
    seen = trial.load("http://127.0.0.1:8080/", work, prefix).check()
    found = users(container)
    assert found == ["10001"], found
    container.stop()
    return f"users {', '.join(found)}; both workers replaced, {seen}"


def several(trial: Trial) -> str:
    """
    As root, with what it takes to become others.
    """
    capabilities = ("--cap-add=SETUID", "--cap-add=SETGID", "--cap-add=KILL")
    # It may write only to folders of its own, since it has no CAP_DAC_OVERRIDE.  The
    # path has its group, since it has no CAP_CHOWN.
    (trial.folder / "run").mkdir(mode=0o755)
    container = start(
        trial,
        'user = "portlisten"\n',
        'user = "worker"\n',
        *("--user=0:10001", f"--volume={trial.folder}/run:/run/portlisten"),
        *capabilities,
    )
    found = users(container)
    assert found == ["0", "10001", "10002"], found
    container.stop()
    return f"users {', '.join(found)}"


STEPS = [
    Step("supervisor", "as one user, without a capability", alone),
    Step("supervisor", "as root with SETUID, SETGID, KILL, and two users", several),
]
