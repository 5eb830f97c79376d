"""
The steps of this trial.
"""

from __future__ import annotations

from typing import TypeAlias

from tests.machines.lan import Lan
from tests.support import trials

Step: TypeAlias = trials.Step[Lan]
