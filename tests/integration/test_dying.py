"""A server killed at every point of a delivery: the redelivery completes it, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from netscript_workers.store.engine import Store
from tests.kit import rows
from tests.support import ROOT, clean_environment

# On PostgreSQL all tables are written by one statement.
POINTS = {
    "sqlite": ("INSERT INTO netscript_executions", "INSERT INTO netscript_trigger_events"),
    "postgresql": ("WITH part0 AS (INSERT INTO netscript_executions",),
}


@pytest.mark.trap("D-42")
def test_a_delivery_whose_server_dies_at_any_point_is_whole_after_the_next(
    store: Store, database_url: str
) -> None:
    command = [sys.executable, "-m", "tests.integration.dying", database_url]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]

    points = [one["killed_at"] for one in told]
    assert points[-1] is None  # the last one lived through it all
    assert None not in points[:-1]
    for point in (*POINTS[store.dialect.name], "COMMIT", "the answer"):
        assert any(one.startswith(point) for one in points[:-1]), (point, points)

    answers = {one["order"]: json.loads(one["again"]) for one in told}
    before, after = "COMMIT", "the answer"
    kept = {one["order"]: answers[one["order"]]["duplicate"] for one in told}
    first_commit = next(n for n, point in enumerate(points, 1) if point == before)
    assert not any(kept[order] for order in range(1, first_commit + 1))
    assert kept[next(n for n, point in enumerate(points, 1) if point == after)]

    sql = "SELECT CAST(id AS text), executions FROM netscript_trigger_events"
    events = {id_: json.loads(ids) for id_, ids in rows(store, sql)}
    assert len(events) == len(told)
    sql = (
        "SELECT CAST(trigger_event_id AS text), CAST(id AS text), payload FROM netscript_executions"
    )
    stored = rows(store, sql)
    assert Counter(event for event, _, _ in stored) == dict.fromkeys(events, 3)
    parts = {id_: json.loads(payload)["part"] for _, id_, payload in stored}
    for answer in answers.values():
        assert answer["executions"] == events[answer["event_id"]]
        assert [parts[id_] for id_ in answer["executions"]] == [1, 2, 3]
