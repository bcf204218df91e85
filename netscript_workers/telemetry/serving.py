"""Spans of what comes in: requests, events and their handlers, schedules that fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from opentelemetry.trace import Span, SpanKind

from netscript_workers.domain import NewExecution
from netscript_workers.telemetry.around import Around
from netscript_workers.telemetry.recording import (
    Recording,
    Sending,
    UnrecordedSpan,
    current,
    fail,
    parse,
    state_of,
    text_of,
)

# HTTP's own: from here on it is the server that has failed.
_SERVER_ERROR = 500


class Request:
    """A request to a webhook.

    Attributes:
        traceparent: Of its span, which the event that it becomes carries.
        tracestate: As its sender gave it.
    """

    __slots__ = ("_span", "traceparent", "tracestate")

    def __init__(self, around: Around) -> None:
        """Take what `Serving.request` has begun."""
        self._span = around.span
        self.traceparent, self.tracestate = around.carried

    def became(self, event_id: str, *, duplicate: bool, executions: int) -> None:
        """Tell which event it has become."""
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    "netscript.event.id": event_id,
                    "netscript.duplicate": duplicate,
                    "netscript.executions": executions,
                }
            )

    def end(self, status: int | None, reason: str | None = None) -> None:
        """Tell what it was answered; None if nobody was there to hear it."""
        span = self._span
        if span.is_recording():
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if reason is not None:
                span.set_attribute("netscript.refusal", reason)
            if status is None or status >= _SERVER_ERROR:
                fail(span, reason or str(status or "broken-off"))
        span.end()


class Firing(Around):
    """A look at a schedule that is due; where others have fired it, nobody hears of it.

    Attributes:
        fired: How many instants it has fired.
    """

    __slots__ = ("fired",)

    def __init__(self, span: Span) -> None:
        """Watch a look that has this span."""
        super().__init__(span)
        self.fired = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_: TracebackType | None,
    ) -> None:
        """End it, if it has fired or failed."""
        if kind is None and self.fired == 0:
            self.leave()
            return
        self.span.set_attribute("netscript.schedule.fired", self.fired)
        super().__exit__(kind, error, trace_)


class Serving(Recording):
    """Makes the spans of a server and of a scheduler."""

    def request(
        self,
        method: str,
        route: str,
        trigger_id: str,
        traceparent: str | None,
        tracestate: str | None,
    ) -> Request:
        """Start the span of a request to a webhook; it continues its sender's trace.

        Args:
            method: Of the request; one that the webhook takes.
            route: The webhook's path, as it is declared.
            trigger_id: The webhook.
            traceparent: As the sender gave it.
            tracestate: As the sender gave it.
        """
        span = self.start(f"{method} {route}", parse(traceparent, tracestate), SpanKind.SERVER)
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "netscript.trigger.id": trigger_id,
                }
            )
        return Request(Around(span))

    def handling(self, trigger_id: str, kind: str, event: Any) -> Around | None:
        """Return the span of a call of a trigger's handler; None if nobody wants to hear of it."""
        if self.skips_text(event.traceparent):
            # Users' own spans in it must not begin traces.
            return Around(UnrecordedSpan(event.traceparent, event.tracestate))
        parent = parse(event.traceparent, event.tracestate)
        if parent is None:
            return None
        about = {
            "netscript.trigger.id": trigger_id,
            "netscript.trigger.kind": kind,
            "netscript.event.id": event.id,
            "netscript.event.attempt": event.attempt,
        }
        return Around(self.start("trigger.handle", parent, about=about))

    def sending(self, executions: Sequence[NewExecution], event: Any) -> Sending | None:
        """Give the executions that an event leads to the context of the spans that make them."""
        if self.skips_text(event.traceparent):
            return None
        parent = parse(event.traceparent, event.tracestate)
        if parent is None and not executions:
            return None
        return self.produce(executions, parent)

    def sending_here(self, executions: Sequence[NewExecution]) -> Sending | None:
        """Do the same where they come of what is under way here, or of nothing."""
        parent = current()
        sending = self.produce(executions, parent)
        if sending is None and parent is not None:  # of a trace that is not recorded
            for new in executions:
                new.traceparent, new.tracestate = text_of(parent), state_of(parent)
        return sending

    def processing(self, event: Any, about: Mapping[str, Any], *, anew: bool) -> Around:
        """Return the span of a stored event's run.

        Args:
            event: As it was stored.
            about: More of it.
            anew: Whether it begins a trace that links the event's, as a retry and a replay do.
        """
        origin = parse(event.traceparent, event.tracestate)
        span = self.start("event.process", None if anew else origin, SpanKind.CONSUMER)
        if span.is_recording():
            if anew and origin is not None:
                span.add_link(origin)
            span.set_attributes(
                {
                    "messaging.system": "netscript",
                    "messaging.operation.type": "process",
                    "messaging.operation.name": "process",
                    "messaging.destination.name": event.trigger_id,
                    "messaging.message.id": event.id,
                    "netscript.trigger.id": event.trigger_id,
                    "netscript.event.id": event.id,
                    "netscript.event.attempt": event.attempt,
                    **about,
                }
            )
        return Around(span)

    def firing(self, about: Mapping[str, Any]) -> Firing:
        """Return the span of a schedule that fires; it begins a trace."""
        span = self.start("schedule.fire", None)
        if span.is_recording():
            span.set_attributes(about)
        return Firing(span)

    def root(self, name: str, about: Mapping[str, Any]) -> Around:
        """Return a span that begins a trace."""
        span = self.start(name, None)
        if span.is_recording():
            span.set_attributes(about)
        return Around(span)
