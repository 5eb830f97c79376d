"""
Tests for L{portlisten.asyncio} and L{portlisten._asyncio.loops}: which hosts are
descriptions, and which are wrong.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import portlisten.asyncio
from portlisten._asyncio.loops import describedBy
from portlisten.errors import EndpointError
from tests.support.asyncio_loops import LoopTestCase, eventually, hear, onUvloopToo

PROGRAM = """
import sys
import portlisten.asyncio
for make in (portlisten.asyncio.asyncioLoop, portlisten.asyncio.loop):
    loop = make()
    server = loop.run_until_complete(
        loop.create_server(print, "portlisten:nothing/here" if sys.argv[1:] else
                           "portlisten:channel")
    )
    loop.close()
print([each for each in sys.modules if each.split(".")[0] in ("twisted", "_twisted")])
"""


@onUvloopToo
class HostTests(LoopTestCase):
    """
    What C{create_server} makes of its arguments.
    """

    def test_others(self) -> None:
        """
        All other hosts are the base class's matter.
        """

        async def test() -> None:
            server = await self.loop.create_server(self.Talk, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            with socket.create_connection(address) as client:
                client.sendall(b"hello\n")
                self.assertEqual(await hear(client), b"HELLO\n")
            server.close()
            await server.wait_closed()
            await eventually(lambda: "lost" in self.talks[0].events)

        self.complete(test())

    def test_otherSockets(self) -> None:
        """
        A description goes with no socket of another kind.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.refuse("sock= cannot be given together", sock=sock)
        self.refuse("reuse_port= cannot be given together", reuse_port=True)
        self.refuse("only host", host=["portlisten:channel", "127.0.0.1"])

    def test_ignored(self) -> None:
        """
        Arguments about the listener's sockets are ignored.
        """

        async def test() -> None:
            server = await self.loop.create_server(
                self.Talk,
                ["portlisten:channel"],
                8000,
                backlog=100,
                reuse_address=True,
                reuse_port=None,
                family=socket.AF_INET,
                flags=socket.AI_PASSIVE,
                sock=None,
            )
            server.close()
            await server.wait_closed()

        self.complete(test())

    def refuse(
        self, pattern: str, host: Any = "portlisten:channel", **others: Any
    ) -> None:
        """
        Check that something is refused in one line.
        """
        work = self.loop.create_server(self.Talk, host, **others)
        try:
            work.send(None)
        except (EndpointError, ValueError, TypeError) as error:
            self.assertRegex(str(error), pattern)
            self.assertNotIn("\n", str(error))
        else:
            work.close()
            self.fail("no error")

    def test_descriptions(self) -> None:
        """
        A description that can never work is refused.
        """
        refuse = self.refuse
        refuse(
            "no option 'nme', only name, grace, listenerUser, limit, first, label,"
            " proxyFrom, retry$",
            "portlisten:channel:nme=http",
        )
        refuse("one path", "portlisten:")
        refuse("one path", "portlisten:a:b")
        refuse("privateKey is for Twisted: use the", "portlisten:a:privateKey=k.pem")
        refuse("certKey is for Twisted: use the", "portlisten:a:certKey=k.pem")
        refuse("wire=datagram is for Twisted", "portlisten:a:wire=datagram")
        refuse("grace: ", "portlisten:a:grace=soon")
        refuse("limit: ", "portlisten:a:limit=0")
        refuse("proxyFrom: ", "portlisten:a:proxyFrom=here")
        refuse("no label", "portlisten:a:label=123")
        refuse("choose a shorter one", "portlisten:" + "x" * 200)
        refuse("make it first", "portlisten:nowhere/channel")
        with open("file", "w"):
            refuse("is no socket", "portlisten:file")

    def test_tls(self) -> None:
        """
        Wrong arguments for TLS are refused.
        """
        self.refuse("SSLContext", ssl=True)
        self.refuse("only meaningful with ssl", ssl_handshake_timeout=3)
        self.refuse("only meaningful with ssl", ssl_shutdown_timeout=3)

    def test_label(self) -> None:
        """
        A bad label in the environment is refused.
        """
        import os

        self.addCleanup(os.environ.pop, "PORTLISTEN_LABEL", None)
        os.environ["PORTLISTEN_LABEL"] = "1 2"
        self.refuse("PORTLISTEN_LABEL: ")


class OtherLoopTests(SynchronousTestCase):
    """
    Loops that know nothing of descriptions.
    """

    def test_plain(self) -> None:
        """
        L{portlisten.asyncio.create_server} works on every loop.
        """

        async def test() -> None:
            server = await portlisten.asyncio.create_server(
                asyncio.Protocol, "portlisten:channel"
            )
            self.assertIsInstance(server, portlisten.asyncio.Server)
            self.assertIn("channel", repr(server))
            server.close()
            await server.wait_closed()

        loop = asyncio.SelectorEventLoop()
        loop.run_until_complete(test())
        loop.close()

    def test_extend(self) -> None:
        """
        A class of loops can be extended.
        """
        extended = portlisten.asyncio.extend(asyncio.SelectorEventLoop)
        self.assertTrue(issubclass(extended, asyncio.SelectorEventLoop))
        extended().close()

    def test_hosts(self) -> None:
        """
        Only what begins with C{portlisten:} is a description.
        """
        for host in (None, "", "::", "portlisten", ["::", "0.0.0.0"], 7):
            self.assertIsNone(describedBy(host))
        self.assertEqual(describedBy("portlisten:x"), "portlisten:x")
        self.assertEqual(describedBy(("portlisten:x",)), "portlisten:x")


class ProgramTests(SynchronousTestCase):
    """
    Programs of their own.
    """

    def execute(self, *arguments: str) -> Any:
        """
        Run L{PROGRAM}.
        """
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False
        )

    def test_noTwisted(self) -> None:
        """
        A worker in asyncio imports nothing of Twisted, and a loop that is closed over
        an open server leaves no warning.
        """
        done = self.execute("-W", "always", "-c", PROGRAM)
        self.assertEqual(done.stdout, "[]\n", done.stderr)
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("Warning", done.stderr)

    def test_exit(self) -> None:
        """
        A program whose description is wrong ends with one line.
        """
        done = self.execute("-c", PROGRAM, "wrong")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Aportlisten: the folder 'nothing'.*\n\Z")
