"""
C{twistd portlisten}: its options and its service.
"""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.usage import UsageError

from portlisten import _linux, _path, _ports, _twistd
from portlisten._accept import Accepted, Acceptor
from portlisten._access import Access
from portlisten._channel import ListenerChannel
from portlisten._dispatcher import Dispatcher
from portlisten._frames import MAXIMUM_WINDOW, Bye, ListenerHello, Port, encode
from portlisten._ledger import Ledger
from portlisten._throttle import Throttle
from portlisten._transport import ChannelTransport

#: How many processes may be connected to the channel's path at a time; any more
#: wait in its backlog.  Each takes two descriptors.
MAXIMUM_CHANNELS = 256

#: How many of them are let in at a time, and the pause after that, in seconds: a
#: process that connects as fast as it can must not keep the listener busy.
GREETED = 8
GREETING_PAUSE = 0.05

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


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise UsageError(f"--mode: {text!r} is not an octal mode such as 0660")
    return mode


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
It may be left out where --listen gives one.

With a name before it, a worker can ask for it; one that asks for none gets all.
Ports of one name have their own queue, so they do not wait for others' workers:
  http=80                         https=tcp:443:interface=192.0.2.1

Examples:
  twistd -n portlisten 10000 ./socket
  twistd --uid nobody --gid nogroup portlisten --group www-data \\
      --listen http=80 --listen https=443 /run/portlisten/web.sock
"""

    optParameters = [
        [
            "mode",
            None,
            None,
            "Permissions of PATH: who may write to it may be a worker. [default: 0660]",
            _octal,
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
            "Connections that the kernel keeps for us to accept."
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
            "What to do when its patience runs out: 'close' the connection, or"
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
            16,
            "Connections that one worker may have been sent and not yet claimed.",
            _twistd.number("window", int, 1, MAXIMUM_WINDOW),
        ],
        [
            "retry",
            None,
            0.1,
            "Seconds to pause accepting when descriptors or memory run out.",
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
        self["mode"] = 0o660
        self["allow-user"] = []
        self["allow-group"] = []

    def opt_listen(self, description: str) -> None:
        """
        Listen on this [NAME=]PORT as well; may be given several times.
        """
        self["listen"].append(description)

    def opt_allow_user(self, name: str) -> None:
        """
        Only this user's processes may be workers, besides root's and the
        listener's own; may be given several times. [default: whom the path's
        mode lets in]
        """
        self["allow-user"].append(_twistd.user(name, "allow-user"))

    def opt_allow_group(self, name: str) -> None:
        """
        Likewise for the members of a group.
        """
        self["allow-group"].append(_twistd.group(name, "allow-group"))

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
        Take PORT, which may be missing after C{--listen}, and PATH.
        """
        if not 2 - bool(self["listen"]) <= len(args) <= 2:
            port = "[PORT]" if self["listen"] else "PORT"
            raise UsageError(f"expected {port} and PATH, got {len(args)} arguments")
        *ports, self["path"] = args
        self["listen"][:0] = ports


