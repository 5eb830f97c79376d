"""
The metrics against what clients have counted, with real processes.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.threads import deferToThread

from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Claim, Closed, Offer, Refuse, WorkerHello
from tests.support.asking import ask, client
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.processes import PATIENCE
from tests.support.running import Run, workers
from tests.support.spawned import Start
from tests.support.waiting import sleep, together

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SCRAPE = GET.replace(b" / ", b" /metrics ")

#: Metrics, by their names and the values of their labels.
Metrics = dict[tuple[str, ...], float]


async def scrape(port: int) -> Metrics:
    """
    Ask the monitor.
    """
    head, _, body = (await ask(port, SCRAPE)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return {
        (
            sample.name.removeprefix("portlisten_"),
            *(sample.labels[label] for label in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def shows(port: int, what: Callable[[Metrics], bool]) -> Metrics:
    """
    Ask the monitor until the metrics are as they should be.
    """
    end = time.monotonic() + PATIENCE
    while not what(found := await scrape(port)):
        assert time.monotonic() < end, found
        await sleep(0.1)
    addsUp(found)
    return found


def sums(metrics: Metrics, name: str) -> dict[str, int]:
    """
    The counters of a port that are not 0.
    """
    return {
        each.removeprefix("connections_").removesuffix("_total"): int(value)
        for (each, *labels), value in metrics.items()
        if labels == [name] and each.endswith("_total") and value
    }


#: Where a connection may be.
PLACES = ("waiting", "in_flight", "in_service", "departed")

#: What may become of a connection.
ENDS = (
    *("finished", "lost", "timed_out", "silent_too_long", "gone", "unusable"),
    *("given", "left_with_worker", "handed_over", "stopped"),
)


def addsUp(metrics: Metrics) -> None:
    """
    Check that each connection is in one place, or has ended in one way.
    """

    def total(*names: str) -> float:
        return sum(value for key, value in metrics.items() if key[0] in names)

    places = total(*(f"connections_{each}" for each in PLACES))
    ends = total(*(f"connections_{each}_total" for each in ENDS))
    assert total("connections_accepted_total") == places + ends, metrics
    claimed = total("connections_claimed_total")
    assert total("claim_seconds_count") == claimed


def refuseOnce(path: Path, count: int) -> int:
    """
    Be a worker of C{late} that refuses each offer once, and serves it when it is
    offered again.

    @param count: how many connections to serve.
    @return: how many offers were refused.
    """
    decoder = Decoder(FROM_LISTENER)
    refused: set[int] = set()
    served = 0
    with socket.socket(socket.AF_UNIX) as channel, ExitStack() as stack:
        channel.settimeout(PATIENCE)
        channel.connect(str(path))
        channel.sendall(encode(WorkerHello(8, ("late",), label="fussy-7")))
        while served < count:
            data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
            assert data, "the channel has ended"
            held = [socket.socket(fileno=each) for each in descriptors]
            for each in held:
                stack.enter_context(each)
            offers = [f for f in decoder.feed(data) if isinstance(f, Offer)]
            assert len(offers) == len(held)
            for offer, connection in zip(offers, held, strict=True):
                if offer.cookie not in refused:
                    refused.add(offer.cookie)
                    channel.sendall(encode(Refuse(1, (offer.id,))))
                    connection.close()
                    continue
                channel.sendall(encode(Claim((offer.id,))))
                connection.sendall(b"at last")
                connection.close()
                channel.sendall(encode(Closed((offer.id,))))
                served += 1
    return len(refused)


@asynchronous
async def test_sums(twistd: Start, folder: Path) -> None:
    """
    Of each connection the metrics say what its client saw: served, lost with a worker
    that was killed, refused and then served, timed out, or gone by itself.
    """
    port = freePort(20000, 30000)
    late = freePort(port + 1, 30000)
    monitor = freePort(late + 1, 30000)
    (folder / "index.html").write_text("hello")
    ports = [
        f"--listen={name}=tcp:{number}:interface=127.0.0.1"
        for name, number in (("http", port), ("late", late))
    ]
    listener = twistd(
        "portlisten", "--patience=4", f"--metrics={monitor}", *ports, "./socket"
    )
    await listener.says("the monitor is ready")
    servers = [
        twistd(
            "web", f"--listen=portlisten:./socket:name=http:label=web-{n}", "--path=."
        )
        for n in (1, 2)
    ]
    found = await shows(monitor, lambda each: each["port_workers", "http"] == 2)
    assert found["up",] == 1
    assert found["port_workers", "late"] == 0
    assert (found["port_healthy", "http"], found["port_healthy", "late"]) == (1, 0)
    assert sums(found, "http") == sums(found, "late") == {}

    # Nobody serves these: some clients leave, and the others wait in vain.
    with ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", late)))
            # It leaves with a reset.  After an orderly end, it might want an answer.
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        await shows(monitor, lambda each: each["connections_waiting", "late"] == 3)
    vain = [client(late) for _ in range(4)]

    # Clients that are served, while Prometheus asks again and again.
    before: Metrics = {}
    served = 0
    for _ in range(10):
        answers = await together([client(port, GET) for _ in range(20)])
        served += sum(
            isinstance(each, bytes) and b"hello" in each for each, _ in answers
        )
        after = await scrape(monitor)
        addsUp(after)
        assert not [
            key for key in before if "_total" in key[0] and after[key] < before[key]
        ]
        before = after
    assert served == 200

    # Clients whose workers are killed while they serve.
    with ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(GET[: len(GET) // 2])
        found = await shows(monitor, lambda each: each["connections_in_service",] == 5)
        serving = [found["worker_serving", "web", slot] for slot in ("1", "2")]
        assert sorted(serving) == [2, 3]
        await sleep(0.5)  # the servers have read
        for each in servers:
            await each.kill()
        found = await shows(monitor, lambda each: not each["connections_in_service",])
        assert ("worker_serving", "web", "1") not in found

    timedOut = sum(not answer for answer, _ in await together(vain))
    assert timedOut == 4
    refusing = deferToThread(refuseOnce, folder / "socket", 6)
    answers = await together([client(late) for _ in range(6)])
    assert [answer for answer, _ in answers] == [b"at last"] * 6
    refused = await refusing
    assert refused == 6

    found = await shows(
        monitor, lambda each: each["connections_finished_total", "late"] == 6
    )
    common = {"claimed": served + 5, "offered": served + 5}
    assert sums(found, "http") == {
        "accepted": served + 5,
        "finished": served,
        "lost": 5,
        **common,
    }
    assert sums(found, "late") == {
        "accepted": 3 + timedOut + 6,
        "offered": refused + 6,
        "refused": refused,
        "claimed": 6,
        "finished": 6,
        "gone": 3,
        "timed_out": timedOut,
    }
    assert found["claim_seconds_count", "http"] == served + 5
    assert found["claim_seconds_bucket", "+Inf", "late"] == 6
    # The fussy worker got them again after a pause of 0.1 s.
    assert found["claim_seconds_bucket", "0.05", "late"] == 0
    assert found["claim_seconds_sum", "late"] >= 0.6
    assert found["workers_revoked_total",] == 0


@asynchronous
async def test_restarts(run: Run) -> None:
    """
    Restarts of workers and of the listener count, and replacements do not.  A new
    listener begins at 0.
    """
    monitor = freePort(run.port + 1, 30000)
    run.write(run.table("web", also="count = 2"))
    text = run.file.read_text()
    run.file.write_text(f"metrics = {monitor}\n{text}")
    run.launch()
    await run.ready()
    found = await shows(monitor, lambda each: each.get(("workers_ready", "web")) == 2)
    assert found["worker_restarts_total", "web"] == 0
    assert found["listener_restarts_total",] == 0
    assert found["workers_wanted", "web"] == 2
    assert found["worker_memory_bytes", "web", "2"] > 2**20

    status = await run.ask("status")
    os.kill(workers(status)["web-2"]["pid"], signal.SIGKILL)
    found = await shows(monitor, lambda each: each["worker_restarts_total", "web"] == 1)
    await run.ready()
    done = await run.command("restart", "--quiet", str(run.file))
    assert done.code == 0, done.errors
    assert (await run.client())["label"] in ("web-1", "web-2", "web-3")
    found = await shows(
        monitor, lambda each: each["connections_finished_total", "http"] == 1
    )
    assert found["worker_restarts_total", "web"] == 1
    slots = {key[2] for key in found if key[:2] == ("worker_serving", "web")}
    assert slots < {"1", "2", "3"}
    assert len(slots) == 2
    assert found["listener_restarts_total",] == 0

    os.kill(status["listener"]["pid"], signal.SIGKILL)
    found = await shows(
        monitor,
        lambda each: each["listener_restarts_total",] == 1 and each["up",] == 1,
    )
    assert sums(found, "http") == {}
    assert found["worker_restarts_total", "web"] == 1
    assert found["supervisor_uptime_seconds",] > found["listener_uptime_seconds",]
    await run.stop()
