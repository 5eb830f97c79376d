"""
The log of workers without Twisted: the logger C{portlisten} of L{logging}.

The functions take a format and its fields, as a L{portlisten._reactor.log_limit} does.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("portlisten")


def debug(format: str, **fields: object) -> None:
    """
    Log what matters only to find a fault.
    """
    logger.debug("%s", format.format(**fields))


def info(format: str, **fields: object) -> None:
    """
    Log what happened in good order.
    """
    logger.info("%s", format.format(**fields))


def warning(format: str, **fields: object) -> None:
    """
    Log what an operator may want to change.
    """
    logger.warning("%s", format.format(**fields))


def error(format: str, **fields: object) -> None:
    """
    Log what an operator must change.
    """
    logger.error("%s", format.format(**fields))


def bug(format: str, error: BaseException, **fields: object) -> None:
    """
    Log an exception with its traceback.
    """
    logger.error("%s", format.format(**fields), exc_info=error)
