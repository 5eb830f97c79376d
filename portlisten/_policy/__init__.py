"""
The decisions.  mypyc may have compiled some of these modules.
"""

from portlisten import _compiled

_compiled.preferSources(__name__, __path__[0])
