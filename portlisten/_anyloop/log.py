"""
The log of workers without Twisted: the logger C{portlisten} of L{logging}.

The functions take a format, and the fields of an event, as a
L{portlisten._reactor.log_limit} does.
"""

from __future__ import annotations

import logging

from portlisten._log.standard import FIELDS

logger = logging.getLogger("portlisten")

_PLAIN = (str, int, float, type(None))


def debug(format: str, **fields: object) -> None:
    """
    Log what matters only to find a fault.
    """
    _log(logging.DEBUG, format, fields)


def info(format: str, **fields: object) -> None:
    """
    Log what happened in good order.
    """
    _log(logging.INFO, format, fields)


def warning(format: str, **fields: object) -> None:
    """
    Log what an operator may want to change.
    """
    _log(logging.WARNING, format, fields)


def error(format: str, **fields: object) -> None:
    """
    Log what an operator must change.
    """
    _log(logging.ERROR, format, fields)


def bug(format: str, error: BaseException, **fields: object) -> None:
    """
    Log an exception with its traceback.
    """
    _log(logging.ERROR, format, fields, error)


def _log(
    level: int,
    format: str,
    fields: dict[str, object],
    error: BaseException | None = None,
) -> None:
    if logger.isEnabledFor(level):
        # A handler may keep what it gets, and an exception would keep the variables of
        # its frames: connections, and their descriptors.
        plain = {
            name: value if isinstance(value, _PLAIN) else str(value)
            for name, value in fields.items()
        }
        logger.log(
            level,
            "%s",
            format.format(**fields),
            exc_info=error,
            extra={FIELDS: plain},
        )
