"""
C{python -m tests.sanitize}: check the code in C.

First, the compiler must have no remark, and C{-fanalyzer} of gcc neither.  Then the
library is built with the sanitizers for addresses and for undefined behaviour, in a
copy of the package.  L{tests.twins} and unit tests run with it: each wrong access to
memory ends the process, and many calls must leave no memory behind.  At last, mypyc
compiles the ledger, and its tests run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

SOURCE = Path("portlisten/_kernel/_batch.c")

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]

#: What setup.py sets; and nothing, as for Pythons without a stable binary interface.
INTERFACES = [["-DPy_LIMITED_API=0x030A0000"], []]

SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]

#: The tests whose processes accept with the library.
TESTS = [
    "tests.unit.kernel.test_batch",
    "tests.unit.listener.test_connection",
    "tests.unit.listener.test_dispatcher",
    "tests.unit.listener.test_dispatcher_silent",
    "tests.unit.listener.test_departed_clients",
    "tests.unit.listener.test_service",
    "tests.unit.wire.test_fuzz",
]

#: Makes and drops connections, and compares the blocks of memory.
LEAKS = """
import socket, sys
from tests.support.batches import TWINS
twin = TWINS["C"]
listening = socket.create_server(("127.0.0.1", 0))
listening.setblocking(False)

def turn(count):
    for _ in range(count):
        with socket.create_connection(listening.getsockname()) as client:
            found = []
            while not found:
                found, _ = twin.acceptMany(twin.Connection, listening, 2, 9)
            (connection,) = found
            connection.address, connection.address
            connection.getsockopt(1, 3), connection.getsockopt(1, 3, 4)
            if client.fileno() % 2:
                connection.closeCopy()
        try:
            twin.Connection(None, None)
        except AttributeError:
            pass

turn(200)
before = sys.getallocatedblocks()
turn(int(sys.argv[1]))
left = sys.getallocatedblocks() - before
print(f"{left} blocks of memory are left after {sys.argv[1]} connections")
sys.exit(left > int(sys.argv[1]) // 2)
"""


def say(text: str) -> None:
    """
    Print what is next.
    """
    print(f"== {text}", flush=True)


def compile(compiler: str, target: Path, options: list[str]) -> None:
    """
    Build the library.

    @raise subprocess.CalledProcessError: if that fails.
    """
    include = sysconfig.get_paths()["include"]
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-g", f"-I{include}"),
            *(*options, "-o", str(target), str(ROOT / SOURCE)),
        ],
        check=True,
    )


def inspect(compiler: str, folder: Path) -> None:
    """
    Let the compiler remark on the code.
    """
    analyzes = (
        "clang"
        not in subprocess.run(
            [compiler, "--version"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    )
    for interface in INTERFACES:
        for level in ("-O0", "-O2"):
            compile(compiler, folder / "plain.so", [*WARNINGS, level, *interface])
        if analyzes:
            analyzer = ["-fanalyzer", "-Werror", "-O1", *interface]
            compile(compiler, folder / "plain.so", analyzer)


def copy(folder: Path) -> Path:
    """
    Copy what the tests need, without libraries.

    @return: the copy's root.
    """
    root = folder / "copy"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "systemd", "releases")
    for name in ("portlisten", "tests", "twisted", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    return root


def runtime(compiler: str) -> str:
    """
    The library of the sanitizer, which must be loaded before all others.
    """
    return subprocess.run(
        [compiler, "-print-file-name=libasan.so"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()


def main() -> None:
    """
    Check everything.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize")
    parser.add_argument(
        "--quick", action="store_true", help="try less [a minute, not five]"
    )
    parser.add_argument("--compiler", default="gcc")
    arguments = parser.parse_args()
    compiler, quick = arguments.compiler, arguments.quick
    if shutil.which(compiler) is None:
        parser.error(f"{compiler} is missing")
    with tempfile.TemporaryDirectory(prefix="sanitize.") as name:
        folder = Path(name)
        say("remarks of the compiler")
        inspect(compiler, folder)
        root = copy(folder)
        library = root / SOURCE.parent / "_batch.abi3.so"
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PORTLISTEN_PURE": "",
        }

        def run(*command: str, **also: str) -> None:
            subprocess.run(command, cwd=root, env={**environment, **also}, check=True)

        say("memory that is left")
        compile(compiler, library, ["-O2", *INTERFACES[0]])
        run(sys.executable, "-c", LEAKS, "2000" if quick else "20000")

        compile(compiler, library, ["-O1", *SANITIZERS, *INTERFACES[0]])
        sanitizer = {
            "LD_PRELOAD": runtime(compiler),
            # So that the sanitizer knows each object.
            "PYTHONMALLOC": "malloc",
            # Python itself leaves memory behind at its end.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PORTLISTEN_EXAMPLES": "3" if quick else "30",
            "PORTLISTEN_FUZZ": "300" if quick else "5000",
        }
        say("the twins, with sanitizers")
        failing = folder / "failing.so"
        source = root / "tests" / "peers" / "failing.c"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", failing, source, "-ldl"], check=True
        )
        run(
            *(sys.executable, "-m", "tests.twins"),
            f"--rounds={1000 if quick else 10000}",
            **{**sanitizer, "LD_PRELOAD": f"{sanitizer['LD_PRELOAD']} {failing}"},
        )
        say("unit tests, with sanitizers")
        # Only Python is to have the sanitizers, and not what runs a failed test again.
        python = folder / "python"
        python.write_text(
            f"#!/bin/sh\nLD_PRELOAD={sanitizer.pop('LD_PRELOAD')} exec"
            f' {shlex.quote(sys.executable)} "$@"\n'
        )
        python.chmod(0o755)
        trial = ("tests/trial", f"--temp-directory={folder / 'trial'}")
        run(*trial, *TESTS, PYTHON=str(python), **sanitizer)
        library.unlink()
        say("the ledger, compiled by mypyc")
        shutil.copy(ROOT / "setup.py", root)
        build = ("setup.py", "--quiet", "build_ext", "--inplace")
        run(sys.executable, *build, PORTLISTEN_MYPYC="1")
        fewer = {name: sanitizer[name] for name in sanitizer if "PORTLISTEN" in name}
        run(
            *trial,
            *("tests.unit.policy", "tests.unit.listener"),
            PYTHON=sys.executable,
            **fewer,
        )


if __name__ == "__main__":
    main()
