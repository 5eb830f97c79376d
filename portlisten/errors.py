"""
The exceptions of portlisten that a caller may catch.

The text of an exception says what is wrong and, if possible, what to do.
"""

from __future__ import annotations

__all__ = [
    "ProtocolError",
    "MalformedFrame",
    "UnknownFrame",
    "OversizedFrame",
    "VersionMismatch",
    "UnknownName",
    "WrongKind",
    "WrongSocket",
    "ToldToStop",
    "PathError",
    "BadDescription",
    "CannotBind",
    "CannotTakeOver",
    "CannotRun",
    "StartFailure",
    "EndpointError",
]


class ProtocolError(Exception):
    """
    The peer broke the protocol.  This ends the peer's channel, and no other.  The text
    says what was wrong, for the logs of both sides.
    """


class MalformedFrame(ProtocolError):
    """
    The content of a frame does not fit its type.
    """


class UnknownFrame(ProtocolError):
    """
    The type of a frame does not exist, or not in this direction.
    """


class OversizedFrame(ProtocolError):
    """
    The header of a frame announces too long a payload.
    """


class VersionMismatch(ProtocolError):
    """
    The peer speaks another version of the protocol.
    """


class UnknownName(ProtocolError):
    """
    A worker asks for a port by a name that no port of the listener has.
    """


class WrongKind(ProtocolError):
    """
    A worker asks for a port whose kind it cannot take.
    """


class WrongSocket(Exception):
    """
    A descriptor leads to no socket that can be used here.
    """


class ToldToStop(Exception):
    """
    The process was told to stop before it had started.
    """


class PathError(Exception):
    """
    A path cannot be used for a channel.
    """


class BadDescription(Exception):
    """
    The description of a port cannot be understood.
    """


class CannotBind(Exception):
    """
    A port cannot be bound.

    @ivar errno: the kernel's number for the reason, or 0.
    """

    def __init__(self, reason: str, errno: int = 0) -> None:
        super().__init__(reason)
        self.errno = errno


class CannotTakeOver(Exception):
    """
    A listener cannot take over from another one, which goes on.
    """


class _Exit(SystemExit):
    """
    Ends the process.

    @ivar message: the reason.
    @ivar code: the exit status of the process.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class CannotRun(_Exit):
    """
    A command cannot run a program.
    """


class StartFailure(_Exit, Exception):
    """
    A service cannot start.

    It is an L{Exception}, so that C{twistd} removes its pid file and tells the process
    that waits for the daemon.  It is a L{SystemExit}, so that no traceback is shown.
    """


# The process that waits for the daemon shows the full name of the class, and cuts the
# text at 100 bytes.
StartFailure.__module__ = "portlisten"


class EndpointError(SystemExit, ValueError):
    """
    An endpoint cannot be used as its description says.

    It is a L{SystemExit}.  If a program does not catch it, as C{twistd} does not, the
    program ends with this one line and the exit status 1, and shows no traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"portlisten: {message}")


def firstLine(error: object) -> str:
    """
    Give the first line of an error's text, or the name of its type if the text is
    empty.
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
