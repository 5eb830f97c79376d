"""
Every exception of portlisten that a caller may catch.

The text of each says what is wrong and, where that helps, what to do.
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
    "CannotRun",
    "StartFailure",
    "EndpointError",
]


class ProtocolError(Exception):
    """
    The peer broke the protocol.  It ends the channel that it came from, and no
    other; the text says what was wrong, for the logs of both sides.
    """


class MalformedFrame(ProtocolError):
    """
    A frame whose content does not fit its type.
    """


class UnknownFrame(ProtocolError):
    """
    A type of frame that does not exist, or not in this direction.
    """


class OversizedFrame(ProtocolError):
    """
    A header that announces a payload that is too long.
    """


class VersionMismatch(ProtocolError):
    """
    The peer speaks another version of the protocol.
    """


class UnknownName(ProtocolError):
    """
    A worker asks for a port that the listener does not have.
    """


class WrongKind(ProtocolError):
    """
    A worker asks for a port of a kind that it cannot take.
    """


class WrongSocket(Exception):
    """
    A descriptor is not of a socket that can be used here.
    """


class ToldToStop(Exception):
    """
    The process was told to stop before it had started.
    """


class PathError(Exception):
    """
    A path cannot be what it has to be, a place where listener and workers meet.
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


class _Exit(SystemExit):
    """
    A reason to end the process.

    @ivar message: the reason.
    @ivar code: what the process exits with.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class CannotRun(_Exit):
    """
    C{portlisten exec} cannot run the program.
    """


class StartFailure(_Exit, Exception):
    """
    A service cannot start.

    It is an L{Exception} so that C{twistd} removes its pid file and tells the
    process that waits for the daemon, and a L{SystemExit} so that there is no
    traceback.
    """


# What the process that waits for the daemon shows is cut at 100 bytes.
StartFailure.__module__ = "portlisten"


class EndpointError(SystemExit, ValueError):
    """
    An endpoint cannot be used as it is described.

    It is a L{SystemExit} so that a program that lets it pass, as C{twistd} does,
    ends with that line and the code 1, and no traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"portlisten: {message}")


def firstLine(error: object) -> str:
    """
    Give an error's text in one line: its first, or the name of its type if it has
    none.
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
