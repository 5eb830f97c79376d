"""
Mistakes of users: each gives one clear line and an exit code, and leaves nothing
behind.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import pwd
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest

import portlisten
from portlisten import _compiled
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening
from tests.support.tracing import canTrace

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
        (["portlisten", "0", "./missing/s"], ["the folder './missing' of", "make it"]),
        (["hellofdpass", "./missing/s", "a"], ["the folder './missing' of", "make it"]),
        (["portlisten", "0", "/dev/null"], ["/dev/null exists and is no socket"]),
        (["hellofdpass", "/dev/null", "a"], ["/dev/null exists and is no socket"]),
        (
            ["portlisten", "--group=nobodys", "0", "./s"],
            ["the group 'nobodys' does not exist"],
        ),
        (
            ["portlisten", "--group=4294967295", "0", "./s"],
            ["4294967295 is no group: the greatest number is 4294967294"],
        ),
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
        (["portlisten", "0", "./s", "--window", "8"], ["--window stands after ./s"]),
        (["portlisten", "0", "--window=8"], ["--window=8 stands after 0"]),
        (["hellofdpass", "./s", "a", "--grace=3"], ["--grace=3 stands after a"]),
        (["portlisten", "--listen=0", "-x"], ["option -x not recognized"]),
        (["hellofdpass", "--", "-s", "a"], ["PATH would be '-s'", "written ./-s"]),
        (
            ["portlisten", "--uid=nobody", "0", "./s"],
            ["--uid is an option of twistd's"],
        ),
        (
            ["portlisten", "tcp6:80:interface=::1", "./s"],
            ["description: write it as 'tcp6:80:interface=\\:\\:1'"],
        ),
        (["portlisten", "127.0.0.1:80", "./s"], ["'tcp:80:interface=127.0.0.1'"]),
        (["portlisten", "unix:./s", "././s"], ["././s is both a port and PATH"]),
        (["portlisten", "--share=unix:./s", "./s"], ["./s is both a port and PATH"]),
        (["portlisten", DATAGRAM, "unix:./s", "./s"], ["is both a port and PATH"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
@asynchronous
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


@asynchronous
async def test_plainFile(twistd: Start, folder: Path) -> None:
    """
    A file at the path stays as it is.
    """
    precious = folder / "precious"
    precious.write_text("keep me")
    await refused(twistd("portlisten", "0", "./precious"), "precious", "no socket")
    await refused(twistd("hellofdpass", "./precious", "x"), "precious", "no socket")
    assert precious.read_text() == "keep me"
    assert list(folder.iterdir()) == [precious]


@asynchronous
async def test_portTaken(twistd: Start, folder: Path) -> None:
    """
    If another process has the port, on IPv4 or on IPv6, the listener binds neither.
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


@asynchronous
async def test_firstPortReleased(twistd: Start, folder: Path) -> None:
    """
    If a later port cannot be bound, the earlier ports leave nothing behind.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        await refused(
            twistd("portlisten", f"--listen=tcp:{number}", "unix:./served", "./s"),
            "Address already in use",
        )
    assert list(folder.iterdir()) == []


@asynchronous
async def test_liveListener(twistd: Start, folder: Path) -> None:
    """
    A second listener does not take the path of a running listener.
    """
    first = twistd("portlisten", "0", "./s")
    await first.says("listening on")
    inode = folder.joinpath("s").stat().st_ino
    await refused(twistd("portlisten", "0", "./s"), "a listener lives at ./s already")
    assert folder.joinpath("s").stat().st_ino == inode
    assert await first.stop() == 0
    assert list(folder.iterdir()) == []


@asynchronous
async def test_daemon(start: Start, folder: Path) -> None:
    """
    A daemon that cannot start says so in its log and to the process that waits for it,
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


