"""
Tests for L{portlisten._supervisor.reload} and L{portlisten._supervisor.reload_ports},
with real sockets, and processes made by hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet import endpoints
from twisted.internet.defer import Deferred, succeed
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.settings import ListenerSettings
from portlisten._config.wrong import Problem
from portlisten._config.wrong_file import WrongFile
from portlisten._control.convert import ControlError
from portlisten._control.status import Progress
from portlisten._model import Kind
from portlisten._monitor.host import BoundPlace
from portlisten._policy.source_limits import Limits
from portlisten._ports.binding import BoundPort, bind
from portlisten._ports.parsing import parse
from portlisten._ports.stored import stored, unstored
from portlisten._process import systemd_notify
from portlisten._supervisor.reload import NOTHING, Reloads
from portlisten._supervisor.reload_ports import Running
from portlisten._supervisor.worker import NotReady
from tests.support.backlogs import backlogOf
from tests.support.descriptors import watchDescriptors
from tests.support.service_manager import managed
from tests.support.supervisor_scene import Scene

FILE = "/etc/web.toml"

#: The ports of all tests.
HTTP, OLD, NEW = (f"tcp:0:interface=127.0.0.{number}" for number in (1, 2, 3))


class FakeListener:
    """
    A listener that is replaced at once, or as the test says.

    @ivar replaced: with which settings and ports.
    @ivar result: what comes of it.
    """

    def __init__(self) -> None:
        self.replaced: list[tuple[RunSettings, Sequence[BoundPort]]] = []
        self.result: Deferred[None] = succeed(None)

    def replace(
        self, settings: RunSettings, ports: Sequence[BoundPort]
    ) -> Deferred[None]:
        """
        Note it.
        """
        self.replaced.append((settings, ports))
        return self.result


class Channel:
    """
    The path that workers connect to.
    """

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("")
        self.socket.listen(7)


class Manager:
    """
    Notes what the service manager hears.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reloading(self) -> None:
        """
        Note it.
        """
        self.heard.append("reloading")

    def reloaded(self) -> None:
        """
        Note it.
        """
        self.heard.append("reloaded")


class FakeMonitor:
    """
    A monitor that is exchanged at once.

    @ivar failure: why the next one does not get ready.
    """

    def __init__(self) -> None:
        self.place: BoundPlace | None = None
        self.failure: tuple[str, ...] = ()

    def change(self, place: BoundPlace | None) -> Deferred[tuple[str, ...]]:
        """
        Take another place.
        """
        if self.place is not None:
            self.place.close()
        self.place = place
        if place is not None and self.failure:
            place.close()
            self.place = None
        return succeed(self.failure)


