"""Attempts as spans: `job.execute`, and what happens in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from netscript_workers.domain import ClaimedExecution, Death, Outcome, Reason, Verdict
from netscript_workers.telemetry import spans

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from netscript_workers.telemetry.recorder import Recorder

# Of executions that are to run again here, the spans of their last attempts.
_MOST_REMEMBERED = 10_000
_ENDS = {
    Verdict.COMPLETE: "completed",
    Verdict.FAIL: "failed",
    Verdict.RETRY: "failed",
    Verdict.SNOOZE: "snoozed",
    Verdict.RELEASE: "released",
    Verdict.CANCEL: "cancelled",
}
_FAILED = frozenset({Verdict.FAIL, Verdict.RETRY})


class Heard(Protocol):
    """Hears what happens in the attempt that is under way; its context carries it."""

    def event(self, name: str, about: Mapping[str, Any]) -> None:
        """Hear of something that has happened now."""
        ...


class Traces:
    """What becomes of attempts' spans; this one has none."""

    def context(self, claim: ClaimedExecution) -> Any | None:
        """Return the context in which a handler is to be called; None for the one that is."""
        return None

    def event(
        self, claim: ClaimedExecution, name: str, about: Mapping[str, Any], at: int | None = None
    ) -> None:
        """Tell of something that happened in an attempt.

        Args:
            claim: The attempt's.
            name: What happened.
            about: More of it; no payloads.
            at: Nanoseconds since the epoch; by default now.
        """

    def begun(self, claim: ClaimedExecution) -> None:
        """Tell that the handler is about to be called; what was not begun leaves no span."""

    def take(self, told: Mapping[str, Any]) -> None:
        """Take a span that has ended in a process of its own."""


NO_TRACES = Traces()


class _Running:
    """An attempt whose span is recorded."""

    __slots__ = ("began", "context", "span")

    def __init__(self, span: Span, recorder: Recorder) -> None:
        self.span = span
        self.began = False
        self.context = recorder.around(span, self)

    def event(self, name: str, about: Mapping[str, Any]) -> None:
        self.span.add_event(name, about)


