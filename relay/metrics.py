"""What a running relay counts, as one value: the status page and Prometheus both show this.

Counts only: no PeerId, no address, nothing about who talks with whom.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Counts", "Fill", "render_metrics"]


@dataclass(frozen=True, slots=True)
class Fill:
    """How near a limit of the whole relay is."""

    limit: str
    """As in `relay/resources.py`: group.name."""
    used: int
    of: int


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot; counters run from the program's start."""

    uptime_s: float
    is_draining: bool
    fills: tuple[Fill, ...]
    circuit_bytes: int
    """Through circuits of circuit relay v2, both ways."""
    circuits_ended: Mapping[str, int]
    """By reason."""
    forwarded_bytes: int
    forwarded_datagrams: int
    reflected: int
    datagrams_dropped: Mapping[str, int]
    """By reason."""
    refused: Mapping[str, int]
    """Requests, by reason: a limit's name or a word."""


class _Snapshot(Collector):
    """Turns one `Counts` into metric families."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        yield _gauge("uptime_seconds", "Since the relay started.", counts.uptime_s)
        yield _gauge("draining", "1 once it grants nothing new.", float(counts.is_draining))
        yield _labelled(
            GaugeMetricFamily, "used", "Of each limit of the whole relay.", "limit",
            {fill.limit: fill.used for fill in counts.fills},
        )  # fmt: skip
        yield _labelled(
            GaugeMetricFamily, "limit", "Each limit of the whole relay.", "limit",
            {fill.limit: fill.of for fill in counts.fills},
        )  # fmt: skip
        yield _counter("circuit_bytes", "Carried by circuits over TCP.", counts.circuit_bytes)
        yield _counter("forwarded_bytes", "Carried by the UDP forwarder.", counts.forwarded_bytes)
        yield _counter(
            "forwarded_datagrams", "Carried by the UDP forwarder.", counts.forwarded_datagrams
        )
        yield _counter("reflected", "Answers of the reflector.", counts.reflected)
        yield _labelled(
            CounterMetricFamily, "circuits_ended", "Circuits over TCP.", "reason",
            counts.circuits_ended,
        )  # fmt: skip
        yield _labelled(
            CounterMetricFamily, "datagrams_dropped", "At the UDP ports.", "reason",
            counts.datagrams_dropped,
        )  # fmt: skip
        yield _labelled(
            CounterMetricFamily, "refused", "Requests of peers.", "reason", counts.refused
        )


def render_metrics(counts: Counts) -> bytes:
    """Prometheus text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(counts))
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"piecework_relay_{name}", text, value=value)


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"piecework_relay_{name}", text, value=value)


def _labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, int],
) -> Metric:
    metric = family(f"piecework_relay_{name}", text, labels=[label])
    for value, count in values.items():
        metric.add_metric([value], count)
    return metric
