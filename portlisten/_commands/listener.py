"""
C{twistd portlisten}: its options and its service.
"""

from __future__ import annotations

import atexit
import errno
import os
import resource
import select
import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.usage import UsageError

from portlisten._commands import options as _twistd
from portlisten._listener.access import Access
from portlisten._listener.datagram import DatagramWire
from portlisten._listener.stream import StreamWire
from portlisten._model import Kind, Port
from portlisten._ports import parsing as _ports
from portlisten._ports.accepting import Acceptor
from portlisten._process import systemd_notify
from portlisten._reactor.monotonic import ours
from portlisten._wire.frames import MAXIMUM_WINDOW
from portlisten.errors import BadDescription, CannotBind, PathError
from portlisten.interfaces import IWire

log = Logger()

#: How many processes may be connected to the channel's path at a time; any more
#: wait in its backlog.  Each takes two descriptors.
MAXIMUM_CHANNELS = 256

#: Descriptors kept free for log files and the like.
RESERVE = 16


def somaxconn() -> int:
    """
    The longest backlog that this host allows: listen(2) cuts a longer one.
    """
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 4096


class Options(_twistd.CommandOptions):
    """
    The options of C{twistd portlisten}.
    """

    command = "portlisten"

    synopsis = "[options] [PORT] PATH"

    longdesc = (
        "Binds PORT, and hands each connection that it accepts to a worker: any"
        " process that connects to the Unix socket at PATH, such as 'twistd"
        " hellofdpass PATH STRING'. Start it as root with --uid, and only the"
        " binding is done as root. Workers may come and go; while none has room,"
        " connections wait."
    )

    epilogue = """
PORT is a number (every interface, IPv4 and IPv6) or an endpoint description:
  80                              tcp:80:interface=127.0.0.1
  unix:/run/www.sock              systemd:domain=INET:index=0
It may be left out where --listen or --share gives one. tcp6:80 is IPv6 only: give
tcp:80 as well for IPv4.

If a port has a name, workers can ask for it; a worker that gives no name gets all.
Ports of one name have their own queue, so they do not wait for others' workers:
  http=80                         https=tcp:443:interface=192.0.2.1

--share gives workers the listening socket instead of the connections: nothing is
between them and their clients then, and nothing is balanced or handed off again.
It is the only way for UDP, and for programs that 'portlisten exec' runs:
  --share http=80:reuseport=4     --share dns=udp:53 --share dns=tcp:53

Examples:
  twistd -n portlisten 10000 ./socket
  twistd --uid nobody --gid nogroup portlisten --group www-data \\
      --listen http=80 --listen https=443 /run/portlisten/web.sock
"""

    optParameters = [
        [
            "wire",
            None,
            "stream",
            "How connections get to workers: 'stream', with which none is lost, or"
            " 'datagram', as in 2002, where the worker binds PATH.",
            _twistd.wire,
        ],
        [
            "mode",
            None,
            None,
            "Permissions of PATH: a process that may write to it may be a worker."
            " [default: 0660]",
            _twistd.octal,
        ],
        [
            "group",
            None,
            None,
            "Group that PATH belongs to. [default: the process's]",
            _twistd.group,
        ],
        [
            "backlog",
            None,
            None,
            "Connections that the kernel keeps for the listener to accept."
            " [default: what the host allows, net.core.somaxconn]",
            _twistd.number("backlog", int, 1, 2**31 - 1),
        ],
        [
            "queue",
            None,
            1024,
            "Accepted connections that wait here while no worker has room, for each"
            " name of ports; any more wait in the backlog.",
            _twistd.number("queue", int, 0),
        ],
        [
            "patience",
            None,
            60.0,
            "Seconds that an accepted connection may wait for a worker.",
            _twistd.number("patience", float, 0.001),
        ],
        [
            "on-timeout",
            None,
            "close",
            "What to do when a connection has waited for so long: 'close' it, or"
            " 'exit', as in 2002.",
            _twistd.choice("on-timeout", "close", "exit"),
        ],
        [
            "balance",
            None,
            "least",
            "Which worker is next: the one with the 'least' connections, or each"
            " in turn, 'round-robin'.",
            _twistd.choice("balance", "least", "round-robin"),
        ],
        [
            "claim-timeout",
            None,
            5.0,
            "Seconds that a worker may take to claim a connection before it counts"
            " as hung, and others get what it was sent.",
            _twistd.number("claim-timeout", float, 0.001),
        ],
        [
            "throttle",
            None,
            10.0,
            "Seconds that a worker waits at the most, if those of its user die"
            " again and again with nothing done; 0 for none.",
            _twistd.number("throttle", float, 0),
        ],
        [
            "window",
            None,
            32,
            "Connections that one worker may have been sent and not yet claimed.",
            _twistd.number("window", int, 1, MAXIMUM_WINDOW),
        ],
        [
            "retry",
            None,
            0.1,
            "Seconds to pause accepting when descriptors or memory run out, and before"
            " the reactor's registrations are tried again.",
            _twistd.number("retry", float, 0.001),
        ],
        [
            "grace",
            None,
            10.0,
            "Seconds that a stop may take to hand off what is waiting.",
            _twistd.number("grace", float, 0),
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["share"] = []
        self["mode"] = 0o660
        self["allow-user"] = []
        self["allow-group"] = []

    def opt_listen(self, description: str) -> None:
        """
        Listen on this [NAME=]PORT as well; may be given several times.
        """
        self["listen"].append(description)

    def opt_share(self, description: str) -> None:
        """
        Let each worker accept on this [NAME=]PORT itself; may be given several
        times.
        """
        self["share"].append(description)

    def opt_allow_user(self, name: str) -> None:
        """
        Only this user's processes may be workers, besides those of root and of
        the listener's own user; may be given several times. [default: every user
        that may write to PATH]
        """
        self["allow-user"].append(_twistd.user(name, "allow-user"))

    def opt_allow_group(self, name: str) -> None:
        """
        Likewise for the members of this group.
        """
        self["allow-group"].append(_twistd.group(name, "allow-group"))

    def postOptions(self) -> None:
        """
        See that no option goes with the other wire only.
        """
        if self["wire"] == "datagram":
            self.checkAlone(
                "wire=datagram",
                *("mode", "group", "balance", "claim-timeout", "throttle", "window"),
                *("allow-user", "allow-group", "share"),
            )

    def access(self) -> Access:
        """
        Who may be a worker.
        """
        users, groups = self["allow-user"], self["allow-group"]
        if users or groups:
            users = [0, os.geteuid(), *users]
        return Access(users, groups)

    def parseArgs(self, *args: str) -> None:
        """
        Take PORT, which may be missing after C{--listen} or C{--share}, and PATH.
        """
        given = bool(self["listen"] or self["share"])
        self.checkOrder(args)
        if not 2 - given <= len(args) <= 2:
            port = "[PORT]" if given else "PORT"
            raise UsageError(f"expected {port} and PATH, got {len(args)} arguments")
        if len(args) == 2 and "/" in args[0] and args[1].isdecimal():
            raise UsageError(f"PORT comes first, as in '{args[1]} {args[0]}'")
        *ports, self["path"] = args
        self.checkPath(self["path"])
        self["listen"][:0] = ports


class ListenerService(Service):
    """
    Binds as whoever the process is when it starts, and listens as whoever it
    has become since.

    @param wire: an L{IWire}, which takes the connections.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, options: Options, ports: list[Any], wire: IWire
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._wanted = ports
        self._wire = wire
        self._bound: list[_ports.BoundPort] = []
        self._acceptors: deque[tuple[_ports.BoundPort, Acceptor]] = deque()
        self._ready = False
        self._stopping = False
        self._state = systemd_notify.manager().begin()

    def privilegedStartService(self) -> None:
        """
        Bind the ports, and what the wire needs.

        @raise StartFailure: if one of them cannot be bound.  Nothing is left
            behind then.
        """
        super().privilegedStartService()
        _twistd.checkUser(self._options)
        with ExitStack() as undo:
            undo.callback(self._release)
            try:
                self._bind(time.monotonic() + self._wire.succeed())
                for bound in self._bound:
                    _checkApart(bound.path, self._options["path"])
                ports = self._described()
                self._wire.bind(
                    ports,
                    {
                        port: bound.sockets
                        for port, bound in zip(ports, self._bound, strict=True)
                        if port.kind is not Kind.CONNECTIONS
                    },
                )
            except (CannotBind, PathError, OSError) as error:
                _twistd.failToStart(self._options, str(error))
            undo.pop_all()
        self._ready = True
        # If privileges cannot be dropped, it is never started.
        atexit.register(self._release)

    def _bind(self, end: float) -> None:
        """
        Bind the ports.

        @param end: until when what a predecessor had may still be in use.
        @raise CannotBind: if one of them cannot be bound.
        """
        for wanted in self._wanted:
            while True:
                try:
                    self._bound.extend(_ports.bind(wanted))
                    break
                except CannotBind as error:
                    if error.errno != errno.EADDRINUSE or time.monotonic() >= end:
                        raise
                    select.poll().poll(50)

    def _described(self) -> list[Port]:
        return [
            Port(number, port.address, port.name, port.kind)
            for number, port in enumerate(self._bound)
        ]

    def startService(self) -> None:
        """
        Accept, and hand off.

        @raise StartFailure: if that is impossible.  Nothing is left behind then.
        """
        if not self._ready:
            # `twist` starts services without their privileged part.
            self.privilegedStartService()
        atexit.unregister(self._release)
        super().startService()
        with ExitStack() as undo:
            undo.callback(self._abandon)
            try:
                self._start()
            except OSError as error:
                _twistd.failToStart(self._options, f"cannot start: {error}")
            undo.pop_all()

    def _abandon(self) -> None:
        """
        Undo a start that failed.
        """
        super().stopService()
        self._release()

    def _start(self) -> None:
        self._stopping = False
        _twistd.warnOfRoot("portlisten")
        self._wire.roomChanged = self._resume
        self._wire.start(*descriptorBudget())
        _twistd.onReportSignal(self._reactor, self._wire.report)
        for bound, port in zip(self._bound, self._described(), strict=True):
            if port.kind is not Kind.CONNECTIONS:
                continue
            acceptor = Acceptor(
                self._reactor,
                bound.socket,
                bound.label,
                partial(self._wire.room, port.name),
                partial(self._wire.accepted, port),
                self._options["retry"],
                partial(self._wire.busy, port.name),
            )
            self._acceptors.append((bound, acceptor))
        self._resume()
        ports = ", ".join(port.label for port in self._bound)
        self.log.info(
            "listening on {ports}, as uid {uid}; {workers}",
            ports=ports,
            uid=os.geteuid(),
            workers=str(self._wire),
        )
        self._state.ready(f"listening on {ports}; {self._wire}")

    def stopService(self) -> Deferred[None]:
        """
        Hand off what is held and what waits in the backlogs.  While no worker is
        there for it, leave the backlogs as they are: one may come.
        """
        running = self.running
        super().stopService()
        if not running:
            self._release()
            return succeed(None)
        systemd_notify.manager().stopping()
        self._stopping = True
        for _, acceptor in self._acceptors:
            acceptor.park()
        self._resume()
        stopped = self._wire.stop(self._options["grace"], self._waits)
        return stopped.addBoth(lambda result: self._release())

    def _release(self) -> None:
        self._ready = self._stopping = False
        for _, acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        atexit.unregister(self._release)
        for port in self._bound:
            port.cleanUp()
            for sock in port.sockets:
                sock.close()
        self._bound = []
        self._wire.release()

    def _waits(self) -> bool:
        """
        Whether connections wait that would be reset if the ports were closed.
        """
        return any(
            acceptor.waits for bound, acceptor in self._acceptors if not bound.inherited
        )

    def _resume(self) -> None:
        if self._stopping:
            # A successor of the other wire does not wait for the ports.
            datagram = self._options["wire"] == "datagram"
            for bound, acceptor in self._acceptors:
                if self._wire.serves(bound.name):
                    acceptor.stop(bound.inherited or datagram)
            return
        # The first may leave nothing to those after it.
        self._acceptors.rotate()
        for _, acceptor in list(self._acceptors):
            acceptor.resume()


def descriptorBudget() -> tuple[int, int]:
    """
    Raise the limit of open descriptors as far as it goes, and divide it.

    @return: how many may be connections' at a time, and how many channels there
        may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    free = hard - _openDescriptors() - RESERVE
    channels = max(1, min(MAXIMUM_CHANNELS, free // 8))
    return max(1, free - 2 * channels), channels


def _openDescriptors() -> int:
    """
    How many descriptors are open.  Without /proc, this is how many are open below the
    lowest free number.
    """
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        lowest, second = os.pipe()
        os.close(lowest)
        os.close(second)
        return lowest


def _checkApart(port: str | None, path: str) -> None:
    """
    See that a port and the channels have two paths.

    @param port: the path of the port; L{None} if it has none.
    @raise PathError: if they have not.
    """
    if port is not None and os.path.realpath(port) == os.path.realpath(path):
        raise PathError(
            f"{path} is both a port and PATH, where workers connect: give one of them"
            " another path"
        )


def makeService(options: Options, reactor: Any = None) -> IService:
    """
    Make the service of C{twistd portlisten}.

    @param reactor: by default the global one.
    @raise SystemExit: if a port's description cannot be understood.
    """
    if reactor is None:
        from twisted.internet import reactor
    backlog = options["backlog"] or somaxconn()
    try:
        listened = [
            _ports.parse(description, backlog) for description in options["listen"]
        ]
        shared = [
            _ports.parseShared(description, backlog) for description in options["share"]
        ]
    except BadDescription as error:
        options.refuse(str(error))
    try:
        for port in [*listened, *shared]:
            _checkApart(_ports.pathOf(port), options["path"])
    except PathError as error:
        options.refuse(str(error))
    for port in listened:
        name = _ports.nameOf(port)
        if name and name in (each.name for each in shared):
            options.refuse(
                f"{name!r} is both shared and listened on, and a worker that asks for"
                " it would get both: give one of them another name"
            )
    _twistd.ownProcess(reactor, options["retry"])

    def timedOut() -> None:
        if options["on-timeout"] == "exit":
            log.critical("exiting, as --on-timeout=exit asks for")
            _twistd.exitWith(reactor, 1)

    wire: IWire
    own = ours(reactor)
    if options["wire"] == "datagram":
        wire = DatagramWire(own, options, timedOut)
    else:
        wire = StreamWire(own, options, options.access, backlog, timedOut)
    return ListenerService(own, options, [*listened, *shared], wire)
