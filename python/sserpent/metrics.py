"""Metrics of the streams and channels of this process, for Prometheus and for OpenTelemetry.

    from sserpent.metrics import instrument_prometheus

    instrument_prometheus()  # registers with prometheus_client's own registry

    from sserpent.metrics import instrument_opentelemetry

    instrument_opentelemetry()  # instruments of the global meter provider

Call one when the application starts: streams that are open already are not counted. Without a call
nothing is counted, and streams cost nothing more. Labels are routes, reasons and names of channels,
so clients cannot create new label values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from ._delivery.observer import Observer, observe

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    _Callback = Callable[[CallbackOptions], Iterable[Observation]]

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
        A function that stops the export. With several meter providers, totals and gauges are
        exported until it has been called for each.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    try:
        from opentelemetry.metrics import get_meter
    except ImportError as error:
        raise _missing("opentelemetry-api", "opentelemetry") from error
    observer = observe()
    listener = _OpenTelemetryListener(observer, get_meter("sserpent", "", meter_provider))
    forget = observer.listen(listener)

    def stop() -> None:
        forget()
        listener.stop()

    return stop


def _missing(package: str, extra: str) -> ImportError:
    return ImportError(f"{package} is not installed: pip install 'sserpent[{extra}]'")


# The key in `Observer.by_route`, the name, the description, the unit.
_BY_ROUTE = (
    ("open", "streams.open", "Streams that are open", "{stream}"),
    ("refused", "streams.refused", "Streams refused because of a limit", "{stream}"),
    ("events", "events", "Events sent", "{event}"),
    ("sent_bytes", "sent", "Bytes of events sent", "By"),
    ("wire_bytes", "wire", "Bytes of bodies sent, as compressed, with keep-alives", "By"),
    ("sends", "sends", "Messages sent, of one or more events", "{send}"),
    ("pending_bytes", "pending", "Bytes that are buffered for slow clients", "By"),
)
# Gauges. All other metrics only increase.
_GAUGES = ("open", "pending_bytes")


class _PrometheusListener:
    """A collector for Prometheus. It is told of first events, ends, gaps and resets."""

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
        self._gaps = Counter("sserpent_gaps", "Gaps told to subscribers", channel, **options)
        self._missed = Counter("sserpent_missed_events", "Events in these gaps", channel, **options)
        self._resets = Counter("sserpent_resets", "Resets told to subscribers", channel, **options)

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
            "sserpent_published_events", "Events published in this process", labels=["channel"]
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


# With the suffixes that Prometheus wants for units. prometheus_client adds `_total` to counters.
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

    # The listeners that were not stopped. A meter cannot give up an instrument, and keeps the first
    # of each name: after a second instrumenting, it still calls the callbacks of the first.
    _exporting: ClassVar[set[_OpenTelemetryListener]] = set()

    def __init__(self, observer: Observer, meter: Any) -> None:
        self._observer = observer
        self._exporting.add(self)
        for key, name, description, unit in _BY_ROUTE:
            create = (
                meter.create_observable_up_down_counter
                if key in _GAUGES
                else meter.create_observable_counter
            )
            callback = self._unless_stopped(self._by_route(key))
            create(f"sserpent.{name}", [callback], unit, description)
        meter.create_observable_counter(
            "sserpent.published",
            [self._unless_stopped(self._published)],
            "{event}",
            "Events published in this process",
        )
        meter.create_observable_up_down_counter(
            "sserpent.generator.threads",
            [self._unless_stopped(self._threads)],
            "{thread}",
            "Threads of sync generators",
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
        self._gaps = meter.create_counter("sserpent.gaps", "{gap}", "Gaps told to subscribers")
        self._missed = meter.create_counter("sserpent.missed", "{event}", "Events in these gaps")
        self._resets = meter.create_counter(
            "sserpent.resets", "{reset}", "Resets told to subscribers"
        )

    def stop(self) -> None:
        """Ends the export, unless another listener exports."""
        self._exporting.discard(self)

    def _unless_stopped(self, observe: _Callback) -> _Callback:
        return lambda options: observe(options) if self._exporting else ()

    def _by_route(self, key: str) -> _Callback:
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
