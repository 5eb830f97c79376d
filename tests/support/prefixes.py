"""
Networks and addresses for tests.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

from hypothesis import strategies as st

from portlisten._policy.networks import Network

#: A few addresses, so that networks overlap often.
V4 = st.integers(0, 15).map(lambda each: 0xCB007100 | each << 4 | each)
V6 = st.integers(0, 15).map(lambda each: 0x20010DB8 << 96 | each << 64 | each)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """
    Make a network.
    """
    if draw(st.booleans()):
        bits = draw(st.sampled_from([0, 24, 28, 30, 32]))
        return IPv4Network((draw(V4), bits), strict=False)
    bits = draw(st.sampled_from([0, 32, 64, 128]))
    return IPv6Network((draw(V6), bits), strict=False)


HOSTS = V4.map(ip_address) | V6.map(ip_address)
