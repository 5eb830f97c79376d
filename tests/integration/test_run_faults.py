"""
C{portlisten run} when its processes fail, with real processes.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import Crowd, connect
from tests.support.ports import freePort
from tests.support.running import Run, groups, pids, userOf, workers
from tests.support.waiting import PATIENCE, sleep, until

#: What a client may not see: a connection that is refused, reset, or closed without an
#: answer.
ERRORS = (None, b"")


class Load:
    """
    Clients that ask all the time.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def pids(self) -> set[int]:
        """
        The processes that have answered.
        """
        answers = [*self._crowd.answers]
        return {json.loads(each)["pid"] for each in answers if each}

    def count(self) -> int:
        """
        How many answers have come.
        """
        return sum(self._crowd.answers.values())


@contextmanager
def load(run: Run, port: int = 0) -> Iterator[Load]:
    """
    Let clients ask all the time, and check that each gets an answer.

    @param port: by default the one of L{Run}.
    """
    with Crowd(port or run.port, 2, pause=0.01, send=lambda: b"who\n") as crowd:
        yield Load(crowd)
    assert not [each for each in crowd.answers if each in ERRORS], crowd.answers
    assert sum(crowd.answers.values()) > 20


def gone(pid: int) -> bool:
    """
    Whether a process has ended.  What its parent has not waited for has ended as well.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


@asynchronous
async def test_crashLoop(run: Run) -> None:
    """
    A worker that fails again and again is started after growing pauses, and is given
    up.  The status and the exit code say so.  Other groups never notice, and C{restart}
    starts it again.
    """
    run.mode("bad", "fail")
    none, plain = (run.folder / name for name in ("none", "plain"))
    for each in none, plain:
        each.write_text("#!/bin/sh\nexec sleep 600\n")
        each.chmod(0o755)
    run.write(
        run.table("good", also="count = 2"),
        run.table("bad", also="failures = 4"),
        run.table("none", [str(none)], "failures = 2"),
        run.table("plain", [str(plain)], "failures = 2"),
    )
    process = run.launch()
    status = await run.shows(lambda found: groups(found)["good"]["ready"] == 2)
    good = pids(status, "good")
    # These cannot be started again.
    none.unlink()
    plain.chmod(0o644)
    for name in "none-1", "plain-1":
        os.kill(pids(status)[name], signal.SIGKILL)
    with load(run) as clients:
        status = await run.shows(
            lambda found: all(
                each["state"] == "given up"
                for label, each in workers(found).items()
                if label not in good
            )
        )
        assert pids(status, "good") == good
        pauses = re.findall(r"bad-1 is started again in (\S+) s, after", process.output)
        assert pauses == ["0.25", "0.5", "1"]
        assert "bad-1 is given up after 4 failures in a row" in process.output
        assert process.output.count("[bad-1] no module named shop") == 4

        shown = await run.command("status", str(run.file))
        assert shown.code == 1
        for line in (
            "! worker bad-1 was given up after 4 failures: it exited with 1;"
            " 'portlisten restart' starts it again",
            f"! worker none-1 was given up after 2 failures: the program '{none}' does"
            " not exist;",
            f"! worker plain-1 was given up after 2 failures: {plain} is not"
            " executable:",
            "! no worker of bad is ready",
        ):
            assert line in shown.output, shown.output
        assert re.search(r"(?m)^bad-1 .* given up ", shown.output), shown.output

        restarted = await run.command("restart", str(run.file), "bad")
        assert restarted.code == 1
        assert "it exited with 1" in restarted.errors
        assert "  no module named shop\n" in restarted.errors
        restarted = await run.command("restart", str(run.file), "none")
        assert restarted.code == 1
        assert f"the program '{none}' does not exist" in restarted.errors

        run.mode("bad", "")
        restarted = await run.command("restart", str(run.file), "bad")
        assert restarted.code == 0, restarted
        status = await run.shows(lambda found: groups(found)["bad"]["ready"] == 1)
        assert pids(status, "good") == good
        (bad,) = pids(status, "bad").values()
        await until(lambda: bad in clients.pids(), "bad does not serve", PATIENCE)
    # Two groups are still given up.
    await run.stop(1)


@asynchronous
async def test_neverJoins(run: Run) -> None:
    """
    A worker that never joins is ended, and given up at last.  If that happens in a
    restart, the restart ends, and the old workers serve on.
    """
    run.mode("late", "never")
    run.write(
        run.table("web", also="count = 2\nready = 4"),
        run.table("late", also="ready = 1\nfailures = 2"),
    )
    process = run.launch()
    status = await run.shows(
        lambda found: (
            groups(found)["web"]["ready"] == 2
            and workers(found)["late-1"]["state"] == "given up"
        )
    )
    before = pids(status, "web")
    late = "late-1: it did not join the listener within 1 s"
    assert process.output.count(late) == 2
    run.mode("web", "never")
    with load(run) as clients:
        done = await run.command("restart", run.path, "web")
        count = clients.count()
        await until(lambda: clients.count() > count + 20, "no answers", PATIENCE)
        # Neither does one get ready that ends at once.
        run.mode("web", "brief")
        soon = await run.command("restart", run.path, "web")
    assert soon.code == 1
    assert re.search("web-3 is not ready: it (exited|did not join)", soon.errors), soon
    assert done.code == 1
    assert done.errors.startswith(
        "portlisten restart: web-3 is not ready: it did not join the listener within"
        " 4 s\n"
        "the end of the log of web-3:\n"
    )
    assert "  the mode is never\n" in done.errors
    assert "web-3 failed: it did not join the listener within 4 s\n" in done.output
    assert done.errors.endswith("0 of 2 workers replaced. The old workers serve on.\n")
    assert pids(await run.ask("status"), "web") == before
    listener = (await run.ask("status"))["supervisor"]["listener"]["pid"]
    assert run.members().keys() == {process.pid, listener, *before.values()}
    await run.stop(1)


@asynchronous
async def test_otherLabel(root: None, run: Run) -> None:
    """
    A label proves nothing: if another user's process has joined under the label of a
    worker, the worker is not ready.
    """
    run.mode("web", "wait")
    run.write(run.table("web"))
    run.launch()
    await run.shows(lambda found: bool(found["listener"]))
    nobody, daemon = userOf("nobody")[0], userOf("daemon")[1]
    other = run.launchAs(
        (nobody, daemon),
        run.module("tests.support.run_worker", f"portlisten:{run.path}:name=http"),
        {"PORTLISTEN_LABEL": "web-1"},
    )
    status = await run.shows(lambda found: len(found["listener"]["workers"]) == 1)
    assert status["listener"]["workers"][0]["pid"] == other.pid
    assert (await run.client())["pid"] == other.pid
    await sleep(2)
    assert workers(await run.ask("status"))["web-1"]["state"] == "starting"
    run.mode("web", "")
    await run.ready()
    await other.kill()
    await run.stop()


@asynchronous
async def test_killed(run: Run) -> None:
    """
    A worker that is killed is started again in its slot, and what it started ends.
    Others do not notice.
    """
    process = await run.begin(run.table("web", also="count = 2"))
    before = pids(await run.ask("status"))
    child = await run.client("child")
    label, pid = child["label"], child["pid"]
    assert before[label] == pid
    assert child["also"] in run.members()
    os.kill(pid, signal.SIGKILL)
    status = await run.shows(
        lambda found: (
            workers(found)[label]["state"] == "ready"
            and workers(found)[label]["pid"] != pid
        )
    )
    assert gone(child["also"])
    after = pids(status)
    assert after.keys() == before.keys()
    assert [each for each in after if after[each] != before[each]] == [label]
    assert workers(status)[label]["failures"] == 1
    assert workers(status)[label]["lastEnd"] == "it was killed by SIGKILL"
    assert f"{label} is started again in 0.25 s, after failure 1: " in process.output
    assert {(await run.client())["pid"] for _ in range(8)} == {*after.values()}

    # What a worker started ends with it in a restart, and at the end.
    children = [(await run.client("child"))["also"] for _ in range(4)]
    assert not any(map(gone, children))
    done = await run.command("restart", run.path)
    assert done.code == 0, done
    assert all(map(gone, children))
    last = (await run.client("child"))["also"]
    assert not gone(last)
    await run.stop()


@asynchronous
async def test_deaf(run: Run) -> None:
    """
    A worker that ignores SIGTERM gets SIGKILL when its time is over, in a restart and
    at the end; and so does its session.
    """
    run.mode("web", "deaf")
    process = await run.begin(run.table("web").replace("stop = 5", "stop = 1"))
    (pid,) = pids(await run.ask("status")).values()
    child = (await run.client("child"))["also"]
    done = await run.command("restart", run.path)
    assert done.code == 0, done
    assert gone(pid)
    assert gone(child)
    assert "web-1 was killed by SIGKILL" in process.output
    assert "web-2 was killed" not in process.output
    process.signal(signal.SIGTERM)
    status = await run.shows(lambda found: found["listener"] is None)
    assert workers(status)["web-2"]["state"] == "stopping"
    assert status["problems"] == [
        "the listener has stopped, since the supervisor stops",
        "no worker of web is ready",
    ]
    with pytest.raises(ConnectionRefusedError):
        # Nobody would serve it, so it must not wait for its end.
        await deferToThread(connect, run.port)
    await run.stop()
    assert "web-2 was killed by SIGKILL" in process.output


@asynchronous
async def test_exits(run: Run) -> None:
    """
    A worker that exits with 0, as after many requests, is started again at once, for as
    often as it likes.
    """
    process = await run.begin(run.table("web", also="failures = 2"))
    seen = set()
    for _ in range(3):
        status = await run.ready()
        (worker,) = workers(status).values()
        assert worker["failures"] == 0
        seen.add(worker["pid"])
        pid = (await run.client("quit"))["pid"]
        assert pid == worker["pid"]
        await run.shows(lambda found, pid=pid: pid not in pids(found).values())  # type: ignore[misc]
    await run.ready()
    assert len(seen) == 3
    assert process.output.count("web-1 is started again in 0.1 s") == 3
    assert "given up" not in process.output
    await run.stop()


@asynchronous
async def test_limits(run: Run) -> None:
    """
    Workers that are old or have too much memory are replaced, and no client notices.
    """
    big = freePort(30000, 31000)
    description = "portlisten:{path}:name=big"
    run.write(
        run.table(
            "big",
            run.module("tests.support.run_worker", description),
            'max-memory = "150M"',
        ),
        run.table("old", also="max-age = 4"),
        run.table("steady", also='max-memory = "150M"\nmax-age = "1h"'),
        ports=f"[ports.http]\nlisten = {run.address(run.port)}\n"
        f"[ports.big]\nlisten = {run.address(big)}",
    )
    process = run.launch()
    before = pids(await run.ready())
    with load(run) as clients, load(run, big) as bigs:
        assert (await run.client("grow 120", big))["label"] == "big-1"
        ready: set[int] = set()

        def replaced(found: dict[str, Any]) -> bool:
            ready.update(each["ready"] for each in groups(found).values())
            return not {before["big-1"], before["old-1"]} & {*pids(found).values()}

        await run.shows(replaced)
        # The new ones came first.
        assert 0 not in ready
        status = await run.ready()
        after = pids(status)
        (grown,) = pids(status, "big").values()
        await until(lambda: grown in bigs.pids(), "big does not serve", PATIENCE)
        others = {*after.values()} - {grown}
        await until(lambda: others <= clients.pids(), "not all serve", PATIENCE)
    assert re.search(
        r"big-1 is replaced: it has 1[5-9]\d MiB of memory, and 150 MiB are allowed",
        process.output,
    )
    assert re.search(r"old-1 is replaced: it has served for \d+ s", process.output)
    assert "steady-1 is replaced" not in process.output
    assert after["steady-1"] == before["steady-1"]
    await run.stop()
