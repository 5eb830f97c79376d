"""
Programs that are not written in Python, or know nothing of portlisten, on shared ports
below 1024.  Their files are those of the guide.

If C{PORTLISTEN_ROUNDS} is set, each is restarted so many times.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.integration.test_server_guides import endAllIn
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.clients import Crowd
from tests.support.guide_files import filesOf, inPrivateRun, needsCaddy, needsPrograms
from tests.support.load import wrk
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import sleep

ROUNDS = int(os.environ.get("PORTLISTEN_ROUNDS", "1"))

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

DAEMON = ["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"]


@pytest.fixture(autouse=True)
def _children(folder: Path) -> Iterator[None]:
    """
    End what programs leave behind that a test had to kill.
    """
    yield
    endAllIn(folder)


@dataclass(frozen=True)
class Peer:
    """
    A program that takes a listening socket.

    @ivar stop: the signal that lets it finish.
    @ivar cuts: whether it may then cut connections that it has just accepted.
    @ivar package: what to install, if it is not there.
    """

    program: str
    arguments: Sequence[str]
    stop: int
    package: str
    environment: Sequence[str] = ()
    cuts: bool = False


PEERS = {
    "nginx": Peer(
        "nginx",
        ["-e", "stderr", "-p", "nginx", "-c", "{folder}/nginx.conf"],
        signal.SIGQUIT,
        "nginx-light",
        environment=["NGINX=3;"],
    ),
    "Caddy": Peer(
        "caddy",
        ["run", "--config=Caddyfile"],
        signal.SIGTERM,
        "caddy",
        environment=["XDG_DATA_HOME=nginx", "XDG_CONFIG_HOME=nginx"],
        cuts=True,
    ),
    "HAProxy": Peer("haproxy", ["-f", "haproxy.cfg"], signal.SIGUSR1, "haproxy"),
    "lighttpd": Peer(
        "lighttpd", ["-D", "-f", "lighttpd.conf"], signal.SIGINT, "lighttpd"
    ),
    "Node": Peer("node", ["server.js"], signal.SIGTERM, "nodejs"),
    "granian": Peer(
        sys.executable,
        # Its workers may miss a signal while they start.
        [
            *("serve.py", "--interface=asgi", "--workers=2"),
            *("--workers-kill-timeout=5", "app:app"),
        ],
        signal.SIGTERM,
        "granian",
        cuts=True,
    ),
}


def prepare(name: str, folder: Path, port: int) -> None:
    """
    Write the files that the guide has for a program, and what they need.
    """
    for file, text in filesOf(name).items():
        changed = re.sub(r"(0\.0\.0\.0:|server\.port = )80\b", rf"\g<1>{port}", text)
        (folder / file).write_text(changed.replace("/srv/www", str(folder)))
    (folder / "index.txt").write_text("hello from lighttpd\n")
    (folder / "nginx").mkdir()
    shutil.chown(folder / "nginx", "daemon")


def needsPeer(name: str) -> None:
    """
    Skip a test if a program is not installed, or cannot do it.
    """
    if name == "granian":
        needs("granian", "granian")
        return
    needsPrograms({PEERS[name].program: PEERS[name].package})
    if name == "Caddy":
        needsCaddy()


@pytest.mark.parametrize("name", PEERS)
@asynchronous
async def test_restart(
    root: None, start: Start, twistd: Start, folder: Path, name: str
) -> None:
    """
    A program without privilege serves a port below 1024.  It is stopped and started
    again under load, with a pause, and then with the next one there before: no client
    is refused, and none is cut if the program can finish.
    """
    needsPeer(name)
    peer = PEERS[name]
    port = freePort(600, 1024)
    prepare(name, folder, port)
    listener = twistd(
        "portlisten", f"--share=http=tcp:{port}", "./socket", uid="nobody"
    )
    await listening(listener)

    def serve() -> Process:
        arguments = [each.format(folder=folder) for each in peer.arguments]
        return start(
            *("env", *peer.environment),
            *(command("portlisten"), "exec", "./socket", *DAEMON),
            *(peer.program, *arguments),
        )

    async def stop(process: Process) -> None:
        process.signal(peer.stop)
        assert await process.ended() == 0, process.output

    async def served() -> None:
        answer = await ask(port, REQUEST)
        assert f"hello from {name}".encode() in answer

    current = serve()
    await served()
    assert current.status()["Uid"].split() == ["1"] * 4
    assert int(current.status()["CapEff"], 16) == 0

    async def restart(pause: float) -> None:
        nonlocal current
        for _ in range(ROUNDS):
            if pause:
                await stop(current)
                await sleep(pause)
                current = serve()
                await served()
            else:
                following = serve()
                await sleep(1.5)
                await stop(current)
                current = following
            await sleep(1)

    for pause in (0.5, 0.0):
        load = await wrk(
            *(start, f"http://127.0.0.1:{port}/", restart(pause)),
            "--header=Connection: close",
            connections=8,
        )
        print(f"{name}, restarted {ROUNDS} times, pauses of {pause} s: {load}")
        assert load.requests > 100, load
        # wrk counts a connection that is refused later as one that it cannot write to.
        assert load.connect == load.write == load.timeout == load.refused == 0
        # A client that was cut may connect again before the program has ended.
        assert load.read <= (2 * 8 * ROUNDS if peer.cuts else 0)
    await stop(current)


@asynchronous
async def test_unmatched(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    Without the variable, or with another address, nginx does not take the socket; it
    says so, and ends.
    """
    needsPeer("nginx")
    port = freePort(600, 1024)
    prepare("nginx", folder, port)
    listener = twistd(
        "portlisten", f"--share=http=tcp:{port}", "./socket", uid="nobody"
    )
    await listening(listener)
    for environment, address in [("A=B", "0.0.0.0"), ("NGINX=3;", "127.0.0.1")]:
        text = (folder / "nginx.conf").read_text()
        text = text.replace(f"0.0.0.0:{port}", f"{address}:{port}")
        (folder / "other.conf").write_text(text)
        process = start(
            *("env", environment, command("portlisten"), "exec", "./socket", *DAEMON),
            *("nginx", "-e", "stderr", "-p", "nginx", "-c", f"{folder}/other.conf"),
        )
        assert await process.ended() == 1
        failed = rf"bind\(\) to {address}:{port} failed \(13: Permission denied\)"
        await process.says(failed)


