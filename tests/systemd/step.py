"""
The steps of this trial.
"""

from __future__ import annotations

from typing import TypeAlias

from tests.support import trials
from tests.systemd.machine import Machine

Step: TypeAlias = trials.Step[Machine]
