"""
C{portlisten run} from its start to its stop, with real processes.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.asgi_servers import APP, APPLICATION
from tests.support.asynchronous import asynchronous
from tests.support.clients import ask, connect, read
from tests.support.ports import freePort
from tests.support.programs import needs
from tests.support.running import (
    IS_ROOT,
    LISTENER_USER,
    WORKER_USER,
    Run,
    groups,
    pids,
    userOf,
    workers,
)
from tests.support.waiting import PATIENCE, until


def get(port: int, path: str = "/") -> bytes:
    """
    Run a client of HTTP.

    @return: the body of the answer.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    answer = ask(port, send=request.encode())
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return answer.partition(b"\r\n\r\n")[2]


class Crowd:
    """
    A client of HTTP that asks all the time, from C{with} to its end.

    @ivar failures: what it got in the place of answers.
    """

    def __init__(self, port: int) -> None:
        self.failures: list[object] = []
        self._port = port
        self._count = 0
        self._seen = 0
        self._go = True
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while self._go:
            try:
                if get(self._port) != b"hello\n":
                    self.failures.append("another answer")
            except Exception as error:
                self.failures.append(error)
            self._count += 1
            time.sleep(0.02)

    def served(self) -> bool:
        """
        Whether it has got five more answers since this was true.
        """
        if self._count < self._seen + 5:
            return False
        self._seen = self._count
        return True

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go = False
        self._thread.join()


def fields(pid: int) -> dict[str, str]:
    """
    The fields of proc(5)'s C{status}.
    """
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def hasNoPrivilege(pid: int, user: str | None) -> None:
    """
    Check that a process is this user's, has none of another's groups, and is in a
    session of its own.
    """
    found = fields(pid)
    uid, gid = userOf(user)
    assert found["Uid"].split() == [str(uid)] * 4
    assert found["Gid"].split() == [str(gid)] * 4
    if IS_ROOT:
        assert set(found["Groups"].split()) <= {str(gid)}
        for each in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[each], 16) == 0, each
    assert os.getsid(pid) == pid


@asynchronous
async def test_fourWorkers(run: Run) -> None:
    """
    From a file of ten lines and nothing else to four servers, and back to nothing.
    """
    site = run.folder / "site"
    site.mkdir()
    (site / "a.txt").write_text("it works")
    words = run.twistd(
        "web", "--path", str(site), "--listen=portlisten:{path}:name=http"
    )
    run.write(run.table("web", words, "count = 4\numask = '027'"))
    process = run.launch()
    status = await run.ready()
    assert not status["problems"]
    for _ in range(20):
        assert await deferToThread(get, run.port, "/a.txt") == b"it works"

    found = pids(status)
    assert sorted(found) == ["web-1", "web-2", "web-3", "web-4"]
    for each in found.values():
        hasNoPrivilege(each, WORKER_USER)
        assert os.readlink(f"/proc/{each}/cwd") == "/"
        assert fields(each)["Umask"] == "0027"
    listener = status["supervisor"]["listener"]["pid"]
    hasNoPrivilege(listener, LISTENER_USER)
    assert run.members().keys() == {process.pid, listener, *found.values()}
    uid = userOf(WORKER_USER)[0]
    joined = status["listener"]["workers"]
    assert {each["label"]: each["pid"] for each in joined} == found
    assert {each["uid"] for each in joined} == {uid}

    text = await run.command("status", str(run.file))
    assert text.code == 0, text
    assert text.output.startswith("all is well\n")
    assert "workers: web 4 of 4 ready" in text.output
    user = WORKER_USER or re.escape(re.findall(r"user (\S+),", text.output)[0])
    for label, pid in found.items():
        assert re.search(rf"(?m)^{label} +{pid} +{user} +ready ", text.output), text
    again = await run.command("status", "--json", run.path)
    assert again.code == 0
    assert f'"pid": {listener}' in again.output

    await run.stop()
    # Each line of a worker has its label.
    assert re.search(r"\[web-3\] .*joined the listener", process.output)
    assert os.listdir(run.folder).count("sock") == 0


