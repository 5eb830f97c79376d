"""
How long connections waited until a worker claimed them.
"""

from __future__ import annotations

#: The upper bounds of the ranges that are counted, in seconds.
BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
