"""Random lives of many executions: whatever happens, what must hold holds after every step."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.domain import (
    SUSPECT_AFTER,
    ClaimedExecution,
    Death,
    Enqueued,
    Reason,
    Verdict,
)
from netscript_workers.errors import StateError
from netscript_workers.ids import new_id
from netscript_workers.store import admissions, leases, retries, suspects
from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, ended, new, put, rows, run, scalar, sweep

VERDICTS = [
    Verdict.COMPLETE,
    Verdict.COMPLETE,
    Verdict.FAIL,
    Verdict.RETRY,
    Verdict.SNOOZE,
    Verdict.RELEASE,
    Verdict.CANCEL,
]


class World:
    """Some workers, a clock, a little chance; and what must always be true."""

    def __init__(self, store: Store, clock: ManualClock, seed: int) -> None:
        self.store, self.clock, self.chance = store, clock, random.Random(seed)
        self.hands: list[Hand] = []
        self.running: dict[str, list[ClaimedExecution]] = {}
        self.enqueued: set[str] = set()
        self.highest_token = 0
        self.hire()
        self.hire()

    def hire(self) -> None:
        hand = Hand(self.store, {"a": False, "b": True})
        hand.register(lease=30)
        self.hands.append(hand)
        self.running[hand.id] = []

    def enqueue(self) -> None:
        job = self.chance.choice(["a", "b"])
        told: list[Enqueued] = put(
            self.store,
            *(
                new(
                    job,
                    topic=self.chance.choice(["x", "y"]),
                    strict_order=job == "b",
                    concurrency_key=self.chance.choice([None, "k1", "k2", "k3"]),
                    idempotency_key=self.chance.choice([None, None, str(self.chance.random())[:4]]),
                    delay=self.chance.choice([0, 0, 8_000_000]),
                    priority=self.chance.choice([0, 50, 100]),
                )
                for _ in range(self.chance.randrange(1, 4))
            ),
        )
        self.enqueued |= {one.execution_id for one in told}

    def work(self) -> None:
        hand = self.chance.choice(self.hands)
        mine = self.running[hand.id]
        over = [claim for claim in mine if self.chance.random() < 0.6]
        ends = [
            ended(
                claim,
                self.chance.choice(VERDICTS),
                reason=Reason.ERROR,
                delay=self.chance.choice([0.0, 4.0]),
            )
            for claim in over
        ]
        done = hand.tick(*ends, slots=self.chance.randrange(4))
        assert done.stale == set()
        suspect = hand.claim_suspect()
        claimed = done.claimed if suspect is None else [*done.claimed, suspect]
        self.running[hand.id] = [claim for claim in mine if claim not in over] + claimed
        self.note_tokens(claimed)

    def note_tokens(self, claimed: list[ClaimedExecution]) -> None:
        for claim in claimed:
            assert claim.token > self.highest_token
        self.highest_token = max([self.highest_token, *(claim.token for claim in claimed)])

    def die(self) -> None:
        """A worker dies; its lease ends while the others renew theirs."""
        dead = self.hands.pop(self.chance.randrange(len(self.hands)))
        lost = self.running.pop(dead.id)
        self.clock.advance(31)
        with self.store.begin() as conn:
            for hand in self.hands:
                assert leases.renew(self.store, conn, hand.id, 30)
        rescued = leases.rescue(self.store, new_id(), no_folder())
        assert sorted(rescued) == sorted(claim.id for claim in lost)
        self.hire()
        newest = self.hands[-1]
        self.running[newest.id] = newest.claim(3)  # perhaps of what the dead one had
        self.note_tokens(self.running[newest.id])
        if lost:
            assert dead.tick(*map(ended, lost)).stale == {claim.id for claim in lost}

    def crash(self) -> None:
        """An execution that runs alone kills its process."""
        for hand in self.hands:
            for claim in self.running[hand.id]:
                if claim.losses >= SUSPECT_AFTER:
                    self.running[hand.id].remove(claim)
                    death = Death(exit_code=None, signal=11, peak_memory=1)
                    suspects.record_crash(self.store, claim, death, hand.id)
                    return

    def leave(self) -> None:
        gone = self.hands.pop()
        self.running.pop(gone.id)
        leases.deregister(self.store, gone.id)
        self.hire()

    def retry(self) -> None:
        found = rows(self.store, "SELECT id, status FROM netscript_execution_history")
        if found:
            id_, status = self.chance.choice(sorted((str(i), s) for i, s in found))
            if status == "completed":
                with pytest.raises(StateError):
                    retries.retry(self.store, id_)
            else:
                retries.retry(self.store, id_)

    def pause(self) -> None:
        run(self.store, "DELETE FROM netscript_topics")
        if self.chance.random() < 0.5:
            sql = "INSERT INTO netscript_topics (name, paused) VALUES ('x', :yes)"
            run(self.store, sql, yes=True)
        else:  # whoever resumes has the keys looked at
            run(
                self.store,
                "INSERT INTO netscript_admissions (key) "
                "SELECT DISTINCT concurrency_key FROM netscript_executions "
                "WHERE status = 'blocked'",
            )

    def step(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.enqueue, 6),
            (self.work, 14),
            (self.die, 2),
            (self.crash, 2),
            (self.leave, 1),
            (self.retry, 2),
            (self.pause, 1),
        ]
        act = self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        act()
        self.clock.advance(self.chance.random())
        self.check()

    def check(self) -> None:
        live = rows(
            self.store,
            "SELECT id, status, concurrency_key, holds_key, worker_id, run_at "
            "FROM netscript_executions",
        )
        gone = rows(self.store, "SELECT id FROM netscript_execution_history")
        ids = [str(row[0]) for row in [*live, *gone]]
        assert sorted(ids) == sorted(self.enqueued)  # each once, in one of the two places

        mine = {claim.id: id_ for id_, claims in self.running.items() for claim in claims}
        assert {str(i): str(w) for i, s, _, _, w, _ in live if s == "running"} == mine

        holders = sorted(key for _, _, key, holds, _, _ in live if holds)
        assert len(set(holders)) == len(holders)
        slots = rows(self.store, "SELECT key, used FROM netscript_concurrency_slots")
        assert sorted(slots) == [(key, 1) for key in holders]
        for _, state, key, holds, worker, run_at in live:
            assert not holds or key is not None
            assert state != "running" or worker is not None
            assert state != "blocked" or not holds
            assert state not in {"queued", "running"} or holds == (key is not None)
            assert state != "queued" or run_at <= self.clock.now()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nothing_is_lost_doubled_or_stuck(
    timed_store: Store, clock: ManualClock, seed: int
) -> None:
    world = World(timed_store, clock, seed)
    for _ in range(150):
        world.step()
    run(timed_store, "DELETE FROM netscript_topics")
    assert sweep(timed_store) >= 0  # what was paused just now may be let in by it
    for _ in range(400):
        if not scalar(timed_store, "SELECT count(*) FROM netscript_executions"):
            break
        for hand in world.hands:
            mine = world.running[hand.id]
            world.running[hand.id] = hand.tick(*map(ended, mine), slots=5).claimed
            if (suspect := hand.claim_suspect()) is not None:
                world.running[hand.id].append(suspect)
        clock.advance(2)
    assert rows(timed_store, "SELECT id, status FROM netscript_executions") == []
    assert scalar(timed_store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
    assert scalar(timed_store, "SELECT count(*) FROM netscript_admissions") == 0
    assert sweep(timed_store) == 0


def test_the_sweep_beside_working_workers_finds_nothing_to_repair(store: Store) -> None:
    put(store, *(new(concurrency_key=f"k{n % 6}") for n in range(60)))
    settle = Hand(store)
    mine = settle.claim(50)  # every note is taken, every key has its holder

    def sweeping(_: int) -> int:
        return sum(sweep(store) for _ in range(10))

    def working(claims: list[ClaimedExecution]) -> int:
        hand, count = settle, 0
        while claims:
            count += len(claims)
            claims = hand.tick(*map(ended, claims), slots=3).claimed
        return count

    with ThreadPoolExecutor(3) as pool:
        swept = [pool.submit(sweeping, n) for n in range(2)]
        worked = pool.submit(working, mine)
        assert worked.result() == 60
        assert [future.result() for future in swept] == [0, 0]


def test_admitting_a_key_that_nobody_waits_for_leaves_nothing(store: Store) -> None:
    with store.begin() as conn:
        assert admissions.admit(conn, store.dialect, {"nobody", "none"}) == []
    assert scalar(store, "SELECT count(*) FROM netscript_concurrency_slots") == 0
