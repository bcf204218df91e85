"""Log records on their way to a collector, without the secrets in them."""

from __future__ import annotations

import contextlib
import logging
import traceback
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from netscript_workers.logs import ids_of
from netscript_workers.redaction import redact

_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.DEBUG, SeverityNumber.DEBUG),
)
# What the exporter itself says of a collector that is gone must not go there.
_ITS_OWN = ("opentelemetry", "grpc", "urllib3")


class OtlpLogHandler(logging.Handler):
    """Hands records to an exporter, in batches and from a thread of its own."""

    def __init__(self, exporter: Any, resource: Resource) -> None:
        """Export to this."""
        super().__init__()
        self._provider = LoggerProvider(resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over a record."""
        if record.name.startswith(_ITS_OWN):
            return
        try:
            self._provider.get_logger(record.name).emit(_translated(record))
        except Exception:  # noqa: BLE001 - as every handler does it
            self.handleError(record)

    def close(self) -> None:
        """Send what is left."""
        with contextlib.suppress(Exception):
            self._provider.shutdown()
        super().close()


def _translated(record: logging.LogRecord) -> LogRecord:
    facts: dict[str, Any] = {
        f"netscript.{name}": value
        for name, value in ids_of(record).items()
        if name not in ("trace_id", "span_id")  # of the context, as the SDK takes them
    }
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, trace = record.exc_info
        facts["exception.type"] = kind.__name__
        told = "".join(traceback.format_exception(kind, error, trace))
        facts["exception.stacktrace"] = redact(told)
    severity = next((s for level, s in _SEVERITIES if record.levelno >= level), None)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        severity_text=record.levelname,
        severity_number=severity or SeverityNumber.TRACE,
        body=redact(record.getMessage()),
        attributes=facts,
    )