@asynchronous
async def test_twistd(run: Run) -> None:
    """
    C{twistd portlisten-run} takes the options of C{twistd}, and becomes a daemon.
    """
    run.write(run.table("web"))
    words = run.twistd()[:-2]
    log, pidFile = run.folder / "log", run.folder / "pid"
    own = [f"--logfile={log}", f"--pidfile={pidFile}"]
    refused = run.launch([*words, *own, "--uid=nobody", "portlisten-run", "web.toml"])
    assert await refused.ended() == 1
    assert "--uid means nothing here" in refused.output
    assert not os.path.lexists(run.path)

    started = run.launch([*words, *own, "portlisten-run", "web.toml"])
    assert await started.ended() == 0
    # The daemon is another process.
    end = time.monotonic() + PATIENCE
    while True:
        done = await run.command("status", "web.toml")
        if done.code == 0:
            break
        assert time.monotonic() < end, (done, log.read_text())
    pid = int(pidFile.read_text())
    assert f"web.toml, pid {pid}," in done.output
    (found,) = pids(await run.ask("status")).values()
    assert (await run.client())["pid"] == found
    stopped = await run.command("stop", "web.toml")
    assert stopped.code == 0, stopped
    assert re.fullmatch(r"stopped in \S+ m?s\n", stopped.output), stopped
    run.checkNothingLeft()
    assert not pidFile.exists()
    assert re.search(r"\[web-1\] .*joined the listener", log.read_text())


@asynchronous
async def test_wrongFile(run: Run) -> None:
    """
    The mistakes in a file are all that is said, and nothing is started.
    """
    run.write(run.table("web", also='count = "many"\nwat = 1'))
    twistd = run.twistd("portlisten-run", "web.toml")
    for words in (run.module("portlisten", "run", "web.toml"), twistd):
        process = run.launch(words)
        assert await process.ended() == 1
        lines = process.output.splitlines()
        assert len(lines) == 2, lines
        assert "web.toml: workers.web.count: " in process.output
        assert "web.toml: workers.web.wat: no such key" in process.output
    assert not os.path.lexists(run.path)
    assert run.members() == {}


@asynchronous
async def test_restartDrains(run: Run) -> None:
    """
    A restart waits until the old worker has served what it has.
    """
    await run.begin(run.table("web"))
    client = connect(run.port)
    await run.shows(lambda found: found["listener"]["held"]["claimed"] == 1)
    restart = Deferred.fromCoroutine(run.command("restart", run.path))
    status = await run.shows(
        lambda found: (
            workers(found)["web-1"]["state"] == "draining"
            and found["listener"]["workers"][0]["state"] == "draining"
        )
    )
    assert groups(status)["web"]["ready"] == 1
    assert status["supervisor"]["operation"] == "restart of web"
    refused = await run.command("restart", run.path)
    assert refused.code == 2
    assert "a restart of web is not done yet: wait until it is" in refused.errors
    assert (await run.client())["label"] == "web-2"
    client.sendall(b"who\n")
    assert b"web-1" in await deferToThread(read, client)
    client.close()
    done = await restart
    assert done.code == 0, done
    drains = r"web-2 is ready\nweb-1 drains(, 1 connection left)?\n"
    assert re.search(drains, done.output), done.output
    assert [*pids(await run.ask("status"))] == ["web-2"]
    await run.stop()


