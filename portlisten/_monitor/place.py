"""
Where the monitor listens.

Descriptions that L{portlisten._ports.parsing} knows are bound by the parent of the
monitor, which may have privilege.  Any other one, as of TLS, is text for the monitor,
which listens without privilege.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TypeAlias

from portlisten._config.ports import PortSettings
from portlisten._ports.parsing import NotPlain
from portlisten._ports.parsing import parse as parsePort
from portlisten.errors import BadDescription

#: A port that the parent binds, or the description of an endpoint of the monitor's.
Place: TypeAlias = "PortSettings | str"

#: How many connections wait to be accepted.
BACKLOG = 128

#: What the monitor needs, by the packages that have it.
_NEEDED = {"prometheus_client": "prometheus_client"}

_NUMBER = re.compile("[0-9]{1,5}")
_NAMED = re.compile("([^:=]*)=(.*)", re.DOTALL)


def parsePlace(description: str) -> Place:
    """
    Understand the value of C{--metrics}, and check that the monitor can run.

    @param description: an endpoint description.  A number alone is a port of 127.0.0.1.
    @raise BadDescription: if it cannot be understood, or something that the monitor
        needs is not installed.
    """
    named = _NAMED.fullmatch(description)
    if named is not None:
        raise BadDescription(
            f"{description!r} has a name, and this port has none: give {named[2]!r}"
        )
    number = bool(_NUMBER.fullmatch(description)) and int(description) < 65536
    text = f"tcp:{description}:interface=127.0.0.1" if number else description
    if description.startswith(("udp:", "udp6:")):
        raise BadDescription(f"{description!r} is a port of UDP: give one of TCP")
    place: Place
    try:
        place = parsePort(text, BACKLOG)
    except NotPlain:
        place = text
    else:
        for name in place.options.limitNames:
            raise BadDescription(
                f"{description!r}: {name} is for ports whose connections are handed to"
                f" workers: leave it out"
            )
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise BadDescription(
                f"this needs the package {package}, which is not installed:"
                " 'pip install portlisten[metrics]'"
            )
    return place
