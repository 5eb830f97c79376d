"""
Workers that attack, and the cost for others: C{python -m tests.hostile --help}.

A listener that has dropped its privileges serves two ports: one belongs to honest
workers, one to the attacker.  Clients of the honest worker are timed, first alone,
then during the attack.

The attack is on descriptors in flight.  The attacker never reads its channel.  It
counts the offers there by their bytes, answers each with CLAIM and CLOSED, and
connects to its own port, so that more offers come.  Each descriptor stays in
the kernel, charged to the listener's user, for as long as the attacker keeps its
end of the channel open.  So it keeps all ends open, and connects again as soon as
the listener has cut it off.
"""

from __future__ import annotations

import argparse
import array
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from portlisten._model import Kind
from portlisten._wire.codec import (
    FROM_LISTENER,
    Decoder,
    encode,
    encodeOffer,
)
from portlisten._wire.frames import (
    DRAINING,
    Bye,
    Claim,
    Closed,
    Offer,
    Refuse,
    WorkerHello,
)
from tests.support.clients import Crowd
from tests.support.processes import Process, Processes

#: The users that processes run as where that is possible.
LISTENER, HONEST, STRANGER = "games", "daemon", "nobody"

#: How many clients the honest worker has at a time, and how long each waits for its
#: answer, in seconds.
AT_ONCE = 8
PATIENCE = 10.0

#: How many clients of its own the attacker has at a time.
OWN_CLIENTS = 4

OFFER_SIZE = len(encodeOffer(1, 0, 0))

#: A channel that brings nothing new for so long is left for another, in seconds.
DULL = 0.3

HELLO = b"hello"


def waiting(channel: socket.socket) -> int:
    """
    Return how many bytes wait in a channel.
    """
    size = array.array("i", [0])
    fcntl.ioctl(channel.fileno(), termios.FIONREAD, size)
    return size[0]


def join(path: str, *names: str, window: int = 128) -> socket.socket:
    """
    Open a channel, and say HELLO.
    """
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    channel.sendall(encode(WorkerHello(window, names)))
    return channel


def isCutOff(channel: socket.socket) -> bool:
    """
    Whether the other end is closed or shut down.
    """
    poll = select.poll()
    poll.register(channel, select.POLLRDHUP)
    return bool(poll.poll(0))


class Unread:
    """
    A channel whose offers are answered and never read.

    @param greeting: how long the listener's HELLO is, in bytes.
    @ivar answered: how many offers were answered.
    """

    def __init__(self, path: str, name: str, greeting: int, guess: bool) -> None:
        self._greeting = greeting
        self._guess = guess
        self._socket = join(path, name)
        self._socket.setblocking(False)
        self.answered = 0
        self.since = time.monotonic()

    def answer(self) -> bool:
        """
        Answer the offers that have come, or with C{guess} an offer that may have come.

        @return: whether the channel may bring more.
        """
        if isCutOff(self._socket):
            return False
        came = max(0, waiting(self._socket) - self._greeting) // OFFER_SIZE
        if self._guess and came:
            came = max(came, self.answered + 1)
        if came > self.answered:
            ids = tuple(range(self.answered + 1, came + 1))
            try:
                self._socket.send(encode(Claim(ids)) + encode(Closed(ids)))
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.answered = came
            self.since = time.monotonic()
        return not self.answered or time.monotonic() < self.since + DULL


def feed(port: int) -> None:
    """
    Connect for ever, and leave at once.
    """
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                pass
        except OSError:
            time.sleep(0.01)


