"""Metrics of the streams and channels of this process, for Prometheus and for OpenTelemetry.

    from sserpent.metrics import instrument_prometheus

    instrument_prometheus()  # registers with prometheus_client's own registry

    from sserpent.metrics import instrument_opentelemetry

    instrument_opentelemetry()  # instruments of the global meter provider

Streams that were opened before are not known. Until one of them is called nothing is counted, and
nothing costs. Labels are routes, reasons and channels: never more of them than an application has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ._delivery.observer import Observer, observe

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["instrument_opentelemetry", "instrument_prometheus"]

# Seconds: a first event comes in milliseconds, and a stream may stay for hours.
_FIRST_EVENT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LENGTH = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)


def instrument_prometheus(registry: CollectorRegistry | None = None) -> Callable[[], None]:
    """Exports the metrics to prometheus-client.

    Args:
        registry: The registry. The default is prometheus-client's own.

    Returns:
        A function that removes the metrics from the registry.

    Raises:
        ImportError: prometheus-client is not installed.
        ValueError: the registry has them already.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as error:
        raise _missing("prometheus-client", "prometheus") from error
    observer = observe()
    listener = _PrometheusListener(observer)
    (registry or REGISTRY).register(listener)
    stop = observer.listen(listener)

    def take_out() -> None:
        stop()
        (registry or REGISTRY).unregister(listener)

    return take_out


