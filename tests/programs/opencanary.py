"""
OpenCanary, which pretends to be other servers, and notes who comes.
"""

from __future__ import annotations

import ftplib
import json
from collections.abc import Sequence

from tests.programs.program import PATIENCE, Stage
from tests.programs.python import PythonProgram


class OpenCanary(PythonProgram):
    """
    OpenCanary's FTP server.
    """

    name = "opencanary"
    # OpenCanary uses pkg_resources.
    packages = ("opencanary", "setuptools<80")

    def prepare(self, stage: Stage) -> None:
        """
        Write the configuration.
        """
        self._count = 0
        handler = {"class": "logging.FileHandler", "filename": "canary.log"}
        plain = {"plain": {"format": "%(message)s"}}
        logger = {
            "class": "PyLogger",
            "kwargs": {"formatters": plain, "handlers": {"file": handler}},
        }
        settings = {
            "device.node_id": "trial",
            "device.listen_addr": "127.0.0.1",
            "ftp.enabled": True,
            "ftp.port": stage.free,
            "ftp.banner": "FTP server ready",
            "logger": logger,
        }
        stage.write("opencanary.conf", json.dumps(settings))

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        tac = str(self.bin / "opencanary.tac")
        return ["twistd", "--pidfile=", "-noy", tac]

    def job(self, stage: Stage) -> str:
        """
        Try to log in, which is refused and noted.
        """
        self._count += 1
        user = f"intruder{self._count}"
        with ftplib.FTP(timeout=PATIENCE) as ftp:
            ftp.connect("127.0.0.1", stage.port)
            assert "FTP server ready" in ftp.getwelcome()
            ftp.sendcmd(f"USER {user}")
            ftp.putcmd("PASS secret")
            assert ftp.getline().startswith("530"), "it let an intruder in"
        noted = (stage.folder / "canary.log").read_text()
        lines = [json.loads(line) for line in noted.splitlines() if user in line]
        assert lines[0]["logdata"] == {"USERNAME": user, "PASSWORD": "secret"}, lines
        assert lines[0]["src_host"] == "127.0.0.1", lines
        return "tried to log in by FTP, found that noted with its address"


PROGRAMS = [OpenCanary()]
