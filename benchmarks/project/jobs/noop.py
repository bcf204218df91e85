"""The job that every contestant has: it does nothing, and is seen to."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import kit
from netscript_workers import JobContext, job


@job(id="noop")
async def noop(ctx: JobContext[dict[str, Any]]) -> None:
    kit.ran(ctx.payload["sent"])
