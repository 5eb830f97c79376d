"""
gunicorn as a worker, with a listener, and on a port of its own.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.certificates import Certificates
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import sleep, until

#: A WSGI application: it says hello, and C{/sleep/SECONDS/...} takes so long.
APPLICATION = """
import os
import time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    parts = path.split("/")
    if parts[1] == "sleep":
        time.sleep(float(parts[2]))
    text = "hello\\n"
    if parts[1] == "pid":
        text = f"{os.getpid()}\\n"
    elif parts[1] == "server":
        names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "wsgi.url_scheme")
        text = " ".join(environ[each] for each in names)
    elif path != "/":
        text = f"hello {path}\\n"
    length = ("Content-Length", str(len(text)))
    start_response("200 OK", [("Content-Type", "text/plain"), length])
    return [text.encode()]
"""

#: A configuration in Python.  Versions from 25 on have a control socket in the home of
#: the user.
CONFIGURATION = """
import portlisten.gunicorn

control_socket_disable = True
"""

#: The options of the kinds of processes that can be workers.
KINDS = {"sync": ["--worker-class=sync"], "gthread": ["--threads=4"]}


def write(folder: Path, more: str = "") -> None:
    """
    Write the application and the configuration into a folder.

    @param more: what is added to the configuration.
    """
    (folder / "app.py").write_text(APPLICATION)
    (folder / "conf.py").write_text(CONFIGURATION + more)


def arguments(bind: str, *options: str) -> list[str]:
    """
    Make the command.
    """
    return [command("gunicorn"), "-c", "conf.py", f"--bind={bind}", *options, "app:app"]


def processesOf(pid: int) -> list[int]:
    """
    Find the processes that a process has started and that run.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in children]


@dataclass
class Own:
    """
    gunicorn on a port of its own.

    @ivar tls: its certificate, if any.
    @ivar process: gunicorn's first process.
    @ivar gone: those that were replaced.
    """

    start: Start
    twistd: Start
    folder: Path
    tls: Certificates | None = None
    gone: list[Process] = field(default_factory=list)

    async def open(self, *options: str, workers: int = 2) -> str:
        """
        Start gunicorn, and what it needs.

        @return: the URL.
        """
        write(self.folder)
        await self.listen()
        self.process = await self.serve(*options, workers=workers)
        return self.url

    async def listen(self) -> None:
        """
        Choose a port.
        """
        self.port = freePort(10000, 11000)

    @property
    def bind(self) -> str:
        """
        What gunicorn binds.
        """
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """
        Where clients find the server.
        """
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/"

    async def serve(self, *options: str, workers: int = 2) -> Process:
        """
        Start gunicorn, and wait until its processes serve.
        """
        files: list[str] = []
        if self.tls is not None:
            files = [f"--certfile={self.tls.certificate}", f"--keyfile={self.tls.key}"]
        own = [f"--workers={workers}", *files, *options]
        process = self.start(*arguments(self.bind, *own))
        await until(lambda: process.output.count("Booting") == workers, "serves", 20)
        return process

    async def reload(self) -> None:
        """
        Send SIGHUP, and wait until only other processes serve.
        """
        before = {*processesOf(self.process.pid)}

        def changed() -> bool:
            now = {*processesOf(self.process.pid)}
            return len(now) == len(before) and not now & before

        self.process.signal(signal.SIGHUP)
        await until(changed, "reloaded", 30)
        await sleep(0.5)

    async def replace(self, *options: str) -> None:
        """
        Stop gunicorn, and start it again.
        """
        await self.process.stop()
        self.gone.append(self.process)
        self.process = await self.serve(*options)
        await sleep(0.5)