class ListenerService(Service):
    """
    Binds as whoever the process is when it starts, and listens as whoever it
    has become since.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, options: Options, ports: list[Any], backlog: int
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._wanted = ports
        self._backlog = backlog
        self._bound: list[_ports.BoundPort] = []
        self._path: _path.BoundPath | None = None
        self._acceptors: list[Acceptor] = []
        self._dispatcher: Dispatcher | None = None
        self._numbers = 0
        self._rest: IDelayedCall | None = None

    def privilegedStartService(self) -> None:
        """
        Bind the ports and the channel's path.

        @raise StartFailure: if one of them cannot be bound.  Nothing is left
            behind then.
        """
        super().privilegedStartService()
        with ExitStack() as undo:
            undo.callback(self._release)
            try:
                for wanted in self._wanted:
                    self._bound.extend(_ports.bind(wanted))
                self._hello = self._greeting()
                self._path = _path.bind(
                    self._options["path"],
                    self._options["mode"],
                    self._options["group"],
                    self._backlog,
                )
            except (_ports.CannotBind, _path.PathError, OSError) as error:
                _twistd.failToStart(self._options, str(error))
            self._refuses = _linux.refuseDescriptors(self._path.socket)
            undo.pop_all()

    def _greeting(self) -> ListenerHello:
        """
        Say what all workers are told first.

        @raise CannotBind: if that is more than fits a frame.
        """
        hello = ListenerHello(
            self._options["window"],
            tuple(
                Port(number, port.address, port.name)
                for number, port in enumerate(self._bound)
            ),
        )
        try:
            encode(hello)
        except ValueError:
            raise _ports.CannotBind(
                f"{len(self._bound)} ports are more than a listener can tell its"
                " workers of: start another listener for some of them"
            ) from None
        return hello

    def startService(self) -> None:
        """
        Accept, and hand off.
        """
        if self._path is None:
            # `twist` starts services without their privileged part.
            self.privilegedStartService()
        assert self._path is not None
        super().startService()
        _twistd.warnOfRoot("portlisten")
        if not self._refuses:
            self.log.info(
                "this kernel cannot refuse descriptors that workers send (Linux 6.16"
                " can): they are closed when they come"
            )
        options = self._options
        budget, channels = descriptorBudget()
        self._access = options.access()
        self._dispatcher = dispatcher = Dispatcher(
            self._reactor,
            Ledger(
                options["queue"],
                budget,
                options["patience"],
                claimTimeout=options["claim-timeout"],
                roundRobin=options["balance"] == "round-robin",
                names=[port.name for port in self._hello.ports],
            ),
            Throttle(longest=options["throttle"]),
            self._timedOut if options["on-timeout"] == "exit" else lambda: None,
        )
        dispatcher.roomChanged = self._resume
        dispatcher.channelEnded = self._resumeWorkers
        _twistd.onReportSignal(self._reactor, dispatcher.report)
        retry = options["retry"]
        for bound, port in zip(self._bound, self._hello.ports, strict=True):
            self._acceptors.append(
                Acceptor(
                    self._reactor,
                    bound.socket,
                    bound.label,
                    partial(dispatcher.room, port.name),
                    partial(dispatcher.accepted, port),
                    retry,
                )
            )
        self._workers = Acceptor(
            self._reactor,
            self._path.socket,
            options["path"],
            lambda: max(0, min(GREETED, channels - dispatcher.channels)),
            partial(self._adoptWorkers, dispatcher),
            retry,
        )
        self._workers.resume()
        self._resume()
        self.log.info(
            "listening on {ports}, as uid {uid}; workers connect to {path} (mode"
            " {mode:04o})",
            ports=", ".join(port.label for port in self._bound),
            uid=os.geteuid(),
            path=options["path"],
            mode=options["mode"],
        )

    def stopService(self) -> Deferred[None]:
        """
        Stop accepting, hand off what is held while a worker can take it, and
        remove the channel's path.
        """
        super().stopService()
        if self._dispatcher is None:
            self._release()
            return maybeDeferred(lambda: None)
        for acceptor in self._acceptors:
            acceptor.stop()
        # Before its socket is closed: a successor's might get the same inode.
        if self._path is not None:
            self._path.remove()
            self._path = None
        self._workers.close()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        stopped = self._dispatcher.stop(self._options["grace"])
        return stopped.addBoth(lambda result: self._release())

    def _release(self) -> None:
        for port in self._bound:
            port.cleanUp()
            port.socket.close()
        self._bound = []
        if self._path is not None:
            self._path.remove()
            self._path.socket.close()
            self._path = None

    def _resume(self) -> None:
        for acceptor in self._acceptors:
            acceptor.resume()

    def _resumeWorkers(self) -> None:
        if self._rest is None:
            self._workers.resume()

    def _rested(self) -> None:
        self._rest = None
        self._workers.resume()

    def _adoptWorkers(self, dispatcher: Dispatcher, batch: list[Accepted]) -> None:
        self._workers.suspend()
        self._rest = self._reactor.callLater(GREETING_PAUSE, self._rested)
        for sock, _ in batch:
            who = _linux.credentials(sock)
            if not self._access.permits(who):
                self._turnAway(sock, who)
                continue
            self._numbers += 1
            channel = ListenerChannel(
                self._reactor, dispatcher, self._hello, self._numbers
            )
            try:
                ChannelTransport(self._reactor, sock, channel).start()
            except OSError as error:
                self.log.error(
                    "{channel} is turned away, and may try again: {error}",
                    channel=channel.label,
                    error=error.strerror,
                )

    def _turnAway(self, sock: socket.socket, who: _linux.Credentials) -> None:
        reason = (
            f"uid {who.uid} may not be a worker here: the listener's --allow-user"
            " and --allow-group say who may"
        )
        self.log.warn(
            "process {pid} is turned away: {reason}", pid=who.pid, reason=reason
        )
        try:
            sock.send(encode(Bye(reason)))
        except OSError:
            pass  # it is gone already
        sock.close()

    def _timedOut(self) -> None:
        self.log.critical("exiting, as --on-timeout=exit asks for")
        _twistd.exitWith(self._reactor, 1)


def descriptorBudget() -> tuple[int, int]:
    """
    Raise the limit of open descriptors as far as it goes, and divide it.

    @return: how many may be connections' at a time, and how many channels there
        may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    free = hard - len(os.listdir("/proc/self/fd")) - RESERVE
    channels = max(1, min(MAXIMUM_CHANNELS, free // 8))
    return max(1, free - 2 * channels), channels


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
        ports = [
            _ports.parse(reactor, description, backlog)
            for description in options["listen"]
        ]
    except _ports.BadDescription as error:
        options.refuse(str(error))
    _twistd.exitCleanlyOnTerm(reactor)
    return ListenerService(reactor, options, ports, backlog)
