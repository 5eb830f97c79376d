"""
Carbon, which stores the metrics of Graphite.
"""

from __future__ import annotations

import pickle
import socket
import struct
import time
from collections.abc import Sequence

from tests.programs.program import PATIENCE, Stage
from tests.programs.python import PythonProgram
from tests.support.ports import freePort

#: How long Carbon may take to write a metric, in seconds.
WRITE_SECONDS = 5.0


class Carbon(PythonProgram):
    """
    C{carbon-cache.py}, on two ports of the listener.
    """

    name = "carbon"
    # Carbon uses pkg_resources.
    packages = ("carbon", "whisper", "setuptools<80")
    ports = ("line", "query")

    def prepare(self, stage: Stage) -> None:
        """
        Write the configuration.
        """
        self._query = freePort(stage.free + 1, stage.free + 1000)
        self._count = 0
        stage.write(
            "conf/carbon.conf",
            "[cache]\n"
            "STORAGE_DIR = .\nLOCAL_DATA_DIR = whisper\nLOG_DIR = log\nPID_DIR = .\n"
            "LINE_RECEIVER_INTERFACE = 127.0.0.1\n"
            f"LINE_RECEIVER_PORT = {stage.free}\n"
            "PICKLE_RECEIVER_PORT = 0\nENABLE_UDP_LISTENER = False\n"
            "CACHE_QUERY_INTERFACE = 127.0.0.1\n"
            f"CACHE_QUERY_PORT = {self._query}\n"
            "MAX_UPDATES_PER_SECOND = 500\nMAX_CREATES_PER_MINUTE = inf\n"
            "CARBON_METRIC_INTERVAL = 0\n",
        )
        stage.write(
            "conf/storage-schemas.conf",
            "[default]\npattern = .*\nretentions = 1s:1h\n",
        )
        for folder in ("whisper", "log"):
            (stage.folder / folder).mkdir()

    def mappings(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.mappings}.
        """
        return [
            f"{stage.free}={stage.path}:name=line:grace=1",
            f"{self._query}={stage.path}:name=query:grace=1",
        ]

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        config = "--config=conf/carbon.conf"
        return ["carbon-cache.py", "--nodaemon", config, "start"]

    def job(self, stage: Stage) -> str:
        """
        Send a metric, and read it back.  If Carbon stops, it loses metrics that it has
        not written, also without portlisten: they count as cut.
        """
        self._count += 1
        name, now = f"trial.number{self._count}", int(time.time())
        file = stage.folder / f"whisper/trial/number{self._count}.wsp"
        where = "127.0.0.1", stage.ports["line"]
        with socket.create_connection(where, PATIENCE) as sock:
            sock.sendall(f"{name} {self._count} {now}\n".encode())
        end = time.monotonic() + WRITE_SECONDS
        while not file.exists() or struct.pack("!Ld", now, self._count) not in (
            file.read_bytes()
        ):
            assert time.monotonic() < end, f"{name} is not in its file"
            time.sleep(0.02)
        self._ask(stage, name)
        return "sent a metric, read it in its file, asked the query port"

    @staticmethod
    def _ask(stage: Stage, name: str) -> None:
        where = "127.0.0.1", stage.ports["query"]
        question = pickle.dumps({"type": "cache-query", "metric": name}, protocol=2)
        with socket.create_connection(where, PATIENCE) as sock:
            sock.sendall(struct.pack("!L", len(question)) + question)
            file = sock.makefile("rb")
            (length,) = struct.unpack("!L", file.read(4))
            answer = pickle.loads(file.read(length))
        assert "datapoints" in answer, answer


PROGRAMS = [Carbon()]
