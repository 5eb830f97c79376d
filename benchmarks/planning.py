"""
C{python -m benchmarks.planning}: how much a machine needs for so many connections, from
what was measured.

Without options, it prints the examples of C{docs/capacity.md}.  With C{--rate} and
C{--alive}, it prints a plan for these.  With C{--write}, it puts the examples into the
page.  A unit test checks that they are there.

This computes, and measures nothing.  The constants say where they come from.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from benchmarks.report import table

PAGE = Path(__file__).parents[1] / "docs" / "capacity.md"

#: The processor time of the listener for each connection, in microseconds:
#: C{docs/benchmarks/hop.md} has 12.0 to 16.3 if many come together, and 93.6 to 112 if
#: each comes alone.
LISTENER_US, LISTENER_ALONE_US = 15, 110

#: The processor time of a Twisted worker for each connection that comes alone, in
#: microseconds, as long as the server does next to nothing: 110 to 132 there.
WORKER_US = 130

#: What a TLS handshake adds to that: C{python -m benchmarks.capacity}.
TLS_US = 500

#: The processor time of HAProxy for each connection: 63 to 72, with
#: 64 or more at a time, in C{docs/benchmarks/rate.md}.
PROXY_US = 70

#: The resident memory of a listener and of a Twisted worker without connections, in
#: MiB, and of a connection that stays, in KiB: C{python -m benchmarks.capacity}.
LISTENER_MIB, WORKER_MIB, TLS_MIB = 53, 45, 57
LISTENER_KIB, WORKER_KIB, TLS_KIB, PROXY_KIB = 0.7, 1.4, 25.7, 3.3

#: The kernel's memory for one TCP socket of a connection without data, in KiB:
#: likewise.
SOCKET_KIB = 5.3

#: What is assumed to wait in the kernel's buffers of a socket, on average, in KiB.
BUFFERED_KIB = 8

#: The size of an entry of the conntrack table, in bytes: C{nf_conntrack} in
#: C{/proc/slabinfo}.
TRACKED_BYTES = 256

#: How long the conntrack table and a TCP socket remember a connection that has ended:
#: C{nf_conntrack_tcp_timeout_time_wait}, and C{TCP_TIMEWAIT_LEN} in
#: C{include/net/tcp.h}.  In seconds.
TRACKED_SECONDS, TIME_WAIT_SECONDS = 120, 60

#: How long the listener may hold a descriptor: it waits 2 seconds for the first byte of
#: a client that speaks first, and keeps its copy for one second after the claim.
HELD_SECONDS = 3

#: For how long the backlog must hold what comes while the listener does not accept.
PAUSE_SECONDS = 0.5

#: The default of C{--window} and of C{--queue}.
WINDOW, QUEUE = 32, 1024

#: The descriptors that a process has besides its connections.
SPARE = 128

#: How much of a machine's processors to use.
SHARE = 0.6

#: The largest numbers that a port may have, from 1024: C{net.ipv4.ip_local_port_range}
#: may be so wide.
PORTS = 65536 - 1024

#: The most descriptors of a process: the default of C{fs.nr_open}.
NR_OPEN = 1 << 20


@dataclass(frozen=True)
class Demand:
    """
    What is asked of a machine, or of many.

    @ivar rate: how many connections come in a second.
    @ivar alive: how many connections live at a time.
    @ivar tls: whether the workers speak TLS.
    @ivar work: what a connection costs the application, in microseconds.
    @ivar cores: the processors of a machine.
    @ivar memory: the memory of a machine, in GiB.
    """

    rate: int
    alive: int
    tls: bool = True
    work: int = 150
    cores: int = 16
    memory: int = 64

    @property
    def workers(self) -> int:
        """
        How many workers a machine has: one for each processor, and if there are many,
        one processor for the listener.
        """
        return self.cores - 1 if self.cores > 2 else self.cores

    @property
    def microseconds(self) -> int:
        """
        The processor time of a worker for each connection.
        """
        return WORKER_US + self.tls * TLS_US + self.work

    @property
    def listener(self) -> float:
        """
        How much of a processor the listener uses, if each connection comes alone.  When
        it is busy all the time, they come together.
        """
        least = self.rate * LISTENER_US / 1e6
        return max(least, min(1.0, self.rate * LISTENER_ALONE_US / 1e6))

    @property
    def serving(self) -> float:
        """
        How many processors the workers use.
        """
        return self.rate * self.microseconds / 1e6

    @property
    def kib(self) -> float:
        """
        The memory of a connection that stays, in KiB.
        """
        own = TLS_KIB if self.tls else WORKER_KIB
        return LISTENER_KIB + own + SOCKET_KIB + BUFFERED_KIB

    @property
    def workerMib(self) -> int:
        """
        The memory of a worker without connections, in MiB.
        """
        return TLS_MIB if self.tls else WORKER_MIB

    @property
    def mib(self) -> float:
        """
        The memory of all, in MiB.
        """
        processes = LISTENER_MIB + (self.workers + 1) * self.workerMib
        return processes + self.alive * self.kib / 1024

    @property
    def fits(self) -> bool:
        """
        Whether one machine is enough.
        """
        busy = self.listener + self.serving
        room = SHARE * self.memory * 1024
        return busy <= SHARE * self.cores and self.mib <= room


#: A line of a plan: what, the arithmetic, and what comes of it.
Line = tuple[str, str, str]


def power(least: float) -> int:
    """
    The next power of two.
    """
    return 1 << ceil(least - 1).bit_length()


def one(demand: Demand) -> list[Line]:
    """
    Plan for one machine.
    """
    rate, alive, workers = demand.rate, demand.alive, demand.workers
    tls = f" + {TLS_US}" if demand.tls else ""
    own = TLS_KIB if demand.tls else WORKER_KIB
    share = ceil(alive / workers)
    listener = HELD_SECONDS * rate + QUEUE + 2 * workers + SPARE
    tracked = alive + TRACKED_SECONDS * rate
    return [
        (
            "listener, processors",
            f"{rate:,}/s × {LISTENER_US} to {LISTENER_ALONE_US} µs, at most 1",
            f"{rate * LISTENER_US / 1e6:.2f} to {demand.listener:.2f}",
        ),
        (
            "workers, processors",
            f"{rate:,}/s × ({WORKER_US}{tls} + {demand.work}) µs",
            f"{demand.serving:.2f}",
        ),
        (
            "processors to have",
            f"({demand.listener:.2f} + {demand.serving:.2f}) / {SHARE}",
            f"{ceil((demand.listener + demand.serving) / SHARE)} of {demand.cores}",
        ),
        ("workers", "one for each processor that the listener leaves", f"{workers}"),
        (
            "listener, memory",
            f"{LISTENER_MIB} MiB + {alive:,} × {LISTENER_KIB} KiB",
            f"{LISTENER_MIB + alive * LISTENER_KIB / 1024:,.0f} MiB",
        ),
        (
            "workers, memory",
            f"({workers} + 1) × {demand.workerMib} MiB + {alive:,} × {own} KiB",
            f"{(workers + 1) * demand.workerMib + alive * own / 1024:,.0f} MiB",
        ),
        (
            "kernel, memory",
            f"{alive:,} × ({SOCKET_KIB} + {BUFFERED_KIB}) KiB",
            f"{alive * (SOCKET_KIB + BUFFERED_KIB) / 1024:,.0f} MiB",
        ),
        (
            "memory in all",
            "the sum",
            f"{demand.mib / 1024:.1f} of {demand.memory} GiB",
        ),
        (
            "`open-files` of a worker",
            f"2 × {alive:,} / {workers} + {SPARE}",
            f"{power(2 * share + SPARE):,}",
        ),
        (
            "`ulimit -n` of the listener",
            f"{HELD_SECONDS} s × {rate:,}/s + {QUEUE:,} + 2 × {workers} + {SPARE}",
            f"{power(listener):,}",
        ),
        (
            "in flight at the most",
            f"{workers} × {WINDOW}; half of the listener's limit is"
            f" {power(listener) // 2:,}",
            f"{workers * WINDOW:,}",
        ),
        (
            "open files of the machine",
            f"{alive:,} + {HELD_SECONDS} s × {rate:,}/s",
            f"{alive + HELD_SECONDS * rate:,} (`fs.file-max`)",
        ),
        (
            "backlog",
            f"{PAUSE_SECONDS} s × {rate:,}/s",
            f"{power(PAUSE_SECONDS * rate):,} (`net.core.somaxconn`)",
        ),
        (
            "conntrack, if it is on",
            f"{alive:,} + {TRACKED_SECONDS} s × {rate:,}/s",
            f"{tracked:,} entries, {tracked * TRACKED_BYTES / 2**20:,.0f} MiB",
        ),
        (
            "TIME-WAIT, if the server closes first",
            f"{TIME_WAIT_SECONDS} s × {rate:,}/s",
            f"{TIME_WAIT_SECONDS * rate:,} (`net.ipv4.tcp_max_tw_buckets`)",
        ),
    ]


def part(demand: Demand, machines: int) -> Demand:
    """
    What is asked of each of several machines.
    """
    return replace(
        demand, rate=ceil(demand.rate / machines), alive=ceil(demand.alive / machines)
    )


def machinesFor(demand: Demand) -> int:
    """
    How many machines are needed, without one to spare.

    @raise ValueError: if such a machine has too little memory for its processes.
    """
    if not replace(demand, rate=0, alive=0).fits:
        raise ValueError("the machines have too little memory for their processes")
    machines = 1
    while not part(demand, machines).fits:
        machines += 1
    return machines


def many(demand: Demand) -> list[Line]:
    """
    Plan for many machines behind proxies or behind routers.
    """
    rate, alive, cores = demand.rate, demand.alive, demand.cores
    machines = machinesFor(demand)
    each = part(demand, machines)
    busy = rate * PROXY_US / 1e6
    proxied = PROXY_KIB + 2 * (SOCKET_KIB + BUFFERED_KIB)
    pairs = ceil(alive / PORTS)
    return [
        (
            "machines that serve",
            f"the fewest that are {SHARE:.0%} full at the most, and one to spare",
            f"{machines} + 1",
        ),
        (
            "each, one being out",
            f"{rate:,}/s / {machines}, {alive:,} / {machines}",
            f"{each.rate:,}/s, {each.alive:,} alive",
        ),
        (
            "each, processors",
            f"{each.listener:.2f} + {each.rate:,}/s × {demand.microseconds} µs",
            f"{each.listener + each.serving:.1f} of {cores}",
        ),
        (
            "each, memory",
            f"as for one machine, with {each.alive:,} alive",
            f"{each.mib / 1024:.1f} of {demand.memory} GiB",
        ),
        (
            "HAProxy, processors, bytes not counted",
            f"{rate:,}/s × {PROXY_US} µs / {SHARE}",
            f"{ceil(busy / SHARE)}",
        ),
        (
            "HAProxy, memory",
            f"{alive:,} × ({PROXY_KIB} + 2 × ({SOCKET_KIB} + {BUFFERED_KIB})) KiB",
            f"{alive * proxied / 2**20:.0f} GiB",
        ),
        (
            "HAProxy, descriptors",
            f"2 × {alive:,}; `fs.nr_open` is {NR_OPEN:,}",
            f"{2 * alive:,}, in {ceil(2 * alive / NR_OPEN)} processes or more",
        ),
        (
            "HAProxy, pairs of addresses",
            f"{alive:,} / {PORTS:,} ports",
            f"{pairs} or more; there are {machines} for each address of a balancer",
        ),
        (
            "addresses of balancers",
            f"{pairs} / {machines}",
            f"{ceil(pairs / machines)} or more",
        ),
        ("ECMP, memory and descriptors of the router", "none for a connection", "0"),
    ]


#: The examples, by the names that the page gives them.
EXAMPLES = {
    "small": one(Demand(200, 2_000, cores=2, memory=2, work=1000)),
    "large": one(Demand(10_000, 200_000)),
    "many": many(Demand(100_000, 2_000_000)),
}


def write(lines: list[Line]) -> str:
    """
    Write a plan, in Markdown.
    """
    return table(["what", "arithmetic", "computed"], lines)


def fill(page: str) -> str:
    """
    Put the examples into a page.  Each stands between two comments,
    C{<!-- example: NAME -->} and C{<!-- end of example -->}.
    """
    return re.sub(
        r"(<!-- example: (\w+) -->\n)[^<]*(?=<!-- end of example -->)",
        lambda found: f"{found[1]}\n{write(EXAMPLES[found[2]])}\n",
        page,
    )


def main() -> None:
    """
    Do what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning",
        description="Compute what so many connections need. Nothing is measured.",
    )
    parser.add_argument("--rate", type=int, help="connections that come in a second")
    parser.add_argument("--alive", type=int, help="connections that live at a time")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument(
        "--work",
        type=int,
        default=150,
        help="microseconds of the application for each connection [150]",
    )
    parser.add_argument("--cores", type=int, default=16, help="of a machine [16]")
    parser.add_argument("--memory", type=int, default=64, help="its GiB [64]")
    parser.add_argument(
        "--many", action="store_true", help="plan for several such machines"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the examples into docs/capacity.md"
    )
    arguments = parser.parse_args()
    if arguments.cores < 1 or arguments.memory < 1:
        parser.error("a machine has a core and a GiB at least")
    if arguments.write:
        PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
    elif arguments.rate is None or arguments.alive is None:
        for name, lines in EXAMPLES.items():
            print(f"{name}\n\n{write(lines)}")
    else:
        demand = Demand(
            arguments.rate,
            arguments.alive,
            not arguments.plain,
            arguments.work,
            arguments.cores,
            arguments.memory,
        )
        try:
            print(write((many if arguments.many else one)(demand)))
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
