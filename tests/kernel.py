"""
A kernel that fails: C{python -m tests.kernel --help}.

Runs real listeners and real workers under load.  While clients come, strace(1)
makes system calls of one process fail, one call or every few of them.  Each case
is one process, one system call, one error.

The promises for each case:

  - Each client gets its answer, exactly once.  Only the connections that a worker
    was serving when it died are lost.
  - Once the calls succeed again, each port serves again, and a new worker is let
    in.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.clients import Crowd, ask
from tests.support.processes import Process, Processes
from tests.support.tracing import failing

CALLS = (
    "epoll_ctl",
    "accept4",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "getsockopt",
    "fcntl",
    "dup",
    "openat",
    "poll",
)
ERRORS = ("ENOMEM", "ENOSPC", "EINTR", "EMFILE")

#: How long the calls of a process fail in each case, in seconds.
SECONDS = 1.0

#: How long a client may take once nothing fails any more, in seconds: a worker
#: that gave up on its listener comes back after five.
RECOVERY = 12.0

#: How many clients run at a time.
AT_ONCE = 8

#: How many clients come after each case.
LATE = 8

#: How many descriptors a process may have in use after a case beyond those before
#: it, for what is still under way.
MARGIN = 8

HELLO = b"hello"


class Pair:
    """
    A listener and its workers.

    @param options: the listener's, before the path.
    @param workers: how many there are.
    @param wire: the option of both that names the wire.

    @ivar processes: starts the others that a case needs.
    """

    def __init__(
        self, processes: Processes, options: Iterable[str], workers: int, *wire: str
    ) -> None:
        self.processes = processes
        self._wire = wire
        self.listener = processes.twistd("portlisten", *wire, *options, "./socket")
        self.port = self.listener.port()
        self.workers = [self.addWorker() for _ in range(workers)]

    def addWorker(self) -> Process:
        """
        Start a worker, and wait until it takes connections.
        """
        worker = self.processes.twistd("hellofdpass", *self._wire, "./socket", "hello")
        worker.says("joined the listener|receiving at")
        return worker


LISTEN = ("--queue=4", "--window=4", "tcp:0:interface=127.0.0.1")
SHARE = ("--share=tcp:0:interface=127.0.0.1",)

#: What there is to try: how to start the processes, and which of them fails.
ROLES: dict[str, tuple[Callable[[Processes], Pair], str]] = {
    "listener": (partial(Pair, options=LISTEN, workers=2), "listener"),
    "worker": (partial(Pair, options=LISTEN, workers=2), "worker"),
    "sharing listener": (partial(Pair, options=SHARE, workers=2), "listener"),
    "sharing worker": (partial(Pair, options=SHARE, workers=2), "worker"),
}


def datagram(processes: Processes) -> Pair:
    """
    Start a pair on the wire of 2002.
    """
    return Pair(processes, ("tcp:0:interface=127.0.0.1",), 1, "--wire=datagram")


ROLES["datagram listener"] = (datagram, "listener")
ROLES["datagram worker"] = (datagram, "worker")


@dataclass(frozen=True)
class Case:
    """
    One case.

    @ivar when: which calls fail, as strace counts them.
    """

    role: str
    call: str
    error: str
    when: str

    def __str__(self) -> str:
        return f"{self.role}: {self.call} {self.error} when={self.when}"


def cases(
    roles: Iterable[str], calls: Iterable[str], errors: Iterable[str], seed: int
) -> list[Case]:
    """
    List all cases: each with one failing call, and each with repeated failures.
    """
    chance = random.Random(seed)
    found = []
    for role, call, error in itertools.product(roles, calls, errors):
        found.append(Case(role, call, error, str(chance.randint(1, 40))))
        every = f"{chance.randint(1, 9)}+{chance.randint(3, 11)}"
        found.append(Case(role, call, error, every))
    return found


@dataclass
class Outcome:
    """
    The result of one case.

    @ivar seen: how many calls there were while some were to fail.
    @ivar injected: how many of them failed.
    @ivar answers: what clients heard.
    @ivar faults: which promises were broken; empty if it is good.
    """

    seen: int
    injected: int
    answers: Counter[bytes | None]
    faults: list[str]


#: What a call says, with ENOSYS, in the middle of which strace leaves: it makes a call
#: fail by giving it a number that there is not.
TORN = "Function not implemented"


def attempt(pair: Pair, target: Process, case: Case) -> Outcome:
    """
    Try one case on running processes, and check afterwards that they work.
    """
    before = target.descriptors()
    torn = target.output.count(TORN)
    dead = ended(pair)
    fault = f"error={case.error}"
    # The answers end when the calls succeed again, or a client would wait for ever.
    with Crowd(pair.port, AT_ONCE, RECOVERY, 0.005) as crowd:
        time.sleep(0.1)
        with failing(target, case.call, fault, case.when) as seen:
            time.sleep(SECONDS / 2)
            if case.role == "listener":
                # Let somebody in while calls fail.
                extra = pair.processes.twistd("hellofdpass", "./socket", "hello")
                time.sleep(SECONDS)
                extra.kill()
            else:
                time.sleep(SECONDS / 2)
    answers = crowd.answers
    faults = []
    lost = sum(answers.values()) - answers[HELLO]
    died = ended(pair) - dead
    # An extra worker was killed, and may have been serving some.
    allowed = AT_ONCE * (died + (case.role == "listener"))
    allowed += target.output.count(TORN) - torn
    strange = [answer for answer in answers if answer not in (HELLO, None, b"")]
    if strange:
        faults.append(f"answered with {strange}")
    if lost > allowed:
        faults.append(f"{lost} of {sum(answers.values())} clients lost")
    if died:
        faults.append(f"{died} processes died")
    with ThreadPoolExecutor(LATE) as pool:
        late = list(pool.map(ask, [pair.port] * LATE, [RECOVERY] * LATE))
    if late.count(HELLO) < LATE:
        faults.append(f"afterwards {late.count(HELLO)} of {LATE} answered")
    if "datagram" not in case.role:
        faults.extend(admission(pair))
    if target.running:
        leaked = settle(target, before + MARGIN) - before - MARGIN
        if leaked > 0:
            faults.append(f"{leaked + MARGIN} descriptors leaked")
    return Outcome(seen[case.call], seen["injected"], answers, faults)


def ended(pair: Pair) -> int:
    """
    How many of the processes have ended.
    """
    return sum(not each.running for each in (pair.listener, *pair.workers))


def admission(pair: Pair) -> list[str]:
    """
    Check that a new worker is let in.
    """
    try:
        pair.addWorker().stop()
    except AssertionError:
        return ["a new worker is not let in afterwards"]
    return []


def settle(process: Process, expected: int) -> int:
    """
    Return how many descriptors a process has, when that is the expected number, or
    after some time.
    """
    for _ in range(30):
        if process.descriptors() <= expected:
            break
        time.sleep(0.1)
    return process.descriptors()


class Runner:
    """
    Tries cases, and starts new processes for another role or after a fault.
    """

    def __init__(self) -> None:
        self._processes: Processes | None = None
        self._pair: Any = None
        self._role = ""

    def run(self, case: Case) -> Outcome:
        """
        Try one case.
        """
        start, target = ROLES[case.role]
        if self._processes is None or self._role != case.role:
            self.close()
            self._processes = Processes()
            self._role = case.role
            self._pair = start(self._processes)
        pair = self._pair
        process = pair.listener if target == "listener" else pair.workers[0]
        try:
            outcome = attempt(pair, process, case)
        except BaseException:
            self.close()
            raise
        if outcome.faults:
            self.close()
        return outcome

    def close(self) -> None:
        """
        End the processes, if any.
        """
        if self._processes is not None:
            self._processes.close()
            self._processes = None


def main() -> None:
    """
    Try all cases of the command line, and print their results.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernel",
        description="Make system calls fail under load, and count what clients lose.",
    )
    parser.add_argument("--role", action="append", choices=list(ROLES))
    parser.add_argument("--call", action="append", choices=CALLS)
    parser.add_argument("--error", action="append", choices=ERRORS)
    parser.add_argument("--seed", type=int, default=2002)
    arguments = parser.parse_args()
    wanted = cases(
        arguments.role or ROLES,
        arguments.call or CALLS,
        arguments.error or ERRORS,
        arguments.seed,
    )
    runner = Runner()
    broken = idle = 0
    never: set[tuple[str, str]] = set()
    try:
        for number, case in enumerate(wanted, 1):
            if (case.role, case.call) in never:
                idle += 1
                continue
            outcome = runner.run(case)
            good = outcome.answers[HELLO]
            idle += not outcome.injected
            if not outcome.seen:
                never.add((case.role, case.call))
            broken += bool(outcome.faults)
            print(
                f"{number}/{len(wanted)} {case}: {outcome.injected} calls failed,"
                f" {good} clients answered: {'; '.join(outcome.faults) or 'well'}",
                flush=True,
            )
    finally:
        runner.close()
    print(
        f"{len(wanted)} cases, {broken} broken, {idle} in which no call failed",
        flush=True,
    )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
