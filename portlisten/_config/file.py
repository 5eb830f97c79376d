"""
The settings in the file of C{portlisten run}: the listener's, and those of the groups
of workers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from portlisten._config.options import Settings
from portlisten._config.settings import ListenerSettings

#: What a command may have in braces.
PLACEHOLDERS = ("path", "label", "name")

_PLACEHOLDER = re.compile("{(" + "|".join(PLACEHOLDERS) + ")}")


@dataclass(frozen=True, kw_only=True)
class WorkersSettings(Settings):
    """
    The settings of a group of workers, which run the same command.

    @ivar name: the name of the group.
    @ivar command: the program and its arguments.  See L{PLACEHOLDERS}.
    @ivar count: how many workers run at a time.
    @ivar user: the user of the workers; L{None} for the supervisor's own.
    @ivar group: the group of the workers; L{None} for the user's own.
    @ivar grace: the most seconds that a drain may take.
    @ivar stop: the most seconds from SIGTERM to SIGKILL.
    @ivar ready: the most seconds that a new worker may take to get ready.
    @ivar failures: how many failures in a row are too many; 0 for never.
    @ivar maxMemory: how many bytes of memory a worker may have before it is replaced;
        L{None} for no limit.
    @ivar maxAge: after how many seconds a worker is replaced; L{None} for never.
    @ivar folder: the folder that the workers run in.
    @ivar umask: the umask of the workers; L{None} for the supervisor's.
    @ivar openFiles: the limit of open files; L{None} for the supervisor's.
    @ivar environment: variables that the workers get as well.
    """

    name: str
    command: tuple[str, ...]
    count: int = 1
    user: int | None = None
    group: int | None = None
    grace: float = 30.0
    stop: float = 15.0
    ready: float = 30.0
    failures: int = 8
    maxMemory: int | None = None
    maxAge: float | None = None
    folder: str = "/"
    umask: int | None = None
    openFiles: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def commandFor(self, path: str, label: str) -> list[str]:
        """
        Make the words of the command of one worker.

        @param path: the path of the channel.
        @param label: the label of the worker.
        """
        values = {"path": path, "label": label, "name": self.name}
        return [
            _PLACEHOLDER.sub(lambda match: values[match[1]], word)
            for word in self.command
        ]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """
    The settings of C{portlisten run}.

    @ivar listener: the settings of the listener, with all ports.
    @ivar user: the user of the listener; L{None} for the supervisor's own.
    @ivar workers: the groups of workers, in the order of the file.
    """

    listener: ListenerSettings
    user: int | None = None
    workers: tuple[WorkersSettings, ...] = ()
