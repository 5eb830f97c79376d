"""
The settings of the listener, of a worker, and of the C{portlisten} commands.

Each option is defined here, and nowhere else.  The command line, endpoint
descriptions, the help, the tables in the documents, the manual pages and the shell's
completion are made from the settings.

Two commands may use one name for different options.  Each command then defines its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portlisten._config.options import (
    DATAGRAM,
    STREAM,
    WIRES,
    ChannelSettings,
    Settings,
    option,
)
from portlisten._config.port_values import Networks
from portlisten._config.values import (
    Choice,
    Duration,
    File,
    FileOrNone,
    First,
    Flag,
    Group,
    Label,
    Mode,
    Name,
    User,
    ValueType,
    count,
    seconds,
)
from portlisten._policy.networks import Network
from portlisten._wire.codec import portNames
from portlisten._wire.frames import MAXIMUM_LIMIT, MAXIMUM_WINDOW

#: The formats of the log.  The first is the default.
LOG_FORMATS = ("text", "json")


def _logFormat() -> Any:
    """
    Make the option C{--log-format} of a command.
    """
    return option(
        "text",
        Choice(*LOG_FORMATS),
        "How the log is written: as 'text', or as 'json', with a line of JSON for each"
        " event.",
    )


@dataclass(frozen=True, kw_only=True)
class ListenerSettings(ChannelSettings):
    """
    The settings of C{twistd portlisten}.
    """

    wire: str = option(
        "stream",
        Choice(*WIRES),
        "How connections travel to workers: 'stream' loses none; 'datagram' is the wire"
        " of 2002, where the worker binds PATH.",
    )
    listen: tuple[str, ...] = option(
        (),
        ValueType("[NAME=]PORT"),
        "Listen on this [NAME=]PORT as well.",
        more="With this option, the argument PORT may be left out. A TCP port may have"
        " options of its sockets, such as `80:nodelay=yes`, and limits of its clients,"
        " such as `80:max-per-source=20`.",
        several=True,
    )
    share: tuple[str, ...] = option(
        (),
        ValueType("[NAME=]PORT"),
        "Let each worker accept on this [NAME=]PORT itself.",
        more="Workers get the listening socket. With this option, the argument PORT may"
        " be left out. A shared PORT may also be `udp:53` or `udp6:53`. With"
        " `80:reuseport=4`, a TCP port has four sockets. With `80:balance=no`, workers"
        " take clients whatever the others have.",
        several=True,
        wires=STREAM,
    )
    mode: int = option(
        0o660,
        Mode(),
        "Permissions of PATH: a process that may write to it may be a worker.",
        shown="0660",
        wires=STREAM,
    )
    group: int | None = option(
        None,
        Group(known=False),
        "Group that PATH belongs to.",
        more="Make PATH's folder belong to root or to the listener's user; otherwise"
        " the listener may refuse to start with `--group`.",
        shown="the process's",
        wires=STREAM,
    )
    allowUsers: tuple[int, ...] = option(
        (),
        User(known=False),
        "Only these may be workers: processes of this user, of --allow-group, of root,"
        " and of the listener's own user.",
        name="allow-user",
        shown="every user that may write to PATH",
        several=True,
        wires=STREAM,
    )
    allowGroups: tuple[int, ...] = option(
        (),
        Group(known=False),
        "Only these may be workers: processes in this group, of --allow-user, of root,"
        " and of the listener's own user.",
        name="allow-group",
        shown="every group",
        several=True,
        wires=STREAM,
    )
    replace: bool = option(
        False,
        Flag(),
        "Take over from the listener that lives at PATH, and refuse no client.",
        more="Give the arguments of a start: other ports and options are what this"
        " listener has then. If none lives at PATH, this is an ordinary start.",
        wires=STREAM,
    )
    control: str | None = option(
        None,
        FileOrNone(),
        "The control socket, which 'portlisten drain' uses; 'none' for none.",
        more="Only root, and the user that starts the listener, can connect to it. If"
        " `PATH.ctl` would be longer than 107 bytes, there is none by default.",
        shown="PATH.ctl",
        wires=STREAM,
    )
    metrics: str | None = option(
        None,
        ValueType("DESCRIPTION"),
        "Serve health, metrics and a status page by HTTP at this endpoint description,"
        " such as 9100, which is a port of 127.0.0.1.",
        more="Anyone who can connect may read them. A process without privilege serves"
        " them. It needs `portlisten[metrics]`; see [the monitor](monitor.md).",
        shown="off",
        wires=STREAM,
    )
    backlog: int | None = option(
        None,
        count(1, 2**31 - 1),
        "The most connections that wait in the kernel to be accepted, for each"
        " listening socket.",
        shown="what the host allows, net.core.somaxconn",
    )
    queue: int = option(
        1024,
        count(0),
        "The most accepted connections that wait in the listener, for each name of"
        " ports; any more wait in the backlog.",
    )
    patience: float = option(
        60.0,
        seconds(0.001),
        "Seconds that an accepted connection may wait for a worker.",
    )
    onTimeout: str = option(
        "close",
        Choice("close", "exit"),
        "What to do if a connection has waited for longer than --patience: 'close' it,"
        " or 'exit', which ends the listener, as in 2002.",
    )
    balance: str = option(
        "least",
        Choice("least", "round-robin"),
        "Which worker gets the next connection: with 'least', the worker that has the"
        " fewest; with 'round-robin', each in turn.",
        wires=STREAM,
    )
    claimTimeout: float = option(
        5.0,
        seconds(0.001),
        "Seconds that a worker may take to claim a connection. After that it counts as"
        " hung, and other workers get the connections that it has not claimed.",
        wires=STREAM,
    )
    throttle: float = option(
        10.0,
        seconds(0),
        "The most seconds that a new worker waits for its first connection, if workers"
        " of its user died again and again before they finished one; 0 for no wait.",
        wires=STREAM,
    )
    window: int = option(
        32,
        count(1, MAXIMUM_WINDOW),
        "The most connections that one worker may have been offered and not yet"
        " claimed.",
        more="No more are offered than fit in the channel's buffer, usually 52.",
        wires=STREAM,
    )
    retry: float = option(
        0.1,
        seconds(0.001),
        "Seconds that accepting pauses if descriptors or memory run out, and seconds"
        " until a registration that failed in the reactor is tried again.",
    )
    grace: float = option(
        10.0,
        seconds(0),
        "The most seconds that a stop may take to hand off the connections that wait.",
        more="The stop waits even if no worker is connected.",
    )
    logFormat: str = _logFormat()


def _listenerUsers() -> Any:
    """
    Make the option C{--listener-user} of a command that joins a listener.
    """
    return option(
        (),
        User(known=False),
        "Join only a listener that this user started.",
        name="listener-user",
        shown="root, your own user, the owner of PATH's folder",
        several=True,
        wires=STREAM,
        inDescription=True,
    )


def _names() -> Any:
    """
    Make the option C{--name} of a worker.
    """
    return option(
        (),
        Name(),
        "Serve only the ports of this name.",
        name="name",
        shown="all",
        several=True,
        together=portNames,
        wires=STREAM,
        inDescription=True,
    )


def _label() -> Any:
    """
    Make the option C{--label} of a worker.
    """
    return option(
        None,
        Label(),
        "Name by which the operator knows the worker.",
        shown="PORTLISTEN_LABEL of the environment",
        wires=STREAM,
        inDescription=True,
    )


def _proxies() -> Any:
    """
    Make the option C{--proxy-from} of a worker.
    """
    return option(
        None,
        Networks(),
        "Each connection from these networks begins with a PROXY header, which says"
        " who the client is; no other header is believed.",
        name="proxy-from",
        shown="none",
        wires=STREAM,
        inDescription=True,
    )


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ChannelSettings):
    """
    The settings of a worker: of C{twistd hellofdpass}, and of the C{portlisten:}
    endpoint.
    """

    wire: str = option(
        "stream",
        Choice(*WIRES),
        "How connections travel from the listener: 'stream' loses none; 'datagram' is"
        " the wire of 2002, where the worker binds PATH.",
        inDescription=True,
    )
    names: tuple[str, ...] = _names()
    grace: float = option(
        10.0,
        seconds(0),
        "The most seconds that a stop may take to finish the connections in service.",
        inDescription=True,
    )
    listenerUsers: tuple[int, ...] = _listenerUsers()
    limit: int | None = option(
        None,
        count(1, MAXIMUM_LIMIT),
        "The most connections that the worker has at a time; others go to other"
        " workers, or wait.",
        wires=STREAM,
        inDescription=True,
    )
    first: float | None = option(
        None,
        First(),
        "Whether clients speak first, as in HTTP. If so, the listener keeps each"
        " connection until its client speaks, for up to 2 seconds (yes) or SECONDS.",
        shown="yes for HTTP and TLS",
        wires=STREAM,
        inDescription=True,
    )
    label: str | None = _label()
    proxies: tuple[Network, ...] | None = _proxies()
    mode: int = option(
        0o660,
        Mode(),
        "Permissions of PATH: a process that may write to it may send connections.",
        shown="0660",
        wires=DATAGRAM,
        inDescription=True,
    )
    group: int | None = option(
        None,
        Group(known=False),
        "Group that PATH belongs to.",
        shown="the process's",
        wires=DATAGRAM,
        inDescription=True,
    )
    replace: bool = option(
        False,
        Flag(),
        "Take PATH over from a worker that is bound to it.",
        wires=DATAGRAM,
        inDescription=True,
    )
    retry: float = option(
        0.1,
        seconds(0.001),
        "Seconds between two tries to connect to the listener.",
        more="It is also the pause before a registration that failed in the reactor is"
        " tried again.",
        inDescription=True,
    )
    logFormat: str = _logFormat()
    privateKey: str | None = option(
        None,
        File(),
        "The private key, in PEM. With it, connections are TLS.",
        onCommandLine=False,
        inDescription=True,
    )
    certKey: str | None = option(
        None,
        File(),
        "The server's certificate, in PEM.",
        shown="the file of privateKey",
        onCommandLine=False,
        inDescription=True,
    )
    extraCertChain: str | None = option(
        None,
        File(),
        "The certificates between the server's and the authority's, in PEM.",
        onCommandLine=False,
        inDescription=True,
    )
    dhParameters: str | None = option(
        None,
        File(),
        "Parameters for Diffie-Hellman, in PEM.",
        onCommandLine=False,
        inDescription=True,
    )


def _user() -> Any:
    """
    Make the option C{--user} of a command that runs a program.
    """
    return option(
        None,
        User(),
        "User that PROGRAM runs as, with all groups of that user.",
        more="The command becomes this user before it joins the listener, and sets"
        " HOME, USER, LOGNAME and SHELL. It must be root for that.",
        shown="your own",
    )


def _group() -> Any:
    """
    Make the option C{--group} of a command that runs a program.
    """
    return option(
        None,
        Group(),
        "Group that PROGRAM runs as. Without --user, PROGRAM has no other group.",
        shown="the group of --user",
    )


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(ChannelSettings):
    """
    The settings of a command that runs a program.

    @ivar program: its name and its arguments.
    """

    program: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExecSettings(ProgramSettings):
    """
    The settings of C{portlisten exec}.
    """

    names: tuple[str, ...] = option(
        (),
        Name(),
        "Take only the ports of this name.",
        name="name",
        shown="all that the listener shares",
        several=True,
        together=portNames,
    )
    user: int | None = _user()
    group: int | None = _group()
    listenerUsers: tuple[int, ...] = _listenerUsers()
    timeout: float | None = option(
        None,
        seconds(0),
        "The most seconds to wait for the listener.",
        shown="for ever",
    )
    logFormat: str = _logFormat()


@dataclass(frozen=True, kw_only=True)
class EachSettings(ProgramSettings):
    """
    The settings of C{portlisten each}.
    """

    limit: int = option(
        64,
        count(1, MAXIMUM_LIMIT),
        "The most processes at a time; further connections go to other workers, or"
        " wait.",
    )
    user: int | None = _user()
    group: int | None = _group()
    names: tuple[str, ...] = _names()
    listenFds: bool = option(
        False,
        Flag(),
        "Pass the connection as descriptor 3 with LISTEN_FDS, as systemd does, and not"
        " as standard input and output.",
    )
    stderr: str = option(
        "log",
        Choice("log", "connection"),
        "Where PROGRAM's standard error goes: to the 'log', which is standard error, or"
        " to the 'connection', as with inetd.",
    )
    grace: float = option(
        10.0,
        seconds(0),
        "The most seconds that a stop waits for processes before it ends them.",
    )
    listenerUsers: tuple[int, ...] = _listenerUsers()
    first: float | None = option(
        None,
        First(),
        "Whether clients speak first. If so, the listener keeps each connection until"
        " its client speaks, for up to 2 seconds (yes) or SECONDS.",
        shown="no",
    )
    label: str | None = _label()
    proxies: tuple[Network, ...] | None = _proxies()
    retry: float = option(
        0.1,
        seconds(0.001),
        "Seconds between two tries to connect to the listener.",
    )
    verbose: bool = option(
        False, Flag(), "Log the beginning and the end of each process."
    )
    logFormat: str = _logFormat()


@dataclass(frozen=True, kw_only=True)
class AsPortSettings(Settings):
    """
    The settings of C{portlisten as-port}.

    @ivar mappings: which ports of the program come from which listener.
    @ivar program: its name and its arguments.
    """

    mappings: tuple[str, ...]
    program: tuple[str, ...]
    warnAfter: float = option(
        10.0,
        seconds(0),
        "Seconds that the program may run before a warning names the ports in MAPPING"
        " that it does not listen on.",
    )
    logFormat: str = _logFormat()


@dataclass(frozen=True, kw_only=True)
class RunCommandSettings(Settings):
    """
    The settings of C{portlisten run}.

    @ivar file: its file.
    """

    file: str
    logFormat: str | None = option(
        None,
        Choice(*LOG_FORMATS),
        "How the log is written: as 'text', or as 'json', with a line of JSON for each"
        " event.",
        shown="log-format in FILE, or text",
    )


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """
    The settings of C{portlisten check}.

    @ivar file: the file of C{portlisten run}.
    """

    file: str
    againstRunning: bool = option(
        False,
        Flag(),
        "Say what 'portlisten reload' would change in what runs.",
    )
    quiet: bool = option(False, Flag(), "Write only errors and warnings.")


@dataclass(frozen=True, kw_only=True)
class TargetSettings(Settings):
    """
    The settings of a command that asks a supervisor, or a listener.

    @ivar target: the file of C{portlisten run}, or the path of a channel; L{None} if
        the command looks for a control socket.
    """

    target: str | None
    control: str | None = option(
        None,
        File(),
        "The control socket.",
        shown="that of FILE, or PATH.ctl",
    )


@dataclass(frozen=True, kw_only=True)
class StatusSettings(TargetSettings):
    """
    The settings of C{portlisten status}.
    """

    alive: bool = option(
        False,
        Flag(),
        "Show nothing, and exit with 0 if the listener answers, whatever is wrong.",
    )
    json: bool = option(False, Flag(), "Write all of it as JSON, in one line.")
    watch: bool = option(False, Flag(), "Show the status anew every second.")


@dataclass(frozen=True, kw_only=True)
class RestartSettings(TargetSettings):
    """
    The settings of C{portlisten restart}.

    @ivar groups: the names of groups of workers; empty for all.
    """

    groups: tuple[str, ...]
    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class ReloadSettings(TargetSettings):
    """
    The settings of C{portlisten reload}.
    """

    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class UpgradeSettings(TargetSettings):
    """
    The settings of C{portlisten upgrade}.
    """

    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class StopSettings(TargetSettings):
    """
    The settings of C{portlisten stop}.
    """

    timeout: float = option(
        60.0,
        seconds(0),
        "The most seconds to wait until the supervisor has ended.",
    )


@dataclass(frozen=True, kw_only=True)
class PauseSettings(TargetSettings):
    """
    The settings of C{portlisten pause}, and of C{portlisten resume}.
    """

    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class AllowSettings(TargetSettings):
    """
    The settings of C{portlisten allow}.

    @ivar networks: addresses and networks.
    """

    networks: tuple[str, ...]
    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class DenySettings(AllowSettings):
    """
    The settings of C{portlisten deny}.
    """

    seconds: float | None = option(
        None,
        Duration(),
        "For how long ADDRESS is denied, such as 90s, 10m, 2h or 1d. A number without a"
        " unit is in seconds. Without this option, it is denied until it is allowed, or"
        " the listener ends.",
        name="for",
    )


@dataclass(frozen=True, kw_only=True)
class OperatorSettings(TargetSettings):
    """
    The settings of a command that asks a listener about workers.

    @ivar target: the file of C{portlisten run}, or the path of a channel.
    @ivar workers: labels, and numbers of processes.
    """

    target: str
    workers: tuple[str, ...]
    quiet: bool = option(False, Flag(), "Write only errors.")


@dataclass(frozen=True, kw_only=True)
class DrainSettings(OperatorSettings):
    """
    The settings of C{portlisten drain}.
    """

    timeout: float = option(
        30.0,
        seconds(0),
        "The most seconds to wait until the workers are drained.",
    )


@dataclass(frozen=True, kw_only=True)
class UndrainSettings(OperatorSettings):
    """
    The settings of C{portlisten undrain}.
    """

    timeout: float = option(
        10.0,
        seconds(0),
        "The most seconds to wait until the workers have joined again.",
    )
