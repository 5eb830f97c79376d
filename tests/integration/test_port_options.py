"""
The options of ports, with real processes: each shows on a connection that a worker has.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portlisten._kernel import IPPROTO_MPTCP
from tests.support.clients import ask
from tests.support.networks import connect, inside, network
from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command, needs
from tests.support.sockets import speaksMultipath

LOCAL = "tcp:0:interface=127.0.0.1"
OPTIONS = ":nodelay=yes:keepalive=30:device=lo"

multipath = pytest.mark.skipif(
    not speaksMultipath(), reason="this host has no Multipath TCP"
)
bothWays = pytest.mark.parametrize("way", ["--listen", "--share"])


@pytest.fixture
def namespace() -> Iterator[str]:
    """
    A network of its own, which has only C{lo}.
    """
    with network() as name:
        yield name


def listenerIn(processes: Processes, namespace: str, *arguments: str) -> Process:
    """
    Start a listener in a network namespace.
    """
    own = [command("twistd"), "-n", "--pidfile=", "portlisten"]
    return processes.start("ip", "netns", "exec", namespace, *own, *arguments)


# A client, in a network namespace.
CLIENT = """
import socket, sys
host, port, send = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
try:
    with socket.create_connection((host, port), 10) as client:
        client.sendall(send)
        print(client.makefile().read())
except OSError as error:
    print(error.strerror)
"""


def askIn(namespace: str, host: str, port: int, send: str = "x") -> str:
    """
    Run a client in a network namespace.

    @return: the answer, or what went wrong.
    """
    arguments = ["-c", CLIENT, host, str(port), send]
    return inside(namespace, sys.executable, *arguments).strip()


def worker(processes: Processes, loop: str, path: str = "./socket") -> Process:
    """
    Start a worker that tells, and wait until it has joined.
    """
    arguments = [loop, f"portlisten:{path}"]
    started = processes.python("-m", "tests.support.telling_worker", *arguments)
    started.says("joined the listener")
    return started


def told(port: int, protocol: int = 0) -> dict[str, Any]:
    """
    Ask such a worker.
    """
    answer = ask(port, send=b"x", protocol=protocol)
    assert answer, answer
    return dict(json.loads(answer))


@bothWays
@pytest.mark.parametrize("loop", ["twisted", "asyncio", "uvloop"])
def test_inherited(processes: Processes, way: str, loop: str) -> None:
    """
    The connections that a worker gets have the options of the port, with each protocol
    that clients may speak.
    """
    if loop == "uvloop":
        needs("uvloop", "uvloop")
    both = speaksMultipath()
    mptcp = ":mptcp=yes" if both else ""
    listener = processes.twistd(
        "portlisten", f"{way}={LOCAL}{OPTIONS}{mptcp}", "./socket"
    )
    started = worker(processes, loop)
    for protocol in (socket.IPPROTO_TCP, IPPROTO_MPTCP)[: both + 1]:
        assert told(listener.port(), protocol) == {
            "pid": started.pid,
            "protocol": protocol,
            "nodelay": 1,
            "keepalive": 1,
            "idle": 30,
            "interval": 30,
            "device": "lo",
        }


@bothWays
def test_control(processes: Processes, way: str) -> None:
    """
    Without the options, connections are as the host has them.
    """
    listener = processes.twistd("portlisten", f"{way}={LOCAL}", "./socket")
    worker(processes, "twisted")
    seconds = int(Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text())
    # A port without Multipath TCP gives its clients TCP.
    for protocol in (0, IPPROTO_MPTCP)[: speaksMultipath() + 1]:
        found = told(listener.port(), protocol)
        names = ("protocol", "nodelay", "keepalive", "idle", "device")
        expected = [socket.IPPROTO_TCP, 0, 0, seconds, ""]
        assert [found[name] for name in names] == expected


def test_reuseport(processes: Processes) -> None:
    """
    Each socket of a port has the options.
    """
    mptcp = ":mptcp=yes" if speaksMultipath() else ""
    share = (
        f"--share=tcp:0:nodelay=yes:interface=127.0.0.1:reuseport=3:keepalive=9{mptcp}"
    )
    listener = processes.twistd("portlisten", share, "./socket")
    workers = [worker(processes, "twisted") for _ in range(3)]
    for protocol in (0, IPPROTO_MPTCP)[: speaksMultipath() + 1]:
        found = [told(listener.port(), protocol) for _ in range(40)]
        assert {each["pid"] for each in found} == {each.pid for each in workers}
        options = {(each["nodelay"], each["keepalive"], each["idle"]) for each in found}
        assert options == {(1, 1, 9)}


def waits(port: int, send: bytes) -> float:
    """
    Measure how long a client waits for C{hello}, in seconds.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        began = time.monotonic()
        client.sendall(send)
        assert client.recv(99) == b"hello"
        return time.monotonic() - began


