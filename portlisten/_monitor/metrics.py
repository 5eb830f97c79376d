"""
The metrics, as Prometheus reads them.
"""

from __future__ import annotations

from portlisten._control.messages import StatusAnswer


def render(answer: StatusAnswer | None, accept: str) -> tuple[str, bytes]:
    """
    Write the metrics.

    @param answer: the status; L{None} if the listener or its supervisor does not
        answer.
    @param accept: the header C{Accept} of the request, or empty.
    @return: the type of the content, and the content.
    """
    up = int(answer is not None and answer.listener is not None)
    return (
        "text/plain; version=0.0.4; charset=utf-8",
        f"# TYPE portlisten_up gauge\nportlisten_up {up}\n".encode(),
    )
