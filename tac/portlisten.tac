"""
A listener.  Change the settings at the top, and run it beside a worker::

    twistd --pidfile listener.pid -noy portlisten.tac
    twistd --pidfile worker.pid -noy hellofdpass.tac

If it is started as root, it binds the port, and then becomes USER.  Members of GROUP may
be workers.
"""

import os
import pwd

from twisted.application.service import Application
from twisted.plugins.portlisten_plugin import portlisten

PORT = "10000"
PATH = "./socket"
OPTIONS = ["--mode", "0660", "--patience", "60"]
USER = "nobody"
GROUP = "daemon"

isRoot = os.getuid() == 0
options = portlisten.options()
options.parseOptions(
    [*OPTIONS, *(["--group", GROUP] if isRoot else []), PORT, PATH],
)

user = pwd.getpwnam(USER) if isRoot else None
application = Application(
    "portlisten",
    uid=user and user.pw_uid,
    gid=user and user.pw_gid,
)
portlisten.makeService(options).setServiceParent(application)
