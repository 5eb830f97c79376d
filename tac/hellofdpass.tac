"""
A worker, for C{twistd -ny hellofdpass.tac}: change what stands at the top.

It needs no privilege but to write to PATH.  Started as root, it becomes USER,
who has to be in the group of PATH, or its owner.
"""

import os
import pwd

from twisted.application.service import Application

from portlisten.hello import Options, makeService

PATH = "./socket"
STRING = "hello, world\n"
OPTIONS = ["--grace", "10"]
USER = "daemon"

options = Options()
options.parseOptions([*OPTIONS, PATH, STRING])

user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application(
    "hellofdpass",
    uid=user and user.pw_uid,
    gid=user and user.pw_gid,
)
makeService(options).setServiceParent(application)
