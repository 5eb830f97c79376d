"""
Limits per source hold in front of servers that know nothing of them, heal by
themselves, and count what the kernel counts.

L{tests.limits} does the same for longer, as a command.  It compares the 99th
percentiles of answers.  Here, other tests run at the same time, so the 90th are
compared.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from itertools import cycle

import pytest

from tests.support.limits import (
    ASK,
    FLOOD,
    OTHERS,
    Clients,
    Scene,
    body,
    ended,
    isNear,
    quantile,
    underFlood,
)
from tests.support.ports import freePort
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command

#: The quantile that is compared.
SHARE = 0.9

#: What HAProxy does before a listener.
HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen front
    bind 127.0.0.1:{front}
    server back 127.0.0.1:{back} send-proxy-v2
"""


@pytest.mark.parametrize("beyond", ["reset", "close", "wait"])
def test_flood(processes: Processes, beyond: str) -> None:
    """
    While a source opens 5,000 connections to a slow server, and each of them again when
    it ends, ten others are served as without it.  Soon after that, so is the source.
    """
    seen = underFlood(processes, beyond, seconds=4, pause=3)
    print(seen)
    assert isNear(seen.others, seen.flooded, SHARE), seen
    assert seen.fate["tried"] > 5000, seen
    assert isNear(seen.source, seen.after, SHARE), seen


def test_floodWithoutLimits(processes: Processes) -> None:
    """
    Without limits, they wait behind it.
    """
    seen = underFlood(processes, "", seconds=4, pause=0)
    print(seen)
    assert not isNear(seen.others, seen.flooded, SHARE), seen
    assert quantile(seen.flooded, 0.5) > 1, seen


@pytest.mark.parametrize("beyond", ["reset", "close", "wait"])
def test_rate(processes: Processes, beyond: str) -> None:
    """
    Beyond its rate, a source is refused or waits, and others are not.  Its tokens come
    again.
    """
    limits = f":rate-per-source=2/s burst 3:beyond={beyond}"
    scene = Scene(processes, limits)
    scene.listen()
    scene.site()
    for _ in range(2):
        with Clients() as clients:
            began = time.monotonic()
            answers = [clients.ask(scene.port, FLOOD) for _ in range(6)]
            took = time.monotonic() - began
            if beyond == "wait":
                assert all(answers), answers
                assert took > 1.4, took
            else:
                assert all(answers[:3]), answers
                assert not all(answers), answers
            assert clients.ask(scene.port, OTHERS[0])
        time.sleep(2)


def test_all(processes: Processes) -> None:
    """
    The limit for all sources holds for all together, and heals when one leaves.
    """
    scene = Scene(processes, ":max=4")
    scene.listen()
    scene.site()
    with Clients() as clients:
        for source in OTHERS[:3]:
            clients.stay(scene.port, source)
        with Clients() as fourth:
            fourth.stay(scene.port, OTHERS[3])
            assert not clients.ask(scene.port, OTHERS[4])
        scene.counted(dict.fromkeys(OTHERS[:3], 1))
        assert clients.ask(scene.port, OTHERS[4])


def storm(scene: Scene, workers: list[Process], seconds: float) -> None:
    """
    Kill workers, stop them for so long that they are revoked, drain them, and replace
    the listener, one after the other.
    """
    chance = random.Random(2002)
    end = time.monotonic() + seconds
    for what in cycle(["kill", "replace", "stop", "drain"]):
        if time.monotonic() > end:
            return
        number = chance.randrange(len(workers))
        worker = workers[number]
        if what == "kill":
            worker.kill()
            workers[number] = scene.site()
        elif what == "stop":
            begun = len(scene.listener.output)
            worker.signal(signal.SIGSTOP)
            scene.listener.says("hangs|revoked", begun)
            worker.signal(signal.SIGCONT)
        elif what == "drain":
            said = scene.portlisten("drain", "./socket", str(worker.pid))
            assert "drained" in said, said
            worker.stop()
            workers[number] = scene.site()
        else:
            replace(scene, workers)
        time.sleep(0.1)


def replace(scene: Scene, workers: Sequence[Process]) -> None:
    """
    Replace the listener.
    """
    last = scene.listener
    scene.listen("--replace")
    assert last.wait() == 0, last.output
    joined(scene, workers)


def joined(scene: Scene, workers: Sequence[Process]) -> None:
    """
    Wait until all workers have joined the newest listener.
    """
    end = time.monotonic() + PATIENCE
    expected = {each.pid for each in workers}
    while not expected <= {each["pid"] for each in scene.status()["workers"]}:
        assert time.monotonic() < end, scene.listener.output
        time.sleep(0.05)


def test_countsAfterStorm(processes: Processes) -> None:
    """
    Workers are killed, revoked and drained, and the listener is replaced, again and
    again, while clients come.  At the end, no source has a connection.
    """
    scene = Scene(processes, ":max-per-source=20", "--claim-timeout=0.3")
    scene.listen()
    workers = [scene.site() for _ in range(3)]
    flood = scene.flood(60)
    clients = scene.begin(OTHERS, 12, 0.1)
    storm(scene, workers, 11)
    clients.wait()
    fate = ended(flood)
    assert fate["answered"], fate
    times = scene.answers(clients)
    # The workers that were killed or stopped had some of them.
    assert sum(map(math.isfinite, times)) > 0.8 * len(times), times
    scene.counted({})
    with Clients() as here:
        here.stay(scene.port, FLOOD, 7)
        here.stay(scene.port, OTHERS[0], 3)
        scene.counted({FLOOD: 7, OTHERS[0]: 3})
    scene.counted({})


