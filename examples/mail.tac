"""
A mail server: it takes mail for any user of DOMAIN.  It writes each mail into a file of
its own in FOLDER, which must belong to USER.  Change the settings at the top, and run this
file and a listener in one folder::

    twistd --pidfile listener.pid --nodaemon portlisten smtp=10025 ./socket
    twistd --pidfile mail.pid -noy mail.tac

As root, add C{--uid nobody} to the listener, before C{portlisten}, and C{--group
daemon} after it.
"""

import os
import pwd
import tempfile

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.endpoints import serverFromString
from twisted.mail.smtp import (
    ESMTP,
    IMessage,
    IMessageDelivery,
    SMTPBadRcpt,
    SMTPFactory,
)
from zope.interface import implementer

PORT = "portlisten:./socket:name=smtp"
DOMAIN = b"example.com"
FOLDER = "mail"
USER = "daemon"


@implementer(IMessage)
class Message:
    def __init__(self):
        self.lines = []

    def lineReceived(self, line):
        self.lines.append(line + b"\n")

    def eomReceived(self):
        with tempfile.NamedTemporaryFile(dir=FOLDER, delete=False) as file:
            file.writelines(self.lines)
        return succeed(None)

    def connectionLost(self):
        self.lines = []


@implementer(IMessageDelivery)
class Delivery:
    def receivedHeader(self, helo, origin, recipients):
        return b"Received: from " + helo[0] + b" (" + helo[1] + b")"

    def validateFrom(self, helo, origin):
        return origin

    def validateTo(self, user):
        if user.dest.domain != DOMAIN:
            raise SMTPBadRcpt(user)
        return Message


class Server(ESMTP):
    def __init__(self):
        super().__init__()
        self.delivery = Delivery()


class Factory(SMTPFactory):
    protocol = Server


user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application("mail", uid=user and user.pw_uid, gid=user and user.pw_gid)
StreamServerEndpointService(
    serverFromString(reactor, PORT), Factory()
).setServiceParent(application)
