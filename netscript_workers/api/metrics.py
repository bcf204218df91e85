"""The route of metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from netscript_workers.telemetry.exporting import CONTENT_TYPE, scrape

metrics = APIRouter(tags=["health"])

_EXAMPLE = """\
# HELP netscript_topic_depth Executions that are ready to run.
# TYPE netscript_topic_depth gauge
netscript_topic_depth{netscript_topic="payments"} 3.0
"""
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What this process counts, and what the database tells of all.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    401: {},
    429: {},
}


@metrics.get("/metrics", responses=_ANSWER, response_class=Response)
def get_metrics() -> Response:
    """Tell Prometheus."""
    return Response(scrape(), media_type=CONTENT_TYPE)
