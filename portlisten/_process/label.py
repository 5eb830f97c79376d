"""
The label of this process, by which the operator knows the worker.
"""

from __future__ import annotations

import os

from portlisten._model import workerLabel

#: The variable in which a supervisor says the label.
VARIABLE = "PORTLISTEN_LABEL"


def labelOf(given: str | None) -> str:
    """
    Find the label of a worker.

    @param given: the label that the worker's options give, or L{None}.
    @return: the given label, or else that of the environment, or else nothing.
    @raise ValueError: if the label is not valid.
    """
    if given is not None:
        return workerLabel(given)
    text = os.environ.get(VARIABLE, "")
    try:
        return workerLabel(text) if text else ""
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None
