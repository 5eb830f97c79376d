"""
The settings of the listener, of a worker, and of C{portlisten exec}.

Each option is written here, and nowhere else.  The command line, endpoint
descriptions, the help, the tables in the documents, the manual pages and the shell's
completion are made from it.

What has the same name may mean something else to another command, and is then an
option of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portlisten._config.options import DATAGRAM, STREAM, WIRES, Settings, option
from portlisten._config.values import (
    Choice,
    File,
    Flag,
    Group,
    Mode,
    Name,
    User,
    ValueType,
    count,
    seconds,
)
from portlisten._wire.codec import portNames
from portlisten._wire.frames import MAXIMUM_WINDOW


@dataclass(frozen=True, kw_only=True)
class ListenerSettings(Settings):
    """
    The settings of C{twistd portlisten}.
    """

    wire: str = option(
        "stream",
        Choice(*WIRES),
        "How connections get to workers: 'stream', with which none is lost, or"
        " 'datagram', as in 2002, where the worker binds PATH.",
    )
    listen: tuple[str, ...] = option(
        (),
        ValueType("[NAME=]PORT"),
        "Listen on this [NAME=]PORT as well.",
        more="If the argument PORT is left out, these are all ports.",
        several=True,
    )
    share: tuple[str, ...] = option(
        (),
        ValueType("[NAME=]PORT"),
        "Let each worker accept on this [NAME=]PORT itself.",
        more="Workers get the listening socket. PORT may also be `udp:53` or"
        " `udp6:53`, and with `:reuseport=4` at its end it is four sockets of a TCP"
        " port.",
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
        Group(),
        "Group that PATH belongs to.",
        more="PATH's folder belongs to root or to the listener's user; otherwise a"
        " start with `--group` may be refused.",
        shown="the process's",
        wires=STREAM,
    )
    allowUsers: tuple[int, ...] = option(
        (),
        User(),
        "Only this user's processes may be workers, besides those of root and of the"
        " listener's own user.",
        name="allow-user",
        shown="every user that may write to PATH",
        several=True,
        wires=STREAM,
    )
    allowGroups: tuple[int, ...] = option(
        (),
        Group(),
        "Likewise for the members of this group.",
        name="allow-group",
        several=True,
        wires=STREAM,
    )
    backlog: int | None = option(
        None,
        count(1, 2**31 - 1),
        "Connections that the kernel keeps for the listener to accept.",
        shown="what the host allows, net.core.somaxconn",
    )
    queue: int = option(
        1024,
        count(0),
        "Accepted connections that wait here while no worker has room, for each name"
        " of ports; any more wait in the backlog.",
    )
    patience: float = option(
        60.0,
        seconds(0.001),
        "Seconds that an accepted connection may wait for a worker.",
    )
    onTimeout: str = option(
        "close",
        Choice("close", "exit"),
        "What to do when a connection has waited for so long: 'close' it, or 'exit',"
        " as in 2002.",
    )
    balance: str = option(
        "least",
        Choice("least", "round-robin"),
        "Which worker is next: the one with the 'least' connections, or each in turn,"
        " 'round-robin'.",
        wires=STREAM,
    )
    claimTimeout: float = option(
        5.0,
        seconds(0.001),
        "Seconds that a worker may take to claim a connection before it counts as"
        " hung, and others get what it was sent.",
        wires=STREAM,
    )
    throttle: float = option(
        10.0,
        seconds(0),
        "Seconds that a worker waits at the most, if those of its user die again and"
        " again with nothing done; 0 for none.",
        wires=STREAM,
    )
    window: int = option(
        32,
        count(1, MAXIMUM_WINDOW),
        "Connections that one worker may have been sent and not yet claimed.",
        more="No more than fit in the channel's buffer are sent, usually 26.",
        wires=STREAM,
    )
    retry: float = option(
        0.1,
        seconds(0.001),
        "Seconds to pause accepting when descriptors or memory run out, and before"
        " the reactor's registrations are tried again.",
    )
    grace: float = option(
        10.0,
        seconds(0),
        "Seconds that a stop may take to hand off what is waiting.",
        more="It waits also if no worker is there yet.",
    )


def _listenerUsers() -> Any:
    """
    An option of all that join a listener.
    """
    return option(
        (),
        User(),
        "A user that may have started the listener.",
        name="listener-user",
        shown="root, your own user, the owner of PATH's folder",
        several=True,
        wires=STREAM,
        inDescription=True,
    )


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(Settings):
    """
    The settings of a worker: of C{twistd hellofdpass}, and of the C{portlisten:}
    endpoint.
    """

    wire: str = option(
        "stream",
        Choice(*WIRES),
        "How connections come: 'stream', with which none is lost, or 'datagram', as"
        " in 2002, where the worker binds PATH.",
        inDescription=True,
    )
    names: tuple[str, ...] = option(
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
    grace: float = option(
        10.0,
        seconds(0),
        "Seconds that a stop may take to finish what is in service.",
        inDescription=True,
    )
    listenerUsers: tuple[int, ...] = _listenerUsers()
    mode: int = option(
        0o660,
        Mode(),
        "Permissions of PATH: the users that may write to it may send connections.",
        shown="0660",
        wires=DATAGRAM,
        inDescription=True,
    )
    group: int | None = option(
        None,
        Group(),
        "Group of PATH.",
        shown="the process's",
        wires=DATAGRAM,
        inDescription=True,
    )
    replace: bool = option(
        False,
        Flag(),
        "Take PATH over from a worker that lives there.",
        wires=DATAGRAM,
        inDescription=True,
    )
    retry: float = option(
        0.1,
        seconds(0.001),
        "Seconds between two tries to connect to the listener.",
        more="It is also the pause before the reactor's registrations are tried again.",
    )
    privateKey: str | None = option(
        None,
        File(),
        "The key, in PEM; with it, connections are TLS.",
        onCommandLine=False,
        inDescription=True,
    )
    certKey: str | None = option(
        None,
        File(),
        "The certificate.",
        shown="the file of privateKey",
        onCommandLine=False,
        inDescription=True,
    )
    extraCertChain: str | None = option(
        None,
        File(),
        "The certificates between yours and the authority's.",
        onCommandLine=False,
        inDescription=True,
    )
    dhParameters: str | None = option(
        None,
        File(),
        "Parameters for Diffie-Hellman.",
        onCommandLine=False,
        inDescription=True,
    )


@dataclass(frozen=True, kw_only=True)
class ExecSettings(Settings):
    """
    The settings of C{portlisten exec}.

    @ivar program: its name and its arguments.
    """

    program: tuple[str, ...]
    names: tuple[str, ...] = option(
        (),
        Name(),
        "Take only the ports of this name.",
        name="name",
        shown="all that the listener shares",
        several=True,
        together=portNames,
    )
    listenerUsers: tuple[int, ...] = _listenerUsers()
    timeout: float | None = option(
        None, seconds(0), "Seconds to wait for the listener.", shown="for ever"
    )