class Attempts(Traces):
    """The attempts of a worker, each with its span. Used on the loop's thread.

    The first attempt continues the trace of what enqueued it. Every other one begins a trace that
    links that one and, where this worker has run it, the attempt before.
    """

    def __init__(self, worker_id: str) -> None:
        """Prepare for a worker."""
        self._worker_id = worker_id
        self._running: dict[tuple[str, int], _Running] = {}
        self._before: OrderedDict[str, SpanContext] = OrderedDict()

    def begin(self, claim: ClaimedExecution) -> ClaimedExecution:
        """Start the span of an attempt; return the claim with its context instead of the stored."""
        recorder = spans.recorder
        if recorder is None:
            return claim
        is_first = claim.attempt == 1 and claim.losses == 0
        if is_first and recorder.skips_text(claim.traceparent):
            return claim
        span, context = recorder.attempt(claim, self._worker_id, is_first=is_first)
        if span.is_recording():
            before = None if is_first else self._before.get(claim.id)
            if before is not None:
                span.add_link(before, {"netscript.link": "attempt before"})
            self._running[claim.id, claim.token] = _Running(span, recorder)
        return claim._replace(traceparent=context[0], tracestate=context[1])

    def context(self, claim: ClaimedExecution) -> Any | None:
        """Return the context in which a handler is called, which it is now."""
        recorder = spans.recorder
        if recorder is None:
            return None
        running = self._running.get((claim.id, claim.token))
        if running is None:
            return recorder.context(claim.traceparent, claim.tracestate)
        self.begun(claim)
        return running.context

    def begun(self, claim: ClaimedExecution) -> None:
        """Tell that the handler is about to be called."""
        running = self._running.get((claim.id, claim.token)) if self._running else None
        if running is not None and not running.began:
            running.began = True
            running.span.add_event("job.started")

    def event(
        self, claim: ClaimedExecution, name: str, about: Mapping[str, Any], at: int | None = None
    ) -> None:
        """Tell the span of an attempt of something that happened in it."""
        running = self._running.get((claim.id, claim.token)) if self._running else None
        if running is not None:
            running.span.add_event(name, about, at)

    def progress(self, claim: ClaimedExecution, percent: float) -> None:
        """Tell how far an attempt is."""
        if self._running:
            self.event(claim, "job.progress", progress(percent, 100.0))

    def take(self, told: Mapping[str, Any]) -> None:
        """Export a span of a child with our own."""
        if spans.recorder is not None:
            from netscript_workers.telemetry.forwarding import restore  # noqa: PLC0415 - loads the SDK

            restore(told, spans.recorder.provider)

    def ended(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        """End the span of an attempt as it ended; without an outcome nobody wants to hear of it."""
        recorder = spans.recorder
        if recorder is None:
            return
        running = self._running.pop((claim.id, claim.token), None) if self._running else None
        if outcome is not None and outcome.actions:
            sending = recorder.produce_of(outcome.actions, claim)
            if sending is not None:
                sending.stored(())
        if running is None or not running.began:
            return
        if outcome is None:
            self._end(running.span, "given up", "stale", is_failure=True)
            return
        is_failure = outcome.verdict in _FAILED
        if outcome.failure is Reason.ERROR and outcome.exception is not None:
            running.span.add_event("job.exception", {"exception.type": outcome.exception})
        why = outcome.exception or (None if outcome.reason is None else outcome.reason.value)
        if outcome.verdict is Verdict.RETRY:
            running.span.set_attribute("netscript.retry.delay", outcome.delay)
            why = outcome.exception or (outcome.failure or Reason.ERROR).value
        self._end(running.span, _ENDS[outcome.verdict], why, is_failure=is_failure)
        if outcome.verdict not in {Verdict.COMPLETE, Verdict.CANCEL}:
            self._remember(claim.id, running.span)
        else:
            self._before.pop(claim.id, None)

    def crashed(self, claim: ClaimedExecution, death: Death) -> None:
        """End the span of an attempt that killed its process."""
        running = self._running.pop((claim.id, claim.token), None) if self._running else None
        if running is None:
            return
        if death.signal is not None:
            running.span.set_attribute("netscript.process.signal", death.signal)
        if death.exit_code is not None:
            running.span.set_attribute("process.exit.code", death.exit_code)
        self._end(running.span, "crashed", Reason.CRASHED.value, is_failure=True)
        self._remember(claim.id, running.span)

    def _end(self, span: Span, how: str, why: str | None, *, is_failure: bool) -> None:
        from netscript_workers.telemetry.recording import fail  # noqa: PLC0415 - loads OpenTelemetry

        span.set_attribute("netscript.outcome", how)
        if is_failure:
            span.add_event("job.failed", {"error.type": why or "error"})
            fail(span, why or "error", how if how != "failed" else why)
        elif how == "completed":
            span.add_event("job.completed")
        elif why is not None:
            span.set_attribute("netscript.reason", why)
        span.end()

    def _remember(self, execution_id: str, span: Span) -> None:
        self._before[execution_id] = span.get_span_context()
        self._before.move_to_end(execution_id)
        if len(self._before) > _MOST_REMEMBERED:
            self._before.popitem(last=False)

    def claimed(self, claims: Sequence[ClaimedExecution], began: int) -> None:
        """Tell of what one transaction has claimed; may be called from any thread."""
        if spans.recorder is not None and claims:
            spans.recorder.received(claims, began, self._worker_id)


def progress(current: float, total: float | None) -> dict[str, Any]:
    """Return what a `job.progress` event says."""
    about: dict[str, Any] = {"current": current}
    if total is not None:
        about["total"] = total
        if total > 0:
            about["percentage"] = min(max(100.0 * current / total, 0.0), 100.0)
    return about
