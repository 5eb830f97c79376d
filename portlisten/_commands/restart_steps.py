"""
The progress of a restart or a reload, in words for an operator.
"""

from __future__ import annotations

from collections.abc import Iterator

from portlisten._control.status import Progress, Step, StepState
from portlisten._control.words import brief, duration, plural
from portlisten._screen.tables import Mood, Text

#: The states in their order, without the last ones.
_ORDER = (
    StepState.WAITING,
    StepState.STARTING,
    StepState.DRAINING,
    StepState.STOPPING,
    StepState.DONE,
)


class Story:
    """
    Tells in lines what has changed since the progress that was told before.
    """

    def __init__(self) -> None:
        self._states: dict[int, StepState] = {}
        self._details: dict[int, str] = {}

    def tell(self, progress: Progress) -> Iterator[str]:
        """
        Take the progress, and write a line for each change.
        """
        for number, step in enumerate(progress.steps):
            before = self._states.get(number, StepState.WAITING)
            if step.state is not before:
                self._states[number] = step.state
                yield from _changes(step, before)
            # Why a drain takes long is known after it has begun.
            told = self._details.get(number, "")
            if step.state is StepState.DRAINING and step.detail not in ("", told):
                self._details[number] = step.detail
                yield f"{step.old or step.new} drains: {step.detail}"


def _changes(step: Step, before: StepState) -> Iterator[str]:
    """
    Write lines on what a step has done since, also if it was not asked meanwhile.
    """
    if step.state is StepState.FAILED or before not in _ORDER:
        yield f"{step.new or step.old} failed" + (
            f": {step.detail}" if step.detail else ""
        )
        return
    for state in _ORDER[_ORDER.index(before) + 1 : _ORDER.index(step.state) + 1]:
        if state is StepState.STARTING and step.new:
            yield (
                f"{step.old}: starting {step.new}"
                if step.old
                else (f"starting {step.new}")
            )
        elif state is StepState.DRAINING:
            if step.new:
                yield f"{step.new} is ready"
            if step.old and step.state is state:
                yield f"{step.old} drains{_left(step)}"
        elif step.old:
            stops = "stops" if state is StepState.STOPPING else "has stopped"
            if state is step.state:
                yield f"{step.old} {stops}"


def _left(step: Step) -> str:
    return "" if step.left is None else f", {plural(step.left)} left"


def stepWords(step: Step) -> tuple[str, Text, str]:
    """
    Describe a step.

    @return: which worker replaces which, how far that has come, and for how long.
    """
    workers = " → ".join(brief(each, 30) for each in (step.old, step.new) if each)
    workers = workers or "a new worker"
    match step.state:
        case StepState.WAITING:
            return workers, Text("waits", Mood.FAINT), ""
        case StepState.STARTING:
            state = Text("starts", Mood.BUSY)
        case StepState.DRAINING:
            state = Text(f"drains{_left(step)}", Mood.BUSY)
        case StepState.STOPPING:
            state = Text("stops", Mood.BUSY)
        case StepState.DONE:
            return workers, Text(_done(step), Mood.GOOD), ""
        case StepState.FAILED:
            state = Text("failed", Mood.BAD)
    if step.detail:
        state = Text(f"{state.text}: {brief(step.detail, 60)}", state.mood)
    return workers, state, duration(step.seconds, exact=True)


def _done(step: Step) -> str:
    if not step.new:
        return "stopped"
    return "replaced" if step.old else "started"


def replaced(progress: Progress) -> int:
    """
    Count the steps that are done.
    """
    return sum(step.state is StepState.DONE for step in progress.steps)


def isComplete(progress: Progress) -> bool:
    """
    Say whether all workers are replaced.
    """
    isOver = progress.done and not progress.error
    return isOver and replaced(progress) == len(progress.steps)


def reloadFailure(progress: Progress) -> Iterator[str]:
    """
    Write lines on why a reload failed, and on what to do.
    """
    failed = [each for each in progress.steps if each.state is StepState.FAILED]
    names = ", ".join(step.new or step.old for step in failed)
    yield progress.error or "the reload ended before all was done"
    if progress.log:
        yield f"the end of the log{f' of {names}' if names else ''}:"
        yield from (f"  {line}" for line in progress.log)
    if replaced(progress):
        yield (
            "What was done stays. Change the file, or mend what failed, and reload"
            " again: it goes on from there."
        )


def failure(progress: Progress) -> Iterator[str]:
    """
    Write lines on why a restart failed, and on what serves now.
    """
    failed = [each for each in progress.steps if each.state is StepState.FAILED]
    names = ", ".join(step.new or step.old for step in failed)
    yield progress.error or (
        f"{names} failed" if names else "the restart ended before all were replaced"
    )
    if progress.log:
        yield f"the end of the log{f' of {names}' if names else ''}:"
        yield from (f"  {line}" for line in progress.log)
    done, count = replaced(progress), len(progress.steps)
    others = "The other old workers serve on." if done else "The old workers serve on."
    yield f"{done} of {plural(count, 'worker')} replaced. {others}"