@pytest.mark.skipif(not canTrace(), reason="needs strace, and the right to attach it")
@asynchronous
async def test_daemonPidFile(start: Start, folder: Path) -> None:
    """
    The pid file of a daemon that cannot start is gone before the process that waits
    for it ends, however long its removal takes.
    """
    trace = folder / "strace.txt"
    slowly = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=unlink,exit_group"]
    slowly += ["-e", "inject=unlink:delay_enter=300000"]
    await start(*slowly, command("twistd"), "portlisten", "0", "/dev/null").ended()
    lines = trace.read_text().splitlines()
    (removed,) = (
        number
        for number, line in enumerate(lines)
        if "unlink" in line and "DELAYED" in line
    )
    failed = [number for number, line in enumerate(lines) if "exit_group(1)" in line]
    assert removed < failed[0]


@asynchronous
async def test_foregroundWithLogFile(twistd: Start, folder: Path) -> None:
    """
    With a log file, the line is on standard error and in the file.
    """
    await refused(
        twistd("portlisten", "0", "/dev/null", logfile="l.log"), "is no socket"
    )
    assert "is no socket" in folder.joinpath("l.log").read_text()


@asynchronous
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
@asynchronous
async def test_userWithoutEntry(twistd: Start, folder: Path) -> None:
    """
    A uid that the user database does not know is refused before anything is
    bound.
    """
    for gid in ({}, {"gid": "nogroup"}):
        await refused(
            twistd("portlisten", "0", "./s", uid="876543", **gid),
            "no user has the number 876543",
        )
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("root")
@asynchronous
async def test_withoutPrivilege(start: Start, folder: Path) -> None:
    """
    Without root, a process can neither bind a low port nor become another user, and the
    error says what to do.
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
    python = start(
        *become, sys.executable, "-c", "import portlisten._commands.listener"
    )
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
@asynchronous
async def test_warnsOfRoot(twistd: Start) -> None:
    """
    A process that stays root says in its log what to type instead.
    """
    listener = twistd("portlisten", "0", "./s")
    await listener.says("runs as root.*twistd --uid nobody portlisten")
    worker = twistd("hellofdpass", "./s", "a")
    await worker.says("runs as root.*twistd --uid nobody hellofdpass")


# Prepares a process, and becomes it.
PREPARE = """
import fcntl, os, socket, sys
{code}
os.execv(sys.argv[1], sys.argv[1:])
"""


def prepared(start: Start, code: str, *arguments: str) -> Process:
    """
    Start C{twistd} after some code has changed its environment.
    """
    twistd = [command("twistd"), "-n", "--pidfile="]
    program = PREPARE.format(code=code)
    return start(sys.executable, "-c", program, *twistd, *arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
            ["SOCK_SEQPACKET", "ListenStream="],
        ),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", ["UDP", "--share"]),
        ("socket.socket(40, socket.SOCK_STREAM)", ["vsock", "ListenStream="]),
        ("socket.socketpair()[0]", ["does not listen", "Accept=no"]),
        ("open('/dev/null')", ["non-socket"]),
    ],
    ids=["seqpacket", "udp", "vsock", "connected", "file"],
)
@asynchronous
async def test_inherited(
    start: Start, folder: Path, make: str, words: list[str]
) -> None:
    """
    If systemd passes a socket that the listener cannot use, the error names it and says
    what would be right.
    """
    code = f"""
try:
    passed = {make}
except OSError:
    sys.exit("this kernel has no such socket")
if passed.fileno() != 3:
    os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
