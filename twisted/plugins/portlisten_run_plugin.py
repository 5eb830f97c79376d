"""
Registers the C{portlisten-run} command with C{twistd}.
"""

from twisted.application.service import ServiceMaker

portlistenRun = ServiceMaker(
    "portlisten-run",
    "portlisten._commands.run",
    "Run portlisten and its workers as a file says.",
    "portlisten-run",
)
