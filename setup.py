"""
What a static file cannot say about the packaging; the rest is in
C{pyproject.toml}.
"""

import os
import sysconfig

from setuptools import Extension, find_packages, setup

# Without it, the package is the same for every machine and every Python.
COMPILE = not os.environ.get("PORTLISTEN_PURE")

# One library for all versions of Python from 3.10 on.  Those without the interpreter's
# lock have another binary interface.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")

BATCH = Extension(
    "portlisten._kernel._batch",
    ["portlisten/_kernel/_batch.c"],
    # What it does in C, the package can do in Python: if there is no compiler, that is
    # no failure.
    optional=True,
    py_limited_api=STABLE,
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if STABLE else [],
)

setup(
    ext_modules=[BATCH] if COMPILE else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE and COMPILE else {},
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
