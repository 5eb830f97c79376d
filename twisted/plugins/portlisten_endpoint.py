"""
Registers the C{portlisten:} endpoint with Twisted.
"""

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _Parser:
    prefix = "portlisten"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:
        # A program that parses any description loads this module, so it stays small.
        from portlisten.endpoints import parse

        return parse(reactor, *args, **kwargs)


parser = _Parser()
