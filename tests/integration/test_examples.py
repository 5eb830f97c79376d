"""
The examples do what they say.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.integration.conftest import Start
from tests.integration.support import freePort, listening, needs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("web", ["replacing a worker ...\nhello from a file\n"]),
        ("https", ["/\nhello over TLS\n"]),
        ("smtp", ["\n\nHello, Joe.\n"]),
        ("dns", ["\nreplacing the worker ...\n192.0.2.2\n2001:db8::2\n"]),
        (
            "2002",
            [
                f"\nhello from {listener} to {worker}\n"
                for listener in ("ours", "2002")
                for worker in ("ours", "2002")
            ],
        ),
    ],
    ids=["web", "https", "smtp", "dns", "2002"],
)
@ensureDeferred
async def test_script(start: Start, folder: Path, name: str, said: list[str]) -> None:
    """
    A script prints the answers, and nothing else but what it starts; it leaves
    nothing behind.
    """
    needs("OpenSSL", "twisted[tls]")
    for program in ("curl", "openssl", "setpriv", "cc", "dig"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    process = start(
        *("env", f"TMPDIR={temporary}", "TZ=UTC"),
        *(str(EXAMPLES / name), str(freePort(10000, 20000))),
    )
    assert await process.ended() == 0, process.output
    print(process.output)
    for answer in said:
        assert answer in process.output
    assert process.errors == ""
    assert list(temporary.iterdir()) == []


@ensureDeferred
async def test_chat(twistd: Start, folder: Path) -> None:
    """
    The chat passes on what its clients say, and says goodbye when it stops.
    """
    listener = twistd("portlisten", "--mode=0666", "0", "./socket")
    port = await listening(listener)
    server = twistd("-y", str(EXAMPLES / "chat.tac"))
    await listener.says("joined")

    def connect() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), 10)
        assert client.recv(100).startswith(b"welcome")
        return client

    ann, joe = [await deferToThread(connect) for _ in range(2)]
    ann.sendall(b"hello, Joe\n")
    assert await deferToThread(joe.recv, 100) == b"hello, Joe\n"
    await server.stop()
    for client in (ann, joe):
        assert client.recv(100) == b"goodbye, come again\n"
        assert client.recv(100) == b""
        client.close()
    assert "still in service" not in server.output
