"""
Tests for L{portlisten._commands.execute}: the command line, and with a listener made
by hand what the program finds.
"""

from __future__ import annotations

import contextlib
import grp
import io
import json
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import SkipTest, mock

from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase

from portlisten import __version__, _compiled, _kernel
from portlisten._commands import execute, portlisten
from portlisten._model import InternetAddress, Kind, Port
from portlisten._wire.codec import FROM_WORKER, Decoder, encode
from portlisten._wire.frames import (
    Bye,
    Frame,
    Listener,
    ListenerHello,
    WorkerHello,
)
from portlisten._worker.joining import receive
from portlisten.errors import ProtocolError
from tests.support.descriptors import watchDescriptors
from twisted import copyright

WEB = Port(0, InternetAddress("TCP", "127.0.0.1", 80), "http", Kind.LISTENER)
DNS = Port(1, InternetAddress("UDP", "127.0.0.1", 53), "", Kind.DATAGRAMS)
MAIL = Port(2, InternetAddress("TCP", "127.0.0.1", 25), "smtp")
HELLO = ListenerHello(8, (WEB, DNS, MAIL))

#: Says what a program finds, in a line.
PROGRAM = """
import json, os, signal, socket, sys
number = int(os.environ["LISTEN_FDS"])
kinds = []
for descriptor in range(3, 3 + number):
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        kinds.append([sock.type, sock.getsockname()])
print(json.dumps({
    "pid": os.getpid() == int(os.environ["LISTEN_PID"]),
    "names": os.environ["LISTEN_FDNAMES"],
    "kinds": kinds,
    "arguments": sys.argv[1:],
    "open": [each for each in range(50) if os.path.exists(f"/proc/self/fd/{each}")],
}))
"""


#: Says which user a program is.
USER = """
[ $LISTEN_PID = $$ ] && echo right pid
echo "$HOME $USER $LOGNAME ${SHELL-none}"
grep -E '^(Uid|Gid|Groups|CapPrm|CapEff):' /proc/self/status
"""

GROUPED = ["--user=daemon", "--group=mail"]


