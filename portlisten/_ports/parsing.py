"""
Parses descriptions of ports.
"""

from __future__ import annotations

import re
from dataclasses import replace

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)

from portlisten._config.port_options import PORT_OPTIONS, separate
from portlisten._config.ports import PortKind, PortSettings
from portlisten._model import portName
from portlisten._ports.recording import RecordingReactor, recorded
from portlisten._process import listen_fds
from portlisten.errors import BadDescription, firstLine

_NAME = re.compile("([^:=]*)=")
_NUMBER = re.compile("[0-9]{1,5}")
_NUMBER_AND_MORE = re.compile("[0-9]{1,5}:(interface|backlog)=")
_UDP = re.compile("udp6?:")
_OWN_BACKLOG = re.compile(r"(?<!\\):backlog=")
_INDEX = re.compile(
    "systemd:(?:domain=[A-Z0-9]+:)?index=([0-9]+)(?::domain=[A-Z0-9]+)?"
)


class NotPassed(BadDescription):
    """
    The description names a socket that systemd has not passed to this process.
    """


class NotPlain(BadDescription):
    """
    A description means an endpoint that is no plain port.
    """


def parse(description: str, backlog: int, shared: bool = False) -> PortSettings:
    """
    Parse a port: a number, or a Twisted description of a server endpoint, perhaps with
    a name and C{=} before it.

    A shared port may also be C{udp:} or C{udp6:}, with the options of Twisted's C{tcp:}
    and C{tcp6:} except C{backlog}.  A port of TCP or UDP may have options, such as
    C{nodelay=yes} or C{max-per-source=20}: see L{portlisten._config.port_options}.

    @param backlog: for a description that has no backlog of its own.
    @param shared: whether workers get the port's sockets, and not its connections.
    @raise NotPassed: if it names a socket that systemd has not passed to this process.
    @raise NotPlain: if the description means another endpoint, such as one of TLS.
    @raise BadDescription: if the description cannot be understood, or the name cannot
        be a port's.
    """
    try:
        named = _NAME.match(description)
        if named is None:
            return _parse(description, backlog, shared)
        name = portName(named[1])
        settings = _parse(description[named.end() :], backlog, shared)
        return replace(settings, name=name)
    except ValueError as error:
        raise BadDescription(str(error)) from None


def _parse(description: str, backlog: int, shared: bool) -> PortSettings:
    """
    Parse a port without a name.

    @raise BadDescription: if the description cannot be understood.
    @raise ValueError: if the port breaks a rule of L{PortSettings}.
    """
    rest, options = separate(description)
    if _UDP.match(rest):
        settings = _parseUDP(rest, shared)
    else:
        settings = _parseEndpoint(rest, backlog, shared)
    return replace(settings, description=description, options=options)


def _portNumber(text: str) -> int | None:
    """
    Read the number of a port.

    @return: L{None} if the text is no such number.
    """
    number = int(text) if _NUMBER.fullmatch(text) else None
    return None if number is None or number > 65535 else number


def _parseUDP(description: str, shared: bool) -> PortSettings:
    """
    Let Twisted's C{tcp:} or C{tcp6:} parse the description of a UDP port.

    @raise BadDescription: if the description cannot be understood.
    """
    asTCP = "tcp" + description[3:]
    try:
        host, number, _ = recorded(serverFromString(RecordingReactor(), asTCP))
        if not 0 <= number < 65536:
            raise ValueError(f"{number} is no port")
    except Exception as error:
        raise BadDescription(
            f"{description!r} is no port: {_reason(description, error)}"
        ) from error
    if _OWN_BACKLOG.search(asTCP):
        raise BadDescription(f"{description!r}: a UDP port has no backlog")
    return PortSettings(
        PortKind.UDP, description, shared=shared, host=host, number=number
    )


def _parseEndpoint(description: str, backlog: int, shared: bool) -> PortSettings:
    """
    Parse a number, or one of Twisted's descriptions.
    """
    if ":" not in description:
        return _parseNumber(description, backlog, shared)
    inherited = _unnamed(description)
    if inherited is not None:
        return _inherited(description, inherited, shared)
    endpoint = _endpoint(description)
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return _inherited(description, endpoint.fileno, shared)
    ownBacklog = _OWN_BACKLOG.search(description) is not None
    if isinstance(endpoint, UNIXServerEndpoint):
        path, own, mode, lock = recorded(endpoint)
        return PortSettings(
            PortKind.UNIX,
            description,
            shared=shared,
            backlog=own if ownBacklog else backlog,
            path=path,
            mode=mode,
            lock=lock,
        )
    if isinstance(endpoint, TCP4ServerEndpoint | TCP6ServerEndpoint):
        host, number, own = recorded(endpoint)
        return PortSettings(
            PortKind.TCP,
            description,
            shared=shared,
            backlog=own if ownBacklog else backlog,
            host=host,
            number=number,
        )
    # Another endpoint (TLS, a wrapper) adds something to its socket.  The worker would
    # get the socket alone, and nothing would say that the rest is missing.
    raise NotPlain(
        f"{description!r} is not a plain port: use tcp, tcp6, unix or systemd,"
        " and leave TLS and the like to the worker"
    )


