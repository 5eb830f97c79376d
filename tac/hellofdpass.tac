"""
A worker.  Change the settings at the top, and run it beside a listener::

    twistd --pidfile listener.pid -noy portlisten.tac
    twistd --pidfile worker.pid -noy hellofdpass.tac

It needs no privilege except to write to PATH.  If it is started as root, it becomes
USER.  USER's group must be the GROUP of the listener.
"""

import os
import pwd

from twisted.application.service import Application
from twisted.plugins.hellofdpass_plugin import hellofdpass

PATH = "./socket"
STRING = "hello, world\n"
OPTIONS = ["--grace", "10"]
USER = "daemon"

options = hellofdpass.options()
options.parseOptions([*OPTIONS, PATH, STRING])

user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application(
    "hellofdpass",
    uid=user and user.pw_uid,
    gid=user and user.pw_gid,
)
hellofdpass.makeService(options).setServiceParent(application)
