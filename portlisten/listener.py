"""
Deprecated: the former place of the options and the service of C{twistd portlisten}.

A C{.tac} file gets them from the plugin::

    from twisted.plugins.portlisten_plugin import portlisten

    options = portlisten.options()
    service = portlisten.makeService(options)
"""

from incremental import Version
from twisted.python.deprecate import deprecatedModuleAttribute

from portlisten._commands.listener import Options, makeService

__all__ = ["Options", "makeService"]

for _name in __all__:
    deprecatedModuleAttribute(
        Version("portlisten", 0, 2, 0),
        "use portlisten of twisted.plugins.portlisten_plugin instead",
        __name__,
        _name,
    )
