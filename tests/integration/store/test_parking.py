"""Executions of jobs that no worker knows are nobody's obstacle."""

from __future__ import annotations

from netscript_workers.ids import new_id
from netscript_workers.store import claims, parking
from netscript_workers.store.engine import Store
from tests.kit import Hand, detail, new, put, run, scalar


def test_what_nobody_knows_is_put_aside_and_says_so(store: Store) -> None:
    Hand(store, ["a"]).register()
    strange, known = new("strange"), new("a")
    put(store, strange, known)
    assert parking.park(store) == 1
    assert parking.park(store) == 0
    record = detail(store, strange.id).execution
    assert (record.status, record.reason) == ("queued", "no live worker knows the job")
    assert detail(store, known.id).execution.reason is None
    assert [claim.id for claim in Hand(store, ["a", "strange"]).claim()] == [known.id]


def test_parked_work_is_no_reason_to_claim(store: Store) -> None:
    Hand(store, ["a"]).register()
    put(store, new("strange"), new("strange", topic="other"))
    parking.park(store)
    with store.read() as conn:
        assert not claims.probe(conn, store.dialect, new_id()).ready
        assert claims.ready_topics(conn) == {}


def test_it_comes_back_when_a_worker_knows_it(store: Store) -> None:
    Hand(store, ["a"]).register()
    strange, stranger = new("strange"), new("stranger")
    put(store, strange, stranger)
    assert parking.park(store) == 2
    assert parking.unpark(store) == 0
    newcomer = Hand(store, ["strange"])
    newcomer.register()
    run(store, "UPDATE netscript_workers SET jobs = '[\"strange\"]' WHERE id = :id", id=newcomer.id)
    assert parking.unpark(store) == 1
    assert [claim.id for claim in newcomer.claim()] == [strange.id]
    assert detail(store, stranger.id).execution.reason == "no live worker knows the job"


def test_a_long_queue_of_strangers_is_put_aside_in_pieces(store: Store) -> None:
    Hand(store, ["a"]).register()
    count = parking.LOOKED_AT_A_TIME + 50
    put(store, *(new("strange", priority=100) for _ in range(count)))
    put(store, new("a"))
    assert parking.park(store) == count
    assert scalar(store, "SELECT count(*) FROM netscript_executions WHERE parked") == count
    run(store, "UPDATE netscript_workers SET jobs = '[\"strange\"]'")
    assert parking.unpark(store) == count


def test_nothing_is_put_aside_that_somebody_knows(store: Store) -> None:
    Hand(store, ["a"]).register()
    run(store, 'UPDATE netscript_workers SET jobs = \'["a", "b"]\'')
    put(store, new("a"), new("b"))
    assert parking.park(store) == 0
