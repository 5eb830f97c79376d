"""
C{portlisten reload} changes what runs to what the file says, and no client on the ports
that stay notices.

If C{PORTLISTEN_ROUNDS} is set, so many reloads at random follow.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from contextlib import suppress

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import connect, read
from tests.support.ports import freePort
from tests.support.requests import Requests
from tests.support.running import IS_ROOT, LISTENER_USER, WORKER_USER, Run, groups, pids
from tests.support.waiting import sleep, until

#: How many reloads at random follow.
ROUNDS = int(os.environ.get("PORTLISTEN_ROUNDS") or 0)

#: A web server that joins for all ports, and says hello.
SITE = """
import os, sys
from twisted.application.runner._runner import Runner
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import Site

globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)])

class Hello(Resource):
    isLeaf = True

    def render_GET(self, request):
        body = b"hello %s\\n" % request.path.rpartition(b"/")[2]
        request.setHeader("content-length", str(len(body)))
        request.setHeader("x-version", os.environ["VERSION"])
        return body

serverFromString(reactor, sys.argv[1]).listen(Site(Hello()))
reactor.run()
"""

REQUEST = b"GET /waited HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


class Reloaded:
    """
    A file of C{portlisten run} in parts, and its supervisor.

    @ivar top: the lines above all tables.
    @ivar ports: the ports, by their names.
    @ivar workers: the lines of the tables of workers, by their names.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        (run.folder / "site.py").write_text(SITE)
        self.top = [f'path = "{run.path}"']
        if IS_ROOT:
            self.top += [f'user = "{LISTENER_USER}"', f'group = "{WORKER_USER}"']
        self.ports = {"http": run.port}
        self.shared: dict[str, str] = {}
        self.workers: dict[str, list[str]] = {}
        self.table("web", "count = 4")

    def table(self, name: str, *lines: str, version: int = 1) -> None:
        """
        Set the table of a group of workers.
        """
        script = str(self.run.folder / "site.py")
        words = [*self.run.module("site")[:1], script, "portlisten:{path}"]
        self.workers[name] = [
            f"command = {json.dumps(words)}",
            f'environment = {{VERSION = "{version}"}}',
            "stop = 5",
            *lines,
        ]
        if IS_ROOT:
            self.workers[name].append(f'user = "{WORKER_USER}"')

    def text(self) -> str:
        """
        The file.
        """
        lines = [*self.top]
        for name, port in self.ports.items():
            lines += [f"[ports.{name}]", f"listen = {self.run.address(port)}"]
        for name, text in self.shared.items():
            lines += [f"[ports.{name}]", f'share = "{text}"']
        for name, table in self.workers.items():
            lines += [f"[workers.{name}]", *table]
        return "\n".join([*lines, ""])

    def write(self) -> None:
        """
        Write the file.
        """
        self.run.file.write_text(self.text())

    async def start(self) -> None:
        """
        Write the file, start the supervisor, and wait until all workers are ready.
        """
        self.write()
        self.run.launch()
        await self.run.ready()

    async def reload(self, code: int = 0) -> str:
        """
        Write the file, and run C{portlisten reload}.

        @return: what it writes.
        """
        self.write()
        done = await self.run.command("reload", str(self.run.file))
        said = done.output + done.errors
        assert done.code == code, said + self.run.process.output
        assert "Traceback" not in said
        return said

    async def pids(self) -> dict[str, int]:
        """
        The workers' and the listener's pids, by their labels.
        """
        status = await self.run.ask("status")
        return {**pids(status), "listener": status["supervisor"]["listener"]["pid"]}


def get(port: int, path: str = "/x") -> tuple[bytes, str]:
    """
    Ask a web server.

    @return: the body, and the version of the worker.
    """
    with connect(port) as client:
        client.sendall(REQUEST.replace(b"/waited", path.encode()))
        head, _, body = read(client).partition(b"\r\n\r\n")
    version = re.search(rb"(?i)x-version: (\w+)", head)
    assert version is not None, head
    return body, version[1].decode()


