"""
The environment of a program that serves one connection.

Three conventions tell a program of its connection: C{tcp-environ(5)} of ucspi-tcp6,
which tcpserver made common; the same for Unix sockets, by ucspi-unix; and
C{REMOTE_ADDR} and C{REMOTE_PORT}, which systemd sets, see systemd.socket(5).  A program
gets all of them.  Names of hosts are not looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

#: The variables that tell of a connection, by any of the conventions.
_OF_CONNECTION = re.compile(
    r"PROTO|SO_COOKIE|LISTEN_(?:FDS|FDNAMES|PID|PIDFDID)"
    r"|(?:TCP6?|SSL|UNIX|IPC)(?:LOCAL|REMOTE)\w+|TCP6?INTERFACE"
    r"|REMOTE_(?:ADDR|HOST|PORT|INFO|USER|IDENT)"
)


@dataclass(frozen=True)
class Internet:
    """
    A TCP connection.  An address has a C{%} and the interface if it is link-local.
    """

    localHost: str
    localPort: int
    remoteHost: str
    remotePort: int

    def __str__(self) -> str:
        host, _ = _address(self.remoteHost)
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{self.remotePort}"

    def variables(self) -> dict[str, str]:
        """
        Make the variables of this connection.
        """
        local, remote = _address(self.localHost)[0], _address(self.remoteHost)[0]
        made = {
            "PROTO": "TCP",
            "TCPLOCALIP": local,
            "TCPLOCALPORT": str(self.localPort),
            "TCPREMOTEIP": remote,
            "TCPREMOTEPORT": str(self.remotePort),
            "REMOTE_ADDR": remote,
            "REMOTE_PORT": str(self.remotePort),
        }
        if ":" not in remote:
            return made
        for name, value in list(made.items()):
            if name.startswith("TCP"):
                made[f"TCP6{name[3:]}"] = value
        interface = _address(self.remoteHost)[1]
        if interface:
            made["TCP6INTERFACE"] = interface
        return {**made, "PROTO": "TCP6"}


@dataclass(frozen=True)
class Unix:
    """
    A connection of a Unix socket.

    @ivar local: the path of the listening socket; an abstract name begins with a zero.
    @ivar remote: the path of the client's socket, which is mostly empty.
    @ivar pid: the client's process, or 0 if that is not known.
    @ivar uid: the client's user.
    @ivar gid: the client's group.
    """

    local: str
    remote: str
    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"process {self.pid} of user {self.uid}"

    def variables(self) -> dict[str, str]:
        """
        Make the variables of this connection.
        """
        made = {
            "PROTO": "UNIX",
            "UNIXLOCALPATH": _path(self.local),
            "UNIXREMOTEPATH": _path(self.remote),
            "UNIXREMOTEPID": str(self.pid),
            "UNIXREMOTEEUID": str(self.uid),
            "UNIXREMOTEEGID": str(self.gid),
        }
        if self.remote:
            made["REMOTE_ADDR"] = _path(self.remote)
        return made


def _address(host: str) -> tuple[str, str]:
    """
    Divide an address.

    @return: the address, as IPv4 if it is mapped to IPv6; and the interface, which may
        be empty.
    """
    address, _, interface = host.partition("%")
    if ":" in address:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        if mapped is not None:
            return str(mapped), ""
    return address, interface


def _path(name: str) -> str:
    return "@" + name[1:].replace("\0", "@") if name.startswith("\0") else name


def withoutConnection(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Leave out the variables that tell of a connection: this process may have one of its
    own.
    """
    return {
        name: value
        for name, value in environment.items()
        if not _OF_CONNECTION.fullmatch(name)
    }
