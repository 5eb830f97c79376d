"""
Tests for L{portlisten._commands.hellofdpass}: the protocol, the options, the service,
and the whole pair of listener and worker in one process.
"""

from __future__ import annotations

import io
import os
import pwd
import signal
import socket
import sys
from ipaddress import IPv4Network, IPv6Network
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyClass, verifyObject

from portlisten import _kernel
from portlisten._commands import listener
from portlisten._commands.hellofdpass import (
    LINGER_SECONDS,
    Hello,
    HelloFactory,
    Options,
    makeService,
    makeWorker,
)
from portlisten._kernel import Credentials
from portlisten._listener import dispatcher
from portlisten._process import exits
from portlisten._worker import shutdown
from portlisten.errors import StartFailure
from tests.support.channels import Once, eventually, inReactor, tcpPair, texts
from tests.support.commands import commandRefusal
from tests.support.workers import hear

STRING = b"hello, world"


def parse(*arguments: str) -> Options:
    """
    Understand a command line.
    """
    options = Options()
    options.parseOptions(list(arguments))
    return options


class InterfaceTests(SynchronousTestCase):
    """
    Who provides what.
    """

    def test_protocol(self) -> None:
        """
        The protocol does not take half of a close for a whole one.
        """
        verifyClass(IHalfCloseableProtocol, Hello)
        verifyObject(IHalfCloseableProtocol, Hello(Clock(), STRING))

    def test_factory(self) -> None:
        """
        The factory is one, and builds the protocol.
        """
        factory = HelloFactory(Clock(), STRING)
        verifyObject(IProtocolFactory, factory)
        self.assertIsInstance(factory.buildProtocol(None), Hello)


def isConnected(protocol: Hello) -> bool:
    """
    Say whether the transport of a protocol is connected.
    """
    assert isinstance(protocol.transport, Connection)
    return bool(protocol.transport.connected)