@asynchronous
async def test_unbound(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    Where systemd runs, unbound serves port 53 without privilege, and no query stays
    without an answer while it restarts.  Elsewhere it says why not.
    """
    packages = {"unbound": "unbound", "dig": "bind9-dnsutils", "unshare": "util-linux"}
    needsPrograms(packages)
    port = freePort(600, 1024)
    text = filesOf("unbound")["unbound.conf"].replace("@53", f"@{port}")
    (folder / "unbound.conf").write_text(text)
    shares = [f"--share={kind}:{port}:interface=127.0.0.1" for kind in ("udp", "tcp")]
    listener = twistd("portlisten", *shares, "./socket", uid="nobody")
    await listener.says("listening on")

    def serve(systemd: bool = True) -> Process:
        return start(
            *inPrivateRun(systemd),
            *(command("portlisten"), "exec", "./socket", *DAEMON),
            *("unbound", "-d", "-p", "-c", "unbound.conf"),
        )

    refused = serve(systemd=False)
    assert await refused.ended() == 1
    await refused.says("systemd is not running")
    await refused.says(f"Permission denied for 127.0.0.1 port {port}")

    answers: Counter[tuple[str, str]] = Counter()
    asking = True

    def dig(kind: str) -> None:
        own = ["dig", "@127.0.0.1", f"-p{port}", "+short", "+time=15", "+tries=1"]
        while asking:
            said = subprocess.run(
                [*own, kind, "www.example.com"], stdout=subprocess.PIPE, check=False
            )
            answers[kind, said.stdout.decode()] += 1

    current = serve()
    kinds = ["+notcp", "+tcp"]
    crowd = [deferToThread(dig, kind) for kind in kinds]
    await current.says("start of service")
    assert current.status()["Uid"].split() == ["1"] * 4
    for _ in range(ROUNDS):
        await sleep(1)
        assert await current.stop() == 0
        await sleep(0.5)
        current = serve()
        await current.says("start of service")
    await sleep(0.5)
    asking = False
    for each in crowd:
        await each
    print("queries while unbound was restarted:", dict(answers))
    assert set(answers) == {(kind, "192.0.2.7\n") for kind in kinds}
    assert min(answers.values()) > 5
    await current.stop()


@asynchronous
async def test_redis(root: None, start: Start, twistd: Start, folder: Path) -> None:
    """
    Redis takes no socket, and says so.  Behind HAProxy it serves a port below 1024, and
    its restarts refuse no client.
    """
    needsPrograms({"redis-server": "redis-server", "haproxy": "haproxy"})
    port, own = freePort(600, 1024), freePort(11000, 12000)
    text = filesOf("Redis")["redis.cfg"].replace(":6380", f":{own}")
    (folder / "redis.cfg").write_text(text)
    listener = twistd(
        *("portlisten", f"--share=redis=tcp:{port}:interface=127.0.0.1"),
        *("./socket",),
        uid="nobody",
    )
    await listening(listener)
    execute = [command("portlisten"), "exec", "./socket", *DAEMON]
    alone = start(*execute, "redis-server", f"--port {port}", "--save", "")
    assert await alone.ended() == 1
    await alone.says(f"listening socket .*:{port}: bind: Permission denied")

    def redis() -> Process:
        listen = ["--bind", "127.0.0.1", "--port", str(own)]
        return start(*DAEMON, "redis-server", *listen, "--save", "")

    server = redis()
    await server.says("Ready to accept connections")
    proxy = start(*execute, "haproxy", "-f", "redis.cfg")
    assert await ask(port, b"PING\r\nQUIT\r\n") == b"+PONG\r\n+OK\r\n"
    assert proxy.status()["Uid"].split() == ["1"] * 4
    atOnce = 4
    with Crowd(port, atOnce, send=lambda: b"PING\r\nQUIT\r\n") as crowd:
        for _ in range(ROUNDS):
            await sleep(1)
            assert await server.stop() == 0
            await sleep(0.5)
            server = redis()
            await server.says("Ready to accept connections")
            # HAProxy tries again every second.
            await sleep(1.5)
        proxy.signal(signal.SIGUSR1)
        assert await proxy.ended() == 0
        await sleep(0.5)
        proxy = start(*execute, "haproxy", "-f", "redis.cfg")
        await sleep(1)
    print("behind HAProxy, while Redis and HAProxy restarted:", dict(crowd.answers))
    answered = crowd.answers.pop(b"+PONG\r\n+OK\r\n")
    assert answered > 100
    # Redis ends what it serves.
    assert sum(crowd.answers.values()) <= atOnce * ROUNDS
    assert max(crowd.times) > 0.5
