"""
C{portlisten run}, and C{twistd portlisten-run}: the supervisor.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any, NoReturn

from twisted.application.service import Application, IService
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

from portlisten import _kernel
from portlisten._commands.check import EXAMPLE, check
from portlisten._commands.listener import parsePorts
from portlisten._commands.options import FileOptions
from portlisten._config.file import RunSettings
from portlisten._config.settings import RunCommandSettings
from portlisten._config.wrong_file import WrongFile
from portlisten._listener.own_sockets import OwnSockets
from portlisten._process import exits
from portlisten._process.output import complain
from portlisten._process.signals import ownProcess
from portlisten._reactor.monotonic import monotonicReactor
from portlisten._supervisor.service import SupervisorService
from portlisten.errors import BadDescription, PathError

#: Seconds until a registration that failed in the reactor is tried again.
RETRY_SECONDS = 0.1


class RunOptions(FileOptions):
    """
    The options of C{portlisten run}.
    """

    settingsType = RunCommandSettings

    command = "portlisten run"

    longdesc = (
        "Runs a listener and its workers as FILE says, and stays in the foreground. It"
        " binds all ports, starts the listener and the workers as their users, and"
        " starts each of them again if it ends. SIGTERM stops everything in good order."
        " 'twistd portlisten-run FILE' does the same with twistd's options."
    )

    epilogue = f"""
FILE is TOML, as in this example. 'portlisten check FILE' says what would be run:
{EXAMPLE}
If root runs the command, FILE and its folder must belong to root, and others must not
be able to write to them.

While it runs, 'portlisten status FILE' shows what goes on, and what is wrong.
'portlisten restart FILE' replaces the workers, one after the other, and 'portlisten
stop FILE' stops everything.

Examples:
  portlisten check /etc/portlisten/web.toml
  portlisten run /etc/portlisten/web.toml
  twistd --syslog --prefix web portlisten-run /etc/portlisten/web.toml
"""

    def run(self) -> NoReturn:
        """
        Run the command.

        @raise SystemExit: always.
        """
        twistd = ServerOptions()
        twistd.parseOptions(["--nodaemon", "--no_save", "--pidfile="])
        self.parent = twistd
        try:
            _Runner(twistd, self).run()
        except KeyboardInterrupt:  # before the reactor handles SIGINT
            raise SystemExit(128 + signal.SIGINT) from None
        raise SystemExit(0)

    @property
    def process(self) -> exits.Command:
        """
        See L{CommandOptions.process}.  The supervisor keeps its privilege.
        """
        return replace(super().process, warnsOfRoot=False)


class TwistdRunOptions(RunOptions):
    """
    The options of C{twistd portlisten-run}.
    """

    command = "portlisten-run"
    program = "twistd "

    def checkPrivileges(self) -> None:
        """
        See L{CommandOptions.checkPrivileges}.
        """
        for name in ("uid", "gid", "euid", "chroot"):
            if (self._parent or {}).get(name):
                raise UsageError(
                    f"--{name} means nothing here: the supervisor keeps its privilege,"
                    " and FILE names the users of the listener and of the workers"
                )


#: What C{twistd} looks for.
Options = TwistdRunOptions


class _Runner(UnixApplicationRunner):
    """
    Runs the supervisor as C{twistd} would, without its plugins.
    """

    def __init__(self, config: Any, options: RunOptions) -> None:
        super().__init__(config)
        self._options = options

    def createOrGetApplication(self) -> Any:
        """
        See C{ApplicationRunner.createOrGetApplication}.
        """
        application = Application("portlisten")
        makeService(self._options).setServiceParent(application)
        return application


def makeService(options: RunOptions, reactor: Any = None) -> IService:
    """
    Make the service of C{portlisten run}.

    @param reactor: by default the global one.
    @raise SystemExit: if the file is wrong.
    """
    if reactor is None:
        from twisted.internet import reactor
    wanted = options["log-format"]

    def load(path: str) -> RunSettings:
        settings = check(path)
        if wanted is None:
            return settings
        listener = replace(settings.listener, logFormat=wanted)
        return replace(settings, listener=listener)

    try:
        settings = load(options["file"])
    except WrongFile as error:
        for line in error.lines:
            complain(options.command, line)
        raise SystemExit(1) from None
    listener = settings.listener
    backlog = listener.backlog or _kernel.longestBacklog()
    try:
        ports = parsePorts(listener, backlog)
    except (BadDescription, PathError) as error:
        options.refuse(str(error))
    ownProcess(reactor, RETRY_SECONDS)
    monotonic = monotonicReactor(reactor)
    return SupervisorService(
        monotonic,
        replace(options.process, logFormat=listener.logFormat),
        options["file"],
        settings,
        OwnSockets(
            listener,
            ports,
            backlog,
            settings.user,
            max((each.stop for each in settings.workers), default=0.0),
        ),
        load,
    )
