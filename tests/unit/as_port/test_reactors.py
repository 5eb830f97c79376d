"""
Tests for L{portlisten._as_port.reactors} and L{portlisten._as_port.port}: a reactor
that is Twisted's, and a listener made by hand.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from portlisten._as_port.mappings import parse
from portlisten._as_port.port import MappedPort
from portlisten._as_port.reactors import Interception
from portlisten._wire.frames import Drain, Drained, WorkerHello
from tests.support import workers
from tests.support.channels import aMoment, eventually, inReactor, tcpPair, texts
from tests.support.descriptors import watchDescriptors
from tests.support.tls import needsTLS

reactor: Any = _reactor


class RecordingWatch:
    """
    Records what a program listens on.
    """

    def __init__(self) -> None:
        self.reactors: list[object] = []
        self.mapped: list[str] = []
        self.others: list[str] = []

    def madeReactor(self, made: object) -> None:
        self.reactors.append(made)

    def listensOn(self, mapping: Any) -> None:
        self.mapped.append(mapping.port)

    def listensElsewhere(self, port: str) -> None:
        self.others.append(port)


class InterceptionTestCase(TestCase):
    """
    The reactor of the tests, with some ports mapped.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        watchDescriptors(self)
        # The path that a mapping has is absolute, and a temporary one is long.
        folder = TemporaryDirectory(prefix="portlisten.")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "path")
        self.watch: Any = RecordingWatch()
        self.ports: list[Any] = []
        self.factory: Any = Factory.forProtocol(Protocol)
        self.addCleanup(self.stopAll)

    async def stopAll(self) -> None:
        for port in self.ports:
            await port.stopListening()
        await aMoment()
        gc.collect()  # Twisted 24.7 does not close the socket of a bind that failed

    def install(self, *ports: str) -> None:
        """
        Map ports to the path.
        """
        mappings = [parse(f"{port}={self.path}:grace=5") for port in ports]
        interception = Interception([(each, None) for each in mappings], self.watch)
        interception.install()
        self.addCleanup(interception.remove)

    def listen(self, *arguments: Any, **named: Any) -> Any:
        """
        Listen as a program does.
        """
        port = reactor.listenTCP(*arguments, **named)
        self.ports.append(port)
        return port

    def listener(self) -> workers.Listener:
        """
        Start a listener.
        """
        listener = workers.Listener(self.path)
        self.addCleanup(listener.close)
        listener.greeting = (workers.NAMED,)
        return listener

    def warnings(self, act: Callable[[], object]) -> list[str]:
        """
        Return the warnings that something causes.
        """
        with capturedLogs() as logged:
            act()
        return texts(cast(list[dict[str, Any]], logged), "warn")


