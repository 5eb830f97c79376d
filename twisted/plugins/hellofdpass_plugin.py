"""
Tells C{twistd} of the C{hellofdpass} command.
"""

from twisted.application.service import ServiceMaker

hellofdpass = ServiceMaker(
    "hellofdpass",
    "portlisten.hello",
    "A worker of portlisten's that answers each connection with a string.",
    "hellofdpass",
)