def health(port: int) -> str:
    """
    Ask the monitor for the health of the port C{new}.
    """
    with connect(port) as client:
        client.sendall(REQUEST.replace(b"/waited", b"/healthz/new"))
        return read(client).decode()


def refused(port: int) -> bool:
    """
    Say whether nobody listens on a port.
    """
    try:
        with connect(port):
            return False
    except ConnectionRefusedError:
        return True


class Waiting:
    """
    Clients of a port that wait for an answer.
    """

    def __init__(self, port: int, count: int) -> None:
        self.clients = [connect(port) for _ in range(count)]
        for each in self.clients:
            each.sendall(REQUEST)

    def answers(self) -> list[bytes]:
        """
        Read all answers.
        """
        found = [read(each).partition(b"\r\n\r\n")[2] for each in self.clients]
        for each in self.clients:
            each.close()
        return found


def usualPort(port: int, first: int) -> int:
    """
    Find a free port: for root, a usual one if it is free.

    @param first: the first of other ports, which anybody may bind.
    """
    if IS_ROOT:
        with suppress(AssertionError):
            return freePort(port, port + 1)
    return freePort(first, first + 1000)


def descriptors(pid: int) -> int:
    """
    Count the descriptors of a process.
    """
    return len(os.listdir(f"/proc/{pid}/fd"))


@asynchronous
async def test_underLoad(run: Run) -> None:
    """
    A reload adds the ports 8443 and 443, removes 80, whose waiting clients are served,
    and lowers a count.  No client of the port that stays has an error.
    """
    made = Reloaded(run)
    old, new = usualPort(80, 24000), usualPort(8443, 25000)
    low = usualPort(443, 30000)
    made.ports["old"] = old
    await made.start()
    before = await made.pids()
    made.ports = {"http": run.port, "new": new, "low": low}
    made.top.append("patience = 30")
    made.table("web", "count = 2")
    made.write()
    plan = await run.command("check", "--against-running", str(run.file))
    assert plan.code == 0, plan.errors
    assert plan.output.splitlines() == [
        f"port new=tcp:{new}:interface=127.0.0.1 is added",
        f"port low=tcp:{low}:interface=127.0.0.1 is added",
        f"port old=tcp:{old}:interface=127.0.0.1 is removed",
        "the listener is started anew: patience 60 -> 30",
        "workers web: 4 -> 2",
    ]
    assert await made.pids() == before
    with (
        Requests(run.port, threads=3) as close,
        Requests(run.port, threads=3, keep=True) as keep,
    ):
        await deferToThread(close.reach, 100)
        began, count = time.monotonic(), close.right + keep.right
        # While the listener stands still, its clients wait in the backlogs.
        os.kill(before["listener"], signal.SIGSTOP)
        waiting = Waiting(old, 20)
        reloaded = Deferred.fromCoroutine(run.command("reload", str(run.file)))
        await run.process.says("the reload begins")
        await sleep(0.2)
        late = deferToThread(refused, old)
        await sleep(0.3)
        os.kill(before["listener"], signal.SIGCONT)
        done = await reloaded
        seconds = time.monotonic() - began
        rate = (close.right + keep.right - count) / seconds
        await deferToThread(close.reach, 100)
        assert done.code == 0, done.errors + run.process.output
        await check_ways(made)
        await deferToThread(close.reach, 100)
    print(
        f"a reload in {seconds:.1f} s at {rate:.0f} requests a second: {close.right}"
        f" and {keep.right} answers, {close.wrong + keep.wrong} wrong, {keep.again}"
        f" kept connections closed, slowest {max(close.slowest, keep.slowest):.2f} s"
    )
    assert close.wrong == keep.wrong == []
    assert await deferToThread(waiting.answers) == [b"hello waited\n"] * 20
    assert await late
    assert refused(old)
    for port in (new, low, run.port):
        body, _ = await deferToThread(get, port)
        assert body == b"hello x\n"
    status = await run.ask("status")
    assert len(pids(status)) == groups(status)["web"]["count"] == 2
    assert set(pids(status).items()) < set(before.items())
    assert {each["name"] for each in status["listener"]["ports"]} == set(made.ports)
    assert await made.reload() == "nothing changes\n"
    await run.stop()
    assert refused(new)
    assert "Traceback" not in run.process.output, run.process.output


