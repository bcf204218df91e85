"""Telemetry for handlers: spans of their own, progress, and the trace that they belong to.

All of it works under every runner and does nothing where telemetry is off, or outside of a handler.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from netscript_workers.telemetry import spans

if TYPE_CHECKING:
    from netscript_workers.telemetry.around import Around

__all__ = [
    "ChildSpan",
    "current_environment",
    "current_traceparent",
    "current_tracestate",
    "record_progress",
    "with_child_span",
]


class ChildSpan:
    """A span of a handler's own; `with_child_span` makes it.

    It may stand in `with` and in `async with`, and be awaited in.
    """

    __slots__ = ("_about", "_around", "_name")

    def __init__(self, name: str, about: Mapping[str, Any]) -> None:
        """Prepare; it begins with its block."""
        self._name, self._about = name, about
        self._around: Around | None = None

    def set_attribute(self, name: str, value: Any) -> None:
        """Say more of it: text, a number, a boolean, or a list of these."""
        if self._around is not None:
            self._around.span.set_attribute(name, value)

    def add_event(self, name: str, **attributes: Any) -> None:
        """Tell of something that has happened in it."""
        if self._around is not None:
            self._around.span.add_event(name, attributes)

    def __enter__(self) -> Self:
        """Begin it, as the current span."""
        recorder = spans.recorder
        if recorder is not None:
            self._around = recorder.child(self._name, self._about)
            if self._around is not None:
                self._around.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; of an exception that leaves it, it tells the type and no message."""
        if self._around is not None:
            self._around.__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        """Begin it, as the current span."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; of an exception that leaves it, it tells the type and no message."""
        self.__exit__(kind, error, trace)


def with_child_span(name: str, **attributes: Any) -> ChildSpan:
    """Return a span for a part of what a handler does, below the span that is under way.

    Args:
        name: What is done; one of few names, without ids in it.
        **attributes: More of it: text, numbers, booleans and lists of these. They leave the
            process, so no payloads and no secrets.

    Example:
        with with_child_span("render", pages=3) as span:
            document = await render()
            span.set_attribute("bytes", len(document))
    """
    return ChildSpan(name, attributes)


def record_progress(current: float, total: float | None = None, **attributes: Any) -> None:
    """Tell the attempt's span how far it is, as an event `job.progress`.

    It shows in traces only; `ctx.report_progress()` shows in both, records and traces.

    Args:
        current: How much is done.
        total: How much there is to do, if that is known.
        **attributes: More of it.
    """
    heard = None if spans.recorder is None else spans.recorder.heard()
    if heard is not None:
        from netscript_workers.telemetry.attempts import progress  # noqa: PLC0415 - rarely needed

        heard.event("job.progress", {**attributes, **progress(current, total)})


def current_traceparent() -> str | None:
    """Return the W3C `traceparent` of the span that is under way here, to hand to others."""
    recorder = spans.recorder
    return None if recorder is None else recorder.carried_here()[0]


def current_tracestate() -> str | None:
    """Return the W3C `tracestate` of the span that is under way here."""
    recorder = spans.recorder
    return None if recorder is None else recorder.carried_here()[1]


def current_environment() -> dict[str, str]:
    """Return `TRACEPARENT` and `TRACESTATE` for a process that continues this trace."""
    found = {"TRACEPARENT": current_traceparent(), "TRACESTATE": current_tracestate()}
    return {name: value for name, value in found.items() if value is not None}
