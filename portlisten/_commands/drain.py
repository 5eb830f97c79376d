"""
C{portlisten drain} and C{portlisten undrain}: let workers finish what they serve, and
let them serve again.

Both ask the listener, by its control socket, again and again until it is done.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.python.usage import CompleteFiles, Completer, UsageError

from portlisten._commands.asking import TIME_OVER, AskingOptions
from portlisten._commands.progress import Lines
from portlisten._config.settings import (
    DrainSettings,
    OperatorSettings,
    UndrainSettings,
)
from portlisten._control.client import ControlClient
from portlisten._control.convert import ControlError
from portlisten._control.messages import Drain, Undrain, Workers, WorkersAnswer
from portlisten._control.status import State, WorkerState
from portlisten._control.words import plural
from portlisten._kernel import runs

#: Seconds between two requests.
INTERVAL_SECONDS = 0.1

#: If a worker's channel is closed, for how many seconds it may join again before it
#: counts as gone.
REJOIN_SECONDS = 1.0


class _OperatorOptions(AskingOptions):
    """
    The options of a command that asks a listener about some workers.
    """

    settingsType: type[OperatorSettings] = OperatorSettings

    arguments = [
        CompleteFiles(descr="FILE|PATH"),
        Completer(descr="WORKER", repeat=True),
    ]

    synopsis = "[options] FILE|PATH WORKER [WORKER ...]"

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH, and the workers.
        """
        self.checkOrder(args)
        if not args:
            raise UsageError("expected FILE or PATH, and WORKER, got no arguments")
        self["target"], *self["workers"] = args
        self.checkPath(self["target"])

    def work(self) -> int:
        """
        Find the workers, and carry the command out.
        """
        settings = self.settingsType(
            target=self["target"], workers=tuple(self["workers"]), **self.given()
        )
        with self.connect(settings) as client:
            found = client.askFor(Workers(), WorkersAnswer)
            checkWorkers(client.channel, settings.workers, found)
            return self.carryOut(client, settings)

    def carryOut(self, client: ControlClient, settings: Any) -> int:
        """
        Do what the command is for.

        @return: the exit code.
        @raise ControlError: if the listener cannot be asked any more.
        """
        raise NotImplementedError


class DrainOptions(_OperatorOptions):
    """
    The options of C{portlisten drain}.
    """

    settingsType = DrainSettings
    command = "portlisten drain"

    longdesc = (
        "Drains workers of the listener at PATH, or of the one that 'portlisten run"
        " FILE' runs, and waits until they are drained. WORKER is the label of a"
        " worker, or the number of its process. A drained worker gets no new"
        " connections, and ends the connections that it keeps for further requests. It"
        " goes on to run, and serves each request to its end. Stop the worker when it"
        " is drained: then the stop cuts off nobody. Without WORKER, the command lists"
        " the workers."
    )

    epilogue = """
A worker gets its label from the variable PORTLISTEN_LABEL of its environment, or from
the option label of its description. If several workers have the label, all of them are
drained. A label is what a worker says of itself: it proves nothing. The number of the
process is from the kernel.

An older worker, and a program under 'portlisten exec', cannot say how many connections
are left. The command then waits until the time is over, or until the worker has left.
Such a program accepts on its socket until it is stopped.

If the time is over, or SIGINT comes, the workers stay drained. To let them serve again,
use 'portlisten undrain', or start them anew.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  PORTLISTEN_LABEL=web-1 twistd -n web --listen=portlisten:/run/web.sock &
  portlisten drain --timeout 60 /run/web.sock web-1 && kill -TERM $!
"""

    def carryOut(self, client: ControlClient, settings: DrainSettings) -> int:
        """
        See L{_OperatorOptions.carryOut}.
        """
        watch = _Watch(settings)
        undo = shlex.join(["portlisten", "undrain", settings.target, *settings.workers])
        stays = f"stays drained: '{undo}' undoes that"
        try:
            while True:
                watch.see(client.askFor(Drain(settings.workers), WorkersAnswer).workers)
                if watch.done:
                    watch.progress.say(f"done, after {watch.elapsed:.1f} s")
                    return 0
                if watch.elapsed >= settings.timeout:
                    break
                time.sleep(INTERVAL_SECONDS)
        except KeyboardInterrupt:
            watch.progress.clear()
            self.complain(f"interrupted; what is drained {stays}")
            raise
        except ControlError:
            watch.progress.clear()
            raise
        watch.progress.clear()
        for worker in watch.undrained:
            hint = f"it {stays}" if watch.sees(worker) else leftListener(worker)
            self.complain(
                f"{worker.name}, after {settings.timeout:g} s: {describe(worker)};"
                f" {hint}"
            )
        return TIME_OVER