def test_countsOfNextListener(processes: Processes) -> None:
    """
    A listener that takes over, and one that comes after a crash, count the connections
    that workers have from before.
    """
    scene = Scene(processes, ":max-per-source=7")
    scene.listen()
    workers = [scene.site() for _ in range(2)]
    with Clients() as clients:
        clients.stay(scene.port, FLOOD, 7)
        clients.stay(scene.port, OTHERS[0], 3)
        expected = {FLOOD: 7, OTHERS[0]: 3}
        scene.counted(expected)
        replace(scene, workers)
        scene.counted(expected)
        assert not clients.ask(scene.port, FLOOD)
        scene.listener.kill()
        scene.listen()
        joined(scene, workers)
        scene.counted(expected)
        assert not clients.ask(scene.port, FLOOD)
        assert clients.ask(scene.port, OTHERS[0])
    scene.counted({})
    with Clients() as clients:
        clients.stay(scene.port, FLOOD, 7)


@pytest.mark.parametrize("limits", ["", ":max-per-source=50"])
def test_slowLoris(processes: Processes, limits: str) -> None:
    """
    A source opens 500 connections to C{twistd web}, whose requests never end.  With
    limits, others are served.  Without them, the server has no descriptors left.
    """
    scene = Scene(processes, limits)
    scene.listen()
    (processes.folder / "hello").write_text("hello, web\n")
    web = [command("twistd"), "--nodaemon", "--pidfile=", "web", "--path=."]
    worker = processes.start(*web, "--listen=portlisten:./socket", limit=256)
    worker.says("joined the listener")
    assert max(scene.times(OTHERS, 1, 0.2, "/hello")) < 1
    flood = scene.flood(500, "--drip")
    time.sleep(1)
    times = scene.times(OTHERS, 2, 0.2, "/hello")
    print(quantile(times, 0.5), quantile(times, 0.99), ended(flood))
    if limits:
        assert max(times) < 1, times
    else:
        assert min(times) == math.inf, times
    assert worker.running


@pytest.mark.parametrize("fair", ["yes", "no"])
def test_fair(processes: Processes, fair: str) -> None:
    """
    A source with 1,000 waiting delays another's first by no more than a turn.  If the
    queue is not fair, it comes after all of them.
    """
    limits = f":max-per-source=2000:fair={fair}"
    scene = Scene(processes, limits, "--queue=2000")
    scene.listen()
    flood = scene.flood(1000, "--path=/")
    scene.waiting(1000)
    with Clients() as clients:
        first = clients.connect(scene.port, OTHERS[0])
        first.sendall(ASK)
        scene.waiting(1001)
        scene.site(":limit=1")
        number, source = body(first).split()
    assert source.decode() == OTHERS[0]
    if fair == "yes":
        assert int(number) <= 2
    else:
        assert int(number) == 1001
    ended(flood)


def test_proxied(processes: Processes) -> None:
    """
    Behind HAProxy, the sources are those of the PROXY headers, and the worker gets the
    headers as they were sent.  A client that is no proxy is refused.
    """
    haproxy = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    scene = Scene(processes, ":max-per-source=3:proxy-from=127.0.0.1")
    scene.listen()
    front = freePort(27000, 27500)
    file = processes.folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(front=front, back=scene.port))
    scene.site(wrapper="haproxy:")
    proxy = processes.start(haproxy, "-db", "-f", str(file))
    with Clients() as clients:
        until(lambda: clients.ask(front, OTHERS[1]) != b"", proxy)
        clients.stay(front, FLOOD, 3)
        scene.counted({FLOOD: 3})
        assert not clients.ask(front, FLOOD)
        for each in OTHERS:
            assert clients.ask(front, each).split()[1].decode() == each
    scene.counted({})


def test_datagram(processes: Processes) -> None:
    """
    On the wire of 2002, networks are allowed and denied, and rates are limited.
    """
    limits = (
        ":allow=127.0.0.0/28:deny=127.0.0.11,127.0.0.12/31:rate-per-source=1/m burst 3"
    )
    scene = Scene(processes, limits, "--wire=datagram")
    worker = processes.python(
        "-m", "tests.support.slow_site", "portlisten:./socket:wire=datagram"
    )
    worker.says("receiving")
    scene.listen()
    with Clients() as clients:
        for source in (FLOOD, "127.0.0.11", "127.0.0.12", "127.0.0.13"):
            assert not clients.ask(scene.port, source), source
        answers = [clients.ask(scene.port, OTHERS[0]) for _ in range(5)]
        assert [bool(each) for each in answers] == [True] * 3 + [False] * 2
        assert clients.ask(scene.port, "127.0.0.14")


def test_log(processes: Processes) -> None:
    """
    A flood of refused clients is a few lines in the log, which count all of them.
    """
    scene = Scene(processes, ":max-per-source=1", "--log-format=json")
    scene.listen()
    scene.site()
    with Clients() as clients:
        clients.stay(scene.port, FLOOD)
        for _ in range(500):
            assert not clients.ask(scene.port, FLOOD)
    assert scene.listener.stop() == 0
    events = [json.loads(each) for each in scene.listener.output.splitlines()]
    lines = [each for each in events if each["event"] == "limits-refused"]
    assert 1 <= len(lines) <= 10, lines
    assert sum(each["count"] for each in lines) == 500, lines
    assert sum(each["most"] for each in lines) == 500, lines
    assert {each["source"] for each in lines} == {FLOOD}
    for each in lines:
        assert each["reasons"] == f"max-per-source {each['count']}", lines


def until(condition: Callable[[], bool], process: Process) -> None:
    """
    Wait until something is so.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.running, process.output
        assert time.monotonic() < end, process.output
        time.sleep(0.05)
