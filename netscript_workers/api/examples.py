"""Examples of what the routes take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

_AT = "2026-01-02T03:04:05.000000Z"
_ID = "019b7c1f-5a2e-7c3d-9f10-2b6d8e4a7c11"
_WORKER = "019b7c1f-0000-7c3d-9f10-2b6d8e4a7c12"

PAYLOAD: dict[str, Any] = {"order_id": "o_1", "amount_cents": 1250}

EXECUTION: dict[str, Any] = {
    "id": _ID,
    "job_id": "process-payment",
    "kind": "job",
    "topic": "payments",
    "status": "completed",
    "triggered_by": "api",
    "trigger_event_id": None,
    "payload": PAYLOAD,
    "result": {"charge_id": "ch_1"},
    "error": None,
    "attempt": 1,
    "max_attempts": 5,
    "priority": 50,
    "idempotency_key": "o_1",
    "concurrency_key": None,
    "correlation_id": None,
    "traceparent": None,
    "created_at": _AT,
    "run_at": _AT,
    "started_at": _AT,
    "finished_at": _AT,
    "duration_ms": 12.5,
    "worker_id": _WORKER,
    "progress": {"percent": 100.0, "message": None},
    "reason": None,
    "retried_from": None,
    "cancel_requested": False,
}
WHOLE_EXECUTION: dict[str, Any] = {
    **EXECUTION,
    "attempts": [],
    "steps": [{"name": "charge", "result": {"id": "ch_1"}, "attempt": 1, "finished_at": _AT}],
    "logs": [{"at": _AT, "level": "INFO", "message": "charged", "attempt": 1}],
}
EXECUTIONS: dict[str, Any] = {"executions": [EXECUTION], "next_cursor": None}
EXPLANATION: dict[str, Any] = {
    "execution_id": _ID,
    "status": "scheduled",
    "code": "due",
    "sentence": "It is due in 40.0 s.",
    "facts": {"due_at": _AT, "due_in": 40.0},
}
CHANGED: dict[str, Any] = {
    "count": 128,
    "skipped": 0,
    "more": False,
    "next_cursor": None,
    "dry_run": False,
}
WHICH: dict[str, Any] = {"job_id": "process-payment", "dry_run": True}
JOB: dict[str, Any] = {
    "id": "process-payment",
    "kind": "job",
    "name": "Process payment",
    "description": "Charge a customer.",
    "topic": "payments",
    "priority": 50,
    "max_attempts": 5,
    "timeout": 30.0,
    "strict_order": False,
    "max_concurrency": None,
    "rate": None,
    "enabled": True,
    "tags": ["money"],
    "metadata": {},
    "payload_schema": {"type": "object"},
    "source": "jobs/process_payment.py",
    "registered_at": _AT,
}
JOBS: dict[str, Any] = {"jobs": [JOB], "total": 1, "limit": 50, "offset": 0}
TASK: dict[str, Any] = {**JOB, "id": "make-report", "kind": "task", "name": "Make report"}
TASKS: dict[str, Any] = {"tasks": [TASK], "total": 1, "limit": 50, "offset": 0}
TRIGGERED: dict[str, Any] = {
    "job_id": "process-payment",
    "execution_id": _ID,
    "triggered": True,
}
SEEDED: dict[str, Any] = {"jobs_created": 1, "tasks_created": 0, "message": "1 of 1 jobs were new."}
TOPIC: dict[str, Any] = {
    "name": "payments",
    "depth": 3,
    "depth_is_exact": True,
    "oldest_wait": 0.4,
    "running": 2,
    "scheduled": 0,
    "blocked": 0,
    "counts_are_exact": True,
    "paused": False,
    "rate": None,
}
TOPICS: dict[str, Any] = {"topics": [TOPIC], "more": False, "next_cursor": None}
WORKER: dict[str, Any] = {
    "id": _WORKER,
    "host": "app-1",
    "pid": 4242,
    "version": "0.1.0",
    "state": "running",
    "concurrency": 100,
    "running": 1,
    "executions": [_ID],
    "jobs": ["process-payment"],
    "topics": None,
    "except_topics": [],
    "started_at": _AT,
    "heartbeat_at": _AT,
    "lease_until": _AT,
    "fresh": True,
    "age_seconds": 1.2,
    "stalled": False,
    "stalled_at": None,
    "drain_requested": False,
}
WORKERS: dict[str, Any] = {"workers": [WORKER], "total": 1, "next_cursor": None}
AUDIT: dict[str, Any] = {
    "entries": [
        {
            "id": _ID,
            "at": _AT,
            "who": "ci",
            "action": "executions.cancel",
            "subject": _ID,
            "reason": "the customer asked",
            "address": "203.0.113.7",
        }
    ],
    "next_cursor": None,
}
