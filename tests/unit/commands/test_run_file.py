"""
Tests for L{portlisten._commands.run_file}.
"""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands.run_file import MAXIMUM_SIZE, channelOf, load
from portlisten._config.wrong_file import WrongFile
from portlisten._control.convert import ControlError
from tests.support.descriptors import watchDescriptors
from tests.support.run_files import TOP, runFile


class FilesTestCase(SynchronousTestCase):
    """
    A folder with files.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder, 0o755)
        self.path = self.write(runFile())

    def write(self, text: str) -> str:
        """
        Write the file.

        @return: its path.
        """
        path = os.path.join(self.folder, "web.toml")
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path


class LoadTests(FilesTestCase):
    """
    Tests for L{load}.
    """

    def refused(self, path: str) -> list[str]:
        """
        Load a file that is refused.
        """
        error = self.assertRaises(WrongFile, load, path)
        for line in error.lines:
            self.assertTrue(line.startswith(f"{path}: "))
        return [line.removeprefix(f"{path}: ") for line in error.lines]

    def test_good(self) -> None:
        """
        A good file gives settings, by a relative path as well.
        """
        settings = load(self.path)
        self.assertEqual(settings.listener.listen, ("http=80",))
        self.assertEqual(load(os.path.relpath(self.path)), settings)

    def test_unreadable(self) -> None:
        """
        What is no regular file, or too long, is refused, and no descriptor is left.
        """
        pipe = os.path.join(self.folder, "pipe")
        os.mkfifo(pipe)
        loop = os.path.join(self.folder, "loop")
        os.symlink(loop, loop)
        for path, reason in [
            (pipe, "it is no regular file"),
            (self.folder, "it is no regular file"),
            ("/dev/null", "it is no regular file"),
            (self.folder + "/none", "cannot read it: No such file or directory"),
            (loop, "cannot read it: Too many levels of symbolic links"),
            ("a\0", "embedded null"),
        ]:
            (line,) = self.assertRaises(WrongFile, load, path).lines
            self.assertIn(reason, line)
        self.write("#" * MAXIMUM_SIZE)
        self.assertIn("path: it is missing", " ".join(self.refused(self.path)))
        self.write("#" * (MAXIMUM_SIZE + 1))
        (line,) = self.refused(self.path)
        self.assertIn("longer than 1048576 bytes", line)

    def test_ports(self) -> None:
        """
        The descriptions of ports are understood here.
        """
        self.write(
            runFile(ports='[ports.a]\nlisten = "80:x=y"\nshare = "80:nodelay=2"')
        )
        found = self.refused(self.path)
        self.assertEqual(
            [each.partition(": ")[0] for each in found],
            ["ports.a", "ports.a.listen", "ports.a.share"],
        )
        self.write(runFile(ports='[ports.a]\nlisten = "80:reuseport=4"'))
        (line,) = self.refused(self.path)
        self.assertTrue(line.endswith("reuseport is for share"))

    def test_socketsOfSystemd(self) -> None:
        """
        A socket of systemd's must have been passed, unless this process gets none.
        Other mistakes in the description are found all the same.
        """
        self.write(runFile(ports='[ports.a]\nlisten = "systemd:domain=INET:name=a"'))
        (line,) = self.refused(self.path)
        self.assertIn("ports.a.listen: 'systemd:domain=INET:name=a' is not among", line)
        settings = load(self.path, hasSockets=False)
        self.assertEqual(settings.listener.listen, ("a=systemd:domain=INET:name=a",))
        self.write(runFile(ports='[ports.a]\nlisten = "systemd:domain=INET:nme=a"'))
        self.assertRaises(WrongFile, load, self.path, hasSockets=False)
        self.write(runFile(f'{TOP}\nmetrics = "systemd:domain=INET:name=a"'))
        (line,) = self.refused(self.path)
        self.assertIn("metrics: 'systemd:domain=INET:name=a' is not among", line)
        settings = load(self.path, hasSockets=False)
        self.assertEqual(settings.listener.metrics, "systemd:domain=INET:name=a")

    def test_metrics(self) -> None:
        """
        The monitor has another path than the channel and the control socket.
        """
        for suffix, role in (
            ("", "the channel's path, where workers connect"),
            (".ctl", "the control socket"),
        ):
            path = f"/tmp/portlisten-none.sock{suffix}"
            self.write(runFile(f'{TOP}\nmetrics = "unix:{path}"'))
            (line,) = self.refused(self.path)
            self.assertTrue(
                line.endswith(
                    f"metrics: {path} is both a port and {role}: give one of them"
                    " another path"
                ),
                line,
            )
        for metrics in ("9100", "unix:/tmp/portlisten-none.monitor"):
            self.write(runFile(f'{TOP}\nmetrics = "{metrics}"'))
            self.assertEqual(load(self.path).listener.metrics, metrics)

    def test_writers(self) -> None:
        """
        Only if root reads the file does it matter who may write to it.
        """
        os.chmod(self.path, 0o666)
        if os.geteuid() == 0:
            (line,) = self.refused(self.path)
            self.assertIn("can be written to by every user", line)
        else:
            load(self.path)


class ChannelTests(FilesTestCase):
    """
    Tests for L{channelOf}.
    """

    def test_file(self) -> None:
        """
        A file gives its path, even if the rest of it is wrong.
        """
        self.assertEqual(channelOf(self.path), ("/tmp/portlisten-none.sock", None))
        self.write('path = "/s"\ncontrol = "/c"\nother = 3')
        os.chmod(self.path, 0o666)
        self.assertEqual(channelOf(self.path), ("/s", "/c"))

    def test_path(self) -> None:
        """
        Everything else is a path.
        """
        path = os.path.relpath(os.path.join(self.folder, "s"))
        self.assertEqual(channelOf(path), (path, None))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            self.assertEqual(channelOf(path), (path, None))
        self.assertEqual(channelOf("a\0"), ("a\0", None))

    def test_wrong(self) -> None:
        """
        If neither is possible, an error says why.
        """
        for argument, reason in [
            (self.folder, "is a folder: give the file"),
            (self.folder + "/x.toml", "does not exist"),
        ]:
            error = self.assertRaises(ControlError, channelOf, argument)
            self.assertIn(reason, str(error))
        for text, reason in [
            ("x = y", f"{self.path}: line 1, column 5: this is no TOML"),
            ("x = 1", f"{self.path}: path: it is missing"),
            ("#" * (MAXIMUM_SIZE + 1), "longer than"),
        ]:
            self.write(text)
            error = self.assertRaises(ControlError, channelOf, self.path)
            self.assertIn(reason, str(error))
