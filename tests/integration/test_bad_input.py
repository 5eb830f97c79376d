"""
What people get wrong: one clear line, an exit code, and nothing left behind.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred

from tests.integration.conftest import Start
from tests.integration.support import Process, command, freePort

LONG = "./" + "x" * 106
DATAGRAM = "--wire=datagram"


async def refused(process: Process, *words: str) -> str:
    """
    Check that a process ended with one line on standard error that has these
    words, and no traceback anywhere.

    @return: the line.
    """
    code = await process.ended()
    assert code == 1, process.output
    assert "Traceback" not in process.output
    lines = process.errors.splitlines()
    assert len(lines) == 1, process.output
    for word in words:
        assert word in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["portlisten"], ["expected PORT and PATH, got 0 arguments"]),
        (["portlisten", "80"], ["expected PORT and PATH, got 1 arguments"]),
        (["portlisten", "1", "./s", "x"], ["expected PORT and PATH, got 3"]),
        (["portlisten", "--listen", "80"], ["expected [PORT] and PATH, got 0"]),
        (["portlisten", ".x=1", "./s"], ["'.x' is no name for a port"]),
        (["hellofdpass", "./s"], ["expected PATH and STRING, got 1 arguments"]),
        (["hellofdpass", "./s", "a", "b"], ["expected PATH and STRING, got 3"]),
        (["portlisten", "--nonsense", "1", "./s"], ["--nonsense"]),
        (["portlisten", "65536", "./s"], ["'65536' is no port", "0 to 65535"]),
        (["portlisten", "http", "./s"], ["'http' is no port", "tcp:80"]),
        (["portlisten", "", "./s"], ["'' is no port"]),
        (["portlisten", "--", "-80", "./s"], ["'-80' is no port"]),
        (["portlisten", "tcp:http", "./s"], ["'tcp:http' is no endpoint"]),
        (["portlisten", "tcp:99999", "./s"], ["cannot listen on tcp:99999"]),
        (["portlisten", "bogus:80", "./s"], ["bogus"]),
        (["portlisten", "tcp:80:interfaces=x", "./s"], ["interfaces"]),
        (["portlisten", "haproxy:tcp:80", "./s"], ["haproxy:tcp:80", "worker"]),
        (["portlisten", "systemd:domain=INET:index=0", "./s"], ["systemd"]),
        (["portlisten", "0", LONG], ["108 bytes", "107"]),
        (["hellofdpass", LONG, "a"], ["108 bytes", "107"]),
        (["portlisten", "0", "./missing/s"], ["no folder './missing'", "make it"]),
        (["hellofdpass", "./missing/s", "a"], ["no folder './missing'", "make it"]),
        (["portlisten", "0", "/dev/null"], ["/dev/null exists and is no socket"]),
        (["hellofdpass", "/dev/null", "a"], ["/dev/null exists and is no socket"]),
        (["portlisten", "--group=nobodys", "0", "./s"], ["no group 'nobodys'"]),
        (["portlisten", "--group=987654", "0", "./s"], ["no group '987654'"]),
        (["portlisten", "--mode=0888", "0", "./s"], ["--mode", "octal"]),
        (["portlisten", "--window=0", "0", "./s"], ["--window", "from 1 to 128"]),
        (["portlisten", "--patience=x", "0", "./s"], ["--patience", "'x'"]),
        (["portlisten", "--queue=-1", "0", "./s"], ["--queue", "at least 0"]),
        (
            ["portlisten", "--on-timeout=die", "0", "./s"],
            ["'die' is none of close, exit"],
        ),
        (["hellofdpass", "--grace=nan", "./s", "a"], ["--grace", "'nan'"]),
        (["portlisten", "--wire=x", "0", "./s"], ["'x' is none of stream, datagram"]),
        (["portlisten", DATAGRAM, "--mode=0600", "0", "./s"], ["--mode means nothing"]),
        (["portlisten", DATAGRAM, "--group=0", "0", "./s"], ["--group means nothing"]),
        (["portlisten", DATAGRAM, "--window=8", "0", "./s"], ["--window means"]),
        (["portlisten", DATAGRAM, "0", "/dev/null"], ["/dev/null exists and is no"]),
        (["hellofdpass", DATAGRAM, "/dev/null", "a"], ["/dev/null exists and is no"]),
        (["hellofdpass", DATAGRAM, "--name=x", "./s", "a"], ["--name means nothing"]),
        (["hellofdpass", "--replace", "./s", "a"], ["--replace means nothing"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
@ensureDeferred
async def test_refused(
    twistd: Start, folder: Path, arguments: list[str], words: list[str]
) -> None:
    """
    Each mistake has its line, and leaves nothing in the folder.
    """
    process = twistd(*arguments)
    line = await refused(process, *words)
    assert line.startswith(f"{arguments[0]}: ")
    assert list(folder.iterdir()) == []


@ensureDeferred
async def test_plainFile(twistd: Start, folder: Path) -> None:
    """
    A file where the path should be stays what it is.
    """
    precious = folder / "precious"
    precious.write_text("keep me")
    await refused(twistd("portlisten", "0", "./precious"), "precious", "no socket")
    await refused(twistd("hellofdpass", "./precious", "x"), "precious", "no socket")
    assert precious.read_text() == "keep me"
    assert list(folder.iterdir()) == [precious]


@ensureDeferred
async def test_portTaken(twistd: Start, folder: Path) -> None:
    """
    A port that somebody has, on IPv4 or on IPv6, is not bound on either.
    """
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as taken:
            number = taken.getsockname()[1]
            await refused(
                twistd("portlisten", str(number), "./s"),
                f"cannot listen on port {number}: Address already in use",
                "ss -lntup",
            )
    await refused(
        twistd("portlisten", "--listen=tcp:0:interface=192.0.2.1", "0", "./s"),
        "Cannot assign requested address",
    )
    assert list(folder.iterdir()) == []


@ensureDeferred
async def test_firstPortReleased(twistd: Start, folder: Path) -> None:
    """
    When a later port cannot be bound, what an earlier one made goes with it.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        await refused(
            twistd("portlisten", f"--listen=tcp:{number}", "unix:./served", "./s"),
            "Address already in use",
        )
    assert list(folder.iterdir()) == []


