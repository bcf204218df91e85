"""What the `OTEL_*` variables ask for; to know that, nobody has to load the SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, TypeAlias

from netscript_workers.errors import ConfigurationError

Signal: TypeAlias = Literal["metrics", "logs"]


def asks_for(signal: Signal, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the `OTEL_*` variables ask for a signal by OTLP.

    By the exporter's name; or, where none is named, by an endpoint.

    Raises:
        ConfigurationError: An exporter is named that there is not.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    name = f"OTEL_{signal.upper()}_EXPORTER"
    named = [one.strip() for one in environment.get(name, "").split(",") if one.strip()]
    known = {"otlp", "none"} | ({"prometheus"} if signal == "metrics" else set[str]())
    for one in named:
        if one not in known:
            raise ConfigurationError(
                f"{name}: {one!r} can't be used.", hint=f"Use one of {', '.join(sorted(known))}."
            )
    if named:
        return "otlp" in named
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return any(environment.get(one) for one in endpoints)
