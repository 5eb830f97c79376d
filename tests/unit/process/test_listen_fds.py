"""
Tests for L{portlisten._process.listen_fds}.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._process import listen_fds

#: Opens descriptors, arranges them in their order, and says what became of them.  If
#: they do not fit, it says why, and whether all is as it was.
PROGRAM = """
import fcntl, json, os, resource, sys
from portlisten._process.listen_fds import arrange
order, limit = json.loads(sys.argv[1])
high = [fcntl.fcntl(os.memfd_create("it"), fcntl.F_DUPFD, 100) for each in order]
os.closerange(3, 100)
for each, descriptor in zip(order, high):
    os.dup2(descriptor, each, inheritable=False)
os.closerange(100, 200)
def found():
    return {each: os.fstat(each).st_ino for each in range(3, 200)
            if os.path.exists(f"/proc/self/fd/{each}")}
before = found()
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    arrange(order)
except OSError as error:
    print(json.dumps([error.strerror, found() == before]))
else:
    print(json.dumps([
        found() == {number: before[each] for number, each in enumerate(order, 3)},
        [os.get_inheritable(each) for each in found()],
    ]))
"""


def run(order: list[int], limit: int = 0) -> list[object]:
    """
    Run L{PROGRAM}.
    """
    result = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(PROGRAM)),
            json.dumps([order, limit]),
        ],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    answer: list[object] = json.loads(result.stdout)
    return answer


class UnnamedTests(SynchronousTestCase):
    """
    Tests for L{listen_fds.unnamed}.
    """

    def setUp(self) -> None:
        """
        Pass two sockets without names to this process.
        """
        self.environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
        self.patch(_kernel, "initialEnvironment", self.environment.copy)

    def test_found(self) -> None:
        """
        A socket is found by its index, again and again.
        """
        self.assertEqual([listen_fds.unnamed(each) for each in (0, 1, 0)], [3, 4, 3])

    def test_notThere(self) -> None:
        """
        No socket has an index that is too high.
        """
        self.assertIsNone(listen_fds.unnamed(2))

    def test_named(self) -> None:
        """
        If the sockets have names, Twisted finds them.
        """
        self.environment["LISTEN_FDNAMES"] = "web:dns"
        self.assertIsNone(listen_fds.unnamed(0))

    def test_otherProcess(self) -> None:
        """
        Sockets that are for another process are none of ours.
        """
        self.environment["LISTEN_PID"] = "1"
        self.assertIsNone(listen_fds.unnamed(0))

    def test_nonsense(self) -> None:
        """
        No socket is found without a count, or with one that is no number.
        """
        for count in ("", "x", "-1", "٢", "99999"):
            self.environment["LISTEN_FDS"] = count
            self.assertIsNone(listen_fds.unnamed(0))
        del self.environment["LISTEN_FDS"]
        self.assertIsNone(listen_fds.unnamed(0))


class RightUnitTests(SynchronousTestCase):
    """
    Tests for L{listen_fds.rightUnit}.
    """

    def test_told(self) -> None:
        """
        The advice goes by what the socket is.
        """
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tcp = socket.socket()
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        with left, right, tcp, netlink:
            self.assertEqual(
                listen_fds.rightUnit(left), "its socket unit should have ListenStream="
            )
            self.assertIn("a TCP port or a path in", listen_fds.rightUnit(netlink))
            with socket.socket(proto=socket.IPPROTO_TCP) as explicit:
                self.assertIn("no SocketProtocol=", listen_fds.rightUnit(explicit))


class EnvironmentTests(SynchronousTestCase):
    """
    Tests for L{listen_fds.environment}.
    """

    def test_variables(self) -> None:
        """
        It has the count, the names and this process's number.
        """
        self.assertEqual(
            listen_fds.environment(["http", ""]),
            {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": "2",
                "LISTEN_FDNAMES": "http:unknown",
            },
        )

    def test_read(self) -> None:
        """
        A program that reads it as systemd's finds the sockets.
        """
        found = ListenFDs.fromEnvironment(listen_fds.environment(["http", "dns"]))
        self.assertEqual(found.inheritedNamedDescriptors(), {"http": 3, "dns": 4})


class ArrangeTests(SynchronousTestCase):
    """
    Tests for L{listen_fds.arrange}, in a process of its own.
    """

    def test_order(self) -> None:
        """
        The descriptors are 3 and on in their order, and stay open in the next program.
        They are closed where they were, also if old and new numbers overlap.
        """
        for order in ([20, 21, 22], [3, 4, 5], [5, 4, 3], [4, 30, 3], [9]):
            self.assertEqual(run(order), [True, [True] * len(order)])

    def test_noRoom(self) -> None:
        """
        If the descriptors do not fit the limit, they stay as they were.
        """
        why, same = run([3, 4, 5], limit=8)
        self.assertIn("open files", str(why))
        self.assertTrue(same)
