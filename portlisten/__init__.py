"""
Bind ports with privilege; serve them without.

A small process, the I{listener}, owns the ports.  Other processes, the
I{workers}, own the connections, which travel to them as file descriptors over
a Unix socket.
"""

__version__ = "0.2.0.dev0"

__all__ = ["__version__"]
