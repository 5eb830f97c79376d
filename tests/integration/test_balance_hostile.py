"""
What a hostile worker gets of the memory that workers share.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from portlisten._model import Kind
from portlisten._wire.codec import encode
from portlisten._wire.frames import Drain, Loads, WorkerHello
from tests.support.processes import PATIENCE, Processes


def test_drainAtOnce(processes: Processes) -> None:
    """
    A worker says HELLO and DRAIN in one write, while clients of another port come.  It
    gets the memory and its socket, and never a client of a port that is not its own.
    """
    shared, listened = (
        f"{way}={name}=tcp:0:interface=127.0.0.1"
        for way, name in (("--share", "a"), ("--listen", "b"))
    )
    listener = processes.twistd("portlisten", shared, listened, "./socket")
    number = int(listener.says(r"b=tcp:127.0.0.1:(\d+)")[1])
    path = str(processes.folder / "socket")
    hello = WorkerHello(
        8,
        ("a",),
        frozenset([Kind.CONNECTIONS, Kind.LISTENER]),
        frames=frozenset([Loads.TYPE]),
    )
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE)
            channel.connect(path)
            time.sleep(0.1)
            # All that follows is in one turn of the listener's loop.
            listener.signal(signal.SIGSTOP)
            channel.sendall(encode(hello) + encode(Drain()))
            clients = [
                socket.create_connection(("127.0.0.1", number)) for _ in range(8)
            ]
            listener.signal(signal.SIGCONT)
            time.sleep(0.3)
            _, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
            try:
                for each in descriptors:
                    target = os.readlink(f"/proc/self/fd/{each}")
                    if not target.startswith("socket:"):
                        assert "memfd:portlisten-" in target
                        continue
                    with socket.socket(fileno=os.dup(each)) as sock:
                        assert sock.getsockopt(
                            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                        ), sock
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
                for client in clients:
                    client.close()
    assert "Bad file descriptor" not in listener.output
