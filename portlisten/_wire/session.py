"""
What the sessions at both ends of a channel have in common.

A session is one end of a channel without its input and output.  Its driver gives the
session the bytes that came in, and gets I{events}.  The driver gives the session
commands, and gets bytes to write.  So a driver can be written for every event loop, and
a test needs neither sockets nor a clock.

Each session has two states, since the two ends speak independently.  C{theirs} is what
the other end has said so far, and decides what it may say next.  C{ours} is what this
end has said, and decides what it may say or do next.  A session's table has a row for
each state of C{theirs} and a column for each frame.  A cell is L{Do} or L{Forbidden}.
Nothing is read in a state whose row is empty.

A frame that is forbidden or wrong gives L{Broken}.  The frames before and after it
still count: a claim counts as long as it can be read.  After more than
L{MAXIMUM_MISTAKES} such frames, the session reads no more.  It also reads nothing after
a frame that cannot be decoded, or that comes on the wrong side of HELLO: the L{Decoder}
finds no frame after these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeAlias

from portlisten._wire.codec import HELLO_MISSING, Decoder, Vocabulary
from portlisten._wire.frames import Frame
from portlisten.errors import ProtocolError

#: After how many bad frames a session still reads on.
MAXIMUM_MISTAKES = 16


class Do(NamedTuple):
    """
    A frame that may come.

    @ivar act: the session's method that handles it.
    @ivar then: the next state of C{theirs}, or L{None} if that stays as it is.
    """

    act: Callable[[Any, Any], None]
    then: Enum | None = None


class Forbidden(NamedTuple):
    """
    A frame that must not come.

    @ivar reason: the error, for both ends' logs.
    @ivar then: see L{Do}.
    """

    reason: str
    then: Enum | None = None

    def act(self, session: Session, frame: Frame) -> None:
        """
        Raise the error.

        @raise ProtocolError: always.
        """
        raise ProtocolError(self.reason)


Row: TypeAlias = "Mapping[type[Frame], Do | Forbidden]"
Table: TypeAlias = "Mapping[Any, Row]"


def beforeHello(*frames: type[Frame]) -> Row:
    """
    Make the cells of frames that must not come before HELLO.
    """
    return {frame: Forbidden(HELLO_MISSING) for frame in frames}


@dataclass(frozen=True, slots=True)
class Broken:
    """
    An event: the other end broke the protocol.

    @ivar reason: the error, for both ends' logs.
    @ivar bug: the exception, if a bug of this end is the cause and not the other end.
    """

    reason: str
    bug: Exception | None = None


class Session:
    """
    One end of a channel.

    @cvar table: what each frame does in each state of C{theirs}.
    @param vocabulary: the frames that the other end may send.
    @param theirs: what C{theirs} is at first.

    @ivar theirs: what the other end has said.
    @ivar ended: whether the session takes nothing in and says nothing any more.
    @ivar readsNoMore: whether the session takes nothing in any more: too many frames
        were wrong, or the other end may send no more.
    """

    table: ClassVar[Table]

    def __init__(self, vocabulary: Vocabulary, theirs: Enum) -> None:
        self._decoder = Decoder(vocabulary)
        self._events: list[Any] = []
        self._mistakes = 0
        self.ended = False
        self.readsNoMore = False
        self._enter(theirs)

    def _enter(self, theirs: Enum) -> None:
        self.theirs = theirs
        # To look up a row costs more than to handle a frame.
        self._row = self.table[theirs]
        self.readsNoMore = self.readsNoMore or not self._row

    def end(self) -> None:
        """
        End the session.
        """
        self.ended = True

    def mistake(self) -> None:
        """
        Count a bad frame.  The driver calls this if it finds an event wrong.
        """
        self._mistakes += 1
        self.readsNoMore = self.readsNoMore or self._mistakes > MAXIMUM_MISTAKES

    def receive(self, data: bytes) -> list[Any]:
        """
        Take in bytes that came.

        @return: the events, in order.
        """
        if self.ended or self.readsNoMore:
            return []
        try:
            for frame in self._decoder.feed(data):
                cell = self._row[type(frame)]
                try:
                    cell.act(self, frame)
                except ProtocolError as error:
                    self.mistake()
                    self._broken(str(error))
                except Exception as bug:
                    self.mistake()
                    self._broken("an internal error", bug)
                else:
                    if cell.then is None:
                        continue
                    self._enter(cell.then)
                if self.readsNoMore:
                    break
        except ProtocolError as error:
            self.readsNoMore = True
            self._broken(str(error))
        return self._take()

    def _broken(self, reason: str, bug: Exception | None = None) -> None:
        self._events.append(Broken(reason, bug))

    def _take(self) -> list[Any]:
        """
        Hand out the events so far.
        """
        events, self._events = self._events, []
        return events
