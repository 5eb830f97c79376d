"""
Files of C{portlisten run} for tests.
"""

from __future__ import annotations

import os

#: A line that names a user, if this process must name one.
USER = 'user = "nobody"' if os.geteuid() == 0 else ""

#: The same for the listener.
LISTENER = 'user = "daemon"' if os.geteuid() == 0 else ""

#: A line that gives the channel's path to the workers' group, if that is another's.
GROUP = 'group = "nogroup"' if os.geteuid() == 0 else ""

PATH = 'path = "/tmp/portlisten-none.sock"'
TOP = f"{PATH}\n{LISTENER}\n{GROUP}"
COMMAND = 'command = ["/bin/sleep", "60", "{path}"]'
WORKERS = f"[workers.web]\n{COMMAND}\n{USER}"
PORTS = "[ports.http]\nlisten = 80"


def runFile(
    top: str = TOP, ports: str = PORTS, workers: str = WORKERS, also: str = ""
) -> str:
    """
    Write a file.  Each part has a default without mistakes.

    @param top: the lines above all tables.
    @param ports: the tables of the ports.
    @param workers: the table C{[workers.web]}.
    @param also: more lines of that table.
    """
    return "\n".join([top, ports, workers, also, ""])
