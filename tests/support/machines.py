"""
Helpers for the stateful tests.

C{PORTLISTEN_EXAMPLES} says how many histories each machine tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from portlisten.errors import ProtocolError

PATIENCE = 60.0
HOLD = 1.0
CLAIM_TIMEOUT = 5.0
PAUSE = 0.1
SILENCE = 5.0

#: What the ports are called, by their numbers.
NAMES = ("web", "mail", "web")

#: Chooses one or several items of a list of any length.
one = st.integers(0, 7)
some = st.sets(one, min_size=1, max_size=4)
nothing: st.SearchStrategy[set[int]] = st.just(set())
spoils = st.one_of(nothing, nothing, st.sets(one))
stages = st.integers(0, 8)
few = st.sampled_from([2, 0, 1, 4, 6])
mostly = st.sampled_from([True, True, True, False])
sizes = st.integers(1, 4)
wants = st.sampled_from([(), ("web",), ("mail",), ("mail", "web")])
limits = st.sampled_from([None, None, None, 1, 2, 5])
firsts = st.sampled_from([2.0, 2.0, 2.0, 0.5, None])
crews = st.lists(
    st.tuples(sizes, wants, limits, firsts),
    min_size=1,
    max_size=3,
)
waits = st.sampled_from([0.0, 0.0, 0.0, 0.5, 5.0, 59.0, 100.0])
delays = st.sampled_from([0.02, 0.1, 0.5, 1.0, 5.0, 30.0])


def pick(index: int, things: Iterable[Any]) -> Any:
    """
    Return the chosen item.
    """
    there = list(things)
    return there[index % len(there)]


def pickSome(indices: Iterable[int], things: Iterable[Any]) -> list[Any]:
    """
    Return the chosen items, each once.
    """
    there = list(things)
    return [there[at] for at in sorted({index % len(there) for index in indices})]


def refuses(event: Callable[[], Any]) -> bool:
    """
    Say whether an event is against the protocol.
    """
    try:
        event()
    except ProtocolError:
        return True
    return False
