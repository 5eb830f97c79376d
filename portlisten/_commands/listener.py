"""
C{twistd portlisten}: its options and its service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python.usage import CompleteFiles, Completer, UsageError

from portlisten import _kernel
from portlisten._commands.options import CommandOptions
from portlisten._config.ports import PortSettings
from portlisten._config.settings import ListenerSettings
from portlisten._listener.making import makeListener
from portlisten._listener.own_sockets import OwnSockets
from portlisten._listener.service import checkPathsDiffer
from portlisten._ports import parsing as _ports
from portlisten._process.pid_file import PidFile
from portlisten.errors import BadDescription, PathError

if TYPE_CHECKING:
    from portlisten._monitor.place import Place


class Options(CommandOptions):
    """
    The options of C{twistd portlisten}.
    """

    settingsType = ListenerSettings

    command = "portlisten"

    pidFile: PidFile | None = None

    arguments = [Completer(descr="[NAME=]PORT"), CompleteFiles(descr="PATH")]

    synopsis = "[options] [PORT] PATH"

    longdesc = (
        "Binds PORT, and hands each connection that it accepts to a worker. A worker is"
        " any process that connects to the Unix socket at PATH, such as 'twistd"
        " hellofdpass PATH STRING'. Start the listener as root with twistd's --uid: it"
        " binds as root, then drops its privileges, and accepts after that. Workers may"
        " come and go. While no worker can take a connection, the connection waits."
    )

    epilogue = """
PORT is a number (every interface, IPv4 and IPv6) or an endpoint description:
  80                              tcp:80:interface=127.0.0.1
  unix:/run/www.sock              systemd:domain=INET:index=0
PORT may be left out if --listen or --share gives one. tcp6:80 is IPv6 only: give
tcp:80 as well for IPv4.

If a port has a name, a worker can ask for that name. A worker that gives no name gets
all ports. Each name has its own queue, and waits for no other name's workers:
  http=80                         https=tcp:443:interface=192.0.2.1

--share gives workers the listening socket instead of the connections, so each worker
accepts by itself. The listener then balances nothing, and hands nothing off again.
UDP needs --share, and so do the programs that 'portlisten exec' runs:
  --share http=80:reuseport=4     --share dns=udp:53 --share dns=tcp:53

A TCP port may have options of its sockets, in any order, for --listen and --share.
Accepted connections inherit them. A UDP port may have freebind and device:
  nodelay=yes                     send small writes at once
  keepalive=yes, keepalive=60     probe silent clients (after 60 seconds)
  defer=3                         keep silent clients in the kernel, for 3 seconds
  mptcp=yes                       let clients speak Multipath TCP
  freebind=yes                    bind an address that the host may get later
  device=eth0                     serve only clients that come through a device
For example:
  http=80:nodelay=yes             tcp:80:interface=192.0.2.1:freebind=yes

A TCP port of --listen may limit its clients. A source is an address, or a network of
source-prefix (IPv4) or source-prefix6 (IPv6, 64 unless given):
  max-per-source=20, max=1000     connections at a time, of each source, of all
  'rate-per-source=20/s burst 40', rate=500/s
                                  new connections per second (/s), minute (/m) or
                                  hour (/h), of each source, of all
  allow=10.0.0.0/8,192.0.2.7      only clients of these networks come in
  deny=198.51.100.0/24            clients of these networks do not come in
  beyond=reset, close, wait       what happens to clients beyond a limit
  fair=yes                        sources take turns while connections wait
  proxy-from=10.0.0.1             believe PROXY headers from these networks

Examples:
  twistd -n portlisten 10000 ./socket
  twistd --uid nobody --gid nogroup portlisten --group www-data \\
      --listen http=80 --listen https=443 /run/portlisten/web.sock
"""

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

    def postOptions(self) -> None:
        """
        See L{CommandOptions.postOptions}.
        """
        super().postOptions()
        if self["replace"] and self._parent is not None:
            # Before twistd looks whether the process in it lives.
            self.pidFile = PidFile(self._parent)

    def settings(self) -> ListenerSettings:
        """
        Make settings of the options and arguments.
        """
        return ListenerSettings(path=self["path"], **self.given())


def makeService(options: Options, reactor: Any = None) -> IService:
    """
    Make the service of C{twistd portlisten}.

    @param reactor: by default the global one.
    @raise SystemExit: if a port's description cannot be understood.
    """
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings()
    backlog = settings.backlog or _kernel.longestBacklog()
    try:
        ports = parsePorts(settings, backlog)
        metrics = parseMetrics(settings)
    except (BadDescription, PathError) as error:
        options.refuse(str(error))
    twistd = options.process.twistd
    if metrics is not None and twistd.get("chroot"):
        options.refuse(
            "--metrics needs a program that --chroot hides: give one of them"
        )
    sockets = OwnSockets(
        settings,
        ports,
        backlog,
        twistd.get("uid"),
        metrics=metrics,
        pidFile=options.pidFile,
    )
    return makeListener(reactor, options.process, settings, sockets, backlog)


def parsePorts(settings: ListenerSettings, backlog: int) -> list[PortSettings]:
    """
    Understand the descriptions of all ports.

    @raise BadDescription: if a description cannot be understood, or a name is both
        shared and listened on.
    @raise PathError: if a port has the path of the channels.
    """
    listened = [_ports.parse(description, backlog) for description in settings.listen]
    shared = [
        _ports.parse(description, backlog, shared=True)
        for description in settings.share
    ]
    for port in [*listened, *shared]:
        checkPathsDiffer(port.path, settings)
        try:
            port.checkWire(settings.wire)
        except ValueError as error:
            raise BadDescription(str(error)) from None
    for port in listened:
        if port.name and port.name in (each.name for each in shared):
            raise BadDescription(
                f"{port.name!r} is both shared and listened on, and a worker that asks"
                " for it would get both: give one of them another name"
            )
    return [*listened, *shared]


def parseMetrics(settings: ListenerSettings) -> Place | None:
    """
    Understand where the monitor listens.

    @return: L{None} if none is to run.
    @raise BadDescription: if the description cannot be understood, or the monitor
        cannot run.
    @raise PathError: if it has the path of the channels, or of the control socket.
    """
    if settings.metrics is None:
        return None
    # Few listeners need it.
    from portlisten._monitor.place import parsePlace

    try:
        place = parsePlace(settings.metrics)
    except BadDescription as error:
        raise BadDescription(f"--metrics: {error}") from None
    if isinstance(place, PortSettings):
        checkPathsDiffer(place.path, settings)
    return place
