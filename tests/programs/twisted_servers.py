"""
Twisted's own servers that take the number of a port.
"""

from __future__ import annotations

import ftplib
import io
import shutil
import socket
import struct
import subprocess
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.programs.program import PATIENCE, Missing, Stage
from tests.programs.python import PythonProgram

TWISTD = ("twistd", "-n", "--pidfile=")


class Web(PythonProgram):
    """
    C{twistd web}.
    """

    name = "twistd web"

    def prepare(self, stage: Stage) -> None:
        """
        Make a page.
        """
        stage.write("www/index.html", "hello, web\n")

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return [*TWISTD, "web", f"--listen=tcp:{stage.free}", "--path=www"]

    def job(self, stage: Stage) -> str:
        """
        Get the page.
        """
        url = f"http://127.0.0.1:{stage.port}/index.html"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            assert response.read() == b"hello, web\n"
        return "got a page"


class Ftp(PythonProgram):
    """
    C{twistd ftp}.  It binds the ports for data itself.
    """

    name = "twistd ftp"

    def prepare(self, stage: Stage) -> None:
        """
        Make a file.
        """
        stage.write("files/file.txt", "hello, ftp\n")

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return [
            *(*TWISTD, "ftp", f"--port={stage.free}", "--root=files"),
        ]

    def job(self, stage: Stage) -> str:
        """
        Log in as a guest, and fetch the file over another connection.  (With a name
        and a password, C{twistd ftp} lets nobody in: it compares text with bytes.)
        """
        text = io.BytesIO()
        with ftplib.FTP(timeout=PATIENCE) as ftp:
            ftp.connect("127.0.0.1", stage.port)
            ftp.login()
            ftp.retrbinary("RETR file.txt", text.write)
            ftp.quit()
        assert text.getvalue() == b"hello, ftp\n"
        return "logged in, fetched a file"


class Socks(PythonProgram):
    """
    C{twistd socks}.
    """

    name = "twistd socks"

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return [*TWISTD, "socks", "--interface=127.0.0.1", f"--port={stage.free}"]

    def job(self, stage: Stage) -> str:
        """
        Connect to a server through the proxy, and exchange bytes both ways.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(PATIENCE)
            threading.Thread(target=self._echo, args=[server], daemon=True).start()
            target = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", stage.port), PATIENCE) as sock:
                # SOCKS 4, the command CONNECT, and the name of a user.
                address = socket.inet_aton("127.0.0.1")
                sock.sendall(struct.pack("!BBH4s", 4, 1, target, address) + b"joe\0")
                file = sock.makefile("rb")
                answer = file.read(8)
                assert answer[:2] == bytes([0, 90]), f"it answers {answer!r}"
                sock.sendall(b"hello, socks\n")
                assert file.readline() == b"hello, socks\n"
        return "spoke to a server through SOCKS 4"

    @staticmethod
    def _echo(server: socket.socket) -> None:
        try:
            client, _ = server.accept()
        except OSError:
            return  # the proxy did not come
        with client:
            client.settimeout(PATIENCE)
            client.sendall(client.recv(100))


class Dns(PythonProgram):
    """
    C{twistd dns} over TCP.  It binds its UDP port itself.
    """

    name = "twistd dns (TCP)"

    def install(self, cache: Path) -> None:
        """
        See L{PythonProgram.install}.
        """
        if shutil.which("dig") is None:
            raise Missing("dig is missing: apt install bind9-dnsutils")
        super().install(cache)

    def prepare(self, stage: Stage) -> None:
        """
        Write a zone.
        """
        stage.write(
            "example.com",
            "zone = [\n"
            "  SOA('example.com', mname='ns.example.com', rname='root.example.com',\n"
            "      serial=1, refresh='1H', retry='1H', expire='1H', minimum='1H'),\n"
            "  A('www.example.com', '192.0.2.2'),\n"
            "]\n",
        )

    def words(self, stage: Stage) -> Sequence[str]:
        """
        See L{PythonProgram.words}.
        """
        return [
            *(*TWISTD, "dns", "--interface=127.0.0.1", f"--port={stage.free}"),
            "--pyzone=example.com",
        ]

    def job(self, stage: Stage) -> str:
        """
        Ask for an address.
        """
        ask = ["dig", "@127.0.0.1", "-p", str(stage.port), "+tcp", "+short", "+tries=1"]
        ended = subprocess.run(
            [*ask, f"+time={PATIENCE:.0f}", "www.example.com"],
            stdout=subprocess.PIPE,
            timeout=2 * PATIENCE,
            text=True,
            check=False,
        )
        if "connection refused" in ended.stdout:
            raise ConnectionRefusedError(ended.stdout)
        assert ended.stdout == "192.0.2.2\n", ended.stdout
        return "asked for an address by dig +tcp"


PROGRAMS = [Web(), Ftp(), Socks(), Dns()]
