"""
Tests for how L{portlisten._listener.own_sockets} takes over from another listener,
which is spoken by hand in a thread.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from portlisten import _kernel
from portlisten._channel.paths import BoundPath
from portlisten._config.settings import ListenerSettings
from portlisten._control.messages import Answer, Status
from portlisten._handover import takeover as _takeover
from portlisten._handover.messages import Commit, Ready, Running
from portlisten._handover.takeover import Takeover
from portlisten._listener.own_sockets import OwnSockets
from portlisten._ports.binding import BoundPort
from portlisten._ports.parsing import parse
from portlisten._process import signals
from portlisten._process.pid_file import PidFile
from portlisten.errors import CannotTakeOver, PathError, ToldToStop
from tests.support.channels import texts
from tests.support.clocks import ReadingClock
from tests.support.predecessors import COMMIT, TakingOverTestCase


class OwnSocketsTestCase(TakingOverTestCase):
    """
    L{OwnSockets} that take over.
    """

    def make(self, *ports: str, **others: Any) -> OwnSockets:
        """
        Make the sockets of a successor.
        """
        pidFile = others.pop("pidFile", None)
        settings = ListenerSettings(path=self.path, replace=True, **others)
        sockets = OwnSockets(
            settings, [parse(each, 5) for each in ports], 5, pidFile=pidFile
        )
        self.addCleanup(sockets.release)
        return sockets

    def bind(self, sockets: OwnSockets) -> tuple[list[BoundPort], Any]:
        """
        Bind all, as the service does.

        @return: the ports, and the path.
        """
        self.assertEqual(sockets.waitForPredecessor(), 0.0)
        ports = sockets.bindPorts(time.monotonic())
        for each in ports:
            self.addCleanup(each.close)
        path = sockets.bindChannel()
        self.addCleanup(path.socket.close)
        self.addCleanup(path.remove)
        sockets.bindControl()
        return ports, path

    def describe(self, sock: socket.socket) -> str:
        """
        Describe a port at the address of a socket.
        """
        return f"tcp:{sock.getsockname()[1]}:interface=127.0.0.1"

    def cookies(self, *ports: BoundPort) -> tuple[int, ...]:
        """
        Identify the sockets of ports.
        """
        return tuple(_kernel.cookie(each) for port in ports for each in port.sockets)


class TakeOverTests(OwnSocketsTestCase):
    """
    The whole way.
    """

    def test_all(self) -> None:
        """
        Ports, path and control socket are the predecessor's, and only what is missing
        is bound.  They belong to this process when it has settled.
        """
        kept, unwanted = self.tcp(), self.tcp()
        other = self.live(kept, unwanted)
        inodes = [os.stat(each).st_ino for each in (self.path, f"{self.path}.ctl")]
        sockets = self.make(self.describe(kept), "tcp:0:interface=127.0.0.1")
        ports, path = self.bind(sockets)
        self.assertEqual(_kernel.cookie(ports[0].sockets[0]), _kernel.cookie(kept))
        self.assertEqual(_kernel.cookie(path.socket), _kernel.cookie(other.channel))
        self.assertTrue(sockets.keepsChannel())
        self.assertTrue(sockets.keepsPort(ports[0]))
        taken = sockets.takeOver(ports)
        assert taken is not None
        commit, transfer = taken
        self.addCleanup(transfer.close)
        self.assertEqual(commit, COMMIT)
        self.assertIs(path.owned, False)
        sockets.settle()
        self.assertIs(path.owned, True)
        self.assertFalse(sockets.keepsChannel())
        self.assertFalse(sockets.keepsPort(ports[0]))
        transfer.link.close()
        other.join()
        self.assertEqual(
            other.heard, [Ready(self.cookies(*ports), ("",)), Running(os.getpid())]
        )
        self.assertEqual(
            [os.stat(each).st_ino for each in (self.path, f"{self.path}.ctl")], inodes
        )

    def test_modes(self) -> None:
        """
        The paths get the modes that this listener wants.
        """
        self.live()
        os.chmod(self.path, 0o777)
        os.chmod(f"{self.path}.ctl", 0o777)
        self.bind(self.make(mode=0o606))
        modes = [
            stat.S_IMODE(os.stat(each).st_mode)
            for each in (self.path, f"{self.path}.ctl")
        ]
        self.assertEqual(modes, [0o606, 0o600])

    def test_fails(self) -> None:
        """
        If this process fails before it has taken over, the predecessor's paths stay,
        those of its ports as well.
        """
        name = f"{self.folder}/port"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(name)
        unix.listen()
        self.live(unix)
        sockets = self.make(f"unix:{name}")
        ports, path = self.bind(sockets)
        self.assertEqual(self.cookies(*ports), (_kernel.cookie(unix),))
        for port in ports:
            port.close()
        path.remove()
        sockets.release()
        for each in (name, self.path, f"{self.path}.ctl"):
            self.assertTrue(os.path.exists(each), each)
        self.predecessor.join()
        self.assertEqual(self.predecessor.heard, [])

    def test_nobody(self) -> None:
        """
        If no listener lives at the path, this is an ordinary start.
        """
        sockets = self.make()
        _, path = self.bind(sockets)
        self.assertIs(path.owned, True)
        self.assertIsNone(sockets.takeOver([]))
        sockets.settle()
        self.assertEqual(
            texts(self.logged, "info"),
            [f"no listener lives at {self.path}, so there is none to take over from"],
        )

    def test_diesBefore(self) -> None:
        """
        So it is if the listener has ended before it was asked.
        """
        self.live()
        self.patch(Takeover, "ask", lambda self: self.close())
        sockets = self.make()
        self.assertEqual(sockets.waitForPredecessor(), 0.0)
        self.predecessor.remove()
        self.bind(sockets)

    def test_refuses(self) -> None:
        """
        If it refuses, this process does not start.
        """
        self.live(refusal="not now")
        error = self.assertRaises(CannotTakeOver, self.make().waitForPredecessor)
        self.assertIn(": not now; it goes on", str(error))

    def test_refusesLate(self) -> None:
        """
        It may refuse at the end, too.
        """
        self.live(commit="too late")
        sockets = self.make()
        ports, path = self.bind(sockets)
        error = self.assertRaises(CannotTakeOver, sockets.takeOver, ports)
        self.assertIn(f"(pid {os.getpid()}): too late; it goes on", str(error))
        self.assertIs(path.owned, False)

    def test_diesLate(self) -> None:
        """
        If it dies after it has sent the sockets, this process serves at once.
        """
        self.live(commit=None)
        sockets = self.make()
        ports, path = self.bind(sockets)
        self.assertIsNone(sockets.takeOver(ports))
        sockets.settle()
        self.assertIs(path.owned, True)

    def test_commit(self) -> None:
        """
        What the predecessor says at the end is passed on.
        """
        self.live(commit=Commit(True, (3, 4)))
        sockets = self.make()
        ports, _ = self.bind(sockets)
        taken = sockets.takeOver(ports)
        assert taken is not None
        self.addCleanup(taken[1].close)
        self.assertEqual(taken[0], Commit(True, (3, 4)))

    def test_told(self) -> None:
        """
        The wait ends if this process is told to stop.
        """
        self.live()
        sockets = self.make()
        self.patch(signals, "stopRequested", lambda: True)
        self.assertRaises(ToldToStop, sockets.waitForPredecessor)

    def test_hangs(self) -> None:
        """
        If the predecessor does not answer, this process does not start.
        """
        self.patch(_takeover, "ANSWER_SECONDS", 0.02)
        with (
            socket.socket(socket.AF_UNIX) as hung,
            socket.socket(socket.AF_UNIX) as channel,
        ):
            hung.bind(f"{self.path}.ctl")
            hung.listen()
            channel.bind(self.path)
            channel.listen()
            error = self.assertRaises(CannotTakeOver, self.make().waitForPredecessor)
        self.assertIn("it does not answer within 0.02 s", str(error))

    def test_withoutReplace(self) -> None:
        """
        Without --replace, the listener at the path is left alone.
        """
        self.live()
        sockets = OwnSockets(ListenerSettings(path=self.path), (), 5)
        self.assertEqual(sockets.waitForPredecessor(), 0.0)
        self.assertRaises(PathError, sockets.bindChannel)

    def test_pathChanged(self) -> None:
        """
        If the mode of the path cannot be changed, nothing stays open.
        """
        self.live()
        sockets = self.make()
        sockets.waitForPredecessor()

        def fail(*_: object) -> None:
            raise OSError(1, "Operation not permitted")

        self.patch(BoundPath, "setMode", fail)
        error = self.assertRaises(PathError, sockets.bindChannel)
        self.assertEqual(
            str(error), f"cannot take {self.path} over: Operation not permitted"
        )

    def test_pidFile(self) -> None:
        """
        The pid file has the number of this process when it has settled, and the
        predecessor's until then.
        """
        self.live()
        file = Path(self.folder, "pid")
        file.write_text(str(os.getppid()))
        twistd = {"pidfile": str(file)}
        sockets = self.make(pidFile=PidFile(twistd))
        ports, _ = self.bind(sockets)
        taken = sockets.takeOver(ports)
        assert taken is not None
        self.addCleanup(taken[1].close)
        self.assertEqual(file.read_text(), str(os.getppid()))
        sockets.settle()
        self.assertEqual(file.read_text(), str(os.getpid()))

    def test_pidFileStays(self) -> None:
        """
        If this process fails, the pid file stays.
        """
        self.live()
        file = Path(self.folder, "pid")
        file.write_text(str(os.getppid()))
        sockets = self.make(pidFile=PidFile({"pidfile": str(file)}))
        self.bind(sockets)
        sockets.release()
        sockets.release()
        self.assertEqual(file.read_text(), str(os.getppid()))


class HandedTests(OwnSocketsTestCase):
    """
    What the next successor gets.
    """

    def start(self, control: str | None = None) -> tuple[OwnSockets, Any, Any]:
        """
        Start on own sockets.
        """
        sockets = self.make("tcp:0:interface=127.0.0.1", control=control)
        ports, path = self.bind(sockets)
        server = sockets.startControl(ReadingClock(), {Status: lambda *_: Answer()})
        if server is not None:
            self.addCleanup(server.close)
        return sockets, ports, path

    def test_handed(self) -> None:
        """
        These are the sockets of the ports, of the path, and of the control socket.
        """
        sockets, ports, path = self.start()
        handed = sockets.handed(ports)
        self.assertEqual([each.role for each in handed], ["port", "channel", "control"])
        self.assertEqual(handed[0].socket, ports[0].socket)
        self.assertEqual(handed[1].socket, path.socket)
        self.assertEqual(handed[2].socket.getsockname(), f"{self.path}.ctl")

    def test_withoutControl(self) -> None:
        """
        A listener may have no control socket.
        """
        sockets, ports, _ = self.start("")
        self.assertEqual(
            [each.role for each in sockets.handed(ports)], ["port", "channel"]
        )
        sockets.disown()
        self.assertTrue(sockets.keepsChannel())

    def test_nothing(self) -> None:
        """
        Before the start, there is nothing to hand over, or to disown.
        """
        sockets = self.make()
        self.assertEqual(sockets.handed([]), [])
        sockets.disown()

    def test_disown(self) -> None:
        """
        When a successor serves, the paths stay, and those of ports.
        """
        name = f"{self.folder}/port"
        sockets = self.make(f"unix:{name}")
        ports, path = self.bind(sockets)
        server = sockets.startControl(ReadingClock(), {Status: lambda *_: Answer()})
        assert server is not None
        sockets.settle()
        sockets.disown()
        self.assertTrue(sockets.keepsPort(ports[0]))
        path.remove()
        server.close()
        ports[0].close()
        for each in (name, self.path, f"{self.path}.ctl"):
            self.assertTrue(os.path.exists(each), each)
            os.unlink(each)
