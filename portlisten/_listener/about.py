"""
What the log says of a worker.
"""

from __future__ import annotations

from typing import Any

from portlisten._listener.interfaces import IChannel


def about(channel: IChannel) -> dict[str, Any]:
    """
    Make the fields of an event that concerns a worker: C{channel} for the text, and
    C{worker}, C{pid} and C{uid} as keys.  If the worker gave no label, its number
    stands for it.
    """
    return {
        "channel": channel.label,
        "worker": channel.name,
        "pid": channel.pid or None,
        "uid": channel.user,
    }
