"""The switch: who records spans, if anybody does.

OpenTelemetry is loaded by those who listen. Where nobody does, a look at `recorder` is the cost.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netscript_workers.telemetry.recorder import Recorder

# None: nobody listens. Read it as `spans.recorder`, for it changes.
recorder: Recorder | None = None

_NOBODYS = frozenset({"ProxyTracerProvider", "NoOpTracerProvider"})


def look() -> Recorder | None:
    """Find out whether somebody has set a tracer provider by now; return the recorder.

    Called where work begins and for each batch, never for each item.
    """
    api = None if recorder is not None else sys.modules.get("opentelemetry.trace")
    if api is not None and hasattr(api, "get_tracer_provider"):
        provider = api.get_tracer_provider()
        if type(provider).__name__ not in _NOBODYS:
            use(provider)
    return recorder


def enter(context: Any) -> None:
    """Make a context the current one, in a task that ends with what is done in it."""
    from opentelemetry.context import attach  # noqa: PLC0415 - loads OpenTelemetry

    attach(context)


def use(provider: Any) -> None:
    """Record with this tracer provider from now on; None records nothing."""
    global recorder  # noqa: PLW0603 - one look at it is what telemetry costs where it is off
    if provider is None:
        recorder = None
        return
    from netscript_workers.telemetry.recorder import Recorder  # noqa: PLC0415 - loads OpenTelemetry

    recorder = Recorder(provider)