class ListenerByHand:
    """
    Binds a path, and speaks to one worker at a time.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()

    def speak(
        self, *frames: Frame, sockets: Sequence[socket.socket] = ()
    ) -> socket.socket:
        """
        Accept, and say something.
        """
        self._socket.settimeout(60)
        sock, _ = self._socket.accept()
        descriptors = [each.fileno() for each in sockets]
        socket.send_fds(sock, [b"".join(map(encode, frames))], descriptors)
        return sock

    def close(self) -> None:
        """
        Go.
        """
        self._socket.close()


class ExecuteTestCase(SynchronousTestCase):
    """
    A path, and sockets to share.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        folder = mkdtemp(prefix="exec.")
        self.addCleanup(FilePath(folder).remove)
        self.path = os.path.join(folder, "path")
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.addCleanup(self.tcp.close)
        self.addCleanup(self.udp.close)
        self.frames = (
            HELLO,
            # Not in the order of the ports.
            Listener(1, _kernel.cookie(self.udp)),
            Listener(0, _kernel.cookie(self.tcp)),
        )

    def listen(self) -> ListenerByHand:
        """
        Start a listener.
        """
        listener = ListenerByHand(self.path)
        self.addCleanup(listener.close)
        return listener

    def run_(self, *arguments: str) -> subprocess.Popen[bytes]:
        """
        Run C{portlisten exec}.
        """
        process = subprocess.Popen(
            [
                # A shell's background jobs ignore it, and these may be in one.
                *("env", "--default-signal=INT"),
                *(sys.executable, "-m", "portlisten", "exec", *arguments),
            ],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process


class CommandLineTests(ExecuteTestCase):
    """
    Mistakes on the command line: one line, and a code.
    """

    def assertRefused(self, arguments: Sequence[str], code: int, reason: str) -> None:
        """
        Expect that.
        """
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            exit = self.assertRaises(SystemExit, portlisten.main, arguments)
        if isinstance(exit.code, str):
            said.write(exit.code)
            exit.code = 1
        self.assertEqual(exit.code, code)
        self.assertIn(reason, said.getvalue())
        self.assertEqual(len(said.getvalue().splitlines()), 1)
        self.assertTrue(said.getvalue().startswith("portlisten"))

    def test_usage(self) -> None:
        """
        There are too few arguments, or wrong ones.
        """
        for arguments, reason in [
            ([], "expected a command, which is run, check, status, restart, reload,"),
            (["--listen=80", "./s"], "the listener is 'twistd portlisten'"),
            (["exec", "--", "path"], "got 1 arguments"),
            (["exec", "path", "--"], "got 1 arguments"),
            (["exec", "path", "--name", "x", "true"], "--name stands after path"),
            (["exec", "--", "--name", "true"], "PATH would be '--name'"),
            (["exec"], "got 0 arguments (see 'portlisten exec --help')"),
            (["exec", "path"], "expected PATH and PROGRAM, got 1 arguments"),
            (["exec", "--nonsense", "path", "true"], "nonsense"),
            (["exec", "--name", "a b", "path", "true"], "'a b' is no name"),
            (
                ["exec", "--listener-user", "nosuch", "p", "true"],
                "the user 'nosuch' does not exist",
            ),
            (["exec", "--timeout", "x", "path", "true"], "'x' is not a number"),
        ]:
            self.assertRefused(arguments, 1, reason)

    def test_dashes(self) -> None:
        """
        C{--} may come between PATH and PROGRAM, and what follows is PROGRAM's.
        """
        for arguments in (
            ["path", "--", "true", "--name"],
            ["--", "path", "--", "true", "--name"],
            ["path", "true", "--name"],
        ):
            options = execute.ExecOptions()
            options.parseOptions(arguments)
            self.assertEqual(options["path"], "path")
            self.assertEqual(options["program"], ["true", "--name"])

    def test_user(self) -> None:
        """
        C{--user} and C{--group} take names and numbers, and end where PATH begins.
        """
        options = execute.ExecOptions()
        options.parseOptions(
            ["--user", "daemon", "--group=0", "path", "--", "true", "--user", "x"]
        )
        settings = options.settings()
        self.assertEqual(settings.user, pwd.getpwnam("daemon").pw_uid)
        self.assertEqual(settings.group, 0)
        self.assertEqual(settings.program, ("true", "--user", "x"))

    def test_notRoot(self) -> None:
        """
        Only root can become another user, and that is said before a listener is waited
        for.
        """
        self.patch(os, "getuid", lambda: 12345)
        uid = pwd.getpwnam("daemon").pw_uid
        self.assertRefused(
            ["exec", "--timeout=0", f"--user={uid}", self.path, "true"],
            1,
            f"becoming user {uid} needs root",
        )

    def test_forks(self) -> None:
        """
        A program that starts the server as a child is warned of, with what to say
        instead.
        """
        for program, instead in (
            ("/usr/sbin/runuser", "say --user"),
            ("su", "say --user"),
            ("npm", "run the server itself"),
            ("env", None),
            ("true", None),
        ):
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                self.assertRaises(
                    SystemExit,
                    portlisten.main,
                    ["exec", "--timeout=0", "/no/such/path", program, "x"],
                )
            warned = "starts the server as a child" in said.getvalue()
            self.assertEqual(warned, instead is not None)
            self.assertIn(instead or "", said.getvalue())

    def test_version(self) -> None:
        """
        It says which portlisten and which Twisted it is.
        """
        for arguments in (["--version"], ["exec", "--version"]):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exit = self.assertRaises(SystemExit, portlisten.main, arguments)
            self.assertEqual(exit.code, 0)
            self.assertEqual(
                said.getvalue(),
                f"portlisten {__version__} ({_compiled.describe()}), with Twisted"
                f" {copyright.version}\n",
            )

    def test_program(self) -> None:
        """
        There is no such program, or it is none; the codes are a shell's.
        """
        self.assertRefused(
            ["exec", self.path, "nosuch"], 127, "the program 'nosuch' does not exist"
        )
        self.assertRefused(["exec", self.path, "/no/such"], 127, "does not exist")
        text = self.path + ".txt"
        Path(text).write_text("hello")
        self.assertRefused(["exec", self.path, text], 126, "is not executable")

    def test_path(self) -> None:
        """
        The path can never be a channel's.
        """
        self.assertRefused(["exec", "/dev/null", "true"], 1, "is no socket")
        self.assertRefused(
            ["exec", "/no/such/path", "true"], 1, "the folder '/no/such' of"
        )

    def test_timeout(self) -> None:
        """
        There is no listener for too long.
        """
        self.assertRefused(
            ["exec", "--timeout", "0", self.path, "true"],
            1,
            f"no listener at {self.path} within 0 s: No such file or directory",
        )

    def test_programs(self) -> None:
        """
        The help says which programs can be run, and that nothing may fork.
        """
        help = str(execute.ExecOptions())
        for word in ("LISTEN_FDS", "LISTEN_PID", "runuser", "npm start", "setpriv"):
            self.assertIn(word, help)

    def test_help(self) -> None:
        """
        The help teaches.
        """
        for arguments, taught in [
            (["--help"], "exec"),
            (["exec", "--help"], "uvicorn --fd 3"),
            (["exec", "--help"], "portlisten exec [options] PATH PROGRAM"),
        ]:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exit = self.assertRaises(SystemExit, portlisten.main, arguments)
            self.assertEqual(exit.code, 0)
            self.assertIn(taught, said.getvalue())


class ReceiveTests(ExecuteTestCase):
    """
    Tests for L{execute.receive}.
    """

    def receive(
        self,
        *frames: Frame | bytes,
        sockets: Sequence[socket.socket] = (),
        names: Sequence[str] = (),
        end: bool = False,
        **options: Any,
    ) -> list[tuple[Port, int]] | None:
        """
        Receive what a listener says.

        @param end: whether it then goes.
        @param options: for L{receive}.
        """
        theirs, ours = socket.socketpair()
        with theirs, ours:
            data = b"".join(
                each if isinstance(each, bytes) else encode(each) for each in frames
            )
            socket.send_fds(theirs, [data], [each.fileno() for each in sockets])
            if end:
                theirs.shutdown(socket.SHUT_WR)
            try:
                return receive(ours, names, **options)
            finally:
                decoder = Decoder(FROM_WORKER)
                (hello,) = decoder.feed(theirs.recv(1000))
                assert isinstance(hello, WorkerHello)
                self.hello = hello

    def test_received(self) -> None:
        """
        What it gets is in the order of the ports, with close-on-exec.
        """
        received = self.receive(*self.frames, sockets=[self.tcp, self.udp])
        assert received is not None
        self.assertEqual([port for port, _ in received], [WEB, DNS])
        for (_, descriptor), sock in zip(received, [self.tcp, self.udp], strict=True):
            self.assertTrue(os.path.sameopenfile(descriptor, sock.fileno()))
            self.assertFalse(os.get_inheritable(descriptor))
            os.close(descriptor)
        takes = frozenset([Kind.LISTENER, Kind.DATAGRAMS])
        self.assertEqual(self.hello, WorkerHello(1, (), takes))

    def test_label(self) -> None:
        """
        The listener hears the label.
        """
        received = self.receive(
            *self.frames, sockets=[self.tcp, self.udp], label="web-1"
        )
        for _, descriptor in received or []:
            os.close(descriptor)
        self.assertEqual(self.hello.label, "web-1")

    def test_silent(self) -> None:
        """
        If no HELLO comes, it waits on for as long as it may.
        """
        theirs, ours = socket.socketpair()
        answers = [True, True, False]
        with theirs, ours:
            ours.settimeout(0.01)
            self.assertRaises(
                TimeoutError, receive, ours, (), waitsOn=lambda: answers.pop(0)
            )
            self.assertEqual(answers, [])
            # After HELLO, the sockets must come in time.
            ours.settimeout(0.01)
            theirs.sendall(encode(HELLO))
            self.assertRaises(TimeoutError, receive, ours, (), waitsOn=self.fail)

    def test_some(self) -> None:
        """
        Or those of a name.
        """
        frames = (HELLO, Listener(0, _kernel.cookie(self.tcp)))
        received = self.receive(*frames, sockets=[self.tcp], names=["http"])
        assert received is not None
        self.assertEqual([port for port, _ in received], [WEB])
        os.close(received[0][1])
        self.assertEqual(self.hello.names, ("http",))

    def test_trouble(self) -> None:
        """
        A listener that has not what is asked for, says farewell, or breaks the
        protocol; nothing stays open.
        """
        group = Port(0, WEB.address, "http", Kind.GROUP)
        for frames, names, reason in [
            ((HELLO,), ["ftp"], "no port is called 'ftp' here"),
            ((HELLO,), ["smtp"], "with --share"),
            ((ListenerHello(8, (group,)),), (), "has reuseport"),
            ((ListenerHello(8, (MAIL,)),), (), "with --share"),
            ((HELLO, Bye("enough")), (), "the listener says: enough"),
            ((Bye("go away"),), (), "the listener says: go away"),
            ((HELLO, Listener(0, 4711)), (), "got lost on its way"),
            ((HELLO, Listener(9, _kernel.cookie(self.tcp))), (), "was not wanted"),
            ((b"nonsense" * 8,), (), "unknown type"),
        ]:
            error = self.assertRaises(
                ProtocolError,
                self.receive,
                *frames,
                sockets=[self.tcp],
                names=names,
            )
            self.assertIn(reason, str(error))

    def test_gone(self) -> None:
        """
        One that goes without a word may be back.
        """
        self.assertIsNone(
            self.receive(*self.frames[:2], sockets=[self.udp, self.tcp], end=True)
        )

    def test_useless(self) -> None:
        """
        What is no socket to share is closed.
        """
        left, right = socket.socketpair()
        with left, right:
            self.assertIsNone(self.receive(HELLO, sockets=[left], end=True))


class ProgramTests(ExecuteTestCase):
    """
    What a program finds, in a process of its own.
    """

    def found(self, process: subprocess.Popen[bytes]) -> dict[str, object]:
        """
        What a program found.
        """
        out, err = process.communicate(timeout=60)
        self.said = err.decode()
        self.assertEqual(process.returncode, 0, self.said)
        found: dict[str, object] = json.loads(out)
        return found

    def assertNotExecutable(self, content: str, reason: str) -> None:
        """
        Expect that a file cannot be run, and why.
        """
        file = Path(self.path + ".file")
        file.write_text(content)
        file.chmod(0o755)
        listener = self.listen()
        process = self.run_(self.path, str(file))
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 126)
        self.assertIn(reason, err.decode().splitlines()[-1])

    def test_sockets(self) -> None:
        """
        It has the sockets from 3 on, then the channel and nothing else, and knows
        what they are; and its arguments are its own.
        """
        listener = self.listen()
        process = self.run_(
            self.path, sys.executable, "-c", textwrap.dedent(PROGRAM), "--fd", "3"
        )
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            found = self.found(process)
        self.assertEqual(
            found,
            {
                "pid": True,
                "names": "http:unknown",
                "kinds": [
                    [socket.SOCK_STREAM, list(self.tcp.getsockname())],
                    [socket.SOCK_DGRAM, list(self.udp.getsockname())],
                ],
                "arguments": ["--fd", "3"],
                "open": [0, 1, 2, 3, 4, 5],
            },
        )
        self.assertEqual(
            self.said.splitlines(),
            [
                "portlisten exec: http=tcp:127.0.0.1:80 is descriptor 3",
                "portlisten exec: udp:127.0.0.1:53 is descriptor 4",
            ],
        )

    def test_label(self) -> None:
        """
        The listener knows the program by the label of the environment.
        """
        listener = self.listen()
        with mock.patch.dict(os.environ, PORTLISTEN_LABEL="web-1"):
            process = self.run_(self.path, "true")
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]) as sock:
            (hello,) = Decoder(FROM_WORKER).feed(sock.recv(1000))
            process.communicate(timeout=60)
        assert isinstance(hello, WorkerHello)
        self.assertEqual((hello.label, process.returncode), ("web-1", 0))

    def test_patient(self) -> None:
        """
        A program waits for a listener that does not answer, and keeps its place.
        """
        listener = self.listen()
        self.patch(execute, "ANSWER_SECONDS", 0.05)
        lines: list[str] = []
        self.patch(
            execute, "_log", lambda event, message, **fields: lines.append(message)
        )
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.append(execute.obtain(self.path, (), (), 20))
        )
        thread.start()
        try:
            while not lines:
                time.sleep(0.02)
            time.sleep(0.3)
            with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
                thread.join(20)
        finally:
            thread.join(20)
        ((sock, received),) = found
        sock.close()
        for _, descriptor in received:
            os.close(descriptor)
        self.assertEqual(
            lines,
            [f"waiting for the listener at {self.path}: no HELLO has come yet"],
        )

    def test_badLabel(self) -> None:
        """
        A label that nobody may have is an error.
        """
        self.listen()
        with mock.patch.dict(os.environ, PORTLISTEN_LABEL="-"):
            _, err = self.run_(self.path, "true").communicate(timeout=60)
        self.assertIn("portlisten exec: PORTLISTEN_LABEL: '-' is no", err.decode())

    def become(self, *options: str) -> tuple[list[str], _kernel.Credentials]:
        """
        Run a program as a user.

        @return: what it says of its user, and what the listener sees.
        """
        os.chmod(os.path.dirname(self.path), 0o755)
        listener = self.listen()
        os.chmod(self.path, 0o666)
        process = self.run_(*options, self.path, "--", "sh", "-c", USER)
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]) as sock:
            seen = _kernel.credentials(sock)
            out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(seen.pid, process.pid)
        return out.decode().splitlines(), seen

    def test_user(self) -> None:
        """
        It is the user that was asked for, for good, with the user's groups and
        variables; and the listener sees that user.
        """
        if os.getuid() != 0:
            raise SkipTest("becoming another user needs root")
        entry = pwd.getpwnam("daemon")
        mail = grp.getgrnam("mail").gr_gid
        for options, gid in ((["--user=daemon"], entry.pw_gid), (GROUPED, mail)):
            groups = os.getgrouplist("daemon", gid)
            said, seen = self.become(*options)
            self.assertEqual(
                said,
                [
                    "right pid",
                    f"{entry.pw_dir} daemon daemon none",
                    "\t".join(["Uid:", *[str(entry.pw_uid)] * 4]),
                    "\t".join(["Gid:", *[str(gid)] * 4]),
                    f"Groups:\t{' '.join(map(str, sorted(groups)))} ",
                    "CapPrm:\t0000000000000000",
                    "CapEff:\t0000000000000000",
                ],
            )
            self.assertEqual((seen.uid, seen.gid), (entry.pw_uid, gid))
            self.assertEqual(sorted(seen.groups), sorted(groups))
            os.unlink(self.path)

    def test_groupAlone(self) -> None:
        """
        With a group alone, it has that group and no other, and the variables stay.
        """
        if os.getuid() != 0:
            raise SkipTest("taking another group needs root")
        mail = grp.getgrnam("mail").gr_gid
        said, seen = self.become("--group=mail")
        self.assertIn(f"Groups:\t{mail} ", said)
        self.assertEqual((seen.uid, seen.gid, seen.groups), (0, mail, (mail,)))
        self.assertTrue(said[1].startswith(os.environ.get("HOME", "")))

    def test_pipe(self) -> None:
        """
        A program that is not Python's dies of SIGPIPE as it should.
        """
        listener = self.listen()
        process = self.run_(self.path, "grep", "SigIgn", "/proc/self/status")
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            out, _ = process.communicate(timeout=60)
        ignored = int(out.split()[1], 16)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            self.assertFalse(ignored & 1 << number - 1)

    def test_channel(self) -> None:
        """
        The listener knows of the program for as long as it lives.
        """
        listener = self.listen()
        process = self.run_(self.path, "cat")
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]) as channel:
            channel.settimeout(20)
            self.assertTrue(channel.recv(1000))
            process.wait(30)
            self.assertEqual(channel.recv(1000), b"")

    def test_waits(self) -> None:
        """
        It waits for a listener, which may go in the middle, and says so once.
        """
        process = self.run_(self.path, "true")
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        self.assertIn(f"waiting for a listener at {self.path}: No such file", line)
        listener = self.listen()
        listener.speak(HELLO).close()
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertIn("it closed the channel without a reason", err.decode())

    def test_refused(self) -> None:
        """
        What the listener has not, is said in a line.
        """
        listener = self.listen()
        process = self.run_("--name=ftp", self.path, "true")
        with listener.speak(HELLO):
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        (line,) = err.decode().splitlines()
        self.assertIn("no port is called 'ftp' here, only http, smtp", line)

    def test_noProgram(self) -> None:
        """
        A file that only looks like a program.
        """
        self.assertNotExecutable("\0 no program", "Exec format error")

    def test_silent(self) -> None:
        """
        A listener that does not answer is not waited for longer than was said.
        """
        self.listen()
        process = self.run_("--timeout=0.5", self.path, "true")
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("within 0.5 s: it does not answer", err.decode())

    def test_noRoom(self) -> None:
        """
        There may be no room for so many descriptors.
        """
        listener = self.listen()
        process = self.run_(self.path, "true")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (7, 7))
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("raise 'ulimit -n'", err.decode().splitlines()[-1])
        self.assertNotIn("Traceback", err.decode())

    def test_noInterpreter(self) -> None:
        """
        A script whose interpreter is missing is there all the same.
        """
        self.assertNotExecutable("#!/no/such/interpreter\n", "the interpreter")

    def test_deafTerminal(self) -> None:
        """
        The program runs even if no terminal takes the messages.
        """
        listener = self.listen()
        with open("/dev/full", "w") as full:
            process = subprocess.Popen(
                [sys.executable, "-m", "portlisten", "exec", self.path, "echo", "ran"],
                cwd=Path(__file__).parents[3],
                stdout=subprocess.PIPE,
                stderr=full,
            )
        with listener.speak(*self.frames, sockets=[self.tcp, self.udp]):
            out, _ = process.communicate(timeout=60)
        self.assertEqual(out, b"ran\n")

    def test_interrupt(self) -> None:
        """
        It can be interrupted while it waits.
        """
        process = self.run_(self.path, "true")
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (130, b""))
