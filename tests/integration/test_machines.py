"""
Three machines behind two balancers, each in a network namespace, with the files of
C{contrib/haproxy} and C{contrib/keepalived}.  C{python -m tests.machines} does more.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machines import killing, moving, origins, taking_out
from tests.machines.lan import Lacking, Lan


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """
    The network, with machines that serve.
    """
    try:
        made = Lan()
    except Lacking as error:
        pytest.skip(str(error))
    with made:
        made.start()
        yield made


def test_eachInTurn(lan: Lan) -> None:
    """
    Each machine in turn is taken out, upgraded and brought back: wrk has no errors.
    """
    print(taking_out.eachInTurn(lan))


def test_killed(lan: Lan) -> None:
    """
    If a machine loses its power, only what is in service there is lost.
    """
    print(killing.power(lan))


def test_origins(lan: Lan) -> None:
    """
    A worker sees the client's address, and believes no header of a client.
    """
    print(origins.honest(lan))
    print(origins.forged(lan))


def test_moved(lan: Lan) -> None:
    """
    If the balancer that has the address loses its power, the other one has it soon.
    """
    print(moving.powerOff(lan))
