"""
Registers the C{hellofdpass} command with C{twistd}.
"""

from twisted.application.service import ServiceMaker

hellofdpass = ServiceMaker(
    "hellofdpass",
    "portlisten._commands.hellofdpass",
    "A worker of portlisten's that answers each connection with a string.",
    "hellofdpass",
)
