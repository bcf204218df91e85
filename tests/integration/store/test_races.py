"""The races of `make chaos`, a few rounds of them."""

from __future__ import annotations

import pytest

from tests.chaos.races import claim_one_key_at_once, enqueue_crosswise


@pytest.mark.trap("D-02")
@pytest.mark.trap("D-16")
def test_of_workers_that_claim_one_key_at_the_same_instant_one_gets_it(database_url: str) -> None:
    claim_one_key_at_once(database_url, rounds=10)


@pytest.mark.trap("D-09")
@pytest.mark.trap("D-16")
def test_users_who_name_keys_in_opposite_order_do_not_deadlock(database_url: str) -> None:
    enqueue_crosswise(database_url, rounds=20)
