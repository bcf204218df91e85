"""Examples of what the routes of triggers and events take and answer."""

from __future__ import annotations

from typing import Any

_AT = "2026-01-02T03:04:05.000000Z"
_ID = "019b7c1f-5a2e-7c3d-9f10-2b6d8e4a7c21"
_EXECUTION = "019b7c1f-5a2e-7c3d-9f10-2b6d8e4a7c11"

EVENT: dict[str, Any] = {
    "id": _ID,
    "trigger_id": "payment-webhook",
    "kind": "webhook",
    "event_type": None,
    "status": "completed",
    "idempotency_key": "d_1",
    "executions": [_EXECUTION],
    "attempt": 1,
    "conflict": False,
    "error": None,
    "reason": None,
    "note": None,
    "traceparent": None,
    "by_hand": False,
    "replays": 0,
    "replayed_from": None,
    "received_at": _AT,
    "due_at": None,
    "finished_at": _AT,
}
WHOLE_EVENT: dict[str, Any] = {
    **EVENT,
    "headers": {"content-type": "application/json"},
    "body": "{}",
    "payload": {},
    "failures": [],
    "actions": [{"execution_id": _EXECUTION, "job_id": "process-payment", "status": "completed"}],
    "replayed_as": [],
    "waits_for": None,
}
EVENTS: dict[str, Any] = {"events": [EVENT], "next_cursor": None}
WHICH: dict[str, Any] = {"trigger_id": "payment-webhook", "dry_run": True}
ACCEPTED: dict[str, Any] = {
    "event_id": _ID,
    "status": "pending",
    "executions": [],
    "duplicate": False,
}
TRIGGER: dict[str, Any] = {
    "id": "payment-webhook",
    "kind": "webhook",
    "description": None,
    "enabled": True,
    "circuit": {
        "state": "closed",
        "failures": 0,
        "opened_at": None,
        "next_try_at": None,
        "error": None,
    },
    "payload_schema": None,
    "source": "triggers/payment_webhook.py",
    "registered_at": _AT,
    "path": "/webhooks/payment",
}
TRIGGERS: dict[str, Any] = {"triggers": [TRIGGER], "total": 1, "limit": 50, "offset": 0}
PREVIEW: dict[str, Any] = {
    "trigger_id": "nightly",
    "words": "At 03:04 every day",
    "timezone": "UTC",
    "next": [
        {
            "scheduled_for": _AT,
            "local_time": "2026-01-02T03:04:05+00:00",
            "note": None,
            "outcome": None,
            "event_id": None,
        }
    ],
    "recent": [],
}
