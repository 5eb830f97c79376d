"""
C{portlisten deny} and C{portlisten allow}: let some clients not come in, and take that
back.
"""

from __future__ import annotations

import getopt
import os
import re
from typing import Any, TypeVar

from twisted.python.usage import CompleteFiles, Completer, UsageError

from portlisten._commands.asking import AskingOptions
from portlisten._config.settings import AllowSettings, DenySettings
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Allow,
    AllowAnswer,
    Allowed,
    Answer,
    DenialsAnswer,
    Deny,
    ListDenials,
    Request,
)
from portlisten._control.place import SUFFIX
from portlisten._control.words import howLong, plural
from portlisten._policy.networks import nameOf, networkOf
from portlisten._process.output import show

_Answer = TypeVar("_Answer", bound=Answer)

#: The exit code if an address is still denied.
STILL_DENIED = 1

#: What somebody meant as an address.
_ADDRESS = re.compile(r"[0-9a-fA-F]*[.:][0-9a-fA-F.:]*(%\w+)?(/[0-9.]*)?")


class _NetworkOptions(AskingOptions):
    """
    The options of a command that names addresses.
    """

    settingsType: type[AllowSettings] = AllowSettings

    arguments = [
        CompleteFiles(descr="FILE|PATH"),
        Completer(descr="ADDRESS", repeat=True),
    ]

    def parseOptions(self, options: Any = None) -> None:
        """
        See L{CommandOptions.parseOptions}.  Options may come after the arguments.
        """
        try:
            found, words = getopt.gnu_getopt(options, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            self.refuse(str(error))
        given = [
            f"{name}={value}" if f"{name[2:]}=" in self.longOpt else name
            for name, value in found
        ]
        super().parseOptions([*given, "--", *words])

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH, which may be missing, and addresses.
        """
        self["target"] = None
        if args and _isTarget(args[0]):
            self["target"], *args = args  # type: ignore[assignment]
            self.checkPath(self["target"])
        try:
            self["networks"] = [nameOf(networkOf(each)) for each in args]
        except ValueError as error:
            raise UsageError(str(error)) from None

    def settings(self) -> Any:
        """
        Make settings of the options and arguments.
        """
        return self.settingsType(
            target=self["target"], networks=tuple(self["networks"]), **self.given()
        )

    def ask(
        self, client: ControlClient, request: Request, kind: type[_Answer]
    ) -> _Answer:
        """
        Ask the listener.

        @raise ControlError: if that is impossible.
        """
        try:
            return client.askFor(request, kind)
        except UnknownCommand:
            raise ControlError(
                f"the listener at {client.channel} is older, and cannot deny clients:"
                " restart it"
            ) from None


class DenyOptions(_NetworkOptions):
    """
    The options of C{portlisten deny}.
    """

    settingsType = DenySettings

    command = "portlisten deny"

    synopsis = "[options] [FILE|PATH] [ADDRESS ...]"

    longdesc = (
        "Denies clients of ADDRESS, an address or a network of IPv4 or IPv6, on all"
        " ports whose connections the listener hands off: it resets their new"
        " connections. Those that they have go on. The listener is the one at PATH, or"
        " that of 'portlisten run FILE', or the only one in /run/portlisten. Without"
        " ADDRESS, the command lists what is denied, the newest first."
    )

    epilogue = """
To deny an address again sets its time anew. 'portlisten allow' allows it again.

The next listener, as after 'portlisten upgrade' or a reload, goes on to deny. If the
listener is stopped, or crashes, all that was denied so is forgotten. Write what is to
be denied for good into the settings of the port, as deny. At most 65536 networks are
denied at a time. If one more comes, the one that would end first is forgotten.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten deny /etc/portlisten/web.toml 192.0.2.7 --for 10m
  portlisten deny /run/portlisten/web.sock 198.51.100.0/24 2001:db8:bad::/48
  portlisten deny
"""

    def work(self) -> int:
        """
        Ask, and say what is denied.
        """
        settings = self.settings()
        if not settings.networks and settings.seconds is not None:
            self.refuse("--for needs ADDRESS")
        seconds = () if settings.seconds is None else (f"{settings.seconds!r}",)
        with self.connect(settings) as client:
            answer = self.ask(
                client,
                Deny(settings.networks, seconds)
                if settings.networks
                else ListDenials(),
                DenialsAnswer,
            )
        if not settings.networks:
            show("\n".join(_listed(answer)))
        elif not settings.quiet:
            for each in answer.networks:
                show(f"{each.network} is denied {howLong(each.seconds)}")
        return 0


class AllowOptions(_NetworkOptions):
    """
    The options of C{portlisten allow}.
    """

    command = "portlisten allow"

    synopsis = "[options] [FILE|PATH] ADDRESS [ADDRESS ...]"

    longdesc = (
        "Undoes 'portlisten deny': clients of ADDRESS may come in again. ADDRESS is an"
        " address or a network, as it was denied. If it was not, the command says so,"
        " and nothing changes. What the settings of a port deny cannot be allowed"
        " while it runs: change the settings, and reload. 'portlisten deny' lists what"
        " is denied."
    )

    epilogue = """
Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten allow /etc/portlisten/web.toml 192.0.2.7
"""

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH, which may be missing, and addresses.
        """
        super().parseArgs(*args)
        if not self["networks"]:
            raise UsageError("expected ADDRESS")

    def work(self) -> int:
        """
        Ask, and say what is so now.
        """
        settings = self.settings()
        with self.connect(settings) as client:
            answer = self.ask(client, Allow(settings.networks), AllowAnswer)
        for each in answer.networks:
            if each.deniedBy:
                self.complain(_still(each))
            elif not settings.quiet:
                was = "is denied no more" if each.wasDenied else "was not denied"
                show(f"{each.network} {was}")
        return STILL_DENIED if any(each.deniedBy for each in answer.networks) else 0


def _isTarget(word: str) -> bool:
    """
    Say whether a word means a listener, and is no address.
    """
    try:
        networkOf(word)
    except ValueError:
        exists = os.path.lexists(word) or os.path.lexists(f"{word}{SUFFIX}")
        return exists or not _ADDRESS.fullmatch(word)
    return False


def _listed(answer: DenialsAnswer) -> list[str]:
    if not answer.count:
        return ["nothing is denied"]
    width = max((len(each.network) for each in answer.networks), default=0)
    lines = [
        f"{each.network:{width}}  {howLong(each.seconds)}" for each in answer.networks
    ]
    if answer.count > len(lines):
        lines.append(f"and {plural(answer.count - len(lines), 'other network')}")
    return lines


def _still(allowed: Allowed) -> str:
    """
    Say why an address is still denied, and what to do.
    """
    if allowed.bySettings:
        return (
            f"{allowed.network} is still denied: the settings deny {allowed.deniedBy},"
            " which cannot be allowed while it runs: change the settings, and reload"
        )
    whole = allowed.deniedBy
    return f"{allowed.network} is still denied, as a part of {whole}: allow that"
