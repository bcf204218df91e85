"""Looks whether a payload holds what it must."""

from __future__ import annotations

from pydantic import BaseModel

from netscript_workers import Retry, define_task


class Wanted(BaseModel):
    """The payload, and the names of the members that it must have."""

    payload: dict[str, object]
    required: list[str] = []


validate_payload = define_task(
    id="validate-payload",
    description="Tell which members a payload lacks.",
    runtime="python",
    entrypoint="tasks/scripts/validate_payload.py",
    payload=Wanted,
    retry=Retry(max_attempts=1),
    timeout=30.0,
)
