"""Recording: our spans, by OpenTelemetry's API alone.

What belongs to a trace that is not sampled costs no span: its context is handed on as it came.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)

from netscript_workers.domain import ClaimedExecution, Enqueued, NewExecution
from netscript_workers.telemetry import w3c

Attributes: TypeAlias = Mapping[str, Any]

SYSTEM = "netscript"
# More executions of one handler than this share a span.
MOST_ENQUEUED = 32
# As many links as the SDK keeps of a span.
MOST_LINKS = 128

_INVALID = trace.INVALID_SPAN_CONTEXT


def text_of(context: SpanContext) -> str:
    """Write a span's context as a `traceparent`."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def state_of(context: SpanContext) -> str | None:
    """Write what vendors have added to it as a `tracestate`."""
    return context.trace_state.to_header() or None


def parse(traceparent: str | None, tracestate: str | None = None) -> SpanContext | None:
    """Read a context that came from elsewhere; None where it says nothing."""
    if traceparent is None or not w3c.is_valid(traceparent):
        return None
    state = TraceState.from_header([tracestate]) if tracestate else None
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
        trace_state=state,
    )


def current() -> SpanContext | None:
    """Return the context of the span that is under way here."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


class UnrecordedSpan(NonRecordingSpan):
    """A span of a trace that is not recorded; most of these nobody asks for their context."""

    def __init__(self, traceparent: str, tracestate: str | None) -> None:
        super().__init__(_INVALID)
        self._said: tuple[str, str | None] | None = (traceparent, tracestate)

    def get_span_context(self) -> SpanContext:
        """Read it when somebody asks."""
        if self._said is not None:
            self._context, self._said = parse(*self._said) or _INVALID, None
        return self._context


class Sending:
    """Executions on their way into the store, each with the span that made it.

    Attributes:
        parent: What led to them; its trace tells of the commit.
    """

    __slots__ = ("_spans", "parent")

    def __init__(self, parent: SpanContext, spans: Sequence[Span]) -> None:
        """Hold what is ended once they are stored; what is never ended is told to nobody."""
        self.parent = parent
        self._spans = spans

    def stored(self, enqueued: Sequence[Enqueued]) -> None:
        """Tell that they are stored, and which of them were duplicates, where that is known."""
        if len(enqueued) == len(self._spans):
            for span, one in zip(self._spans, enqueued, strict=True):
                if one.duplicate:
                    span.set_attributes(
                        {"netscript.duplicate": True, "messaging.message.id": one.execution_id}
                    )
        for span in self._spans:
            span.end()


class Recording:
    """Makes spans with the tracer provider that somebody has set: those of the store's ways."""

    def __init__(self, provider: TracerProvider) -> None:
        """Record with this provider."""
        self.provider = provider
        self._tracer = provider.get_tracer("netscript")
        self._drops = _drops_unsampled(provider)

    def skips(self, parent: SpanContext) -> bool:
        """Tell whether nothing of this parent's trace is recorded, so that no span is needed."""
        return self._drops and not parent.trace_flags & TraceFlags.SAMPLED

    def skips_text(self, traceparent: str | None) -> bool:
        """Tell the same of a valid `traceparent`."""
        return self._drops and traceparent is not None and not w3c.is_sampled(traceparent)

    def start(
        self,
        name: str,
        parent: SpanContext | None,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        about: Attributes | None = None,
        start_time: int | None = None,
    ) -> Span:
        """Start a span that is nobody's current one.

        Args:
            name: One of few.
            parent: None begins a trace.
            kind: As OpenTelemetry has it.
            about: Its attributes; of one that begins a trace, those that a sampler needs.
            start_time: Nanoseconds since the epoch; by default now.
        """
        if parent is None:
            return self._tracer.start_span(name, Context(), kind, about, start_time=start_time)
        if self.skips(parent):
            return NonRecordingSpan(parent)
        context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
        return self._tracer.start_span(name, context, kind, about, start_time=start_time)

    def produce(
        self, executions: Sequence[NewExecution], parent: SpanContext | None
    ) -> Sending | None:
        """Give new executions the context of the span that makes them.

        Args:
            executions: About to be stored; their `traceparent` is set.
            parent: What led to them; None where nothing is known of it.

        Returns:
            What is to be told once they are stored; None if nobody wants to hear of it.
        """
        if parent is not None and self.skips(parent):
            return None
        spans: list[Span] = []
        if len(executions) > MOST_ENQUEUED:
            span = self._producer(
                executions[0], parent, {"messaging.batch.message_count": len(executions)}
            )
            spans.append(span)
            for new in executions:
                _carry(new, span)
        else:
            for new in executions:
                span = self._producer(new, parent, {"messaging.message.id": new.id})
                spans.append(span)
                _carry(new, span)
        return Sending(parent or _first(spans), spans)

    def _producer(self, new: NewExecution, parent: SpanContext | None, about: Attributes) -> Span:
        facts = {
            "messaging.system": SYSTEM,
            "messaging.operation.type": "send",
            "messaging.operation.name": "enqueue",
            "messaging.destination.name": new.topic,
            "netscript.job.id": new.job_id,
            **about,
        }
        if new.correlation_id is not None:
            facts["messaging.message.conversation_id"] = new.correlation_id
        return self.start("job.enqueue", parent, SpanKind.PRODUCER, about=facts)

    def committed(
        self, stored: Iterable[tuple[Sending | None, Sequence[Enqueued]]], began: int
    ) -> None:
        """Tell of one commit that was of several requests.

        It stands in the trace of the first of them that is sampled, and links all of them.

        Args:
            stored: What was stored, and what became of its executions.
            began: When the transaction began, in nanoseconds since the epoch.
        """
        members: list[SpanContext] = []
        for sending, enqueued in stored:
            if sending is not None:
                members.append(sending.parent)
                sending.stored(enqueued)
        if members:
            span = self._of_many("store.commit", members, SpanKind.INTERNAL, began)
            span.set_attribute("netscript.batch.size", len(members))
            span.end()

    def received(self, claims: Sequence[ClaimedExecution], began: int, worker_id: str) -> None:
        """Tell of executions that one transaction has claimed."""
        told = [one for one in claims if not self.skips_text(one.traceparent)]
        members = [parse(one.traceparent, one.tracestate) for one in told]
        named = [one for one in members if one is not None]
        if not named:
            return
        span = self._of_many("job.dequeue", named, SpanKind.CONSUMER, began)
        if span.is_recording():
            topics = {one.topic for one in claims}
            about: dict[str, Any] = {
                "messaging.system": SYSTEM,
                "messaging.operation.type": "receive",
                "messaging.operation.name": "dequeue",
                "messaging.batch.message_count": len(claims),
                "messaging.client.id": worker_id,
            }
            if len(topics) == 1:
                about["messaging.destination.name"] = topics.pop()
            span.set_attributes(about)
        span.end()

    def _of_many(
        self, name: str, members: Sequence[SpanContext], kind: SpanKind, began: int
    ) -> Span:
        leader = next((one for one in members if not self.skips(one)), members[0])
        span = self.start(name, leader, kind, start_time=began)
        if span.is_recording():
            for one in members[:MOST_LINKS]:
                span.add_link(one)
        return span

    def carried_here(self) -> tuple[str | None, str | None]:
        """Return what continues the trace of the span that is under way here."""
        context = current()
        return (None, None) if context is None else (text_of(context), state_of(context))

    def context(self, traceparent: str | None, tracestate: str | None) -> Context | None:
        """Return a context in which this span is the current one, and anything else as here."""
        if traceparent is not None and self.skips_text(traceparent):
            return trace.set_span_in_context(UnrecordedSpan(traceparent, tracestate))
        found = parse(traceparent, tracestate)
        return None if found is None else trace.set_span_in_context(NonRecordingSpan(found))


def fail(span: Span, error_type: str, description: str | None = None) -> None:
    """Mark a span as failed. No message of an exception stands in a span: it may tell anything."""
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR, description)


def enter(context: Context) -> Any:
    """Make a context the current one; return what `leave` takes."""
    return contexts.attach(context)


def leave(token: Any) -> None:
    """Make the context before it the current one again."""
    contexts.detach(token)


def now() -> int:
    """Return the present in nanoseconds since the epoch, as spans have it."""
    return time.time_ns()


def _carry(new: NewExecution, span: Span) -> None:
    context = span.get_span_context()
    new.traceparent, new.tracestate = text_of(context), state_of(context)


def _first(spans: Sequence[Span]) -> SpanContext:
    return spans[0].get_span_context() if spans else _INVALID


def _drops_unsampled(provider: TracerProvider) -> bool:
    """Tell whether a sampler never records what belongs to a trace that others don't record."""
    sampler = getattr(provider, "sampler", None)
    if sampler is None:
        return False
    told: str = sampler.get_description()
    return (
        "remoteParentNotSampled:AlwaysOffSampler" in told
        and "localParentNotSampled:AlwaysOffSampler" in told
    ) or told == "AlwaysOffSampler"