if {"SEQPACKET" in make}:
    passed.bind("")
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
"""
    process = prepared(start, code, "portlisten", "systemd:domain=INET:name=web", "./s")
    await process.ended()
    if "no such socket" in process.errors:
        pytest.skip("this kernel has no such socket")
    await refused(process, *words)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["lock held", "pipe", "symbolic link"])
@asynchronous
async def test_lock(twistd: Start, folder: Path, kind: str) -> None:
    """
    No other user can make a start hang by the lock file.
    """
    lock = folder / "s.lock"
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "symbolic link":
        lock.symlink_to("1")
    else:
        lock.touch()
    with open(lock if kind == "lock held" else os.devnull) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = twistd("portlisten", "0", "./s")
        if kind == "lock held":
            await process.says("another process has locked ./s.lock: waiting for it")
        await refused(process, "./s.lock")
    assert list(folder.iterdir()) == [lock]


@pytest.mark.usefixtures("root")
@asynchronous
async def test_withoutProc(start: Start, folder: Path) -> None:
    """
    Without /proc a listener serves, or says that it cannot, and leaves nothing.
    """
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "-"]
    run = [*hide, command("twistd"), "-n", "--uid=nobody", "--pidfile="]
    await refused(start(*run, "portlisten", "--group=daemon", "0", "./s"), "/proc")
    assert list(folder.iterdir()) == []
    listener = start(*run, "portlisten", "tcp:0:interface=127.0.0.1", "./s")
    port = await listening(listener)
    start(*hide, command("twistd"), "-n", "--pidfile=", "hellofdpass", "./s", "hello")
    assert await ask(port) == b"hello"
    assert await listener.stop() == 0
    assert "Traceback" not in listener.output


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("wire", ["stream", "datagram"])
@asynchronous
async def test_chroot(start: Start, folder: Path, wire: str) -> None:
    """
    In a chroot a listener serves, or says that it cannot, and leaves nothing.
    """
    run = [command("twistd"), "-n", "--uid=nobody", f"--chroot={folder}"]
    # Whoever binds the path was root then.
    listen = ["portlisten", f"--wire={wire}", "tcp:0:interface=127.0.0.1", "/s"]
    say = ["hellofdpass", f"--wire={wire}"]
    (listen if wire == "stream" else say).insert(1, "--mode=0666")
    await refused(start(*run, *listen), "add --rundir /")
    await refused(start(*run, "--rundir=/", *listen), "add --pidfile=")
    run += ["--rundir=/", "--pidfile="]
    for arguments in (listen, [*say, "/s", "hello"]):
        await refused(start(*run, *arguments), "needs an /etc/passwd in the chroot")
    assert list(folder.iterdir()) == []
    folder.joinpath("etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", folder / "etc" / name)
    listener = start(*run, *listen)
    port = await listening(listener)
    worker = start(*run, *say, "/s", "hello")
    for _ in range(3):
        assert await ask(port) == b"hello"
    assert await worker.stop() == 0
    assert await listener.stop() == 0
    assert "Traceback" not in listener.output + worker.output


@pytest.mark.usefixtures("root")
@asynchronous
async def test_withoutCapabilities(start: Start, folder: Path) -> None:
    """
    If root cannot become another user, the listener says so before it binds anything.
    """
    process = start(
        *("setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"),
        *(command("twistd"), "-n", "--uid=nobody", "portlisten", "0", "./s"),
    )
    await refused(process, "--uid needs CAP_SETUID and CAP_SETGID")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["twistd", "portlisten", "--version"],
        ["twistd", "hellofdpass", "--version"],
        ["portlisten", "--version"],
        ["portlisten", "exec", "--version"],
    ],
    ids=" ".join,
)
@asynchronous
async def test_version(start: Start, arguments: list[str]) -> None:
    """
    Each command prints the versions of portlisten and Twisted, and what is compiled.
    """
    process = start(command(arguments[0]), *arguments[1:])
    assert await process.ended() == 0
    installed = importlib.metadata.version("portlisten")
    assert installed == portlisten.__version__
    twisted = importlib.metadata.version("twisted")
    parts = _compiled.describe()
    expected = f"portlisten {installed} ({parts}), with Twisted {twisted}\n"
    assert process.output == expected


@asynchronous
async def test_bothFamilies(twistd: Start) -> None:
    """
    C{tcp} and C{tcp6} of one number are two ports, each with its clients.
    """
    port = freePort(20000, 30000)
    listener = twistd(
        "portlisten", f"--listen=tcp:{port}", f"--share=tcp6:{port}", "./s"
    )
    await listener.says("listening on")
    twistd("hellofdpass", "./s", "hello")
    assert await ask(port) == b"hello"
    assert await ask(port, host="::1") == b"hello"


@pytest.mark.parametrize("name", ["portlisten", "hellofdpass"])
@asynchronous
async def test_help(twistd: Start, name: str) -> None:
    """
    C{--help} explains the arguments, with an example, and exits with 0.
    """
    process = twistd(name, "--help")
    assert await process.ended() == 0
    assert re.search(rf"{name} \[options\] .*PATH", process.output)
    assert f"twistd -n {name} " in process.output
