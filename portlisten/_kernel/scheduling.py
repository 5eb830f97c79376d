"""
The scheduling policy of this process: sched(7).
"""

from __future__ import annotations

import os
from contextlib import suppress

# The policy before this process changed it.
_before: list[int] = []


def runInBatches() -> bool:
    """
    Let this process never interrupt another one when it wakes up: C{SCHED_BATCH}.  It
    gets as much processor time as before, needs no privilege, and finds more to do each
    time that it runs.  Only processes of the same processor matter
    (C{check_preempt_wakeup_fair} in kernel/sched/fair.c).

    If the operator has chosen a policy, that stays.  Other threads of this process keep
    theirs.  Child processes inherit the policy until they call L{runAsBefore}:
    C{SCHED_RESET_ON_FORK} resets only real-time policies (C{sched_fork} in
    kernel/sched/core.c).

    @return: whether that is so now.  If the kernel refuses, nothing changes.
    """
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            _before.append(os.SCHED_OTHER)
    except OSError:
        return False
    return bool(_before)


def giveWay() -> None:
    """
    Let the other processes of this processor run first, if any is ready to.  A process
    that has just given others something to do finds more to do itself afterwards:
    sched_yield(2).
    """
    with suppress(OSError):  # a filter of system calls may refuse it
        os.sched_yield()


def runAsBefore() -> None:
    """
    Undo L{runInBatches}.  A child process calls this before it becomes a program.  If
    the kernel refuses, nothing changes.
    """
    if _before:
        with suppress(OSError):  # a program also runs with the other policy
            os.sched_setscheduler(0, _before.pop(), os.sched_param(0))
