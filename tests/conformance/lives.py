"""Random lives: workers, senders, people and death, step by step beside the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import text

from netscript_workers import JobContext, Retry, job
from netscript_workers.domain import (
    SUSPECT_AFTER,
    ClaimedExecution,
    Death,
    NewExecution,
    Reason,
    Verdict,
)
from netscript_workers.errors import ExecutionNotFoundError, StateError
from netscript_workers.ids import new_id
from netscript_workers.store import cancelling, definitions, leases, retries, suspects, topics
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.outcomes import Settled
from netscript_workers.store.retention import Retention, prune
from netscript_workers.testing import ManualClock
from tests.conformance.model import End, Life, Model
from tests.integration.store.scenes import no_folder
from tests.kit import Hand, ended, new, put, run, sweep

SECOND = 1_000_000
WINDOW = 600 * SECOND
LEASE = 30
KEPT_DAYS = 0.01
ATTEMPTS = 3
TOPICS = ("x", "y")
TABLES = (
    "executions",
    "execution_history",
    "execution_attempts",
    "idempotency_keys",
    "concurrency_slots",
    "admissions",
    "workers",
    "topics",
    "changes",
)


@job(id="a", retry=Retry(max_attempts=ATTEMPTS))
async def job_a(ctx: JobContext[dict[str, int]]) -> None: ...


@job(id="b", retry=Retry(max_attempts=ATTEMPTS), strict_order=True)
async def job_b(ctx: JobContext[dict[str, int]]) -> None: ...


@st.composite
def new_executions(draw: st.DrawFn) -> NewExecution:
    name = draw(st.sampled_from(["a", "b"]))
    return new(
        name,
        payload=draw(st.sampled_from(["{}", '{"n":1}'])),
        topic=draw(st.sampled_from(TOPICS)),
        strict_order=name == "b",
        concurrency_key=draw(st.sampled_from([None, "k1", "k2"])),
        idempotency_key=draw(st.sampled_from([None, None, "i1", "i2", "i3"])),
        delay=draw(st.sampled_from([0, 0, 8])) * SECOND,
        priority=draw(st.sampled_from([0, 50, 100])),
        max_attempts=ATTEMPTS,
    )


batches = st.lists(new_executions(), min_size=1, max_size=3)
picks = st.integers(0, 50)
verdicts = st.sampled_from([Verdict.COMPLETE, *Verdict])
endings = st.lists(st.tuples(verdicts, st.sampled_from([0, 0, 4]), st.booleans()), max_size=4)


class Lives(RuleBasedStateMachine):
    """Three workers, two topics, two concurrency keys, and whatever may happen to them."""

    store: ClassVar[Store]
    clock: ClassVar[ManualClock]

    @initialize()
    def begin(self) -> None:
        for table in TABLES:
            run(self.store, f"DELETE FROM netscript_{table}")
        definitions.register(self.store, [job_a, job_b])
        self.model = Model()
        self.hands: list[Hand] = []
        self.ghosts: list[Hand] = []
        self.held: dict[str, list[ClaimedExecution]] = {}
        self.stale: list[tuple[Hand, ClaimedExecution]] = []
        self.highest_token = 0
        self.told: dict[str, str] = {}
        self.last_change = 0
        for _ in range(3):
            self.hire()

    def hire(self) -> None:
        hand = Hand(self.store, {"a": False, "b": True})
        hand.register(lease=LEASE)
        self.hands.append(hand)
        self.held[hand.id] = []
        self.model.due_seen[hand.id] = 0

    @property
    def now(self) -> int:
        return self.clock.now()

    # What senders do.

    @rule(batch=batches)
    def enqueue(self, batch: list[NewExecution]) -> None:
        again = [one if one.id not in self.model.lives else _anew(one) for one in batch]
        told = put(self.store, *again, window=WINDOW)
        assert told == self.model.enqueue(again, self.now, WINDOW)

    # What workers do.

    @rule(pick=picks, ends=endings, slots=st.integers(0, 4), look=st.booleans())
    def tick(
        self, pick: int, ends: list[tuple[Verdict, int, bool]], slots: int, look: bool
    ) -> None:
        hand = self.hands[pick % len(self.hands)]
        mine = self.held[hand.id]
        over = list(zip(mine, ends, strict=False))
        self.held[hand.id] = mine[len(over) :]
        self._tick(hand, over, slots=slots, look=look)

    def _tick(
        self,
        hand: Hand,
        over: Sequence[tuple[ClaimedExecution, tuple[Verdict, int, bool]]],
        *,
        slots: int,
        look: bool,
    ) -> None:
        facts = [
            End(
                claim.id,
                verdict,
                delay=delay * SECOND if verdict in {Verdict.RETRY, Verdict.SNOOZE} else 0,
                actions=_follow_ups(claim) if follow and verdict is Verdict.COMPLETE else (),
            )
            for claim, (verdict, delay, follow) in over
        ]
        settled = [_settled(claim, end) for (claim, _), end in zip(over, facts, strict=True)]
        done = hand.tick(*settled, slots=slots, look=look)
        assert done.stale == set()
        assert done.refused == {}
        self.stale += [(hand, claim) for claim, _ in over]
        self.model.settle(hand.id, facts, look=look, now=self.now, window=DEFAULT_WINDOW)
        self._claimed(hand, done.claimed, slots=slots, look=look)

    def _claimed(
        self, hand: Hand, claimed: list[ClaimedExecution], *, slots: int, look: bool
    ) -> None:
        """Nobody is passed over, nothing is taken that may not be, and nothing is left."""
        ready = {topic: self.model.eligible(topic) for topic in TOPICS}
        assert len(claimed) <= slots
        if look:
            assert len(claimed) == min(slots, sum(map(len, ready.values())))
        for topic, lives in ready.items():
            mine = [claim.id for claim in claimed if claim.topic == topic]
            assert mine == [life.id for life in lives[: len(mine)]]
        for claim in claimed:
            life = self.model.lives[claim.id]
            assert claim.token > self.highest_token
            assert (claim.attempt, claim.losses) == (life.attempt, life.losses)
            self.model.claimed(claim.id, hand.id)
        self.highest_token = max([self.highest_token, *(claim.token for claim in claimed)])
        self.held[hand.id] = self.held[hand.id] + claimed

    @rule(pick=picks)
    def a_suspect_is_claimed(self, pick: int) -> None:
        self._claim_suspect(self.hands[pick % len(self.hands)])

    def _claim_suspect(self, hand: Hand) -> None:
        expected = self.model.next_suspect()
        claim = hand.claim_suspect()
        assert (claim and claim.id) == (expected and expected.id)
        if claim is not None:
            assert claim.token > self.highest_token
            self.highest_token = claim.token
            self.model.claimed(claim.id, hand.id)
            self.held[hand.id] = [*self.held[hand.id], claim]

    @rule(pick=picks)
    def a_suspect_kills_its_process(self, pick: int) -> None:
        hand = self.hands[pick % len(self.hands)]
        for claim in self.held[hand.id]:
            if claim.losses >= SUSPECT_AFTER:
                death = Death(exit_code=None, signal=11, peak_memory=1)
                suspects.record_crash(self.store, claim, death, hand.id)
                self.model.crash(claim.id, self.now)
                self._lose(hand, [claim], [one for one in self.held[hand.id] if one != claim])
                return

    @precondition(lambda self: self.stale)
    @rule(pick=picks, verdict=verdicts)
    def a_result_comes_too_late(self, pick: int, verdict: Verdict) -> None:
        hand, claim = self.stale[pick % len(self.stale)]
        end = End(claim.id, verdict, actions=_follow_ups(claim))
        assert hand.tick(_settled(claim, end), look=False).stale == {claim.id}
        self.model.settle(hand.id, (), look=False, now=self.now, window=WINDOW)

    @rule(pick=picks)
    def a_worker_is_unsure_what_it_has(self, pick: int) -> None:
        """The answer to its commit was lost, so it gives back what it does not know."""
        hand = self.hands[pick % len(self.hands)]
        mine = self.held[hand.id]
        lost, known = mine[::2], mine[1::2]
        found = leases.give_back_unknown(self.store, hand.id, {claim.id for claim in known})
        assert found == sorted(claim.id for claim in lost)
        self.model.forget([claim.id for claim in lost], self.now)
        self._lose(hand, lost, known)

    def _lose(
        self, hand: Hand, lost: list[ClaimedExecution], known: list[ClaimedExecution]
    ) -> None:
        self.stale += [(hand, claim) for claim in lost]
        self.held[hand.id] = known

    @rule(pick=picks)
    def a_worker_leaves(self, pick: int) -> None:
        hand = self.hands.pop(pick % len(self.hands))
        leases.deregister(self.store, hand.id)
        self.model.give_back(hand.id, self.now, lost=False)
        self._lose(hand, self.held[hand.id], [])
        self.hire()

    @rule(pick=picks, slots=st.integers(0, 2))
    def a_worker_dies(self, pick: int, slots: int) -> None:
        """Its lease ends while the others renew theirs; perhaps it goes on as a ghost."""
        dead = self.hands.pop(pick % len(self.hands))
        self._advance(LEASE + 1)
        self._rescue([dead, *self.ghosts])
        self.ghosts = [dead]
        self.hire()
        self.model.settle(dead.id, (), look=True, now=self.now, window=WINDOW)
        self._claimed(dead, dead.claim(slots), slots=slots, look=True)

    @rule()
    def somebody_rescues(self) -> None:
        self._rescue(self.ghosts)
        self.ghosts = []

    def _rescue(self, gone: list[Hand]) -> None:
        rescued = leases.rescue(self.store, new_id(), no_folder())
        given = [self.model.give_back(hand.id, self.now, lost=True) for hand in gone]
        expected = [id_ for ids in given for id_ in ids]
        assert sorted(rescued) == sorted(expected)
        for hand in gone:
            self._lose(hand, self.held[hand.id], [])

    # What people do.

    @precondition(lambda self: self.model.lives)
    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        life = list(self.model.lives.values())[pick % len(self.model.lives)]
        if life.status in {"failed", "cancelled"}:
            retries.retry(self.store, life.id)
            self.model.retry(life.id, ATTEMPTS, self.now)
        else:
            with pytest.raises(StateError):
                retries.retry(self.store, life.id)

    @precondition(lambda self: self.model.lives)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        life = list(self.model.lives.values())[pick % len(self.model.lives)]
        if life in self.model.live():
            cancelling.cancel(self.store, life.id)
            self.model.cancel(life.id, self.now)
        else:
            with pytest.raises(StateError):
                cancelling.cancel(self.store, life.id)

    @rule()
    def retry_what_is_not_there(self) -> None:
        with pytest.raises(ExecutionNotFoundError):
            retries.retry(self.store, new_id())

    @rule(topic=st.sampled_from(TOPICS))
    def pause_or_resume(self, topic: str) -> None:
        if topic not in self.model.paused:
            topics.pause(self.store, topic)
            self.model.pause(topic)
        else:
            self._resume(topic)

    def _resume(self, topic: str) -> None:
        topics.resume(self.store, topic)
        self.model.paused.discard(topic)
        waiting = self.model.live("blocked")
        self.model.notes |= {life.key for life in waiting if life.topic == topic and life.key}

    # What time does.

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0, 700.0]))
    def advance(self, seconds: float) -> None:
        self._advance(seconds)

    def _advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        with self.store.begin() as conn:
            for hand in self.hands:
                assert leases.renew(self.store, conn, hand.id, LEASE)

    @rule()
    def sweep(self) -> None:
        assert sweep(self.store) == self.model.sweep()

    @rule()
    def prune(self) -> None:
        prune(self.store, Retention(completed=KEPT_DAYS, failed=KEPT_DAYS))
        self.model.prune(self.now - round(KEPT_DAYS * 24 * 3600 * SECOND))

    @rule()
    def drain(self) -> None:
        """Nothing is ever stuck: left alone, everything comes to its end."""
        for topic in list(self.model.paused):
            self._resume(topic)
        self.somebody_rescues()
        for _ in range(4 * len(self.model.lives) + 8):
            if not self.model.live():
                break
            for hand in self.hands:
                mine, self.held[hand.id] = self.held[hand.id], []
                over = [(claim, (Verdict.COMPLETE, 0, False)) for claim in mine]
                self._tick(hand, over, slots=4, look=True)
                self._claim_suspect(hand)
            self._advance(3.0)
        assert self.model.live() == []

    # What must hold whatever happens.

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        with self.store.read() as conn:
            live = conn.execute(text(_LIVE)).all()
            finished = conn.execute(text(_FINISHED)).all()
            slots = conn.execute(text(_SLOTS)).all()
            notes = conn.execute(text("SELECT key FROM netscript_admissions")).scalars().all()
            keys = conn.execute(text(_KEYS), {"now": self.now}).all()
            records = conn.execute(text(_RECORDS)).scalars().all()
        assert {str(row.id): tuple(row)[1:] for row in live} == {
            life.id: _as_live(life) for life in self.model.live()
        }
        assert {str(row.id): tuple(row)[1:] for row in finished} == {
            life.id: (life.status, life.reason, life.attempt, life.finished_at)
            for life in self.model.finished()
        }
        assert {row.key: (row.used, str(row.holder)) for row in slots} == {
            key: (1, holder) for key, holder in self.model.holders.items()
        }
        assert set(notes) == self.model.notes
        assert {(row.scope, row.key): str(row.ref) for row in keys} == {
            (f"job:{name}", key): owner
            for (name, key), (owner, _, until) in self.model.owners.items()
            if until > self.now
        }
        assert Counter(map(str, records)) == Counter(
            {life.id: life.records for life in self.model.lives.values() if life.records}
        )

    @invariant()
    def each_is_in_one_place_with_one_attempt_and_a_reason(self) -> None:
        """Said of the rows alone, whatever the model thinks."""
        with self.store.read() as conn:
            live = conn.execute(text(_LIVE)).all()
            finished = conn.execute(text(_FINISHED)).all()
        assert not {row.id for row in live} & {row.id for row in finished}
        going = Counter(row.concurrency_key for row in live if row.status in {"queued", "running"})
        assert all(count == 1 for key, count in going.items() if key is not None)
        for row in live:
            assert (row.worker_id is not None) == (row.status == "running")
            if row.status in {"scheduled", "blocked"}:
                assert row.reason in set(Reason)
        for row in finished:
            assert row.status == "completed" or row.reason in set(Reason)

    @invariant()
    def followers_are_told_of_every_change_in_its_order(self) -> None:
        with self.store.read() as conn:
            bound = {"last": self.last_change}
            for row in conn.execute(text(_CHANGES), bound).all():
                self.told.update(json.loads(row.items_))
                self.last_change = row.id
        for life in self.model.lives.values():
            assert self.told[life.id] == life.status, life


def _anew(one: NewExecution) -> NewExecution:
    """A shrunk example may draw the very same object twice; an id is used once."""
    facts = {name: getattr(one, name) for name in one.__slots__ if name != "id"}
    return NewExecution(id=new_id(), **facts)


def _follow_ups(claim: ClaimedExecution) -> tuple[NewExecution, ...]:
    return (
        new("a", topic="x", idempotency_key="follow-up", max_attempts=ATTEMPTS),
        new("a", topic="y", concurrency_key=claim.concurrency_key, max_attempts=ATTEMPTS),
    )


def _settled(claim: ClaimedExecution, end: End) -> Settled:
    return ended(
        claim,
        end.verdict,
        reason=None if end.reason is None else Reason(end.reason),
        failure=Reason.ERROR if end.failed else None,
        delay=end.delay / SECOND,
        actions=end.actions,
    )


def _as_live(life: Life) -> tuple[Any, ...]:
    return (
        life.status,
        life.reason,
        life.key,
        life.holds,
        life.worker,
        life.run_at,
        life.sort_at,
        life.attempt,
        life.max_attempts,
        life.losses,
        life.unwanted,
    )


_LIVE = (
    "SELECT id, status, reason, concurrency_key, holds_key, CAST(worker_id AS text) AS worker_id, "
    "run_at, sort_at, attempt, max_attempts, losses, cancel_requested FROM netscript_executions"
)
_FINISHED = "SELECT id, status, reason, attempt, finished_at FROM netscript_execution_history"
_SLOTS = "SELECT key, used, holder FROM netscript_concurrency_slots"
_KEYS = "SELECT scope, key, ref FROM netscript_idempotency_keys WHERE expires_at > :now"
_RECORDS = "SELECT execution_id FROM netscript_execution_attempts"
_CHANGES = "SELECT id, items AS items_ FROM netscript_changes WHERE id > :last ORDER BY id"
