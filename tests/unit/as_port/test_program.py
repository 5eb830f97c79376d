"""
Tests for L{portlisten._as_port.program}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipapp
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from portlisten._as_port.program import Kind, Program, understand
from portlisten.errors import CannotRun

#: Says how a program sees itself.
SHOW = """
import json, sys
names = globals()
print(json.dumps({
    "arguments": sys.argv,
    "path": sys.path,
    "name": __name__,
    "file": names.get("__file__"),
    "spec": getattr(__spec__, "name", None),
    "package": __package__,
    "loader": type(names.get("__loader__")).__name__,
    "cached": names.get("__cached__", "missing"),
    "globals": sorted(each for each in names if each.startswith("__")),
    "builtins": type(__builtins__).__name__,
    "isMain": vars(sys.modules["__main__"]) is names,
    "optimize": sys.flags.optimize,
    "warnings": sys.warnoptions,
    "reactor": "twisted.internet.reactor" in sys.modules,
}))
"""

ROOT = Path(__file__).parents[3]


class FolderTestCase(SynchronousTestCase):
    """
    A folder with programs.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory(prefix="portlisten.")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def write(self, name: str, text: str, executable: bool = True) -> str:
        """
        Write a file.

        @return: its path.
        """
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if executable:
            path.chmod(0o755)
        return str(path)


