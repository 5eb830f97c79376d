"""
The examples do what they say.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start, listening

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples"


def run(
    start: Start, folder: Path, name: str, port: int, **environment: str
) -> Process:
    """
    Start an example.

    @param port: where it is to listen.
    @param environment: variables that are put into its environment.
    @return: its process.  Its temporary folder is C{folder/tmp}.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    environment.update(TMPDIR=str(temporary), TZ="UTC")
    variables = [f"{key}={value}" for key, value in environment.items()]
    return start("env", *variables, str(EXAMPLES / name), str(port))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("web", ["replacing a worker ...\nhello from a file\n"]),
        ("https", ["/\nhello over TLS\n"]),
        ("smtp", ["\n\nHello, Joe.\n"]),
        ("dns", ["\nreplacing the worker ...\n192.0.2.2\n2001:db8::2\n"]),
        ("chat", ["\nJoe reads: hello, Joe\n", "\nJoe reads: goodbye, come again\n"]),
        (
            "2002",
            [
                f"\nhello from {listener} to {worker}\n"
                for listener in ("ours", "2002")
                for worker in ("ours", "2002")
            ],
        ),
    ],
    ids=["web", "https", "smtp", "dns", "chat", "2002"],
)
@asynchronous
async def test_script(start: Start, folder: Path, name: str, said: list[str]) -> None:
    """
    A script prints the commands that it starts and the answers, and leaves nothing
    behind.
    """
    needs("OpenSSL", "twisted[tls]")
    for program in ("curl", "openssl", "setpriv", "cc", "dig"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    process = run(start, folder, name, freePort(10000, 20000))
    assert await process.ended() == 0, process.output
    print(process.output)
    for answer in said:
        assert answer in process.output
    assert process.errors == ""
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["web", "https", "smtp", "dns", "chat", "2002"])
@asynchronous
async def test_takenPort(start: Start, folder: Path, name: str) -> None:
    """
    A script whose listener cannot start says why at once, and leaves nothing behind.
    """
    needs("OpenSSL", "twisted[tls]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = run(start, folder, name, taken.getsockname()[1])
        await process.says("twistd --nodaemon.* portlisten")
        await process.says("the listener ended by itself:(.|\n)*already in use", 15)
        assert await process.ended() == 1
    assert list((folder / "tmp").iterdir()) == []


@asynchronous
async def test_deadWorker(start: Start, folder: Path) -> None:
    """
    A script says why a worker that was to take another's place ended.
    """
    programs = folder / "programs"
    programs.mkdir()
    # The example calls its first client when all workers have joined.
    curl = programs / "curl"
    curl.write_text("#!/bin/sh\nkill -KILL $(cat worker2.pid)\n")
    curl.chmod(0o755)
    process = run(
        start,
        folder,
        "web",
        freePort(10000, 20000),
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    await process.says("the worker2 ended by itself:(.|\n)*starting up", 15)
    assert await process.ended() == 1


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("web", "curl"),
        ("https", "curl"),
        ("https", "openssl"),
        ("dns", "dig"),
        ("2002", "cc"),
    ],
)
@asynchronous
async def test_missingProgram(
    start: Start, folder: Path, name: str, program: str
) -> None:
    """
    A script that needs a program says so before it does anything else.
    """
    programs = folder / "programs"
    programs.mkdir()
    for path in _programs():
        if path.name != program and not (programs / path.name).is_symlink():
            (programs / path.name).symlink_to(path)
    process = run(start, folder, name, freePort(10000, 20000), PATH=str(programs))
    assert await process.ended() == 1
    assert process.output.startswith(f"this example needs {program}; ")
    assert process.output.count("\n") == 1
    assert list((folder / "tmp").iterdir()) == []


def _programs() -> Iterator[Path]:
    for folder in os.environ["PATH"].split(os.pathsep):
        if os.path.isdir(folder):
            yield from Path(folder).iterdir()


@asynchronous
async def test_tac(start: Start, folder: Path) -> None:
    """
    The tac files work together in one folder, by the commands that they and the
    README say; as root, each becomes a user of its own.
    """
    port = freePort(10000, 20000)
    documented = []
    files = [path for path in (CHECKOUT / "tac").iterdir() if path.suffix == ".tac"]
    for path in (*files, CHECKOUT / "README.md"):
        text = path.read_text()
        documented.append(re.findall(r"^    (twistd .*\.tac)$", text, re.MULTILINE))
        text = text.replace('PORT = "10000"', f'PORT = "{port}"')
        (folder / path.name).write_text(text)
    assert len(documented[0]) == 2
    assert all(commands == documented[0] for commands in documented)
    listener, worker = [
        start(command("twistd"), *shlex.split(line)[1:]) for line in documented[0]
    ]
    await listener.says("worker 1 .*joined", 10)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        assert await deferToThread(client.recv, 100) == b"hello, world\n"
    if os.geteuid() == 0:
        users = [each.status()["Uid"].split() for each in (listener, worker)]
        assert all(len(set(uids)) == 1 for uids in users)
        assert users[0] != users[1]
        assert "0" not in (users[0][0], users[1][0])
    for each in (worker, listener):
        assert await each.stop() == 0
        assert "Traceback" not in each.output


@pytest.mark.parametrize("name", ["chat", "dns", "mail"])
@asynchronous
async def test_exampleTac(start: Start, folder: Path, name: str) -> None:
    """
    The tac file of an example joins a listener by the commands that it begins with,
    in one folder.
    """
    needs("OpenSSL", "twisted[tls]")
    text = (EXAMPLES / f"{name}.tac").read_text()
    (folder / f"{name}.tac").write_text(text)
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^    (twistd .*)$", text, re.MULTILINE)
    port = str(freePort(10000, 20000))
    ours, theirs = [re.sub(r"\b100\d\d\b", port, line) for line in lines]
    if os.geteuid() == 0:
        ours = ours.replace(" portlisten ", " --uid nobody portlisten --group daemon ")
    listener, worker = [
        start(command("twistd"), *shlex.split(line)[1:]) for line in (ours, theirs)
    ]
    await listener.says("worker 1 .*joined", 10)
    assert await worker.stop() in (0, -signal.SIGTERM)
    assert await listener.stop() == 0
    assert "Traceback" not in worker.output + listener.output


@asynchronous
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
