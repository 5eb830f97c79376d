"""
What the steps share: containers, a listener on the host, and clients.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.containers.podman import PATIENCE, Podman, until
from tests.support.load import Load, parse
from tests.support.processes import Process, Processes

#: linux/include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000

#: A container with no more than it needs.  Its user is none of the image.
LEAN = (
    *("--network=none", "--read-only", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", "--user=23456:1"),
)

#: How long wrk loads a server before and after the work, in seconds.
AROUND_SECONDS = 0.5


def enterOwnNetwork() -> None:
    """
    Move this process, which has one thread, into a network namespace of its own.  So no
    rule for a container's network is left behind, and no traffic leaves.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Container:
    """
    A container that runs.

    @ivar name: its name.
    """

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self.name = name

    @property
    def output(self) -> str:
        """
        Its output so far.
        """
        done = self._podman.run("logs", self.name)
        return done.stdout + done.stderr

    @property
    def pid(self) -> int:
        """
        Its first process, as the host sees it.
        """
        return int(self._podman.inspect(self.name)["State"]["Pid"])

    def says(self, pattern: str, times: int = 1) -> None:
        """
        Wait until its output has lines that match a pattern.
        """
        until(
            lambda: len(re.findall(pattern, self.output)) >= times,
            f"{pattern!r} in the log of {self.name}",
        )

    def run(self, *words: str, check: bool = True) -> str:
        """
        Run a command in it to its end.

        @return: its output.
        """
        done = self._podman.run("exec", self.name, *words, check=check)
        return done.stdout + done.stderr

    def stop(self) -> None:
        """
        Stop it, as its image says, and remove it.
        """
        self._podman("stop", "--time=20", self.name)
        code = self._podman.inspect(self.name)["State"]["ExitCode"]
        assert code == 0, f"{self.name} ended with {code}: {self.output}"
        self._podman("rm", self.name)

    def kill(self, name: str = "KILL") -> None:
        """
        Send its first process a signal.
        """
        self._podman("kill", f"--signal={name}", self.name)


class Trial:
    """
    Runs containers, and ends them.

    @ivar podman: runs podman.
    @ivar folder: a folder for the files of a step, which every user may enter.
    """

    def __init__(self, podman: Podman) -> None:
        self.podman = podman
        self._stack = ExitStack()
        self._processes = self._stack.enter_context(Processes())
        self._names = itertools.count()
        self.folder: Path = self._processes.folder

    def end(self) -> None:
        """
        End everything that the step has started.
        """
        self.podman.removeAll()
        self._stack.close()

    def container(
        self, image: str, *command: str, options: Sequence[str] = ()
    ) -> Container:
        """
        Start a container.
        """
        name = f"trial-{next(self._names)}"
        self.podman("run", "--detach", f"--name={name}", *options, image, *command)
        return Container(self.podman, name)

    def listener(self, *options: str, user: str = "nobody") -> tuple[Process, int]:
        """
        Start a listener on the host, for one port of the loopback address.

        @return: the listener, and its port.
        """
        listener = self._processes.twistd(
            "portlisten", *options, "http=tcp:0", f"{self.folder}/web.sock", uid=user
        )
        return listener, listener.port()

    def control(self, *words: str) -> str:
        """
        Run a command of portlisten on the host.
        """
        done = self.podman.other(sys.executable, "-m", "portlisten", *words)
        return done.stdout

    def load(
        self, url: str, work: Callable[[], object], prefix: Sequence[str] = ()
    ) -> Loads:
        """
        Have wrk load a server while some work is done: over connections that are kept,
        and over one for each request.

        @param prefix: the words that run a program where the server is.
        """
        common = ("nice", "-n19", "wrk", "-t1", "-c16", "-d90s", "--timeout=20s")
        commands = [
            [*prefix, *common, url],
            [*prefix, *common, "-H", "Connection: close", url],
        ]
        clients = [
            subprocess.Popen(each, stdout=subprocess.PIPE, text=True)
            for each in commands
        ]
        try:
            time.sleep(AROUND_SECONDS)
            work()
            time.sleep(AROUND_SECONDS)
            for each in clients:
                each.send_signal(signal.SIGINT)
            found = [parse(each.communicate(timeout=PATIENCE)[0]) for each in clients]
        finally:
            for each in clients:
                each.kill()
                each.wait()
        return Loads(*found)


class Loads:
    """
    What clients saw that kept their connections, and those that did not.
    """

    def __init__(self, kept: Load, closed: Load) -> None:
        self.kept = kept
        self.closed = closed

    @property
    def requests(self) -> int:
        """
        How many requests were answered.
        """
        return self.kept.requests + self.closed.requests

    @property
    def errors(self) -> int:
        """
        How many of anything went wrong.
        """
        return self.kept.errors + self.closed.errors

    def __str__(self) -> str:
        return f"{self.requests:,} requests, {self.errors} errors"

    def check(self, least: int = 200) -> str:
        """
        Check that many were answered, and that nothing went wrong.

        @return: what was seen.
        """
        assert self.requests >= least, f"too few: {self}"
        assert self.errors == 0, f"{self}: {self.kept}, {self.closed}"
        return str(self)


def ask(port: int, source: str = "127.0.0.1", host: str = "127.0.0.1") -> str:
    """
    Ask a web server for its page.

    @param source: the client's address.
    @return: the body.
    @raise AssertionError: if there is no answer, or not 200.
    """
    with socket.create_connection((host, port), PATIENCE, (source, 0)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: trial\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200"), answer
    return body


def inNetworkOf(container: Container) -> list[str]:
    """
    The words that run a program in the network of a container.
    """
    return ["nsenter", f"--target={container.pid}", "--net"]
