"""
A Python program, as a command line names it: what it is, and how it runs in this
process as Python itself would run it.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import os
import pkgutil
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType

from portlisten.errors import CannotRun

#: The exit codes of a shell.
NOT_PYTHON = 126
NOT_FOUND = 127

#: What a name of an interpreter looks like.
_PYTHON = re.compile(r"python(\d*)(?:\.(\d+))?")

#: Python's options that have a value.
_WITH_VALUE = "WX"

#: How much of a file tells what it is, in bytes.
_HEAD = 512


class Kind(Enum):
    """
    The ways in which Python finds a program.
    """

    #: A file, or a folder or archive that has C{__main__.py}.
    SCRIPT = "script"
    #: The name of a module, as after C{-m}.
    MODULE = "module"
    #: Python itself, as after C{-c}.
    COMMAND = "command"


@dataclass(frozen=True)
class Program:
    """
    A program.

    @ivar target: the path, the module's name, or the text.
    @ivar arguments: the program's own.
    @ivar flags: the options of the interpreter.
    """

    kind: Kind
    target: str
    arguments: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """
        The words after C{python} that run this program.
        """
        before = {Kind.SCRIPT: [], Kind.MODULE: ["-m"], Kind.COMMAND: ["-c"]}
        return [*before[self.kind], self.target, *self.arguments]


def understand(words: Sequence[str]) -> Program:
    """
    Find a program by the words of its command line: C{python} with its options, the
    options alone, the path of a script, or a command in C{PATH} or beside this Python.

    @raise CannotRun: if this Python cannot run it.
    """
    first, *rest = words
    if first.startswith("-"):
        return _afterPython(words)
    if _PYTHON.fullmatch(os.path.basename(first)):
        reason = _otherPython(first)
        if reason:
            raise CannotRun(reason, NOT_PYTHON)
        return _afterPython(rest)
    path, flags = _script(first)
    return Program(Kind.SCRIPT, path, tuple(rest), flags)


def _afterPython(words: Sequence[str]) -> Program:
    """
    Understand the words after C{python}.
    """
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest.pop(0)
        if word.startswith("--"):
            flags.append(word)
            if word == "--check-hash-based-pycs" and rest:
                flags.append(rest.pop(0))
            continue
        match = re.fullmatch(r"-([^mcWX]*)(?:([mcWX])(.*))?", word, re.DOTALL)
        assert match is not None
        letters, letter, value = match[1], match[2], match[3]
        if letter and letter in _WITH_VALUE:
            flags.append(word)
            if not value and rest:
                flags.append(rest.pop(0))
            continue
        if letters:
            flags.append(f"-{letters}")
        if letter:
            if not value and not rest:
                raise CannotRun(f"something is missing after {word}")
            kind = Kind.MODULE if letter == "m" else Kind.COMMAND
            target = value or rest.pop(0)
            return Program(kind, target, tuple(rest), tuple(flags))
    if rest and rest[0] == "--":
        del rest[0]
    if not rest or rest[0] == "-":
        raise CannotRun(
            "expected a program after python: SCRIPT, -m MODULE, or -c COMMAND"
        )
    path, *rest = rest
    if not os.path.exists(path):
        raise CannotRun(f"the program {path!r} does not exist", NOT_FOUND)
    return Program(Kind.SCRIPT, path, tuple(rest), tuple(flags))


def _script(name: str) -> tuple[str, tuple[str, ...]]:
    """
    Find a script.

    @return: its path, and the options of Python in its first line.
    @raise CannotRun: if there is none that this Python can run.
    """
    reason = ""
    for path in _candidates(name):
        flags, problem = _check(path)
        if not problem:
            return path, flags
        reason = reason or problem
    if reason:
        raise CannotRun(reason, NOT_PYTHON)
    raise CannotRun(f"the program {name!r} does not exist", NOT_FOUND)


def _candidates(name: str) -> Iterator[str]:
    """
    List the files that a name may mean.
    """
    if os.sep in name or (name.endswith(".py") and os.path.exists(name)):
        if os.path.exists(name):
            yield name
        return
    beside = os.path.dirname(sys.executable)
    for folders in (os.environ.get("PATH", os.defpath), beside):
        found = shutil.which(name, path=folders)
        if found is not None:
            yield found


def _check(path: str) -> tuple[tuple[str, ...], str]:
    """
    Find out whether this Python can run a file.

    @return: the options of Python in its first line, and the reason if it cannot.
    """
    if os.path.isdir(path):
        has = os.path.exists(os.path.join(path, "__main__.py"))
        return (), "" if has else f"the folder {path} has no __main__.py"
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return (), f"cannot read {path}: {error.strerror}"
    words = _interpreter(head)
    if path.endswith((".py", ".pyz")) and not words:
        return (), ""
    if not words:
        return (), f"{path} is no Python program: it does not begin with '#!'"
    if not _PYTHON.fullmatch(os.path.basename(words[0])):
        return (), f"{path} is no Python program: its first line names {words[0]!r}"
    reason = _otherPython(words[0])
    if reason:
        name = os.path.basename(path)
        own = os.path.join(os.path.dirname(words[0]), "portlisten")
        reason = (
            f"{name} belongs to another Python: {reason}; install portlisten there, and"
            f" run {own} as-port"
        )
    return tuple(words[1:]), reason


def _interpreter(head: bytes) -> list[str]:
    """
    Read the interpreter and its options from the beginning of a file.

    @return: empty if the file names none.
    """
    if not head.startswith(b"#!"):
        return []
    first, _, rest = head[2:].partition(b"\n")
    words = os.fsdecode(first).split()
    if words and os.path.basename(words[0]) == "env":
        del words[0]
        while words and (words[0].startswith("-") or "=" in words[0]):
            del words[0]
    # pip writes this if the path of the interpreter is long, or has a space.
    long = re.match(rb"'''exec' (?:\"([^\"]+)\"|(\S+)) \"\$0\"", rest)
    if long is not None:
        words = [os.fsdecode(long[1] or long[2])]
    return words


def _otherPython(name: str) -> str:
    """
    Compare an interpreter with this one.

    @param name: a path, or a name without a folder, which means this Python.
    @return: the difference, or nothing.
    """
    path = name if os.sep in name else sys.executable
    for each in (os.path.basename(os.path.realpath(path)), os.path.basename(name)):
        match = _PYTHON.fullmatch(each)
        if match is None:
            continue
        major = match[1] or "3"
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if major != here[0] or (match[2] and f"{major}.{match[2]}" != here):
            return f"{name} is not Python {here}, which runs this"
    same = _folder(path) == _folder(sys.executable)
    if not same and not _inEnvironment(path) and sys.prefix == sys.base_prefix:
        same = os.path.realpath(path) == os.path.realpath(sys.executable)
    return "" if same else f"{name} is not {sys.executable}, which runs this"


def _folder(path: str) -> str:
    return os.path.realpath(os.path.dirname(path))


def _inEnvironment(path: str) -> bool:
    """
    Whether an interpreter belongs to a virtual environment.
    """
    return os.path.exists(os.path.join(os.path.dirname(path), "..", "pyvenv.cfg"))


def run(program: Program) -> None:
    """
    Run a program in this process, as C{__main__}.  Its interpreter's options do not
    count.

    @raise BaseException: what the program raises.
    """
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    # Python makes a path absolute, and leaves the rest of it as it is.
    path = os.path.join(os.getcwd(), program.target)
    sys.modules["__main__"] = main
    _removeOwnFolder()
    if program.kind is Kind.MODULE:
        sys.argv = ["-m", *program.arguments]
        _prepend(os.getcwd())
        _runModule(program.target, True)
    elif program.kind is Kind.COMMAND:
        sys.argv = ["-c", *program.arguments]
        _prepend("")
        main.__loader__ = importlib.machinery.BuiltinImporter
        exec(compile(program.target, "<string>", "exec"), main.__dict__)  # noqa: S102
    elif pkgutil.get_importer(program.target) is not None and _isContainer(program):
        sys.argv = [program.target, *program.arguments]
        sys.path.insert(0, path)
        _runModule("__main__", False)
    else:
        sys.argv = [program.target, *program.arguments]
        _prepend(os.path.dirname(os.path.realpath(path)))
        main.__file__ = path
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
        main.__dict__["__cached__"] = None
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec")
        exec(code, main.__dict__)  # noqa: S102


def _isContainer(program: Program) -> bool:
    """
    Whether a path is a folder or an archive that has C{__main__.py}.
    """
    finder = pkgutil.get_importer(program.target)
    return finder is not None and finder.find_spec("__main__") is not None


def _removeOwnFolder() -> None:
    """
    Remove the folder of this command from the path of modules, where Python put it.
    """
    own = {"", os.getcwd(), os.path.dirname(os.path.realpath(sys.argv[0]))}
    if not _safePath() and sys.path and sys.path[0] in own:
        del sys.path[0]


def _prepend(folder: str) -> None:
    if not _safePath():
        sys.path.insert(0, folder)


def _safePath() -> bool:
    """
    Whether Python's option C{-P} or C{-I} is given.
    """
    return bool(getattr(sys.flags, "safe_path", False) or sys.flags.isolated)


def _runModule(name: str, alterArguments: bool) -> None:
    """
    Run a module as C{python -m} does: the interpreter calls this function.
    """
    getattr(runpy, "_run_module_as_main")(name, alterArguments)  # noqa: B009


def execute(program: Program, before: Sequence[str]) -> None:
    """
    Replace this process by one that runs the same command with the options of the
    interpreter.

    @param before: the words of C{portlisten} that come before the program.
    @raise CannotRun: if that fails.
    """
    words = ["-m", "portlisten", *before, sys.executable, *program.words]
    try:
        os.execv(sys.executable, [sys.executable, *program.flags, *words])  # noqa: S606
    except OSError as error:
        raise CannotRun(f"cannot run {sys.executable}: {error.strerror}") from None
