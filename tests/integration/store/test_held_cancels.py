"""Cancels beside a user's open transaction that has replaced what they cancel."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.errors import StoreUnavailableError
from netscript_workers.store import bulk, cancelling
from netscript_workers.store.bulk import Changed
from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from netscript_workers.store.queries import ExecutionFilter
from netscript_workers.store.writer import Writer
from tests.integration.store.scenes import users_transaction
from tests.kit import new, put, status
from tests.modes import again, arrive

pytestmark = pytest.mark.postgres


@pytest.fixture
def store(postgres_url: str) -> Generator[Store]:
    made = Store(postgres_url)
    yield made
    made.dispose()


def test_a_cancel_gives_in_to_a_user_who_holds_the_execution(store: Store) -> None:
    (told,) = arrive(store, again("replace", 0, delay=60))
    free = new("b")
    put(store, free)
    with users_transaction(store, again("replace", 1, delay=60)):
        with pytest.raises(StoreUnavailableError):
            cancelling.cancel(store, told.execution_id)
        assert bulk.cancel_many(store, ExecutionFilter()) == Changed(count=1, skipped=1)
        assert status(store, free.id) == "cancelled"
        assert status(store, told.execution_id) == "scheduled"
    cancelling.cancel(store, told.execution_id)
    assert status(store, told.execution_id) == "cancelled"


def test_cancels_that_wait_for_a_user_leave_the_writer_its_connections(store: Store) -> None:
    (told,) = arrive(store, again("replace", 0, delay=60))
    writer = Writer(store)
    writer.start()
    users = users_transaction(store, again("replace", 1, delay=60))
    with ThreadPoolExecutor(5) as threads, users:
        cancels = [threads.submit(cancelling.cancel, store, told.execution_id) for _ in range(5)]
        assert writer.submit(Submission(executions=(new("b"),))).result(20).enqueued
        for cancel in cancels:
            assert isinstance(cancel.exception(20), StoreUnavailableError)
    writer.close()
