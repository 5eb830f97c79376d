"""
Tests for L{portlisten._ports.kept}, and for ports that take sockets of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _kernel
from portlisten._config.ports import PortKind, PortSettings
from portlisten._model import Kind
from portlisten._ports.binding import BoundPort, bind, takeFitting
from portlisten._ports.kept import KeptSockets
from portlisten._ports.parsing import parse
from portlisten.errors import CannotBind, WrongSocket
from tests.support.addresses import internet
from tests.support.backlogs import backlogOf, backlogOfUNIX
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import speaksMultipath

#: socket(7); Python has no names for them.
SO_ATTACH_FILTER = 26
SO_LOCK_FILTER = 44

DROP_ALL = struct.Struct("=HBBI").pack(0x06, 0, 0, 0)


class KeptCase(SynchronousTestCase):
    """
    Binds ports, and binds them again as the next process does.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def bind(
        self, description: str, kept: KeptSockets | None = None, backlog: int = 77
    ) -> list[BoundPort]:
        """
        Bind a port, until the test is over.
        """
        shared = "reuseport" in description or description.startswith("udp")
        bound = bind(parse(description, backlog, shared), kept)
        for port in bound:
            self.addCleanup(self.close, port.sockets)
        return bound

    def close(self, sockets: Iterable[socket.socket]) -> None:
        """
        Close sockets.
        """
        for each in sockets:
            each.close()

    def copies(self, *ports: BoundPort) -> list[socket.socket]:
        """
        Copy sockets, as a service manager does, and close the first ones.
        """
        found = [sock.dup() for port in ports for sock in port.sockets]
        for port in ports:
            self.close(port.sockets)
        self.addCleanup(self.close, found)
        return found

    def kept(self, *ports: BoundPort) -> KeptSockets:
        """
        Keep the sockets of ports.
        """
        return KeptSockets(self.copies(*ports))

    def assertTaken(self, before: list[BoundPort], description: str) -> list[BoundPort]:
        """
        Expect that a port takes all sockets, and binds none.
        """
        cookies = [_kernel.cookie(sock) for port in before for sock in port.sockets]
        kept = self.kept(*before)
        after = self.bind(description, kept)
        self.assertEqual(
            [_kernel.cookie(sock) for port in after for sock in port.sockets], cookies
        )
        self.assertEqual(kept.left, ())
        return after

    def assertLeft(self, description: str, kept: KeptSockets) -> None:
        """
        Expect that a port takes none of the sockets.
        """
        before = kept.left
        shared = "reuseport" in description or description.startswith("udp")
        self.assertEqual(takeFitting(parse(description, 5, shared), kept), [])
        self.assertEqual(kept.left, before)


def number(port: BoundPort) -> int:
    """
    The number of a port.
    """
    return internet(port.address).port