def instrument_opentelemetry(meter_provider: MeterProvider | None = None) -> Callable[[], None]:
    """Exports the metrics to OpenTelemetry.

    Args:
        meter_provider: The meter provider. The default is the global one.

    Returns:
        A function that stops the export. Values that were counted stay.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    try:
        from opentelemetry.metrics import get_meter
    except ImportError as error:
        raise _missing("opentelemetry-api", "opentelemetry") from error
    observer = observe()
    return observer.listen(
        _OpenTelemetryListener(observer, get_meter("sserpent", "", meter_provider))
    )


def _missing(package: str, extra: str) -> ImportError:
    return ImportError(f"{package} is not installed: pip install 'sserpent[{extra}]'")


# Gauges: the key in `Observer.by_route`, the name, the description, the unit.
_BY_ROUTE = (
    ("open", "streams.open", "Streams that are open", "{stream}"),
    ("refused", "streams.refused", "Streams for which there was no place", "{stream}"),
    ("events", "events", "Events sent", "{event}"),
    ("sent_bytes", "sent", "Bytes of events sent", "By"),
    ("wire_bytes", "wire", "Bytes of bodies sent, as compressed, with keep-alives", "By"),
    ("sends", "sends", "Messages sent, of one or more events", "{send}"),
    ("pending_bytes", "pending", "Bytes of events that wait to be sent", "By"),
)
# Those that go down too.
_GAUGES = ("open", "pending_bytes")


class _PrometheusListener:
    """A collector, and a listener for what has to be told at once."""

    def __init__(self, observer: Observer) -> None:
        from prometheus_client import Counter, Histogram

        self._observer = observer
        options: dict[str, Any] = {"registry": None}
        self._first_event = Histogram(
            "sserpent_first_event_seconds",
            "From the opening of a stream to its first event",
            ["route"],
            buckets=_FIRST_EVENT,
            **options,
        )
        self._length = Histogram(
            "sserpent_stream_seconds",
            "From the opening of a stream to its end",
            ["route", "reason"],
            buckets=_LENGTH,
            **options,
        )
        channel = ["channel", "reason"]
        self._gaps = Counter("sserpent_gaps", "Gaps that were told", channel, **options)
        self._missed = Counter("sserpent_missed_events", "Events in gaps", channel, **options)
        self._resets = Counter("sserpent_resets", "Resets that were told", channel, **options)

    def first_event(self, route: str, seconds: float) -> None:
        self._first_event.labels(route).observe(seconds)

    def ended(self, route: str, reason: str, seconds: float) -> None:
        self._length.labels(route, reason).observe(seconds)

    def gap(self, channel: str, reason: str, missed: int) -> None:
        self._gaps.labels(channel, reason).inc()
        self._missed.labels(channel, reason).inc(missed)

    def reset(self, channel: str, reason: str) -> None:
        self._resets.labels(channel, reason).inc()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        by_route = self._observer.by_route()
        for key, _, description, _ in _BY_ROUTE:
            family = GaugeMetricFamily if key in _GAUGES else CounterMetricFamily
            metric = family(_PROMETHEUS_NAMES[key], description, labels=["route"])
            for route, totals in by_route.items():
                metric.add_metric([route], totals[key])
            yield metric
        published = CounterMetricFamily(
            "sserpent_published_events", "Events published here", labels=["channel"]
        )
        for channel, count in self._observer.by_channel().items():
            published.add_metric([channel], count)
        yield published
        yield GaugeMetricFamily(
            "sserpent_generator_threads",
            "Threads of sync generators",
            value=self._observer.threads(),
        )
        for each in (self._first_event, self._length, self._gaps, self._missed, self._resets):
            yield from each.collect()


# With Prometheus' endings for units; a counter gets its own.
_PROMETHEUS_NAMES = {
    "open": "sserpent_streams_open",
    "refused": "sserpent_streams_refused",
    "events": "sserpent_events",
    "sent_bytes": "sserpent_sent_bytes",
    "wire_bytes": "sserpent_wire_bytes",
    "sends": "sserpent_sends",
    "pending_bytes": "sserpent_pending_bytes",
}


class _OpenTelemetryListener:
    """Instruments, by the conventions of https://opentelemetry.io/docs/specs/semconv/general/metrics/."""

    def __init__(self, observer: Observer, meter: Any) -> None:
        self._observer = observer
        for key, name, description, unit in _BY_ROUTE:
            create = (
                meter.create_observable_up_down_counter
                if key in _GAUGES
                else meter.create_observable_counter
            )
            create(f"sserpent.{name}", [self._by_route(key)], unit, description)
        meter.create_observable_counter(
            "sserpent.published", [self._published], "{event}", "Events published here"
        )
        meter.create_observable_up_down_counter(
            "sserpent.generator.threads", [self._threads], "{thread}", "Threads of sync generators"
        )
        self._first_event = meter.create_histogram(
            "sserpent.first_event.duration",
            "s",
            "From the opening of a stream to its first event",
            explicit_bucket_boundaries_advisory=_FIRST_EVENT,
        )
        self._length = meter.create_histogram(
            "sserpent.stream.duration",
            "s",
            "From the opening of a stream to its end",
            explicit_bucket_boundaries_advisory=_LENGTH,
        )
        self._gaps = meter.create_counter("sserpent.gaps", "{gap}", "Gaps that were told")
        self._missed = meter.create_counter("sserpent.missed", "{event}", "Events in gaps")
        self._resets = meter.create_counter("sserpent.resets", "{reset}", "Resets that were told")

    def _by_route(self, key: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observed(_: CallbackOptions) -> Iterable[Observation]:
            for route, totals in self._observer.by_route().items():
                yield Observation(totals[key], {"http.route": route})

        return observed

    def _published(self, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for channel, count in self._observer.by_channel().items():
            yield Observation(count, {"sserpent.channel": channel})

    def _threads(self, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        yield Observation(self._observer.threads())

    def first_event(self, route: str, seconds: float) -> None:
        self._first_event.record(seconds, {"http.route": route})

    def ended(self, route: str, reason: str, seconds: float) -> None:
        self._length.record(seconds, {"http.route": route, "sserpent.end.reason": reason})

    def gap(self, channel: str, reason: str, missed: int) -> None:
        attributes = {"sserpent.channel": channel, "sserpent.gap.reason": reason}
        self._gaps.add(1, attributes)
        self._missed.add(missed, attributes)

    def reset(self, channel: str, reason: str) -> None:
        self._resets.add(1, {"sserpent.channel": channel, "sserpent.reset.reason": reason})
