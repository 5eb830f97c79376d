"""
Tests for L{portlisten._kernel.processes}.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import socket
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import processes
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import LINGER, arrived, connection, pair


class InitialEnvironmentTests(SynchronousTestCase):
    """
    Tests for L{processes.initialEnvironment}.
    """

    def test_unchanged(self) -> None:
        """
        It is the environment at the start of the process, without later changes.
        """
        program = (
            "import os; from portlisten._kernel import processes\n"
            "del os.environ['ODD']\n"
            "print(ascii(processes.initialEnvironment()['ODD']))"
        )
        environment = {**os.environ, "ODD": "a=b\n\udcff"}
        output = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        self.assertEqual(output.stdout, b"'a=b\\n\\udcff'\n")


class MayChangeUsersTests(SynchronousTestCase):
    """
    Tests for L{processes.mayChangeUsers}.
    """

    def answer(self, status: str) -> bool:
        """
        Ask a kernel that says this of the process.
        """
        self.patch(builtins, "open", lambda name: io.StringIO(status))
        return processes.mayChangeUsers()

    def test_root(self) -> None:
        """
        Root may, unless it lacks one of two capabilities.
        """
        for capabilities, may in (
            ("000001ffffffffff", True),
            ("00000000000000c0", True),
            ("0000000000000080", False),
            ("0000000000000040", False),
            ("0000000000000000", False),
        ):
            status = f"Name:\ta: b\nCapEff:\t{capabilities}\n"
            self.assertEqual(self.answer(status), may)

    def test_untold(self) -> None:
        """
        If the kernel does not say, it may.
        """
        self.assertTrue(self.answer("Name:\ttwistd\n"))

        def fail(name: str) -> None:
            raise FileNotFoundError

        self.patch(builtins, "open", fail)
        self.assertTrue(processes.mayChangeUsers())


class MaySignalUsersTests(SynchronousTestCase):
    """
    Tests for L{processes.maySignalUsers}.
    """

    def test_capability(self) -> None:
        """
        One capability counts.  If the kernel does not say, it may.
        """
        for status, may in (
            ("CapEff:\t0000000000000020\n", True),
            ("CapEff:\t000001ffffffffdf\n", False),
            ("Name:\ttwistd\n", True),
        ):
            self.patch(builtins, "open", lambda name, say=status: io.StringIO(say))
            self.assertEqual(processes.maySignalUsers(), may)


class EndWithParentTests(SynchronousTestCase):
    """
    Tests for L{processes.endWithParent}.
    """

    def test_parentEnds(self) -> None:
        """
        The signal comes when the parent ends.
        """
        program = """
import os, signal
from portlisten._kernel import processes
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
reader, writer = os.pipe()
if os.fork():
    os.read(reader, 1)
    os._exit(0)
processes.endWithParent(signal.SIGTERM)
os.write(writer, b"x")
print(signal.sigtimedwait([signal.SIGTERM], 30).si_signo)
"""
        output = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
        )
        self.assertEqual(output.stdout, b"15\n")

    def test_refused(self) -> None:
        """
        What is no signal is refused.
        """
        error = self.assertRaises(OSError, processes.endWithParent, 1000)
        self.assertEqual(error.errno, errno.EINVAL)


class GainNoPrivilegesTests(SynchronousTestCase):
    """
    Tests for L{processes.gainNoPrivileges}.
    """

    def test_set(self) -> None:
        """
        It is so for this process, and for the programs that it becomes.
        """
        program = """
import os, sys
from portlisten._kernel import processes
for _ in range(2):
    processes.gainNoPrivileges()