def _parseNumber(description: str, backlog: int, shared: bool) -> PortSettings:
    number = _portNumber(description)
    if number is None:
        suggested = _suggest(description)
        raise BadDescription(
            f"{description!r} is no port: give a number from 0 to 65535, or an"
            " endpoint description such as"
            f" {suggested or 'tcp:80:interface=127.0.0.1'}"
        )
    return PortSettings(
        PortKind.NUMBER, description, shared=shared, backlog=backlog, number=number
    )


def _inherited(description: str, descriptor: int, shared: bool) -> PortSettings:
    return PortSettings(
        PortKind.INHERITED, description, shared=shared, descriptor=descriptor
    )


def _unnamed(description: str) -> int | None:
    """
    Find a socket of systemd's that has an index and no name.

    @return: the socket's descriptor, or L{None} if the description means no such
        socket.
    """
    index = _INDEX.fullmatch(description)
    return None if index is None else listen_fds.unnamed(int(index[1]))


def _endpoint(description: str) -> object:
    """
    Let Twisted parse a description.

    @return: an endpoint whose reactor is a L{RecordingReactor}.
    @raise BadDescription: if Twisted cannot parse the description.
    """
    try:
        return serverFromString(RecordingReactor(), description)
    except Exception as error:
        if description.startswith("systemd:") and isinstance(error, LookupError):
            raise NotPassed(f"{description!r} {listen_fds.NOT_PASSED}") from error
        raise BadDescription(
            f"{description!r} is no endpoint description: {_reason(description, error)}"
        ) from error


#: Patterns of errors of Python and Twisted, and what to say instead.
_REASONS = [
    (r"invalid literal for int\(\) with base [0-9]+: (.*)", r"\1 is no number"),
    (r".* got an unexpected keyword argument (.*)", r"it has no option \1"),
    (r".* got multiple values for argument (.*)", r"it has two values for \1"),
    (r".* missing [0-9]+ required positional arguments?: (.*)", r"\1 is missing"),
    (r".* takes .* positional arguments? but .*", "it has too many parts"),
    (
        r"Unknown endpoint type: '[0-9]{1,5}'",
        f"the options of a number are {', '.join(PORT_OPTIONS)}",
    ),
]


def _reason(description: str, error: Exception) -> str:
    """
    Say why a description is wrong, or how to write it if that can be guessed.
    """
    suggested = _suggest(description)
    if suggested:
        return f"write it as '{suggested}'"
    reason = firstLine(error)
    for pattern, said in _REASONS:
        if re.fullmatch(pattern, reason):
            return re.sub(pattern, said, reason)
    return reason


def _suggest(description: str) -> str:
    """
    Guess how to write a description that is wrong.

    @return: the description to suggest; empty if it cannot be guessed.
    """
    if _NUMBER_AND_MORE.match(description):
        description = f"tcp:{description}"
        return _suggest(description) or description
    head, separator, tail = description.partition(":interface=")
    address = re.match(r"\[?([^=\]]*?)\]?(?=:[A-Za-z]+=|$)", tail)
    if separator and address is not None and isIPv6Address(address[1]):
        return head + _interface(address[1]) + tail[address.end() :]
    if "/" in description and ":" not in description:
        return f"unix:{description}"
    parts = re.fullmatch(r"(?:(tcp|udp)6?:)?(.*):([0-9]{1,5})", description)
    if parts is None:
        return ""
    kind, host = parts[1] or "tcp", parts[2].strip("[]")
    if isIPv6Address(host):
        return f"{kind}6:{parts[3]}{_interface(host)}"
    if isIPAddress(host) or host == "localhost":
        return f"{kind}:{parts[3]}{_interface(host)}"
    return parts[3] if host in ("", "*") and kind == "tcp" else ""


def _interface(address: str) -> str:
    return ":interface=" + address.replace(":", "\\:")
