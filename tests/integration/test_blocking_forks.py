"""
Workers that block and fork, with a real listener.
"""

from __future__ import annotations

import time
from contextlib import closing

from tests.support.each import PORT, connect, readToEnd, script, until
from tests.support.processes import Processes

#: Forks for each connection.  The child answers after a second.
FORKING = """
import os, sys, time
from portlisten.blocking import ListeningSocket

sock = ListeningSocket("portlisten:./socket")
while True:
    client, _ = sock.accept()
    if not os.fork():
        with open("started", "a") as file:
            file.write(sys.argv[1])
        time.sleep(1)
        client.sendall(sys.argv[1].encode())
        os._exit(0)
    if sys.argv[2:]:
        time.sleep(100)
    client.close()
"""


def test_killedAfterFork() -> None:
    """
    If a worker is killed when it has forked for a client, its child serves the client,
    and no other worker does.
    """
    with Processes() as processes:
        server = str(script(processes, "server.py", FORKING))
        listener = processes.twistd("portlisten", PORT, "./socket")
        worker = processes.python(server, "a", "waits")
        listener.says("joined")
        with closing(connect(listener.port())) as client:
            started = processes.folder / "started"
            until(started.exists)
            worker.kill()
            processes.python(server, "b")
            listener.says("worker 2 .* joined")
            assert readToEnd(client) == b"a"
            time.sleep(0.1)
            assert started.read_text() == "a"
