"""
Tests for L{portlisten._ports.parsing}.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from twisted.internet import endpoints
from twisted.python import lockfile
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _kernel
from portlisten._model import InternetAddress, Kind, UnixAddress
from portlisten._ports import parsing as _ports
from portlisten._ports.parsing import BoundPort
from portlisten.errors import BadDescription, CannotBind
from tests.support.descriptors import watchDescriptors

# linux/include/uapi/linux/tcp.h: of a listening socket, tcpi_sacked is the
# length that its backlog may have.
BACKLOG = struct.Struct("=28xI")


def backlogOf(sock: socket.socket) -> int:
    """
    The backlog of a listening TCP socket.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BACKLOG.size)
    length: int = BACKLOG.unpack(info)[0]
    return length


def backlogOfUNIX(test: SynchronousTestCase, path: str) -> int:
    """
    The backlog of a listening Unix socket, which is full afterwards.
    """
    for length in range(100):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        test.addCleanup(client.close)
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return length - 1
    raise AssertionError("the backlog is long")


class ParseTests(SynchronousTestCase):
    """
    Tests for L{_ports.parse}.
    """

    def assertBad(self, description: str, *reasons: str) -> None:
        """
        Expect that a description is refused in one line, and why.
        """
        error = self.assertRaises(BadDescription, _ports.parse, description, 5)
        for reason in reasons:
            self.assertIn(reason, str(error))
        self.assertEqual(len(str(error).splitlines()), 1)

    def test_number(self) -> None:
        """
        A number is a port.
        """
        for description in ("0", "80", "65535"):
            port = _ports.parse(description, 5)
            self.assertIsInstance(port, _ports.NumberedPort)
            self.assertEqual(str(port), f"port {description}")

    def test_noNumber(self) -> None:
        """
        Other numbers, and what only looks like one, are refused.
        """
        for description in ("65536", "-1", "", "http", "8 0", "1e3", "٨٠", "80\n"):
            self.assertBad(
                description, f"{description!r} is no port: give a number from 0 to"
            )

    def test_plain(self) -> None:
        """
        Endpoints whose ports are plain sockets are ports.
        """
        for description, kind in (
            ("tcp:80", _ports.TCPPort),
            ("tcp6:80:interface=\\:\\:1", _ports.TCPPort),
            ("unix:/run/x", _ports.UNIXPort),
        ):
            port = _ports.parse(description, 5)
            self.assertIsInstance(port, kind)
            self.assertEqual(str(port), description)

    def test_named(self) -> None:
        """
        Any of them may have a name before it.
        """
        for name in ("http", "_", "0", "a.b-c_D", "x" * 63):
            for description, told in (
                ("80", "port 80"),
                ("tcp:80:interface=127.0.0.1", "tcp:80:interface=127.0.0.1"),
                ("unix:/run/a\\=b", "unix:/run/a\\=b"),
            ):
                port = _ports.parse(f"{name}={description}", 5)
                assert isinstance(port, _ports.NamedPort)
                self.assertEqual((port.name, str(port)), (name, told))

    def test_badName(self) -> None:
        """
        What is no name is refused, and what would be needed is told.
        """
        for name in ("", ".a", "-a", "a b", "a/b", "x" * 64, "ü", "a\n", "٨"):
            self.assertBad(
                f"{name}=80",
                f"{name!r} is no name for a port: give up to 63",
                "such as http",
            )

    def test_badAfterName(self) -> None:
        """
        What follows the name has to be a port, and has no second name.
        """
        self.assertBad("http=", "'' is no port")
        self.assertBad("http=65536", "'65536' is no port")
        self.assertBad("http=https=80", "'https=80' is no port")
        self.assertBad("http=nonsense:80", "'nonsense:80' is no endpoint description")

    def test_noName(self) -> None:
        """
        An option of a description is no name of a port.
        """
        port = _ports.parse("tcp:80:interface=127.0.0.1", 5)
        self.assertIsInstance(port, _ports.TCPPort)

    def test_malformed(self) -> None:
        """
        What Twisted does not understand is refused, with its own words.
        """
        self.assertBad("nonsense:80", "no endpoint", "Unknown endpoint type")
        self.assertBad("tcp:http", "no endpoint", "'http' is no number")
        self.assertBad("tcp:80:interfaces=x", "it has no option 'interfaces'")
        self.assertBad("tcp:interface=127.0.0.1", "'port' is missing")
        self.assertBad("tcp:80:1:2:3", "it has too many parts")
        self.assertBad("tcp:80:port=80", "it has two values for 'port'")
        self.assertBad("systemd:domain=INET:index=9", "not among", "LISTEN_FDS")

    def test_hints(self) -> None:
        """
        What can be guessed is told in the right form.
        """
        for description, meant in (
            ("tcp6:80:interface=::1", r"tcp6:80:interface=\:\:1"),
            ("tcp6:80:interface=[::1]:backlog=5", r"tcp6:80:interface=\:\:1:backlog=5"),
            ("http=tcp:80:interface=fe80::1%eth0", r"tcp:80:interface=fe80\:\:1%eth0"),
            ("127.0.0.1:80", "tcp:80:interface=127.0.0.1"),
            ("tcp:127.0.0.1:80", "tcp:80:interface=127.0.0.1"),
            ("localhost:80", "tcp:80:interface=localhost"),
            ("[::1]:80", r"tcp6:80:interface=\:\:1"),
            (":80", "80"),
            ("*:80", "80"),
            ("/run/www.sock", "unix:/run/www.sock"),
        ):
            how = "such as " if ":" not in description else "write it as '"
            self.assertBad(description, f"{how}{meant}")
            _ports.parse(meant, 5)
        error = self.assertRaises(BadDescription, _ports.parseShared, "udp:[::1]:53", 5)
        self.assertIn(r": write it as 'udp6:53:interface=\:\:1'", str(error))
        for description in ("http", "tcp:http", "http:80", "tcp:80:interfaces=::1"):
            error = self.assertRaises(BadDescription, _ports.parse, description, 5)
            self.assertNotIn("write it as", str(error))

    def test_wordlessError(self) -> None:
        """
        An error without any words is told by its name, and one of many lines
        by its first.
        """
        for error, told in (
            (LookupError(), ": LookupError"),
            (LookupError("first\nsecond"), ": first"),
        ):

            def fail(*args: object, error: Exception = error) -> None:
                raise error

            self.patch(_ports, "serverFromString", fail)
            self.assertBad("tcp:80", told)

    def test_wrapper(self) -> None:
        """
        Endpoints that add something to their sockets are refused: that would
        silently be missing.
        """
        for description in ("haproxy:tcp:80", "stdio:"):
            self.assertBad(description, f"{description!r} is not a plain port")

    def test_tls(self) -> None:
        """
        So is TLS, where it is installed.
        """
        self.patch(
            _ports,
            "serverFromString",
            lambda reactor, description: endpoints.SSL4ServerEndpoint(
                reactor, 443, None
            ),
        )
        self.assertBad("ssl:443", "'ssl:443' is not a plain port", "leave TLS")

    def test_tlsMissing(self) -> None:
        """
        TLS is refused where it is not installed, too.
        """
        self.assertBad("ssl:443", "'ssl:443' is ")


