"""
C{portlisten as-port}: runs a Twisted program that knows only the number of its port.

Where the program calls C{reactor.listenTCP} with a mapped number, it joins a listener
instead.  The program runs in this process, so its supervisor sees one process only.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from twisted.python.usage import CompleteFiles, Completer, UsageError

from portlisten._as_port import mappings as _mappings
from portlisten._as_port.log import say, showWarnings
from portlisten._as_port.mappings import Mapping
from portlisten._as_port.program import execute, run, understand
from portlisten._as_port.reactors import Interception
from portlisten._as_port.watch import Watch
from portlisten._channel import paths
from portlisten._commands.options import CommandOptions
from portlisten._config.settings import AsPortSettings
from portlisten.endpoints import contextFactoryFor, endpointFor
from portlisten.errors import BadDescription, CannotRun, EndpointError, PathError


class AsPortOptions(CommandOptions):
    """
    The options of C{portlisten as-port}.
    """

    settingsType = AsPortSettings

    command = "portlisten as-port"
    program = ""

    arguments = [
        Completer(descr="MAPPING"),
        CompleteFiles(descr="PROGRAM", repeat=True),
    ]

    synopsis = "[options] MAPPING ... -- PROGRAM [ARGUMENT ...]"

    longdesc = (
        "Runs a Twisted program that takes only the number of a port, and does not"
        " change it. Where the program would listen on the port in MAPPING, it joins a"
        " listener instead, and serves the connections of the listener's ports. It"
        " binds all other ports itself."
    )

    epilogue = """
MAPPING is the number of the port in the program, '=', and what follows 'portlisten:' in
an endpoint description: the channel's path, and perhaps options. The number need not be
that of the listener's port. If the program listens on several addresses, an address may
stand before the number, and counts more than the number alone:
  6800=/run/portlisten/api.sock   6800=/run/portlisten/api.sock:name=http:grace=3
  127.0.0.1:80=/run/a.sock        [::1]:80=/run/b.sock

PROGRAM must be a program for the Python that runs this command, and must listen by
Twisted's reactor.listenTCP or listenSSL, which its endpoints 'tcp:' and 'ssl:' call.
It may be a script, a command in PATH or beside this Python, or python with -m, -c or a
script. It runs in this process, and may choose any reactor.

UDP ports are not the listener's. Processes that the program starts are not changed. If
a program can become a daemon, or start others to serve, run it in the foreground.

Examples, with 'twistd portlisten 80 /run/portlisten/web.sock':
  portlisten as-port 6800=/run/portlisten/web.sock -- scrapyd
  portlisten as-port 8080=/run/portlisten/web.sock -- twistd -n web --listen tcp:8080
  portlisten as-port 8008=/run/portlisten/web.sock -- \\
      python -m synapse.app.homeserver -c homeserver.yaml
"""

    def parseArgs(self, *args: str) -> None:
        """
        Take the mappings, the program and its arguments.
        """
        words = list(args)
        self.checkOrder(words[: words.index("--")] if "--" in words else words)
        if "--" not in words:
            raise UsageError(
                "expected MAPPING, '--' and PROGRAM, as in"
                " 6800=/run/portlisten/web.sock -- scrapyd"
            )
        end = words.index("--")
        mappings, program = words[:end], words[end + 1 :]
        if not mappings:
            raise UsageError("expected MAPPING before '--'")
        if not program:
            raise UsageError("expected PROGRAM after '--'")
        self["mappings"], self["program"] = mappings, program

    def settings(self) -> AsPortSettings:
        """
        Make settings of the options and arguments.
        """
        return AsPortSettings(
            mappings=tuple(self["mappings"]),
            program=tuple(self["program"]),
            **self.given(),
        )

    def run(self) -> None:
        """
        Run the program in this process.

        @raise SystemExit: if a mapping or the program cannot be used.
        """
        settings = self.settings()
        try:
            mappings = prepare(settings)
            program = understand(settings.program)
        except BadDescription as error:
            self.refuse(str(error))
        except CannotRun as error:
            say(str(error))
            raise
        if program.flags:
            after = f"--warn-after={settings.warnAfter!r}"
            format = f"--log-format={settings.logFormat}"
            execute(program, ["as-port", after, format, *settings.mappings, "--"])
        watch = Watch([mapping for mapping, _ in mappings], settings.warnAfter)
        Interception(mappings, watch).install()
        showWarnings(format=settings.logFormat)
        try:
            run(program)
        except SystemExit as error:
            if not error.code:
                _complain(watch)
            raise
        _complain(watch)


def prepare(settings: AsPortSettings) -> list[tuple[Mapping, Any]]:
    """
    Understand the mappings, and try what can be tried before the program runs.  Files
    for TLS are read now.

    @return: each mapping, with a path that a change of the folder leaves alone, and
        its context factory, which may be L{None}.
    @raise BadDescription: if a mapping cannot be used.
    """
    prepared: list[tuple[Mapping, Any]] = []
    for each in _mappings.parseAll(settings.mappings):
        path = os.path.abspath(each.settings.path)
        mapping = replace(each, settings=replace(each.settings, path=path))
        try:
            paths.check(each.settings.path)
            contextFactory = contextFactoryFor(mapping.settings)
            endpointFor(None, mapping.settings, contextFactory)
        except PathError as error:
            raise BadDescription(f"{each.port}: {error}") from None
        except EndpointError as error:
            reason = str(error).removeprefix("portlisten: ")
            raise BadDescription(f"{each.port}: {reason}") from None
        prepared.append((mapping, contextFactory))
    return prepared


def _complain(watch: Watch) -> None:
    """
    Say what is wrong if the program has ended well.
    """
    complaint = watch.ended()
    if complaint:
        say(complaint)