class ReloadTestCase(SynchronousTestCase):
    """
    A group C{web} of two workers that are ready, and two ports.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        watchDescriptors(self)
        self.scene = Scene(count=2)
        self.scene.startReady()
        self.web = self.scene.group.settings
        self.manager = Manager()
        self.patch(systemd_notify, "manager", lambda: self.manager)
        listener = ListenerSettings(
            path="/run/web.sock", listen=(f"http={HTTP}", f"old={OLD}")
        )
        self.running = Running(
            RunSettings(listener=listener),
            [each for text in listener.listen for each in bind(parse(text, 5))],
            Channel(),
            self.scene.groups,
            FakeListener(),  # type: ignore[arg-type]
            FakeMonitor(),  # type: ignore[arg-type]
        )
        self.addCleanup(self.close)
        self.wanted: RunSettings | WrongFile = self.file(self.web)
        self.reloads = Reloads(
            self.scene.clock,
            FILE,
            self.load,
            self.scene.replacements,
            self.scene.around,
            self.running,
        )

    @property
    def listener(self) -> Any:
        """
        The listener.
        """
        return self.running.listener

    def close(self) -> None:
        """
        Close what the supervisor has.
        """
        self.running.channel.socket.close()
        for each in self.running.ports:
            each.close()
        self.running.monitor.change(None)

    def load(self, path: str) -> RunSettings:
        """
        Read the file.
        """
        assert path == FILE
        if isinstance(self.wanted, WrongFile):
            raise self.wanted
        return self.wanted

    def file(self, *groups: WorkersSettings, **listener: Any) -> RunSettings:
        """
        Make a file.
        """
        settings = replace(self.running.settings.listener, **listener)
        return RunSettings(listener=settings, workers=groups)

    def reload(self, wanted: RunSettings) -> str:
        """
        Begin a reload, and return the name of the operation.
        """
        self.wanted = wanted
        answer = self.reloads.reload("")
        self.assertEqual(answer.problems, ())
        assert answer.progress is not None
        return answer.progress.id

    def progress(self, id: str) -> Progress:
        """
        How far it has come.
        """
        return self.scene.replacements.progress(id)

    def join(self, *labels: str) -> None:
        """
        Let workers join, and get ready.
        """
        for label in labels:
            self.scene.join(label)
        self.scene.pass_(2)

    def drained(self, *labels: str) -> None:
        """
        Let workers leave, and their processes end.
        """
        for label in labels:
            self.scene.leave(label)
        self.scene.pass_(2)
        for label in labels:
            self.scene.process(label).end(0)
        self.scene.pass_(0.2)

    def done(self, id: str) -> None:
        """
        Check that a reload is done, and that nothing is left to do.
        """
        progress = self.progress(id)
        self.assertEqual((progress.done, progress.error), (True, ""))
        self.assertEqual({each.state.value for each in progress.steps}, {"done"})
        self.assertEqual(self.reloads.compare("").lines, (NOTHING,))
        self.assertEqual(self.manager.heard[-2:], ["reloading", "reloaded"])


class AskedTests(ReloadTestCase):
    """
    Tests for what is asked.
    """

    def test_nothing(self) -> None:
        """
        If nothing changes, nothing begins.
        """
        answer = self.reloads.reload(FILE)
        self.assertEqual((answer.lines, answer.progress), ((NOTHING,), None))
        self.assertEqual(self.scene.replacements.running, "")

    def test_wrong(self) -> None:
        """
        A wrong file, and a change that is not possible, are refused with their keys.
        """
        self.wanted = WrongFile([Problem("patience", "no"), Problem("b", "no")], FILE)
        expected = (f"{FILE}: patience: no", f"{FILE}: b: no")
        self.assertEqual(self.reloads.reload("").problems, expected)
        self.assertEqual(self.reloads.compare("").problems, expected)
        self.wanted = self.file(self.web, path="/other", queue=7)
        answer = self.reloads.reload("")
        self.assertIsNone(answer.progress)
        (problem,) = answer.problems
        self.assertTrue(problem.startswith(f"{FILE}: path: it is /run/web.sock"))
        self.assertEqual(self.listener.replaced, [])

    def test_otherFile(self) -> None:
        """
        Only the file that runs can be reloaded.
        """
        error = self.assertRaises(ControlError, self.reloads.reload, "/tmp/a.toml")
        self.assertIn(f"it runs {FILE}, and not /tmp/a.toml", str(error))

    def test_busy(self) -> None:
        """
        A reload does not begin during a restart, nor a restart during a reload; SIGHUP
        waits.
        """
        self.scene.replacements.restart(self.scene.groups)
        error = self.assertRaises(ControlError, self.reloads.reload, "")
        self.assertIn("a restart of web is not done yet", str(error))
        self.wanted = self.file(replace(self.web, grace=3.0))
        self.reloads.signalled()
        self.reloads.signalled()
        self.assertEqual(self.web.grace, 30)
        error = self.assertRaises(
            ControlError, self.scene.replacements.restart, self.scene.groups
        )
        self.assertIn("a reload is not done yet", str(error))
        for new, old in (("web-3", "web-1"), ("web-1", "web-2")):
            self.join(new)
            self.drained(old)
        self.assertEqual(self.scene.group.settings.grace, 3)
        self.assertEqual(self.manager.heard, ["reloading", "reloading", "reloaded"])
        self.scene.replacements.restart(self.scene.groups)

    def test_signalled(self) -> None:
        """
        SIGHUP with a wrong file changes nothing.
        """
        for wrong in (
            WrongFile([Problem("patience", "no")], FILE),
            self.file(self.web, path="/other"),
        ):
            self.wanted = wrong
            self.reloads.signalled()
            self.assertEqual(self.manager.heard[-2:], ["reloading", "reloaded"])
        self.assertEqual(self.listener.replaced, [])
        self.assertEqual(self.scene.replacements.running, "")


class PortsTests(ReloadTestCase):
    """
    Tests for ports and for the listener.
    """

    def connect(self, port: BoundPort) -> socket.socket:
        """
        Connect to a port.
        """
        return socket.create_connection(port.socket.getsockname(), 0.3)

    def test_ports(self) -> None:
        """
        A port is added, and another is removed when the clients that wait are served.
        """
        http, old = self.running.ports
        client = self.connect(old)
        address = old.socket.getsockname()
        id = self.reload(
            self.file(
                self.web,
                listen=(f"http={HTTP}", f"new={NEW}:nodelay=yes"),
                patience=7.0,
            )
        )
        self.scene.pass_(1)
        self.assertEqual(self.listener.replaced, [])
        (step,) = self.progress(id).steps
        self.assertEqual((step.state.value, step.left), ("draining", 1))
        self.assertRaises(TimeoutError, self.connect, old)
        self.connect(http).close()
        old.socket.accept()[0].close()
        client.close()
        self.scene.pass_(0.2)
        self.done(id)
        ((settings, ports),) = self.listener.replaced
        self.assertEqual(settings.listener.patience, 7)
        self.assertEqual([each.name for each in ports], ["http", "new"])
        self.assertEqual(self.running.ports, ports)
        self.assertIs(ports[0], http)
        self.assertEqual(old.socket.fileno(), -1)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)
        self.connect(ports[1]).close()

    def test_noFilter(self) -> None:
        """
        Without the kernel's filters, no client joins one that waits, and all may again
        if the listener does not get ready.
        """
        self.patch(_kernel, "refuseClients", lambda sock: False)
        _, old = self.running.ports
        client = self.connect(old)
        self.listener.result = Deferred()
        self.reload(self.file(self.web, listen=(f"http={HTTP}",)))
        self.assertRaises(TimeoutError, self.connect, old)
        old.socket.accept()[0].close()
        client.close()
        self.scene.pass_(0.2)
        self.listener.result.errback(NotReady("listener", "why"))
        self.assertEqual((_kernel.queued(old.socket) or (0, 0))[1] > 0, True)
        self.connect(old).close()

    def test_undrained(self) -> None:
        """
        Clients that nobody serves delay the end of a port for the grace only.
        """
        client = self.connect(self.running.ports[1])
        id = self.reload(self.file(self.web, listen=(f"http={HTTP}",), grace=5.0))
        self.scene.pass_(9)
        self.assertEqual(self.listener.replaced, [])
        self.scene.pass_(1.2)
        self.done(id)
        client.close()

    def test_monitor(self) -> None:
        """
        The monitor is started, gets another place, and is stopped.  The listener goes
        on as it is.
        """
        monitor: Any = self.running.monitor
        for metrics in (
            "tcp:0:interface=127.0.0.1",
            "unix:/run/none/x",
            "haproxy:tcp:0",
            None,
        ):
            unbindable = metrics == "unix:/run/none/x"
            before = monitor.place
            id = self.reload(self.file(self.web, metrics=metrics))
            if unbindable:
                error = self.progress(id).error
                self.assertIn("metrics: ", error)
                self.assertIn("nothing has changed", error)
                self.assertIs(monitor.place, before)
                continue
            self.done(id)
            self.assertEqual(self.listener.replaced, [])
            if metrics is None:
                self.assertIsNone(monitor.place)
            else:
                place = str(monitor.place)
                self.assertEqual(place[:4], metrics[:4])

    def test_monitorNotReady(self) -> None:
        """
        If the monitor does not get ready, the reload ends with the end of its log, and
        the next one starts it again.
        """
        monitor: Any = self.running.monitor
        monitor.failure = ("it exited with 1", "no such file")
        wanted = self.file(
            replace(self.web, grace=9.0), metrics="tcp:0:interface=127.0.0.1"
        )
        progress = self.progress(self.reload(wanted))
        self.assertEqual(
            progress.error,
            "metrics: the monitor does not get ready: it exited with 1; it is stopped",
        )
        self.assertEqual(progress.log, ("no such file",))
        self.assertEqual(
            [(each.new, each.state.value) for each in progress.steps],
            [("monitor", "failed")],
        )
        monitor.failure = ()
        id = self.reload(wanted)
        self.done(id)
        self.assertIsNotNone(monitor.place)

    def test_inUse(self) -> None:
        """
        If a port cannot be bound, those before it are closed, and nothing has changed.
        """
        http, old = before = list(self.running.ports)
        number = http.socket.getsockname()[1]
        id = self.reload(
            self.file(
                replace(self.web, count=1),
                listen=(
                    f"http={HTTP}",
                    f"a={NEW}",
                    f"b=tcp:{number}:interface=127.0.0.1",
                ),
            )
        )
        progress = self.progress(id)
        self.assertTrue(progress.done)
        self.assertIn("ports.b.listen: cannot listen on", progress.error)
        self.assertIn("remove it first", progress.error)
        self.assertIn("nothing has changed", progress.error)
        self.assertEqual(self.running.ports, before)
        self.connect(old).close()
        self.assertEqual(self.scene.group.settings.count, 2)

    def test_notReady(self) -> None:
        """
        If the listener does not get ready, the ports are as before.
        """
        before, settings = list(self.running.ports), self.running.settings
        self.listener.result = Deferred()
        id = self.reload(self.file(self.web, listen=(f"new={NEW}",)))
        self.scene.pass_(1)
        ((_, ports),) = self.listener.replaced
        self.listener.result.errback(NotReady("listener", "why", ("line",)))
        progress = self.progress(id)
        self.assertIn("does not get ready: why", progress.error)
        self.assertEqual(progress.log, ("line",))
        self.assertEqual(progress.steps[-1].state.value, "failed")
        self.assertEqual(self.running.ports, before)
        self.assertIs(self.running.settings, settings)
        self.assertEqual(ports[0].socket.fileno(), -1)
        for port in before:
            self.connect(port).close()

    def test_kept(self) -> None:
        """
        A port gets another name, another way and other options, and keeps its socket.
        """
        http, _ = self.running.ports
        sockets = http.sockets
        id = self.reload(
            self.file(
                self.web,
                listen=(f"old={OLD}:keepalive=70",),
                share=(f"web={HTTP}:nodelay=yes",),
                backlog=3,
            )
        )
        self.done(id)
        ((_, (old, web)),) = self.listener.replaced
        self.assertIs(web.sockets, sockets)
        self.assertEqual((web.name, web.kind), ("web", Kind.LISTENER))
        self.assertEqual((old.name, old.kind), ("old", Kind.CONNECTIONS))
        for port, option, value in (
            (web, socket.TCP_NODELAY, 1),
            (old, socket.TCP_KEEPIDLE, 70),
        ):
            found = port.socket.getsockopt(socket.IPPROTO_TCP, option)
            self.assertEqual(int(bool(found)) if value == 1 else found, value)
        _, most = _kernel.queued(web.socket) or (0, 0)
        self.assertEqual(most, 3)
        # Back again, without a change for the listener but the name.
        id = self.reload(
            self.file(
                self.web,
                listen=(f"http={HTTP}", f"old={OLD}"),
                share=(),
                backlog=None,
            )
        )
        self.done(id)
        self.assertFalse(web.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_optionsAlone(self) -> None:
        """
        For an option alone, the listener is not touched.
        """
        http, _ = self.running.ports
        listen = (f"http={HTTP}:nodelay=yes", f"old={OLD}")
        id = self.reload(self.file(self.web, listen=listen))
        progress = self.progress(id)
        self.assertEqual((progress.done, progress.steps), (True, ()))
        self.assertEqual(self.listener.replaced, [])
        self.assertTrue(http.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertEqual(self.reloads.compare("").lines, (NOTHING,))

    def test_limits(self) -> None:
        """
        With other limits, the listener is replaced, and the port stays open.
        """
        http, _ = self.running.ports
        client = self.connect(http)
        listen = (f"http={HTTP}:max-per-source=5", f"old={OLD}")
        self.done(self.reload(self.file(self.web, listen=listen)))
        ((_, (port, other)),) = self.listener.replaced
        self.assertIs(port.sockets, http.sockets)
        self.assertEqual(port.limits, Limits(maxPerSource=5))
        self.assertIsNone(other.limits)
        client.close()

    def test_limitsOfUnix(self) -> None:
        """
        A Unix socket that systemd has bound gets no limits.
        """
        path = os.path.relpath(self.mktemp())
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(path)
        sock.listen()
        passed = ListenFDs([os.dup(sock.fileno())], ["web"])
        self.patch(endpoints._SystemdParser, "_sddaemon", passed)
        text = "systemd:domain=UNIX:name=web"
        ports = bind(parse(f"unix={text}", 5))
        self.running.ports += ports
        old = self.running.settings
        listen = (f"http={HTTP}", f"old={OLD}")
        self.running.settings = replace(
            old, listener=replace(old.listener, listen=(*listen, f"unix={text}"))
        )
        id = self.reload(self.file(self.web, listen=(*listen, f"unix={text}:max=5")))
        progress = self.progress(id)
        self.assertEqual(
            progress.error,
            f"ports.unix.listen: cannot listen on {text}:max=5: the inherited"
            " descriptor is a Unix socket, whose clients have no address: leave out"
            " max; nothing has changed",
        )
        self.assertEqual(self.listener.replaced, [])


class StoredTests(ReloadTestCase):
    """
    Tests for ports in a descriptor store.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store = managed(self)
        self.running.ports[:] = [stored(each) for each in self.running.ports]
        self.path = os.path.relpath(self.mktemp())
        self.unix = f"unix=unix:{self.path}"

    def stored(self) -> list[int]:
        """
        What the store has.
        """
        return [_kernel.cookie(each) for each in self.store.read().values()]

    def cookies(self) -> list[int]:
        """
        The sockets of the ports.
        """
        return [_kernel.cookie(each.socket) for each in self.running.ports]

    def close(self) -> None:
        """
        Close what the supervisor has, and empty the store.
        """
        self.running.ports[:] = [unstored(each) for each in self.running.ports]
        super().close()

    def test_added(self) -> None:
        """
        A port that is added is stored before the listener gets it, so that the listener
        knows who keeps it.
        """
        listen = (f"http={HTTP}", f"old={OLD}", self.unix)
        self.done(self.reload(self.file(self.web, listen=listen)))
        self.assertEqual(self.stored(), self.cookies())
        ((_, ports),) = self.listener.replaced
        self.assertTrue(all(each.inherited and each.stored for each in ports))

    def test_removed(self) -> None:
        """
        A port that is removed leaves the store, with its path and the lock, and can be
        added again.
        """
        first = (f"http={HTTP}", f"old={OLD}")
        for _ in range(2):
            self.done(self.reload(self.file(self.web, listen=(*first, self.unix))))
            self.assertEqual(len(self.stored()), 3)
            id = self.reload(self.file(self.web, listen=first[:1]))
            self.scene.pass_(1)
            self.done(id)
            self.assertEqual(self.stored(), self.cookies())
            self.assertEqual(len(self.stored()), 1)
            self.assertEqual(os.listdir(os.path.dirname(self.path)), [])

    def test_failed(self) -> None:
        """
        If the reload fails, the store is as before.
        """
        before = self.stored()
        self.listener.result = Deferred()
        listen = (f"http={HTTP}", f"old={OLD}", self.unix)
        id = self.reload(self.file(self.web, listen=listen))
        self.assertEqual(len(self.stored()), 3)
        self.listener.result.errback(NotReady("listener", "why", ()))
        self.assertIn("does not get ready: why", self.progress(id).error)
        self.assertEqual(self.stored(), before)
        self.assertFalse(os.path.exists(self.path))

    def test_backlog(self) -> None:
        """
        A new backlog is that of stored sockets as well.
        """
        self.done(self.reload(self.file(self.web, backlog=9)))
        for each in self.running.ports:
            self.assertEqual(backlogOf(each.socket), 9)


