"""
What a forked child does before it becomes a program, and how a process ended.

A forked child shares the socket by which the event loop hears of signals.  So signals
with a handler are blocked before the fork, until the child has removed the handlers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from typing import NoReturn

from portlisten._process import programs

#: The signals that a process may handle; no real-time signals.
_SIGNALS = [int(each) for each in signal.Signals if each < signal.SIGRTMIN]

#: A set of signals, as L{signal.pthread_sigmask} returns it.
Mask = set["int | signal.Signals"]


def fork(child: Callable[[Mask], NoReturn]) -> int:
    """
    Fork.

    @param child: called in the child, which it ends.  The signals that this process
        handles are blocked meanwhile; the argument is for L{resetSignals}.
    @return: the number of the child, in the parent.
    @raise OSError: if that is impossible.
    """
    # Few, since each signal in the mask that this returns takes time.
    handled = [each for each in _SIGNALS if callable(signal.getsignal(each))]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        pid = os.fork()
        if not pid:
            child(blocked)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def resetSignals(blocked: Mask) -> None:
    """
    Set the signals that this process handles to their default, and those that Python
    ignores.  What this process was started with stays as it is.  Called in the child.

    @param blocked: the signals that stay blocked, from L{fork}.
    """
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    programs.restoreSignals()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def closeFrom(first: int, keep: Collection[int] = ()) -> None:
    """
    Close all descriptors of this process from a number on.  Called in the child.

    @param keep: these stay open.
    @raise OSError: if the kernel does not list the descriptors.
    """
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number >= first and number not in keep:
            try:
                os.close(number)
            except OSError:
                pass  # the descriptor of the listing itself


def closeOnExec() -> None:
    """
    Make sure that no descriptor of this process gets into a program, except for
    standard input, output and error.  These are opened if they are closed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open(2) gives the lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # the descriptor of the listing itself


def signalName(number: int) -> str:
    """
    Find the name of a signal.
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # such as a real-time signal