@ensureDeferred
async def test_liveListener(twistd: Start, folder: Path) -> None:
    """
    A path at which a listener lives is not taken from it.
    """
    first = twistd("portlisten", "0", "./s")
    await first.says("listening on")
    inode = folder.joinpath("s").stat().st_ino
    await refused(twistd("portlisten", "0", "./s"), "a listener lives at ./s already")
    assert folder.joinpath("s").stat().st_ino == inode
    assert await first.stop() == 0
    assert list(folder.iterdir()) == []


@ensureDeferred
async def test_daemon(start: Start, folder: Path) -> None:
    """
    A daemon that cannot start says so to whoever waits for it and in its log,
    and leaves no pid file.
    """
    process = start(command("twistd"), "portlisten", "0", "/dev/null")
    assert await process.ended() == 1
    assert "Traceback" not in process.output
    assert "/dev/null exists and is no socket" in process.errors
    assert [path.name for path in folder.iterdir()] == ["twistd.log"]
    log = folder.joinpath("twistd.log").read_text()
    assert "portlisten: /dev/null exists and is no socket" in log
    assert "Traceback" not in log


@ensureDeferred
async def test_foregroundWithLogFile(twistd: Start, folder: Path) -> None:
    """
    With a log file, the line is on standard error and in the file.
    """
    await refused(
        twistd("portlisten", "0", "/dev/null", logfile="l.log"), "is no socket"
    )
    assert "is no socket" in folder.joinpath("l.log").read_text()


@ensureDeferred
async def test_gidAlone(twistd: Start, folder: Path) -> None:
    """
    A group without a user, which would keep every privilege, is refused; so is
    an effective user alone.
    """
    for arguments in (["portlisten", "0", "./s"], ["hellofdpass", "./s", "a"]):
        await refused(twistd(*arguments, gid="nogroup"), "--gid without --uid")
        await refused(twistd("--euid", *arguments, uid="nobody"), "--euid", "leave")
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("root")
@ensureDeferred
async def test_userWithoutEntry(twistd: Start, folder: Path) -> None:
    """
    A uid that the user database does not know is refused before anything is
    bound.
    """
    for gid in ({}, {"gid": "nogroup"}):
        await refused(
            twistd("portlisten", "0", "./s", uid="876543", **gid),
            "no user with the number 876543",
        )
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("root")
@ensureDeferred
async def test_withoutPrivilege(start: Start, folder: Path) -> None:
    """
    Who is not root can neither bind a low port nor become somebody else, and is
    told what to do.
    """
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(limit) < 1024:
        pytest.skip("this host lets everybody bind low ports")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux) is not installed")
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    become = [setpriv, "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    python = start(*become, sys.executable, "-c", "import portlisten.listener")
    if await python.ended() != 0:
        pytest.skip("this Python is where only root can look")
    port = freePort(81, 1024)
    await refused(
        start(*become, command("twistd"), "-n", "portlisten", str(port), "./s"),
        f"cannot listen on port {port}: Permission denied",
        "start as root and add --uid",
    )
    await refused(
        start(*become, command("twistd"), "-n", "-u0", "portlisten", "0", "./s"),
        "--uid needs root",
    )
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("root")
@ensureDeferred
async def test_warnsOfRoot(twistd: Start) -> None:
    """
    A process that stays root says in its log what to type instead.
    """
    listener = twistd("portlisten", "0", "./s")
    await listener.says("runs as root.*twistd --uid nobody portlisten")
    worker = twistd("hellofdpass", "./s", "a")
    await worker.says("runs as root.*twistd --uid nobody hellofdpass")


@pytest.mark.parametrize("name", ["portlisten", "hellofdpass"])
@ensureDeferred
async def test_help(twistd: Start, name: str) -> None:
    """
    C{--help} says what the arguments are, with an example, and exits with 0.
    """
    process = twistd(name, "--help")
    assert await process.ended() == 0
    assert re.search(rf"{name} \[options\] .*PATH", process.output)
    assert f"twistd -n {name} " in process.output