def waitsFor(port: int, send: bytes, most: float) -> int:
    """
    Check that a client need not wait longer than so many seconds.  On a busy machine,
    some do.

    @return: how many clients there were.
    """
    for count in range(1, 11):
        if waits(port, send) < most:
            return count
    raise AssertionError(f"{count} clients waited for {most} s or longer")


@bothWays
def test_defer(processes: Processes, way: str) -> None:
    """
    The kernel keeps the connection of a silent client for a second, and of a client
    that speaks for no time, although the server would speak first.
    """
    ports = {"a": ":defer=1", "b": ":defer=7", "c": ""}
    options = [f"{way}={name}={LOCAL}{option}" for name, option in ports.items()]
    listener = processes.twistd("portlisten", *options, "./socket")
    processes.twistd("hellofdpass", "./socket", "hello").says("joined the listener")
    second, long, other = (
        int(listener.says(rf"\b{name}=tcp:\S+?:(\d+)\b")[1]) for name in ports
    )
    count = waitsFor(other, b"", 0.9) + waitsFor(second, b"x", 0.9)
    assert 0.9 < waits(second, b"") < 5
    if way == "--listen":
        with socket.create_connection(("127.0.0.1", long), PATIENCE) as client:
            time.sleep(0.2)
            listener.signal(signal.SIGUSR1)
            # The silent client has not been accepted yet.
            listener.says(f"since the start: accepted {count + 1},")
            client.sendall(b"x")
            assert client.recv(99) == b"hello"


@bothWays
@pytest.mark.parametrize("family", ["", "6"])
def test_freebind(processes: Processes, namespace: str, way: str, family: str) -> None:
    """
    An address is bound that the host does not have yet.  When the host has it, clients
    are served.
    """
    host = "2001:db8::7" if family else "192.0.2.7"
    written = host.replace(":", "\\:")
    port = f"tcp{family}:8080:interface={written}"
    refused = listenerIn(processes, namespace, f"{way}={port}", "./socket")
    refused.says("Cannot assign requested address; .*freebind=yes")
    listener = listenerIn(
        processes, namespace, f"{way}={port}:freebind=yes", "./socket"
    )
    listener.says("listening on")
    worker(processes, "twisted")
    assert "{" not in askIn(namespace, host, 8080)
    nodad = ["nodad"] if family else []
    inside(namespace, "ip", "address", "add", host, "dev", "lo", *nodad)
    assert json.loads(askIn(namespace, host, 8080))["device"] == ""


@pytest.fixture
def neighbour(namespace: str) -> Iterator[str]:
    """
    Another network namespace, connected with C{namespace} by the device C{wire}.  The
    addresses are 192.0.2.2 and 192.0.2.1.
    """
    with network() as name:
        connect(namespace, name, "wire", "192.0.2")
        yield name


@bothWays
def test_device(processes: Processes, namespace: str, neighbour: str, way: str) -> None:
    """
    Only clients that come through the network device are served, and clients of the
    same host that use its address.
    """
    listener = listenerIn(processes, namespace, f"{way}=8080:device=wire", "./socket")
    listener.says("listening on")
    worker(processes, "asyncio")
    assert json.loads(askIn(neighbour, "192.0.2.1", 8080))["device"] == "wire"
    assert json.loads(askIn(namespace, "192.0.2.1", 8080))["device"] == "wire"
    assert askIn(namespace, "127.0.0.1", 8080) == "Connection refused"