class UndrainOptions(_OperatorOptions):
    """
    The options of C{portlisten undrain}.
    """

    settingsType = UndrainSettings
    command = "portlisten undrain"

    longdesc = (
        "Undoes 'portlisten drain': lets drained workers of the listener at PATH, or"
        " of 'portlisten run FILE', serve again, and waits until they have joined"
        " again. WORKER is the label of a worker, or the number of its process."
        " Without WORKER, the command lists the workers."
    )

    epilogue = """
The listener ends the worker's channel, and the worker joins again at once. The
connections that it still serves go on. A worker that was not drained goes on as before.

Only root, the user that started the listener, and the listener's own user may ask it.

Examples:
  portlisten undrain /run/web.sock web-1
"""

    def carryOut(self, client: ControlClient, settings: UndrainSettings) -> int:
        """
        See L{_OperatorOptions.carryOut}.
        """
        end = time.monotonic() + settings.timeout
        while True:
            client.askFor(Undrain(settings.workers), WorkersAnswer)
            found = client.askFor(Workers(), WorkersAnswer).workers
            serving = [each for each in found if each.state is State.SERVING]
            missing = unnamed(settings.workers, serving)
            if not missing:
                break
            if time.monotonic() >= end:
                self.complain(
                    f"{', '.join(missing)}: not joined again within"
                    f" {settings.timeout:g} s: see whether it runs, or is stopping"
                )
                return TIME_OVER
            time.sleep(INTERVAL_SECONDS)
        progress = Lines(settings.quiet)
        for worker in serving:
            if worker.isNamed(settings.workers):
                progress.say(f"{worker.name} serves")
        return 0


def unnamed(words: Iterable[str], workers: Iterable[WorkerState]) -> list[str]:
    """
    Find the words that name none of some workers.
    """
    known = list(workers)
    return [word for word in words if not any(each.isNamed([word]) for each in known)]


def checkWorkers(path: str, words: Sequence[str], answer: WorkersAnswer) -> None:
    """
    Check that each word on the command line names a worker.

    @param path: the path of the listener's channel.
    @param answer: all workers.
    @raise ControlError: if not.  It lists the workers.
    """
    missing = unnamed(words, answer.workers)
    if words and not missing:
        return
    if not answer.workers:
        raise ControlError(
            f"no worker is connected to the listener at {path}: start one, or"
            " see its log"
        )
    problem = f"no worker is {', '.join(missing)}" if missing else "expected WORKER"
    lines = [f"{problem}; these workers are connected:"]
    for each in answer.workers:
        label = each.label or "(no label)"
        count = plural(each.left)
        lines.append(
            f"  {label}  pid {each.pid}  uid {each.uid}  {each.state.value}, {count}"
        )
    raise ControlError("\n".join(lines))


def describe(worker: WorkerState) -> str:
    """
    Say what is left of a worker's connections.
    """
    if worker.state is State.UNKNOWN:
        known = f" ({plural(worker.connections)} known)" if worker.connections else ""
        return (
            f"it cannot say what is left{known}: it is older, or runs under"
            " 'portlisten exec'"
        )
    if worker.left or worker.state is State.DRAINED:
        return f"{plural(worker.left)} left"
    return "it has not confirmed that it drains"


def leftListener(worker: WorkerState) -> str:
    """
    Say that a worker has left its listener, and still runs.
    """
    return f"it has left the listener, and process {worker.pid} still runs"


class _Watch:
    """
    Watches how workers drain.

    @ivar progress: shows it.
    """

    def __init__(
        self,
        settings: DrainSettings,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = Lines(settings.quiet)
        self._timeout = settings.timeout
        self._seconds = seconds
        self._began = seconds()
        # By their names: the workers as they were last seen, and when.
        self._workers: dict[str, tuple[WorkerState, float]] = {}
        self._finished: set[str] = set()
        self._seen: set[str] = set()

    @property
    def elapsed(self) -> float:
        """
        How long this takes so far, in seconds.
        """
        return self._seconds() - self._began

    @property
    def undrained(self) -> list[WorkerState]:
        """
        The workers that are neither drained nor gone.
        """
        return [
            worker
            for name, (worker, _) in self._workers.items()
            if name not in self._finished
        ]

    @property
    def done(self) -> bool:
        """
        Whether all workers are drained or gone.
        """
        return not self.undrained

    def sees(self, worker: WorkerState) -> bool:
        """
        Whether the last answer had a worker.
        """
        return worker.name in self._seen

    def see(self, workers: Sequence[WorkerState]) -> None:
        """
        Take the workers of an answer.
        """
        now = self._seconds()
        self._seen = {each.name for each in workers}
        for worker in workers:
            isNew = worker.name not in self._workers
            if isNew and (worker.left or worker.state is State.UNKNOWN):
                self.progress.say(f"{worker.name}: {describe(worker)}")
            self._workers[worker.name] = worker, now
            if worker.state is State.DRAINED:
                self._finish(worker, "is drained")
        for name, (worker, seen) in self._workers.items():
            if name in self._finished or now - seen < REJOIN_SECONDS:
                continue
            # If it was revoked, or said BYE, it goes on serving what it had.
            again = any(each.pid == worker.pid for each in workers)
            if again or not (worker.left and runs(worker.pid)):
                left = f"; when last seen, it had {plural(worker.left)} left"
                self._finish(worker, "has left" + (left if worker.left else ""))
        self.progress.show(
            "; ".join(f"{each.name}: {describe(each)}" for each in self.undrained)
            + f"; {self.elapsed:.0f} s of {self._timeout:g} s"
        )

    def _finish(self, worker: WorkerState, how: str) -> None:
        if worker.name not in self._finished:
            self._finished.add(worker.name)
            self.progress.say(f"{worker.name} {how}")
