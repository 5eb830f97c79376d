"""
Becomes a program, as a service manager starts it, with stored descriptors from 3 on:
C{python -m tests.support.as_service NAMES VARIABLE=VALUE ... PROGRAM ARGUMENT ...}.

NAMES are the names of the descriptors, with colons between them.
"""

from __future__ import annotations

import os
import sys

from portlisten._process import listen_fds


def main() -> None:
    """
    Become the program of the command line.
    """
    names, *words = sys.argv[1:]
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        os.environ[name] = value
    if names:
        os.environ.update(listen_fds.environment(names.split(":")))
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
