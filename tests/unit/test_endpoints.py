"""
Tests for L{portlisten.endpoints}.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._model import InternetAddress, Kind, Port
from portlisten._wire.frames import (
    Closed,
    Drain,
    Drained,
    ListenerHello,
    WorkerHello,
)
from portlisten._wire.frames import Listener as ListenerFrame
from portlisten.endpoints import (
    DatagramServerEndpoint,
    PortlistenServerEndpoint,
    PortlistenUDPEndpoint,
    parse,
)
from portlisten.errors import EndpointError
from tests.support import workers
from tests.support.channels import aMoment, eventually, tcpPair
from tests.support.commands import endpointRefusal
from tests.support.tls import OpenSSL, certify, needsTLS
from twisted.plugins.portlisten_endpoint import parser

reactor: Any = _reactor


def remember(triggers: list[Any]) -> Callable[..., Any]:
    """
    Make what adds triggers to a reactor, and keeps them.
    """

    def add(*what: Any) -> Any:
        triggers.append(what)
        return what

    return add


def quoted(path: str) -> str:
    """
    A path as descriptions take it, from here.
    """
    return path.replace(":", r"\:")


class ParserTests(SynchronousTestCase):
    """
    From a description to an endpoint.
    """

    def understand(self, description: str) -> dict[str, Any]:
        """
        What an endpoint is made with.
        """
        endpoint = serverFromString(reactor, description)
        self.assertIsInstance(endpoint, PortlistenServerEndpoint)
        return {name.lstrip("_"): value for name, value in vars(endpoint).items()}

    def refusal(self, description: str) -> str:
        """
        Why a description is refused, which has to be one line.
        """
        return endpointRefusal(self, serverFromString, reactor, description)

    def test_plugin(self) -> None:
        """
        Twisted finds the parser.
        """
        verifyObject(IPlugin, parser)
        verifyObject(IStreamServerEndpointStringParser, parser)

    def test_defaults(self) -> None:
        """
        A path is enough.
        """
        self.assertEqual(
            self.understand("portlisten:/run/web.sock"),
            {
                "reactor": reactor,
                "path": "/run/web.sock",
                "names": (),
                "proxies": [],
                "grace": 10.0,
                "listenerUsers": (),
                "retry": 0.1,
                "contextFactory": None,
                "limit": None,
                "first": None,
                "label": "",
            },
        )

    def test_given(self) -> None:
        """
        Each option can be given, and some have several values.
        """
        user = pwd.getpwuid(os.getuid()).pw_name
        understood = self.understand(
            f"portlisten:web.sock:name=http,www-2:grace=2.5:listenerUser={user},0"
        )
        self.assertEqual(understood["names"], ("http", "www-2"))
        self.assertEqual(understood["grace"], 2.5)
        self.assertEqual(understood["listenerUsers"], (os.getuid(), 0))
        understood = self.understand("portlisten:s:limit=7:first=no:label=web-1")
        self.assertEqual(
            [understood[name] for name in ("limit", "first", "label")],
            [7, 0.0, "web-1"],
        )

    def test_labelOfTheEnvironment(self) -> None:
        """
        Without the option, the environment gives the label.  A bad one is refused.
        """
        self.patch(os, "environ", {"PORTLISTEN_LABEL": "web-2"})
        self.assertEqual(self.understand("portlisten:s")["label"], "web-2")
        self.assertEqual(self.understand("portlisten:s:label=a")["label"], "a")
        self.assertEqual(PortlistenUDPEndpoint(reactor, "s")._label, "web-2")
        os.environ["PORTLISTEN_LABEL"] = "7"
        self.assertIn(
            "PORTLISTEN_LABEL: '7' is no label for a worker",
            self.refusal("portlisten:s"),
        )

    def test_path(self) -> None:
        """
        There is one path.
        """
        for description in ("portlisten:", "portlisten:a:b", "portlisten:name=http"):
            self.assertIn("a description has one path", self.refusal(description))

    def test_unknownOption(self) -> None:
        """
        An option that does not exist is refused, and the error lists the options that
        do.
        """
        self.assertEqual(
            self.refusal("portlisten:web.sock:nam=http"),
            "portlisten: a description with wire=stream has no option 'nam', only name,"
            " grace, listenerUser, limit, first, label, proxyFrom, retry, privateKey,"
            " certKey, extraCertChain, dhParameters",
        )

    def test_datagram(self) -> None:
        """
        The wire of 2002 has an endpoint of its own.
        """
        endpoint = serverFromString(
            reactor,
            "portlisten:web.sock:wire=datagram:mode=0600:group=0:replace=yes:grace=2",
        )
        self.assertIsInstance(endpoint, DatagramServerEndpoint)
        self.assertEqual(
            {name.lstrip("_"): value for name, value in vars(endpoint).items()},
            {
                "reactor": reactor,
                "path": "web.sock",
                "grace": 2.0,
                "mode": 0o600,
                "group": 0,
                "replace": True,
                "contextFactory": None,
            },
        )
        endpoint = serverFromString(reactor, "portlisten:s:wire=datagram:replace=no")
        self.assertFalse(endpoint._replace)

    def test_otherWire(self) -> None:
        """
        An option that goes with the other wire only is refused.
        """
        for option in ("name=http", "listenerUser=0", "limit=1", "first=no", "label=x"):
            self.assertIn(
                f"wire=datagram has no option {option.partition('=')[0]!r}",
                self.refusal(f"portlisten:web.sock:wire=datagram:{option}"),
            )
        for option in ("mode=0600", "group=0", "replace=yes"):
            self.assertIn(
                f"wire=stream has no option {option.partition('=')[0]!r}",
                self.refusal(f"portlisten:web.sock:{option}"),
            )

    def test_badValues(self) -> None:
        """
        What an option cannot be is refused, with its name.
        """
        for option, why in [
            ("name=", "name: '' is no name for a port"),
            ("name=http,", "name: '' is no name for a port"),
            ("name=a/b", "name: 'a/b' is no name for a port"),
            ("grace=-1", "grace: '-1' is not a number of at least 0"),
            ("grace=soon", "grace: 'soon' is not a number of at least 0"),
            ("listenerUser=no such", "listenerUser: the user 'no such' does not exist"),
            ("limit=0", "limit: '0' is not a whole number from 1 to 4294967295"),
            ("first=0", "first: '0' is not a number from 0.001 to 65.535, and neither"),
            ("label=7", "label: '7' is no label for a worker: give up to 63 letters"),
            ("wire=carrier", "wire: 'carrier' is none of stream, datagram"),
            ("wire=datagram:mode=9", "mode: '9' is not an octal mode such as 0660"),
            (
                "wire=datagram:group=no such",
                "group: the group 'no such' does not exist",
            ),
            ("wire=datagram:replace=1", "replace: '1' is none of yes, no"),
        ]:
            self.assertIn(why, self.refusal(f"portlisten:web.sock:{option}"))

    def test_exit(self) -> None:
        """
        A program that lets the error pass ends with that line, and any other may
        catch it as a L{ValueError}.
        """
        error = self.assertRaises(ValueError, parse, reactor)
        self.assertIsInstance(error, SystemExit)
        self.assertEqual(error.code, str(error))

    def test_elsewhere(self) -> None:
        """
        Other systems than Linux are refused.
        """
        self.patch(sys, "platform", "win32")
        self.assertIn("needs Linux, and this is win32", self.refusal("portlisten:path"))


class ParserTLSTests(SynchronousTestCase):
    """
    The options of a description that make it TLS.
    """

    if needsTLS:
        skip = needsTLS

    def test_files(self) -> None:
        """
        They are files, whose names may be any, and which are read at once.
        """
        os.makedirs(folder := os.path.dirname(self.mktemp()), exist_ok=True)
        files = certify(os.path.join(folder, "a:b"))
        key, certificate = (path.replace(":", r"\:") for path in files)
        endpoint = serverFromString(
            reactor, f"portlisten:web.sock:privateKey={key}:certKey={certificate}"
        )
        for path in files:
            os.unlink(path)
        self.assertIsInstance(
            endpoint._contextFactory.getContext(), OpenSSL.SSL.Context
        )

    def test_refused(self) -> None:
        """
        A description whose files do not load is refused.
        """
        error = self.assertRaises(
            EndpointError,
            serverFromString,
            reactor,
            "portlisten:web.sock:certKey=missing.pem",
        )
        self.assertEqual(
            str(error), "portlisten: certKey needs privateKey, the key's file"
        )


class EndpointTestCase(workers.ClockedTestCase):
    """
    An endpoint, and a place for a listener made by hand.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.factory = workers.Conversations()
        self.listened: Deferred[Any] | None = None
        self.ports: list[Any] = []
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Stop what the test has not stopped, and see that it leaves nothing.
        """
        if self.listened is not None:
            self.listened.addErrback(lambda failure: failure.trap(CancelledError))
            self.listened.cancel()
        for port in self.ports:
            stopped = port.stopListening()
            while not stopped.called:
                self.clock.advance(1)
                await deferLater(reactor, 0)
        for conversation in self.factory.conversations:
            if not conversation.lost:
                conversation.transport.abortConnection()
        await aMoment()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def listen(self, **options: Any) -> list[Any]:
        """
        Listen by way of the endpoint.

        @return: the port, once it is there.
        """
        endpoint = PortlistenServerEndpoint(self.reactor, self.path, **options)
        verifyObject(IStreamServerEndpoint, endpoint)
        self.listened = endpoint.listen(self.factory)
        self.listened.addCallback(self.ports.append)
        return self.ports

    async def join(self, **options: Any) -> tuple[workers.Listener, Any]:
        """
        Start a listener, and have the endpoint join it.

        @return: the listener, and the port.
        """
        listener = workers.Listener(self.path)
        self.addCleanup(listener.close)
        listener.greeting = (workers.NAMED,)
        ports = self.listen(**options)
        self.clock.advance(0)
        await eventually(listener.accept)
        await eventually(lambda: ports)
        return listener, ports[0]


class ListenTests(EndpointTestCase):
    """
    L{PortlistenServerEndpoint.listen}.
    """

    async def test_notYet(self) -> None:
        """
        Nothing is done before the reactor runs, when privileges are given up.
        """
        listener = workers.Listener(self.path)
        self.addCleanup(listener.close)
        self.listen()
        await aMoment()
        self.assertFalse(listener.accept())
        self.clock.advance(0)
        self.assertTrue(listener.accept())

    async def test_hello(self) -> None:
        """
        The listener hears the options of the worker.
        """
        listener, _ = await self.join(limit=7, first=0.5, label="web-1")
        (hello,) = listener.channel.heard(WorkerHello)
        self.assertEqual((hello.limit, hello.first, hello.label), (7, 500, "web-1"))

    async def test_clientsOfTLS(self) -> None:
        """
        With TLS, clients speak first.
        """
        if needsTLS:
            self.skipTest(needsTLS)
        from twisted.internet.ssl import CertificateOptions

        listener, _ = await self.join(contextFactory=CertificateOptions())
        (hello,) = listener.channel.heard(WorkerHello)
        self.assertEqual(hello.first, 2000)

    async def test_port(self) -> None:
        """
        The Deferred fires with a port after the listener has named its ports.  The
        factory starts at once, while the process may still have privileges.
        """
        listener = workers.Listener(self.path)
        self.addCleanup(listener.close)
        listener.greeting = ()
        ports = self.listen()
        self.clock.advance(0)
        await eventually(listener.accept)
        await aMoment()
        self.assertEqual((ports, self.factory.calls), ([], ["start"]))
        listener.channel.say(workers.NAMED)
        await eventually(lambda: ports)
        self.assertEqual(self.factory.calls, ["start"])
        verifyObject(IListeningPort, ports[0])
        self.assertEqual(ports[0].getHost(), IPv4Address("TCP", "192.0.2.1", 80))
        self.assertIn("192.0.2.1", repr(ports[0]))
        ports[0].startListening()

    async def test_hostOfNames(self) -> None:
        """
        It listens where the ports are that it asked for.
        """
        listener, port = await self.join(names=["https"])
        self.assertEqual(port.getHost(), IPv4Address("TCP", "192.0.2.1", 443))
        await eventually(lambda: listener.channel.heard(WorkerHello))
        self.assertEqual(listener.channel.heard(WorkerHello)[0].names, ("https",))

    async def test_nowhere(self) -> None:
        """
        If the listener has no port, the port's address is the path.
        """
        _, port = await self.join()
        port._worker.ports = ()
        self.assertEqual(port.getHost(), UNIXAddress(self.path))

    async def test_impossible(self) -> None:
        """
        A path that can never be a channel's is an error at once.
        """
        with open(self.path, "w"):
            pass
        endpoint = PortlistenServerEndpoint(self.reactor, self.path)
        error = self.assertRaises(EndpointError, endpoint.listen, self.factory)
        self.assertIn("exists and is no socket", str(error))

    async def test_cancelledAtOnce(self) -> None:
        """
        Cancelled before the reactor runs, nothing is left.
        """
        self.listen()
        self.listened.cancel()  # type: ignore[union-attr]
        self.failureResultOf(self.listened, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_cancelledWhileWaiting(self) -> None:
        """
        Cancelled later, the search ends, and a listener that comes after that
        has no worker in it.
        """
        self.listen()
        self.clock.advance(0)
        await aMoment()
        self.listened.cancel()  # type: ignore[union-attr]
        self.failureResultOf(self.listened, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.calls, ["start", "stop"])

    async def test_factoryFails(self) -> None:
        """
        It fails with what the factory's start raises, as a port would, and nothing
        is begun.
        """

        def fail() -> None:
            raise ZeroDivisionError

        self.factory.startFactory = fail  # type: ignore[method-assign]
        endpoint = PortlistenServerEndpoint(self.reactor, self.path)
        self.failureResultOf(endpoint.listen(self.factory), ZeroDivisionError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_names(self) -> None:
        """
        Names are checked, left out where they are there twice, and one may come
        alone.
        """
        for names, asked in [
            (["http", "https", "http"], ("http", "https")),
            ("http", ("http",)),
            ((), ()),
        ]:
            endpoint = PortlistenServerEndpoint(self.reactor, self.path, names)
            self.assertEqual(endpoint._names, asked)
        tooMany = [f"{n:063}" for n in range(300)]
        for wrong in (["a b"], [""], "", tooMany):
            self.assertRaises(
                ValueError, PortlistenServerEndpoint, self.reactor, self.path, wrong
            )

    async def test_again(self) -> None:
        """
        An endpoint may listen again, each time as a worker of its own.
        """
        listener, _ = await self.join()
        endpoint = PortlistenServerEndpoint(self.reactor, self.path)
        endpoint.listen(self.factory).addCallback(self.ports.append)
        self.clock.advance(0)
        await eventually(listener.accept)
        await eventually(lambda: len(self.ports) == 2)
        self.assertEqual(len(listener.channels), 2)


class PortTests(EndpointTestCase):
    """
    The port that it fires with.
    """

    async def test_stopListening(self) -> None:
        """
        No connection is taken any more, and those in service go on to their end,
        which is when it is stopped.
        """
        listener, port = await self.join()
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        listener.handOff(1, accepted)
        await eventually(lambda: self.factory.conversations)
        [conversation] = self.factory.conversations
        stopped = port.stopListening()
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        client.sendall(b"go on")
        await eventually(lambda: conversation.received == b"go on")
        self.assertFalse(stopped.called)
        self.assertEqual(self.factory.calls, ["start"])
        client.close()
        await eventually(lambda: stopped.called)
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(listener.channel.heard(Closed), [Closed((1,))])
        self.assertRaises(CannotListenError, port.startListening)

    async def test_grace(self) -> None:
        """
        Nor does it wait any longer than the grace; the connection stays.
        """
        listener, port = await self.join(grace=3)
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        listener.handOff(1, accepted)
        await eventually(lambda: self.factory.conversations)
        stopped = port.stopListening()
        self.clock.advance(2.9)
        await aMoment()
        self.assertFalse(stopped.called)
        self.clock.advance(0.1)
        await eventually(lambda: stopped.called)
        [conversation] = self.factory.conversations
        client.sendall(b"still there?")
        await eventually(lambda: conversation.received)

    async def test_shutdown(self) -> None:
        """
        A program that never stops it has the end of the process wait for it, and
        one that does leaves nothing behind that would.
        """
        triggers: list[Any] = []
        self.reactor.replace(
            addSystemEventTrigger=remember(triggers),
            removeSystemEventTrigger=triggers.remove,
        )
        listener, _ = await self.join()
        [(phase, event, shutDown)] = triggers
        self.assertEqual((phase, event), ("before", "shutdown"))
        stopped = shutDown()
        self.assertFalse(stopped.called)
        listener.channel.say(Drained())
        await eventually(lambda: stopped.called)

        endpoint = PortlistenServerEndpoint(self.reactor, self.path)
        endpoint.listen(self.factory).addCallback(self.ports.append)
        self.clock.advance(0)
        await eventually(listener.accept)
        await eventually(lambda: len(self.ports) == 2)
        del triggers[0]
        self.assertEqual(len(triggers), 1)
        stopped = self.ports[1].stopListening()
        self.assertEqual(triggers, [])
        listener.channel.say(Drained())
        await eventually(lambda: stopped.called)

    async def test_shutdownWhileWaiting(self) -> None:
        """
        A program that ends while the search goes on does not find a listener any
        more, whose connections would be cut.
        """
        triggers: list[Any] = []
        self.reactor.replace(addSystemEventTrigger=remember(triggers))
        self.listen()
        self.clock.advance(0)
        [(_, _, shutDown)] = triggers
        self.assertTrue(shutDown().called)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.listened = None

    async def test_stoppedTwice(self) -> None:
        """
        Whoever stops it hears when it is stopped, however late.
        """
        listener, port = await self.join()
        first, second = port.stopListening(), port.stopListening()
        listener.channel.say(Drained())
        await eventually(lambda: first.called and second.called)
        self.assertTrue(port.stopListening().called)
        self.assertEqual(self.factory.calls, ["start", "stop"])


class Shouter(workers.Conversation):
    """
    Sends the received bytes back, in capitals.
    """

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper())


class UDPTests(EndpointTestCase):
    """
    Tests for L{PortlistenUDPEndpoint}.
    """

    async def test_listen(self) -> None:
        """
        It is there when the listener has UDP ports for it, and serves them.
        """
        address = InternetAddress("UDP", "127.0.0.1", 53)
        expected = IPv4Address("UDP", "127.0.0.1", 53)
        listener = workers.Listener(self.path)
        self.addCleanup(listener.close)
        listener.greeting = (
            ListenerHello(8, (Port(0, address, "dns", Kind.DATAGRAMS),)),
        )
        protocols: list[DatagramProtocol] = []

        def make() -> DatagramProtocol:
            protocols.append(DatagramProtocol())
            return protocols[-1]

        endpoint = PortlistenUDPEndpoint(self.reactor, self.path, "dns")
        ready = endpoint.listen(make)
        self.clock.advance(0)
        await eventually(listener.accept)
        await eventually(lambda: ready.called)
        port = self.successResultOf(ready)
        verifyObject(IListeningPort, port)
        self.assertEqual(port.getHost(), expected)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            frame = ListenerFrame(0, _kernel.cookie(sock))
            listener.channel.say(frame, descriptors=[sock.fileno()])
            await eventually(lambda: protocols)
        stopped = port.stopListening()
        assert stopped is not None
        await eventually(lambda: listener.channel.heard(Drain))
        listener.channel.say(Drained())
        await eventually(lambda: stopped.called)
        await aMoment()

    def test_names(self) -> None:
        """
        What can be no name is refused.
        """
        for names in ("a b", ["dns", ""]):
            self.assertRaises(
                ValueError, PortlistenUDPEndpoint, self.reactor, self.path, names
            )

    def test_path(self) -> None:
        """
        A path that can never be a channel's is refused.
        """
        endpoint = PortlistenUDPEndpoint(self.reactor, "/no/such/path")
        self.assertRaises(EndpointError, endpoint.listen, DatagramProtocol)


class TLSTests(EndpointTestCase):
    """
    TLS on the connections.
    """

    if needsTLS:
        skip = needsTLS

    async def test_served(self) -> None:
        """
        The server is spoken to through TLS, and the factory's protocols are
        negotiated.
        """
        from twisted.internet.interfaces import IProtocolNegotiationFactory
        from twisted.internet.ssl import Certificate, optionsForClientTLS
        from twisted.protocols.tls import TLSMemoryBIOFactory
        from zope.interface import directlyProvides

        key, certificate = certify(os.path.join(os.path.dirname(self.mktemp()), "it"))
        endpoint: Any = parse(reactor, self.path, privateKey=key, certKey=certificate)
        self.factory.build = Shouter
        directlyProvides(self.factory, IProtocolNegotiationFactory)
        self.factory.acceptableProtocols = lambda: [b"greeting/1"]  # type: ignore
        listener, _ = await self.join(contextFactory=endpoint._contextFactory)
        self.assertEqual(self.factory.calls, ["start"])

        heard: list[bytes] = []

        class Client(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"hello")  # type: ignore[union-attr]

            def dataReceived(self, data: bytes) -> None:
                heard.append(self.transport.negotiatedProtocol)  # type: ignore
                heard.append(data)
                self.transport.loseConnection()  # type: ignore[union-attr]

        with open(certificate, "rb") as file:
            root = Certificate.loadPEM(file.read())
        options = optionsForClientTLS(
            "localhost", trustRoot=root, acceptableProtocols=[b"greeting/1"]
        )
        client, accepted = tcpPair()
        client.setblocking(False)
        reactor.adoptStreamConnection(
            client.fileno(),
            socket.AF_INET,
            TLSMemoryBIOFactory(options, True, Factory.forProtocol(Client)),
        )
        client.close()
        listener.handOff(1, accepted)

        def answered() -> bool:
            self.clock.advance(0)  # TLS writes a turn of the loop later
            return len(heard) == 2

        await eventually(answered)
        self.assertEqual(heard, [b"greeting/1", b"HELLO"])
        await eventually(lambda: listener.channel.heard(Closed))
