"""What databases can hold and what they can't: it passes, or it fails alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from netscript_workers import JobContext, job
from netscript_workers.clock import from_micros
from netscript_workers.domain import Reason, Verdict
from netscript_workers.errors import ConfigurationError
from netscript_workers.store import outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from netscript_workers.store.steps import FinishedStep, LogLine, Progress
from netscript_workers.store.tick import Work
from netscript_workers.testing import run_job
from tests.kit import Hand, detail, ended, new, put, rows, run, scalar, status


def wide_key(seed: int) -> str:
    """The longest key there may be, of characters of four bytes that no index can compress."""
    chance = random.Random(seed)
    return "".join(chr(chance.randrange(0x10000, 0x10FFFF)) for _ in range(512))


def test_the_longest_keys_fit_into_every_index(store: Store) -> None:
    given = new(
        idempotency_key=wide_key(1),
        concurrency_key=wide_key(2),
        correlation_id=wide_key(3),
        topic=wide_key(4),
    )
    put(store, given)
    hand = Hand(store)
    claim = hand.claim_one()
    step = FinishedStep(claim.id, claim.token, wide_key(5), "1", 1)
    hand.ticker.run(Work(steps=[step]))
    hand.end(claim)
    record = detail(store, given.id)
    assert record.execution.idempotency_key == wide_key(1)
    assert record.execution.correlation_id == wide_key(3)
    assert record.steps[0].name == wide_key(5)


def test_a_payload_of_a_mebibyte_comes_back_whole(store: Store) -> None:
    given = new(payload='{"a":"' + "x" * 1_000_000 + '"}')
    put(store, given)
    assert Hand(store).claim_one().payload == given.payload


@pytest.mark.parametrize("delay", [1e12, 1e15, 1e300])
def test_a_snooze_of_ages_ends_at_the_last_day_that_can_be_shown(
    store: Store, delay: float
) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    hand.end(claim, Verdict.SNOOZE, delay=delay)
    record = detail(store, claim.id).execution
    assert record.status == "scheduled"
    assert record.run_at == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 513])
def test_a_step_whose_name_cannot_be_stored_is_refused_before_it_runs(name: str) -> None:
    ran: list[int] = []

    @job
    async def stepping(ctx: JobContext[dict[str, Any]]) -> None:
        await ctx.step(name, ran.append, 1)

    with pytest.raises(ConfigurationError, match=r"ctx\.step"):
        run_job(stepping)
    assert ran == []


@pytest.mark.trap("D-93")
def test_an_error_text_that_the_database_refuses_does_not_harm_its_neighbours(
    store: Store,
) -> None:
    bad, good = new(), new()
    put(store, bad, good)
    hand = Hand(store)
    first, second = hand.claim(2)
    broken = ended(first, Verdict.FAIL, reason=Reason.ERROR, failure=Reason.ERROR, error="a\0b")
    hand.tick(broken, ended(second))
    assert [status(store, one.id) for one in (bad, good)] == ["failed", "completed"]
    # PostgreSQL has no NUL in text; SQLite cuts what it stores from JSON there.
    reason = detail(store, bad.id).execution.reason
    assert reason == ("error" if store.is_sqlite else "result refused")


@pytest.mark.trap("D-93")
@pytest.mark.postgres
def test_notes_that_the_database_refuses_go_alone(postgres_url: str) -> None:
    store = Store(postgres_url)
    given, other = new(), new()
    put(store, given, other)
    hand = Hand(store)
    claim, ending = hand.claim(2)
    done = hand.ticker.run(
        Work(
            ended=[ended(ending)],
            steps=[
                FinishedStep(claim.id, claim.token, "bad\0", "1", 1),
                FinishedStep(claim.id, claim.token, "good", "2", 1),
            ],
            logs=[LogLine(claim.id, 1, 1, "INFO", "\0"), LogLine(claim.id, 1, 2, "INFO", "good")],
            progress=[Progress(claim.id, claim.token, 7.0, None)],
        )
    )
    assert set(done.refused) == {claim.id}
    assert done.lost_steps == done.stale == set()
    told = detail(store, given.id)
    assert [step.name for step in told.steps] == ["good"]
    assert [line.message for line in told.logs] == ["good"]
    assert told.execution.progress is not None
    assert status(store, other.id) == "completed"
    store.dispose()


def refusal(store: Store, act: Callable[[], object]) -> DBAPIError:
    with pytest.raises(DBAPIError) as told:
        act()
    assert not told.value.connection_invalidated
    return told.value


def test_a_broken_constraint_is_bad_data_and_no_contention(store: Store) -> None:
    one = new()
    error = refusal(store, lambda: put(store, one, one))
    assert store.dialect.is_bad_data(error)
    assert not store.dialect.is_contention(error)


def test_a_slot_used_more_than_it_allows_is_refused_by_the_database(store: Store) -> None:
    sql = "INSERT INTO netscript_concurrency_slots (key, max_used, used) VALUES ('k', 1, 2)"
    assert store.dialect.is_bad_data(refusal(store, lambda: run(store, sql)))


def test_a_missing_table_is_neither_bad_data_nor_contention(store: Store) -> None:
    error = refusal(store, lambda: scalar(store, "SELECT 1 FROM netscript_nothing"))
    assert not store.dialect.is_bad_data(error)
    assert not store.dialect.is_contention(error)


def test_a_lock_that_is_not_given_in_time_is_contention(store: Store, database_url: str) -> None:
    run(store, "INSERT INTO netscript_topics (name, paused) VALUES ('t', :no)", no=False)
    other = Store(database_url, patience=0.05)
    update = text("UPDATE netscript_topics SET paused = NOT paused")

    def wait_for_it() -> None:
        with other.begin(lock_timeout=0.05) as conn:
            conn.execute(update)

    with store.begin() as conn:
        conn.execute(update)
        error = refusal(store, wait_for_it)
    assert store.dialect.is_contention(error)
    assert not store.dialect.is_bad_data(error)
    wait_for_it()  # the timeout was for that transaction alone, and the row is free again
    other.dispose()


def test_an_error_does_not_carry_the_payload(store: Store) -> None:
    one = new(payload='{"card":"geheim"}')
    error = refusal(store, lambda: put(store, one, one))
    assert "geheim" not in str(error)


def test_a_number_beyond_its_column_is_refused_with_its_submission_alone(store: Store) -> None:
    huge = new(max_attempts=2**40)
    small = new()
    if not store.is_sqlite:  # whose integers have all 64 bits
        assert store.dialect.is_bad_data(refusal(store, lambda: put(store, huge)))
    with store.begin() as conn:
        submission = Submission(executions=(small,))
        outbox.store(conn, store.dialect, [submission], now=store.now(conn))
    assert rows(store, "SELECT max_attempts FROM netscript_executions") == [(3,)]


def test_times_are_kept_to_the_microsecond(store: Store) -> None:
    at = 1_999_999_999_123_457
    given = new(run_at=at)
    put(store, given)
    assert detail(store, given.id).execution.run_at == from_micros(at)