class NumberedPortTests(SynchronousTestCase):
    """
    Tests for ports that are given as numbers.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def bind(self, number: int = 0, backlog: int = 5) -> list[BoundPort]:
        """
        Bind, until the test is over.
        """
        bound = _ports.bind(_ports.parse(str(number), backlog))
        for port in bound:
            self.addCleanup(port.socket.close)
        return bound

    def assertCannotBind(self, number: int) -> str:
        """
        Expect that it cannot be bound.

        @return: the reason.
        """
        return str(self.assertRaises(CannotBind, self.bind, number))

    def failCreating(self, family: int, number: int) -> None:
        """
        Have the sockets of a family fail with this error.
        """
        create = socket.create_server

        def createServer(*args: Any, **keywords: Any) -> socket.socket:
            if keywords["family"] == family:
                raise OSError(number, os.strerror(number))
            return create(*args, **keywords)

        self.patch(socket, "create_server", createServer)

    def test_everyInterface(self) -> None:
        """
        It is bound on every interface, IPv4 and IPv6, under the same number.
        """
        first, second = self.bind()
        number = first.socket.getsockname()[1]
        self.assertEqual(first.address, InternetAddress("TCP", "0.0.0.0", number))
        self.assertEqual(second.address, InternetAddress("TCP", "::", number))
        self.assertEqual(first.label, f"tcp:0.0.0.0:{number}")
        self.assertEqual(second.label, f"tcp6:[::]:{number}")

    def test_number(self) -> None:
        """
        The number is the one that was given.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        self.assertEqual(
            [port.socket.getsockname()[1] for port in self.bind(number)], [number] * 2
        )

    def test_named(self) -> None:
        """
        A name is that of both, and is told with the address.
        """
        bound = _ports.bind(_ports.parse("http=0", 5))
        for port in bound:
            self.addCleanup(port.socket.close)
        self.assertEqual([port.name for port in bound], ["http", "http"])
        number = bound[0].socket.getsockname()[1]
        self.assertEqual(bound[0].label, f"http=tcp:0.0.0.0:{number}")
        self.assertEqual([port.name for port in self.bind()], ["", ""])

    def test_accepts(self) -> None:
        """
        Clients of either family connect, each to the socket of theirs.
        """
        for port, host in zip(self.bind(), ("127.0.0.1", "::1"), strict=True):
            number = port.socket.getsockname()[1]
            with socket.create_connection((host, number)) as client:
                port.socket.setblocking(True)
                accepted, address = port.socket.accept()
                accepted.close()
                self.assertEqual(address, client.getsockname())

    def test_nonBlocking(self) -> None:
        """
        The sockets do not block.
        """
        for port in self.bind():
            self.assertRaises(BlockingIOError, port.socket.accept)

    def test_notInherited(self) -> None:
        """
        Programs that the process runs do not inherit the sockets.
        """
        for port in self.bind():
            self.assertFalse(port.socket.get_inheritable())

    def test_backlog(self) -> None:
        """
        The backlog is as long as was asked for.
        """
        for port in self.bind(backlog=77):
            self.assertEqual(backlogOf(port.socket), 77)

    def test_cleanUp(self) -> None:
        """
        There is nothing to clean up.
        """
        for port in self.bind():
            port.socket.close()
            port.cleanUp()

    def test_rebindable(self) -> None:
        """
        Connections that linger from before do not keep a port from being bound.
        """
        first, second = self.bind()
        number = first.socket.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        first.socket.setblocking(True)
        first.socket.accept()[0].close()
        client.recv(1)
        client.close()
        first.socket.close()
        second.socket.close()
        self.assertEqual(len(self.bind(number)), 2)

    def test_busy(self) -> None:
        """
        A port that somebody has cannot be bound, and the text says how to see
        who has it.
        """
        number = self.bind()[0].socket.getsockname()[1]
        self.assertEqual(
            self.assertCannotBind(number),
            f"cannot listen on port {number}: Address already in use;"
            " 'ss -lntup' shows who has it",
        )

    def test_secondBusy(self) -> None:
        """
        When it can be bound for IPv4 and not for IPv6, neither stays bound.
        """
        first, second = self.bind()
        first.socket.close()
        number = second.socket.getsockname()[1]
        self.assertIn("Address already in use", self.assertCannotBind(number))
        socket.create_server(("127.0.0.1", number)).close()

    def test_noIPv6(self) -> None:
        """
        On a host without IPv6 it is bound for IPv4 alone.
        """
        for number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            self.failCreating(socket.AF_INET6, number)
            (port,) = self.bind()
            self.assertFalse(port.address.isIPv6)

    def test_noIPv4(self) -> None:
        """
        A host without IPv4 is not provided for, and says so.
        """
        self.failCreating(socket.AF_INET, errno.EADDRNOTAVAIL)
        reason = self.assertCannotBind(80)
        self.assertIn("Cannot assign requested address; 'ip address' shows", reason)

    def test_privileged(self) -> None:
        """
        Where privilege is missing, the text says how to have it.
        """
        self.failCreating(socket.AF_INET, errno.EACCES)
        self.assertEqual(
            self.assertCannotBind(80),
            "cannot listen on port 80: Permission denied; for a port below 1024"
            " start as root and add --uid, or grant CAP_NET_BIND_SERVICE",
        )


