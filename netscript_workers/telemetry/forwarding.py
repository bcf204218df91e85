"""Spans of a process of its own: they go to its worker, which exports them with its own.

A child loads no exporter. What it has ended is on its way at once, so that one that is killed loses
what it had not ended, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from netscript_workers.domain import ClaimedExecution
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.attempts import Traces
from netscript_workers.telemetry.recording import now

# Of one attempt; what a handler makes beyond that is let go of.
MOST_SPANS = 1_000
MOST_EVENTS = 100

Tell = Callable[[dict[str, Any]], None]

_forwarding: list[_Forwarding] = []


def start(tell: Tell) -> None:
    """Record spans in this process and hand them on, unless its own code does so itself."""
    if spans.look() is not None:
        return
    provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
    provider.add_span_processor(forwarding := _Forwarding(tell))
    _forwarding.append(forwarding)
    trace.set_tracer_provider(provider)
    spans.use(provider)


class _Forwarding(SpanProcessor):
    """Sends each span when it has ended."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._left = MOST_SPANS

    def renew(self) -> None:
        """Count anew, for another attempt."""
        self._left = MOST_SPANS

    def on_end(self, span: ReadableSpan) -> None:
        """Send it, if its trace is recorded."""
        context = span.get_span_context()
        if self._left > 0 and context is not None and context.trace_flags.sampled:
            self._left -= 1
            self._tell({"t": "span", **dump(span)})


class ChildTraces(Traces):
    """The attempts of a child: their spans are the worker's, which hears what happens in them."""

    def __init__(self, key_of: Callable[[ClaimedExecution], str], tell: Tell) -> None:
        """Tell the worker, by the key of the attempt."""
        self._key_of, self._tell = key_of, tell

    def context(self, claim: ClaimedExecution) -> Any | None:
        """Return the context in which a handler is called: its span is in the claim."""
        recorder = spans.recorder
        if recorder is None:
            return None
        for forwarding in _forwarding:
            forwarding.renew()
        return recorder.around_remote(claim, _Remote(self, claim))

    def event(
        self, claim: ClaimedExecution, name: str, about: Mapping[str, Any], at: int | None = None
    ) -> None:
        """Tell the worker."""
        told = {"name": name, "about": dict(about), "at": now() if at is None else at}
        self._tell({"t": "event", "k": self._key_of(claim), **told})


class _Remote:
    def __init__(self, traces: ChildTraces, claim: ClaimedExecution) -> None:
        self._traces, self._claim = traces, claim
        self._left = MOST_EVENTS

    def event(self, name: str, about: Mapping[str, Any]) -> None:
        if self._left > 0:
            self._left -= 1
            self._traces.event(self._claim, name, about)


def dump(span: ReadableSpan) -> dict[str, Any]:
    """Write a span that has ended as JSON has it."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    scope = span.instrumentation_scope
    return {
        "name": span.name,
        "context": _dump_context(context),
        "parent": None if parent is None else _dump_context(parent),
        "kind": span.kind.name,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": dict(span.attributes or {}),
        "events": [[one.name, dict(one.attributes or {}), one.timestamp] for one in span.events],
        "links": [[_dump_context(one.context), dict(one.attributes or {})] for one in span.links],
        "status": [span.status.status_code.name, span.status.description],
        "scope": None if scope is None else [scope.name, scope.version, scope.schema_url],
    }


def restore(told: Mapping[str, Any], provider: Any) -> None:
    """Give a span from a child to those who export this process's own.

    Raises:
        KeyError: It lacks something.
        TypeError: Something in it is of another type.
        ValueError: Something in it is of another kind.
    """
    # The SDK has no public way to export what another process has recorded.
    processor: SpanProcessor | None = getattr(provider, "_active_span_processor", None)
    if processor is None:  # a provider that is not the SDK's
        return
    code, description = told["status"]
    scope = told["scope"]
    span = ReadableSpan(
        name=str(told["name"]),
        context=_load_context(told["context"]),
        parent=None if told["parent"] is None else _load_context(told["parent"]),
        resource=provider.resource,
        attributes=_load_about(told["attributes"]),
        events=[
            Event(str(name), _load_about(about), int(at)) for name, about, at in told["events"]
        ],
        links=[Link(_load_context(one), _load_about(about)) for one, about in told["links"]],
        kind=SpanKind[told["kind"]],
        status=Status(StatusCode[code], description),
        start_time=int(told["start"]),
        end_time=int(told["end"]),
        instrumentation_scope=None if scope is None else InstrumentationScope(*scope),
    )
    processor.on_end(span)


def _load_about(told: Mapping[str, Any]) -> BoundedAttributes:
    """Take what an exporter can write; of anything else it would lose the whole batch."""
    return BoundedAttributes(attributes=told, immutable=True)


def _dump_context(context: SpanContext) -> list[Any]:
    state = context.trace_state.to_header()
    return [context.trace_id, context.span_id, int(context.trace_flags), context.is_remote, state]


def _load_context(told: Sequence[Any]) -> SpanContext:
    trace_id, span_id, flags, is_remote, state = told
    return SpanContext(
        int(trace_id),
        int(span_id),
        is_remote=bool(is_remote),
        trace_flags=TraceFlags(flags),
        trace_state=trace.TraceState.from_header([state]) if state else None,
    )