class WorkersTests(ReloadTestCase):
    """
    Tests for workers.
    """

    def labels(self) -> list[str]:
        """
        The labels of all workers of C{web}.
        """
        return [each.label for each in self.scene.group.workers]

    def test_more(self) -> None:
        """
        More workers are started at once, and count when they are ready.
        """
        id = self.reload(self.file(replace(self.web, count=4)))
        self.assertEqual(self.labels(), ["web-1", "web-2", "web-3", "web-4"])
        self.assertEqual(self.scene.group.settings.count, 2)
        self.join("web-3", "web-4")
        self.done(id)
        self.assertEqual(self.scene.group.settings.count, 4)
        # Those that end are started again.
        self.scene.process("web-4").end(1)
        self.scene.pass_(1)
        self.assertEqual(self.scene.states()[3], ("web-4", "starting"))

    def test_fewer(self) -> None:
        """
        Of too many workers, those that do not serve go first, then the last ones.
        """
        self.reload(self.file(replace(self.web, count=4)))
        self.join("web-3", "web-4")
        self.scene.leave("web-1")
        self.scene.process("web-1").end(1)
        id = self.reload(self.file(replace(self.web, count=2)))
        self.assertEqual(self.scene.drained, ["web-4"])
        self.drained("web-4")
        self.done(id)
        self.assertEqual(self.labels(), ["web-2", "web-3"])
        self.scene.pass_(40)
        self.assertEqual(len(self.labels()), 2)

    def test_replaced(self) -> None:
        """
        Workers are replaced one after the other, and the surplus is drained.
        """
        new = replace(self.web, command=("other",), count=1, failures=1, stop=2.0)
        id = self.reload(self.file(new))
        self.assertEqual(
            [(each.old, each.new) for each in self.progress(id).steps],
            [("web-1", "web-3")],
        )
        self.assertEqual(self.scene.process("web-3").launch.command[0], "other")
        self.join("web-3")
        self.drained("web-1")
        self.scene.pass_(1)
        self.drained("web-2")
        self.done(id)
        self.assertEqual(self.labels(), ["web-3"])
        self.assertEqual(self.scene.process("web-2").stopSeconds, 2)
        # Only one failure is allowed now.
        self.scene.process("web-3").end(1)
        self.assertEqual(self.scene.states(), [("web-3", "given up")])

    def test_halfway(self) -> None:
        """
        If a worker does not get ready, what was done stays, and the next reload does
        the rest; so does one with the settings of before.
        """
        new = replace(self.web, command=("other",))
        id = self.reload(self.file(new, WorkersSettings(name="api", command=("a",))))
        self.scene.join("api-1", uid=self.scene.groups[1].workers[0].uid)
        self.scene.pass_(2)
        self.join("web-3")
        self.drained("web-1")
        self.scene.process("web-1").end(1, "it fails")
        progress = self.progress(id)
        self.assertIn("web-1 is not ready", progress.error)
        self.assertEqual(progress.log, ("it fails",))
        self.assertEqual(self.labels(), ["web-2", "web-3"])
        self.assertEqual(self.manager.heard, ["reloading", "reloaded"])
        # A worker of before that dies is started with its own settings.
        self.scene.process("web-2").end(1)
        self.scene.pass_(1)
        self.assertEqual(self.scene.process("web-2").launch.command[0], "serve")
        self.join("web-2")
        api = self.scene.groups[1].settings
        # Back to the settings of before.
        self.wanted = self.file(self.web, api)
        (line,) = self.reloads.compare("").lines
        self.assertIn("the command changes", line)
        # On to the new ones.
        id = self.reload(self.file(new, api))
        self.join("web-1")
        self.drained("web-2")
        self.done(id)
        self.assertEqual(self.labels(), ["web-1", "web-3"])

    def test_newGroup(self) -> None:
        """
        A new group of which no worker gets ready leaves nothing; one of which some do
        stays with those.
        """
        other = WorkersSettings(name="api", command=("a",), user=33, count=2)
        id = self.reload(self.file(self.web, other))
        self.scene.process("api-1").end(1)
        self.scene.process("api-2").end(1)
        self.assertIn("api-1 is not ready", self.progress(id).error)
        self.assertEqual(self.scene.groups, [self.scene.group])
        id = self.reload(self.file(self.web, other))
        self.scene.process("api-1").end(1)
        self.join("api-2")
        self.assertTrue(self.progress(id).error)
        self.assertEqual(self.reloads.compare("").lines, ("workers api: 1 -> 2",))
        id = self.reload(self.file(other, self.web))
        self.join("api-1")
        self.done(id)
        self.assertEqual([each.name for each in self.scene.groups], ["api", "web"])

    def test_removed(self) -> None:
        """
        A group is removed when all its workers have ended.
        """
        id = self.reload(self.file())
        self.assertEqual(set(self.scene.drained), {"web-1", "web-2"})
        self.drained("web-1", "web-2")
        self.done(id)
        self.assertEqual(self.scene.groups, [])

    def test_stops(self) -> None:
        """
        A stop of the supervisor ends the reload, and closes the ports that it bound.
        """
        self.listener.result = Deferred()
        id = self.reload(self.file(self.web, listen=(f"new={NEW}",)))
        self.scene.pass_(0.2)
        ((_, ports),) = self.listener.replaced
        self.scene.replacements.stop()
        self.listener.result.errback(NotReady("listener", "the supervisor stops"))
        self.assertIn("the supervisor stops before", self.progress(id).error)
        self.assertEqual(ports[0].socket.fileno(), -1)

    def test_stopsLate(self) -> None:
        """
        If the listener gets ready all the same, no worker is started any more.
        """
        self.listener.result = Deferred()
        wanted = self.file(replace(self.web, count=3), patience=30.0)
        id = self.reload(wanted)
        self.scene.replacements.stop()
        self.listener.result.callback(None)
        self.assertIn("the supervisor stops before", self.progress(id).error)
        self.assertEqual(len(self.scene.group.workers), 2)
