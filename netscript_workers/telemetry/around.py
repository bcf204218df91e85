"""A span around what a `with` block does."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from netscript_workers.telemetry.recording import fail, state_of, text_of


class Around:
    """A span that is the current one in a `with` block, and fails with it."""

    __slots__ = ("_context", "_token", "span")

    def __init__(self, span: Span, context: Context | None = None) -> None:
        """Put this span around what is done; in this context, or else in the current one."""
        self.span = span
        self._context = context

    @property
    def carried(self) -> tuple[str, str | None]:
        """What others continue its trace by: `traceparent` and `tracestate`."""
        context = self.span.get_span_context()
        return text_of(context), state_of(context)

    def __enter__(self) -> Self:
        """Make it the current one."""
        self._token = contexts.attach(trace.set_span_in_context(self.span, self._context))
        return self

    def leave(self) -> None:
        """Make the span before it the current one again; it is not ended."""
        contexts.detach(self._token)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_: TracebackType | None,
    ) -> None:
        """End it."""
        self.leave()
        if kind is not None:
            fail(self.span, kind.__qualname__)
        self.span.end()
