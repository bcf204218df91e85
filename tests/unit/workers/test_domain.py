from __future__ import annotations

import dataclasses

import pytest

from netscript_workers import WORKER_RUNTIMES, Enqueued
from netscript_workers.domain import (
    FINAL_STATUSES,
    ExecutionStatus,
    Reason,
    TriggeredBy,
)
from tests.unit.fakes import claim_of


def test_the_statuses_are_those_of_the_contract() -> None:
    assert [status.value for status in ExecutionStatus] == [
        "scheduled",
        "blocked",
        "queued",
        "running",
        "completed",
        "failed",
        "cancelled",
    ]


def test_the_final_statuses_are_the_last_three() -> None:
    assert {"completed", "failed", "cancelled"} == FINAL_STATUSES


def test_the_causes_are_those_of_the_contract() -> None:
    assert {cause.value for cause in TriggeredBy} == {
        "webhook",
        "schedule",
        "queue",
        "file-watch",
        "manual",
        "api",
        "job",
        "cron",
    }


def test_the_runtimes_are_those_of_the_contract() -> None:
    assert WORKER_RUNTIMES == ("in-process", "worker-process", "subprocess")


def test_reasons_are_words_for_people() -> None:
    assert Reason.PAYLOAD_REFUSED.value == "payload refused"
    assert Reason.CONCURRENCY_KEY.value == "concurrency key"


def test_values_are_frozen() -> None:
    enqueued = Enqueued("1")
    claim = claim_of("noop")
    with pytest.raises(dataclasses.FrozenInstanceError):
        enqueued.execution_id = "2"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        claim.token = 2  # type: ignore[misc]


def test_an_enqueue_is_neither_duplicate_nor_conflict_by_default() -> None:
    assert Enqueued("1") == Enqueued("1", duplicate=False, conflict=False)
