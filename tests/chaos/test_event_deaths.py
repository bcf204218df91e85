"""Servers killed at every write between receipt and end: each event ends, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.store.engine import Store
from tests.kit import rows
from tests.support import ROOT, clean_environment

pytestmark = pytest.mark.chaos

KILLS = 100  # in each of the two modes

WRITES = {
    "sqlite": ("INSERT INTO netscript_executions", "INSERT INTO netscript_trigger_events"),
    "postgresql": ("WITH part0 AS (INSERT INTO netscript_executions",),
}


def test_each_event_ends_once_whatever_its_servers_die_of(store: Store, database_url: str) -> None:
    command = [sys.executable, "-m", "tests.chaos.event_deaths", database_url, str(KILLS)]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    points: Counter[str] = Counter(told["points"])
    assert points.total() == 2 * KILLS
    for mode in ("inline", "background"):
        for place in (*WRITES[store.dialect.name], "COMMIT", "the answer"):
            assert any(one.startswith(f"{mode}: {place}") for one in points), (mode, place, points)
    for statement in ("SET attempt", "SET status"):  # a claim, and the end of a run
        place = f"background: UPDATE netscript_trigger_events {statement}"
        assert any(one.startswith(place) for one in points), points

    sql = "SELECT CAST(id AS text), status, body, executions FROM netscript_trigger_events"
    events = {
        id_: (status, json.loads(bytes(body))["order"], json.loads(ids))
        for id_, status, body, ids in rows(store, sql)
    }
    assert told["acknowledged"].keys() <= events.keys()
    assert sorted(order for _, order, _ in events.values()) == sorted(n for _, n in told["orders"])
    sql = (
        "SELECT CAST(trigger_event_id AS text), CAST(id AS text), payload FROM netscript_executions"
    )
    stored = rows(store, sql)
    parts = {id_: json.loads(payload)["part"] for _, id_, payload in stored}
    for status, order, ids in events.values():
        assert status == ("dead" if order % 5 == 0 else "completed")
        assert [parts[id_] for id_ in ids] == ([] if order % 5 == 0 else [1, 2, 3])
    assert len(stored) == sum(len(ids) for _, _, ids in events.values())
    report = verify(store)
    assert not report.findings, report
    print(
        f"{points.total()} kills at {len(points)} points, {told['lived']} lived, "
        f"{len(told['acknowledged'])} of {len(events)} acknowledged before"
    )
