"""Keys in opposite order, a thousand times: run by `make chaos`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from netscript_workers.store.writer import Writer
from tests.kit import new, scalar

pytestmark = pytest.mark.chaos

ROUNDS = 1000


@pytest.mark.trap("D-92")
def test_a_thousand_rounds_of_keys_in_opposite_order_never_deadlock(database_url: str) -> None:
    def serve(names: str) -> int:
        store = Store(database_url)
        writer = Writer(store)
        writer.start()
        fresh = 0
        for number in range(ROUNDS):
            futures = [
                writer.submit(
                    Submission(
                        executions=tuple(
                            new(idempotency_key=f"{number}-{part}-{name}") for name in names
                        )
                    )
                )
                for part in range(3)
            ]
            # Whatever reached a sender would be raised here.
            told = [one for future in futures for one in future.result(20).enqueued]
            fresh += sum(not one.duplicate for one in told)
        writer.close()
        store.dispose()
        return fresh

    with ThreadPoolExecutor(2) as pool:
        fresh = sum(pool.map(serve, ["abc", "cba"]))
    assert fresh == ROUNDS * 9
    store = Store(database_url)
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == ROUNDS * 9
    store.dispose()