def inFlight(path: str, port: int, channels: int, guess: bool = False) -> None:
    """
    Keep as many descriptors in flight as the listener sends.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
        select.select([probe], [], [], 5)
        greeting = waiting(probe)
    for _ in range(OWN_CLIENTS):
        threading.Thread(target=feed, args=(port,), daemon=True).start()
    kept: list[Unread] = []
    active: list[Unread] = []
    told = time.monotonic()
    while True:
        for each in list(active):
            if not each.answer():
                active.remove(each)
        while len(active) < channels:
            try:
                each = Unread(path, "evil", greeting, guess)
            except OSError:
                break
            active.append(each)
            kept.append(each)
        if time.monotonic() > told + 1:
            told = time.monotonic()
            total = sum(each.answered for each in kept)
            print(f"{len(kept)} channels, {total} offers answered", flush=True)
        time.sleep(0.0005)


def crowd(path: str, count: int) -> None:
    """
    Open many channels, read none, and keep them.
    """
    channels = []
    for _ in range(count):
        with suppress(OSError):
            channels.append(join(path))
    print(f"opened {len(channels)} channels", flush=True)
    time.sleep(600)


def refuse(path: str, channels: int) -> None:
    """
    Refuse each offer in a frame of its own, leave in good order, and come again.
    """

    def loop() -> None:
        while True:
            with suppress(OSError), join(path) as channel:
                decoder = Decoder(FROM_LISTENER)
                refused = False
                while not refused:
                    data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    frames: list[Any] = list(decoder.feed(data))
                    ids = [each.id for each in frames if isinstance(each, Offer)]
                    for id in ids:
                        channel.sendall(encode(Refuse(DRAINING, (id,))))
                    refused = bool(ids) or not data
                channel.sendall(encode(Bye("again")))

    for _ in range(channels):
        threading.Thread(target=loop, daemon=True).start()
    time.sleep(600)


def pour(channel: socket.socket, noise: bytes) -> None:
    """
    Write as fast as the kernel takes it, without waiting to be woken.
    """
    while True:
        try:
            channel.send(noise)
        except BlockingIOError:
            pass
        except OSError:
            return


def deaf(path: str, writers: int) -> None:
    """
    Shut down the reading side before the listener says HELLO, and write claims without
    end, in several processes.
    """
    # Frames that are in order, of what nobody offered.
    noise = encode(Claim(tuple(range(100_000, 104_000)))) * 16
    while True:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as channel:
            channel.connect(path)
            channel.shutdown(socket.SHUT_RD)
            channel.send(encode(WorkerHello(128)))
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            channel.setblocking(False)
            for _ in range(writers):
                if os.fork() == 0:
                    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                    pour(channel, noise)
                    os._exit(0)
            for _ in range(writers):
                os.wait()


def stuck(path: str, members: int) -> None:
    """
    Join a shared port, read the sockets, and then read no more.  Other workers come and
    go, so the listener always has something to send.  Says when the listener cuts it
    off.
    """
    kinds = frozenset([Kind.LISTENER, Kind.GROUP])
    hello = encode(WorkerHello(1, (), kinds))
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    channel.sendall(hello)
    channel.settimeout(1)
    with suppress(TimeoutError):
        while True:
            _, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
            for descriptor in descriptors:
                os.close(descriptor)
    print("reads no more", flush=True)
    began = time.monotonic()
    while not isCutOff(channel):
        others = []
        for _ in range(members):
            with suppress(OSError):
                other = socket.socket(socket.AF_UNIX)
                other.settimeout(1)
                other.connect(path)
                other.sendall(hello)
                others.append(other)
        for other in others:
            with suppress(OSError):
                _, descriptors, _, _ = socket.recv_fds(other, 65536, 253)
                for descriptor in descriptors:
                    os.close(descriptor)
            other.close()
    print(f"cut off after {time.monotonic() - began:.1f} s", flush=True)
    time.sleep(600)


# linux/include/uapi/linux/fuse.h
_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_LOOKUP, _GETATTR, _OPEN, _FLUSH, _INIT = 1, 3, 14, 25, 26
_FILE = 2

# linux/include/uapi/linux/prctl.h and mount.h
_PR_SET_PDEATHSIG = 1
_MNT_DETACH = 2


def fuse(device: int) -> None:
    """
    Serve a file system that has one file, whose FLUSH is never answered.
    """
    while True:
        request = os.read(device, 1 << 17)
        _, code, unique, node, *_ = _IN.unpack_from(request)
        kind = 0o100666 if node == _FILE or code == _LOOKUP else 0o040777
        number = _FILE if code == _LOOKUP else node
        attributes = _ATTRIBUTES.pack(number, *(0,) * 8, kind, 1, 0, 0, 0, 4096, 0)
        if code == _FLUSH:
            print("its close was asked for", flush=True)
            continue
        if code == _INIT:
            answer = struct.pack("=IIII", 7, 12, 65536, 0) + bytes(8)
        elif code == _LOOKUP:
            answer = struct.pack("=QQQQII", _FILE, 1, 60, 60, 0, 0) + attributes
        elif code == _GETATTR:
            answer = struct.pack("=QII", 60, 0, 0) + attributes
        elif code == _OPEN:
            answer = struct.pack("=QII", 1, 0, 0)
        else:
            os.write(device, _OUT.pack(_OUT.size, -errno.ENOSYS, unique))
            continue
        os.write(device, _OUT.pack(_OUT.size + len(answer), 0, unique) + answer)


def neverCloses(path: str) -> None:
    """
    Send the descriptor of a file whose close(2) never returns.  Needs root, to mount.
    The kernel wakes a blocked process when this process ends: only this process has the
    file system's device, and a child sends the file.
    """
    folder = tempfile.mkdtemp(prefix="fuse.")
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"x", folder.encode(), b"fuse", 0, options.encode()) != 0:
        print(f"cannot mount: {os.strerror(ctypes.get_errno())}", flush=True)
        return
    if os.fork() != 0:
        # Whatever becomes of who started it, nobody waits for longer.
        signal.alarm(60)
        fuse(device)
    os.close(device)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    file = os.open(f"{folder}/file", os.O_RDWR)
    libc.umount2(folder.encode(), _MNT_DETACH)
    os.rmdir(folder)
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    try:
        socket.send_fds(channel, [encode(WorkerHello(4))], [file])
        print("sent", flush=True)
    except OSError as error:
        print(f"refused: {error.strerror}", flush=True)
    time.sleep(600)


#: What there is, and what its arguments are.
WAYS: dict[str, Any] = {
    "inFlight": inFlight,
    "crowd": crowd,
    "refuse": refuse,
    "deaf": deaf,
    "stuck": stuck,
    "neverCloses": neverCloses,
}


def attacker(
    processes: Processes, way: str, *arguments: object, user: str = "", limit: int = 0
) -> Process:
    """
    Start an attacker on C{./socket}.

    @param user: who it is, where this process may choose.
    @param limit: of its own descriptors; with 0, the usual one.
    """
    return processes.python(
        *("-m", "tests.hostile", "--be", way, "./socket"),
        *map(str, arguments),
        user=user if os.geteuid() == 0 else "",
        limit=limit,
    )


def listener(processes: Processes, *options: str, limit: int = 0) -> Process:
    """
    Start a listener that has dropped its privileges, where it has any.
    """
    uid = LISTENER if os.geteuid() == 0 else ""
    return processes.twistd(
        "portlisten", "--mode=0666", *options, "./socket", uid=uid, limit=limit
    )


def honest(processes: Processes, *options: str, user: str = HONEST) -> Process:
    """
    Start an honest worker.
    """
    uid = user if os.geteuid() == 0 else ""
    return processes.twistd("hellofdpass", *options, "./socket", "hello", uid=uid)


@dataclass
class Attack:
    """
    The figures of an attack.

    @ivar alone: what clients saw before it.
    @ivar attacked: what they saw during it.
    @ivar offers: how many offers the attacker answered, and by how many channels.
    @ivar log: how many bytes the listener logged.
    """

    alone: Figures
    attacked: Figures
    channels: int
    offers: int
    log: int


@dataclass
class Figures:
    """
    The times of the honest worker's clients.

    @ivar median: how long half of them waited at the most, in seconds; C{late},
        how long 99 in a hundred did.
    """

    answers: Counter[bytes | None]
    median: float
    late: float
    longest: float

    @property
    def lost(self) -> int:
        """
        Return how many clients got no answer, or a wrong one.
        """
        return self.answers.total() - self.answers[HELLO]

    def __str__(self) -> str:
        return (
            f"{self.answers[HELLO]} of {self.answers.total()} answered, half within"
            f" {self.median * 1e3:.1f} ms, 99 in 100 within {self.late * 1e3:.1f} ms,"
            f" all within {self.longest * 1e3:.0f} ms"
        )


def measure(port: int, seconds: float) -> Figures:
    """
    Run clients for a while.
    """
    with Crowd(port, AT_ONCE, PATIENCE, 0.01) as clients:
        time.sleep(seconds)
    times = clients.quantile
    return Figures(clients.answers, times(0.5), times(0.99), times(1))


def underAttack(
    seconds: float, limit: int, channels: int, sameUser: bool, guess: bool = False
) -> Attack:
    """
    Measure without the attack and with it.

    @param limit: the listener's C{RLIMIT_NOFILE}.
    @param channels: how many the attacker has at a time.
    @param sameUser: whether it runs as the honest worker's user.
    @param guess: whether it also answers one offer that it has not counted.
    @raise AssertionError: if the attacker could not begin.
    """
    with Processes() as processes:
        ports = [
            f"--listen={name}=tcp:0:interface=127.0.0.1" for name in ("good", "evil")
        ]
        process = listener(processes, *ports, limit=limit)
        pattern = r"listening on good=\S+?:(\d+), evil=\S+?:(\d+),.*workers connect"
        good, evil = map(int, process.says(pattern).groups())
        honest(processes, "--name=good").says("joined the listener")
        alone = measure(good, min(seconds, 5.0))
        user = HONEST if sameUser else STRANGER
        enemy = attacker(
            processes,
            "inFlight",
            *(evil, channels, int(guess)),
            user=user,
            limit=20000,
        )
        enemy.says("channels")
        attacked = measure(good, seconds)
        reached = re.findall(r"(\d+) channels, (\d+) offers", enemy.output)
        channels, offers = map(int, reached[-1])
        size = process.log.stat().st_size
        return Attack(alone, attacked, channels, offers, size)


def main() -> None:
    """
    Attack in all ways that the command line asks for, and print the figures.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile",
        description="Attack what is in flight, and time an honest worker's clients.",
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="how long each attack lasts"
    )
    parser.add_argument("--limit", type=int, action="append", help="ulimit -n")
    parser.add_argument("--channels", type=int, action="append", help="at a time")
    parser.add_argument("--guess", action="store_true", help="guess ids, too")
    parser.add_argument("--be", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        way, path, *rest = arguments.be
        WAYS[way](path, *map(int, rest))
        return
    users = (False, True) if os.geteuid() == 0 else (True,)
    lost = 0
    for limit in arguments.limit or (4096, 20000):
        for channels in arguments.channels or (1, 5):
            for same in users:
                attack = underAttack(
                    arguments.seconds, limit, channels, same, arguments.guess
                )
                who = "the honest worker's user" if same else "another user"
                print(f"ulimit -n {limit}, {channels} channels at a time, as {who}")
                print(f"  without: {attack.alone}")
                print(f"  with:    {attack.attacked}")
                print(
                    f"  the attacker answered {attack.offers} offers on"
                    f" {attack.channels} channels; the listener logged"
                    f" {attack.log} bytes",
                    flush=True,
                )
                lost += attack.attacked.lost
    print(f"{lost} clients lost")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
