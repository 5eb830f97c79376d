"""
Deprecated: the former place of the options and the service of C{twistd hellofdpass}.

A C{.tac} file gets them from the plugin::

    from twisted.plugins.hellofdpass_plugin import hellofdpass

    options = hellofdpass.options()
    service = hellofdpass.makeService(options)
"""

from incremental import Version
from twisted.python.deprecate import deprecatedModuleAttribute

from portlisten._commands.hellofdpass import Options, makeService

__all__ = ["Options", "makeService"]

for _name in __all__:
    deprecatedModuleAttribute(
        Version("portlisten", 0, 2, 0),
        "use hellofdpass of twisted.plugins.hellofdpass_plugin instead",
        __name__,
        _name,
    )
