"""
The steps of this trial.
"""

from __future__ import annotations

from typing import TypeAlias

from tests.containers.trial import Trial
from tests.support import trials

Step: TypeAlias = trials.Step[Trial]