show = "print(open('/proc/self/status').read())"
os.execv(sys.executable, [sys.executable, "-c", show])
"""
        output = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
        )
        self.assertIn(b"\nNoNewPrivs:\t1\n", output.stdout)

    def test_refused(self) -> None:
        """
        An error of the kernel is an exception.
        """
        self.patch(processes, "_PR_SET_NO_NEW_PRIVS", -1)
        error = self.assertRaises(OSError, processes.gainNoPrivileges)
        self.assertEqual(error.errno, errno.EINVAL)


class HasCapabilitiesTests(SynchronousTestCase):
    """
    Tests for L{processes.hasCapabilities}.
    """

    def test_permitted(self) -> None:
        """
        What counts is what the process may take, and not only what it has now.
        """
        for permitted, has in (("0000000000000080", True), ("0000000000000000", False)):
            status = f"CapPrm:\t{permitted}\nCapEff:\t0000000000000000\n"
            self.patch(builtins, "open", lambda name, say=status: io.StringIO(say))
            self.assertEqual(processes.hasCapabilities(), has)

    def test_untold(self) -> None:
        """
        If the kernel does not say, it has none.
        """
        self.patch(builtins, "open", lambda name: io.StringIO("Name:\ttwistd\n"))
        self.assertFalse(processes.hasCapabilities())


class CloseElsewhereTests(SynchronousTestCase):
    """
    Tests for L{processes.closeElsewhere} and L{processes.reap}.
    """

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        self.theirs, self.ours = pair(self)
        # A bystander, whose end must not be kept open by the child.
        self.bystander, self.other = pair(self)
        self.addCleanup(self.reapAll)

    def reapAll(self) -> None:
        """
        Wait for all children.
        """
        deadline = time.monotonic() + 20
        while processes._children:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
            processes.reap()

    def test_closes(self) -> None:
        """
        The socket is closed, for its other end as well, and so is what was queued in
        it.
        """
        queued, left = pair(self)
        socket.send_fds(self.theirs, [b"x"], [queued.fileno()])
        queued.close()
        processes.closeElsewhere(self.ours)
        self.assertEqual(self.ours.fileno(), -1)
        arrived(self.theirs)
        self.reapAll()
        self.assertRaises(BrokenPipeError, self.theirs.send, b"x")
        self.assertEqual(left.recv(1), b"")

    def test_nothingElse(self) -> None:
        """
        The child keeps no other descriptor open, though it may hang.
        """
        client = self.linger()
        processes.closeElsewhere(self.ours)
        self.bystander.close()
        arrived(self.other)
        self.assertEqual(self.other.recv(1), b"")
        client.close()

    def linger(self) -> socket.socket:
        """
        Queue a connection that a process needs half a minute to close, unless it exits:
        then it does not linger (C{PF_EXITING} in linux/net/ipv4/af_inet.c).

        @return: its client.
        """
        client, accepted = connection(self)
        accepted.setblocking(False)
        try:
            while True:
                accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 30))
        socket.send_fds(self.theirs, [b"x"], [accepted.fileno()])
        accepted.close()
        return client

    def test_lingers(self) -> None:
        """
        A queued descriptor that takes long to close does not take our time.
        """
        client = self.linger()
        began = time.monotonic()
        processes.closeElsewhere(self.ours)
        processes.reap()
        self.assertLess(time.monotonic() - began, 25)
        client.close()
        self.reapAll()

    def test_last(self) -> None:
        """
        The child closes it after us, however slow we are: the last one waits.
        """

        class Slow(socket.socket):
            def close(self) -> None:
                time.sleep(0.3)
                super().close()

        client = self.linger()
        began = time.monotonic()
        processes.closeElsewhere(Slow(fileno=self.ours.detach()))
        self.assertLess(time.monotonic() - began, 25)
        client.close()
        self.reapAll()

    def test_noProcess(self) -> None:
        """
        If no process can be started, the socket stays open.
        """

        def fail() -> int:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        self.patch(os, "fork", fail)
        self.assertRaises(OSError, processes.closeElsewhere, self.ours)
        self.theirs.send(b"x")
        self.assertEqual(self.ours.recv(1), b"x")
        self.assertEqual(processes._children, [])


class ReapTests(SynchronousTestCase):
    """
    Tests for L{processes.reap}.
    """

    def test_gone(self) -> None:
        """
        A child that somebody else has waited for is forgotten.
        """
        with subprocess.Popen(["true"]) as child:
            child.wait()
        self.patch(processes, "_children", [child.pid])
        processes.reap()
        self.assertEqual(processes._children, [])
