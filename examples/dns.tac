r"""
A name server: it answers with the records of RECORDS, over UDP and TCP.  Change the
settings at the top, and run this file and a listener in one folder::

    twistd --pidfile listener.pid --nodaemon portlisten \
        --share dns=udp:10053 --share dns=tcp:10053 ./socket
    twistd --pidfile dns.pid -noy dns.tac

As root, add C{--uid nobody} to the listener, before C{portlisten}, and C{--group
daemon} after it.
"""

import os
import pwd

from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.names.authority import FileAuthority
from twisted.names.common import ResolverBase
from twisted.names.dns import (
    DNSDatagramProtocol,
    Record_A,
    Record_AAAA,
    Record_NS,
    Record_SOA,
)
from twisted.names.server import DNSServerFactory

from portlisten.endpoints import PortlistenServerEndpoint, PortlistenUDPEndpoint

PATH = "./socket"
NAME = "dns"
USER = "daemon"
ZONE = b"example.com"
SOA = Record_SOA(
    *(b"ns.example.com", b"hostmaster.example.com"),
    *(2026112501, 3600, 600, 86400, 300),
)
RECORDS = {
    b"example.com": [SOA, Record_NS(b"ns.example.com", 300)],
    b"ns.example.com": [Record_A("192.0.2.1", 300)],
    b"www.example.com": [Record_A("192.0.2.2", 300), Record_AAAA("2001:db8::2", 300)],
}


class Zone(FileAuthority):
    def __init__(self):
        ResolverBase.__init__(self)
        self.soa = (ZONE, SOA)
        self.records = RECORDS


class NameService(Service):
    def startService(self):
        super().startService()
        factory = DNSServerFactory(authorities=[Zone()])
        factory.noisy = False
        self.ports = []
        for endpoint, server in [
            (PortlistenServerEndpoint(reactor, PATH, NAME), factory),
            (
                PortlistenUDPEndpoint(reactor, PATH, NAME),
                lambda: DNSDatagramProtocol(factory),
            ),
        ]:
            endpoint.listen(server).addCallback(self.ports.append)

    def stopService(self):
        super().stopService()
        return gatherResults([port.stopListening() for port in self.ports])


user = pwd.getpwnam(USER) if os.getuid() == 0 else None
application = Application("dns", uid=user and user.pw_uid, gid=user and user.pw_gid)
NameService().setServiceParent(application)
