"""
C{twistd portlisten}: its options and its service.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python.usage import UsageError

from portlisten._commands.options import CommandOptions
from portlisten._config import values
from portlisten._listener.access import Access
from portlisten._listener.datagram import DatagramWire
from portlisten._listener.interfaces import IWire
from portlisten._listener.service import ListenerService, checkApart
from portlisten._listener.stream import StreamWire
from portlisten._ports import parsing as _ports
from portlisten._process import exits, signals
from portlisten._reactor.monotonic import ours
from portlisten._wire.frames import MAXIMUM_WINDOW
from portlisten.errors import BadDescription, PathError

log = Logger()


def somaxconn() -> int:
    """
    The longest backlog that this host allows: listen(2) cuts a longer one.
    """
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 4096


class Options(CommandOptions):
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
            values.wire,
        ],
        [
            "mode",
            None,
            None,
            "Permissions of PATH: a process that may write to it may be a worker."
            " [default: 0660]",
            values.octal,
        ],
        [
            "group",
            None,
            None,
            "Group that PATH belongs to. [default: the process's]",
            values.group,
        ],
        [
            "backlog",
            None,
            None,
            "Connections that the kernel keeps for the listener to accept."
            " [default: what the host allows, net.core.somaxconn]",
            values.number("backlog", int, 1, 2**31 - 1),
        ],
        [
            "queue",
            None,
            1024,
            "Accepted connections that wait here while no worker has room, for each"
            " name of ports; any more wait in the backlog.",
            values.number("queue", int, 0),
        ],
        [
            "patience",
            None,
            60.0,
            "Seconds that an accepted connection may wait for a worker.",
            values.number("patience", float, 0.001),
        ],
        [
            "on-timeout",
            None,
            "close",
            "What to do when a connection has waited for so long: 'close' it, or"
            " 'exit', as in 2002.",
            values.choice("on-timeout", "close", "exit"),
        ],
        [
            "balance",
            None,
            "least",
            "Which worker is next: the one with the 'least' connections, or each"
            " in turn, 'round-robin'.",
            values.choice("balance", "least", "round-robin"),
        ],
        [
            "claim-timeout",
            None,
            5.0,
            "Seconds that a worker may take to claim a connection before it counts"
            " as hung, and others get what it was sent.",
            values.number("claim-timeout", float, 0.001),
        ],
        [
            "throttle",
            None,
            10.0,
            "Seconds that a worker waits at the most, if those of its user die"
            " again and again with nothing done; 0 for none.",
            values.number("throttle", float, 0),
        ],
        [
            "window",
            None,
            32,
            "Connections that one worker may have been sent and not yet claimed.",
            values.number("window", int, 1, MAXIMUM_WINDOW),
        ],
        [
            "retry",
            None,
            0.1,
            "Seconds to pause accepting when descriptors or memory run out, and before"
            " the reactor's registrations are tried again.",
            values.number("retry", float, 0.001),
        ],
        [
            "grace",
            None,
            10.0,
            "Seconds that a stop may take to hand off what is waiting.",
            values.number("grace", float, 0),
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
        self["allow-user"].append(values.user(name, "allow-user"))

    def opt_allow_group(self, name: str) -> None:
        """
        Likewise for the members of this group.
        """
        self["allow-group"].append(values.group(name, "allow-group"))

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
            _ports.parse(description, backlog, shared=True)
            for description in options["share"]
        ]
    except BadDescription as error:
        options.refuse(str(error))
    try:
        for port in [*listened, *shared]:
            checkApart(port.path, options["path"])
    except PathError as error:
        options.refuse(str(error))
    for port in listened:
        if port.name and port.name in (each.name for each in shared):
            options.refuse(
                f"{port.name!r} is both shared and listened on, and a worker that asks"
                " for it would get both: give one of them another name"
            )
    signals.ownProcess(reactor, options["retry"])

    def timedOut() -> None:
        if options["on-timeout"] == "exit":
            log.critical("exiting, as --on-timeout=exit asks for")
            exits.exitWith(reactor, 1)

    wire: IWire
    own = ours(reactor)
    if options["wire"] == "datagram":
        wire = DatagramWire(own, options, timedOut)
    else:
        wire = StreamWire(own, options, options.access, backlog, timedOut)
    return ListenerService(own, options, [*listened, *shared], wire)
