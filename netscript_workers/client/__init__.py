"""The client: another service's hand on netscript, in a few typed lines.

client = WorkersClient("https://work.example.com", token=TOKEN)
triggered = client.trigger(process_payment, Payment(order_id="A-1", amount_cents=500))
execution = client.wait(triggered.execution_id, timeout=60)
"""

from __future__ import annotations

from netscript_workers.client.asynchronous import AsyncWorkersClient
from netscript_workers.client.changes import ProgressUpdate, Reset, Update
from netscript_workers.client.errors import (
    ApiError,
    ConflictError,
    ExecutionEndedError,
    ForbiddenError,
    MissingError,
    RefusedError,
    UnauthorizedError,
    UnavailableError,
)
from netscript_workers.client.requests import Triggered
from netscript_workers.client.synchronous import WorkersClient

__all__ = [
    "ApiError",
    "AsyncWorkersClient",
    "ConflictError",
    "ExecutionEndedError",
    "ForbiddenError",
    "MissingError",
    "ProgressUpdate",
    "RefusedError",
    "Reset",
    "Triggered",
    "UnauthorizedError",
    "UnavailableError",
    "Update",
    "WorkersClient",
]
