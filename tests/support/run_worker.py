"""
A worker of C{portlisten run} that does what its clients say:
C{python -m tests.support.run_worker DESCRIPTION}.

A client sends a line with a word of L{Commands}, and gets a line in JSON.  The file
that C{MODE} of the environment names says how the worker starts; see L{main}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver

reactor: Any = _reactor

#: What clients made this worker keep.
kept: list[Any] = []


class Commands(LineOnlyReceiver):
    """
    One client.
    """

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        """
        Carry out a command.
        """
        name, *arguments = line.decode().split()
        getattr(self, f"do_{name}")(*arguments)

    def _answer(self, also: object = None) -> None:
        transport: Any = self.transport
        label = os.environ["PORTLISTEN_LABEL"]
        found = {"pid": os.getpid(), "label": label, "also": also}
        transport.write(json.dumps(found).encode() + b"\n")
        transport.loseConnection()

    def do_who(self) -> None:
        """
        Say who this is.
        """
        self._answer()

    def do_environment(self) -> None:
        """
        Tell the environment.
        """
        self._answer(dict(os.environ))

    def do_grow(self, mebibytes: str) -> None:
        """
        Take memory.
        """
        kept.append(bytearray(os.urandom(2**20)) * int(mebibytes))
        self._answer()

    def do_child(self) -> None:
        """
        Start a process, which stays.
        """
        kept.append(subprocess.Popen(["sleep", "600"]))
        self._answer(kept[-1].pid)

    def do_quit(self) -> None:
        """
        Answer, and exit with 0, as a server does after many requests.
        """
        self._answer()
        reactor.callLater(0.1, reactor.stop)


def main(description: str) -> None:
    """
    Be the worker of the command line.

    The word in the file that C{MODE} names says how.  With C{fail}, exit with 1 at
    once; with C{brief}, soon after joining the listener.  With C{never}, never join it;
    with C{wait}, not before the file is empty.  With C{deaf}, ignore SIGTERM.
    """
    file = Path(os.environ.get("MODE", os.devnull))
    mode = file.read_text().strip()
    if mode == "fail":
        sys.exit("no module named shop")
    while mode == "never" or (mode == "wait" and file.read_text().strip()):
        print(f"the mode is {mode}", flush=True)
        time.sleep(0.2)
    if mode == "brief":
        reactor.callLater(0.6, os._exit, 1)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    serverFromString(reactor, description).listen(Factory.forProtocol(Commands))
    reactor.run(installSignalHandlers=mode != "deaf")


if __name__ == "__main__":
    main(*sys.argv[1:])
