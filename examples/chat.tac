"""
A chat: all other clients read what one client says.  Change the settings at the top, and
run this file and a listener in one folder::

    twistd --pidfile listener.pid --nodaemon portlisten 10000 ./socket
    twistd --pidfile chat.pid -noy chat.tac

As root, add C{--uid nobody} to the listener, before C{portlisten}, and C{--group
daemon} after it.

The connections have no end of their own.  When the server stops, L{Chat.drain} says
goodbye.  Otherwise clients would see broken connections.  Clients can connect again at
once, and then wait for the next server.
"""

import os
import pwd

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from portlisten.interfaces import IDrainable

PORT = "portlisten:./socket:grace=5"
USER = "daemon"


@implementer(IDrainable)
class Chat(LineReceiver):
    delimiter = b"\n"
    everybody = set()

    def connectionMade(self):
        self.everybody.add(self)
        self.sendLine(b"welcome, there are %d of us" % len(self.everybody))

    def lineReceived(self, line):
        for other in self.everybody - {self}:
            other.sendLine(line)

    def drain(self):
        self.sendLine(b"goodbye, come again")
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.everybody.discard(self)


user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application("chat", uid=user and user.pw_uid, gid=user and user.pw_gid)
StreamServerEndpointService(
    serverFromString(reactor, PORT), Factory.forProtocol(Chat)
).setServiceParent(application)