class ListenTests(InterceptionTestCase):
    """
    What C{reactor.listenTCP} does.
    """

    async def test_joins(self) -> None:
        """
        A mapped port joins the listener, binds nothing, and is what a program expects.
        """
        listener = self.listener()
        self.install("6800")
        port = self.listen(6800, self.factory, backlog=7)
        verifyObject(IListeningPort, port)
        self.assertEqual(port.getHost(), IPv4Address("TCP", "0.0.0.0", 6800))
        self.assertEqual((port.port, port._realPortNumber), (6800, 6800))
        self.assertEqual((port.interface, port.backlog), ("", 7))
        self.assertIs(port.factory, self.factory)
        self.assertIs(port.reactor, reactor)
        self.assertTrue(port.connected)
        self.assertIn("6800", repr(port))
        self.assertEqual(self.factory.numPorts, 1)
        await eventually(listener.accept)
        await eventually(lambda: listener.channel.heard(WorkerHello))
        self.assertEqual((self.watch.mapped, self.watch.others), (["6800"], []))
        with socket.socket() as client:
            connected = client.connect_ex(("127.0.0.1", 6800))
        self.assertEqual(connected, errno.ECONNREFUSED)

    async def test_endpoint(self) -> None:
        """
        Twisted's own endpoints listen in the same way.
        """
        self.install("6800")
        endpoint: Any = TCP4ServerEndpoint(reactor, 6800)
        port = await endpoint.listen(self.factory)
        self.assertIsInstance(port, MappedPort)
        await cast(MappedPort, port).loseConnection()

    async def test_serviceName(self) -> None:
        """
        The port may be the name of a service.
        """
        self.install("80")
        self.assertEqual(self.listen("http", self.factory).port, 80)

    async def test_others(self) -> None:
        """
        Other ports are bound as ever, and errors are those of the reactor.
        """
        self.install("6800", "127.0.0.2:6801")
        port = self.listen(0, self.factory, interface="127.0.0.1")
        number = port.getHost().port
        socket.create_connection(("127.0.0.1", number)).close()
        self.assertEqual(self.watch.others, [f"127.0.0.1:{number}"])
        self.assertRaises(
            CannotListenError, self.listen, number, self.factory, 50, "127.0.0.1"
        )

    async def test_address(self) -> None:
        """
        A mapping with an address is of that address alone, also if the program gives
        its name.
        """
        self.install("127.0.0.1:6800", "[::1]:6800")
        port = self.listen(6800, self.factory, interface="localhost")
        self.assertIsInstance(port, MappedPort)
        self.assertEqual(port.getHost(), IPv4Address("TCP", "127.0.0.1", 6800))
        six = self.listen(6800, self.factory, interface="0:0::1")
        self.assertIsInstance(six, MappedPort)
        self.assertEqual(six.getHost(), IPv6Address("TCP", "::1", 6800))
        self.assertEqual(six.addressFamily, socket.AF_INET6)
        other = self.listen(6800, self.factory, interface="127.0.0.2")
        self.assertNotIsInstance(other, MappedPort)

    async def test_taken(self) -> None:
        """
        A port that listens already cannot do so again, as in the kernel.
        """
        self.install("6800")
        port = self.listen(6800, self.factory, interface="127.0.0.1")
        for interface in ("127.0.0.1", "", "::"):
            error = self.assertRaises(
                CannotListenError, self.listen, 6800, self.factory, interface=interface
            )
            self.assertEqual(error.socketError.errno, errno.EADDRINUSE)
            self.assertEqual((error.interface, error.port), (interface, 6800))
        self.assertRaises(CannotListenError, port.startListening)
        self.assertEqual(self.factory.numPorts, 1)
        self.listen(6800, self.factory, interface="::1")
        self.assertEqual(self.factory.numPorts, 2)

    async def test_otherFactory(self) -> None:
        """
        Two factories on the addresses of one mapping cause a warning.
        """
        self.install("6800")
        self.listen(6800, self.factory, interface="127.0.0.1")

        def listen(factory: Any, interface: str) -> Callable[[], object]:
            return lambda: self.listen(6800, factory, interface=interface)

        self.assertEqual(self.warnings(listen(self.factory, "::1")), [])
        (warning,) = self.warnings(listen(Factory(), "127.0.0.2"))
        self.assertIn("127.0.0.1:6800 and on 127.0.0.2:6800", warning.splitlines()[0])

    async def test_again(self) -> None:
        """
        A port that was stopped is free, and starts again.
        """
        listener = self.listener()
        self.install("6800")
        port = self.listen(6800, self.factory)
        await eventually(listener.accept)
        await eventually(lambda: listener.channel.heard(WorkerHello))
        await eventually(lambda: port._listening._worker.ports)
        stopped: Deferred[None] = port.stopListening()
        self.assertFalse(port.connected)
        self.assertTrue(port.disconnecting)
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await stopped
        self.assertFalse(port.disconnecting)
        await eventually(lambda: self.factory.numPorts == 0)
        self.assertIsNone(port._realPortNumber)
        self.assertIsNone(await port.stopListening())
        port.startListening()
        self.assertEqual(self.factory.numPorts, 1)
        await eventually(listener.accept)

    async def test_stopsAtOnce(self) -> None:
        """
        A stopped port does not wait for the connections in service, but the reactor
        does when it stops.
        """
        listener = self.listener()
        self.install("6800")
        port = self.listen(6800, self.factory)
        await eventually(listener.accept)
        await eventually(lambda: port._listening._worker.ports)
        listening, made = port._listening, tcpPair()
        with made[0]:
            listener.handOff(1, made[1])
            await eventually(lambda: listening._worker.serving)
            stopped = port.stopListening()
            await eventually(lambda: listener.channel.heard(Drain))
            listener.channel.say(Drained())
            await stopped
            self.assertTrue(listening._worker.serving)
            self.assertEqual(self.factory.numPorts, 1)
            self.assertIsNotNone(listening._trigger)
        await eventually(lambda: self.factory.numPorts == 0)
        self.assertIsNone(listening._trigger)

    async def test_stoppedBeforeItJoined(self) -> None:
        """
        A port that has found no listener stops at once.
        """
        self.install("6800")
        port = self.listen(6800, self.factory)
        self.assertIsNone(self.successResultOf(port.loseConnection()))
        self.assertEqual(self.factory.numPorts, 0)
        self.listen(6800, self.factory)
        self.assertEqual(self.factory.numPorts, 1)

    async def test_factoryFails(self) -> None:
        """
        An error of the factory's start comes out of the call, and the port is free.
        """
        self.install("6800")

        class Broken(Factory):
            def startFactory(self) -> None:
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, self.listen, 6800, Broken())
        self.listen(6800, self.factory)

    async def test_impossiblePath(self) -> None:
        """
        A path that has become impossible is an error as of a port.
        """
        self.install("6800")
        with open(self.path, "w"):
            pass
        error = self.assertRaises(CannotListenError, self.listen, 6800, self.factory)
        self.assertIn("exists and is no socket", str(error))

    async def test_tls(self) -> None:
        """
        C{listenSSL} joins the listener as well.
        """
        if needsTLS:
            self.skipTest(needsTLS)
        from twisted.internet.ssl import CertificateOptions

        listener = self.listener()
        self.install("6800")
        port = reactor.listenSSL(6800, self.factory, CertificateOptions())
        self.ports.append(port)
        self.assertIsInstance(port, MappedPort)
        await eventually(listener.accept)
        await eventually(lambda: listener.channel.heard(WorkerHello))
        self.assertEqual(listener.channel.heard(WorkerHello)[0].first, 2000)

    async def test_udp(self) -> None:
        """
        A UDP port of a mapped number is bound as ever, with one warning.
        """
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            number = sock.getsockname()[1]
        self.install(str(number))

        def listen(interface: str) -> Callable[[], object]:
            return lambda: self.ports.append(
                reactor.listenUDP(number, DatagramProtocol(), interface)
            )

        (warning,) = self.warnings(listen("127.0.0.1"))
        self.assertIn(f"binds UDP port {number} itself", warning)
        self.assertEqual(self.warnings(listen("127.0.0.2")), [])
        self.assertEqual(
            self.watch.others,
            [f"127.0.0.1:{number} (UDP)", f"127.0.0.2:{number} (UDP)"],
        )
        self.assertEqual(self.ports[0].getHost().port, number)
        self.ports.append(reactor.listenUDP(0, DatagramProtocol()))
        self.assertEqual(len(self.watch.others), 2)

    async def test_adopted(self) -> None:
        """
        A socket that the program has bound to a mapped number gives way to the
        listener, and stays the program's.  Other sockets are adopted as ever.
        """
        with socket.create_server(("127.0.0.1", 0)) as mapped:
            number = mapped.getsockname()[1]
            self.install(f"127.0.0.1:{number}")
            mapped.setblocking(False)
            adopt = (mapped.fileno(), socket.AF_INET, self.factory)
            port = reactor.adoptStreamPort(*adopt)
            self.ports.append(port)
            self.assertEqual(port.getHost(), IPv4Address("TCP", "127.0.0.1", number))
            self.assertIsInstance(port, MappedPort)
            self.assertEqual(mapped.getsockname()[1], number)
        with socket.create_server(("127.0.0.2", number)) as other:
            other.setblocking(False)
            adopt = (other.fileno(), socket.AF_INET, self.factory)
            self.ports.append(reactor.adoptStreamPort(*adopt))
        socket.create_connection(("127.0.0.2", number)).close()
        self.assertEqual(self.watch.others, [f"127.0.0.2:{number}"])

    async def test_shared(self) -> None:
        """
        A socket that the listener shares is adopted, whatever its number.
        """
        with socket.create_server(("127.0.0.1", 0)) as shared:
            shared.setblocking(False)
            self.install(str(shared.getsockname()[1]))

            class Ours(Factory):
                __module__ = "portlisten._worker.some"

            adopt = (shared.fileno(), socket.AF_INET, Ours())
            self.ports.append(reactor.adoptStreamPort(*adopt))
        self.assertNotIsInstance(self.ports[0], MappedPort)
        self.assertEqual((self.watch.mapped, self.watch.others), ([], []))

    async def test_paused(self) -> None:
        """
        A port cannot be paused, and says so once.
        """
        self.install("6800")
        port = self.listen(6800, self.factory)
        (warning,) = self.warnings(port.pauseProducing)
        self.assertIn("pauses its port 0.0.0.0:6800", warning.splitlines()[0])
        self.assertIn("say limit=N after", warning.splitlines()[0])
        port.resumeProducing()
        self.assertEqual(self.warnings(port.stopReading), [])

    async def test_install(self) -> None:
        """
        The watch knows of each reactor, and all is as it was after the removal.
        """
        names = ("__init__", "listenTCP", "listenUDP", "adoptStreamPort")
        before = [getattr(PosixReactorBase, name) for name in names]
        interception = Interception([], self.watch)
        interception.install()
        made = SelectReactor()
        interception.remove()
        self.assertEqual(self.watch.reactors, [reactor, made])
        self.assertEqual([getattr(PosixReactorBase, name) for name in names], before)
        made.removeAll()
        for each in (made.waker.i, made.waker.o):
            os.close(each) if isinstance(each, int) else each.close()