async def check_ways(made: Reloaded) -> None:
    """
    The port becomes one that workers accept on themselves, with an option, and another
    such port comes and goes, and so does the monitor.  Then all is as before, and the
    supervisor has no more descriptors than before.
    """
    run = made.run
    before = descriptors(run.process.pid)
    ports, top = dict(made.ports), list(made.top)
    other, udp = freePort(26000, 27000), freePort(27000, 28000)
    port = made.ports.pop("http")
    made.shared = {
        "web": run.address(port, ":nodelay=yes").strip('"'),
        "other": run.address(other).strip('"'),
        "dns": f"udp:{udp}:interface=127.0.0.1",
    }
    monitor = freePort(28000, 29000)
    made.top += ["backlog = 100", f"metrics = {run.address(monitor)}"]
    said = await made.reload()
    assert f"the monitor is started at tcp:{monitor}" in said
    assert "monitor is ready" in said
    await until(
        lambda: health(monitor).startswith("HTTP/1.1 200 "), "the health of a port"
    )
    assert "workers accept on it themselves from now on" in said
    assert "nodelay the host's -> yes" in said
    await until(lambda: get(other) == (b"hello x\n", "1"), "the shared port")
    made.ports, made.shared, made.top = ports, {}, top
    said = await made.reload()
    assert "handed to workers from now on" in said
    assert f"the monitor at tcp:{monitor}:interface=127.0.0.1 is stopped" in said
    assert refused(monitor)
    assert refused(other)
    assert descriptors(run.process.pid) == before


#: Wrong changes of the file: what is replaced, by what, and the key of the mistake.
WRONG: list[tuple[str, str, str]] = [
    ('path = "{path}"', 'path = "{path}.other"', "path"),
    ('path = "{path}"', 'path = "{path}"\ncontrol = "/run/x.ctl"', "control"),
    ('path = "{path}"', 'path = "{path}"\nmode = "0666"', "mode"),
    ('path = "{path}"', "path = 3", "path"),
    ('path = "{path}"', 'path = "{path}"\npatince = 3', "patince"),
    ('path = "{path}"', 'path = "{path}"\npatience = 0', "patience"),
    ('path = "{path}"', 'path = "{path}"\nqueue = "many"', "queue"),
    ('path = "{path}"', 'path = "{path}"\nbalance = "most"', "balance"),
    ('path = "{path}"', 'path = "{path}"\nwire = "datagram"', "wire"),
    ('path = "{path}"', 'path = "{path}"\nuser = "nobody-of-that-name"', "user"),
    ('path = "{path}"', 'path = "{path}"\nallow-user = "nobody-at-all"', "allow-user"),
    ('path = "{path}"', 'path = "{path}"\npath = "{path}"', "line"),
    ('path = "{path}"', "path = {path}", "line"),
    ('path = "{path}"', 'path = "{path}"\n[queue]\na = 1', "queue"),
    ("[ports.http]", "[ports.'ht tp']", 'ports."ht tp"'),
    ("[ports.http]", "[ports.http]\nshare = 81", "ports.http"),
    ("[ports.http]", "[ports.http]\nlistn = 81", "ports.http.listn"),
    ("listen = ", "listen = 70000 # ", "ports.http.listen"),
    ("listen = ", 'listen = "ssl:443" # ', "ports.http.listen"),
    ("listen = ", 'listen = "80:nodelay=maybe" # ', "ports.http.listen"),
    ("listen = ", 'listen = "unix:{path}" # ', "ports.http.listen"),
    ("listen = ", "listen = [] # ", "ports.http.listen"),
    (":interface", ":mptcp=yes:interface", "ports.http.listen"),
    ("[workers.web]", "[workers.-web]", "workers.-web"),
    ("count = 1", "count = 0", "workers.web.count"),
    ("count = 1", "count = 1\numask = 27", "workers.web.umask"),
    ("count = 1", 'count = 1\nfolder = "/no/such"', "workers.web.folder"),
    ("count = 1", 'count = 1\nmax-memory = "1K"', "workers.web.max-memory"),
    ("command = ", 'command = ["no-such-program"] # ', "workers.web.command"),
    ("command = ", 'command = ["sh", "{{pth}}"] # ', "workers.web.command"),
    ("command = ", "# ", "workers.web.command"),
    (
        "environment = {{",
        'environment = {{LISTEN_FDS = "1", ',
        "workers.web.environment",
    ),
]


