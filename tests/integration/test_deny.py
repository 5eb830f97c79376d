"""
Operators, and fail2ban, deny clients while the listener runs, with real processes.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.processes import SOURCE
from tests.support.programs import command
from tests.support.replacing import Make, Replaced
from tests.support.running import Run
from tests.support.waiting import PATIENCE, sleep

#: The settings of fail2ban: all that it writes is in the test's folder.
FAIL2BAN = """
[Definition]
loglevel = INFO
logtarget = {folder}/fail2ban.log
syslogsocket = auto
socket = {folder}/fail2ban.sock
pidfile = {folder}/fail2ban.pid
dbfile = {folder}/fail2ban.sqlite3
dbpurgeage = 1d
dbmaxmatches = 10
"""


REQUEST = b"GET /word HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def web(replaced: Make) -> tuple[Replaced, int]:
    """
    Make a listener with one port.
    """
    port = freePort(24000, 25000)
    return replaced(f"--listen=http=tcp:{port}:interface=127.0.0.1"), port


async def comesIn(port: int, address: str) -> bool:
    """
    Say whether a client of an address is served, and not reset.
    """
    return await deferToThread(_comesIn, port, address)


def _comesIn(port: int, address: str) -> bool:
    try:
        with socket.create_connection(
            ("127.0.0.1", port), PATIENCE, (address, 0)
        ) as client:
            client.sendall(REQUEST)
            return client.recv(100).startswith(b"HTTP/1.1 200")
    except (ConnectionResetError, BrokenPipeError):
        return False


async def denied(made: Replaced) -> list[str]:
    """
    List what is denied, without the times.
    """
    output = (await made.command("deny")).output
    return [line.split()[0] for line in output.splitlines()]


@asynchronous
async def test_operator(replaced: Make) -> None:
    """
    A denial ends with its time, or when it is allowed.  The next listener goes on to
    deny, and one that is started after a crash does not.
    """
    made, port = web(replaced)
    await made.replace()
    for words, output in (
        (["deny"], "nothing is denied\n"),
        (["deny", "192.0.2.7", "--for=1h"], "192.0.2.7 is denied for 1 h\n"),
        (["deny", "192.0.2.8", "--for=0.2s"], "192.0.2.8 is denied for 0 s\n"),
        (["allow", "192.0.2.9"], "192.0.2.9 was not denied\n"),
        (
            ["deny", "2001:db8::/32"],
            "2001:db8::/32 is denied until it is allowed\n",
        ),
    ):
        process = await made.command(*words)
        assert (await process.ended(), process.output) == (0, output)
    status = await made.shows(lambda status: status["denied"]["count"] == 2)
    first, second = status["denied"]["networks"]
    assert first == {"network": "2001:db8::/32", "seconds": None}
    assert second["network"] == "192.0.2.7"
    assert 3500 < second["seconds"] < 3600
    await made.work("twisted")
    assert await comesIn(port, "127.0.0.7")
    await made.command("deny", "127.0.0.7")
    for _ in range(2):
        await made.replace()
        assert await denied(made) == ["127.0.0.7", "2001:db8::/32", "192.0.2.7"]
        assert not await comesIn(port, "127.0.0.7")
        assert await comesIn(port, "127.0.0.8")
    status = await made.shows(lambda status: True)
    assert status["queues"][0]["limited"] == {"denied": 1}
    await made.command("allow", "127.0.0.7")
    assert await comesIn(port, "127.0.0.7")
    part = await made.command("allow", "2001:db8::7")
    assert await part.ended() == 1
    assert "2001:db8::7 is still denied, as a part of 2001:db8::/32" in part.errors
    whole = await made.command("allow", "2001:db8::/32")
    assert whole.output == "2001:db8::/32 is denied no more\n"
    assert await denied(made) == ["192.0.2.7"]
    made.check()
    await made.listener.kill()
    made.listeners.clear()
    await made.replace()
    assert (await made.command("deny")).output == "nothing is denied\n"


@asynchronous
async def test_supervisor(run: Run) -> None:
    """
    A supervisor passes on what is asked, and an upgraded listener goes on to deny.
    """
    run.write(run.table("web"))
    run.launch()
    await run.ready()
    file = str(run.file)

    async def portlisten(*words: str) -> str:
        done = await deferToThread(
            subprocess.run,
            [command("portlisten"), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert await portlisten("deny", file, "192.0.2.7") == (
        "192.0.2.7 is denied until it is allowed\n"
    )
    await portlisten("upgrade", file)
    assert await portlisten("deny", file) == "192.0.2.7  until it is allowed\n"
    assert "1 network denied" in await portlisten("status", file)
    assert await portlisten("allow", file, "192.0.2.7") == (
        "192.0.2.7 is denied no more\n"
    )
    assert await portlisten("deny", file) == "nothing is denied\n"


class Fail2Ban:
    """
    A fail2ban that has all its files in a folder, with the action and the jail of
    C{contrib/fail2ban}.

    @param made: the listener.
    """

    def __init__(self, made: Replaced) -> None:
        self.folder = folder = made.folder
        source = SOURCE / "contrib/fail2ban"
        for each in ("action.d", "filter.d", "jail.d"):
            (folder / "fail2ban" / each).mkdir(parents=True)
        config = folder / "fail2ban"
        (config / "fail2ban.conf").write_text(FAIL2BAN.format(folder=folder))
        shutil.copy(source / "portlisten.conf", config / "action.d")
        jail = (source / "jail.local").read_text()
        own = f"portlisten={command('portlisten')}, listener={made.path}"
        for old, new in (
            ("/var/log/portlisten/access.log", str(folder / "access.log")),
            ("listener=/run/portlisten/web.sock", own),
            # By default, it bans no address of its own machine.
            ("maxretry = 5", "maxretry = 2\nignoreself = false"),
        ):
            assert old in jail
            jail = jail.replace(old, new)
        (config / "jail.conf").write_text("")
        (config / "jail.d/portlisten.local").write_text(jail)
        self.log = folder / "access.log"
        self.log.touch()
        self._words = [
            *("-c", str(config), "-s", str(folder / "fail2ban.sock")),
            *("-p", str(folder / "fail2ban.pid")),
        ]

    def write(self, address: str, code: int) -> None:
        """
        Write a line of a server's log.
        """
        now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        with self.log.open("a") as file:
            file.write(f'"{address}" - - [{now}] "GET / HTTP/1.1" {code} 12 "-" "-"\n')

    async def ask(self, *words: str) -> str:
        """
        Run C{fail2ban-client}.
        """
        done = await deferToThread(
            subprocess.run,
            ["fail2ban-client", *self._words, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done}\n{self.logged()}"
        return done.stdout

    def logged(self) -> str:
        """
        Read the log of fail2ban itself.
        """
        log = self.folder / "fail2ban.log"
        return log.read_text() if log.exists() else ""


@asynccontextmanager
async def fail2ban(made: Replaced) -> AsyncIterator[Fail2Ban]:
    """
    Run fail2ban.
    """
    for each in ("fail2ban-client", "fail2ban-server"):
        if shutil.which(each) is None:
            pytest.skip(f"needs {each}: apt-get install fail2ban")
    running = Fail2Ban(made)
    await running.ask("start")
    try:
        yield running
    finally:
        await running.ask("stop")


async def until(made: Replaced, what: Callable[[list[str]], bool]) -> None:
    """
    Wait until what is denied is as it should be.
    """
    end = time.monotonic() + PATIENCE
    while not what(found := await denied(made)):
        assert time.monotonic() < end, found
        await sleep(0.2)


@asynchronous
async def test_fail2ban(replaced: Make) -> None:
    """
    fail2ban denies whoever is refused a password again and again, for the time of its
    jail, and lifts bans.  If the listener crashes, a restart of the jail denies again.
    """
    made, port = web(replaced)
    await made.replace()
    await made.work("twisted")
    async with fail2ban(made) as running:
        assert await comesIn(port, "127.0.0.7")
        for address in ("192.0.2.1", "127.0.0.7", "2001:db8::7", "127.0.0.7"):
            running.write(address, 401)
        running.write("2001:db8::7", 401)
        for _ in range(3):
            running.write("192.0.2.2", 200)
        await until(made, lambda found: {"127.0.0.7", "2001:db8::7"} == {*found})
        assert not await comesIn(port, "127.0.0.7")
        assert await comesIn(port, "127.0.0.8")
        status = await made.shows(lambda status: True)
        for each in status["denied"]["networks"]:
            assert 3000 < each["seconds"] <= 3600
        await running.ask("set", "portlisten-web", "unbanip", "127.0.0.7")
        assert await comesIn(port, "127.0.0.7")
        assert await denied(made) == ["2001:db8::7"]
        # Somebody has allowed it already.
        await running.ask("set", "portlisten-web", "banip", "192.0.2.9")
        assert await denied(made) == ["192.0.2.9", "2001:db8::7"]
        await made.command("allow", "192.0.2.9")
        await running.ask("set", "portlisten-web", "unbanip", "192.0.2.9")
        await running.ask("set", "portlisten-web", "bantime", "-1")
        await running.ask("set", "portlisten-web", "banip", "192.0.2.9")
        status = await made.shows(lambda status: status["denied"]["count"] == 2)
        assert status["denied"]["networks"][0]["seconds"] is None
        await made.listener.kill()
        made.listeners.clear()
        await made.replace()
        assert (await made.command("deny")).output == "nothing is denied\n"
        await running.ask("restart", "portlisten-web")
        await until(made, lambda found: {"192.0.2.9", "2001:db8::7"} == {*found})
    # When it stops, it lifts all bans, and bans again at its next start.
    assert (await made.command("deny")).output == "nothing is denied\n"
    assert not re.search(" (ERROR|CRITICAL) ", running.logged()), running.logged()
    made.check()
