"""
A hostile worker: it accepts nothing, and writes noise over what the others say of their
loads, all the time: C{python -m tests.support.noisy_worker PATH}.

Before that, it tries what it must not be able to do, and prints what comes of it.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import sys
from collections.abc import Callable
from functools import partial

from portlisten._model import Kind
from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Loads, WorkerHello


def attempt(name: str, step: Callable[[], object]) -> None:
    """
    Try to do harm.
    """
    try:
        step()
    except OSError as error:
        print(f"{name}: {error.strerror}", flush=True)
    else:
        print(f"{name}: done", flush=True)


def main(path: str) -> None:
    """
    Join, and write.
    """
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    hello = WorkerHello(
        8,
        takes=frozenset([Kind.CONNECTIONS, Kind.LISTENER]),
        frames=frozenset([Loads.TYPE]),
    )
    channel.sendall(encode(hello))
    decoder = Decoder(FROM_LISTENER)
    found: list[int] = []
    frame = None
    while frame is None:
        data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
        found += descriptors
        for each in decoder.feed(data):
            if isinstance(each, Loads):
                frame = each
    memories = {os.fstat(each).st_ino: each for each in found}
    loads, members = memories[frame.loads], memories[frame.members]
    size = os.fstat(loads).st_size
    for name, descriptor in (("loads", loads), ("members", members)):
        attempt(f"truncate {name}", partial(os.ftruncate, descriptor, 0))
        attempt(f"extend {name}", partial(os.ftruncate, descriptor, 1 << 20))
    attempt("map members", lambda: mmap.mmap(members, 0))
    attempt("write members", lambda: os.pwrite(members, b"noise", 0))
    attempt(
        "open members",
        lambda: os.pwrite(os.open(f"/proc/self/fd/{members}", os.O_RDWR), b"noise", 0),
    )
    memory = mmap.mmap(loads, size)
    print("writing noise", flush=True)
    while True:
        # Now all kinds of numbers, and now all too few to be true.
        memory[:] = random.randbytes(size) if random.random() < 0.5 else bytes(size)


if __name__ == "__main__":
    main(sys.argv[1])