# Answers datagrams on the first socket that it gets.
ECHO = """
import select, socket
sock = socket.socket(fileno=3)
print("ready", flush=True)
while True:
    select.select([sock], [], [])
    data, client = sock.recvfrom(99)
    sock.sendto(data.upper(), client)
"""

# Sends a datagram, in a network namespace.
DATAGRAM_CLIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(0.5)
    try:
        client.connect((sys.argv[1], 5353))
        client.send(b"hello")
        print(client.recv(99).decode())
    except OSError as error:
        print("nothing")
"""


def datagramClient(namespace: str, host: str) -> str:
    """
    Run such a client.
    """
    client = [sys.executable, "-c", DATAGRAM_CLIENT, host]
    return inside(namespace, *client).strip()


@pytest.fixture
def echo(processes: Processes, namespace: str, request: Any) -> Process:
    """
    A program that serves a shared UDP port.
    """
    listener = listenerIn(processes, namespace, f"--share={request.param}", "./socket")
    listener.says("listening on")
    program = [command("portlisten"), "exec", "./socket", "--", sys.executable]
    started = processes.start(*program, "-c", ECHO)
    started.says("ready")
    return started


@pytest.mark.parametrize(
    "echo", ["udp:5353:interface=192.0.2.9:freebind=yes"], indirect=True
)
def test_datagramsFreebind(echo: Process, namespace: str) -> None:
    """
    A UDP port has an address that comes later.
    """
    assert datagramClient(namespace, "192.0.2.9") == "nothing"
    inside(namespace, "ip", "address", "add", "192.0.2.9", "dev", "lo")
    assert datagramClient(namespace, "192.0.2.9") == "HELLO"


@pytest.mark.parametrize("echo", ["udp:5353:device=wire"], indirect=True)
def test_datagramsDevice(neighbour: str, echo: Process, namespace: str) -> None:
    """
    A UDP port gets only what comes through its network device.
    """
    assert datagramClient(neighbour, "192.0.2.1") == "HELLO"
    assert datagramClient(namespace, "127.0.0.1") == "nothing"


def test_refused(processes: Processes, namespace: str) -> None:
    """
    If the host lacks what an option needs, the listener ends with one line.
    """
    if not speaksMultipath():
        pytest.skip("this host has no Multipath TCP that could be switched off")
    inside(namespace, "sysctl", "-qw", "net.mptcp.enabled=0")
    for option, reason in (
        ("mptcp=yes", "; 'sysctl net.mptcp.enabled=1' switches Multipath TCP on"),
        ("device=nonesuch", "No such device; 'ip link' shows the devices of this host"),
    ):
        listener = listenerIn(processes, namespace, f"8080:{option}", "./socket")
        listener.says(f"cannot listen on port 8080: {option}: .*{reason}\n")
        assert listener.wait() == 1
        assert "Traceback" not in listener.output


# Tells whether the connection of a request has TCP_NODELAY.
APPLICATION = """
import os, socket

def nodelay(client):
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with sock:
            try:
                if sock.getpeername() == client:
                    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            except OSError:
                pass

async def app(scope, receive, send):
    body = f"nodelay {nodelay(tuple(scope['client']))}".encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("option", ["", ":nodelay=yes"])
def test_uvicorn(processes: Processes, option: str) -> None:
    """
    The connections of uvicorn under C{portlisten exec} send small writes at once if the
    port says so.
    """
    needs("uvicorn", "uvicorn")
    (processes.folder / "application.py").write_text(APPLICATION)
    listener = processes.twistd("portlisten", f"--share={LOCAL}{option}", "./socket")
    uvicorn = [command("uvicorn"), "--lifespan=off", "--loop=asyncio", "--fd=3"]
    server = processes.start(
        *(command("portlisten"), "exec", "./socket", "--"),
        *(*uvicorn, "application:app"),
    )
    server.says("Uvicorn running")
    answer = ask(listener.port(), send=b"GET / HTTP/1.0\r\n\r\n")
    assert answer is not None
    assert answer.endswith(b"nodelay 1" if option else b"nodelay 0")
