"""
The number of histories that random tests try.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: Of tests that try many histories; C{PORTLISTEN_EXAMPLES} says how many.
SETTINGS = settings(
    max_examples=int(os.environ.get("PORTLISTEN_EXAMPLES", "300")),
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
