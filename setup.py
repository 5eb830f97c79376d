"""
What a static file cannot say about the packaging; the rest is in
C{pyproject.toml}.

C{PORTLISTEN_PURE=1} in the environment makes a package without compiled code, for all
machines.  C{PORTLISTEN_MYPYC=1} compiles the ledger as well, with mypyc.
"""

import os
import sysconfig

from setuptools import Extension, find_packages, setup

#: The modules of C{portlisten/_policy} that decide about each connection.
LEDGER = [
    *("balance", "claim_times", "copies", "counters", "decisions", "entries"),
    *("inventory", "ledger", "offering", "silent", "source_limits", "tallies"),
    "waiting",
]

PURE = bool(os.environ.get("PORTLISTEN_PURE"))
MYPYC = bool(os.environ.get("PORTLISTEN_MYPYC")) and not PURE

# Pythons without the interpreter's lock have another binary interface.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")


def accepting() -> Extension:
    """
    The library in C.  If there is no compiler, that is no failure: the package can do
    the same in Python.
    """
    return Extension(
        "portlisten._kernel._batch",
        ["portlisten/_kernel/_batch.c"],
        optional=True,
        py_limited_api=STABLE,
        define_macros=[("Py_LIMITED_API", "0x030A0000")] if STABLE else [],
    )


def ledger() -> list[Extension]:
    """
    The libraries that mypyc makes.
    """
    try:
        from mypyc.build import mypycify
    except ImportError:
        # pip asks first what is required, and then installs it.
        return []
    sources = [f"portlisten/_policy/{name}.py" for name in LEDGER]
    # The checks of pyproject.toml need more than mypy.
    options = ["--config-file=/dev/null"]
    libraries: list[Extension] = mypycify(
        [*options, *sources], group_name="portlisten_ledger"
    )
    return libraries


OTHERS = ledger() if MYPYC else []

setup(
    ext_modules=[] if PURE else [accepting(), *OTHERS],
    setup_requires=["mypy>=1.14"] if MYPYC else [],
    # One library for all versions of Python from 3.10 on.
    options={"bdist_wheel": {"py_limited_api": "cp310"}}
    if STABLE and not PURE and not MYPYC
    else {},
    # find_packages() misses the plugin folder, which is no package, and the namespace
    # finder would ship the tests.
    packages=[
        *find_packages(include=["portlisten", "portlisten.*"]),
        "twisted.plugins",
    ],
    # Makes `pip install -e .` write a .pth file, which twisted.plugin can scan;
    # the import hook that it writes otherwise hides the plugins without a word.
    package_dir={"": "."},
    package_data={"portlisten": ["py.typed", "_monitor/static/*"]},
    exclude_package_data={"": ["*.c"]},
    data_files=[
        (
            "share/man/man1",
            [
                "docs/man/portlisten-status.1",
                "docs/man/portlisten-reload.1",
                "docs/man/portlisten-upgrade.1",
                "docs/man/portlisten-restart.1",
                "docs/man/portlisten-stop.1",
                "docs/man/portlisten-exec.1",
                "docs/man/portlisten-each.1",
                "docs/man/portlisten-as-port.1",
                "docs/man/portlisten-check.1",
                "docs/man/portlisten-drain.1",
                "docs/man/portlisten-deny.1",
                "docs/man/portlisten-allow.1",
                "docs/man/portlisten-pause.1",
                "docs/man/portlisten-resume.1",
                "docs/man/portlisten-undrain.1",
            ],
        ),
        (
            "share/man/man8",
            [
                "docs/man/portlisten.8",
                "docs/man/portlisten-run.8",
                "docs/man/hellofdpass.8",
            ],
        ),
        ("share/zsh/site-functions", ["contrib/zsh/_portlisten"]),
    ],
)
