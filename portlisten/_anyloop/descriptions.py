"""
Descriptions of workers without Twisted: what each kind of worker checks of them.
"""

from __future__ import annotations

import sys

from portlisten._channel import paths
from portlisten._config.descriptions import describedOptions, split, workerSettings
from portlisten._config.options import WIRES
from portlisten._config.settings import WorkerSettings
from portlisten._config.values import File
from portlisten._process.label import labelOf
from portlisten.errors import EndpointError, PathError


def understand(description: str, tls: str) -> tuple[WorkerSettings, str]:
    """
    Understand a description, and check what can be checked before the worker runs.

    @param tls: what to do instead of the options for TLS, which only Twisted has.
    @return: the settings, and the worker's name for the operator, which may be empty.
    @raise EndpointError: if the description or its path can never work, or only Twisted
        has such a worker.
    """
    if sys.platform != "linux":
        raise EndpointError(f"needs Linux, and this is {sys.platform}")
    arguments, named = split(description)
    forTwisted = [
        name
        for name, option in describedOptions().items()
        if isinstance(option.type, File)
    ]
    for name in named:
        if name in forTwisted:
            raise EndpointError(f"{name} is for Twisted: {tls}")
    if named.get("wire", WIRES[0]) == "datagram":
        raise EndpointError("wire=datagram is for Twisted: leave wire out")
    settings = workerSettings(arguments, named, hidden=forTwisted)
    try:
        paths.check(settings.path)
        return settings, labelOf(settings.label)
    except (PathError, ValueError) as error:
        raise EndpointError(str(error)) from None
