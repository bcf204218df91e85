"""Who lives, and what becomes of the work of those that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_workers.domain import Verdict
from netscript_workers.store import leases, lifelines
from netscript_workers.store.engine import Store, parse_url
from netscript_workers.store.lifelines import Life, Lifeline
from netscript_workers.testing import ManualClock
from tests.kit import Hand, detail, new, put, scalar, status
from tests.support import eventually

NOWHERE = Path("/nonexistent")


def rescue(store: Store) -> list[str]:
    return leases.rescue(store, new().id, NOWHERE)


@pytest.mark.trap("D-33")
def test_the_executions_of_an_expired_lease_are_rescued(
    timed_store: Store, clock: ManualClock
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
    assert [(one.outcome, one.fence_token) for one in record.attempts] == [("lost", claim.token)]
    again = Hand(timed_store).claim_one()
    assert (again.attempt, again.losses) == (1, 1)
    assert dead.end(claim).stale == {given.id}


@pytest.mark.trap("D-27")
def test_six_hours_of_renewed_leases_are_not_rescued(
    timed_store: Store, clock: ManualClock
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


def test_a_rescued_worker_cannot_renew(timed_store: Store, clock: ManualClock) -> None:
    hand = Hand(timed_store)
    hand.register(lease=30)
    clock.advance(31)
    rescue(timed_store)
    with timed_store.begin() as conn:
        assert not leases.renew(timed_store, conn, hand.id, 30)


@pytest.mark.trap("D-31")
def test_work_of_a_worker_that_is_on_no_list_is_found(store: Store) -> None:
    given = new()
    put(store, given)
    Hand(store).claim_one()  # never registered
    assert rescue(store) == [given.id]


def test_a_rescued_execution_keeps_its_key(store: Store) -> None:
    given = new(concurrency_key="k")
    put(store, given, new(concurrency_key="k"))
    dead = Hand(store)
    dead.register(lease=-1)
    dead.claim_one()
    rescue(store)
    assert [claim.id for claim in Hand(store).claim()] == [given.id]


def test_a_worker_that_leaves_gives_back_what_it_has_without_a_loss(store: Store) -> None:
    given = new()
    put(store, given)
    hand = Hand(store)
    hand.register()
    hand.claim_one()
    leases.deregister(store, hand.id)
    again = Hand(store).claim_one()
    assert (again.id, again.losses, again.attempt) == (given.id, 0, 1)
    assert scalar(store, "SELECT count(*) FROM netscript_workers") == 0


def test_what_a_worker_holds_without_knowing_it_is_given_back(store: Store) -> None:
    known, unknown = new(), new()
    put(store, known, unknown)
    hand = Hand(store)
    hand.claim(2)
    assert leases.give_back_unknown(store, hand.id, {known.id}) == [unknown.id]
    assert status(store, known.id) == "running"
    assert status(store, unknown.id) == "queued"


HOLDER = """
import sys
from pathlib import Path
from netscript_workers.store.lifelines import Lifeline
line = Lifeline(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_frees_its_lifeline_and_is_rescued_at_once(
    store: Store, tmp_path: Path
) -> None:
    given = new()
    put(store, given)
    hand = Hand(store)
    place = tmp_path / "lines"
    command = [sys.executable, "-c", HOLDER, str(place), hand.id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        path = place / f"{hand.id}.lock"
        hand.register(lease=3600, lifeline=path)
        hand.claim_one()
        assert lifelines.look(path) is Life.ALIVE
        assert not lifelines.any_dead(place, place / "own.lock")
        assert leases.rescue(store, new().id, place) == []
        process.kill()
    assert lifelines.look(path) is Life.DEAD
    assert lifelines.any_dead(place, place / "own.lock")
    assert leases.rescue(store, new().id, place) == [given.id]
    assert not path.exists()


# It forks: the child has the same lock, and lives on.
PARENT = """
import os, sys
from pathlib import Path
from netscript_workers.store.lifelines import Lifeline
line = Lifeline(Path(sys.argv[1]), sys.argv[2])
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""


@pytest.mark.trap("D-95")
def test_a_worker_is_dead_when_the_last_of_its_children_is(store: Store, tmp_path: Path) -> None:
    put(store, given := new())
    hand = Hand(store)
    place = tmp_path / "lines"
    command = [sys.executable, "-c", PARENT, str(place), hand.id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        path = place / f"{hand.id}.lock"
        hand.register(lease=3600, lifeline=path)
        hand.claim_one()
        process.kill()
        process.wait()
        assert lifelines.look(path) is Life.ALIVE
        assert leases.rescue(store, new().id, place) == []
        os.kill(child, signal.SIGKILL)
        eventually(lambda: lifelines.any_dead(place, place / "own.lock"), 5, "the child's end")
    assert leases.rescue(store, new().id, place) == [given.id]


def test_on_sqlite_a_held_lifeline_outlives_the_lease(store: Store, tmp_path: Path) -> None:
    put(store, new())
    hand = Hand(store)
    line = Lifeline(tmp_path, hand.id)
    hand.register(lease=-1, lifeline=line.path)
    hand.claim_one()
    # On PostgreSQL the lease decides: its holder may have lost the network.
    assert (leases.rescue(store, new().id, tmp_path) == []) is store.is_sqlite
    line.cut()
    assert not line.path.exists()


def test_the_lifeline_of_a_worker_that_never_registered_is_cleared(
    store: Store, tmp_path: Path
) -> None:
    line = Lifeline(tmp_path, "ghost")
    leases.rescue(store, new().id, tmp_path)
    assert line.path.exists()
    (tmp_path / "dead.lock").touch()
    leases.rescue(store, new().id, tmp_path)
    assert not (tmp_path / "dead.lock").exists()
    line.cut()


def test_lifelines_of_a_file_lie_beside_it_and_those_of_a_server_are_apart() -> None:
    beside = lifelines.folder(parse_url("sqlite:////data/shop.db"))
    assert beside == Path("/data/shop.db-workers")
    one = lifelines.folder(parse_url("postgresql://u:p@h/a"))
    other = lifelines.folder(parse_url("postgresql://u:p@h/b"))
    assert one != other
    assert "p@" not in str(one)


def test_a_look_at_a_file_that_cannot_be_opened_is_unknown(tmp_path: Path) -> None:
    assert lifelines.look(tmp_path / "none.lock") is Life.UNKNOWN
    assert not lifelines.any_dead(tmp_path / "none", tmp_path / "own.lock")


def test_a_drain_shows_in_the_list_of_workers(store: Store) -> None:
    hand = Hand(store)
    hand.register()
    leases.set_state(store, hand.id, "draining")
    assert scalar(store, "SELECT state FROM netscript_workers") == "draining"
    put(store, new())
    hand.end(hand.claim_one(), Verdict.COMPLETE)
    eventually(lambda: scalar(store, "SELECT count(*) FROM netscript_executions") == 0)
