"""The recorder: what happens where users' code is called, as spans around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind

from netscript_workers.domain import ClaimedExecution, NewExecution
from netscript_workers.telemetry.around import Around
from netscript_workers.telemetry.attempts import Heard
from netscript_workers.telemetry.recording import SYSTEM, Sending, current, parse, state_of, text_of
from netscript_workers.telemetry.serving import Serving

_HEARD = contexts.create_key("netscript.attempt")


class Step(Around):
    """A step: a span around it, and the attempt hears of it."""

    __slots__ = ("_about", "_heard")

    def __init__(self, span: Span, heard: Heard, name: str) -> None:
        """Watch a step of this name."""
        super().__init__(span)
        self._heard = heard
        self._about = {"netscript.step.name": name}

    def reused(self) -> None:
        """Tell that it ran in an earlier attempt; instead of running it."""
        self._heard.event("job.step.reused", self._about)

    def __enter__(self) -> Self:
        """Begin it."""
        self._heard.event("job.step.started", self._about)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_: TracebackType | None,
    ) -> None:
        """End it."""
        super().__exit__(kind, error, trace_)
        if kind is None:
            self._heard.event("job.step.completed", self._about)
        else:
            about = {**self._about, "error.type": kind.__qualname__}
            self._heard.event("job.step.failed", about)


class Recorder(Serving):
    """Makes all spans of ours."""

    # Attempts.

    def attempt(
        self, claim: ClaimedExecution, worker_id: str, *, is_first: bool
    ) -> tuple[Span, tuple[str, str | None]]:
        """Start the span of an attempt; return it, and what continues its trace.

        Args:
            claim: The attempt's.
            worker_id: Who runs it.
            is_first: Whether it continues its producer's trace; else it begins one that links it.
        """
        producer = parse(claim.traceparent, claim.tracestate)
        parent = producer if is_first else None
        about = None if parent is None else _attempted(claim, worker_id)
        span = self.start("job.execute", parent, SpanKind.CONSUMER, about=about)
        context = span.get_span_context()
        if span.is_recording():
            if about is None:
                span.set_attributes(_attempted(claim, worker_id))
            if producer is not None and not is_first:
                span.add_link(producer, {"netscript.link": "producer"})
        return span, (text_of(context), state_of(context))

    def around(self, span: Span, heard: Heard) -> Context:
        """Return the context in which an attempt's handler is called."""
        return contexts.set_value(_HEARD, heard, trace.set_span_in_context(span, Context()))

    def around_remote(self, claim: ClaimedExecution, heard: Heard) -> Context | None:
        """Return the same where the span is another process's; it has put it into the claim."""
        found = parse(claim.traceparent, claim.tracestate)
        if found is None:
            return None
        span = NonRecordingSpan(found)
        if self.skips(found):
            return trace.set_span_in_context(span, Context())
        return self.around(span, heard)

    def produce_of(
        self, actions: Sequence[NewExecution], claim: ClaimedExecution
    ) -> Sending | None:
        """Give the actions of an attempt the context of the spans that make them."""
        return self.produce(actions, parse(claim.traceparent, claim.tracestate))

    def step(self, name: str) -> Step | None:
        """Return what tells of a step of the attempt that is under way here."""
        heard, parent = self.heard(), current()
        if heard is None or parent is None:
            return None
        span = self.start("job.step", parent)
        span.set_attribute("netscript.step.name", name)
        return Step(span, heard, name)

    def heard(self) -> Heard | None:
        """Return who hears of the attempt that is under way here."""
        return cast("Heard | None", contexts.get_value(_HEARD))

    # Users' own.

    def child(self, name: str, about: Mapping[str, Any]) -> Around | None:
        """Return a span of the user's, below the one that is under way here, if one is."""
        parent = current()
        if parent is None or self.skips(parent):
            return None
        span = self._tracer.start_span(name, attributes=about)
        return Around(span)


def _attempted(claim: ClaimedExecution, worker_id: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "messaging.system": SYSTEM,
        "messaging.operation.type": "process",
        "messaging.operation.name": "execute",
        "messaging.destination.name": claim.topic,
        "messaging.message.id": claim.id,
        "messaging.client.id": worker_id,
        "netscript.job.id": claim.job_id,
        "netscript.attempt": claim.attempt,
        "netscript.max_attempts": claim.max_attempts,
    }
    if claim.correlation_id is not None:
        about["messaging.message.conversation_id"] = claim.correlation_id
    if claim.trigger_event_id is not None:
        about["netscript.event.id"] = claim.trigger_event_id
    return about