class UnderstandTests(FolderTestCase):
    """
    Tests for L{understand}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "environ", {**os.environ, "PATH": f"{self.folder}/bin"})
        self.script = self.write("script.py", "", executable=False)

    def refusal(self, *words: str) -> tuple[str, int]:
        """
        Say why words are refused, and with which exit code.
        """
        error = self.assertRaises(CannotRun, understand, words)
        self.assertEqual(len(str(error).splitlines()), 1)
        return str(error), error.code

    def test_python(self) -> None:
        """
        The words after C{python} mean what they mean to Python.
        """
        script = self.script
        for words, kind, target, arguments, flags in [
            ("python -m a.b x -y", Kind.MODULE, "a.b", "x -y", ""),
            ("python3 -ma.b x", Kind.MODULE, "a.b", "x", ""),
            (f"{sys.executable} -c pass -m", Kind.COMMAND, "pass", "-m", ""),
            ("-u -m a", Kind.MODULE, "a", "", "-u"),
            ("-m a -u", Kind.MODULE, "a", "-u", ""),
            ("python -Bum a", Kind.MODULE, "a", "", "-Bu"),
            (
                "python -W error -Xdev -OOm a",
                Kind.MODULE,
                "a",
                "",
                "-W error -Xdev -OO",
            ),
            ("python -uX utf8 -m a", Kind.MODULE, "a", "", "-uX utf8"),
            (f"python -u {script} -u", Kind.SCRIPT, script, "-u", "-u"),
            (f"python -- {script}", Kind.SCRIPT, script, "", ""),
            (
                "python --check-hash-based-pycs never -m a",
                *(Kind.MODULE, "a", "", "--check-hash-based-pycs never"),
            ),
        ]:
            self.assertEqual(
                understand(words.split()),
                Program(kind, target, tuple(arguments.split()), tuple(flags.split())),
                words,
            )

    def test_pythonRefused(self) -> None:
        """
        Python without a program, or another Python, is refused.
        """
        for words, reason in [
            ("python", "expected a program after python: SCRIPT, -m MODULE, or -c"),
            ("python -u", "expected a program after python"),
            ("python -", "expected a program after python"),
            ("python -m", "something is missing after -m"),
            ("python2 -m a", "python2 is not Python 3."),
            ("python3.1 -m a", "python3.1 is not Python 3."),
            ("/nowhere/python3 -m a", "/nowhere/python3 is not "),
        ]:
            self.assertIn(reason, self.refusal(*words.split())[0])
        self.assertEqual(
            self.refusal("python", "/nowhere.py"),
            ("the program '/nowhere.py' does not exist", 127),
        )

    def test_scripts(self) -> None:
        """
        A script is a path, or a command in C{PATH}, and its first line names Python.
        """
        own = self.write("bin/own", f"#!{sys.executable}\n")
        flags = self.write("bin/flags", f"#!{sys.executable} -Es\n")
        env = self.write("bin/env", "#!/usr/bin/env python3\n")
        long = self.write(
            "bin/long",
            f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n",
        )
        for word, path, options in [
            (self.script, self.script, ()),
            ("own", own, ()),
            (own, own, ()),
            ("flags", flags, ("-Es",)),
            ("env", env, ()),
            ("long", long, ()),
        ]:
            expected = Program(Kind.SCRIPT, path, ("-x",), options)
            self.assertEqual(understand([word, "-x"]), expected)

    def test_here(self) -> None:
        """
        A script may be in the current folder, if its name says that it is one.
        """
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        self.assertEqual(understand(["script.py"]).target, "script.py")
        self.write("script", f"#!{sys.executable}\n")
        self.assertEqual(self.refusal("script")[1], 127)

    def test_beside(self) -> None:
        """
        A command that is not in C{PATH}, or is of another Python there, may be beside
        this Python.
        """
        beside = os.path.join(os.path.dirname(sys.executable), "twistd")
        self.assertEqual(understand(["twistd"]).target, beside)
        self.write("bin/twistd", "#!/nowhere/python3\n")
        self.assertEqual(understand(["twistd"]).target, beside)
        own = self.write("bin/twistd", f"#!{sys.executable}\n")
        self.assertEqual(understand(["twistd"]).target, own)

    def test_scriptsRefused(self) -> None:
        """
        Programs that this Python cannot run are refused, and the reason says what they
        are.
        """
        self.write("bin/shell", "#!/bin/sh\n")
        self.write("bin/node", "#!/usr/bin/env -S node -x\n")
        self.write("bin/binary", "\x7fELF")
        self.write("bin/other", "#!/opt/other/bin/python3\n")
        (self.folder / "empty").mkdir()
        for word, reason in [
            (
                "shell",
                "/bin/shell is no Python program: its first line names '/bin/sh'",
            ),
            ("node", "its first line names 'node'"),
            ("binary", "/bin/binary is no Python program: it does not begin with '#!'"),
            ("other", "run /opt/other/bin/portlisten as-port"),
            (f"{self.folder}/empty", "has no __main__.py"),
        ]:
            message, code = self.refusal(word)
            self.assertIn(reason, message)
            self.assertEqual(code, 126)
        for word in ("nothing", "/nothing/nothing"):
            self.assertEqual(
                self.refusal(word), (f"the program {word!r} does not exist", 127)
            )


class RunTests(FolderTestCase):
    """
    Each program sees itself as if Python itself ran it.
    """

    def output(self, *command: str) -> dict[str, object]:
        """
        Run a command in the folder.
        """
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        shown: dict[str, object] = json.loads(ended.stdout)
        return shown

    def same(self, words: Sequence[str], python: Sequence[str]) -> None:
        """
        Compare a program with itself.

        @param words: the words of C{as-port} after C{--}.
        @param python: the command line without C{as-port}.
        """
        own = [sys.executable, "-m", "portlisten", "as-port", "80=./socket", "--"]
        expected = self.output(*python)
        self.assertFalse(expected["reactor"])
        self.assertEqual(self.output(*own, *words), expected)

    def test_script(self) -> None:
        """
        A script, by its name.
        """
        self.write("show.py", SHOW)
        self.same(["show.py", "a", "-b"], [sys.executable, "show.py", "a", "-b"])

    def test_linked(self) -> None:
        """
        A link to an executable script, whose own folder has its modules.
        """
        self.write("real/show", f"#!{sys.executable}\n{SHOW}")
        (self.folder / "link").symlink_to("real/show")
        self.same(["./link", "a"], ["./link", "a"])

    def test_module(self) -> None:
        """
        A module, and a package.
        """
        self.write("show.py", SHOW)
        self.write("package/__main__.py", SHOW)
        for name in ("show", "package"):
            words = ["-m", name, "-m"]
            self.same(["python", *words], [sys.executable, *words])

    def test_command(self) -> None:
        """
        A text.
        """
        words = ["-c", SHOW, "a"]
        self.same(words, [sys.executable, *words])

    def test_container(self) -> None:
        """
        A folder, and an archive.
        """
        self.write("package/__main__.py", SHOW)
        zipapp.create_archive(
            self.folder / "package", self.folder / "show.pyz", sys.executable
        )
        self.same(["python", "package"], [sys.executable, "package"])
        self.same(["./show.pyz", "a"], ["./show.pyz", "a"])

    def test_flags(self) -> None:
        """
        Options of Python, by the command line and by the first line of a script.
        """
        self.write("show.py", SHOW)
        flags = ["-O", "-W", "error"]
        self.same(["python", *flags, "show.py"], [sys.executable, *flags, "show.py"])
        self.write("show", f"#!{sys.executable} -OO\n{SHOW}")
        self.same(["./show", "x"], ["./show", "x"])

    def test_exit(self) -> None:
        """
        The program's exit status is the command's.
        """
        own = [sys.executable, "-m", "portlisten", "as-port", "80=./socket", "--"]
        ended = subprocess.run(
            [*own, "-c", "raise SystemExit(3)"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual((ended.returncode, ended.stderr), (3, ""))