class Gunicorn(Own):
    """
    A listener, and gunicorn as its worker.
    """

    async def listen(self, *options: str) -> None:
        """
        Start the listener.
        """
        port = "http=tcp:0:interface=127.0.0.1"
        self.listener = self.twistd("portlisten", *options, port, "./socket")
        self.port = await listening(self.listener)

    @property
    def bind(self) -> str:
        """
        What gunicorn binds.
        """
        return "portlisten:./socket:name=http"

    async def serve(self, *options: str, workers: int = 2) -> Process:
        """
        Start gunicorn, and wait until its processes have joined the listener.
        """
        before = self.joined
        process = await super().serve(*options, workers=workers)
        await until(lambda: self.joined == before + workers, "joined")
        return process

    @property
    def joined(self) -> int:
        """
        How many workers have joined.
        """
        return self.listener.output.count(" joined")

    @property
    def left(self) -> int:
        """
        How many workers have left.
        """
        return self.listener.output.count(" left, ")

    async def reload(self) -> None:
        """
        Send SIGHUP, and wait until other processes serve.
        """
        joined, left = self.joined, self.left
        count = len(processesOf(self.process.pid))
        await super().reload()
        await until(lambda: self.joined == joined + count, "joined", 20)
        await until(lambda: self.left == left + count, "left", 20)

    async def replace(self, *options: str) -> None:
        """
        Start another gunicorn, and stop this one.
        """
        old, self.process = self.process, await self.serve(*options)
        await old.stop()
        self.gone.append(old)

    async def counters(self) -> dict[str, int]:
        """
        Return the listener's counters.
        """
        before = self.listener.output.count("since the start: ")
        self.listener.signal(signal.SIGUSR1)
        pattern = "since the start: "
        await until(lambda: self.listener.output.count(pattern) > before, "a report")
        last = self.listener.output.rpartition(pattern)[2].splitlines()[0]
        return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", last)}

    async def check(self) -> None:
        """
        Stop gunicorn, and check that no process had a fault.
        """
        assert await self.process.stop() == 0
        for process in [self.listener, self.process, *self.gone]:
            for word in ("Traceback", "Unhandled", "CRITICAL", "WORKER TIMEOUT"):
                assert word not in process.output, process.output
        assert "revoked" not in self.listener.output.partition("since the start")[0]


def ask(port: int, path: str = "/", timeout: float = 30, tls: bool = False) -> str:
    """
    Send one request on a connection of its own.

    @return: the body of the answer.
    """
    connection = connect(port, timeout, tls)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        return answer.read().decode()
    finally:
        connection.close()


def asking(port: int, path: str = "/", tls: bool = False) -> Deferred[str]:
    """
    Do what L{ask} does, in a thread.
    """
    return deferToThread(ask, port, path, 30, tls)


def connect(port: int, timeout: float, tls: bool) -> http.client.HTTPConnection:
    """
    Make a connection that is not open yet.
    """
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    # The server's certificate is of no interest here.
    context = ssl._create_unverified_context()
    return http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=timeout, context=context
    )


def askAll(port: int, count: int, kept: bool, tls: bool) -> list[str]:
    """
    Send so many requests, by eight clients.  Each asks for another path.

    @param kept: whether a client uses its connection again, as long as the server lets
        it.
    @return: what was wrong.
    """
    numbers = iter(range(count))
    wrong: list[str] = []

    def client() -> None:
        connection = connect(port, 30, tls)
        for number in numbers:
            try:
                connection.request("GET", f"/{number}")
                answer = connection.getresponse()
                body = answer.read().decode()
                if (answer.status, body) != (200, f"hello /{number}\n"):
                    wrong.append(f"{number}: {answer.status} {body}")
            except (OSError, http.client.HTTPException) as error:
                wrong.append(f"{number}: {error!r}")
                connection.close()
            if not kept:
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return wrong


def elapsed(port: int, path: str = "/") -> float:
    """
    How long an answer takes, in seconds.
    """
    start = time.monotonic()
    ask(port, path)
    return time.monotonic() - start


def running(pid: int) -> bool:
    """
    Whether a process has not ended.
    """
    return os.path.exists(f"/proc/{pid}")
