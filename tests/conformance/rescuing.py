"""Rescuing: the executions of dead workers, and of those that leave."""

from __future__ import annotations

import pytest

from netscript_workers.store import leases
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, detail, new, put, scalar, status


def rescue(store: Store) -> list[str]:
    return leases.rescue(store, new().id, no_folder())


class Rescuing:
    """What a worker had when it died or left is others' again, once."""

    @pytest.mark.trap("D-33")
    def test_the_executions_of_an_expired_lease_are_rescued(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        given = new(max_attempts=1)
        put(timed_store, given)
        dead = Hand(timed_store)
        dead.register(lease=30)
        claim = dead.claim_one()
        clock.advance(29)
        assert rescue(timed_store) == []
        clock.advance(2)
        assert rescue(timed_store) == [given.id]
        record = detail(timed_store, given.id)
        assert (record.execution.status, record.execution.reason) == ("queued", "rescued")
        assert [(one.outcome, one.fence_token) for one in record.attempts] == [
            ("lost", claim.token)
        ]
        again = Hand(timed_store).claim_one()
        assert (again.attempt, again.losses) == (1, 1)
        assert dead.end(claim).stale == {given.id}

    @pytest.mark.trap("D-27")
    def test_six_hours_of_renewed_leases_are_not_rescued(
        self, timed_store: Store, clock: ManualClock
    ) -> None:
        put(timed_store, new())
        hand = Hand(timed_store)
        hand.register(lease=30)
        hand.claim_one()
        for _ in range(36):  # of ten minutes each
            with timed_store.begin() as conn:
                for _ in range(24):
                    clock.advance(25)
                    assert leases.renew(timed_store, conn, hand.id, 30)
            clock.advance(29)
            assert rescue(timed_store) == []
            clock.advance(-29)

    def test_a_rescued_worker_cannot_renew(self, timed_store: Store, clock: ManualClock) -> None:
        hand = Hand(timed_store)
        hand.register(lease=30)
        clock.advance(31)
        rescue(timed_store)
        with timed_store.begin() as conn:
            assert not leases.renew(timed_store, conn, hand.id, 30)

    @pytest.mark.trap("D-31")
    def test_work_of_a_worker_that_is_on_no_list_is_found(self, store: Store) -> None:
        given = new()
        put(store, given)
        Hand(store).claim_one()  # never registered
        assert rescue(store) == [given.id]

    @pytest.mark.trap("D-13")
    def test_a_rescued_execution_keeps_its_key(self, store: Store) -> None:
        given = new(concurrency_key="k")
        put(store, given, new(concurrency_key="k"))
        dead = Hand(store)
        dead.register(lease=-1)
        dead.claim_one()
        rescue(store)
        assert [claim.id for claim in Hand(store).claim()] == [given.id]

    def test_a_worker_that_leaves_gives_back_what_it_has_without_a_loss(self, store: Store) -> None:
        given = new()
        put(store, given)
        hand = Hand(store)
        hand.register()
        hand.claim_one()
        leases.deregister(store, hand.id)
        again = Hand(store).claim_one()
        assert (again.id, again.losses, again.attempt) == (given.id, 0, 1)
        assert scalar(store, "SELECT count(*) FROM netscript_workers") == 0

    def test_what_a_worker_holds_without_knowing_it_is_given_back(self, store: Store) -> None:
        known, unknown = new(), new()
        put(store, known, unknown)
        hand = Hand(store)
        hand.claim(2)
        assert leases.give_back_unknown(store, hand.id, {known.id}) == [unknown.id]
        assert status(store, known.id) == "running"
        assert status(store, unknown.id) == "queued"
