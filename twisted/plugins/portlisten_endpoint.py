"""
Tells Twisted of the C{portlisten:} endpoint.
"""

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _Parser:
    prefix = "portlisten"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:
        # Every program that parses a description of any kind loads this module.
        from portlisten.endpoints import parse

        return parse(reactor, *args, **kwargs)


parser = _Parser()
