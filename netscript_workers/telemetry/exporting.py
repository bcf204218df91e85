"""An exporter that a dead collector does not trouble: it says so once in a while, and goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)

# So long nothing more is said of a collector that takes nothing.
SILENT_SECONDS = 60.0


class CalmExporter(SpanExporter):
    """Hands spans on; those that are not taken are counted and let go of."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Export by this one."""
        self._exporter = exporter
        self._lost = 0
        self._said_at = float("-inf")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand them on."""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, work goes on
            self._note(len(spans), type(error).__name__)
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._note(len(spans), "it was not taken")
        elif self._lost:
            logger.info("spans are taken again; %d were lost", self._lost)
            self._lost, self._said_at = 0, float("-inf")
        return result

    def shutdown(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have what is kept handed on."""
        return self._exporter.force_flush(timeout_millis)

    def _note(self, count: int, why: str) -> None:
        self._lost += count
        now = time.monotonic()
        if now - self._said_at >= SILENT_SECONDS:
            self._said_at = now
            logger.warning("the collector takes no spans (%s); %d lost so far", why, self._lost)