class HelloTests(TestCase):
    """
    What a client sees.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.clock = Clock()
        self.client, self.accepted = tcpPair()
        self.addCleanup(self.client.close)

    def serve(self, string: bytes = STRING) -> Hello:
        """
        Serve the client.
        """
        protocol = Hello(self.clock, string)
        with self.accepted:
            real: Any = reactor
            real.adoptStreamConnection(
                self.accepted.fileno(), socket.AF_INET, Once(protocol)
            )
        return protocol

    async def ended(self, protocol: Hello) -> None:
        """
        Wait for the end of the connection, and see that nothing is left.
        """
        await eventually(lambda: not isConnected(protocol))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def hearAll(self) -> bytes:
        """
        Read up to the end.
        """
        heard = []
        while data := await hear(self.client):
            heard.append(data)
        return b"".join(heard)

    async def test_string(self) -> None:
        """
        It gets the string, and the end.
        """
        protocol = self.serve()
        self.assertEqual(await self.hearAll(), STRING)
        self.client.close()
        await self.ended(protocol)

    async def test_longString(self) -> None:
        """
        It gets all of the string, however long that is, also if it has closed
        its own side before.
        """
        protocol = self.serve(STRING * 200_000)
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(await self.hearAll(), STRING * 200_000)
        await self.ended(protocol)

    async def test_request(self) -> None:
        """
        What it has sent does not cost it the answer.
        """
        self.client.sendall(b"GET / HTTP/1.0\r\n\r\n" * 1000)
        protocol = self.serve()
        self.assertEqual(await hear(self.client), STRING)
        self.client.sendall(b"more")
        self.assertEqual(await hear(self.client), b"")
        self.client.close()
        await self.ended(protocol)

    async def test_lingers(self) -> None:
        """
        A client that does not close is not waited for in the long run.
        """
        protocol = self.serve()
        self.assertEqual(await self.hearAll(), STRING)
        self.clock.advance(LINGER_SECONDS - 0.1)
        await deferLater(reactor, 0)
        self.assertTrue(isConnected(protocol))
        self.clock.advance(0.1)
        await self.ended(protocol)

    async def test_neverConnected(self) -> None:
        """
        There is nothing to end where nothing began.
        """
        self.accepted.close()
        Hello(self.clock, STRING).connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class OptionsTests(SynchronousTestCase):
    """
    The command line of C{twistd hellofdpass}.
    """

    def refusal(self, *arguments: str) -> str:
        """
        Say why a command line is refused, which has to be one line.
        """
        return commandRefusal(self, "hellofdpass", parse, *arguments)

    def test_defaults(self) -> None:
        """
        PATH and STRING are enough.
        """
        self.assertEqual(
            dict(parse("path", "hello")),
            {
                "wire": "stream",
                "mode": 0o660,
                "group": None,
                "replace": 0,
                "path": "path",
                "string": b"hello",
                "retry": 0.1,
                "grace": 10.0,
                "name": [],
                "listener-user": [],
                "limit": None,
                "first": None,
                "label": None,
                "proxy-from": None,
                "log-format": "text",
            },
        )

    def test_given(self) -> None:
        """
        Each option can be given.
        """
        user = pwd.getpwuid(os.getuid()).pw_name
        given = parse(
            *("--retry", "2.5", "--grace", "0", "--listener-user", user),
            *("--listener-user", "0", "--name=http", "--name", "www-2"),
            *(
                "--limit=7",
                "--first=yes",
                "--label=web-1",
                "--proxy-from=192.0.2.0/24,2001:db8::1",
                "--log-format=json",
                "path",
                "hello",
            ),
        )
        self.assertEqual(
            dict(given),
            {
                "wire": "stream",
                "mode": 0o660,
                "group": None,
                "replace": 0,
                "path": "path",
                "string": b"hello",
                "retry": 2.5,
                "grace": 0.0,
                "name": ["http", "www-2"],
                "listener-user": [os.getuid(), 0],
                "limit": 7,
                "first": 2.0,
                "label": "web-1",
                "proxy-from": (
                    IPv4Network("192.0.2.0/24"),
                    IPv6Network("2001:db8::1/128"),
                ),
                "log-format": "json",
            },
        )

    def test_exactString(self) -> None:
        """
        The string is taken byte for byte.
        """
        for string in [b"", b"\xff\n\xc3\xa9", b"--"]:
            options = parse("--", "path", os.fsdecode(string))
            self.assertEqual(options["string"], string)

    def test_argumentCount(self) -> None:
        """
        There are two arguments, no more and no fewer.
        """
        for arguments in [(), ("path",), ("path", "hello,", "world")]:
            self.assertIn(
                f"expected PATH and STRING, got {len(arguments)} arguments",
                self.refusal(*arguments),
            )

    def test_numbers(self) -> None:
        """
        A number has to be one, and within its limits.
        """
        for option, wrong, kind in [
            ("retry", ["0", "x", "nan", "inf"], "a number of at least 0.001"),
            ("grace", ["-1", "x", "nan", "inf"], "a number of at least 0"),
            ("limit", ["0", "1.5"], "a whole number from 1 to"),
            ("first", ["0", "66", "on"], "a number from 0.001 to 65.535, and neither"),
        ]:
            for text in wrong:
                self.assertIn(
                    f"--{option}: {text!r} is not {kind}",
                    self.refusal(f"--{option}={text}", "path", "hello"),
                )

    def test_nobody(self) -> None:
        """
        A user that does not exist is refused.
        """
        self.assertIn(
            "--listener-user: the user 'no such' does not exist",
            self.refusal("--listener-user", "no such", "path", "hello"),
        )

    def test_datagram(self) -> None:
        """
        The wire of 2002 has options of its own.
        """
        given = parse(
            *("--wire=datagram", "--mode=0600", "--group=0", "--replace"),
            *("path", "hello"),
        )
        self.assertEqual(
            [given[name] for name in ("wire", "mode", "group", "replace")],
            ["datagram", 0o600, 0, 1],
        )

    def test_otherWire(self) -> None:
        """
        An option that goes with the other wire only is refused.
        """
        for wire, option in [
            ("stream", "--mode=0600"),
            ("stream", "--group=0"),
            ("stream", "--replace"),
            ("datagram", "--name=http"),
            ("datagram", "--listener-user=0"),
            ("datagram", "--limit=1"),
            ("datagram", "--first=no"),
            ("datagram", "--label=web-1"),
        ]:
            self.assertIn(
                f"{option.partition('=')[0]} means nothing with --wire={wire}",
                self.refusal(f"--wire={wire}", option, "path", "hello"),
            )
        self.assertIn(
            "--wire: 'carrier' is none of stream, datagram",
            self.refusal("--wire=carrier", "path", "hello"),
        )

    def test_badLabel(self) -> None:
        """
        A bad label of the environment is refused where it means something.
        """
        self.patch(os, "environ", {"PORTLISTEN_LABEL": "a b"})
        self.assertIn(
            "PORTLISTEN_LABEL: 'a b' is no label for a worker",
            self.refusal("path", "hello"),
        )
        parse("--label=web-1", "path", "hello")
        parse("--wire=datagram", "path", "hello")

    def test_badName(self) -> None:
        """
        A port is called something that a port can be called.
        """
        for name in ["", "a,b", "-x", "x" * 64]:
            self.assertIn(
                f"--name: {name!r} is no name for a port",
                self.refusal("--name", name, "path", "hello"),
            )

    def test_unknownOption(self) -> None:
        """
        An option that does not exist is refused.
        """
        self.assertIn(
            "option --nonsense not", self.refusal("--nonsense", "path", "hello")
        )

    def test_help(self) -> None:
        """
        The help explains the arguments, names each option with its default, and
        gives examples.
        """
        text = " ".join(str(Options()).split())
        for part in [
            "[options] PATH STRING",
            "writes STRING on each, exactly as given, and closes it",
            "--retry= Seconds between two tries to connect to the listener."
            " [default: 0.1]",
            "--grace=",
            "[default: 10.0]",
            "--listener-user=",
            "twistd -n hellofdpass ./socket 'hello, world'",
        ]:
            self.assertIn(part, text)

    def test_helpIsPrinted(self) -> None:
        """
        C{--help} prints it, and is a success.
        """
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, parse, "--help")
        self.assertEqual(exit.code, 0)
        self.assertEqual(output.getvalue().strip(), str(Options()).strip())


class ServiceTestCase(TestCase):
    """
    Services in the real reactor.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        logs = capturedLogs()
        self.logged = cast(list[dict[str, Any]], logs.__enter__())
        self.addCleanup(logs.__exit__, None, None, None)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.services: list[Any] = []
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Stop what was made, workers first.
        """
        for service in reversed(self.services):
            await service.stopService()
        await deferLater(reactor, 0)
        self.assertFalse(os.path.exists(self.path))

    def worker(self, *arguments: str, path: str | None = None) -> Any:
        """
        Make a worker.
        """
        options = parse("--retry", "0.01", *arguments, path or self.path, "hello")
        self.services.append(makeService(options))
        return self.services[-1]

    def start(self, service: Any) -> None:
        """
        Start a service as C{twistd} does.
        """
        service.privilegedStartService()
        service.startService()


class HelloServiceTests(ServiceTestCase):
    """
    The worker as a service.
    """

    async def test_service(self) -> None:
        """
        It is a service.
        """
        verifyObject(IService, self.worker())

    async def test_term(self) -> None:
        """
        SIGTERM is to end the process in order.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.worker()
        await deferLater(reactor, 0)
        self.assertTrue(callable(signal.getsignal(signal.SIGTERM)))

    async def test_reactor(self) -> None:
        """
        The reactor may be another one.
        """
        clock = MemoryReactorClock()
        makeService(parse(self.path, "hello"), reactor=clock)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    async def test_options(self) -> None:
        """
        The worker has the options of the command.
        """
        options = parse("--limit=7", "--first=yes", "--label=web-1", self.path, "hello")
        worker: Any = makeWorker(reactor, options.settings(), Factory())
        self.assertEqual(
            (worker._limit, worker._first, worker._label), (7, 2.0, "web-1")
        )
        worker = makeWorker(reactor, parse(self.path, "hello").settings(), Factory())
        self.assertEqual(
            (worker._limit, worker._first, worker._label), (None, None, "")
        )

    async def test_impossiblePath(self) -> None:
        """
        A path where no listener could ever be keeps it from starting.
        """
        with open("file", "w"):
            pass
        for path, reason in [
            ("file", "file exists and is no socket"),
            ("no/such/folder", "the folder 'no/such' of"),
            ("x" * 108, "the path is 108 bytes long and the kernel takes 107"),
        ]:
            output = io.StringIO()
            self.patch(sys, "__stderr__", output)
            failure = self.assertRaises(
                StartFailure,
                self.worker(path=path).privilegedStartService,
            )
            self.assertIn(reason, str(failure))
            self.assertEqual(output.getvalue(), f"hellofdpass: {failure}\n")

    async def test_root(self) -> None:
        """
        It warns of running as root.
        """
        warned: list[str] = []
        self.patch(exits, "warnOfRoot", warned.append)
        self.start(self.worker())
        self.assertEqual(warned, ["hellofdpass"])

    async def test_listenerToCome(self) -> None:
        """
        A path where no listener is yet is fine, and is waited at for as often as
        asked for.
        """
        self.start(self.worker())
        [complaint] = texts(self.logged, "warn")[-1:]
        self.assertIn(f"waiting for a listener at {self.path}", complaint)
        self.assertIn("trying every 0.01 s", complaint)

    async def test_stop(self) -> None:
        """
        It can be stopped whether it was started or not.
        """
        service = self.worker()
        self.successResultOf(service.stopService())
        self.start(service)
        self.assertTrue(service.running)
        self.successResultOf(service.stopService())
        self.assertFalse(service.running)


