"""
The images: a Debian by C{debootstrap}, since a registry may be out of reach, and on it
those of C{Containerfile} and of C{contrib/compose}.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import portlisten
from tests.containers.podman import Podman
from tests.support.debian import Failed, bootstrap

SOURCE = Path(__file__).parents[2]

BASE = "localhost/debian:bookworm"

#: The images of C{Containerfile}.
PORTLISTEN = "localhost/portlisten:trial"
WORKER = "localhost/portlisten:worker"

#: That of C{contrib/compose/worker}, and a Prometheus from Debian.
WEB = "localhost/portlisten-web:trial"
PROMETHEUS = "localhost/prometheus:trial"

_PROMETHEUS = f"""
FROM {BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus
USER nobody
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", \
"--storage.tsdb.path=/tmp/data"]
"""

#: Where the certificates are in the build.
_CERTIFICATES = "/run/certificates.pem"


def check() -> None:
    """
    Check that this host has what is needed.

    @raise Failed: if it has not.
    """
    if os.geteuid() != 0:
        raise Failed("only root can make these images and containers")
    wanted = {
        "podman": "podman",
        "runc": "runc",
        "debootstrap": "debootstrap",
        "iptables": "iptables",
        "wrk": "wrk",
        "/usr/lib/podman/netavark": "netavark",
        "/usr/lib/podman/aardvark-dns": "aardvark-dns",
        "catatonit": "catatonit",
        "curl": "curl",
    }
    missing = [package for name, package in wanted.items() if not shutil.which(name)]
    if missing:
        raise Failed(
            f"{', '.join(missing)} missing: apt-get install --no-install-recommends"
            f" {' '.join(missing)}"
        )


def build(podman: Podman, mirror: str) -> None:
    """
    Build all images, unless the storage has them.

    @raise Failed: if one cannot be built.
    """
    if podman.run("image", "exists", BASE, check=False).returncode:
        with tempfile.TemporaryDirectory(prefix="debian.", dir=podman.folder) as root:
            os.chmod(root, 0o755)
            bootstrap(Path(root), mirror)
            with subprocess.Popen(
                ["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE
            ) as tar:
                subprocess.run(
                    ["podman", "import", "--quiet", "-", BASE],
                    stdin=tar.stdout,
                    env=podman.environment,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
    podman.probe(BASE)
    version = f"--build-arg=VERSION={portlisten.__version__}"
    base = f"--build-arg=BASE={BASE}"
    _build(podman, PORTLISTEN, SOURCE, base, version)
    _build(podman, WORKER, SOURCE, base, version, "--target=worker")
    web = SOURCE / "contrib/compose/worker"
    _build(podman, WEB, web, f"--build-arg=WORKER_BASE={WORKER}")
    with tempfile.TemporaryDirectory(dir=podman.folder) as folder:
        Path(folder, "Containerfile").write_text(_PROMETHEUS)
        _build(podman, PROMETHEUS, Path(folder))


def _build(podman: Podman, tag: str, context: Path, *options: str) -> None:
    """
    Build an image.  The build has the host's network.
    """
    with tempfile.TemporaryDirectory(prefix="pip.", dir=podman.folder) as folder:
        done = podman.run(
            *("build", "--format=docker", "--network=host", f"--tag={tag}"),
            *(f"--volume={each}" for each in _pipVolumes(Path(folder))),
            *options,
            context,
            check=False,
            seconds=600,
        )
    if done.returncode:
        raise Failed(
            f"{tag} cannot be built:\n{done.stdout[-2000:]}{done.stderr[-1500:]}"
        )


def _pipVolumes(folder: Path) -> list[str]:
    """
    Give the build pip's settings of this host, and what they name: certificates,
    indexes and wheels in folders.

    @return: volumes.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    settings: dict[str, str] = {}
    for name, value in re.findall(r"^\S+?\.(\S+)='(.*)'$", listed.stdout, re.MULTILINE):
        settings[name] = value
    settings.pop("constraint", None)
    volumes = []
    certificates = settings.get("cert")
    if certificates is not None:
        shutil.copy(certificates, folder / "certificates.pem")
        volumes.append(f"{folder}/certificates.pem:{_CERTIFICATES}:ro")
        settings["cert"] = _CERTIFICATES
    for value in settings.values():
        for each in value.split():
            path = Path(each.removeprefix("file://"))
            if each.startswith("file://"):
                path = path.parent  # the pages of an index lead to files beside it
            if path.is_absolute() and path.is_dir():
                volumes.append(f"{path}:{path}:ro")
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    return [f"{folder}/pip.conf:/etc/pip.conf:ro", *dict.fromkeys(volumes)]
