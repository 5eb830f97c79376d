"""
One process of the supervisor, from its start to its end.

A pidfd tells of the end: pidfd_open(2).  Twisted's handler of SIGCHLD waits for other
processes only.  A signal goes only to a process that nobody has waited for, since its
number could be another's afterwards.  So all that is left of its session is killed
first, and then this process waits for it.

Nothing that a process started may outlive it: it would keep ports, and connections that
nobody counts.  The kernel ends only the process itself with the supervisor.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from portlisten import _kernel
from portlisten._children import launch as _launch
from portlisten._children.launch import Launch
from portlisten._children.logs import log
from portlisten._children.memory import MEMORY
from portlisten._children.output import Output, Reader
from portlisten._process.forking import signalName
from portlisten.errors import CannotRun

#: L{Process.ending} of a process that exited with 0.
CLEAN = "exited with 0"

#: How many lines L{Process.tail} has.
TAIL_LINES = 20

#: How many characters of a line L{Process.tail} has.
TAIL_CHARACTERS = 400


class Process:
    """
    A process, which is started once.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param launch: how to start it.  Its descriptors stay the caller's, and must be open
        when it is started.
    @param onLine: called with each line of its output.
    @param onEnd: called once, when it has ended, after its last line.

    @ivar label: its label.
    @ivar pid: its number; 0 before its start and after its end.
    @ivar started: when it was started, in the reactor's seconds.
    @ivar ending: how it ended, such as "exited with 1"; empty until then.
    """

    def __init__(
        self,
        reactor: Any,
        launch: Launch,
        onLine: Callable[[str], None],
        onEnd: Callable[[Process], None],
    ) -> None:
        self._reactor = reactor
        self._launch = launch
        self._onLine = onLine
        self._onEnd = onEnd
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._pidfd = -1
        self._watch: Reader | None = None
        self._output: Output | None = None
        self._outputEnded = False
        self._killTimer: IDelayedCall | None = None
        self._stopping = False
        self._warned = False
        self.label = launch.label
        self.pid = 0
        self.started = 0.0
        self.ending = ""

    @property
    def running(self) -> bool:
        """
        Whether it was started, and has not ended.
        """
        return self.pid != 0

    @property
    def tail(self) -> tuple[str, ...]:
        """
        The last lines of its output; each may be cut.
        """
        return tuple(self._tail)

    # Starting

    def start(self) -> None:
        """
        Start it, and wait until its program has begun.

        @raise CannotRun: if that is impossible.  No process and no descriptor is left
            then, and C{onEnd} is not called.
        """
        assert self._output is None, "a process is started once"
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise CannotRun(f"no pipe can be made: {error.strerror}") from None
        try:
            os.set_blocking(reader, False)
            if self._launch.uid is not None:
                # Else a program that opens /dev/stderr anew would be refused.
                with suppress(OSError):
                    os.fchown(writer, self._launch.uid, -1)
            pid = _launch.start(self._launch, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._output = Output(
            self._reactor, reader, self._line, self._outputDone, self.label
        )
        try:
            self._observe(pid, self._output)
        except OSError as error:
            self._output.close()
            self._output = None
            self._closeWatch()
            _launch.abort(pid)
            advice = ""
            if error.errno in (errno.ENOSYS, errno.EINVAL):
                advice = "; the kernel must be Linux 5.4 or newer"
            raise CannotRun(
                f"the process cannot be watched: {error.strerror}{advice}"
            ) from None
        self.pid = pid
        self.started = self._reactor.seconds()

    def _observe(self, pid: int, output: Output) -> None:
        self._pidfd = os.pidfd_open(pid)
        # Kernels before 5.4 have pidfd_open(2) and no P_PIDFD, see waitid(2).
        with suppress(ChildProcessError):
            self._wait(os.WNOWAIT)
        watch = Reader(self._pidfd, self._ended, self._dropped)
        self._reactor.addReader(watch)
        self._watch = watch
        output.start()

    # Ending it

    def stop(self, seconds: float) -> None:
        """
        Send SIGTERM to the process itself, and then do what L{killAfter} does.  A
        second call sends nothing.  If it does not run, do nothing.
        """
        if not self.running:
            return
        if not self._stopping:
            self._stopping = True
            # A process that SIGSTOP stopped would not see SIGTERM.
            for number in (signal.SIGTERM, signal.SIGCONT):
                self._signal(number)
        self.killAfter(seconds)

    def killAfter(self, seconds: float) -> None:
        """
        Kill its whole session if it has not ended after so many seconds.  A second call
        can only make the time shorter.  If it does not run, do nothing.
        """
        if not self.running:
            return
        timer = self._killTimer
        if timer is None or not timer.active():
            self._killTimer = self._reactor.callLater(seconds, self.kill)
        elif timer.getTime() > self._reactor.seconds() + seconds:
            timer.reset(seconds)

    def kill(self) -> None:
        """
        Send SIGKILL to its whole session.  If it does not run, do nothing.
        """
        if not self.running:
            return
        try:
            self._wait(os.WNOWAIT)
            _kernel.signalSession(self.pid, signal.SIGKILL)
        except ChildProcessError:
            pass  # its number may be another's by now
        except PermissionError:
            self._warn()

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended
        except PermissionError:
            self._warn()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warn(
                "{worker} (process {pid}) has become another user's, and this process"
                " may not end it: run the supervisor as root, or end it by hand",
                event="process-not-ours",
                worker=self.label,
                pid=self.pid,
            )

    def memory(self) -> int:
        """
        Find out how much memory the process has, with all other processes of its
        session, in bytes.  Memory that they share counts for each of them.

        @return: 0 if it does not run.
        """
        return MEMORY.of(self.pid) if self.running else 0

    # Its end

    def _wait(self, option: int) -> os.waitid_result | None:
        """
        Wait for the process, without blocking.

        @param option: C{WNOWAIT} to leave it as it is, or 0.
        @return: L{None} if it has not ended.
        @raise ChildProcessError: if the kernel keeps no ended processes, since SIGCHLD
            is ignored, or if other code has waited for it.
        """
        return os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | option)

    def _ended(self) -> None:
        """
        Kill what it left behind, wait for it, and read the rest of its output.
        """
        assert self._output is not None
        try:
            if self._wait(os.WNOWAIT) is None:
                return
            self.kill()
            self.ending = _describe(self._wait(0))
        except ChildProcessError:
            self.ending = "ended"
        self._closeWatch()
        self.pid = 0
        if self._outputEnded:
            self._onEnd(self)
        else:
            self._output.finish()

    def _dropped(self) -> None:
        """
        The reactor stops, or cannot watch the process.  Leave nothing behind.
        """
        self.kill()
        pid, self.pid = self.pid, 0
        self._closeWatch()
        if pid:
            _launch.abort(pid)
        if self._output is not None:
            self._output.close()

    def _closeWatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            self._reactor.removeReader(watch)
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd != -1:
            os.close(pidfd)
        timer, self._killTimer = self._killTimer, None
        if timer is not None and timer.active():
            timer.cancel()

    # Its output

    def _line(self, line: str) -> None:
        self._tail.append(line[:TAIL_CHARACTERS])
        self._onLine(line)

    def _outputDone(self) -> None:
        self._outputEnded = True
        if self.ending:
            self._onEnd(self)


def _describe(result: Any) -> str:
    """
    Say how a process ended.

    @param result: the result of L{os.waitid}.
    """
    if result.si_code == os.CLD_EXITED:
        return f"exited with {result.si_status}"
    return f"was killed by {signalName(result.si_status)}"
