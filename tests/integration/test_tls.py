"""
TLS in a worker: its listener knows of no key.
"""

from __future__ import annotations

import os
import pwd
import shutil
import ssl
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.integration.conftest import Start
from tests.integration.support import listening

pytest.importorskip("OpenSSL")
pytest.importorskip("h2")


@dataclass
class Certificates:
    """
    A root, an authority between, and a server's: files in PEM.
    """

    root: Path
    chain: Path
    certificate: Path
    key: Path


async def openssl(start: Start, *arguments: str) -> str:
    """
    Run openssl, with nothing on its standard input.

    @return: what it wrote.
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


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("owner", ["root", "daemon"])
@ensureDeferred
async def test_https(twistd: Start, start: Start, folder: Path, owner: str) -> None:
    """
    Twisted's own web server speaks HTTPS with the description of a port alone:
    HTTP/1.1 or HTTP/2, as the client likes, with a chain that the client can
    verify, and with a key that the listener's user cannot read.
    """
    made = await certificates(start, folder)
    os.chown(made.key, pwd.getpwnam(owner).pw_uid, -1)
    assert not await readable(start, made.key, "nobody")
    assert await readable(start, made.key, owner)
    site = folder / "site"
    site.mkdir()
    site.joinpath("index.html").write_text("hello over TLS\n")
    listener = twistd(
        "portlisten", "--group=daemon", "0", "./socket", uid="nobody", gid="nogroup"
    )
    port = await listening(listener)
    twistd(
        "web",
        f"--port=portlisten:./socket:privateKey={made.key}"
        f":certKey={made.certificate}:extraCertChain={made.chain}",
        "--path=site",
        uid="daemon",
    )
    await listener.says("joined")

    for option, version in (("--http1.1", "1.1"), ("--http2", "2")):
        curl = start(
            *("curl", "--silent", "--show-error", option, "--cacert", str(made.root)),
            *("--write-out", "HTTP/%{http_version}", "--resolve"),
            *(f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/"),
        )
        assert await curl.ended() == 0, curl.output
        assert curl.output == f"hello over TLS\nHTTP/{version}"

    shown = await openssl(
        start,
        *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"),
        *("-CAfile", str(made.root), "-verify_return_error", "-showcerts"),
        *("-verify_hostname", "localhost"),
    )
    assert "Verification: OK" in shown
    assert "subject=CN = localhost" in shown
    assert "issuer=CN = between" in shown
    assert made.certificate.read_text() in shown
    assert made.chain.read_text() in shown
    assert made.root.read_text() not in shown
    der = ssl.PEM_cert_to_DER_cert(made.certificate.read_text())
    print(f"key of {owner}, HTTP/1.1 and HTTP/2 to {sha256(der).hexdigest()[:16]}")