class TakenTests(KeptCase):
    """
    Ports that take their sockets.
    """

    def test_number(self) -> None:
        """
        A number takes its sockets of IPv4 and IPv6.
        """
        bound = self.bind("0")
        after = self.assertTaken(bound, str(number(bound[0])))
        self.assertEqual([each.address for each in after], [b.address for b in bound])

    def test_half(self) -> None:
        """
        If a number finds one of its sockets, it binds the other one.
        """
        for place in (0, 1):
            bound = self.bind("0")
            [sock] = bound[place].sockets
            cookie = _kernel.cookie(sock)
            self.close(bound[1 - place].sockets)
            kept = self.kept(bound[place])
            after = self.bind(str(number(bound[0])), kept)
            self.assertEqual(_kernel.cookie(after[place].socket), cookie)
            self.assertNotEqual(_kernel.cookie(after[1 - place].socket), cookie)
            self.assertEqual(
                [each.address for each in after], [b.address for b in bound]
            )

    def test_everyAddress(self) -> None:
        """
        A description without an address takes the socket of all addresses.
        """
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            [port] = self.bind(f"{kind}:0")
            self.assertTaken([port], f"{kind}:{number(port)}")

    def test_oneAddress(self) -> None:
        """
        An address takes its socket, also by its name.
        """
        for kind, host in (
            ("tcp", "127.0.0.1"),
            ("tcp", "localhost"),
            ("tcp6", "\\:\\:1"),
            ("udp", "127.0.0.1"),
            ("udp6", "\\:\\:1"),
        ):
            [port] = self.bind(f"{kind}:0:interface={host}")
            text = f"{kind}:{number(port)}:interface={host}"
            self.assertTaken([port], text)

    def test_multipath(self) -> None:
        """
        A port of Multipath TCP takes its socket, and other ports do not.
        """
        if not speaksMultipath():
            raise SkipTest("this host has no Multipath TCP")
        [port] = self.bind("tcp:0:mptcp=yes")
        text = f"tcp:{number(port)}"
        self.assertLeft(text, self.kept(*self.bind("tcp:0:mptcp=yes")))
        self.assertTaken([port], f"{text}:mptcp=yes")

    def test_state(self) -> None:
        """
        The sockets are as if they were bound now: they do not block, no program
        inherits them, and the backlog and the options are those of the settings.
        """
        [port] = self.bind("tcp:0:keepalive=50:nodelay=yes", backlog=5)
        [sock] = self.copies(port)
        sock.setblocking(True)
        sock.set_inheritable(True)
        [after] = self.bind(f"tcp:{number(port)}:defer=3", KeptSockets([sock]))
        self.assertFalse(os.get_blocking(after.socket.fileno()))
        self.assertFalse(after.socket.get_inheritable())
        self.assertEqual(backlogOf(after.socket), 77)
        options = {
            name: bool(after.socket.getsockopt(level, option))
            for name, level, option in (
                ("nodelay", socket.IPPROTO_TCP, socket.TCP_NODELAY),
                ("keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                ("defer", socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
            )
        }
        self.assertEqual(options, {"nodelay": False, "keepalive": False, "defer": True})

    def test_clients(self) -> None:
        """
        A client that waits is served by the next process.
        """
        [port] = self.bind("tcp:0:interface=127.0.0.1")
        with socket.create_connection(port.socket.getsockname()) as client:
            kept = self.kept(port)
            [after] = self.bind(f"tcp:{number(port)}:interface=127.0.0.1", kept)
            after.socket.setblocking(True)
            accepted, address = after.socket.accept()
            accepted.close()
            self.assertEqual(address, client.getsockname())

    def test_giveBack(self) -> None:
        """
        If a port cannot be bound, it gives back what it has taken.
        """
        bound = self.bind("0")
        text = str(number(bound[0]))
        kept = self.kept(bound[0])
        with self.assertRaises(CannotBind) as raised:
            # The other process has the port of IPv6.
            self.bind(text, kept)
        self.assertEqual(raised.exception.errno, errno.EADDRINUSE)
        self.assertEqual(len(kept.left), 1)
        self.close(bound[1].sockets)
        self.assertEqual(len(self.bind(text, kept)), 2)
        self.assertEqual(kept.left, ())

    def test_close(self) -> None:
        """
        What is left is closed.
        """
        bound = self.bind("0")
        kept = self.kept(*bound)
        kept.close()
        kept.close()
        self.assertEqual(kept.left, ())
        self.assertEqual(len(self.bind(str(number(bound[0])))), 2)


class GroupTests(KeptCase):
    """
    Ports with several sockets.
    """

    def group(self, count: int) -> BoundPort:
        """
        Bind a group.
        """
        [port] = self.bind(f"tcp:0:reuseport={count}")
        return port

    def test_same(self) -> None:
        """
        A group takes its sockets.
        """
        port = self.group(3)
        [after] = self.assertTaken([port], f"tcp:{number(port)}:reuseport=3")
        self.assertIs(after.kind, Kind.GROUP)

    def test_larger(self) -> None:
        """
        A group that has become larger takes its sockets, and binds others beside them.
        """
        port = self.group(2)
        cookies = [_kernel.cookie(each) for each in port.sockets]
        kept = self.kept(port)
        [after] = self.bind(f"tcp:{number(port)}:reuseport=4", kept)
        self.assertEqual([_kernel.cookie(each) for each in after.sockets[:2]], cookies)
        self.assertEqual(
            {each.getsockname() for each in after.sockets}, {("0.0.0.0", number(port))}
        )
        self.assertEqual(len(after.sockets), 4)

    def test_smaller(self) -> None:
        """
        A group that has become smaller takes as many as it needs.
        """
        port = self.group(4)
        cookies = [_kernel.cookie(each) for each in port.sockets]
        kept = self.kept(port)
        [after] = self.bind(f"tcp:{number(port)}:reuseport=2", kept)
        self.assertEqual([_kernel.cookie(each) for each in after.sockets], cookies[:2])
        self.assertEqual([_kernel.cookie(each) for each in kept.left], cookies[2:])
        kept.close()

    def test_alone(self) -> None:
        """
        A port that was no group takes no socket of a group, nor the other way round.
        """
        port = self.group(1)
        kept = self.kept(port)
        self.assertLeft(f"tcp:{number(port)}", kept)
        kept.close()
        [alone] = self.bind("tcp:0")
        kept = self.kept(alone)
        self.assertLeft(f"tcp:{number(alone)}:reuseport=1", kept)
        kept.close()


class LeftTests(KeptCase):
    """
    Sockets that are no port's.
    """

    def test_others(self) -> None:
        """
        A port takes no socket of another number, address, family or type.
        """
        [port] = self.bind("tcp:0:interface=127.0.0.1")
        kept = self.kept(port)
        own = number(port)
        for text in (
            f"tcp:{own % 65535 + 1}:interface=127.0.0.1",
            f"tcp:{own}:interface=127.0.0.2",
            f"tcp:{own}",
            f"tcp6:{own}",
            f"udp:{own}:interface=127.0.0.1",
            "tcp:0:interface=127.0.0.1",
            str(own),
            f"unix:{own}",
        ):
            self.assertLeft(text, kept)
        kept.close()

    def test_bothFamilies(self) -> None:
        """
        A socket for both families is no port's.
        """
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
            sock.listen()
            self.assertLeft(f"tcp6:{sock.getsockname()[1]}", KeptSockets([sock]))

    def test_device(self) -> None:
        """
        A port that is bound to a device takes only sockets of this device.
        """
        try:
            [port] = self.bind("tcp:0:device=lo")
        except CannotBind as error:
            raise SkipTest(str(error)) from None
        text = f"tcp:{number(port)}"
        [other] = self.bind("tcp:0")
        kept = self.kept(other)
        self.assertLeft(f"tcp:{number(other)}:device=lo", kept)
        kept.close()
        kept = self.kept(port)
        self.assertLeft(text, kept)
        self.assertLeft(f"{text}:device=eth0", kept)
        [after] = self.bind(f"{text}:device=lo", kept)
        self.assertEqual(number(after), number(port))

    def test_inherited(self) -> None:
        """
        A socket that has a descriptor in its description is not among them.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            [port] = self.bind("tcp:0")
            kept = self.kept(port)
            settings = PortSettings(
                PortKind.INHERITED, "systemd", descriptor=sock.fileno()
            )
            self.assertEqual(takeFitting(settings, kept), [])
            kept.close()

    def test_doesNotListen(self) -> None:
        """
        A socket that does not listen is no port's.
        """
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            own = sock.getsockname()[1]
            kept = KeptSockets([sock])
            self.assertLeft(f"tcp:{own}:interface=127.0.0.1", kept)

    def test_unknownName(self) -> None:
        """
        If the name of an address is not known, no socket is taken.  The bind then says
        why it fails.
        """

        def fail(*args: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        [port] = self.bind("tcp:0")
        kept = self.kept(port)
        self.patch(socket, "getaddrinfo", fail)
        self.assertLeft(f"tcp:{number(port)}:interface=localhost", kept)
        kept.close()

    def test_unknownKind(self) -> None:
        """
        A socket is not taken if its kind cannot be found out.
        """

        def fail(sock: socket.socket) -> None:
            raise WrongSocket("no socket")

        [port] = self.bind("tcp:0")
        kept = self.kept(port)
        self.patch(_kernel, "kindOf", fail)
        self.assertLeft(f"tcp:{number(port)}", kept)
        kept.close()

    def test_noSocketOfAPort(self) -> None:
        """
        Sockets of other kinds are no port's.
        """
        ends = socket.socketpair()
        kept = KeptSockets(ends)
        self.assertLeft("80", kept)
        self.assertLeft(f"unix:{self.mktemp()}", kept)
        kept.close()


class SpoiltTests(KeptCase):
    """
    Sockets that a process has made useless.  The next process binds its own.
    """

    def spoil(self, text: str, act: Callable[[socket.socket], object]) -> None:
        """
        Bind a port, let a process that has the socket act, and expect that the next
        process binds the port anew, and that clients reach it.
        """
        [port] = self.bind(text)
        text = text.replace(":0:", f":{number(port)}:")
        kept = self.kept(port)
        [sock] = kept.left
        act(sock)
        self.assertLeft(text, kept)
        kept.close()
        [after] = self.bind(text)
        if after.socket.type == socket.SOCK_STREAM:
            socket.create_connection(after.socket.getsockname(), 5).close()

    def lock(self, sock: socket.socket) -> None:
        """
        Drop all that comes, for ever.
        """
        drop(sock)
        sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)

    def test_shutDown(self) -> None:
        """
        A port that was shut down.
        """
        self.spoil(
            "tcp:0:interface=127.0.0.1", lambda sock: sock.shutdown(socket.SHUT_RDWR)
        )

    def test_lockedFilter(self) -> None:
        """
        A port with a filter that cannot be removed.
        """
        self.spoil("tcp:0:interface=127.0.0.1", self.lock)
        self.spoil("udp:0:interface=127.0.0.1", self.lock)

    def test_filter(self) -> None:
        """
        If a filter can be removed, the socket is taken, and clients reach it.
        """
        for refuse in (_kernel.refuseClients, drop):
            [port] = self.bind("tcp:0:interface=127.0.0.1")
            refuse(port.socket)
            with self.assertRaises(TimeoutError):
                socket.create_connection(port.socket.getsockname(), 0.2)
            text = f"tcp:{number(port)}:interface=127.0.0.1"
            [after] = self.assertTaken([port], text)
            socket.create_connection(after.socket.getsockname(), 5).close()

    def test_path(self) -> None:
        """
        A Unix socket that was shut down.
        """
        path = self.mktemp()
        [port] = self.bind(f"unix:{path}")
        kept = self.kept(port)
        [sock] = kept.left
        sock.shutdown(socket.SHUT_RDWR)
        self.assertLeft(f"unix:{path}", kept)
        kept.close()


def drop(sock: socket.socket) -> None:
    """
    Drop all that comes to a socket.
    """
    code = ctypes.create_string_buffer(DROP_ALL)
    program = struct.Struct("@HP").pack(1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


class PathTests(KeptCase):
    """
    Unix sockets.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = os.path.relpath(self.mktemp())
        self.text = f"unix:{self.path}"

    def lockOf(self) -> str:
        """
        Which process has the lock.
        """
        return os.readlink(f"{self.path}.lock")

    def test_taken(self) -> None:
        """
        A path that leads to a socket takes it.  The process has the path and its lock
        then, and removes both.
        """
        before = self.bind(self.text)
        os.remove(f"{self.path}.lock")
        os.symlink("4194303", f"{self.path}.lock")
        [port] = self.assertTaken(before, self.text)
        self.assertEqual(self.lockOf(), str(os.getpid()))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        port.cleanUp()
        self.assertEqual(os.listdir(os.path.dirname(self.path)), [])

    def test_noLock(self) -> None:
        """
        Without a lock, none is made.
        """
        text = f"{self.text}:lockfile=0"
        [port] = self.assertTaken(self.bind(text), text)
        self.assertFalse(os.path.lexists(f"{self.path}.lock"))
        port.cleanUp()

    def test_settings(self) -> None:
        """
        The permissions and the backlog are those of the settings.
        """
        [before] = self.bind(f"{self.text}:mode=600")
        kept = self.kept(before)
        [port] = self.bind(f"{self.text}:mode=640:backlog=3", kept)
        self.assertEqual(os.lstat(self.path).st_mode & 0o777, 0o640)
        self.assertEqual(backlogOfUNIX(self, self.path), 3)
        port.cleanUp()

    def test_pathGone(self) -> None:
        """
        If the path is gone, it is bound anew: nobody can reach the old socket.
        """
        [before] = self.bind(self.text)
        kept = self.kept(before)
        os.remove(self.path)
        os.remove(f"{self.path}.lock")
        self.assertFalse(kept.hasPath(self.path))
        [port] = self.bind(self.text, kept)
        self.assertEqual(len(kept.left), 1)
        kept.close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        port.cleanUp()

    def test_otherSocket(self) -> None:
        """
        If the path leads to another socket by now, the kept one is not taken.
        """
        [before] = self.bind(self.text)
        kept = self.kept(before)
        os.remove(self.path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen()
            self.assertIsNone(kept.takePath(self.path))
        kept.close()

    def test_hasPath(self) -> None:
        """
        It is known whether a path has a socket, which stays there.
        """
        [before] = self.bind(self.text)
        kept = self.kept(before)
        self.assertTrue(kept.hasPath(self.path))
        self.assertFalse(kept.hasPath(f"{self.path}2"))
        self.assertEqual(len(kept.left), 1)
        kept.close()

    def test_giveBack(self) -> None:
        """
        If the path cannot be taken over, the socket is given back.
        """
        [before] = self.bind(self.text)
        kept = self.kept(before)
        os.remove(f"{self.path}.lock")
        os.mkdir(f"{self.path}.lock")
        with self.assertRaises(CannotBind):
            self.bind(self.text, kept)
        self.assertEqual(len(kept.left), 1)
        kept.close()
