"""
Buildbot's master, to which workers connect by Twisted's Perspective Broker.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Sequence

from tests.programs.program import PATIENCE, USER, Stage
from tests.programs.python import PythonProgram, run

MASTER = """
from buildbot.plugins import *

factory = util.BuildFactory([steps.ShellCommand(command=["true"])])
BuildmasterConfig = {{
    "workers": [worker.Worker("trial", "secret")],
    "protocols": {{"pb": {{"port": "tcp:{port}:interface=127.0.0.1"}}}},
    "builders": [util.BuilderConfig("one", workernames=["trial"], factory=factory)],
    "schedulers": [schedulers.ForceScheduler(name="all", builderNames=["one"])],
    "buildbotNetUsageData": None,
    "db": {{"db_url": "sqlite:///state.sqlite"}},
}}
"""


class Buildbot(PythonProgram):
    """
    The master.  Its client is a real worker.
    """

    name = "buildbot"
    packages = ("buildbot", "buildbot-worker", "setuptools<80")
    slow = True

    def prepare(self, stage: Stage) -> None:
        """
        Make a master and a worker.
        """
        run(self.bin / "buildbot", "create-master", stage.folder / "master")
        stage.write("master/master.cfg", MASTER.format(port=stage.free))
        worker = stage.folder / "worker"
        server = f"127.0.0.1:{stage.port}"
        names = ["trial", "secret"]
        run(self.bin / "buildbot-worker", "create-worker", worker, server, *names)

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        tac = str(stage.folder / "master" / "buildbot.tac")
        return ["twistd", "--pidfile=", "--rundir=master", "-noy", tac]

    def job(self, stage: Stage) -> str:
        """
        Run a worker until the master has taken it in.
        """
        # A connection that is refused would only make the worker try again.
        socket.create_connection(("127.0.0.1", stage.port), PATIENCE).close()
        folder = stage.folder / "worker"
        # The worker writes its log there, and not to its standard output.
        log = folder / "twistd.log"
        log.unlink(missing_ok=True)
        command = [str(self.bin / "twistd"), "--pidfile=", "-noy", "buildbot.tac"]
        user = USER if stage.privileged else None
        worker = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, user=user
        )
        try:
            end = time.monotonic() + PATIENCE
            text = ""
            while "message from master: attached" not in text:
                assert time.monotonic() < end, text[-2000:]
                text = log.read_text() if log.exists() else ""
                time.sleep(0.05)
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        return "a buildbot-worker attached"


PROGRAMS = [Buildbot()]
