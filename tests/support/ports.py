"""
TCP ports that are free, and backlogs that overflow.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess

#: What reserves ports for this process, by the port.
_reserved: dict[int, socket.socket] = {}


def _reserve(port: int) -> bool:
    """
    See that no other process that runs tests is given a port, until this one ends.
    """
    if port in _reserved:
        return True
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # A name that is no file, and that one socket can have.
        sock.bind(f"\0portlisten.tests.{port}")
    except OSError:
        sock.close()
        return False
    _reserved[port] = sock
    return True


def freePort(first: int, last: int) -> int:
    """
    Find a free port, for this process alone.
    """
    for port in range(first, last):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                continue
        if _reserve(port):
            return port
    raise AssertionError(f"no free port from {first} to {last}")


def backlogOverflows(port: int) -> int:
    """
    How often a connection found the backlog of a port full: its client tries again
    after a second.
    """
    program = shutil.which("ss")
    if program is None:
        # The unit tests run without pytest, and do not come here.
        import pytest

        pytest.skip("ss is not installed: apt install iproute2")
    command = [program, "-Hlntm", "sport", "=", f":{port}"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    dropped = re.findall(r"skmem:\(.*,d(\d+)\)", lines.stdout)
    assert dropped, f"nobody listens on port {port}"
    return sum(map(int, dropped))