@asynchronous
async def test_wrongFiles(run: Run) -> None:
    """
    A file with a mistake, or with a change that is not possible, changes nothing, and
    the answer names the key and the file, and all mistakes at once.  It is the same by
    the command and by SIGHUP.
    """
    made = Reloaded(run)
    made.table("web", "count = 1")
    await made.start()
    before = await made.pids()
    good = made.text()
    for *texts, key in WRONG:
        old, new = (each.format(path=run.path) for each in texts)
        if key in ("user",) and IS_ROOT:
            text = re.sub(r'(?m)^user = ".*"$', new.partition("\n")[2], good, count=1)
        else:
            text = good.replace(old, new, 1)
        assert text != good, old
        run.file.write_text(text)
        answer = await run.ask("reload")
        assert answer["progress"] is None, (new, answer)
        problems = answer["problems"]
        found = [each.startswith(f"{run.file}: {key}") for each in problems]
        assert any(found), (key, problems)
    assert len(WRONG) >= 30
    by_path = await run.command("reload", run.path)
    assert by_path.code == 1
    said = [f"portlisten reload: {problems[0]}", *problems[1:], "nothing changes"]
    assert by_path.errors.splitlines() == said
    count = run.process.output.count(f"{run.file}: workers.web.environment")
    run.process.signal(signal.SIGHUP)
    await until(
        lambda: (
            run.process.output.count(f"{run.file}: workers.web.environment") > count
        ),
        "the mistake in the log",
    )
    by_file = await run.command("reload", str(run.file))
    assert by_file.code == 1
    assert f"{run.file}: workers.web.environment" in by_file.errors
    compared = await run.command("check", "--against-running", str(run.file))
    assert compared.code == 1
    # Several mistakes, in several tables, and no file at all.
    text = good.replace("count = 1", "count = 0\numask = 27")
    text = text.replace("[ports.http]", "[ports.http]\nlistn = 81")
    run.file.write_text(f"patince = 3\n{text}")
    for by in (run.path, str(run.file)):
        done = await run.command("reload", by)
        assert done.code == 1
        assert re.findall(r"(?m)^.*?web\.toml: ([\w.-]+): ", done.errors) == [
            "patince",
            "ports.http.listn",
            "workers.web.count",
            "workers.web.umask",
        ], done.errors
        assert done.errors.endswith("\nnothing changes\n")
        assert done.output == ""
    run.file.unlink()
    done = await run.command("reload", run.path)
    assert (done.code, done.output) == (1, "")
    assert f"{run.file}: cannot read it: No such file" in done.errors
    run.file.write_text(good)
    assert await made.pids() == before
    assert await deferToThread(get, run.port) == (b"hello x\n", "1")
    assert run.process.output.count(" is started as process ") == 2
    await run.stop()
    compared = await run.command("check", "--against-running", str(run.file))
    assert compared.code == 1
    assert "cannot be compared" in compared.errors


