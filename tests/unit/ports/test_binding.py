"""
Tests for L{portlisten._ports.binding}.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import endpoints
from twisted.python import lockfile
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.ports import PortKind, PortSettings
from portlisten._model import InternetAddress, Kind, UnixAddress
from portlisten._policy.source_limits import Limits
from portlisten._ports import binding
from portlisten._ports.binding import BoundPort, bind, changed
from portlisten._ports.parsing import parse
from portlisten.errors import CannotBind
from tests.support.addresses import internet
from tests.support.backlogs import backlogOf, backlogOfUNIX
from tests.support.descriptors import descriptors, watchDescriptors


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
        bound = bind(parse(str(number), backlog))
        for port in bound:
            self.addCleanup(port.socket.close)
        return bound

    def assertCannotBind(self, number: int) -> str:
        """
        Expect that it cannot be bound.

        @return: the reason.
        """
        return str(self.assertRaises(CannotBind, self.bind, number))

    def failBinding(self, family: int, number: int) -> None:
        """
        Make the sockets of a family fail with this error.
        """
        original = socket.socket.bind

        def fail(sock: socket.socket, address: Any) -> None:
            if sock.family == family:
                raise OSError(number, os.strerror(number))
            original(sock, address)

        self.patch(socket.socket, "bind", fail)

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
        for _ in range(20):
            with socket.create_server(("127.0.0.1", 0)) as free:
                number = free.getsockname()[1]
            try:
                bound = self.bind(number)
            except CannotBind:
                continue  # another process has taken it meanwhile
            break
        numbers = [port.socket.getsockname()[1] for port in bound]
        self.assertEqual(numbers, [number] * 2)

    def test_named(self) -> None:
        """
        A name is that of both, and is told with the address.
        """
        bound = bind(parse("http=0", 5))
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

    def occupyChosen(self, times: int) -> None:
        """
        Let somebody have the first numbers that the kernel chooses, for IPv6.
        """
        original = socket.socket.bind

        def bind(sock: socket.socket, address: Any) -> None:
            nonlocal times
            original(sock, address)
            if sock.family == socket.AF_INET and times > 0:
                times -= 1
                other = socket.socket(socket.AF_INET6)
                self.addCleanup(other.close)
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                original(other, ("::", sock.getsockname()[1]))

        self.patch(socket.socket, "bind", bind)

    def test_chosenBusy(self) -> None:
        """
        With port 0, a number that is free for IPv4 alone is not taken.
        """
        self.occupyChosen(5)
        first, second = (port.socket.getsockname()[1] for port in self.bind(0))
        self.assertEqual(first, second)

    def test_chosenAlwaysBusy(self) -> None:
        """
        If none is free for both, it fails, and nothing stays bound.
        """
        self.occupyChosen(1000)
        self.assertIn("Address already in use", self.assertCannotBind(0))

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
            self.failBinding(socket.AF_INET6, number)
            (port,) = self.bind()
            self.assertFalse(internet(port.address).isIPv6)

    def test_noIPv4(self) -> None:
        """
        A host without IPv4 is not provided for, and says so.
        """
        self.failBinding(socket.AF_INET, errno.EADDRNOTAVAIL)
        reason = self.assertCannotBind(80)
        self.assertIn("Cannot assign requested address; 'ip address' shows", reason)

    def test_privileged(self) -> None:
        """
        Where privilege is missing, the text says how to have it.
        """
        self.failBinding(socket.AF_INET, errno.EACCES)
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
        (port,) = bind(parse(description, backlog))
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

    def connect(self, address: Any, family: int = socket.AF_INET) -> socket.socket:
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
        number = internet(self.bind("tcp:0").address).port
        port = self.bind(f"tcp6:{number}")
        self.assertEqual(port.address, InternetAddress("TCP", "::", number))
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            self.connect((host, number), family)
        alone = internet(self.bind("tcp6:0").address).port
        self.assertRaises(OSError, self.connect, ("127.0.0.1", alone))

    def test_hostName(self) -> None:
        """
        An interface may have a name.
        """
        port = self.bind("tcp:0:interface=localhost")
        self.assertEqual(internet(port.address).host, "127.0.0.1")

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
        and nothing changes them later: in another user's folder, a change could hit
        another file.
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
        Without a lock no lock file is made, and a path that is in use stays in use.
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
        told = binding._explain(parse("name=unix:/run/x", 5), error)
        self.assertIn("must be able to write to the folder", told)


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
        bound = bind(parse(description, 77, shared=True))
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
                {sock.getsockname()[1] for sock in port.sockets},
                {internet(port.address).port},
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
            self.assertEqual(internet(port.address).host, host.replace("\\", ""))
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
        description = (
            f"tcp:{internet(port.address).port}:interface=127.0.0.1:reuseport=2"
        )
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
            self.assertEqual(
                (port.kind, internet(port.address).host), (Kind.DATAGRAMS, host)
            )
            self.assertEqual(internet(port.address).protocol, "UDP")
            self.assertFalse(port.socket.getblocking())
        (port,) = self.bind("udp:0")
        self.bind(f"udp6:{internet(port.address).port}")
        error = self.assertRaises(
            CannotBind, self.bind, f"udp:{internet(port.address).port}"
        )
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
        self.assertEqual(internet(port.address).port, sock.getsockname()[1])


class LimitsTests(SynchronousTestCase):
    """
    The limits of ports.
    """

    def test_bound(self) -> None:
        """
        Each port of a description has its limits, and loses them with another one.
        """
        watchDescriptors(self)
        ports = bind(parse("0:max=5", 5))
        for port in ports:
            self.addCleanup(port.close)
            self.assertEqual(port.limits, Limits(most=5, fair=False))
            self.assertIsNone(changed(port, parse("0", 5)).limits)


class BindTests(SynchronousTestCase):
    """
    Tests for L{bind}, for any port.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

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

            def fail(*args: object, error: Exception = error) -> None:
                raise error

            self.patch(socket.socket, "bind", fail)
            port = PortSettings(PortKind.TCP, "somewhere")
            message = str(self.assertRaises(CannotBind, bind, port))
            self.assertTrue(message.startswith(f"cannot listen on somewhere: {reason}"))
            self.assertNotIn("\n", message)

    def test_impossibleNumber(self) -> None:
        """
        A number that no port has is refused when it is bound.
        """
        for number in (65536, -1):
            port = parse(f"tcp:{number}", 5)
            error = self.assertRaises(CannotBind, bind, port)
            self.assertEqual(
                str(error),
                f"cannot listen on tcp:{number}: bind(): port must be 0-65535.",
            )
            self.assertEqual(error.errno, 0)

    def test_unknownHost(self) -> None:
        """
        The error of a name that has no address is told in the resolver's words.
        """
        port = parse("tcp:0:interface=host.invalid", 5)

        def fail(*args: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        self.patch(socket.socket, "bind", fail)
        error = self.assertRaises(CannotBind, bind, port)
        self.assertEqual(
            str(error), f"cannot listen on {port}: Name or service not known"
        )

    def failCall(self, number: int) -> list[str]:
        """
        Make one of the next calls of sockets' methods fail.

        @param number: how many calls before it succeed.
        @return: gets the names of the methods that are called.
        """
        called: list[str] = []

        def patch(name: str) -> None:
            original = getattr(socket.socket, name)

            def call(*args: Any) -> Any:
                called.append(name)
                if len(called) == number + 1:
                    raise OSError(errno.EIO, "Input/output error")
                return original(*args)

            patched = self.patch(socket.socket, name, call)
            self.patched.append(patched)

        self.patched: list[Any] = []
        for name in ("setsockopt", "bind", "listen", "getsockname", "setblocking"):
            patch(name)
        return called

    def assertNothingLeft(self, description: str, shared: bool) -> int:
        """
        Expect that nothing is left of a port after each call that fails.

        @return: how many calls it takes to bind it.
        """
        before = descriptors()
        for number in range(100):
            self.failCall(number)
            try:
                bound = bind(parse(description, 5, shared))
            except CannotBind as error:
                # The error keeps what nobody closed from being collected.
                self.assertEqual(descriptors(), before, error)
                self.assertEqual(os.listdir("."), [])
            else:
                break
            finally:
                for each in self.patched:
                    each.restore()
        for port in bound:
            port.cleanUp()
            for sock in port.sockets:
                sock.close()
        return number

    def test_nothingLeft(self) -> None:
        """
        If any call fails, what was opened before is closed, and what was made is
        removed.
        """
        folder, here = self.mktemp(), os.getcwd()
        os.makedirs(folder)
        self.addCleanup(os.chdir, here)
        os.chdir(folder)
        for description, shared, calls in (
            ("0", False, 9),
            ("tcp:0:interface=127.0.0.1", False, 4),
            ("tcp:0:interface=127.0.0.1:reuseport=3", True, 15),
            ("0:reuseport=2", True, 20),
            ("udp6:0", True, 2),
            ("0:nodelay=yes:keepalive=9:defer=1:freebind=yes:device=lo", True, 21),
            ("unix:it", False, 2),
        ):
            self.assertGreaterEqual(
                self.assertNothingLeft(description, shared), calls, description
            )
        for description in ("tcp:0:backlog=", "unix:it:backlog="):
            before = descriptors()
            port = parse(f"{description}{2**40}", 5)
            error = self.assertRaises(CannotBind, bind, port)
            self.assertEqual(descriptors(), before, error)
            self.assertEqual(os.listdir("."), [])
