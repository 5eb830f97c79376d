"""
What the dashboard and the alerts in C{contrib} ask Prometheus for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from portlisten._monitor.metric_names import METRICS, Type

CONTRIB = Path(__file__).parents[2] / "contrib"
DASHBOARD = CONTRIB / "grafana" / "portlisten.json"
PROMETHEUS = CONTRIB / "prometheus"

#: What Grafana puts into expressions, and a value for each.
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}


def dashboard() -> dict[str, Any]:
    """
    Read the dashboard.
    """
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def expressions() -> Iterator[str]:
    """
    Find the expressions of the dashboard, as Prometheus gets them.
    """
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text: str = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            yield text


def mentioned(text: str) -> set[str]:
    """
    Find the names of portlisten's metrics in a text.
    """
    return set(re.findall(r"\bportlisten_[a-z_]+", text))


def series() -> set[str]:
    """
    The names that queries may have.
    """
    found: set[str] = set()
    for each in METRICS:
        endings = ("_bucket", "_count", "_sum")
        if each.type is Type.HISTOGRAM:
            found.update(each.family + ending for ending in endings)
        else:
            found.add(each.name)
    return found
