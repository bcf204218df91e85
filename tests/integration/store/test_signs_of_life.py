"""Lifelines, leases and rescue where several processes and several workers are about."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from netscript_workers.domain import Verdict
from netscript_workers.store import leases, lifelines
from netscript_workers.store.engine import Store
from netscript_workers.store.lifelines import Life, Lifeline
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, detail, ended, new, put, rows, run, scalar, status, sweep
from tests.support import eventually

# A worker that gives its lifeline to a child, which outlives it.
PARENT = """
import subprocess, sys
from pathlib import Path
from netscript_workers.store.lifelines import Lifeline
line = Lifeline(Path(sys.argv[1]), "w")
child = subprocess.Popen(
    [sys.executable, "-c", "import sys; print('held', flush=True); sys.stdin.read()"],
    pass_fds=[line.fileno()],
)
child.wait()
"""


def test_a_lifeline_is_held_until_the_last_child_that_inherited_it_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    path = tmp_path / "w.lock"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"held\n"
        parent.kill()
        parent.wait()
        assert lifelines.look(path) is Life.ALIVE
        parent.stdin.close()  # what the child waits for
        eventually(lambda: lifelines.look(path) is Life.DEAD, what="the lifeline to be free")


def test_a_look_does_not_take_the_lifeline(tmp_path: Path) -> None:
    line = Lifeline(tmp_path, "w")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lifelines.look, [line.path] * 100)) == {Life.ALIVE}
    line.cut()
    (tmp_path / "w.lock").touch()
    assert [lifelines.look(line.path) for _ in range(3)] == [Life.DEAD] * 3


def test_a_lifeline_can_be_cut_and_held_again(tmp_path: Path) -> None:
    for _ in range(3):
        line = Lifeline(tmp_path, "w")
        assert lifelines.look(line.path) is Life.ALIVE
        line.cut()
        line.cut()
        assert not line.path.exists()


def test_lifelines_are_for_their_owner_alone(tmp_path: Path) -> None:
    line = Lifeline(tmp_path / "lines", "w")
    assert (tmp_path / "lines").stat().st_mode & 0o077 == 0
    assert line.path.stat().st_mode & 0o077 == 0
    line.cut()


def test_registering_shows_the_worker(timed_store: Store, clock: ManualClock) -> None:
    hand = Hand(timed_store)
    hand.register(lease=30)
    (row,) = rows(
        timed_store,
        "SELECT id, state, concurrency, jobs, started_at, lease_until FROM netscript_workers",
    )
    now = clock.now()
    assert row == (hand.id, "running", 10, '["a"]', now, now + 30_000_000)
    clock.advance(5)
    with timed_store.begin() as conn:
        assert leases.renew(timed_store, conn, hand.id, 30)
    later = rows(timed_store, "SELECT started_at, heartbeat_at, lease_until FROM netscript_workers")
    assert later == [(now, now + 5_000_000, now + 35_000_000)]


def test_an_unknown_worker_cannot_renew(store: Store) -> None:
    with store.begin() as conn:
        assert not leases.renew(store, conn, new().id, 30)


def test_a_worker_does_not_rescue_itself(timed_store: Store, clock: ManualClock) -> None:
    put(timed_store, new())
    hand = Hand(timed_store)
    hand.register(lease=30)
    hand.claim_one()
    clock.advance(60)  # it was stopped for a while, and comes back to its maintenance first
    assert leases.rescue(timed_store, hand.id, no_folder()) == []


def test_a_lease_that_is_renewed_just_before_the_rescue_holds(
    timed_store: Store, clock: ManualClock
) -> None:
    put(timed_store, new())
    hand = Hand(timed_store)
    hand.register(lease=30)
    claim = hand.claim_one()
    clock.advance(31)
    # Rescue decides on the row as it is then, not as it was when it looked.
    with timed_store.begin() as conn:
        assert leases.renew(timed_store, conn, hand.id, 30)
    assert leases._rescue_one(timed_store, hand.id, proven=False) == []
    assert hand.end(claim).stale == set()


def test_a_rescue_waits_for_an_end_that_is_being_stored(store: Store, database_url: str) -> None:
    given = new()
    put(store, given)
    hand = Hand(store)
    hand.register(lease=-1)
    claim = hand.claim_one()
    other = Store(database_url)
    with ThreadPoolExecutor(2) as pool:
        ending = pool.submit(hand.end, claim, result="1")
        rescuing = pool.submit(leases.rescue, other, new().id, no_folder())
        stale, rescued = ending.result(10).stale, rescuing.result(10)
    # Whoever came first, one of them has it, and only one.
    assert (stale, rescued) in [(set(), []), ({given.id}, [given.id])]
    assert status(store, given.id) == ("queued" if rescued else "completed")
    other.dispose()


def test_every_loss_is_counted_and_leaves_the_attempt(
    timed_store: Store, clock: ManualClock
) -> None:
    given = new(max_attempts=1)
    put(timed_store, given)
    for losses in (1, 2, 3):
        dead = Hand(timed_store)
        dead.register(lease=30)
        assert dead.claim() or dead.claim_suspect()
        clock.advance(31)
        assert leases.rescue(timed_store, new().id, no_folder()) == [given.id]
        sql = "SELECT losses, attempt FROM netscript_executions"
        assert rows(timed_store, sql) == [(losses, 1)]
    assert [one.outcome for one in detail(timed_store, given.id).attempts] == ["lost"] * 3


def test_a_loss_and_a_failure_of_one_execution_both_leave_a_record(store: Store) -> None:
    given = new(max_attempts=3)
    put(store, given)
    dead = Hand(store)
    dead.register(lease=-1)
    dead.claim_one()
    leases.rescue(store, new().id, no_folder())
    hand = Hand(store)
    hand.end(hand.claim_one(), Verdict.FAIL, failure=None)
    assert status(store, given.id) == "failed"
    assert [one.outcome for one in detail(store, given.id).attempts] == ["lost"]


def test_rescued_work_keeps_its_place_in_the_queue(store: Store) -> None:
    given = [new() for _ in range(5)]
    for one in given:
        put(store, one)
    dead = Hand(store)
    dead.register(lease=-1)
    assert [claim.id for claim in dead.claim(2)] == [one.id for one in given[:2]]
    leases.rescue(store, new().id, no_folder())
    assert [claim.id for claim in Hand(store).claim()] == [one.id for one in given]


@pytest.mark.trap("D-16")
def test_given_back_and_rescued_keys_leave_nothing_to_repair(store: Store) -> None:
    put(store, *(new(concurrency_key=f"k{n}") for n in range(6)))
    leaving, dead, unsure = Hand(store), Hand(store), Hand(store)
    for hand in (leaving, dead):
        hand.register(lease=-1 if hand is dead else 30)
    leaving.claim(2)
    dead.claim(2)
    held = unsure.claim(2)
    leases.deregister(store, leaving.id)
    leases.give_back_unknown(store, unsure.id, [held[0].id])
    unsure.end(held[0])
    leases.rescue(store, new().id, no_folder())
    assert sweep(store) == 0
    claimed = Hand(store).claim()
    assert len(claimed) == 5
    Hand(store).tick(*map(ended, claimed))
    assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0


def test_what_was_given_back_cannot_be_ended_by_who_had_it(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    leases.give_back_unknown(store, hand.id, [])
    assert hand.end(claim).stale == {claim.id}
    assert hand.claim_one().id == claim.id


def test_orphans_of_many_workers_are_all_found(store: Store) -> None:
    given = [new() for _ in range(9)]
    put(store, *given)
    for _ in range(3):
        Hand(store).claim(3)
    alive = Hand(store)
    alive.register()
    put(store, new())
    kept = alive.claim_one()
    found = leases.rescue(store, alive.id, no_folder())
    assert sorted(found) == sorted(one.id for one in given)
    assert status(store, kept.id) == "running"


def test_a_dead_workers_lifeline_on_another_host_says_nothing(
    timed_store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    put(timed_store, new())
    hand = Hand(timed_store)
    hand.register(lease=30, lifeline=tmp_path / "elsewhere.lock")
    claim = hand.claim_one()
    assert leases.rescue(timed_store, new().id, tmp_path) == []
    clock.advance(31)
    assert leases.rescue(timed_store, new().id, tmp_path) == [claim.id]


def test_deregistering_what_is_on_no_list_gives_back_all_the_same(store: Store) -> None:
    put(store, new())
    hand = Hand(store)
    claim = hand.claim_one()
    leases.deregister(store, hand.id)
    assert status(store, claim.id) == "queued"
    leases.deregister(store, hand.id)


@pytest.mark.trap("D-08")
def test_a_user_who_holds_up_writes_does_not_make_anybody_dead(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = Store(sqlite_url)
    put(store, new())
    hand = Hand(store)
    line = Lifeline(tmp_path, hand.id)
    hand.register(lease=0.0, lifeline=line.path)
    hand.claim_one()
    run(store, "UPDATE netscript_workers SET lease_until = 0")  # no heartbeat got through
    other = Store(sqlite_url)
    assert leases.rescue(other, new().id, tmp_path) == []
    with other.begin() as conn:
        conn.execute(text("DELETE FROM netscript_changes"))
    line.cut()
    line.path.touch()  # as the kernel leaves it when the process dies
    assert len(leases.rescue(other, new().id, tmp_path)) == 1
    other.dispose()
    store.dispose()
