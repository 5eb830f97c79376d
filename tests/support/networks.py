"""
Networks that tests make for themselves: network namespaces, and wires between them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# linux/include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000

_numbers = itertools.count()


@contextmanager
def network() -> Iterator[str]:
    """
    Make a network namespace, which has only C{lo}, and give its name.  Skip the test if
    that is impossible here.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a network namespace")
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed")
    name = f"portlisten{os.getpid()}-{next(_numbers)}"
    if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        pytest.skip("no network namespace can be made here")
    try:
        inside(name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(namespace: str, *program: str) -> str:
    """
    Run a program in a network namespace.

    @return: its standard output.
    """
    prefix = ["ip", "netns", "exec", namespace]
    found = subprocess.run([*prefix, *program], check=True, stdout=subprocess.PIPE)
    return found.stdout.decode()


def connect(first: str, second: str, device: str, subnet: str) -> None:
    """
    Connect two network namespaces by a wire.

    @param device: the name of the network device at both ends.
    @param subnet: the first three numbers of both addresses.  The last number is 1 for
        the first namespace, and 2 for the second.
    """
    peer = ["type", "veth", "peer", "name", device, "netns", second]
    inside(first, "ip", "link", "add", device, *peer)
    for number, space in enumerate((first, second), 1):
        address = f"{subnet}.{number}/24"
        inside(space, "ip", "address", "add", address, "dev", device)
        inside(space, "ip", "link", "set", device, "up")


class Switch:
    """
    A network namespace that is a switch: it connects other namespaces.

    @param namespace: a new one.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._numbers = itertools.count(1)
        # Without snooping, the neighbours of IPv6 are found at once.
        kind = ["type", "bridge", "mcast_snooping", "0"]
        inside(namespace, "ip", "link", "add", "switch", *kind)
        inside(namespace, "ip", "link", "set", "switch", "up")

    def plug(self, namespace: str, *addresses: str) -> str:
        """
        Connect a namespace, by a network device that is named C{eth0} there.

        @param addresses: the device's, each with the length of its prefix.
        @return: the name of the switch's port.
        """
        port = f"port{next(self._numbers)}"
        peer = ["type", "veth", "peer", "name", port, "netns", self._namespace]
        inside(namespace, "ip", "link", "add", "eth0", *peer)
        for each in addresses:
            also = ["nodad"] if ":" in each else []
            inside(namespace, "ip", "address", "add", each, "dev", "eth0", *also)
        inside(namespace, "ip", "link", "set", "eth0", "up")
        inside(self._namespace, "ip", "link", "set", port, "master", "switch")
        self.set(port, up=True)
        return port

    def set(self, port: str, up: bool) -> None:
        """
        Let a port of the switch work, or lose all packets.
        """
        state = "up" if up else "down"
        inside(self._namespace, "ip", "link", "set", port, state)


def socketIn(namespace: str, protocol: int = 0) -> socket.socket:
    """
    Make a socket for streams over IPv4 that belongs to a network namespace.

    @return: the socket, which the caller owns.
    """
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}", "rb") as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET) == 0:
                made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]
