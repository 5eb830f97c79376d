"""
The metrics, as Prometheus reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from operator import attrgetter

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from portlisten._control.messages import StatusAnswer
from portlisten._monitor.measurements import Measurement, measure
from portlisten._monitor.metric_names import METRICS, Metric, Type
from portlisten._policy.claim_times import BOUNDS

_OPEN_METRICS = "application/openmetrics-text"

#: The versions of OpenMetrics that are written, and of which these are the same.
_VERSIONS = ("", "0.0.1", "1.0.0")

_EDGES = (*map(floatToGoString, BOUNDS), "+Inf")


def render(answer: StatusAnswer | None, accept: str) -> tuple[str, bytes]:
    """
    Write the metrics.

    @param answer: the status; L{None} if neither the listener nor its supervisor
        answers.
    @param accept: the header C{Accept} of the request, or empty.
    @return: the type of the content, and the content.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(measure(answer)))
    # The versions of the library differ in what else they make of the header, and some
    # repeat parts of it in the type of the content.
    encode, kind = choose_encoder(_OPEN_METRICS if _wantsOpenMetrics(accept) else "")
    return kind, encode(registry)


def _wantsOpenMetrics(accept: str) -> bool:
    """
    Say whether a client likes OpenMetrics at least as much as the text of Prometheus,
    which all clients understand.
    """
    open, text = 0.0, 0.0
    for each in accept.split(",")[:100]:
        kind, *parameters = (part.strip() for part in each.split(";"))
        given = dict(part.partition("=")[::2] for part in parameters)
        liking = _quality(given.get("q", "1"))
        if kind == _OPEN_METRICS and given.get("version", "") in _VERSIONS:
            open = max(open, liking)
        elif kind == "text/plain":
            text = max(text, liking)
    return open > 0 and open >= text


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


class _Collector(Collector):
    """
    Makes families of series of measurements.
    """

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        order = {metric.base: number for number, metric in enumerate(METRICS)}
        # Prometheus refuses everything if one series comes twice.
        series = {(order[each.metric.base], each.labels): each for each in measurements}
        self._measurements = [series[key] for key in sorted(series)]

    def collect(self) -> Iterator[Family]:
        """
        Make the families.
        """
        for metric, found in groupby(self._measurements, attrgetter("metric")):
            yield _family(metric, found)


def _family(metric: Metric, found: Iterable[Measurement]) -> Family:
    name, help, labels = metric.family, metric.meaning + ".", metric.labels
    if metric.type is Type.HISTOGRAM:
        histogram = HistogramMetricFamily(name, help, labels=labels)
        for each in found:
            counts = map(float, accumulate(each.buckets))
            buckets = list(zip(_EDGES, counts, strict=True))
            histogram.add_metric(each.labels, buckets, each.value)
        return histogram
    if metric.type is Type.INFO:
        info = InfoMetricFamily(name, help)
        for each in found:
            info.add_metric((), dict(zip(labels, each.labels, strict=True)))
        return info
    kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
    family = kind(name, help, labels=labels)
    for each in found:
        family.add_metric(each.labels, each.value)
    return family
