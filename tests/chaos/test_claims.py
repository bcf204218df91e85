"""Claims at full size: run by `make chaos`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from netscript_workers import JobContext, job
from netscript_workers.store.engine import Store
from tests.chaos.drains import drain_at_once
from tests.chaos.races import claim_one_key_at_once, enqueue_crosswise
from tests.kit import assert_slots_exact, rows
from tests.working import working

pytestmark = pytest.mark.chaos


@pytest.mark.trap("D-01")
@pytest.mark.trap("D-16")
def test_eight_processes_drain_ten_thousand_executions_and_start_each_once(
    database_url: str, tmp_path: Path
) -> None:
    print(drain_at_once(database_url, tmp_path, executions=10_000, workers=8))


@pytest.mark.trap("D-02")
@pytest.mark.trap("D-16")
def test_in_four_hundred_rounds_one_of_those_who_claim_a_key_gets_it(database_url: str) -> None:
    print(claim_one_key_at_once(database_url, rounds=400))


@pytest.mark.trap("D-09")
@pytest.mark.trap("D-16")
def test_in_a_thousand_rounds_users_who_name_keys_in_opposite_order_do_not_deadlock(
    database_url: str,
) -> None:
    print(enqueue_crosswise(database_url, rounds=1000))


@pytest.mark.trap("D-12")
async def test_a_real_job_of_ten_leases_stays_the_only_one_of_its_key(store: Store) -> None:
    now: list[str] = []
    most: list[int] = []

    @job(id="patient", timeout=60.0)
    async def patient(ctx: JobContext) -> None:
        now.append(ctx.id)
        most.append(len(now))
        await asyncio.sleep(20 if len(most) == 1 else 0)
        now.remove(ctx.id)

    # Rescue runs every few seconds, the sweep twice in that time.
    options = {"heartbeat": 0.4, "lease": 2.0}
    async with working(store, patient, **options) as one, working(store, patient, **options):
        ids = [one.enqueue(patient, {}, concurrency_key="k") for _ in range(4)]
        await asyncio.sleep(20)
        for id_ in ids:
            assert (await one.ended(id_)).execution.status == "completed"
    assert max(most) == 1
    assert rows(store, "SELECT losses FROM netscript_execution_history") == [(0,)] * 4
    assert_slots_exact(store)
