"""
Tests for the control socket of L{portlisten._listener.stream}: the service in the real
reactor, with workers and clients made by hand.
"""

from __future__ import annotations

import io
import os
import socket
import stat
import sys

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Answer,
    Drain,
    Request,
    Restart,
    Status,
    StatusAnswer,
    Stop,
    Undrain,
    Workers,
    WorkersAnswer,
    encodeRequest,
    parseAnswer,
)
from portlisten._control.status import ListenerStatus, State
from portlisten._listener.channel import ListenerChannel
from portlisten._wire import frames
from portlisten._wire.frames import (
    Bye,
    Given,
    Leave,
    ListenerHello,
    Serving,
    WorkerHello,
)
from portlisten.errors import StartFailure
from tests.support.channels import Peer, aMoment, eventually, texts
from tests.support.listeners import ListenerTestCase, parse


class ControlTests(ListenerTestCase):
    """
    The control socket of a listener.
    """

    async def ask(self, request: Request) -> WorkersAnswer:
        """
        Ask the listener for workers.
        """
        answer = await self.answer(request)
        assert isinstance(answer, WorkersAnswer)
        return answer

    async def answer(self, request: Request) -> Answer:
        """
        Ask the listener.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.path}.ctl")
            client.setblocking(False)
            client.send(encodeRequest(request))
            received = bytearray()

            def read() -> bool:
                try:
                    received.extend(client.recv(65536))
                except BlockingIOError:
                    pass
                return received.endswith(b"\n")

            await eventually(read)
        return parseAnswer(bytes(received), request.ANSWER)

    async def enter(self, label: str = "web-1") -> Peer:
        """
        Make a worker join.
        """
        worker, _ = await self.greeted()
        worker.say(WorkerHello(4, frames=frozenset([Leave.TYPE]), label=label))
        await eventually(
            lambda: any(label in line for line in texts(self.logged, "info"))
        )
        return worker

    async def test_hello(self) -> None:
        """
        The listener announces that it knows SERVING.
        """
        self.start()
        _, hello = await self.greeted()
        self.assertEqual(hello.frames, {Serving.TYPE, Given.TYPE})

    async def test_label(self) -> None:
        """
        The name of a worker in the log has its label.
        """
        self.start()
        await self.enter()
        (worker,) = (await self.ask(Workers())).workers
        pid, uid = os.getpid(), os.getuid()
        self.assertEqual(worker.name, f"worker 1 (web-1, pid {pid}, uid {uid})")
        self.assertEqual((worker.label, worker.pid, worker.uid), ("web-1", pid, uid))
        self.assertTrue(
            any(
                line.startswith(f"{worker.name} joined, with a window of 4")
                for line in texts(self.logged, "info")
            )
        )

    async def test_drain(self) -> None:
        """
        A worker drains, is drained, and is undrained.
        """
        self.start()
        worker = await self.enter()
        (state,) = (await self.ask(Drain(("web-1",)))).workers
        self.assertEqual(state.state, State.DRAINING)
        await eventually(lambda: worker.heard(Leave))
        worker.say(Serving(1), frames.Drain())
        await eventually(lambda: worker.heard(frames.Drained))
        (state,) = (await self.ask(Drain(("web-1",)))).workers
        self.assertEqual((state.state, state.serving), (State.DRAINING, 1))
        worker.say(Serving(0))
        await eventually(
            lambda: any("is drained" in line for line in texts(self.logged, "info"))
        )
        (state,) = (await self.ask(Drain(("web-1",)))).workers
        self.assertEqual(state.state, State.DRAINED)
        self.assertEqual(len(worker.heard(Leave)), 1)
        self.assertEqual((await self.ask(Undrain(("web-1",)))).workers, ())
        await eventually(worker.hasEnded)
        self.assertEqual(worker.frames[-1], Bye("undrained: join again"))

    async def test_status(self) -> None:
        """
        The listener describes itself, its ports and its workers, and what waits in the
        kernel.
        """
        self.start("--queue=1", "--share=dns=udp:0:interface=127.0.0.1")
        worker = await self.enter()
        (hello,) = worker.heard(ListenerHello)
        worker.say(frames.Drain())
        await eventually(lambda: worker.heard(frames.Drained))
        clients = [self.client(hello) for _ in range(3)]

        async def listener() -> ListenerStatus:
            answer = await self.answer(Status())
            assert isinstance(answer, StatusAnswer)
            assert answer.listener is not None
            self.problems = answer.problems
            return answer.listener

        async def waits() -> ListenerStatus:
            while (status := await listener()).held["waiting"] < 1:
                await aMoment()
            return status

        status = await waits()
        self.assertEqual((status.path, status.pid), (self.path, os.getpid()))
        (state,) = status.workers
        self.assertEqual((state.number, state.label, state.window), (1, "web-1", 4))
        self.assertEqual(state.ports, ("",))
        one, two = status.ports
        self.assertEqual((one.address, one.waiting), (str(hello.ports[0].address), 2))
        self.assertEqual((two.name, two.shared, two.waiting), ("dns", True, None))
        self.assertEqual(len(self.problems), 2)
        self.assertIn("the queue is full", self.problems[0].replace("its", "the"))
        self.assertFalse(status.stopping)
        stopped = self.service.stopService()
        self.assertTrue((await listener()).stopping)
        for each in clients:
            each.close()
        await stopped

    async def test_supervisor(self) -> None:
        """
        A listener cannot do what needs a supervisor.
        """
        self.start()
        for request in (Restart(()), Stop()):
            with self.assertRaisesRegex(ControlError, "only a supervisor can"):
                await self.answer(request)

    async def test_users(self) -> None:
        """
        Root may ask, and the user that started the listener, and the user that it
        became.  Others may not.
        """
        self.patch(os, "geteuid", lambda: 1001)
        service = self.make()
        service.privilegedStartService()
        self.patch(os, "geteuid", lambda: 1002)
        service.startService()
        for uid in (0, 1001, 1002, 1003):
            credentials = _kernel.Credentials(7, uid, 0)
            self.patch(_kernel, "credentials", lambda sock, found=credentials: found)
            if uid < 1003:
                self.assertEqual((await self.ask(Workers())).workers, ())
            else:
                with self.assertRaisesRegex(ControlError, "uid 1003 may not ask"):
                    await self.ask(Workers())

    async def test_mode(self) -> None:
        """
        Only the user that started the listener, and root, can connect.
        """
        self.start("--mode=0666")
        status = os.stat(f"{self.path}.ctl")
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
        self.assertEqual(status.st_uid, os.geteuid())

    async def test_elsewhere(self) -> None:
        """
        The control socket may have another path, or none.
        """
        other = f"{self.path}.other"
        self.start("--control", other)
        self.assertTrue(os.path.exists(other))
        self.assertFalse(os.path.exists(f"{self.path}.ctl"))
        await self.service.stopService()
        self.assertFalse(os.path.exists(other))
        for none in ("none", ""):
            self.start("--control", none)
            self.assertFalse(os.path.exists(f"{self.path}.ctl"))
            await self.service.stopService()
        self.assertEqual(texts(self.logged, "warn")[1:], texts(self.logged, "warn")[:2])

    async def test_tooLong(self) -> None:
        """
        If the usual path is too long, there is none, and the log says so.
        """
        folder = os.path.dirname(self.path)
        self.path = os.path.join(folder, "x" * (106 - len(folder)))
        self.assertEqual(len(self.path), 107)
        self.start()
        await self.greeted()
        self.assertIn(
            f"there is no control socket, since {self.path}.ctl is too long for a"
            " socket: --control can name another path",
            texts(self.logged, "warn"),
        )

    async def test_taken(self) -> None:
        """
        If its path cannot be bound, the listener does not start, and leaves nothing.
        """
        control = f"{self.path}.ctl"
        self.patch(sys, "__stderr__", io.StringIO())
        with open(control, "w"):
            pass
        service = self.make()
        exit = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertIn(f"--control: {control} exists and is no socket", str(exit))
        self.assertFalse(os.path.exists(self.path))
        os.unlink(control)

    async def test_samePaths(self) -> None:
        """
        A port, the channels and the control socket need different paths.
        """
        for port in (f"unix:{self.path}.ctl", f"unix:./{self.path}.ctl"):
            exit = self.assertRaises(SystemExit, self.make, port=port)
            self.assertIn(".ctl is both a port and the control socket", str(exit.code))
        self.patch(sys, "__stderr__", io.StringIO())
        service = self.make("--control", self.path)
        failure = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertIn("is PATH, where workers connect", str(failure))

    async def test_datagram(self) -> None:
        """
        The datagram wire has none, and a port may have that path.
        """
        exit = self.assertRaises(
            SystemExit, parse, "--wire=datagram", "--control=c", "80", "path"
        )
        self.assertIn("--control means nothing with --wire=datagram", str(exit.code))
        self.make("--wire=datagram", port=f"unix:{self.path}.ctl")

    async def test_stop(self) -> None:
        """
        When the listener stops, the control socket ends before any worker hears BYE: no
        client may take that for the worker's end.
        """
        self.start()
        worker = await self.enter()
        present: list[bool] = []
        bye = ListenerChannel.bye

        def note(channel: ListenerChannel, reason: str) -> None:
            present.append(os.path.exists(f"{self.path}.ctl"))
            bye(channel, reason)

        self.patch(ListenerChannel, "bye", note)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.path}.ctl")
            client.setblocking(False)
            client.send(encodeRequest(Drain(("web-1",))))
            await eventually(lambda: worker.heard(Leave))
            received = client.recv(65536)
            await self.service.stopService()
            self.assertEqual(client.recv(65536), b"")
        self.assertIn(b"web-1", received)
        self.assertEqual(len(worker.heard(Bye)), 1)
        self.assertEqual(present, [False])
