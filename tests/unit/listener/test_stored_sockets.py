"""
Tests for L{portlisten._listener.own_sockets}, with a descriptor store.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._listener.own_sockets import OwnSockets
from portlisten._model import InternetAddress
from portlisten._ports.binding import BoundPort
from portlisten._ports.parsing import parse
from portlisten._process import signals
from portlisten.errors import CannotBind, PathError
from tests.support.descriptors import descriptors, watchDescriptors
from tests.support.ports import freePort
from tests.support.service_manager import managed, restarted


class Process:
    """
    The sockets of a listener, as its service binds them.

    @ivar own: the object.
    @ivar ports: the bound ports.
    @ivar channel: the path of the channels; L{None} on the datagram wire.
    """

    def __init__(
        self, path: str, ports: Sequence[str], wire: str = "stream", **also: Any
    ) -> None:
        settings = ListenerSettings(path=path, wire=wire, **also)
        wanted = [
            parse(text, 5, "reuseport" in text or text[:3] == "udp") for text in ports
        ]
        self.own = OwnSockets(settings, wanted, 5)
        self.channel: Any = None
        self.wait = 0.0
        self.ports: list[BoundPort] = []
        try:
            if wire == "stream":
                self.wait = self.own.waitForPredecessor()
            self.ports = self.own.bindPorts(time.monotonic())
            if wire == "stream":
                self.channel = self.own.bindChannel()
                self.own.bindControl()
        except (CannotBind, PathError):
            self.end()
            raise

    def end(self) -> None:
        """
        Stop in good order.
        """
        for port in self.ports:
            port.close()
        if self.channel is not None:
            self.channel.remove()
            self.channel.socket.close()
        self.own.release()

    def numbers(self) -> set[int]:
        """
        The numbers of the TCP ports.
        """
        return {
            port.address.port
            for port in self.ports
            if isinstance(port.address, InternetAddress)
        }

    def cookies(self) -> set[int]:
        """
        All sockets.
        """
        sockets = [sock for port in self.ports for sock in port.sockets]
        if self.channel is not None:
            sockets.append(self.channel.socket)
        return {_kernel.cookie(each) for each in sockets}


class StoreTests(SynchronousTestCase):
    """
    One process after the other.

    @ivar numbers: numbers of ports that are free.
    """

    def setUp(self) -> None:
        self.numbers = [freePort(25200, 25300), freePort(25300, 25400)]
        watchDescriptors(self)
        self.folder = os.path.relpath(self.mktemp())
        os.mkdir(self.folder)
        self.path = f"{self.folder}/channel"
        self.manager = managed(self)

    def start(self, *ports: str, **also: Any) -> Process:
        """
        Start a process, which gets what the store has.
        """
        restarted(self, self.manager)
        process = Process(self.path, ports, **also)
        self.addCleanup(process.end)
        return process

    def stored(self) -> set[int]:
        """
        What the store has.
        """
        return {_kernel.cookie(each) for each in self.manager.read().values()}

    def free(self) -> int:
        """
        A number that no socket has, and that no client gets by chance.
        """
        return self.numbers.pop()

    def test_first(self) -> None:
        """
        The first process stores all that listens: the ports, the path of the channels
        and the control socket.
        """
        process = self.start("0", f"unix:{self.folder}/port")
        self.assertEqual(len(process.ports), 3)
        self.assertEqual(len(self.stored()), 5)
        self.assertLess(process.cookies(), self.stored())
        self.assertTrue(all(process.own.keepsPort(each) for each in process.ports))
        self.assertTrue(process.own.keepsChannel())

    def test_next(self) -> None:
        """
        The next process has the same sockets, and does not wait for the first one.
        The paths lead to them all the while, and the store is as before.
        """
        number = self.free()
        texts = (str(number), f"unix:{self.folder}/port", "tcp:0:interface=127.0.0.1")
        first = self.start(*texts[:2])
        cookies, stored = first.cookies(), self.stored()
        for _ in range(3):
            first.end()
            for name in ("port", "channel", "channel.ctl"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(f"{self.folder}/{name}")
            first = self.start(*texts[:2])
            self.assertEqual(first.wait, 0)
            self.assertEqual(first.cookies(), cookies)
            self.assertEqual(self.stored(), stored)

    def test_killed(self) -> None:
        """
        It does not matter how the first one ended.
        """
        number = self.free()
        texts = (str(number), f"unix:{self.folder}/port")
        first = self.start(*texts)
        cookies = first.cookies()
        for each in first.ports:
            each.socket.close()
        lock = f"{self.folder}/port.lock"
        os.remove(lock)
        os.symlink("4194303", lock)
        second = self.start(*texts)
        self.assertEqual(second.cookies(), cookies)
        self.assertEqual(os.readlink(lock), str(os.getpid()))

    def test_removed(self) -> None:
        """
        A port that is not wanted any more is closed, leaves the store, and the log says
        so.
        """
        kept, gone = self.free(), self.free()
        self.start(f"tcp:{kept}", f"tcp:{gone}").end()
        with capturedLogs() as events:
            process = self.start(f"tcp:{kept}")
        self.assertEqual(process.numbers(), {kept})
        lines = [formatEvent(each) for each in events]
        self.assertEqual(len(lines), 1)
        self.assertIn(f"the socket tcp:0.0.0.0:{gone} is closed", str(lines[0]))
        self.assertEqual(len(self.stored()), 3)
        with socket.socket() as client:
            self.assertRaises(OSError, client.connect, ("127.0.0.1", gone))

    def test_otherAddress(self) -> None:
        """
        A port that changes its address is bound anew: the stored socket is not in its
        own way.
        """
        number = self.free()
        self.start(f"tcp:{number}").end()
        for text in (
            f"tcp:{number}:interface=127.0.0.1",
            str(number),
            f"tcp:{number}:interface=localhost",
            f"tcp:{number}",
        ):
            process = self.start(text)
            self.assertEqual(process.numbers(), {number})
            process.end()

    def test_group(self) -> None:
        """
        A port may become a group, and a group may become larger, smaller, and one
        socket again.
        """
        number = self.free()
        self.start(f"tcp:{number}").end()
        for count in (2, 4, 1):
            process = self.start(f"tcp:{number}:reuseport={count}")
            [port] = process.ports
            self.assertEqual(len(port.sockets), count)
            self.assertEqual(len(self.stored()), 2 + count)
            process.end()
        self.start(f"tcp:{number}").end()
        self.assertEqual(len(self.stored()), 3)

    def test_waits(self) -> None:
        """
        While the service manager still has a UDP socket that is in the way, the process
        waits.
        """
        number = self.free()
        self.start(f"udp:{number}").end()
        self.patch(signals, "stopRequested", lambda: not self.manager.read())
        process = self.start(f"udp:{number}:interface=127.0.0.1")
        self.assertEqual(len(self.stored()), 3)
        self.assertLess(process.cookies(), self.stored())

    def test_shutDown(self) -> None:
        """
        A socket that a process has shut down is bound anew.
        """
        number = self.free()
        texts = (f"tcp:{number}", f"unix:{self.folder}/port")
        first = self.start(*texts)
        for port in first.ports:
            port.socket.shutdown(socket.SHUT_RDWR)
        assert first.channel is not None
        first.channel.socket.shutdown(socket.SHUT_RDWR)
        lock = f"{self.folder}/port.lock"
        os.remove(lock)
        os.symlink("4194303", lock)
        first.end()
        second = self.start(*texts)
        self.assertEqual(len(self.stored()), 4)
        self.assertLess(second.cookies(), self.stored())
        for name in ("port", "channel"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{self.folder}/{name}")
        socket.create_connection(("127.0.0.1", number), 5).close()

    def test_folderGone(self) -> None:
        """
        If the folder of the paths was made anew, they are bound anew.
        """
        texts = (f"unix:{self.folder}/port",)
        first = self.start(*texts)
        before = first.cookies()
        first.end()
        os.rename(self.folder, f"{self.folder}2")
        os.mkdir(self.folder)
        second = self.start(*texts)
        self.assertFalse(before & second.cookies())
        self.assertEqual(len(self.stored()), 3)
        for name in ("port", "channel", "channel.ctl"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{self.folder}/{name}")

    def test_otherPath(self) -> None:
        """
        If the path of the channels is another one, the old ones leave the store.
        """
        self.start("0").end()
        self.path += "2"
        process = self.start("0")
        self.assertEqual(len(self.stored()), 4)
        self.assertLess(process.cookies(), self.stored())

    def test_noControl(self) -> None:
        """
        Without a control socket, none is stored.
        """
        self.start("0").end()
        process = self.start("0", control="")
        self.assertEqual(self.stored(), process.cookies())

    def test_datagrams(self) -> None:
        """
        The datagram wire has the ports in the store, and no path.
        """
        number = self.free()
        first = self.start(f"tcp:{number}")
        cookies = {_kernel.cookie(each.socket) for each in first.ports}
        first.end()
        for _ in range(2):
            process = self.start(f"tcp:{number}", wire="datagram")
            self.assertEqual(process.cookies(), cookies)
            self.assertEqual(self.stored(), cookies)
            process.end()

    def test_cannotBind(self) -> None:
        """
        If a port cannot be bound, no descriptor is left open, the store keeps the
        others, and the next process has them.
        """
        number, taken = self.free(), self.free()
        first = self.start(f"tcp:{number}", f"unix:{self.folder}/port")
        cookies = first.cookies()
        first.end()
        texts = (f"tcp:{number}", f"unix:{self.folder}/port", f"tcp:{taken}")
        with socket.create_server(("127.0.0.1", taken)):
            self.manager.read()
            before = descriptors()
            with self.assertRaises(CannotBind):
                self.start(*texts)
            self.assertEqual(descriptors(), before)
        self.assertLess(cookies, self.stored())
        self.assertLess(cookies, self.start(*texts).cookies())

    def test_mode(self) -> None:
        """
        The path of the channels gets other permissions, if that is possible.
        """
        self.start("0", mode=0o600).end()

        def fail(path: str, mode: int) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        with mock.patch.object(os, "chmod", fail), self.assertRaises(PathError):
            self.start("0", mode=0o660)
        self.start("0", mode=0o660)
        self.assertEqual(os.lstat(self.path).st_mode & 0o777, 0o660)

    def test_full(self) -> None:
        """
        What the store has no room for is the process's own, and is cleaned up.
        """
        self.manager.close()
        self.manager = managed(self, most=1)
        process = self.start(f"tcp:{self.free()}", f"unix:{self.folder}/port")
        self.assertEqual(
            [process.own.keepsPort(each) for each in process.ports], [True, False]
        )
        self.assertFalse(process.own.keepsChannel())
        process.end()
        self.assertEqual(os.listdir(self.folder), [])