class DescribedPortTests(SynchronousTestCase):
    """
    Tests for ports that are given as endpoint descriptions.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def bind(self, description: str, backlog: int = 77) -> BoundPort:
        """
        Bind, and close and clean up in the end.
        """
        (port,) = _ports.bind(_ports.parse(description, backlog))
        self.addCleanup(self.release, port)
        return port

    def release(self, port: BoundPort) -> None:
        """
        Close and clean up, unless that was done.
        """
        if port.socket.fileno() != -1:
            port.socket.close()
            port.cleanUp()

    def assertCannotBind(self, description: str, reason: str) -> None:
        """
        Expect that it cannot be bound, and why.
        """
        error = self.assertRaises(CannotBind, self.bind, description)
        self.assertIn(f"cannot listen on {description}: {reason}", str(error))

    def connect(self, address: object, family: int = socket.AF_INET) -> socket.socket:
        """
        Connect, as a client.
        """
        client = socket.socket(family)
        self.addCleanup(client.close)
        client.connect(address)
        return client

    def test_tcp(self) -> None:
        """
        C{tcp} is IPv4.
        """
        port = self.bind("tcp:0:interface=127.0.0.1")
        number = port.socket.getsockname()[1]
        self.assertEqual(port.address, InternetAddress("TCP", "127.0.0.1", number))
        self.assertEqual(port.socket.family, socket.AF_INET)

    def test_tcp6(self) -> None:
        """
        C{tcp6} is IPv6.
        """
        port = self.bind("tcp6:0:interface=\\:\\:1")
        number = port.socket.getsockname()[1]
        self.assertEqual(port.address, InternetAddress("TCP", "::1", number))
        self.assertEqual(port.label, f"tcp6:[::1]:{number}")

    def test_unix(self) -> None:
        """
        C{unix} is a path, with the permissions that were asked for.
        """
        path = self.mktemp()
        port = self.bind(f"unix:{path}:mode=640")
        self.assertEqual(port.address, UnixAddress(path.encode()))
        self.assertEqual(port.label, f"unix:{path}")
        self.assertEqual(os.lstat(path).st_mode & 0o777, 0o640)

    def test_nonBlocking(self) -> None:
        """
        The socket does not block.
        """
        for description in ("tcp:0:interface=127.0.0.1", f"unix:{self.mktemp()}"):
            port = self.bind(description)
            self.assertFalse(os.get_blocking(port.socket.fileno()))
            self.assertRaises(BlockingIOError, port.socket.accept)

    def test_backlog(self) -> None:
        """
        Where the description does not say, the backlog is ours.
        """
        port = self.bind("tcp:0:interface=127.0.0.1")
        self.assertEqual(backlogOf(port.socket), 77)
        path = self.mktemp()
        self.bind(f"unix:{path}", backlog=7)
        self.assertEqual(backlogOfUNIX(self, path), 7)

    def test_ownBacklog(self) -> None:
        """
        A backlog that the description gives is kept.
        """
        port = self.bind("tcp:0:interface=127.0.0.1:backlog=3")
        self.assertEqual(backlogOf(port.socket), 3)
        path = self.mktemp()
        self.bind(f"unix:{path}:backlog=3")
        self.assertEqual(backlogOfUNIX(self, path), 3)

    def test_nameLikeBacklog(self) -> None:
        """
        A path that only looks like a backlog is none.
        """
        path = self.mktemp()
        self.bind(f"unix:address={path}\\:backlog=3", backlog=7)
        self.assertEqual(backlogOfUNIX(self, f"{path}:backlog=3"), 7)

    def test_notShutDown(self) -> None:
        """
        Whoever else holds the socket goes on accepting when it was closed and
        cleaned up here.
        """
        port = self.bind("tcp:0:interface=127.0.0.1")
        with port.socket.dup() as other:
            self.release(port)
            self.connect(other.getsockname())
            other.setblocking(True)
            other.accept()[0].close()

    def test_bothFamilies(self) -> None:
        """
        C{tcp6} is IPv6 alone, and leaves the number of IPv4 to others.
        """
        number = self.bind("tcp:0").address.port
        port = self.bind(f"tcp6:{number}")
        self.assertEqual(port.address, InternetAddress("TCP", "::", number))
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            self.connect((host, number), family)
        alone = self.bind("tcp6:0").address.port
        self.assertRaises(OSError, self.connect, ("127.0.0.1", alone))

    def test_hostName(self) -> None:
        """
        An interface may have a name.
        """
        port = self.bind("tcp:0:interface=localhost")
        self.assertEqual(port.address.host, "127.0.0.1")

    def test_removesPath(self) -> None:
        """
        Cleaning up removes a path, and Twisted's lock beside it.
        """
        path = self.mktemp()
        port = self.bind(f"unix:{path}")
        self.release(port)
        self.assertEqual(os.listdir(os.path.dirname(path)), [])

    def test_pathGone(self) -> None:
        """
        Cleaning up does not mind if the path is gone.
        """
        path = self.mktemp()
        port = self.bind(f"unix:{path}")
        os.unlink(path)
        self.release(port)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_busy(self) -> None:
        """
        A port that somebody has cannot be bound, and the text says how to see
        who has it.
        """
        port = self.bind("tcp:0:interface=127.0.0.1")
        number = port.socket.getsockname()[1]
        self.assertCannotBind(
            f"tcp:{number}:interface=127.0.0.1",
            "Address already in use; 'ss -lntup' shows who has it",
        )

    def test_foreignAddress(self) -> None:
        """
        An address that is not this host's cannot be bound, and the text says
        how to see which are.
        """
        self.assertCannotBind(
            "tcp:0:interface=198.51.100.1",
            "Cannot assign requested address; 'ip address' shows the addresses",
        )

    def test_livingPath(self) -> None:
        """
        The path of a listener that lives is not stolen.
        """
        path = self.mktemp()
        self.bind(f"unix:{path}")
        self.assertCannotBind(f"unix:{path}", "Cannot acquire lock")
        self.connect(path, socket.AF_UNIX)

    def test_permissionsAtOnce(self) -> None:
        """
        The permissions of a path are right from the first moment, whatever the umask,
        and nothing changes them later: in the folder of somebody else, that could be
        another file's.
        """

        def fail(*args: object, **keywords: object) -> None:
            raise AssertionError("changed later")

        self.patch(os, "chmod", fail)
        path = self.mktemp()
        umask = os.umask(0o777)
        try:
            self.bind(f"unix:{path}")
        finally:
            self.assertEqual(os.umask(umask), 0o777)
        self.assertEqual(os.lstat(path).st_mode & 0o777, 0o666)

    def test_stalePath(self) -> None:
        """
        A path is taken over from a process that died, if its lock says so.
        """
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        os.symlink(str(child), f"{path}.lock")
        self.bind(f"unix:{path}")
        self.connect(path, socket.AF_UNIX)

    def test_noLock(self) -> None:
        """
        Without a lock there is none, and a path that is taken stays so.
        """
        path = self.mktemp()
        self.bind(f"unix:{path}:lockfile=0")
        self.assertEqual(os.listdir(os.path.dirname(path)), [os.path.basename(path)])
        self.assertCannotBind(f"unix:{path}:lockfile=0", "Address already in use")

    def test_cleanUpDenied(self) -> None:
        """
        Cleaning up does not mind if nothing may be removed any more.
        """
        path = self.mktemp()
        port = self.bind(f"unix:{path}")

        def deny(*args: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        patched = [
            self.patch(os, "unlink", deny),
            self.patch(lockfile, "rmlink", deny),
        ]
        port.cleanUp()
        for each in patched:
            each.restore()
        self.assertTrue(os.path.lexists(path))

    def test_noFolder(self) -> None:
        """
        A path whose folder is missing cannot be bound.
        """
        self.assertCannotBind(
            f"unix:{self.mktemp()}/socket",
            "No such file or directory; make the folder first",
        )

    def test_pathAdvice(self) -> None:
        """
        What is told of a path is not what would be of a number.
        """
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
        for description in (f"unix:{path}", f"unix:{path}:lockfile=0"):
            self.assertCannotBind(
                description, "Address already in use; 'ss -lxp' shows who has it"
            )
        error = OSError(errno.EACCES, "Permission denied")
        told = _ports._explain(_ports.parse("name=unix:/run/x", 5), error)
        self.assertIn("must be able to write to the folder", told)


class InheritedPortTests(SynchronousTestCase):
    """
    Tests for ports that another process made, as systemd does.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def listen(self, sock: socket.socket, address: object) -> socket.socket:
        """
        Listen, as systemd.
        """
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.listen(3)
        return sock

    def inherit(self, sock: socket.socket, domain: str = "INET") -> _ports.PortPlan:
        """
        Have the same socket passed by systemd.

        @return: the port that it becomes.
        """
        self.descriptor = os.dup(sock.fileno())
        os.set_inheritable(self.descriptor, True)
        passed = ListenFDs([self.descriptor], ["web"])
        self.patch(endpoints._SystemdParser, "_sddaemon", passed)
        return _ports.parse(f"systemd:domain={domain}:name=web", 77)

    def bind(self, sock: socket.socket, domain: str = "INET") -> BoundPort:
        """
        Inherit the same socket, and bind it.
        """
        (port,) = _ports.bind(self.inherit(sock, domain))
        self.addCleanup(port.socket.close)
        return port

    def tcp(self) -> socket.socket:
        """
        A listening TCP socket of systemd's.
        """
        return self.listen(socket.socket(), ("127.0.0.1", 0))

    def unix(self, address: str | bytes) -> socket.socket:
        """
        A listening Unix socket of systemd's.
        """
        return self.listen(socket.socket(socket.AF_UNIX), address)

    def test_same(self) -> None:
        """
        It is the descriptor that was passed, and says so itself where it
        listens.
        """
        inherited = self.tcp()
        port = self.bind(inherited)
        self.assertEqual(port.socket.fileno(), self.descriptor)
        self.assertEqual(port.address, InternetAddress("TCP", *inherited.getsockname()))

    def test_familyFromKernel(self) -> None:
        """
        The kernel knows its address family better than the description does.
        """
        inherited = self.listen(socket.socket(socket.AF_INET6), ("::1", 0))
        self.assertTrue(self.bind(inherited).address.isIPv6)

    def test_nonBlocking(self) -> None:
        """
        It does not block.
        """
        self.assertRaises(BlockingIOError, self.bind(self.tcp()).socket.accept)

    def test_notInherited(self) -> None:
        """
        Programs that the process runs do not inherit it in turn.
        """
        self.assertFalse(self.bind(self.tcp()).socket.get_inheritable())

    def test_backlog(self) -> None:
        """
        The backlog stays as long as systemd has made it.
        """
        self.assertEqual(backlogOf(self.bind(self.tcp()).socket), 3)
        path = self.mktemp()
        self.bind(self.unix(path), "UNIX")
        self.assertEqual(backlogOfUNIX(self, path), 3)

    def test_notShutDown(self) -> None:
        """
        It lives on when it was closed and cleaned up here.
        """
        inherited = self.tcp()
        port = self.bind(inherited)
        port.socket.close()
        port.cleanUp()
        client = socket.create_connection(inherited.getsockname())
        self.addCleanup(client.close)
        inherited.setblocking(True)
        inherited.accept()[0].close()

    def test_path(self) -> None:
        """
        A path keeps its permissions, and is there when all is cleaned up.
        """
        path = self.mktemp()
        inherited = self.unix(path)
        os.chmod(path, 0o600)
        port = self.bind(inherited, "UNIX")
        self.assertEqual(port.address, UnixAddress(path.encode()))
        port.socket.close()
        port.cleanUp()
        self.assertEqual(os.lstat(path).st_mode & 0o777, 0o600)

    def test_abstract(self) -> None:
        """
        A name in the abstract namespace is kept as it is.
        """
        name = b"\0portlisten-" + os.urandom(8).hex().encode()
        port = self.bind(self.unix(name), "UNIX")
        self.assertEqual(port.address, UnixAddress(name))

    def test_useless(self) -> None:
        """
        What can accept no stream connections cannot be bound, and stays open.
        """
        connected, other = socket.socketpair()
        packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (connected, other, datagrams):
            self.addCleanup(sock.close)
        for sock, reason in (
            (connected, "a stream socket that does not listen: its socket unit should"),
            (
                self.listen(packets, self.mktemp()),
                "a socket of type SOCK_SEQPACKET, not SOCK_STREAM: its socket unit"
                " should have ListenStream=",
            ),
            (
                datagrams,
                "a socket of type SOCK_DGRAM, not SOCK_STREAM: its socket unit should"
                " have ListenStream=",
            ),
        ):
            self.assertUseless(sock, reason)

    def assertUseless(self, sock: socket.socket, reason: str) -> None:
        """
        Expect that a socket cannot be used, and why.
        """
        port = self.inherit(sock)
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, _ports.bind, port)
        self.assertIn(
            "cannot listen on systemd:domain=INET:name=web: the inherited"
            f" descriptor is {reason}",
            str(error),
        )

    def test_otherProtocols(self) -> None:
        """
        A stream socket of another protocol than TCP is told by its name, with what
        the socket unit should have.
        """
        tried = 0
        for family, kind, protocol, reason in (
            (
                socket.AF_INET,
                socket.SOCK_STREAM,
                262,
                "a Multipath TCP socket, not TCP: its socket unit should have no"
                " SocketProtocol=",
            ),
            (
                socket.AF_INET,
                socket.SOCK_STREAM,
                132,
                "an SCTP socket, not TCP: its socket unit should have no"
                " SocketProtocol=",
            ),
            (
                40,
                socket.SOCK_STREAM,
                0,
                "a vsock socket: its socket unit should have a TCP port or a path in"
                " ListenStream=",
            ),
        ):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # this kernel has none
            self.addCleanup(sock.close)
            if family == 40:
                sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            sock.listen()
            self.assertUseless(sock, reason)
            tried += 1
        if not tried:
            raise SkipTest("this kernel has no other protocols")

    def test_datagrams(self) -> None:
        """
        A UDP socket has no connections to hand off.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        port = self.inherit(sock)
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, _ports.bind, port)
        self.assertIn("is a UDP socket", str(error))
        self.assertIn("use --share", str(error))

    def test_noSocket(self) -> None:
        """
        Neither can what is no socket.
        """
        with open(os.devnull) as file:
            port = self.inherit(file)  # type: ignore[arg-type]
        self.addCleanup(os.close, self.descriptor)
        error = self.assertRaises(CannotBind, _ports.bind, port)
        self.assertIn("Socket operation on non-socket", str(error))


class SharedParseTests(SynchronousTestCase):
    """
    Tests for L{_ports.parseShared}.
    """

    def parse(self, description: str) -> str:
        """
        Understand a description.

        @return: what it is to be bound as.
        """
        port = _ports.parseShared(description, 5).port
        inner = port.port if isinstance(port, _ports.NamedPort) else port
        return type(inner).__name__

    def assertBad(self, description: str, *reasons: str) -> None:
        """
        Expect that a description is refused in one line, and why.
        """
        error = self.assertRaises(BadDescription, _ports.parseShared, description, 5)
        for reason in reasons:
            self.assertIn(reason, str(error))
        self.assertEqual(len(str(error).splitlines()), 1)

    def test_asListened(self) -> None:
        """
        What can be listened on can be shared.
        """
        self.assertEqual(self.parse("80"), "NumberedPort")
        self.assertEqual(self.parse("tcp:80"), "TCPPort")
        self.assertEqual(self.parse("unix:/run/www"), "UNIXPort")
        self.assertBad("nonsense", "is no port")
        self.assertBad("ssl:443", "ssl")

    def test_name(self) -> None:
        """
        It may have a name.
        """
        port = _ports.parseShared("http=80", 5)
        self.assertEqual((port.name, str(port)), ("http", "port 80"))
        port = _ports.parseShared("udp:53", 5)
        self.assertEqual((port.name, str(port)), ("", "udp:53"))

    def test_udp(self) -> None:
        """
        UDP is understood as TCP is.
        """
        for description in (
            "udp:53",
            "dns=udp:53:interface=127.0.0.1",
            "udp6:53",
            r"udp6:53:interface=\:\:1",
            "udp:port=53",
        ):
            self.assertEqual(self.parse(description), "UDPPort")

    def test_badUDP(self) -> None:
        """
        And what is none is refused.
        """
        self.assertBad("udp:65536", "'udp:65536' is no port", "65536")
        self.assertBad("udp:-1", "-1 is no port")
        self.assertBad("udp:nonsense", "'udp:nonsense' is no port")
        self.assertBad("udp:", "is no port")
        self.assertBad("udp:53:interfaces=x", "is no port")
        self.assertBad("udp:53:backlog=5", "has no backlog")
        self.assertBad("udp:53:reuseport=2", "reuseport is for TCP ports only")

    def test_reused(self) -> None:
        """
        TCP may have several sockets.
        """
        self.assertEqual(self.parse("http=80:reuseport=4"), "NumberedPort")
        self.assertEqual(self.parse("tcp:80:reuseport=64"), "TCPPort")
        self.assertEqual(self.parse("tcp:80:reuseport=1:backlog=7"), "TCPPort")
        self.assertEqual(self.parse("tcp6:80:reuseport=2"), "TCPPort")

    def test_badReused(self) -> None:
        """
        Other ports may not, and not any number.
        """
        for count in ("0", "65", "", "x", "-1", "1e1", "1000"):
            self.assertBad(f"80:reuseport={count}", "from 1 to 64")
        self.assertBad("unix:/run/www:reuseport=2", "is for TCP ports only")
        self.assertBad("65536:reuseport=2", "is for TCP ports only")
        self.assertBad("tcp:65536:reuseport=2", "65536 is no port")
        self.assertBad("tcp:x:reuseport=2", "is no port")
        self.assertBad("80:reuseport=2:reuseport=3", "twice")

    def test_notToListenOn(self) -> None:
        """
        These are for sharing alone.
        """
        for description, reason in [
            ("dns=udp:53", "has no connections to hand off: use --share"),
            ("udp6:53", "has no connections to hand off: use --share"),
            ("tcp:80:reuseport=2", "reuseport is for --share"),
        ]:
            error = self.assertRaises(BadDescription, _ports.parse, description, 5)
            self.assertIn(reason, str(error))


class SharedBindTests(SynchronousTestCase):
    """
    Binding ports that are to be shared.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def bind(self, description: str) -> list[BoundPort]:
        """
        Bind.
        """
        bound = _ports.bind(_ports.parseShared(description, 77))
        for port in bound:
            self.addCleanup(port.cleanUp)
            for sock in port.sockets:
                self.addCleanup(sock.close)
        return bound

    def test_number(self) -> None:
        """
        A number is a socket for IPv4 and one for IPv6.
        """
        bound = self.bind("web=0")
        self.assertEqual([port.kind for port in bound], [Kind.LISTENER] * 2)
        self.assertEqual([len(port.sockets) for port in bound], [1, 1])
        self.assertTrue(bound[0].label.endswith(" (shared)"))

    def test_reused(self) -> None:
        """
        Each has as many as were asked for, all on the same port.
        """
        bound = self.bind("web=0:reuseport=3")
        self.assertEqual([port.kind for port in bound], [Kind.GROUP] * 2)
        for port in bound:
            self.assertEqual(len(port.sockets), 3)
            self.assertEqual(
                {sock.getsockname()[1] for sock in port.sockets}, {port.address.port}
            )
            for sock in port.sockets:
                self.assertEqual(backlogOf(sock), 77)
                self.assertFalse(sock.getblocking())
                self.assertFalse(sock.get_inheritable())
        self.assertTrue(bound[0].label.endswith(" (shared, 3 sockets)"))

    def test_reusedInterface(self) -> None:
        """
        Likewise on one address, with a backlog of its own.
        """
        for host in ("127.0.0.1", "\\:\\:1"):
            (port,) = self.bind(f"tcp:0:interface={host}:reuseport=2:backlog=3")
            self.assertEqual(port.address.host, host.replace("\\", ""))
            self.assertEqual([backlogOf(sock) for sock in port.sockets], [3, 3])

    def test_busy(self) -> None:
        """
        What somebody else has without it cannot be had; nothing stays bound.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            number = sock.getsockname()[1]
            description = f"tcp:{number}:interface=127.0.0.1:reuseport=2"
            error = self.assertRaises(CannotBind, self.bind, description)
            self.assertIn(f"cannot listen on {description}: Address", str(error))
            error = self.assertRaises(CannotBind, self.bind, f"{number}:reuseport=2")
            self.assertIn(f"cannot listen on port {number}: Address", str(error))

    def test_twice(self) -> None:
        """
        Nor can what another listener has with it, though the kernel would let us.
        """
        (port,) = self.bind("tcp:0:interface=127.0.0.1:reuseport=2")
        description = f"tcp:{port.address.port}:interface=127.0.0.1:reuseport=2"
        error = self.assertRaises(CannotBind, self.bind, description)
        self.assertIn("Address already in use", str(error))

    def test_udp(self) -> None:
        """
        UDP over IPv4 and IPv6, which do not take each other's port.
        """
        for description, host in [
            ("udp:0:interface=127.0.0.1", "127.0.0.1"),
            ("udp:0", "0.0.0.0"),
            ("udp6:0", "::"),
            ("udp6:0:interface=\\:\\:1", "::1"),
        ]:
            (port,) = self.bind(f"dns={description}")
            self.assertEqual((port.kind, port.address.host), (Kind.DATAGRAMS, host))
            self.assertEqual(port.address.protocol, "UDP")
            self.assertFalse(port.socket.getblocking())
        (port,) = self.bind("udp:0")
        self.bind(f"udp6:{port.address.port}")
        error = self.assertRaises(CannotBind, self.bind, f"udp:{port.address.port}")
        self.assertIn("Address already in use; 'ss -lntup'", str(error))

    def test_inheritedDatagrams(self) -> None:
        """
        What systemd has bound for UDP can be shared.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind(("127.0.0.1", 0))
        passed = ListenFDs([os.dup(sock.fileno())], ["dns"])
        self.patch(endpoints._SystemdParser, "_sddaemon", passed)
        (port,) = self.bind("dns=systemd:domain=INET:name=dns")
        self.assertEqual(port.kind, Kind.DATAGRAMS)
        self.assertEqual(port.address.port, sock.getsockname()[1])

    def test_unnamed(self) -> None:
        """
        systemd-socket-activate gives no names, and Twisted wants some.
        """
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        # The first that systemd passes is 3.
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        self.patch(_kernel, "initialEnvironment", environment.copy)
        for description in ("systemd:domain=INET:index=0", "systemd:index=0"):
            port = _ports.parse(description, 5)
            assert isinstance(port, _ports.InheritedPort)
            self.assertEqual(port._descriptor, 3)
        for description in (
            "systemd:domain=INET:index=1",
            "systemd:domain=INET:name=x",
        ):
            self.assertRaises(BadDescription, _ports.parse, description, 5)
        environment["LISTEN_PID"] = "1"
        self.assertRaises(BadDescription, _ports.parse, "systemd:index=0", 5)


class BindTests(SynchronousTestCase):
    """
    Tests for L{_ports.bind}, whatever the port.
    """

    def test_explains(self) -> None:
        """
        Each error by which a port can fail becomes one line.
        """
        for error, reason in (
            (OSError(errno.EPERM, "x"), "Operation not permitted"),
            (OSError("cannot\nat all"), "cannot"),
            (OverflowError("bind(): port must be 0-65535."), "bind(): port must be"),
            (ValueError(), "ValueError"),
            (OSError(errno.EIO, "x"), "Input/output error"),
        ):

            class Failing:
                def __str__(self) -> str:
                    return "somewhere"

                def bind(self, error: Exception = error) -> list[BoundPort]:
                    raise error

            port: Any = Failing()
            message = str(self.assertRaises(CannotBind, _ports.bind, port))
            self.assertTrue(message.startswith(f"cannot listen on somewhere: {reason}"))
            self.assertNotIn("\n", message)
