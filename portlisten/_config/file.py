"""
The settings in the file of C{portlisten run}: the listener's, and those of the groups
of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from portlisten._config.file_values import (
    AbsolutePath,
    Age,
    Command,
    Cores,
    Description,
    Environment,
    Size,
    Umask,
    fill,
)
from portlisten._config.options import Option, Settings, option, required
from portlisten._config.settings import ListenerSettings
from portlisten._config.values import Count, Group, User, seconds


@dataclass(frozen=True, kw_only=True)
class PortsSettings(Settings):
    """
    The ports of one name: a table C{[ports.NAME]}.
    """

    listen: tuple[str, ...] = option(
        (),
        Description(),
        "Listen on this port, or on each of these; the connections are handed to"
        " workers.",
        more="A port is a number, or a description in quotes.",
        several=True,
        onCommandLine=False,
    )
    share: tuple[str, ...] = option(
        (),
        Description(),
        "Let workers accept on this port, or on each of these, themselves.",
        more="UDP, and programs under `portlisten exec`, need it. A name has `listen`"
        " or `share`, and not both.",
        several=True,
        onCommandLine=False,
    )


@dataclass(frozen=True, kw_only=True)
class WorkersSettings(Settings):
    """
    The settings of a group of workers, which run the same command: a table
    C{[workers.NAME]}.

    @ivar name: the name of the group.
    """

    name: str
    command: tuple[str, ...] = required(
        Command(),
        "The program, and its arguments.",
        more="`{path}` stands for the channel's path, `{label}` for the worker's label"
        " and `{name}` for NAME. `${…}` stays, and `{{…}}` stands for `{…}`. No shell"
        " reads it.",
        onCommandLine=False,
    )
    count: int = option(
        1,
        Cores(),
        "How many workers run at a time; 'cores' for one on each core.",
        onCommandLine=False,
    )
    user: int | None = option(
        None,
        User(),
        "The user of the workers.",
        more="Root must give one, and not root.",
        shown="your own",
        onCommandLine=False,
    )
    group: int | None = option(
        None,
        Group(),
        "The group of the workers.",
        shown="the user's own",
        onCommandLine=False,
    )
    grace: float = option(
        30.0,
        seconds(0),
        "The most seconds that a worker may drain before it is stopped.",
        onCommandLine=False,
    )
    stop: float = option(
        15.0,
        seconds(0),
        "The most seconds from SIGTERM to SIGKILL.",
        onCommandLine=False,
    )
    ready: float = option(
        30.0,
        seconds(0.001),
        "The most seconds that a new worker may take to join the listener.",
        onCommandLine=False,
    )
    failures: int = option(
        8,
        Count(0),
        "How many failures in a row are too many; 0 to start workers for ever.",
        onCommandLine=False,
    )
    maxMemory: int | None = option(
        None,
        Size(),
        "How much memory a worker may have before it is replaced: bytes, or a number"
        " with K, M, G or T.",
        onCommandLine=False,
    )
    maxAge: float | None = option(
        None,
        Age(),
        "After how long a worker is replaced: seconds, or a number with s, m, h or d.",
        onCommandLine=False,
    )
    folder: str = option(
        "/",
        AbsolutePath("FOLDER", "/srv/www"),
        "The folder that the workers run in.",
        onCommandLine=False,
    )
    umask: int | None = option(
        None,
        Umask(),
        "The umask of the workers, an octal number in quotes.",
        shown="portlisten's own",
        onCommandLine=False,
    )
    openFiles: int | None = option(
        None,
        Count(64, 2**31 - 1),
        "How many open files a worker may have.",
        shown="portlisten's own",
        onCommandLine=False,
    )
    environment: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "option": Option(
                Environment(),
                "Variables that the workers get as well.",
                more="PORTLISTEN_LABEL, NOTIFY_SOCKET and names with LISTEN_ are"
                " refused.",
                shown="none",
                onCommandLine=False,
                default={},
            )
        },
    )

    def commandFor(self, path: str, label: str) -> list[str]:
        """
        Make the words of the command of one worker.

        @param path: the path of the channel.
        @param label: the label of the worker.
        """
        values = {"path": path, "label": label, "name": self.name}
        return [fill(word, values) for word in self.command]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """
    The settings of C{portlisten run}.

    @ivar listener: the settings of the listener, with all ports.
    @ivar workers: the groups of workers, in the order of the file.
    """

    listener: ListenerSettings
    user: int | None = option(
        None,
        User(),
        "The user of the listener.",
        more="Root must give one, and not root.",
        shown="your own",
        onCommandLine=False,
    )
    workers: tuple[WorkersSettings, ...] = ()
