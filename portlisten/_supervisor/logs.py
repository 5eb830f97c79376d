"""
The supervisor's log.
"""

from __future__ import annotations

from twisted.logger import Logger

#: The supervisor's own log.
log = Logger(namespace="supervisor")
