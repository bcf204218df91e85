"""The SDK's part: readers and exporters as the `OTEL_*` variables say, and Prometheus' text."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY, generate_latest

from netscript_workers.errors import ConfigurationError
from netscript_workers.telemetry.asking import Signal, asks_for
from netscript_workers.telemetry.metering import (
    METERING,
    SCOPE,
    Instrument,
    attributes_of,
)
from netscript_workers.telemetry.otlp_logs import OtlpLogHandler
from netscript_workers.telemetry.tallies import Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PACKAGES = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_EXPORTERS: Mapping[Signal, tuple[str, str]] = {
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
# What is left at the end is sent, but nobody is waited for who does not answer.
_LAST_SECONDS = 3.0


@dataclass(slots=True)
class _Process:
    """What this process exports with; a process has one at most."""

    service: str = "netscript"
    provider: MeterProvider | None = None
    logs: OtlpLogHandler | None = None
    exports: bool = False


_process = _Process()
_starting = threading.Lock()
_scraping = threading.Lock()


def start(service: str, *, scraped: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Export what this process counts and logs, where anybody asks for it.

    A second call changes nothing. The program's own provider is not replaced: `METERING.settle()`
    sees to that, once its modules are loaded.

    Args:
        service: What the process is called, unless `OTEL_SERVICE_NAME` says otherwise.
        scraped: Whether Prometheus' text is wanted.
        environment: Where the `OTEL_*` variables are.

    Raises:
        ConfigurationError: What is asked for is not installed, or not known.
    """
    with _starting:
        if _process.provider is None:
            _process.service = environment.get("OTEL_SERVICE_NAME") or service
            exporter = _exporter("metrics", environment)
            if scraped or exporter is not None:
                _process.provider = _provider(exporter)
                _process.exports = exporter is not None
                METERING.provider = _process.provider
                METERING.connect(_process.provider.get_meter(SCOPE), histograms=False)
        if _process.logs is None and (exporter := _exporter("logs", environment)) is not None:
            _process.logs = OtlpLogHandler(exporter, resource())
            logging.getLogger().addHandler(_process.logs)


def stop() -> None:
    """Send what is left, within a few seconds."""
    provider, handler = _process.provider, _process.logs
    ends: list[Callable[[], object]] = []
    if provider is not None and _process.exports:
        ends.append(provider.shutdown)
    if handler is not None:
        logging.getLogger().removeHandler(handler)
        ends.append(handler.close)
    # Exporters wait for a collector that is gone, and for each other, as long as they like.
    threads = [threading.Thread(target=_quietly, args=(end,), daemon=True) for end in ends]
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))


def _quietly(end: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        end()


def scrape() -> bytes:
    """Return what Prometheus is told, as text."""
    with _scraping:  # the reader's collector serves one at a time
        return generate_latest(REGISTRY)


def resource() -> Resource:
    """Return what this process is, for whoever collects from many."""
    return Resource.create({SERVICE_NAME: _process.service})


def _exporter(signal: Signal, environment: Mapping[str, str]) -> Any:
    """Make the exporter that is asked for; it reads its own variables."""
    if not asks_for(signal, environment):
        return None
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    protocol = environment.get(own) or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    package = _PACKAGES.get(protocol)
    if package is None:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} can't be used.",
            hint=f"Use {' or '.join(_PACKAGES)}.",
        )
    module, name = _EXPORTERS[signal]
    try:
        return getattr(import_module(f"{package}.{module}"), name)()
    except ImportError as error:
        raise ConfigurationError(
            "OTLP is asked for by the OTEL_* variables, and its exporter is not installed.",
            hint="pip install 'netscript[otlp]'",
        ) from error


def _provider(exporter: MetricExporter | None) -> MeterProvider:
    readers: list[MetricReader] = [_PrometheusReader(scope_info_enabled=False)]
    if exporter is not None:
        readers.append(_PeriodicReader(exporter))
    return MeterProvider(readers, resource(), shutdown_on_exit=False)


class _PrometheusReader(PrometheusMetricReader):
    """Adds our histograms, which the SDK does not keep."""

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **more: Any) -> None:
        found = _with_histograms(metrics_data)
        super()._receive_metrics(found, *args, **more)  # pyright: ignore[reportUnknownMemberType] - untyped there


class _PeriodicReader(PeriodicExportingMetricReader):
    """Adds our histograms, which the SDK does not keep."""

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **more: Any) -> None:
        found = _with_histograms(metrics_data)
        super()._receive_metrics(found, *args, **more)  # pyright: ignore[reportUnknownMemberType] - untyped there


_began = time.time_ns()


def _with_histograms(collected: MetricsData) -> MetricsData:
    now = time.time_ns()
    own = [
        _histogram(one, distribution, now) for one, distribution in METERING.distributions.items()
    ]
    own = [one for one in own if one.data.data_points]
    if not own:
        return collected
    parts = list(collected.resource_metrics)
    if not parts:
        parts = [ResourceMetrics(resource(), [], "")]
    scopes = list(parts[0].scope_metrics)
    # Exporters keep one part of each scope.
    place = next((at for at, one in enumerate(scopes) if one.scope.name == SCOPE), None)
    if place is None:
        scopes.append(ScopeMetrics(InstrumentationScope(SCOPE), own, ""))
    else:
        scopes[place] = replace(scopes[place], metrics=[*scopes[place].metrics, *own])
    return MetricsData([replace(parts[0], scope_metrics=scopes), *parts[1:]])


def _histogram(instrument: Instrument, distribution: Distribution, now: int) -> Metric:
    points = [
        HistogramDataPoint(
            attributes=attributes_of(instrument, key),
            start_time_unix_nano=_began,
            time_unix_nano=now,
            count=sum(spread.counts),
            sum=spread.total,
            bucket_counts=spread.counts,
            explicit_bounds=distribution.bounds,
            min=spread.least,
            max=spread.most,
        )
        for key, spread in distribution.read()
    ]
    data = Histogram(points, AggregationTemporality.CUMULATIVE)
    return Metric(instrument.name, instrument.description, instrument.unit, data)