@asynchronous
async def test_stopServes(run: Run) -> None:
    """
    While it stops, the client that waits is served, and C{status} answers.
    """
    command = run.module(
        "tests.support.run_worker", "portlisten:{path}:name=http:limit=1"
    )
    process = await run.begin(run.table("web", command))
    first = connect(run.port)
    await run.shows(lambda found: found["listener"]["held"]["claimed"] == 1)
    second = deferToThread(ask, run.port, send=b"who\n")
    await run.shows(lambda found: found["listener"]["held"]["waiting"] == 1)
    stop = Deferred.fromCoroutine(run.command("stop", run.path))
    await process.says("told to stop, stopping")
    status = await run.command("status", run.path)
    assert status.code == 1
    assert re.search(r"(?m)^listener .*, stopping$", status.output), status
    first.sendall(b"who\n")
    assert b"web-1" in await deferToThread(read, first)
    first.close()
    answer = await second
    assert answer is not None
    assert b"web-1" in answer
    stopped = await stop
    assert stopped.code == 0
    assert await process.ended() == 0
    run.checkNothingLeft()


class Manager:
    """
    A service manager: a real socket of sd_notify(3).

    @ivar heard: the messages, each with when it came.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def lines(self) -> list[str]:
        """
        Take what has come.
        """
        with suppress(BlockingIOError):
            while True:
                self.heard += self._socket.recv(65536).decode().splitlines()
        return self.heard

    async def hears(self, pattern: str, count: int = 1) -> None:
        """
        Wait for lines.
        """
        await until(
            lambda: (
                sum(bool(re.fullmatch(pattern, each)) for each in self.lines()) >= count
            ),
            f"{count} of {pattern!r}",
            PATIENCE,
        )

    def close(self) -> None:
        """
        Close the socket.
        """
        self._socket.close()


@asynchronous
async def test_systemd(run: Run) -> None:
    """
    It speaks the protocol of systemd, and its processes do not.
    """
    manager = Manager(run.folder)
    try:
        run.mode("web", "wait")
        run.write(run.table("web", also="count = 2"), run.table("api"))
        run.launch(
            variables={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"}
        )
        await run.shows(lambda found: workers(found)["api-1"]["state"] == "ready")
        await manager.hears("STATUS=listening on .*; 0 of 2 workers of web .*")
        await manager.hears("WATCHDOG=1", 3)
        assert "READY=1" not in manager.lines()
        run.mode("web", "")
        await manager.hears("READY=1")
        status = await run.ask("status")
        assert {each["state"] for each in workers(status).values()} == {"ready"}
        await manager.hears("STATUS=listening on .*; 2 of 2 workers of web .*")
        told = len(manager.lines())
        await manager.hears("WATCHDOG=1", manager.heard.count("WATCHDOG=1") + 2)
        # It says nothing twice.
        assert set(manager.heard[told:]) == {"WATCHDOG=1"}
        own = {"NOTIFY_SOCKET", "WATCHDOG_USEC"}
        environment = (await run.client("environment"))["also"]
        assert environment["PORTLISTEN_LABEL"] in ("web-1", "web-2", "api-1")
        for pid in run.members().keys() - {run.process.pid}:
            names = re.findall(r"([^\0=]+)=", Path(f"/proc/{pid}/environ").read_text())
            assert "PORTLISTEN_LABEL" in names
            assert not own & {*names}
        await run.stop()
        assert manager.lines().count("STOPPING=1") == 1
        assert manager.heard.count("READY=1") == 1
    finally:
        manager.close()


@asynchronous
async def test_servers(run: Run) -> None:
    """
    Servers of several kinds get ready in one file, and are replaced.  Nobody knows what
    a program under C{exec} serves, and the restart says so.
    """
    needs("uvicorn", "uvicorn")
    (run.folder / "app.py").write_text(APPLICATION)
    own = ["--app-dir", str(run.folder), "--no-access-log", APP]
    site = run.folder / "site"
    site.mkdir()
    (site / "index.html").write_text("hello\n")
    http, api, other = run.port, freePort(30000, 31000), freePort(31000, 32000)
    run.write(
        run.table(
            "web",
            run.twistd(
                "web", "--path", str(site), "--listen=portlisten:{path}:name=http"
            ),
        ),
        run.table(
            "api",
            run.module(
                *("uvicorn", "--loop", "portlisten.asyncio:loop"),
                *("--host", "portlisten:{path}:name=api", *own),
            ),
        ),
        run.table(
            "other",
            [
                *run.module("portlisten", "exec", "--name=other", "{path}", "--"),
                *run.module("uvicorn", "--fd", "3", *own),
            ],
            "grace = 1.5",
        ),
        ports="\n".join(
            f"[ports.{name}]\n{how} = {run.address(port)}"
            for name, how, port in (
                ("http", "listen", http),
                ("api", "listen", api),
                ("other", "share", other),
            )
        ),
    )
    run.launch()
    before = pids(await run.ready())
    assert sorted(before) == ["api-1", "other-1", "web-1"]
    with ExitStack() as load:
        crowds = [load.enter_context(Crowd(each)) for each in (http, api, other)]
        for each in crowds:
            await until(each.served, "no answer", PATIENCE)
        done = await run.command("restart", str(run.file))
        assert done.code == 0, done
        for each in crowds:
            await until(each.served, "no answer", PATIENCE)
    assert [each.failures for each in crowds] == [[]] * 3
    after = pids(await run.ready())
    assert sorted(after) == ["api-2", "other-2", "web-2"]
    assert not {*before.values()} & {*after.values()}
    assert (
        "other-1 drains: it cannot say what is left, so this takes 1.5 s\n"
        in done.output
    )
    assert re.search(r"3 workers replaced in \S+ s\n$", done.output), done
    await run.stop()


#: Asks on the control socket as another user, and prints the answer.
STRANGER = """
import contextlib, os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(30)
try:
    sock.connect(sys.argv[1])
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(sys.argv[4].encode() + b"\\n")
    print(sock.makefile().readline(), end="", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
"""


async def stranger(run: Run, user: str, command: str) -> str:
    """
    Ask on the control socket as another user.
    """
    line = json.dumps({"version": 1, "command": command})
    ids = map(str, userOf(user))
    words = [sys.executable, "-c", STRANGER, f"{run.path}.ctl", *ids, line]
    done = await deferToThread(
        subprocess.run, words, capture_output=True, text=True, timeout=60, check=True
    )
    return str(done.stdout)


@asynchronous
async def test_control(run: Run) -> None:
    """
    Drains go to the listener.  Others may not command the supervisor, and what is
    wrong is refused.
    """
    process = await run.begin(run.table("web", also="count = 2"))
    before = pids(await run.ask("status"))
    if IS_ROOT:
        # The workers' user may not even connect.  The listener's user may ask.
        assert await stranger(run, "daemon", "status") == "Permission denied\n"
        os.chmod(f"{run.path}.ctl", 0o666)
        assert "uid 1 may not ask" in await stranger(run, "daemon", "status")
        assert '"problems": []' in await stranger(run, "nobody", "status")
        for each in ("restart", "stop"):
            answer = await stranger(run, "nobody", each)
            assert "only root, and the user of the supervisor, may do that" in answer
        assert "asks for" not in process.output
    requests: list[tuple[dict[str, Any], str]] = [
        ({"command": "restart", "groups": ["wob"]}, "no group of workers is named wob"),
        ({"command": "progress", "operation": ["9"]}, "9"),
        ({"command": "progress", "operation": []}, "operation"),
        ({"command": "progress"}, "operation"),
    ]
    for request, expected in requests:
        refused = await run.ask(**request)
        assert expected in refused["error"], refused

    drained = await run.command("drain", run.path, "web-1")
    assert drained.code == 0, drained
    assert re.search(r"worker \d+ \(web-1, .*\) is drained", drained.output)
    for _ in range(6):
        assert (await run.client())["label"] == "web-2"
    again = await run.command("undrain", run.path, "web-1")
    assert again.code == 0, again
    await run.shows(lambda found: not found["problems"])
    assert {(await run.client())["label"] for _ in range(8)} == {"web-1", "web-2"}
    # That is no reason to start a worker again.
    assert pids(await run.ready()) == before
    await run.stop()
    assert "spoils" not in process.output
    assert "Traceback" not in process.output
