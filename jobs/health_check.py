"""Looks every five minutes whether the machine is well."""

from __future__ import annotations

import shutil

from netscript_workers import (
    JobContext,
    JobResult,
    create_failure_result,
    create_success_result,
    job,
)

LEAST_FREE = 0.05


@job(id="health-check", cron="*/5 * * * *", timeout=10.0)
def health_check(ctx: JobContext[dict[str, str]]) -> JobResult:
    """Fail where less than a twentieth of the disk is free."""
    total, _used, free = shutil.disk_usage(".")
    ctx.log.info("%d of %d MiB are free", free // 2**20, total // 2**20)
    if free < total * LEAST_FREE:
        return create_failure_result("the disk is almost full")
    return create_success_result({"free_mib": free // 2**20})