class PairTests(ServiceTestCase):
    """
    A listener, workers and clients.
    """

    def listener(self, *arguments: str) -> Any:
        """
        Make a listener.
        """
        options = listener.Options()
        options.parseOptions([*arguments, "tcp:0:interface=127.0.0.1", self.path])
        self.services.insert(0, listener.makeService(options))
        return self.services[0]

    def lines(self, part: str) -> list[str]:
        """
        What was logged of something.
        """
        return [line for line in texts(self.logged, "info") if part in line]

    def client(self) -> socket.socket:
        """
        Connect to the port that the listener was given.
        """
        number = self.lines("listening on")[-1].partition("127.0.0.1:")[2]
        client = socket.create_connection(("127.0.0.1", int(number.partition(",")[0])))
        self.addCleanup(client.close)
        return client

    async def answered(self, client: socket.socket) -> None:
        """
        See that a client is answered, and close it.
        """
        self.assertEqual(await hear(client), b"hello")
        self.assertEqual(await hear(client), b"")
        client.close()

    async def test_pair(self) -> None:
        """
        Clients are answered.
        """
        self.start(self.listener())
        self.start(self.worker())
        for client in [self.client() for _ in range(5)]:
            await self.answered(client)

    async def test_workerFirst(self) -> None:
        """
        The worker may be started first.
        """
        self.start(self.worker())
        self.start(self.listener())
        await self.answered(self.client())

    async def test_clientsWait(self) -> None:
        """
        A client that comes while no worker runs waits for one.
        """
        self.start(self.listener())
        client = self.client()
        await deferLater(reactor, 0.01)
        self.start(self.worker())
        await self.answered(client)

    async def test_workerReplaced(self) -> None:
        """
        A worker may be stopped, and another one serve in its place, with no
        client lost between them.
        """
        self.start(self.listener())
        old = self.worker()
        self.start(old)
        await self.answered(self.client())
        stopped = old.stopService()
        client = self.client()
        self.start(self.worker())
        await self.answered(client)
        await stopped

    async def test_listenerReplaced(self) -> None:
        """
        A listener may be stopped, and the worker joins the one after it.
        """
        first = self.listener()
        self.start(first)
        self.start(self.worker())
        await self.answered(self.client())
        await first.stopService()
        self.start(self.listener())
        await eventually(lambda: len(self.lines("joined the listener")) == 2)
        await self.answered(self.client())

    async def test_stopsInOrder(self) -> None:
        """
        A stop ends as early as it can, in either order, and leaves neither the path nor
        descriptors.
        """
        # A stop that waits for the other side lasts longer than any test may.
        self.patch(shutdown, "DISCONNECT_SECONDS", 600)
        self.patch(dispatcher, "FAREWELL_SECONDS", 600)
        for order in (reversed, iter):
            self.services = []
            self.logged.clear()
            self.start(self.listener())
            self.start(self.worker())
            await self.answered(self.client())
            for service in order(self.services):
                await service.stopService()
            self.assertFalse(os.path.exists(self.path))

    async def test_listenerOfAStranger(self) -> None:
        """
        A worker has nothing to do with a listener of a user that it was not told
        of.
        """
        stranger = os.getuid() + 1
        self.patch(
            _kernel, "credentials", lambda sock: Credentials(1, stranger, stranger)
        )
        self.start(self.listener())
        self.start(self.worker("--listener-user", str(os.getuid())))
        await eventually(
            lambda: any(
                f"has the uid {stranger}" in line for line in texts(self.logged, "warn")
            )
        )
        self.assertEqual(self.lines("joined the listener"), [])
