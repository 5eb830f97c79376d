"""
Files of C{portlisten run} with mistakes: C{portlisten check} names each, and starts
nothing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ports import freePort
from tests.support.programs import pythonFor
from tests.support.run_files import (
    COMMAND,
    GROUP,
    LISTENER,
    PATH,
    PORTS,
    TOP,
    USER,
    Checker,
    runFile,
)
from tests.support.tracing import canTrace

TIMEOUT_SECONDS = 120


def run(
    file: Path | str, *before: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run C{portlisten check} on a file.

    @param before: the words before the command.
    """
    return subprocess.run(
        [*before, sys.executable, "-m", "portlisten", "check", str(file)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    """
    Runs the command without loading it anew each time.
    """
    with Checker() as made:
        yield made


def written(folder: Path, text: str | bytes) -> Path:
    """
    Write a file in a folder.
    """
    file = folder / "web.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(0o644)
    return file


def problems(
    folder: Path,
    text: str | bytes,
    check: Callable[[Path], subprocess.CompletedProcess[str]] = run,
) -> list[str]:
    """
    Check a file that has mistakes, and that nothing is started.

    @param check: runs the command.
    @return: the mistakes, each with its key.
    """
    file = written(folder, text)
    found = check(file)
    assert found.returncode == 1, found
    assert found.stdout == ""
    assert os.listdir(folder) == [file.name]
    lines = found.stderr.splitlines()
    assert lines
    for line in lines:
        assert line.startswith(f"{file}: "), found.stderr
    return [line.removeprefix(f"{file}: ") for line in lines]


#: For each: the text, the only key that is wrong, and words about what is right.
WRONG: dict[str, tuple[str | bytes, str, list[str]]] = {
    "no path": (runFile(f"{USER}\n{GROUP}"), "path", ["missing", 'path = "/run']),
    "relative path": (runFile(f'path = "s"\n{USER}'), "path", ["'s'", "/run/"]),
    "path is a number": (runFile(f"path = 3\n{USER}"), "path", ["3", "quotes"]),
    "path with a zero byte": (
        runFile(f'path = "/tmp/\\u0000"\n{USER}'),
        "path",
        ["zero byte"],
    ),
    "path too long": (
        runFile(f'path = "/tmp/{"x" * 110}"\n{USER}\n{GROUP}'),
        "path",
        ["115 bytes", "107", "shorter"],
    ),
    "path in no folder": (
        runFile(f'path = "/tmp/none/s"\n{USER}\n{GROUP}'),
        "path",
        ["'/tmp/none'", "does not exist", "make it"],
    ),
    "path is a file": (
        runFile(f'path = "/etc/passwd"\n{USER}\n{GROUP}'),
        "path",
        ["no socket"],
    ),
    "unknown key": (runFile(f"{TOP}\npatince = 3"), "patince", ["patience?"]),
    "underscore": (
        runFile(f"{TOP}\nclaim_timeout = 3"),
        "claim_timeout",
        ["claim-timeout?"],
    ),
    "strange key": (
        runFile(f'{TOP}\n"a\\nb" = 3'),
        '"a\\nb"',
        ["no such key", "patience"],
    ),
    "key of workers at the top": (
        runFile(f"{TOP}\nmax-age = 3"),
        "max-age",
        ["[workers.NAME]"],
    ),
    "key of the top in workers": (
        runFile(also="patience = 3"),
        "workers.web.patience",
        ["above the first [table]"],
    ),
    "mode as a number": (runFile(f"{TOP}\nmode = 660"), "mode", ['"0660"']),
    "no mode": (runFile(f'{TOP}\nmode = "0888"'), "mode", ["'0888'", "0660"]),
    "patience": (runFile(f'{TOP}\npatience = "x"'), "patience", ["'x'", "0.001"]),
    "infinite": (runFile(f"{TOP}\ngrace = inf"), "grace", ["inf", "at least 0"]),
    "no number": (runFile(f"{TOP}\nqueue = true"), "queue", ["true is no number"]),
    "no whole number": (
        runFile(f"{TOP}\nwindow = 1.5"),
        "window",
        ["whole number from 1 to 128"],
    ),
    "balance": (
        runFile(f'{TOP}\nbalance = "most"'),
        "balance",
        ["least, round-robin"],
    ),
    "date": (runFile(f"{TOP}\nretry = 2020-01-01"), "retry", ["2020-01-01"]),
    "unknown group": (
        runFile(f'{PATH}\n{USER}\ngroup = "nobodys"'),
        "group",
        ["'nobodys' does not exist"],
    ),
    "unknown user": (
        runFile(f'{PATH}\n{GROUP}\nuser = "nobodys"'),
        "user",
        ["'nobodys' does not exist"],
    ),
    "user is a fraction": (
        runFile(f"{TOP}\nallow-user = [1.5]"),
        "allow-user",
        ["1.5 is no user", "name in quotes"],
    ),
    "relative control": (runFile(f'{TOP}\ncontrol = "c"'), "control", ["'c'"]),
    "control is path": (
        runFile(f'{TOP}\ncontrol = "/tmp/../tmp/portlisten-none.sock"'),
        "control",
        ["is path as well", "another"],
    ),
    "no ports": (runFile(ports=""), "ports", ["[ports.http]", "listen = 80"]),
    "no table of ports": (runFile(f"{TOP}\nports = 80", ""), "ports", ["[ports.NAME]"]),
    "port in no table": (
        runFile(ports="[ports]\nhttp = 80"),
        "ports.http",
        ["[ports.NAME]"],
    ),
    "name of ports": (
        runFile(ports='[ports."a b"]\nlisten = 80'),
        'ports."a b"',
        ["letters, digits"],
    ),
    "listen and share": (
        runFile(ports="[ports.http]\nlisten = 80\nshare = 81"),
        "ports.http",
        ["both", "one of the two"],
    ),
    "neither": (runFile(ports="[ports.http]"), "ports.http", ["no port", "listen"]),
    "no port number": (
        runFile(ports="[ports.http]\nlisten = 65536"),
        "ports.http.listen",
        ["0 to 65535"],
    ),
    "named description": (
        runFile(ports='[ports.http]\nlisten = "http=80"'),
        "ports.http.listen",
        ["write '80'"],
    ),
    "bad description": (
        runFile(ports='[ports.http]\nlisten = "127.0.0.1:80"'),
        "ports.http.listen",
        ["tcp:80:interface=127.0.0.1"],
    ),
    "UDP that is listened on": (
        runFile(ports='[ports.dns]\nlisten = "udp:53"'),
        "ports.dns.listen",
        ["use share"],
    ),
    "no description": (
        runFile(ports="[ports.http]\nlisten = [[80]]"),
        "ports.http.listen",
        ["a list is no port"],
    ),
    "empty list": (
        runFile(ports="[ports.http]\nlisten = []"),
        "ports.http.listen",
        ["empty"],
    ),
    "port twice": (
        runFile(ports="[ports.a]\nlisten = 80\n[ports.b]\nshare = 80"),
        "ports.b.share",
        ["ports.a.listen as well"],
    ),
    "port at path": (
        runFile(ports='[ports.a]\nlisten = "unix:/tmp/portlisten-none.sock"'),
        "ports.a.listen",
        ["is both a port and", "another path"],
    ),
    "table twice": (
        runFile(ports=f"{PORTS}\n{PORTS}"),
        "line 6, column 12",
        ["twice", "once"],
    ),
    "no TOML": (b"path = /run\n", "line 1, column 8", ["quotes"]),
    "no UTF-8": (b"path = 3\n# \xff\n", "line 2", ["UTF-8"]),
    "no command": (
        runFile(workers=f"[workers.web]\n{USER}"),
        "workers.web.command",
        ["missing", 'command = ["twistd"'],
    ),
    "command as text": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = "sleep 3"'),
        "workers.web.command",
        ['write ["sleep", "3"]'],
    ),
    "empty command": (
        runFile(workers=f"[workers.web]\n{USER}\ncommand = []"),
        "workers.web.command",
        ["empty", "the first word"],
    ),
    "placeholder": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = ["sleep", "{{pth}}"]'),
        "workers.web.command",
        ["{pth}", "did you mean {path}?", "{label} and {name}"],
    ),
    "number in a command": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = ["sleep", 3]'),
        "workers.web.command",
        ["3 is no text", "quotes"],
    ),
    "no program": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = ["slep", "{{path}}"]'),
        "workers.web.command",
        ["'slep' does not exist", os.path.dirname(sys.executable), "whole path"],
    ),
    "no file": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = ["/bin/slep", "{{path}}"]'),
        "workers.web.command",
        ["'/bin/slep' does not exist"],
    ),
    "not executable": (
        runFile(workers=f'[workers.web]\n{USER}\ncommand = ["/etc/passwd"]'),
        "workers.web.command",
        ["/etc/passwd is not executable"],
    ),
    "count": (runFile(also="count = 0"), "workers.web.count", ["from 1 to 255"]),
    "count in words": (
        runFile(also='count = "all"'),
        "workers.web.count",
        ["'all'", "cores"],
    ),
    "too many": (
        runFile(also=f"count = 200\n[workers.b]\n{COMMAND}\n{USER}\ncount = 200"),
        "workers",
        ["400", "255"],
    ),
    "memory": (
        runFile(also='max-memory = "512X"'),
        "workers.web.max-memory",
        ["'512X'", "512M"],
    ),
    "little memory": (
        runFile(also="max-memory = 512"),
        "workers.web.max-memory",
        ["at least 1M"],
    ),
    "age": (runFile(also='max-age = "3 d"'), "workers.web.max-age", ["'3 d'", "12h"]),
    "umask": (runFile(also="umask = 27"), "workers.web.umask", ['"0027"']),
    "files": (runFile(also="open-files = 3"), "workers.web.open-files", ["from 64"]),
    "too many files": (
        runFile(also="open-files = 2147483647"),
        "workers.web.open-files",
        ["give at most"],
    ),
    "no folder": (
        runFile(also='folder = "/none"'),
        "workers.web.folder",
        ["/none does not exist"],
    ),
    "label": (
        runFile(also='environment = {PORTLISTEN_LABEL = "x"}'),
        "workers.web.environment.PORTLISTEN_LABEL",
        ["gives each worker its label"],
    ),
    "sockets": (
        runFile(also='environment = {LISTEN_FDS = "1"}'),
        "workers.web.environment.LISTEN_FDS",
        ["systemd"],
    ),
    "variable": (
        runFile(also='environment = {"a=b" = "1"}'),
        'workers.web.environment."a=b"',
        ["without '='"],
    ),
    "name": (
        runFile(workers=f"[workers.-a]\n{COMMAND}\n{USER}"),
        "workers.-a",
        ["letters, digits", "such as web"],
    ),
    "name like a label": (
        runFile(also=f"[workers.web-1]\n{COMMAND}\n{USER}"),
        "workers.web-1",
        ["another name"],
    ),
    "table in a list": (
        runFile(workers=f"[[workers.web]]\n{COMMAND}\n{USER}"),
        "workers.web",
        ["single brackets"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(checker: Checker, folder: Path, name: str) -> None:
    """
    A mistake is named with its key and with what is right, and nothing else is.
    """
    text, key, words = WRONG[name]
    found = problems(folder, text, checker.check)
    assert len(found) == 1, found
    assert found[0].startswith(f"{key}: ")
    for word in words:
        assert word in found[0]


def test_allAtOnce(folder: Path) -> None:
    """
    All mistakes of a file are reported together.
    """
    text = f"""
{USER}
patince = 3
mode = 3
allow-user = ["nobodys", "nobodyz"]
[ports.http]
listen = [99999, "http=80"]
[ports.".x"]
share = 80
[workers.web]
command = ["slep", "{{pth}}", "{{lbel}}"]
count = 0
environment = {{LISTEN_FDS = "1", A = 1}}
{USER}
[workers.other]
command = ["slep"]
{USER}
"""
    keys = sorted(each.partition(": ")[0] for each in problems(folder, text))
    assert keys == sorted(
        [
            *("path", "patince", "mode", "allow-user", "allow-user"),
            *("ports.http.listen", "ports.http.listen", 'ports.".x"'),
            *("workers.web.command", "workers.web.command", "workers.web.count"),
            "workers.web.environment.LISTEN_FDS",
            *("workers.web.environment.A", "workers.other.command"),
        ]
    )


def test_unreadable(folder: Path) -> None:
    """
    What is no file, or too long, is refused.
    """
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    long = folder / "long"
    long.write_text("#" * 1024 * 1024 + "#")
    for file, words in [
        (folder / "none", "No such file"),
        (folder, "no regular file"),
        (pipe, "no regular file"),
        (long, "longer than"),
        (Path("/dev/zero"), "no regular file"),
    ]:
        found = run(file)
        assert found.returncode == 1
        (line, *_) = found.stderr.splitlines()
        assert line.startswith(f"{file}: ")
        assert words in line, line
        assert "Traceback" not in found.stderr


def test_deep(folder: Path) -> None:
    """
    A file that Python cannot parse is refused as well.
    """
    for text in ("x = " + "[" * 200_000, "x = " + "9" * 5000, "x = 99:99:99"):
        (line,) = problems(folder, text)
        assert "this is no TOML" in line or "too many brackets" in line


def test_good(folder: Path) -> None:
    """
    Without a mistake, it says what would be run.  It does not even make a socket of
    the kinds that it would bind.
    """
    port = freePort(20000, 30000)
    file = written(
        folder,
        runFile(
            top=f'path = "{folder}/s"\n{LISTENER}\n{GROUP}',
            ports=f'[ports.http]\nlisten = {port}\n[ports.dns]\nshare = "udp:53"',
            also="count = 3\nmax-memory = '1G'\nmax-age = '12h'",
        ),
    )
    trace = folder / "trace"
    before: list[str] = []
    if canTrace():
        before = ["strace", "-f", "-e", "trace=bind,listen", "-o", str(trace)]
    found = run(file, *before)
    assert found.returncode == 0, found
    assert found.stderr == ""
    words = [
        f"{folder}/s, mode 0660",
        f"{folder}/s.ctl",
        f"http  {port}: connections are handed to workers",
        "dns  udp:53: workers accept themselves",
        "web  3, user",
        f"/bin/sleep 60 {folder}/s\n",
        "memory 1G, age 12h",
    ]
    for word in words:
        assert word in found.stdout
    assert not (folder / "s").exists()
    if before:
        calls = trace.read_text()
        assert str(port) not in calls
        assert f"{folder}/s" not in calls
        assert "listen(" not in calls


def test_warnings(folder: Path) -> None:
    """
    What may be a mistake is said, and the file can be run.
    """
    file = written(folder, runFile(workers=f"[workers.web]\n{USER}\ncommand=['true']"))
    found = run(file)
    assert found.returncode == 0
    assert len(found.stderr.splitlines()) == 1
    assert f"{file}: warning: workers.web.command: it has no {{path}}" in found.stderr
    file = written(folder, runFile(workers=""))
    assert "warning: workers: the file starts no worker" in run(file).stderr


@pytest.mark.usefixtures("root")
class TestRoot:
    """
    What is checked if root runs the file.
    """

    def test_users(self, folder: Path) -> None:
        """
        Nothing runs as root, and root says as whom.
        """
        found = problems(
            folder,
            runFile(
                top=PATH,
                workers=f"[workers.a]\n{COMMAND}\n[workers.b]\n{COMMAND}\nuser = 0\n"
                f'group = "root"',
            ),
        )
        starts = {
            "user: it is missing": 'user = "portlisten"',
            "workers.a.user: it is missing": 'user = "web"',
            "workers.b.user: a worker needs no privilege": "another user",
            "workers.b.group: a worker needs no privilege": "another group",
        }
        assert len(found) == len(starts), found
        for start, word in starts.items():
            (line,) = [each for each in found if each.startswith(start)]
            assert word in line
        (line,) = problems(folder, runFile(top=f'{PATH}\nuser = "root"\n{GROUP}'))
        assert line.startswith("user: the listener needs no privilege")

    def test_access(self, folder: Path) -> None:
        """
        The workers may connect to the channel.
        """
        (line,) = problems(folder, runFile(top=f"{PATH}\n{USER}"))
        assert line.startswith("workers.web.user: nobody may not connect to /tmp/")
        assert 'group = "nogroup"' in line
        (line,) = problems(
            folder,
            runFile(
                top=f'{PATH}\nuser = "daemon"\n{GROUP}\nallow-user = ["games"]',
            ),
        )
        assert line.startswith("workers.web.user: allow-user and allow-group leave")

    def test_closedProgram(self, folder: Path) -> None:
        """
        The users of the workers may execute their programs, and their interpreters.
        """
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        shutil.copy("/bin/true", closed / "python")
        script = folder / "script"
        script.write_text(f"#!{closed}/python\n")
        script.chmod(0o755)
        file = folder / "web.toml"
        for program, words in [
            (closed / "python", "may not execute it"),
            (script, "may not execute its interpreter"),
        ]:
            written(
                folder,
                runFile(workers=f'[workers.web]\n{USER}\ncommand = ["{program}"]'),
            )
            found = run(file)
            assert found.returncode == 1, found
            (line,) = found.stderr.splitlines()
            assert line.startswith(f"{file}: workers.web.command: as user nobody: ")
            assert words in line
            assert f"{closed}, which is closed" in line

    def test_closedFolders(self, folder: Path) -> None:
        """
        The users of the workers may enter their folder, and that of the channel.
        """
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        file = written(folder, runFile(also=f'folder = "{closed}"'))
        assert f"its folder {closed} is closed to this user" in run(file).stderr
        written(folder, runFile(top=f'path = "{closed}/s"\n{USER}\n{GROUP}'))
        assert f"the folder of path, {closed}, is closed" in run(file).stderr

    def test_permissions(self, folder: Path) -> None:
        """
        Nobody else may write to the file, to its folder, or to the folder of a link
        on the way to it.
        """
        nobody = pwd.getpwnam("nobody").pw_uid
        file = written(folder, runFile())
        assert run(file).returncode == 0

        def refused(path: Path, *words: str) -> None:
            found = run(path)
            assert found.returncode == 1, (words, found)
            assert found.stdout == ""
            (line,) = found.stderr.splitlines()
            assert line.startswith(f"{path}: the file " if not foreign else f"{path}: ")
            for word in words:
                assert word in line

        foreign = False
        os.chown(file, nobody, -1)
        refused(file, f"belongs to user {nobody}", f"chown root {file}")
        os.chown(file, 0, -1)
        for mode, who in ((0o664, "its group"), (0o646, "every user")):
            file.chmod(mode)
            refused(file, f"written to by {who}", f"chmod go-w {file}")
        file.chmod(0o644)

        foreign = True
        folder.chmod(0o777)
        refused(file, "its folder can be written to by every user", str(folder))
        folder.chmod(0o755)

        theirs = folder / "theirs"
        theirs.mkdir()
        (theirs / "link").symlink_to(file)
        os.chown(theirs, nobody, -1)
        refused(theirs / "link", f"its folder belongs to user {nobody}", str(theirs))
        # A link of root's leads to a folder of theirs, and on from there.
        (folder / "conf").symlink_to(theirs)
        refused(folder / "conf" / "link", f"'chown root {theirs}'")
        (folder / "web").symlink_to("theirs/link")
        refused(folder / "web", f"'chown root {theirs}'")
        # Their link leads to a folder of root's.
        (theirs / "home").symlink_to(folder)
        refused(theirs / "home" / "web.toml", f"'chown root {theirs}'")
        # A link of root's to a file of root's is good.
        (folder / "good").symlink_to(file)
        assert run(folder / "good").returncode == 0

    def test_together(self, folder: Path) -> None:
        """
        Mistakes in the file are reported with those in its permissions.
        """
        file = written(folder, runFile(also="count = 0"))
        file.chmod(0o666)
        first, second = run(file).stderr.splitlines()
        assert "can be written to by every user" in first
        assert "workers.web.count" in second

    def test_otherUser(self, folder: Path) -> None:
        """
        A user that is not root starts nothing as another user.
        """
        words = pythonFor("nobody")
        file = written(
            folder,
            runFile(top=f"{PATH}\nuser = 0", workers="[workers.web]\n" + COMMAND)
            + 'user = "daemon"',
        )
        found = subprocess.run(
            [*words, "-m", "portlisten", "check", str(file)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd="/",
            user="nobody",
            group="nogroup",
            extra_groups=[],
            check=False,
        )
        assert found.returncode == 1
        assert "user: the listener needs no privilege" in found.stderr
        assert "workers.web.user: only root can start" in found.stderr


def test_socket(folder: Path) -> None:
    """
    A socket is no file either.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        found = run(folder / "s")
    assert found.returncode == 1
    assert "cannot read it" in found.stderr
