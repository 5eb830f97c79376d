"""
Compares what runs with what a file says, and says what a reload must do.

The comparison begins with the settings that are in use, and not with the file as it
was.  So a reload that stopped half-way can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.limits import NO_LIMITS
from portlisten._config.options import Option, optionsOf
from portlisten._config.port_options import (
    LIMIT_OPTIONS,
    PORT_OPTIONS,
    PortOption,
    PortOptions,
    separate,
)
from portlisten._config.settings import ListenerSettings
from portlisten._config.wrong import Problem, key

#: Keys of the listener that cannot change while it runs.
FIXED = frozenset(["path", "control", "mode", "group", "wire", "logFormat"])

#: Options of a port that can be set on a socket that is bound, or need a new listener.
SETTABLE = frozenset(
    ["nodelay", "keepalive", "defer", "balance"]
    + [option.name for option in LIMIT_OPTIONS]
)

#: Settings of a group of workers that hold for processes that run already.
TAKEN_OVER = ("grace", "stop", "ready", "failures", "maxMemory", "maxAge")

#: Settings of a group that are neither taken over, nor need new processes.
_OTHERS = frozenset([*TAKEN_OVER, "name", "count"])

_WHAT_TO_DO = "stop it, and run it again"

_NOT_TAKEN = "can be taken only at the start"
_NOT_GIVEN_BACK = "is bound by another process, and cannot be given back"


@dataclass(frozen=True)
class FilePort:
    """
    A port as the file says it.

    @ivar name: its name.
    @ivar text: its description, with its options.
    @ivar shared: whether workers accept on it themselves.
    """

    name: str
    text: str
    shared: bool

    @property
    def place(self) -> str:
        """
        Its description without options.  A number alone is a TCP port.
        """
        place = separate(self.text)[0]
        return f"tcp:{place}" if place.isdecimal() else place

    @property
    def key(self) -> str:
        """
        Its key in the file.
        """
        return f"{key('ports', self.name)}.{'share' if self.shared else 'listen'}"

    def __str__(self) -> str:
        return f"{self.name}={self.text}"


@dataclass(frozen=True)
class KeptPort:
    """
    A port that stays bound, and changes.

    @ivar running: the port as it is.
    @ivar wanted: the port as it is to be.
    """

    running: FilePort
    wanted: FilePort


@dataclass(frozen=True)
class GroupPlan:
    """
    What happens to a group of workers.

    @ivar name: its name.
    @ivar running: its settings now; L{None} if it is new.
    @ivar wanted: its new settings; L{None} if it is removed.
    @ivar replaced: whether its workers need new processes.
    """

    name: str
    running: WorkersSettings | None
    wanted: WorkersSettings | None
    replaced: bool = False


@dataclass(frozen=True)
class Plan:
    """
    What a reload must do.

    @ivar lines: the same for an operator, in lines.
    @ivar problems: what cannot change.  If there is any, nothing is to be done.
    @ivar added: the ports to be bound.
    @ivar removed: the ports to be closed.
    @ivar kept: the ports that change and stay bound.
    @ivar listener: whether the listener must be started anew.
    @ivar backlog: whether the queues get another length.
    @ivar metrics: whether the monitor is started, stopped, or listens elsewhere.
    @ivar groups: the groups of workers that change.
    """

    lines: tuple[str, ...]
    problems: tuple[Problem, ...]
    added: tuple[FilePort, ...]
    removed: tuple[FilePort, ...]
    kept: tuple[KeptPort, ...]
    listener: bool
    backlog: bool
    metrics: bool
    groups: tuple[GroupPlan, ...]

    @property
    def isEmpty(self) -> bool:
        """
        Whether nothing changes.
        """
        return not self.lines


def compare(running: RunSettings, wanted: RunSettings) -> Plan:
    """
    Compare what runs with what is wanted.

    @param running: the settings in use.
    @param wanted: the settings of the file.
    """
    return _Comparison(running, wanted).plan()


def needsNewProcess(running: WorkersSettings, wanted: WorkersSettings) -> bool:
    """
    Say whether a worker with some settings must be replaced to get others.
    """
    return bool(_changedNames(running, wanted))


def takeOver(running: WorkersSettings, wanted: WorkersSettings) -> WorkersSettings:
    """
    Change the settings that hold for processes that run already.
    """
    return replace(running, **{name: getattr(wanted, name) for name in TAKEN_OVER})


def filePorts(listener: ListenerSettings) -> list[FilePort]:
    """
    List the ports of a file.
    """
    return [
        FilePort(*_divided(text), shared)
        for texts, shared in ((listener.listen, False), (listener.share, True))
        for text in texts
    ]


def _divided(text: str) -> tuple[str, str]:
    name, _, description = text.partition("=")
    return name, description


def _changedNames(running: WorkersSettings, wanted: WorkersSettings) -> list[str]:
    return [
        each.name
        for each in fields(running)
        if each.name not in _OTHERS
        and getattr(running, each.name) != getattr(wanted, each.name)
    ]


def _written(option: Option, value: object) -> str:
    """
    Write the value of an option for an operator.
    """
    if value is None or value == ():
        return option.shown or "none"
    if option.several and isinstance(value, tuple):
        return ",".join(map(option.type.write, value))
    return option.type.write(value)


def _isInherited(text: str) -> bool:
    """
    Say whether another process, such as systemd, binds what a description names.
    """
    return text.startswith("systemd:")


class _Comparison:
    """
    A comparison.
    """

    def __init__(self, running: RunSettings, wanted: RunSettings) -> None:
        self._running = running
        self._wanted = wanted
        self._lines: list[str] = []
        self._problems: list[Problem] = []

    def plan(self) -> Plan:
        """
        Make the plan.
        """
        added, removed, kept, anew = self._ports()
        changes = self._listener()
        if anew or changes:
            said = f": {', '.join(changes)}" if changes else ""
            self._lines.append(f"the listener is started anew{said}")
        old, new = self._running.listener, self._wanted.listener
        if old.metrics != new.metrics:
            self._monitor(old.metrics, new.metrics)
        return Plan(
            groups=tuple(self._groups()),
            lines=tuple(self._lines),
            problems=tuple(self._problems),
            added=tuple(added),
            removed=tuple(removed),
            kept=tuple(kept),
            listener=bool(anew or changes),
            backlog=old.backlog != new.backlog,
            metrics=old.metrics != new.metrics,
        )

    def _refuse(self, where: str, reason: str) -> None:
        self._problems.append(Problem(where, f"{reason}: {_WHAT_TO_DO}"))

    # Ports

    def _ports(
        self,
    ) -> tuple[list[FilePort], list[FilePort], list[KeptPort], bool]:
        """
        Compare the ports.

        @return: those that are added, removed and changed; and whether the listener
            must be started anew for them.
        """
        before = filePorts(self._running.listener)
        after = filePorts(self._wanted.listener)
        same = [port for port in after if port in before]
        before = [port for port in before if port not in same]
        after = [port for port in after if port not in same]
        kept: list[KeptPort] = []
        anew = False
        for wanted in list(after):
            found = [port for port in before if port.place == wanted.place]
            if not found:
                continue
            running = next((p for p in found if p.name == wanted.name), found[0])
            before.remove(running)
            after.remove(wanted)
            kept.append(KeptPort(running, wanted))
            anew |= self._keptPort(running, wanted)
        for port in after:
            self._lines.append(f"port {port} is added")
            if _isInherited(port.text):
                self._refuse(port.key, f"{port.text} {_NOT_TAKEN}")
        for port in before:
            self._lines.append(f"port {port} is removed")
            if _isInherited(port.text):
                self._refuse(
                    key("ports", port.name),
                    f"{port.text} {_NOT_GIVEN_BACK}",
                )
        return after, before, kept, bool(anew or before or after)

    def _keptPort(self, running: FilePort, wanted: FilePort) -> bool:
        """
        Compare a port that stays bound.

        @return: whether the listener must be started anew for it.
        """
        if running.name != wanted.name:
            self._lines.append(
                f"port {running} gets another name: it is now {wanted.name}"
            )
        if running.shared != wanted.shared:
            how = (
                "workers accept on it themselves from now on"
                if wanted.shared
                else "its connections are handed to workers from now on"
            )
            self._lines.append(f"port {wanted}: {how}")
        old, new = separate(running.text)[1], separate(wanted.text)[1]
        for name, option in PORT_OPTIONS.items():
            values = _valueOf(old, option), _valueOf(new, option)
            if values[0] == values[1]:
                continue
            if name not in SETTABLE:
                self._refuse(
                    wanted.key,
                    f"{name} of {wanted.text} cannot change while the port is bound",
                )
                continue
            first, second = (_optionValue(option, value) for value in values)
            self._lines.append(f"port {wanted}: {name} {first} -> {second}")
        return (
            running.name != wanted.name
            or running.shared != wanted.shared
            or old.balanced != new.balanced
            or old.limits != new.limits
        )

    # The listener

    def _listener(self) -> list[str]:
        """
        Compare the options of the listener.

        @return: the changes, in words.
        """
        old, new = self._running, self._wanted
        if old.user != new.user:
            self._refuse("user", "the listener's user cannot change while it runs")
        changes = []
        for option in optionsOf(ListenerSettings):
            if option.field in ("listen", "share", "metrics"):
                continue
            values = [getattr(each.listener, option.field) for each in (old, new)]
            if values[0] == values[1]:
                continue
            first, second = (_written(option, value) for value in values)
            if option.field in FIXED:
                self._refuse(
                    option.name, f"it is {first}, and cannot change while it runs"
                )
            else:
                changes.append(f"{option.name} {first} -> {second}")
        if old.listener.path != new.listener.path:
            before, after = old.listener.path, new.listener.path
            self._refuse("path", f"it is {before}, and cannot become {after}")
        return changes

    # The monitor

    def _monitor(self, old: str | None, new: str | None) -> None:
        """
        Say how the monitor changes.

        @param old: where it serves; L{None} for nowhere.
        @param new: where it is to serve.
        """
        self._lines.append(_monitorLine(old, new))
        for text, reason in ((old, _NOT_GIVEN_BACK), (new, _NOT_TAKEN)):
            if text is not None and _isInherited(text):
                self._refuse("metrics", f"{text} {reason}")

    # Workers

    def _groups(self) -> Iterator[GroupPlan]:
        before = {each.name: each for each in self._running.workers}
        after = {each.name: each for each in self._wanted.workers}
        for name, wanted in after.items():
            running = before.get(name)
            if running is None:
                self._lines.append(f"workers {name} are added: {wanted.count}")
                yield GroupPlan(name, None, wanted)
            elif running != wanted:
                changed = _changedNames(running, wanted)
                self._lines += _groupLines(running, wanted, changed)
                yield GroupPlan(name, running, wanted, bool(changed))
        for name, running in before.items():
            if name not in after:
                self._lines.append(f"workers {name} are removed")
                yield GroupPlan(name, running, None)


def _monitorLine(old: str | None, new: str | None) -> str:
    if new is None:
        return f"the monitor at {old} is stopped"
    if old is None:
        return f"the monitor is started at {new}"
    return f"the monitor is started anew: metrics {old} -> {new}"


def _valueOf(options: PortOptions, option: PortOption) -> object:
    """
    The value of an option of a port that has effect, whether it is given or not.
    """
    if option.limit:
        return getattr(options.limits or NO_LIMITS, option.limit)
    return (
        options.balanced if option.name == "balance" else getattr(options, option.field)
    )


def _optionValue(option: PortOption, value: object) -> str:
    if value is None or value == ():
        return "none" if option.limit else "the host's"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return option.value.write(value)


def _groupLines(
    running: WorkersSettings, wanted: WorkersSettings, changed: Sequence[str]
) -> Iterable[str]:
    """
    Say how a group of workers changes.

    @param changed: the fields that need new processes.
    """
    where = f"workers {running.name}"
    options = {each.field: each for each in optionsOf(WorkersSettings)}
    if running.count != wanted.count:
        yield f"{where}: {running.count} -> {wanted.count}"
    if changed:
        names = [options[each].name for each in changed]
        what = (
            f"the {names[0]} changes"
            if len(names) == 1
            else (f"the {', '.join(names[:-1])} and {names[-1]} change")
        )
        yield f"{where}: {what}, so they are replaced one after the other"
    taken = [
        f"{options[name].name} {_written(options[name], getattr(running, name))} ->"
        f" {_written(options[name], getattr(wanted, name))}"
        for name in TAKEN_OVER
        if getattr(running, name) != getattr(wanted, name)
    ]
    if taken:
        yield f"{where}: {', '.join(taken)}"
