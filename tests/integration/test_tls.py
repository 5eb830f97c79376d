"""
TLS in a worker: the listener has no key.
"""

from __future__ import annotations

import os
import pwd
import ssl
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates, openssl, readable
from tests.support.programs import needs
from tests.support.spawned import Start, listening


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("owner", ["root", "daemon"])
@asynchronous
async def test_https(twistd: Start, start: Start, folder: Path, owner: str) -> None:
    """
    Twisted's own web server speaks HTTPS with the description of a port alone:
    HTTP/1.1 or HTTP/2, as the client likes, with a chain that the client can
    verify, and with a key that the listener's user cannot read.
    """
    needs("OpenSSL", "twisted[tls]")
    needs("h2", "twisted[http2]")
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
