"""
A listener, for C{twistd -ny portlisten.tac}: change what stands at the top.

As root, the ports are bound first, and the process becomes USER then.
"""

import os
import pwd

from twisted.application.service import Application

from portlisten.listener import Options, makeService

PORT = "10000"
PATH = "./socket"
OPTIONS = ["--mode", "0660", "--patience", "60"]
USER = "nobody"

options = Options()
options.parseOptions([*OPTIONS, PORT, PATH])

user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application(
    "portlisten",
    uid=user and user.pw_uid,
    gid=user and user.pw_gid,
)
makeService(options).setServiceParent(application)
