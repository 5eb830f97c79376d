"""
Steps about the client's address, and about who is believed.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.machines.lan import CLIENTS, Lan
from tests.machines.machine import CONTRIB
from tests.machines.step import Step

#: What a client claims to be.
FORGED = "198.51.100.66"

#: Sends bytes, and then an ordinary request, and prints the answer or what went wrong.
SENDER = """
import json, socket, ssl, sys
host, port, first, tls = sys.argv[1:]
first = bytes.fromhex(first)
seen = ""
try:
    sock = socket.create_connection((host, int(port)), 10)
    if tls != "after":
        sock.sendall(first)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    if tls == "after":
        sock.sendall(first)
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: www\\r\\nConnection: close\\r\\n\\r\\n")
    while data := sock.recv(65536):
        seen += data.decode("latin-1")
except OSError as error:
    seen += f"{type(error).__name__}: {error}"
print(json.dumps(seen))
"""

V1 = f"PROXY TCP4 {FORGED} 192.0.2.1 1234 80\r\n".encode()

#: Version 2, for TCP over IPv4: the signature, the command, the family, the length,
#: both addresses and both ports.
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n"
    + bytes([0x21, 0x11, 0, 12])
    + bytes(map(int, FORGED.split(".")))
    + bytes([192, 0, 2, 1])
    + (1234).to_bytes(2, "big")
    + (80).to_bytes(2, "big")
)


def send(lan: Lan, host: str, first: bytes, tls: str = "") -> str:
    """
    Send bytes and then a request.

    @param tls: C{before} if TLS begins after the bytes, C{after} if they are in it.
    @return: the answer, or what went wrong.
    """
    words = [
        sys.executable,
        "-c",
        SENDER,
        host,
        "443" if tls else "80",
        first.hex(),
        tls,
    ]
    done = subprocess.run(
        lan.client.words(*words), check=True, stdout=subprocess.PIPE, text=True
    )
    return str(json.loads(done.stdout))


def client(answer: str) -> str:
    """
    The client's address in an answer of the site.
    """
    return str(json.loads(answer.partition("\r\n\r\n")[2])["client"])


def honest(lan: Lan) -> str:
    """
    Clients of IPv4 and IPv6, with TLS and without: the worker sees their addresses.
    """
    seen = []
    for version, address in zip((4, 6), CLIENTS, strict=True):
        for scheme in ("http", "https"):
            url = lan.url(scheme=scheme, version=version)
            with lan.asking(12, "once", url=url) as counted:
                pass
            asked = counted.seen.asked
            assert not counted.seen.lost, counted.seen.lost
            found = {each.client for each in asked}
            assert found == {address}, (url, found)
            machines = counted.seen.machines()
            assert set(machines) == {each.name for each in lan.machines}, machines
            seen.append(f"{url} {address}")
    return f"of each, 12 clients on 3 machines: {', '.join(seen)}"


def forged(lan: Lan) -> str:
    """
    A client that connects to a machine itself, or sends a header through the balancer.
    """
    machine = lan.machines[0]
    seen = []
    for name, host, first, tls in [
        ("version 1", machine.address, V1, ""),
        ("version 2", machine.address, V2, ""),
        ("version 1 before TLS", machine.address, V1, "before"),
        ("version 2 before TLS", machine.address, V2, "before"),
        ("version 1 in TLS", machine.address, V1, "after"),
        ("version 1 through the balancer", "192.0.2.1", V1, ""),
        ("version 2 through the balancer", "192.0.2.1", V2, ""),
    ]:
        answer = send(lan, host, first, tls)
        assert " 200 " not in answer, (name, answer)
        assert FORGED not in answer, (name, answer)
        seen.append(f"{name}: {' '.join(answer.split()[:3])[:40] or 'closed'}")
    answer = send(lan, machine.address, b"")
    assert client(answer) == CLIENTS[0], answer
    for each in lan.machines:
        # An access log names the client first.
        lines = [line for line in each.process.output.splitlines() if FORGED in line]
        assert not any(f'"{FORGED}"' in line for line in lines), lines
    return f"{'; '.join(seen)}; without a header, directly: {CLIENTS[0]}"


def believing(lan: Lan) -> str:
    """
    The same with workers that believe the whole network: that must show.
    """
    machine = lan.machines[0]
    source = CONTRIB / "haproxy" / "web.toml"
    machine.write(source, ("proxyFrom=192.0.2.2,192.0.2.3", "proxyFrom=192.0.2.0/24"))
    machine.command("reload")
    try:
        found = client(send(lan, machine.address, V2))
    finally:
        machine.write(source)
        machine.command("reload")
    assert found == FORGED, f"a naive worker believes nobody: {found}"
    return f"the worker believes it: {found}"


STEPS = [
    Step("addresses", "real clients through HAProxy", honest),
    Step("addresses", "a client that forges the header", forged),
    Step("addresses", "the same, and the workers believe anybody (naive)", believing),
]
