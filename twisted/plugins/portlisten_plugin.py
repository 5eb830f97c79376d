"""
Registers the C{portlisten} command with C{twistd}.
"""

from twisted.application.service import ServiceMaker

portlisten = ServiceMaker(
    "portlisten",
    "portlisten._commands.listener",
    "Bind ports with privilege, and hand their connections to unprivileged workers.",
    "portlisten",
)
