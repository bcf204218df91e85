"""Wiring: OpenTelemetry's SDK for our commands, from the standard `OTEL_*` variables."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from netscript_workers.errors import ConfigurationError, nearest
from netscript_workers.telemetry import spans

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

PROTOCOLS = ("http/protobuf", "grpc")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
# How long a process that ends waits for the collector to take what is left.
FLUSH_SECONDS = 3.0

_OTLP = "OTEL_EXPORTER_OTLP"
_GROUP = "opentelemetry_traces_exporter"


class Tracing:
    """What a command has set up; it is told when the command ends."""

    def __init__(self, provider: TracerProvider | None) -> None:
        """Hold a provider of ours; None where there is none."""
        self._provider = provider

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Have what is left taken, but wait no longer than this."""
        provider, self._provider = self._provider, None
        if provider is None:
            return
        ending = threading.Thread(target=provider.shutdown, name="netscript-flush", daemon=True)
        try:
            ending.start()
        except RuntimeError:  # no thread is to be had
            return
        ending.join(seconds)


def start_tracing(role: str, environ: Mapping[str, str] = os.environ) -> Tracing:
    """Record spans and send them where the `OTEL_*` variables say; do nothing where they don't.

    A tracer provider that somebody has set already is used as it is.

    Args:
        role: Which of our processes this is: `serve`, `worker` or `scheduler`.
        environ: Where the variables are.

    Raises:
        ConfigurationError: What they ask for can't be had.
    """
    names = exporters(environ, "TRACES")
    if names:
        check_sampler(environ)
    if not names or spans.look() is not None:
        return Tracing(None)
    from opentelemetry import trace  # noqa: PLC0415 - only where somebody listens
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    from netscript_workers.telemetry.exporting import CalmExporter  # noqa: PLC0415

    quiet_libraries()
    provider = TracerProvider(resource=make_resource(role, environ), shutdown_on_exit=False)
    for name in names:
        exporter = CalmExporter(_exporter(name, environ))
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    spans.use(provider)
    return Tracing(provider)


def exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    """Return the names of the exporters that are asked for.

    Args:
        environ: Where the variables are.
        signal: `TRACES`, `METRICS` or `LOGS`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    given = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    if not given:
        endpoints = (f"{_OTLP}_{signal}_ENDPOINT", f"{_OTLP}_ENDPOINT")
        return ["otlp"] if any(environ.get(name, "").strip() for name in endpoints) else []
    names = [name.strip().lower() for name in given.split(",") if name.strip()]
    return [] if "none" in names else list(dict.fromkeys(names))


def protocol(environ: Mapping[str, str], signal: str) -> str:
    """Return how OTLP is spoken.

    Raises:
        ConfigurationError: Not in this way.
    """
    names = (f"{_OTLP}_{signal}_PROTOCOL", f"{_OTLP}_PROTOCOL")
    name = next((name for name in names if environ.get(name, "").strip()), None)
    if name is None:
        return PROTOCOLS[0]
    asked = environ[name].strip().lower()
    if asked not in PROTOCOLS:
        raise ConfigurationError(
            f'{name}="{asked}" is no protocol of ours.', hint=f"Use {' or '.join(PROTOCOLS)}."
        )
    return asked


def lacks_otlp(error: ImportError) -> ConfigurationError:
    """Return the error of an exporter that is not installed."""
    return ConfigurationError(
        f"The OTEL_* variables ask for OTLP, but {error.name} is not installed.",
        hint="Install it: pip install netscript[otlp]",
    )


def make_resource(role: str, environ: Mapping[str, str] = os.environ) -> Resource:
    """Return what all signals of this process say of it.

    `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over what is ours.
    """
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - only where somebody listens

    from netscript_workers import __version__  # noqa: PLC0415 - it is ours

    given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    known = {part.split("=", 1)[0].strip() for part in given.split(",")}
    ours: dict[str, Any] = {
        "service.name": "netscript",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
        "netscript.process": role,
    }
    if environ.get("OTEL_SERVICE_NAME", "").strip():
        known.add("service.name")
    return Resource.create({name: value for name, value in ours.items() if name not in known})


def check_sampler(environ: Mapping[str, str]) -> None:
    """Refuse a sampler that the SDK would pass over with a warning.

    Raises:
        ConfigurationError: There is none of this name, or its ratio is none.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return
    if name not in SAMPLERS and not entry_points(group="opentelemetry_traces_sampler", name=name):
        close = nearest(name, SAMPLERS)
        raise ConfigurationError(
            f'OTEL_TRACES_SAMPLER="{name}" is no sampler.',
            hint=f'Did you mean "{close}"?' if close else f"Use one of {', '.join(SAMPLERS)}.",
        )
    ratio = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if not name.endswith("traceidratio") or not ratio:
        return
    try:
        fits = 0.0 <= float(ratio) <= 1.0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigurationError(
            f'OTEL_TRACES_SAMPLER_ARG="{ratio}" is no ratio.',
            hint="Write a number from 0 to 1, such as 0.1.",
        )


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    if name == "otlp":
        return _otlp(protocol(environ, "TRACES"))
    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        raise ConfigurationError(
            f'OTEL_TRACES_EXPORTER="{name}" is no exporter that is installed.',
            hint="Use otlp, console or none, or install the package that has it.",
        )
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as error:
        raise ConfigurationError(
            f'The exporter "{name}" of OTEL_TRACES_EXPORTER does not start: {type(error).__name__}.'
        ) from error
    return exporter


def _otlp(spoken: str) -> SpanExporter:
    try:
        if spoken == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc import (  # noqa: PLC0415
                trace_exporter as over_grpc,
            )

            return over_grpc.OTLPSpanExporter()
        from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415
            trace_exporter as over_http,
        )

        return over_http.OTLPSpanExporter()
    except ImportError as error:
        raise lacks_otlp(error) from error
    except ValueError as error:  # such as a compression or a timeout that is none
        raise ConfigurationError(
            "The exporter refuses what an OTEL_EXPORTER_OTLP_* variable says: "
            f"{type(error).__name__}."
        ) from error


def quiet_libraries() -> None:
    """Have the exporters' own loggers say nothing: a collector that is away would fill the log."""
    for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
