"""
Makes C{python -m aiohttp.web} a worker.

C{aiohttp.web} runs the application that a function gives, on a loop that it makes
itself.  L{app} is such a function.  It makes that loop one that can join a listener.
Then it calls the function that is named after it::

    python -m aiohttp.web --path portlisten:PATH:name=http portlisten.aiohttp:app \\
        MODULE:FUNCTION

A program that calls C{aiohttp.web.run_app} needs no more than two arguments::

    web.run_app(app, path="portlisten:PATH:name=http", loop=portlisten.asyncio.loop())
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from portlisten.asyncio import loop
from portlisten.errors import EndpointError

__all__ = ["app"]


def app(arguments: list[str]) -> Any:
    """
    Give C{aiohttp.web} the application of another function.

    @param arguments: the name of that function, C{MODULE:FUNCTION}, and its own
        arguments.
    @return: the application.
    @raise EndpointError: if there is no such function.
    """
    if not arguments:
        raise EndpointError(
            "the name of a function is missing after portlisten.aiohttp:app,"
            " as in my.module:function"
        )
    name, *rest = arguments
    function = _find(name)
    setattr(asyncio, "new_event_loop", loop)  # noqa: B010
    return function(rest)


def _find(name: str) -> Any:
    """
    Find a function by its name, C{MODULE:FUNCTION}.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise EndpointError(f"{name!r} is not of the form my.module:function")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EndpointError(f"{name!r} cannot be imported: {error}") from None
    try:
        return getattr(found, function)
    except AttributeError as error:
        raise EndpointError(f"{name!r} cannot be found: {error}") from None
