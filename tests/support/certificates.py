"""
Certificates for a test, and a check of the access to their keys.
"""

from __future__ import annotations

import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.spawned import Start


@dataclass
class Certificates:
    """
    Files in PEM: a root, an intermediate authority, and a server's certificate and key.
    """

    root: Path
    chain: Path
    certificate: Path
    key: Path


async def openssl(start: Start, *arguments: str) -> str:
    """
    Run openssl, with nothing on its standard input.

    @return: its output.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    process: Any = start("openssl", *arguments)
    process.transport.closeStdin()
    assert await process.ended() == 0, process.output
    return str(process.output)


async def certificates(start: Start, folder: Path) -> Certificates:
    """
    Make a key that only its owner can read, and a chain of three certificates.
    """
    folder = folder / "tls"
    folder.mkdir()

    def make(name: str, *arguments: str) -> Any:
        own = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "group:P-256", "-noenc"]
        own += ["-days", "2", "-subj", f"/CN={name}", "-out", f"tls/{name}.pem"]
        return openssl(start, *own, "-keyout", f"tls/{name}.key", *arguments)

    def by(name: str) -> list[str]:
        return ["-CA", f"tls/{name}.pem", "-CAkey", f"tls/{name}.key"]

    await make("root")
    await make("between", *by("root"))
    leaf = ["basicConstraints=critical,CA:FALSE", "subjectAltName=DNS:localhost"]
    options = [option for each in leaf for option in ("-addext", each)]
    await make("localhost", *by("between"), *options)
    key = folder / "localhost.key"
    key.chmod(0o600)
    return Certificates(
        folder / "root.pem", folder / "between.pem", folder / "localhost.pem", key
    )


async def readable(start: Start, path: Path, user: str) -> bool:
    """
    Whether a user can read a file.
    """
    who = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}"]
    return await start(*become, "--clear-groups", "cat", str(path)).ended() == 0