@asynchronous
async def test_failures(run: Run) -> None:
    """
    A reload fails if a port is in use, the listener does not get ready, or a new worker
    does not; the next one goes on from there.  A stop ends a reload.
    """
    made = Reloaded(run)
    await made.start()
    before = await made.pids()

    # A port is in use, and the other new one is closed again.
    new = freePort(24000, 25000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made.ports |= {"new": new, "taken": taken.getsockname()[1]}
        said = await made.reload(code=1)
        assert "ports.taken.listen: cannot listen on" in said
        assert "nothing has changed" in said
    assert refused(new)
    assert await made.pids() == before

    # The listener does not get ready: it has more ports than a HELLO can name.
    del made.ports["taken"], made.ports["new"]
    many = [f'"unix:{run.folder}/{number:070}"' for number in range(999)]
    made.shared["many"] = '", "'.join(each.strip('"') for each in many)
    text = made.text().replace('share = "', 'share = ["').replace('998"', '998"]')
    made.text = lambda: text  # type: ignore[method-assign]
    said = await made.reload(code=1)
    assert "nothing has changed" in said
    assert "more than a listener can tell its workers" in said
    assert not [each for each in os.listdir(run.folder) if each.startswith("000")]
    del made.text, made.shared["many"]
    await run.ready()
    for _ in range(5):
        assert await deferToThread(get, run.port) == (b"hello x\n", "1")
    after = await made.pids()
    assert {**after, "listener": 0} == {**before, "listener": 0}

    # A new worker does not join.  The group before it, and the new port, stay.
    made.ports["new"] = new
    made.table("other", "count = 1")
    made.table("web", "count = 2", "ready = 4", version=2)
    good = made.workers["web"][0]
    made.workers["web"][0] = 'command = ["sh", "-c", "echo I do not join; sleep 60"]'
    said = await made.reload(code=1)
    assert "I do not join" in said
    assert "did not join the listener within 4 s" in said
    assert "What was done stays" in said
    halfway = await made.pids()
    assert {each for each in halfway if each.startswith("web")} == {
        each for each in before if each.startswith("web")
    }
    assert await deferToThread(get, new)

    # The next reload does what is left, and after a SIGHUP all is the new version.
    made.workers["web"][0] = good
    made.write()
    plan = await run.command("check", "--against-running", str(run.file))
    assert plan.output.splitlines() == [
        "workers web: 4 -> 2",
        "workers web: the environment changes, so they are replaced one after the"
        " other",
    ]
    run.process.signal(signal.SIGHUP)
    await run.process.says("the reload is done", 60)
    after = await made.pids()
    assert after["other-1"] == halfway["other-1"]
    assert after["listener"] == halfway["listener"]
    assert not {*after.values()} & {
        pid for label, pid in before.items() if label.startswith("web")
    }
    status = await run.ask("status")
    assert groups(status)["web"]["count"] == len(groups(status)["web"]["processes"])
    del made.workers["other"]
    await made.reload()
    for _ in range(5):
        assert await deferToThread(get, new) == (b"hello x\n", "2")

    # A reload during a restart says so, and a worker that is killed is started again
    # with the settings of now.
    made.workers["web"].append("grace = 7")
    made.write()
    answer = await run.ask("restart")
    assert "progress" in answer, answer
    done = await run.command("reload", str(run.file))
    assert done.code == 2
    assert "a restart of web is not done yet" in done.errors
    await run.process.says("the restart of web is done", 60)
    assert "grace 30 -> 7" in await made.reload()
    found = await made.pids()
    os.kill(found["web-1"] if "web-1" in found else found["web-3"], signal.SIGKILL)
    await run.process.says(r"web-\d is started again")
    await run.ready()
    for _ in range(5):
        assert await deferToThread(get, run.port) == (b"hello x\n", "2")

    # Everything stops during a reload.
    late = made.ports["late"] = freePort(25000, 26000)
    made.table("web", "count = 2", "ready = 30", version=3)
    made.workers["web"][0] = 'command = ["sh", "-c", "echo so late; sleep 60"]'
    made.write()
    reloaded = Deferred.fromCoroutine(run.command("reload", run.path))
    await run.process.says("so late", 60)
    assert not refused(late)
    await run.stop()
    done = await reloaded
    assert done.code == 1, done
    assert "the supervisor stops before the reload is done" in done.errors
    assert refused(late)
    assert "Traceback" not in run.process.output, run.process.output


async def free(made: Reloaded) -> None:
    """
    Wait until no reload is under way.
    """
    while (await made.run.ask("status"))["supervisor"]["operation"]:
        await sleep(0.1)


@pytest.mark.skipif(not ROUNDS, reason="PORTLISTEN_ROUNDS is not set")
@pytest.mark.parametrize("kills", [False, True], ids=["calm", "kills"])
@asynchronous
async def test_storm(run: Run, kills: bool) -> None:
    """
    Reload again and again, at random.  No client of the port that stays has an error,
    unless processes are killed; and in the end, what runs is what the file says.  When
    the file is as it was, the supervisor and the listener have as many descriptors as
    before.
    """
    chance = random.Random(7)
    made = Reloaded(run)
    made.table("web", "count = 2")
    await made.start()
    first, firstText = await made.pids(), made.text()
    before = [descriptors(run.process.pid), descriptors(first["listener"])]
    monitors = [freePort(28000, 28500), freePort(28500, 29000)]
    seconds: list[float] = []
    spare = [freePort(24000 + 100 * each, 24100 + 100 * each) for each in range(4)]
    results: list[int] = []
    with (
        Requests(run.port, threads=2) as close,
        Requests(run.port, threads=2, keep=True) as keep,
    ):
        for version in range(ROUNDS):
            top = [
                each
                for each in made.top
                if not each.startswith(("patience", "metrics"))
            ]
            made.top = [*top, f"patience = {chance.choice([30, 40])}"]
            if chance.random() < 0.5:
                address = run.address(chance.choice(monitors))
                made.top.append(f"metrics = {address}")
            chosen = chance.sample(spare, chance.randrange(4))
            made.ports = {"http": run.port}
            made.ports |= {f"p{spare.index(each)}": each for each in chosen}
            count = chance.randrange(1, 5)
            made.table(
                "web",
                f"count = {count}",
                f"grace = {chance.choice([3, 4])}",
                version=version if chance.random() < 0.3 else 1,
            )
            made.workers.pop("more", None)
            if chance.random() < 0.3:
                made.table("more", "count = 1")
            made.write()
            began = time.monotonic()
            reload = Deferred.fromCoroutine(run.command("reload", run.path))
            if chance.random() < 0.3:
                run.process.signal(signal.SIGHUP)
            if kills:
                await sleep(chance.random() * 2)
                victim = chance.choice(list((await made.pids()).values()))
                if victim:
                    os.kill(victim, signal.SIGKILL)
            results.append((await reload).code)
            await free(made)
            seconds.append(time.monotonic() - began)
    count = run.process.output.count("the reload begins")
    print(f"{results}; {count} reloads, the longest took {max(seconds):.1f} s;")
    print(f"{close.right} and {keep.right} answers, {keep.again} again")
    print(f"slowest answers: {close.slowest:.2f} s and {keep.slowest:.2f} s")
    print(close.wrong[:5], keep.wrong[:5], len(close.wrong), len(keep.wrong))
    if not kills:
        assert close.wrong == keep.wrong == []
        assert set(results) <= {0, 2}
    await made.reload()
    assert await made.reload() == "nothing changes\n"
    status = await run.ready()
    counts = {name: each["count"] for name, each in groups(status).items()}
    assert counts == {
        name: len(groups(status)[name]["processes"]) for name in made.workers
    }
    assert {each["name"] for each in status["listener"]["ports"]} == set(made.ports)
    for port in spare:
        assert refused(port) == (port not in made.ports.values())
    for port in monitors:
        assert refused(port) == (f":{port}:" not in made.top[-1])
    # As it was at first.
    run.file.write_text(firstText)
    done = await run.command("reload", str(run.file))
    assert done.code == 0, done.errors
    await run.ready()
    listener = (await made.pids())["listener"]
    await until(
        lambda: [descriptors(run.process.pid), descriptors(listener)] == before,
        f"the descriptors of before: {before}",
    )
    await run.stop()
    assert "Traceback" not in run.process.output, run.process.output
