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
from tests.kit import Hand, new, put, scalar
from tests.support import eventually

NOWHERE = Path("/nonexistent")


def rescue(store: Store) -> list[str]:
    return leases.rescue(store, new().id, NOWHERE)


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
